"""Running a kernel: the loop that every chain of this library shares.

The key of step `t` is `fold_in(key, t)`, so a run cut in two gives the numbers of one run:

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> kernel = mcmc.ula(lambda x: -x, 0.1)
>>> start = kernel.init(jnp.zeros(2))
>>> key = jax.random.key(0)
>>> whole, _, _ = mcmc.scan_steps(key, kernel.step, start, 10)
>>> half, _, _ = mcmc.scan_steps(key, kernel.step, start, 5)
>>> again, _, _ = mcmc.scan_steps(key, kernel.step, half, 5, start=5)
>>> bool((whole.position == again.position).all())
True
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key, step_key

State = TypeVar("State")


def row_step_key(key: RowKeys, step: int | Int[Array, ""]) -> Key[Array, "*keys"]:
    """Return the key of step `step`, or one for each row where `key` holds one for each row.

    Args:
        key: one key, or keys of any shape.
        step: global step.

    Returns:
        Keys of the same shape.

    Example:
        >>> row_step_key(jax.random.split(jax.random.key(0), 3), 7).shape
        (3,)
    """
    key = as_key(key)
    fold = step_key
    for _ in range(key.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    return fold(key, step)


def scan_steps(
    key: RowKeys,
    step_fn: Callable[[Any, State], tuple[State, Any]],
    state: State,
    num_steps: int,
    *,
    start: int | Int[Array, ""] = 0,
    trace_fn: Callable[[State, Any], Any] | None = None,
) -> tuple[State, Any, Any]:
    r"""Apply a kernel `num_steps` times in one `lax.scan`, adding up what it reports.

    $$(state_{t+1}, info_t) = step\_fn(\text{fold\_in}(key, t), state_t)$$

    Memory does not grow with `num_steps` unless `trace_fn` keeps something, and neither does
    the time to compile.

    Args:
        key: one key, or a key for each row.
        step_fn: a kernel's `step(key, state) -> (state, info)`.
        state: the state to start from.
        num_steps: how many steps, zero included.
        start: global index of the first step.
        trace_fn: what to keep of each step, from the state after it and its info.

    Returns:
        The last state; `info` summed over the steps, where flags are joined by "or"; and
        what `trace_fn` kept, with a leading axis of `num_steps`, or `None`.

    Raises:
        ValueError: `num_steps` is negative.

    Example:
        >>> step_fn = lambda key, state: (state + 1, state > 2)
        >>> scan_steps(jax.random.key(0), step_fn, jnp.array(0), 4)
        (Array(4, dtype=int32...), Array(True, dtype=bool), None)
    """
    checks.at_least("num_steps", num_steps, 0)

    def body(carry: tuple[State, Any], step: Int[Array, ""]) -> tuple[tuple[State, Any], Any]:
        before, totals = carry
        after, info = step_fn(row_step_key(key, step), before)
        kept = trace_fn(after, info) if trace_fn else None
        return (after, jax.tree.map(_add, totals, info)), kept

    steps = jnp.asarray(start, jnp.int32) + jnp.arange(num_steps, dtype=jnp.int32)
    shape_of = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.tree.map(jnp.asarray, state)
    after, info = jax.eval_shape(
        lambda step, before: step_fn(row_step_key(key, step), before), shape_of, state
    )
    totals = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
    carry = rows.varying_like((state, totals), (after, info))
    (state, totals), trace = jax.lax.scan(body, carry, steps)
    return state, totals, trace


def _add(total: Array, value: Array) -> Array:
    """Numbers are summed, flags are joined."""
    return total | value if total.dtype == jnp.bool_ else total + value
