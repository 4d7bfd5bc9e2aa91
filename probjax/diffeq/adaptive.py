r"""Adaptive steps: the error of each step is estimated, and the next step chosen after it.

>>> import jax, jax.numpy as jnp
>>> solution = solve_adaptive(
...     lambda t, y, args: -args * y, jnp.ones(()), 0.0, 2.0, args=jnp.array(0.5),
...     rtol=1e-6, atol=1e-9)
>>> print(f"{solution.y:.5f}", solution.result)  # exp(-1)
0.36788 0

The derivative runs backwards over the accepted steps, whose sizes it takes as given:

>>> def end(rate):
...     return solve_adaptive(lambda t, y, args: -args * y, jnp.ones(()), 0.0, 2.0, args=rate,
...                           rtol=1e-6, atol=1e-9).y
>>> print(f"{jax.grad(end)(0.5):.4f}")  # -2 exp(-1)
-0.7358
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike

from probjax.core import checks, rows
from probjax.diffeq import tableaus
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.solution import (
    MAX_STEPS,
    NON_FINITE,
    REACHED,
    STEP_TOO_SMALL,
    Solution,
    Stats,
    VectorField,
    check_field,
    check_step,
    check_times,
    check_tolerances,
    checked_state,
    time_dtype,
)
from probjax.diffeq.step_control import (
    Controller,
    adaptive_init,
    adaptive_step,
    embedded_pair,
    is_running,
)

GRADIENTS = ("reverse", "forward")
"""Directions in which a solve can be differentiated."""


def solve_adaptive(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    rtol: ArrayLike,
    atol: ArrayLike,
    args: Any = None,
    method: str | tableaus.Tableau = "tsit5",
    first_step: ArrayLike | None = None,
    max_steps: int = 4096,
    save_at: str | ArrayLike | None = None,
    gradient: str = "reverse",
    controller: Controller = Controller(),  # noqa: B008 - immutable
) -> Solution:
    r"""Integrate with steps whose estimated error stays within tolerances.

    A step of error $e$ is accepted if the root mean square of
    $e/(atol+rtol\max(|y_n|,|y_{n+1}|))$ over all entries of the state is at most 1. Under
    `jax.vmap` all trajectories run until the last one is done, and those that are done wait.

    Args:
        vector_field: `vector_field(t, y, args) -> dy` of one trajectory.
        y0: start, a pytree.
        t0: time of `y0`.
        t1: end; below `t0` integrates backwards.
        rtol: relative tolerance.
        atol: absolute tolerance.
        args: what the field gets besides, a pytree.
        method: an explicit embedded pair, or its name.
        first_step: signed size; `initial_step` chooses it if left out.
        max_steps: steps that may be tried.
        save_at: times `(T,)` of the rows; steps end there. `"steps"` keeps the start and every
            accepted step, in `max_steps + 1` rows of which the last are NaN. `None` keeps the end.
        gradient: `"reverse"` keeps the accepted steps, `max_steps` rows of memory, when and only
            when a derivative is asked for, and walks them back; `"forward"` allows `jax.jvp`. Both
            hold the sizes of the steps, the times and the tolerances constant.
        controller: how sizes follow from errors.

    Returns:
        A `Solution`. A trajectory that fails keeps its last accepted state, its later rows are NaN,
        and its derivative is zero.

    Raises:
        ValueError: a method without an embedded result, tolerances, times or a step that make no
            sense, an unknown `gradient`; under `shard_map`, a derivative where the field closes
            over a value that all devices share, which belongs in `args`.
        TypeError: the field does not return what can be added to the state.

    Example:
        >>> solution = solve_adaptive(lambda t, y, args: -y, jnp.ones(()), 0.0, 2.0, rtol=1e-6,
        ...                           atol=1e-6, save_at=jnp.array([0.0, 1.0, 2.0]))
        >>> print(*(f"{y:.4f}" for y in solution.y))
        1.0000 0.3679 0.1353

    References:
        Hairer, Norsett, Wanner 1993, II.4; Gustafsson 1991.
    """
    tableau = embedded_pair(method)
    checks.at_least("max_steps", max_steps, 1)
    checks.one_of("gradient", gradient, GRADIENTS)
    check_tolerances(rtol, atol)
    y0, args = checked_state(y0), jax.tree.map(jnp.asarray, args)
    check_field(vector_field, t0, y0, args)
    if first_step is not None and not _is_same(t0, t1):
        check_step("first_step", first_step, t0, t1)
    if isinstance(save_at, str):
        checks.one_of("save_at", save_at, ("steps",))
    elif save_at is not None:
        check_times("save_at", save_at, t0=t0, t1=t1)
    dtype = time_dtype(y0)
    times = None if save_at is None or isinstance(save_at, str) else jnp.asarray(save_at, dtype)
    first = None if first_step is None else jnp.asarray(first_step, dtype)
    inputs = _Inputs(*(jnp.asarray(value, dtype) for value in (t0, t1, rtol, atol)), times, first)
    inputs = jax.tree.map(jax.lax.stop_gradient, inputs)
    rule = _Rule(tableau, controller, max_steps, isinstance(save_at, str))
    # Under `shard_map` every input of the loop, and of its derivative, varies over the same axes.
    slope = vector_field(inputs.t0, y0, args)
    inputs, y0, args = rows.varying_over((inputs, y0, args), (inputs, y0, args, slope))
    if gradient == "reverse":
        return _with_reverse(rule, vector_field, y0, args, inputs)
    return _integrate(rule, vector_field, y0, args, inputs)[0]


class _Inputs(NamedTuple):
    """The numbers of a solve that no derivative is taken by."""

    t0: Any
    t1: Any
    rtol: Any
    atol: Any
    times: Any
    first_step: Any


class _Rule(NamedTuple):
    """What is static in a solve."""

    tableau: tableaus.Tableau
    controller: Controller
    max_steps: int
    saves_steps: bool


class _Record(NamedTuple):
    """What a tried step leaves for the way back."""

    t: Any
    y: Any
    step_size: Any
    accepted: Any
    row: Any
    """The row that ends the step, or one too high."""


def _integrate(
    rule: _Rule, field: VectorField, y0: Any, args: Any, inputs: _Inputs, *, record: bool = False
) -> tuple[Solution, Any]:
    """Run the loop. All trajectories of a `vmap` share its counter and its end, so that rows of the
    record are written at one place for all, and nothing is selected but in `adaptive_step`.
    """
    t1, times = inputs.t1, inputs.times
    options = {
        "args": args, "method": rule.tableau, "controller": rule.controller,
        "rtol": inputs.rtol, "atol": inputs.atol,
    }  # fmt: skip
    state = adaptive_init(field, y0, inputs.t0, t1, first_step=inputs.first_step, **options)
    num_rows = rule.max_steps + 1 if rule.saves_steps else 0 if times is None else times.shape[0]
    kept = _empty((state.t, state.y), num_rows) if num_rows else None
    row = jnp.zeros_like(state.num_steps)
    if rule.saves_steps:
        row = row + 1
    elif times is not None:
        row = row + (times[0] == state.t).astype(jnp.int32)
    index = jnp.zeros_like(state.num_steps.reshape(-1)[0])
    made = _Record(state.t, state.y, state.step_size, state.after_rejection, row)
    records = _empty(made, rule.max_steps) if record else None

    def goes_on(carry: Any) -> Any:
        index, state, *_ = carry
        return (index < rule.max_steps) & _any_of_batch(jnp.any(is_running(state, t1)))

    def body(carry: Any) -> Any:
        index, state, row, kept, records = carry
        goal = t1
        if times is not None:
            goal = jnp.where(row < num_rows, times[jnp.minimum(row, num_rows - 1)], t1)
        new, info = adaptive_step(field, state, goal, **options)
        hit = info.accepted
        if num_rows:  # a row is written until its step is accepted, and stands from then on
            if times is not None:
                hit = hit & (new.t == goal) & (row < num_rows)
            kept = jax.tree.map(
                lambda rows_, leaf: rows_.at[row].set(leaf, mode="drop"), kept, (new.t, new.y)
            )
        if record:
            made = _Record(
                state.t, state.y, info.step_size, info.accepted, jnp.where(hit, row, num_rows)
            )
            records = jax.tree.map(
                lambda rows_, leaf: jax.lax.dynamic_update_index_in_dim(rows_, leaf, index, 0),
                records, made,
            )  # fmt: skip
        return index + 1, new, row + hit.astype(jnp.int32) if num_rows else row, kept, records

    index, state, row, kept, records = jax.lax.while_loop(
        goes_on, body, (index, state, row, kept, records)
    )
    done = state.t == t1
    failure = jnp.where(jnp.isnan(state.step_size), NON_FINITE, MAX_STEPS)
    failure = jnp.where(state.step_size == 0, STEP_TOO_SMALL, failure)
    result = jnp.where(done, REACHED, failure).astype(jnp.int32)
    per_step = len(rule.tableau.b) - rule.tableau.fsal
    before = (1 if rule.tableau.fsal else 0) + (2 - rule.tableau.fsal) * (inputs.first_step is None)
    tried = state.num_steps
    evaluations = jnp.where(tried > 0, per_step * tried + before, 0)
    stats = Stats(tried, state.num_accepted, tried - state.num_accepted, evaluations)
    y = jax.tree.map(lambda leaf: jnp.where(done, leaf, jax.lax.stop_gradient(leaf)), state.y)
    if not num_rows:
        return Solution(state.t, y, stats, result), (index, records)

    def mask(leaf: Any) -> Any:
        written = jnp.arange(num_rows, dtype=jnp.int32) < row
        flags = written.reshape((-1,) + (1,) * (leaf.ndim - 1))
        leaf = jnp.where(done, leaf, jax.lax.stop_gradient(leaf))
        return jnp.where(flags, leaf, jnp.full_like(leaf, jnp.nan))

    t = mask(kept[0]) if rule.saves_steps else times
    return Solution(t, jax.tree.map(mask, kept[1]), stats, result), (index, records)


def _with_reverse(
    rule: _Rule, vector_field: VectorField, y0: Any, args: Any, inputs: _Inputs
) -> Solution:
    """The solve with a derivative that walks the accepted steps back."""
    field, consts = jax.closure_convert(vector_field, inputs.t0, y0, args)
    leaves, structure = jax.tree.flatten(args)
    smooth = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

    def join(moving: Any, fixed: Any) -> Any:
        moving, fixed = iter(moving), iter(fixed)
        picked = [next(moving) if is_smooth else next(fixed) for is_smooth in smooth]
        return jax.tree.unflatten(structure, picked)

    def bound(consts: Any) -> VectorField:
        return lambda t, y, args: field(t, y, args, *consts)

    def run(y0: Any, moving: Any, consts: Any, fixed: Any, inputs: _Inputs, **options: Any) -> Any:
        return _integrate(rule, bound(consts), y0, join(moving, fixed), inputs, **options)

    @jax.custom_vjp
    def solve(y0: Any, moving: Any, consts: Any, fixed: Any, inputs: _Inputs) -> Solution:
        return run(y0, moving, consts, fixed, inputs)[0]

    def forwards(y0: Any, moving: Any, consts: Any, fixed: Any, inputs: _Inputs) -> Any:
        _refuse_shared(consts, inputs.t0)
        solution, trace = run(y0, moving, consts, fixed, inputs, record=True)
        return solution, (moving, consts, fixed, inputs, trace, solution.result == REACHED)

    def backwards(residuals: Any, cotangent: Solution) -> Any:
        moving, consts, fixed, inputs, (length, records), done = residuals
        given = jax.tree.map(lambda leaf: jnp.where(done, leaf, jnp.zeros_like(leaf)), cotangent.y)
        has_rows = rule.saves_steps or inputs.times is not None
        start = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), given) if has_rows else given

        def step(y: Any, moving: Any, consts: Any, t: Any, h: Any) -> Any:
            return rk_step(rule.tableau, bound(consts), t, y, h, join(moving, fixed))[0]

        def body(carry: Any) -> Any:
            index, bar_y, bar_moving, bar_consts = carry
            made = jax.tree.map(
                lambda rows_: jax.lax.dynamic_index_in_dim(rows_, index, keepdims=False), records
            )
            if has_rows:
                bar_y = _add_row(bar_y, given, made.row)
            pull = jax.vjp(
                lambda *inner: step(*inner, made.t, made.step_size), made.y, moving, consts
            )[1]
            new_y, more_moving, more_consts = pull(bar_y)
            more = (more_moving, more_consts)
            so_far = (bar_moving, bar_consts)

            def choose(new: Any, old: Any) -> Any:
                return jnp.where(made.accepted, new, old)

            return (
                index - 1,
                jax.tree.map(choose, new_y, bar_y),
                *jax.tree.map(lambda a, b: choose(a + b, b), more, so_far),
            )

        zeros = jax.tree.map(jnp.zeros_like, (moving, consts))
        _, bar_y, bar_moving, bar_consts = jax.lax.while_loop(
            lambda carry: carry[0] >= 0, body, (length - 1, start, *zeros)
        )
        if rule.saves_steps:
            bar_y = _add_row(bar_y, given, 0)
        elif has_rows:
            at_start = inputs.times[0] == inputs.t0
            bar_y = _add_row(bar_y, given, jnp.where(at_start, 0, inputs.times.shape[0]))
        return bar_y, bar_moving, bar_consts, None, None

    solve.defvjp(forwards, backwards)
    moving = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if is_smooth]
    fixed = [leaf for leaf, is_smooth in zip(leaves, smooth, strict=True) if not is_smooth]
    return solve(y0, moving, consts, fixed, inputs)


def _refuse_shared(consts: Any, like: Any) -> None:
    """What is the same on all devices would be summed over them in every step of the way back, of
    which they take different numbers.
    """

    def axes(leaf: Any) -> frozenset[str]:
        kind = getattr(jax.typeof(leaf), "manual_axis_type", None)
        return frozenset(kind.varying) if kind is not None else frozenset()

    for const in jax.tree.leaves(consts):
        missing = sorted(axes(like) - axes(const))
        if missing:
            raise ValueError(
                f"vector_field closes over {jax.typeof(const)}, which is the same along the mesh "
                f"axes {missing}: a derivative by it is taken where it is handed over in args"
            )


def _add_row(bar_y: Any, given: Any, row: Any) -> Any:
    """Add a row of the cotangent; a row too high adds nothing."""
    return jax.tree.map(
        lambda leaf, rows_: leaf + rows_.at[row].get(mode="fill", fill_value=0), bar_y, given
    )


def _empty(tree: Any, num_rows: int) -> Any:
    """Rows that hold the tree, derived from its data."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_rows, *leaf.shape)), tree)


@custom_vmap
def _any_of_batch(flag: Any) -> Any:
    """One flag for all trajectories of a `vmap`, so that the loop has one end for all of them."""
    return flag


@_any_of_batch.def_vmap
def _any_of_batch_rule(axis_size: int, in_batched: Any, flags: Any) -> tuple[Any, bool]:
    del axis_size
    return _any_of_batch(jnp.any(flags, axis=0) if in_batched[0] else flags), False


def _is_same(t0: ArrayLike, t1: ArrayLike) -> bool:
    if any(isinstance(value, jax.core.Tracer) for value in (t0, t1)):
        return False
    return bool(np.all(np.asarray(t0) == np.asarray(t1)))
