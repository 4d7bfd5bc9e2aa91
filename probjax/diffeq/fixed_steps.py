r"""The time loop that fixed-step methods share, and that a step of one's own may use.

A step is `step_fn(t, state, h) -> state`:

>>> import jax.numpy as jnp
>>> from probjax.diffeq import march
>>> decay = lambda t, y, h: y * jnp.exp(-h)
>>> solution = march(decay, jnp.ones(()), 0.0, 1.0, num_steps=4, save_every=2)
>>> print(solution.t, jnp.round(solution.y, 3))
[0.  0.5 1. ] [1.    0.607 0.368]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from probjax.core import checks, rows, trees
from probjax.diffeq.guards import guarded
from probjax.diffeq.solution import (
    NON_FINITE,
    REACHED,
    Solution,
    Stats,
    checked_state,
    time_dtype,
)


def march(
    step_fn: Callable[[Any, Any, Any], Any],
    state: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int,
    save_every: int | None = None,
    evaluations_per_step: int = 0,
    view: Callable[[Any], Any] = lambda state: state,
) -> Solution:
    r"""Repeat a step `num_steps` times from `t0` to `t1`.

    $$h=(t_1-t_0)/num\_steps,\qquad state_{k+1}=step\_fn(t_0+kh,\;state_k,\;h)$$

    Time is never added up. A step that gives something not finite is not taken: the trajectory
    stays where it was, is marked, and passes no gradient on.

    Args:
        step_fn: `step_fn(t, state, h)`, the state after the step, laid out as before.
        state: pytree of floating or complex arrays at `t0`.
        t0: where to begin.
        t1: where to end, on either side of `t0`; the same as `t0` gives `state` after 0 steps.
        num_steps: steps, at least 1.
        save_every: keep every so many steps a row, the start included; it must divide
            `num_steps`. `None`: the end alone.
        evaluations_per_step: what a step costs, for the statistics.
        view: what of the state is kept, `view(state)`.

    Returns:
        The solution; the fields of `y` are those of `view(state)`.

    Raises:
        TypeError: the state is not floating, or a step changes its layout.
        ValueError: `num_steps` is below 1, or `save_every` does not divide it.

    Example:
        >>> grow = lambda t, y, h: y * (1.0 + h)
        >>> solution = march(grow, jnp.ones(2), 0.0, -0.2, num_steps=2)
        >>> print(solution.y, solution.t, solution.stats.num_steps)
        [0.81 0.81] -0.2 2
    """
    num_steps = checks.at_least("num_steps", num_steps, 1)
    every = num_steps if save_every is None else checks.at_least("save_every", save_every, 1)
    if num_steps % every:
        raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    state = checked_state(state)
    dtype = time_dtype(state)
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    h = (t1 - t0) / num_steps
    _check_step(step_fn, t0, state, h)
    state = _varying(step_fn, t0, state, h)
    step = guarded(step_fn, t0, state, h, view=view)

    def one(carry: Any, k: Array) -> tuple[Any, None]:
        state, lost, taken, tried = carry
        moving = ~lost & (h != 0)
        t = t0 + k.astype(dtype) * h
        after = step(t, state, h)
        good = trees.all_finite(view(after))
        state = jax.tree.map(lambda new, old: jnp.where(moving & good, new, old), after, state)
        return (
            state,
            lost | (moving & ~good),
            taken + (moving & good).astype(jnp.int32),
            tried + moving.astype(jnp.int32),
        ), None

    def block(carry: Any, first: Array) -> tuple[Any, Any]:
        # A gradient keeps the states between steps and takes each step again.
        again = jax.checkpoint(one, prevent_cse=False)
        carry, _ = jax.lax.scan(again, carry, first + jnp.arange(every, dtype=jnp.int32))
        return carry, None if save_every is None else _blank(view(carry[0]), carry[1])

    lost = ~trees.all_finite(view(state))
    none = jnp.where(lost, 0, 0)
    carry = rows.varying_over((state, lost, none, none), (state, h, t0))
    starts = jnp.arange(0, num_steps, every, dtype=jnp.int32)
    (end, is_lost, taken, tried), kept = jax.lax.scan(block, carry, starts)
    stats = Stats(tried, taken, tried - taken, evaluations_per_step * tried)
    result = jnp.where(is_lost, NON_FINITE, REACHED).astype(jnp.int32)
    if save_every is None:
        return Solution(t1, view(end), stats, result)
    first = _blank(view(state), lost)
    y = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, kept)
    steps = jnp.arange(0, num_steps + 1, every, dtype=jnp.int32).astype(dtype)
    return Solution((t0 + steps * h).at[-1].set(t1), y, stats, result)


def _blank(tree: Any, lost: Array) -> Any:
    return jax.tree.map(lambda x: jnp.where(lost, jnp.full_like(x, jnp.nan), x), tree)


def _check_step(step_fn: Callable[..., Any], t: Array, state: Any, h: Array) -> None:
    after = jax.eval_shape(step_fn, t, state, h)
    want = jax.tree.map(lambda x: (x.shape, x.dtype.name), state)
    got = jax.tree.map(lambda x: (x.shape, x.dtype.name), after)
    if jax.tree.structure(after) != jax.tree.structure(state) or want != got:
        raise TypeError(f"step_fn must keep the layout of its state, {want}, got {got}")


def _varying(step_fn: Callable[..., Any], t: Array, state: Any, h: Array) -> Any:
    """Under `shard_map`: the state varies over all axes that any part of a step varies over."""
    return rows.varying_over(state, (t, state, h, jax.eval_shape(step_fn, t, state, h)))
