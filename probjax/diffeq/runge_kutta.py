r"""Explicit Runge-Kutta steps and fixed-step integration.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.runge_kutta import solve_fixed
>>> decay = lambda t, y, rate: -rate * y
>>> solution = solve_fixed(decay, jnp.array(1.0), 0.0, 1.0, num_steps=20, method="rk4", args=2.0)
>>> print(f"{solution.y:.5f} {jnp.exp(-2.0):.5f}")
0.13534 0.13534

The stages are unrolled: coefficients that are zero cost nothing, and a stage that nobody asks for
is not evaluated.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from probjax.core import checks, rows, trees
from probjax.diffeq import solution as records
from probjax.diffeq.guards import guarded, last_finite
from probjax.diffeq.solution import Solution, Stats, VectorField
from probjax.diffeq.tableaus import Number, Tableau, as_tableau

CHECKPOINTS = ("none", "step", "sqrt")
"""What is kept for the way back: everything, each step, or every root of their number."""


def rk_step(
    tableau: Tableau,
    vector_field: VectorField,
    t: ArrayLike,
    y: Any,
    h: ArrayLike,
    args: Any,
    *,
    f0: Any = None,
) -> tuple[Any, Any, Any]:
    r"""Take one step of an explicit Runge-Kutta method.

    $$y_1=y+h\sum_ib_ik_i,\qquad error=h\sum_i(b_i-\hat b_i)k_i$$

    Args:
        tableau: the method.
        vector_field: `vector_field(t, y, args) -> dy`.
        t: time at the start of the step.
        y: the state, a pytree of floating or complex arrays.
        h: size of the step, with its sign.
        args: what the field gets besides.
        f0: the field at `(t, y)` where it is known; else it is evaluated.

    Returns:
        The state at `t + h`; the difference to the second result, `None` without `b_hat`; the field
        at the result where the method's last stage is just that (`tableau.fsal`), else `None`.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> y1, error, f1 = rk_step(
        ...     tableaus.heun_euler, lambda t, y, args: y, 0.0, jnp.array(1.0), 0.5, None
        ... )
        >>> print(y1, error, f1)
        1.625 0.125 None
    """
    dtype = records.time_dtype(y)
    t, h = jnp.asarray(t, dtype), jnp.asarray(h, dtype)
    wanted = [tableau.b] if tableau.b_hat is None else [tableau.b, tableau.b_hat]
    stages = _stages(tableau, wanted, vector_field, t, y, h, args, f0)
    y1 = _add(y, _increment(tableau.b, stages, y, h))
    if tableau.b_hat is None:
        return y1, None, None
    difference = [b - b_hat for b, b_hat in zip(tableau.b, tableau.b_hat, strict=True)]
    error = _increment(difference, stages, y, h)
    return y1, error, stages[-1] if tableau.fsal else None


def solve_fixed(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int | None = None,
    method: str | Tableau = "rk4",
    args: Any = None,
    save_every: int | None = None,
    times: ArrayLike | Sequence[float] | None = None,
    checkpoint: str = "step",
    compensated: bool = False,
) -> Solution:
    r"""Integrate with steps that are fixed beforehand.

    $$y_{k+1}=y_k+h\sum_ib_ik_i,\qquad t_k=t_0+kh,\qquad h=(t_1-t_0)/num\_steps$$

    Args:
        vector_field: `vector_field(t, y, args) -> dy` of one trajectory.
        y0: the state at `t0`, a pytree of floating or complex arrays.
        t0: where to begin.
        t1: where to end, on either side; at `t1 == t0` the answer is `y0` after 0 steps.
        num_steps: how many steps; static. May be left out where `times` are given.
        method: a tableau or a name of `tableaus.METHODS`.
        args: what the field gets besides, a pytree.
        save_every: keep every so many steps, a divisor of `num_steps`, and the start; by default
            the end alone is kept.
        times: `(num_steps + 1,)` borders of the steps, from `t0` to `t1`, for steps of unequal
            size.
        checkpoint: what a gradient keeps of the way. `"step"`: the state after each step; `"sqrt"`:
            some $2\sqrt{num\_steps}$ states, for one more pass; `"none"`: all stages.
        compensated: carry the rounding error of the sum along (Kahan), for many small steps.

    Returns:
        The solution. A trajectory that meets a value that is not finite stops there: its end is the
        last finite state, later rows are NaN, its result is `NON_FINITE`.

    Raises:
        TypeError: `y0` is not floating or complex, or the field does not return what `y0` is.
        ValueError: `num_steps < 1`, unknown `method` or `checkpoint`, `save_every` that does not
            divide `num_steps`, `times` that are not monotone from `t0` to `t1`.

    Example:
        >>> rotate = lambda t, y, args: jnp.stack([y[1], -y[0]])
        >>> rows = solve_fixed(
        ...     rotate, jnp.array([1.0, 0.0]), 0.0, jnp.pi, num_steps=20, save_every=10
        ... )
        >>> print(jnp.round(rows.t, 2), jnp.round(rows.y[:, 0], 2), rows.stats.num_evaluations)
        [0.   1.57 3.14] [ 1. -0. -1.] 80

    References:
        Hairer, Norsett and Wanner 1993, section II.1; Kahan 1965 for the sum.
    """
    tableau = as_tableau(method)
    checks.one_of("checkpoint", checkpoint, CHECKPOINTS)
    num_steps = _num_steps(num_steps, times, t0, t1)
    if save_every is not None:
        checks.at_least("save_every", save_every, 1)
        if num_steps % save_every:
            raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    y0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), records.checked_state(y0))
    dtype = records.time_dtype(y0)
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    records.check_field(vector_field, t0, y0, args)
    borders = None if times is None else jnp.asarray(times, dtype)
    # Marked here, once: a mark inside the loop would be a sum over devices at each step backwards.
    sources = (y0, t0, t1, borders, jax.eval_shape(vector_field, t0, y0, args))
    y0, t0, t1, borders, args = _spread((y0, t0, t1, borders, args), sources)
    step_size = (t1 - t0) / num_steps
    weights = [tableau.b]

    def time_at(k: Any) -> Any:
        return t0 + jnp.asarray(k, dtype) * step_size if borders is None else borders[k]

    def advance(t: Any, state: Any, h: Any) -> Any:
        y, low = state
        stages = _stages(tableau, weights, vector_field, t, y, h, args, None)
        change = _increment(tableau.b, stages, y, h)
        return _compensated_add(y, change, low) if compensated else (_add(y, change), low)

    low = jax.tree.map(jnp.zeros_like, y0) if compensated else None
    step = guarded(advance, t0, (y0, low), step_size)

    def take(k: Any, state: Any) -> Any:
        h = step_size if borders is None else borders[k + 1] - borders[k]
        return step(time_at(k), state, h)

    end, kept = _loop(take, (y0, low), num_steps, save_every, checkpoint)
    moves = t1 != t0
    finite = trees.all_finite(end[0])
    (fallback, _), accepted = last_finite(take, (y0, low), num_steps, moves & ~finite)
    y = jax.tree.map(lambda new, old: jnp.where(moves & finite, new, old), end[0], fallback)
    accepted = jnp.where(moves, accepted, 0)
    done = finite | ~moves
    tried = jnp.where(done, accepted, accepted + 1)
    stats = Stats(tried, accepted, jnp.zeros_like(tried), tried * sum(tableau.needed(*weights)))
    result = jnp.where(done, records.REACHED, records.NON_FINITE).astype(jnp.int32)
    if save_every is None:
        return Solution(t1, y, stats, result)
    ks = jnp.arange(0, num_steps + 1, save_every, dtype=jnp.int32)
    return Solution(time_at(ks), _finished_rows(kept[0], y0, moves), stats, result)


def _num_steps(num_steps: int | None, times: Any, t0: Any, t1: Any) -> int:
    if times is None:
        if num_steps is None:
            raise ValueError("num_steps must be given where times are not, got None")
        return checks.at_least("num_steps", num_steps, 1)
    records.check_times("times", times, t0=t0, t1=t1)
    found = np.shape(times)[0] - 1
    if num_steps is not None and checks.at_least("num_steps", num_steps, 1) != found:
        raise ValueError(
            f"times must have num_steps + 1 = {num_steps + 1} entries, got {found + 1}"
        )
    if found < 1:
        raise ValueError("times must have at least 2 entries, got 1")
    if not any(isinstance(value, jax.core.Tracer) for value in (times, t0, t1)):
        ends = np.asarray(times)[[0, -1]]
        if ends[0] != np.asarray(t0) or ends[1] != np.asarray(t1):
            raise ValueError(f"times must run from t0={t0} to t1={t1}, got {ends[0]} to {ends[1]}")
    return found


def _loop(
    take: Callable[[Any, Any], Any],
    state: Any,
    num_steps: int,
    save_every: int | None,
    checkpoint: str,
) -> tuple[Any, Any]:
    """Run the steps: the last state, and those at the rows that `save_every` asks for."""

    def remat(fn: Callable) -> Callable:
        return jax.checkpoint(fn, prevent_cse=False)

    def body(state: Any, k: Any) -> tuple[Any, None]:
        return take(k, state), None

    step = body if checkpoint == "none" else remat(body)

    def run(state: Any, start: Any, count: int) -> Any:
        return jax.lax.scan(step, state, start + jnp.arange(count, dtype=jnp.int32))[0]

    def blocks(state: Any, count: int, size: int, keep: bool) -> Any:
        def block(state: Any, start: Any) -> tuple[Any, Any]:
            state = run(state, start, size)
            return state, state if keep else None

        block = remat(block) if checkpoint == "sqrt" else block
        return jax.lax.scan(block, state, size * jnp.arange(count, dtype=jnp.int32))

    if save_every is not None:
        end, kept = blocks(state, num_steps // save_every, save_every, True)
        return end, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), state, kept)
    if checkpoint != "sqrt":
        return run(state, 0, num_steps), None
    size = math.isqrt(num_steps)
    state, _ = blocks(state, num_steps // size, size, False)
    rest = num_steps % size
    return (run(state, num_steps - rest, rest) if rest else state), None


def _finished_rows(kept: Any, y0: Any, moves: Any) -> Any:
    """Blank whole rows where a part of the state is not finite; all are y0 where nothing moves."""
    finite = jax.vmap(trees.all_finite)(kept)

    def finish(leaf: Any, start: Any) -> Any:
        good = finite.reshape(finite.shape + (1,) * start.ndim)
        rows = jnp.where(good, leaf, jnp.full_like(leaf, jnp.nan))
        return jnp.where(moves, rows, jnp.broadcast_to(start[None], rows.shape))

    return jax.tree.map(finish, kept, y0)


def _spread(values: Any, sources: Any) -> Any:
    """Mark all arrays among `values` as varying over every mesh axis of `sources`."""

    def mark(leaf: Any) -> Any:
        return rows.varying_over(leaf, sources) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(mark, values)


def _stages(
    tableau: Tableau,
    wanted: Sequence[Sequence[Number]],
    vector_field: VectorField,
    t: Any,
    y: Any,
    h: Any,
    args: Any,
    f0: Any,
) -> list[Any]:
    """Evaluate the stages that the wanted sums read; `None` stands for the others."""
    stages: list[Any] = []
    for i, needed in enumerate(tableau.needed(*wanted)):
        if not needed:
            stages.append(None)
        elif i == 0:
            stages.append(vector_field(t, y, args) if f0 is None else f0)
        else:
            inner = _add(y, _increment(tableau.a[i], stages, y, h))
            time = t + _scaled(tableau.c[i], h)
            stages.append(vector_field(time, inner, args))
    return stages


def _scaled(weight: Number, value: Any) -> Any:
    return value if weight == 1 else float(weight) * value


def _increment(weights: Sequence[Number], stages: Sequence[Any], y: Any, h: Any) -> Any:
    """Return h times the weighted sum of the stages, in the dtype of each leaf."""
    pairs = [(w, k) for w, k in zip(weights, stages, strict=False) if w != 0]
    if not pairs:
        return jax.tree.map(jnp.zeros_like, y)

    def leaf(*values: Any) -> Any:
        total = _scaled(pairs[0][0], values[0])
        for (weight, _), value in zip(pairs[1:], values[1:], strict=True):
            total = total + _scaled(weight, value)
        return total * h.astype(values[0].dtype)

    return jax.tree.map(leaf, *(k for _, k in pairs))


def _add(y: Any, change: Any) -> Any:
    return jax.tree.map(jnp.add, y, change)


def _compensated_add(y: Any, change: Any, low: Any) -> tuple[Any, Any]:
    """Kahan's sum: `low` holds what the last sums rounded away."""
    asked = jax.tree.map(jnp.subtract, change, low)
    total = _add(y, asked)
    lost = jax.tree.map(lambda new, old, part: (new - old) - part, total, y, asked)
    return total, lost
