r"""Adams methods: as many evaluations a step as predictions, however high the order.

A multistep method remembers the slopes of the last steps and integrates the polynomial through
them. The weights are rational and come from that integral:

>>> print(*adams_bashforth(3))
23/12 -4/3 5/12
>>> import jax, jax.numpy as jnp
>>> solution = solve_multistep(
...     lambda t, y, args: -y, jnp.ones(()), 0.0, 1.0, num_steps=40, kind="abm", steps=4)
>>> print(f"{solution.y:.5f}", solution.stats.num_evaluations)
0.36788 86
"""

import functools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from probjax.core import checks, rows, trees
from probjax.diffeq import tableaus
from probjax.diffeq.guards import guarded
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.solution import (
    NON_FINITE,
    REACHED,
    Solution,
    Stats,
    VectorField,
    check_field,
    checked_state,
    time_dtype,
)

KINDS = ("ab", "abm")
"""Adams-Bashforth, and with one Adams-Moulton step to correct it."""
MOST_STEPS = 8
"""Steps that a method may look back."""


def adams_bashforth(steps: int) -> tuple[Fraction, ...]:
    r"""Return the weights of the explicit Adams method.

    $$y_{n+1}=y_n+h\sum_{j=0}^{k-1}b_jf_{n-j},\qquad
    b_j=\int_0^1\prod_{i\ne j}\frac{s+i}{i-j}\,ds$$

    Args:
        steps: how many slopes are used, `k`, from 1 to 8; it is the order as well.

    Returns:
        $b_0,\dots,b_{k-1}$, the newest slope first.

    Raises:
        ValueError: `steps` is out of range.

    Example:
        >>> print(*adams_bashforth(2))
        3/2 -1/2

    References:
        Hairer, Norsett, Wanner 1993, III.1.
    """
    return _weights(tuple(range(_checked(steps))))


def adams_moulton(steps: int) -> tuple[Fraction, ...]:
    r"""Return the weights of the implicit Adams method.

    $$y_{n+1}=y_n+h\sum_{j=0}^{k-1}b_jf_{n+1-j},\qquad
    b_j=\int_0^1\prod_{i\ne j}\frac{s-1+i}{i-j}\,ds$$

    Args:
        steps: how many slopes are used, the new one among them, from 1 to 8; it is the order too.

    Returns:
        $b_0,\dots,b_{k-1}$; $b_0$ belongs to the end of the step.

    Raises:
        ValueError: `steps` is out of range.

    Example:
        >>> print(*adams_moulton(4))
        3/8 19/24 -5/24 1/24

    References:
        As for `adams_bashforth`.
    """
    return _weights(tuple(range(-1, _checked(steps) - 1)))


def solve_multistep(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int,
    kind: str = "ab",
    steps: int = 4,
    starter: str | tableaus.Tableau = "rk4",
    args: Any = None,
    save_every: int | None = None,
) -> Solution:
    r"""Integrate with constant steps by an Adams method.

    `"ab"` evaluates once a step. `"abm"` predicts by `adams_bashforth`, evaluates, corrects by
    `adams_moulton` with as many slopes, and evaluates again (PECE). The first `steps - 1` steps
    are made by a Runge-Kutta method.

    Args:
        vector_field: `vector_field(t, y, args) -> dy` of one trajectory.
        y0: start, a pytree.
        t0: time of `y0`.
        t1: end; below `t0` integrates backwards.
        num_steps: how many steps.
        kind: `"ab"` or `"abm"`.
        steps: slopes used, from 1 to 8; the order of the method.
        starter: tableau, or its name, of the first steps; of order `steps - 1` at least.
        args: what the field gets besides.
        save_every: keep every so many states, the start among them; `None` keeps the end alone.

    Returns:
        A `Solution`. A trajectory that meets a value that is not finite stays at its last finite
        state; its later rows are NaN.

    Raises:
        ValueError: an unknown `kind` or starter, `steps` or `num_steps` out of range, a starter of
            too low an order, `save_every` that does not divide `num_steps`.
        TypeError: the field does not return what can be added to the state.

    Example:
        >>> solve_multistep(lambda t, y, args: y, 1.0, 0.0, 1.0, num_steps=9, starter="heun")
        Traceback (most recent call last):
        ValueError: starter must have order 3 at least, as steps=4, got 'heun' of order 2

    References:
        Hairer, Norsett, Wanner 1993, III.1.
    """
    checks.one_of("kind", kind, KINDS)
    _checked(steps)
    num_steps = checks.at_least("num_steps", num_steps, 1)
    every = num_steps if save_every is None else checks.at_least("save_every", save_every, 1)
    if num_steps % every:
        raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    if isinstance(starter, str):
        checks.one_of("starter", starter, tableaus.METHODS)
    method = tableaus.as_tableau(starter)
    if method.order < steps - 1:
        raise ValueError(
            f"starter must have order {steps - 1} at least, as steps={steps}, "
            f"got {method.name!r} of order {method.order}"
        )
    y0 = checked_state(y0)
    check_field(vector_field, t0, y0, args)
    dtype = time_dtype(y0)
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    h = (t1 - t0) / num_steps

    def time(i: Any) -> Any:
        return t0 + jnp.asarray(i, dtype) * h

    explicit = [float(weight) for weight in adams_bashforth(steps)]
    implicit = [float(weight) for weight in adams_moulton(steps)]

    def start(t: Any, state: Any, h: Any) -> Any:
        y, slopes = state
        slope = vector_field(t, y, args)
        y1, _, _ = rk_step(method, vector_field, t, y, h, args, f0=slope)
        return y1, (slope, *slopes)[: steps - 1]

    def advance(t: Any, state: Any, h: Any) -> Any:
        y, slopes = state
        slopes = (vector_field(t, y, args), *slopes)
        y1 = _add(y, h, explicit, slopes)
        if kind == "abm":
            y1 = _add(y, h, implicit, (vector_field(t + h, y1, args), *slopes))
        return y1, slopes[: steps - 1]

    # Marked here, once: under `shard_map` all that a step meets varies over the same axes.
    y0 = rows.varying_over(y0, (t0, t1, jax.eval_shape(vector_field, t0, y0, args)))
    slope = jax.tree.map(jnp.zeros_like, y0)
    state = (y0, (slope,) * (steps - 1))
    starting = guarded(start, t0, state, h)
    going = guarded(advance, t0, state, h)
    ok = trees.all_finite(y0)
    kept = None
    if save_every is not None:
        kept = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_steps // every + 1, *leaf.shape)), y0
        )

    def keep(kept: Any, i: Any, y: Any, ok: Any) -> Any:
        """Row `ceil(i / every)` is written until step `i` is a multiple, and stands from then."""
        if save_every is None:
            return None
        y = jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.full_like(leaf, jnp.nan)), y)
        at = (i + every - 1) // every
        return jax.tree.map(lambda rows_, leaf: rows_.at[at].set(leaf), kept, y)

    def step(taken: Any, carry: Any, i: Any) -> Any:
        state, ok, count, kept = carry
        new = taken(time(i), state, h)
        ok = ok & trees.all_finite(new[0])
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, state)
        return state, ok, count + ok.astype(jnp.int32), keep(kept, i + 1, state[0], ok)

    num_started = min(steps - 1, num_steps)
    carry = (state, ok, jnp.zeros_like(ok, jnp.int32), kept)
    carry = rows.varying_like(carry, jax.eval_shape(lambda c: step(going, c, 0), carry))
    for i in range(num_started):
        carry = step(starting, carry, i)
    if num_steps > num_started:
        index = jnp.arange(num_started, num_steps)
        carry, _ = jax.lax.scan(lambda c, i: (step(going, c, i), None), carry, index)
    (y, _), ok, count, kept = carry
    y = jax.tree.map(lambda leaf: jnp.where(ok, leaf, jax.lax.stop_gradient(leaf)), y)
    moved = t0 != t1
    tried = jnp.where(ok, num_steps, count + 1)
    started = jnp.minimum(tried, num_started)
    evaluations = started * method.num_stages + (tried - started) * (1 + (kind == "abm"))
    tried, count, evaluations = (jnp.where(moved, n, 0) for n in (tried, count, evaluations))
    stats = Stats(tried, count, jnp.zeros_like(count), evaluations)
    result = jnp.where(ok, REACHED, NON_FINITE).astype(jnp.int32)
    if save_every is None:
        return Solution(t1, y, stats, result)
    times = time(jnp.arange(0, num_steps + 1, every)).at[-1].set(t1)
    return Solution(times, kept, stats, result)


def _checked(steps: int) -> int:
    if checks.at_least("steps", steps, 1) > MOST_STEPS:
        raise ValueError(f"steps must be at most {MOST_STEPS}, got {steps}")
    return steps


@functools.cache
def _weights(offsets: tuple[int, ...]) -> tuple[Fraction, ...]:
    """Integrals over [0, 1] of the Lagrange polynomials with nodes at minus the offsets."""
    weights = []
    for j in offsets:
        polynomial = [Fraction(1)]  # coefficients of s^0, s^1, ...
        others = [i for i in offsets if i != j]
        for i in others:
            shifted = [Fraction(0), *polynomial]
            polynomial = [
                a + i * b for a, b in zip(shifted, [*polynomial, Fraction(0)], strict=True)
            ]
        integral = sum((c / (n + 1) for n, c in enumerate(polynomial)), Fraction(0))
        weights.append(integral / math.prod(i - j for i in others))
    return tuple(weights)


def _add(y: Any, h: Any, weights: list[float], slopes: tuple[Any, ...]) -> Any:
    """`y + h` times the weighted slopes, as many as there are weights."""

    def add(leaf: Any, *slopes: Any) -> Any:
        total = weights[0] * slopes[0]
        for weight, slope in zip(weights[1:], slopes[1:], strict=True):
            total = total + weight * slope
        return leaf + h.astype(leaf.dtype) * total

    return jax.tree.map(add, y, *slopes[: len(weights)])
