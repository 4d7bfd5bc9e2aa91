r"""Fixed steps of many trajectories whose states are tuples of `(N,)` arrays.

Nothing is checked on the way: a state that is not finite stays so, because every step adds to it.
After the last step, and only if some trajectory has ended in such a state, the steps are taken
again with a check after each, for the last finite states. All other trajectories keep the numbers
of the first run.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.component_loops import fixed_steps
>>> def square(consts, k, y, args):
...     return (y[0] * y[0],)
>>> start = (jnp.array([1.0, 2.0]),)
>>> end, accepted, _ = fixed_steps(square, start, (), (), num_steps=9)
>>> print(end[0], accepted)  # 2 ** 256 is too large for float32
[1.000e+00 1.845e+19] [9 6]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from probjax.core import rows

Step = Callable[[Any, Any, Any, Any], tuple[Array, ...]]
"""`step(consts, k, y, args) -> y1`, entry by entry on tuples of arrays."""


def fixed_steps(
    step: Step,
    y0: tuple[Array, ...],
    args: tuple[Array, ...],
    consts: Any,
    *,
    num_steps: int,
    save_every: int | None = None,
) -> tuple[tuple[Array, ...], Int[Array, "n"], tuple[Array, ...] | None]:
    r"""Take `num_steps` steps of all trajectories.

    $$y_{k+1}=step(consts,k,y_k,args)$$

    The derivative keeps one state for each step. That of a trajectory that fails is zero.

    Args:
        step: one step; it closes over nothing that is traced.
        y0: components of the start, each `(N,)`.
        args: components of what the step reads besides, `(N,)` or `()`; a derivative is taken by
            these and by `y0`.
        consts: pytree that no derivative is taken by.
        num_steps: how many steps.
        save_every: keep every so many states, and the start.

    Returns:
        Components of the last finite state; how many steps were finite `(N,)`; components of the
        kept states `(num_steps / save_every + 1, N)`, NaN where they are not finite.

    Example:
        >>> def grow(h, k, y, args):
        ...     return (y[0] + h * args[0] * y[0],)
        >>> def end(rate):
        ...     return fixed_steps(grow, (jnp.ones(2),), (rate,), 0.5, num_steps=2)[0][0].sum()
        >>> print(jax.grad(end)(1.0))  # d/dr 2 (1 + r / 2)^2
        3.0
    """
    every = num_steps if save_every is None else save_every
    y0, args, consts = jax.tree.map(jnp.asarray, (y0, args, consts))
    y0, args, consts = rows.varying_over((y0, args, consts), (y0, args, consts))

    def blocks(body: Any, carry: Any) -> Any:
        """Scan `body(carry, k)` with a row of the carry after each block of steps."""

        def block(carry: Any, start: Array) -> tuple[Any, Any]:
            ks = start + jnp.arange(every, dtype=jnp.int32)
            carry, inner = jax.lax.scan(body, carry, ks)
            return carry, (carry[0] if save_every else None, inner)

        starts = every * jnp.arange(num_steps // every, dtype=jnp.int32)
        return jax.lax.scan(block, carry, starts)

    def with_start(y0: Any, kept: Any) -> Any:
        if save_every is None:
            return None
        joined = [jnp.concatenate([a[None], b]) for a, b in zip(y0, kept, strict=True)]
        good = _finite(joined)
        return tuple(jnp.where(good, row, jnp.nan) for row in joined)

    def plain(y0: Any, args: Any, consts: Any, keep: bool) -> Any:
        def body(carry: Any, k: Array) -> Any:
            y1 = step(consts, k, carry[0], args)
            return (y1,), (carry[0] if keep else None)

        (end,), (kept, states) = blocks(body, (y0,))
        return end, with_start(y0, kept), states

    def careful(y0: Any, args: Any, consts: Any) -> Any:
        def body(carry: Any, k: Array) -> Any:
            y, accepted = carry
            y1 = step(consts, k, y, args)
            good = (accepted == k) & _finite(y1)
            y = tuple(jnp.where(good, new, old) for new, old in zip(y1, y, strict=True))
            return (y, accepted + good.astype(jnp.int32)), None

        none = rows.varying_over(jnp.zeros(y0[0].shape, jnp.int32), y0)
        return blocks(body, (y0, none))[0]

    def finish(y0: Any, args: Any, consts: Any, end: Any) -> Any:
        good = _finite(end)
        whole = jnp.where(good, num_steps, 0).astype(jnp.int32)

        def again(end: Any) -> Any:
            last, accepted = careful(y0, args, consts)
            picked = tuple(jnp.where(good, a, b) for a, b in zip(end, last, strict=True))
            return picked, jnp.where(good, whole, accepted)

        return jax.lax.cond(jnp.all(good), lambda end: (end, whole), again, end)

    @jax.custom_vjp
    def solve(y0: Any, args: Any, consts: Any) -> Any:
        end, kept, _ = plain(y0, args, consts, keep=False)
        return *finish(y0, args, consts, end), kept

    def forwards(y0: Any, args: Any, consts: Any) -> Any:
        end, kept, states = plain(y0, args, consts, keep=True)
        end, accepted = finish(y0, args, consts, end)
        return (end, accepted, kept), (states, args, consts, accepted == num_steps)

    def backwards(residuals: Any, cotangents: Any) -> Any:
        states, args, consts, good = residuals
        bar_end, _, bar_kept = cotangents
        # For each trajectory an own sum, so that one that fails can be left out of it.
        spread = tuple(jnp.broadcast_to(arg, good.shape) for arg in args)

        def body(carry: Any, inputs: Any) -> Any:
            bar_y, bar_args = carry
            k, y = inputs
            pull = jax.vjp(lambda y, args: step(consts, k, y, args), y, spread)[1]
            bar_y, more = pull(bar_y)
            return (bar_y, tuple(a + b for a, b in zip(bar_args, more, strict=True))), None

        def block(carry: Any, inputs: Any) -> Any:
            start, states, bar_row = inputs
            if bar_row is not None:
                carry = (tuple(a + b for a, b in zip(carry[0], bar_row, strict=True)), carry[1])
            ks = start + jnp.arange(every, dtype=jnp.int32)
            return jax.lax.scan(body, carry, (ks, states), reverse=True)[0], None

        starts = every * jnp.arange(num_steps // every, dtype=jnp.int32)
        rest = None if bar_kept is None else tuple(bar[1:] for bar in bar_kept)
        carry = (bar_end, jax.tree.map(jnp.zeros_like, spread))
        (bar_y, bar_args), _ = jax.lax.scan(block, carry, (starts, states, rest), reverse=True)
        if bar_kept is not None:
            bar_y = tuple(a + b[0] for a, b in zip(bar_y, bar_kept, strict=True))
        bar_y, bar_args = jax.tree.map(
            lambda bar: jnp.where(good, bar, jnp.zeros_like(bar)), (bar_y, bar_args)
        )
        summed = tuple(
            bar if arg.ndim else jnp.sum(bar) for bar, arg in zip(bar_args, args, strict=True)
        )
        return bar_y, summed, None

    solve.defvjp(forwards, backwards)
    return solve(y0, args, consts)


def _finite(y: Any) -> Bool[Array, "..."]:
    good = jnp.isfinite(y[0])
    for part in y[1:]:
        good = good & jnp.isfinite(part)
    return good
