r"""Loops that end at the last finite state, in value and in derivative.

A state that is not finite stays so: $y+h\,k$ mends nothing. A loop of fixed steps can therefore run
without a test and be asked at its end; only where it failed it is walked once more, to the last
finite state. In a gradient, a cotangent of zero must not meet the infinite Jacobian of the step
that failed: $0\cdot\infty$ is NaN, and a sum over trajectories would carry it to all the others.

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq.guards import guarded
>>> def end(y, scale):
...     h = jnp.asarray(0.5)
...     return guarded(lambda t, y, h: y + h * scale / y, 0.0, y, h)(0.0, y, h)
>>> print(*jax.grad(end, (0, 1))(2.0, 1.0))
0.875 0.25
>>> print(*jax.grad(end, (0, 1))(0.0, 1.0))
0.0 0.0
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from probjax.core import trees

SMALL = 64
"""Entries of an array that a trajectory may mask by itself in a gradient."""

Step = Callable[[Any, Any, Any], Any]
"""`step_fn(t, state, h) -> state`."""


def guarded(
    step_fn: Step, t: Any, state: Any, h: Any, *, view: Callable[[Any], Any] = lambda state: state
) -> Step:
    r"""Return a step whose derivative is zero where its result is not finite.

    What the Jacobian holds there is masked in the state and in arrays of at most `SMALL` entries. A
    larger array (a network's weights) is usually shared, and a mask for each trajectory would cost
    a gradient for each: there the failed step is differentiated at the given start, which is
    assumed to be harmless, instead. So it is where the step closes over something that all devices
    of a mesh share. In value the step is what it was.

    Args:
        step_fn: `step_fn(t, state, h) -> state`; what it closes over is differentiated as well.
        t: time at the start.
        state: the state at the start.
        h: a step size.
        view: what of the state must be finite, `view(state)`.

    Returns:
        `step(t, state, h) -> state`, for arguments of the given shapes and types.

    Example:
        >>> h = jnp.array(0.5)
        >>> step = guarded(lambda t, y, h: y + h * y * y, 0.0, jnp.array(1.0), h)
        >>> print(step(0.0, jnp.array(2.0), h))
        4.0
    """
    t, h = jnp.asarray(t), jnp.asarray(h)
    convert, captured = jax.closure_convert(step_fn, t, state, h)
    start = jax.lax.stop_gradient((t, jax.tree.map(_finite_or_one, state)))

    @jax.custom_jvp
    def step(moving: Any, start: Any) -> Any:
        t, state, h, captured = moving
        return convert(t, state, h, *captured)

    def rule(primals: Any, tangents: Any) -> Any:
        moving, start = primals
        after = step(moving, start)
        good = trees.all_finite(view(after))
        tangent_leaves = jax.tree.leaves(tangents[0])
        live = [not isinstance(leaf, SymbolicZero) for leaf in tangent_leaves]
        along = [leaf for leaf, alive in zip(tangent_leaves, live, strict=True) if alive]
        masked = [_masked(good, leaf) for leaf in along]
        if any(new is old for new, old in zip(masked, along, strict=True)):
            moving = (*_select(good, moving[:2], start), *moving[2:])
        leaves, layout = jax.tree.flatten(moving)

        def moved(*varied: Any) -> Any:
            rest = iter(varied)
            both = zip(leaves, live, strict=True)
            values = [next(rest) if alive else leaf for leaf, alive in both]
            return step.fun(layout.unflatten(values), start)

        at = [leaf for leaf, alive in zip(leaves, live, strict=True) if alive]
        _, change = jax.jvp(moved, at, masked)
        return after, jax.tree.map(lambda leaf: _zero_unless(good, leaf), change)

    step.defjvp(rule, symbolic_zeros=True)
    return lambda t, state, h: step((t, state, h, captured), start)


def last_finite(
    step: Callable[[Any, Any], Any], state: Any, num_steps: int, failed: Any
) -> tuple[Any, Any]:
    """Walk to the last finite state, where a loop has failed.

    Args:
        step: `step(k, state) -> state`, from step `k` to `k + 1`.
        state: the state at the start.
        num_steps: how many steps the loop took.
        failed: whether it failed; else nothing is done, and all steps count.

    Returns:
        The state before the first step with a result that is not finite, without derivative, and
        the number of steps up to there.

    Example:
        >>> square = lambda k, y: y * y
        >>> print(*last_finite(square, jnp.array(1e3), 9, True))
        1e+24 3
    """
    state = jax.lax.stop_gradient(state)
    failed = jnp.asarray(failed)
    num = jnp.where(failed, num_steps, 0).astype(jnp.int32)

    def body(carry: Any) -> Any:
        state, _, k = carry
        return jax.lax.stop_gradient(step(k, state)), state, k + 1

    # The test is one step late: within the step it would be compiled into every leaf of it.
    _, before, k = jax.lax.while_loop(
        lambda carry: trees.all_finite(carry[0]) & (carry[2] < num),
        body,
        (state, state, jnp.zeros_like(num)),
    )
    return before, jnp.where(failed, jnp.maximum(k - 1, 0), num_steps)


def _select(flag: Any, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def _zero_unless(flag: Any, leaf: Any) -> Any:
    return jnp.where(flag, leaf, jnp.zeros_like(leaf))


def _masked(flag: Any, leaf: Any) -> Any:
    """Mask a small leaf; one that is the same on all devices of a mesh must stay so."""
    if leaf.size > SMALL:
        return leaf
    masked = _zero_unless(flag, leaf)
    kinds = [getattr(jax.typeof(value), "manual_axis_type", None) for value in (masked, leaf)]
    return masked if kinds[0] == kinds[1] else leaf


def _finite_or_one(leaf: Any) -> Any:
    return jnp.where(jnp.isfinite(leaf), leaf, jnp.ones_like(leaf))
