r"""The solution between the ends of its steps.

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq.adaptive import solve_adaptive
>>> def field(t, y, args):
...     return jnp.stack([y[1], -y[0]])
>>> @jax.jit
... def sine(t):
...     steps = solve_adaptive(field, jnp.array([0.0, 1.0]), 0.0, 3.0, rtol=1e-6, atol=1e-6,
...                            save_at="steps", max_steps=64)
...     return dense_output(field, steps, method="tsit5")(t)[0]
>>> print(f"{sine(2.0):.4f} {jnp.sin(2.0):.4f}")
0.9093 0.9093

The rows are enough: the slopes, or the stages of the one step that is asked for, are evaluated
again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from probjax.core import checks
from probjax.diffeq import tableaus
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.solution import Solution, VectorField


def _product(factor: float, *roots: float, square: tuple[float, float] = (0.0, 0.0)) -> Any:
    """Coefficients of `factor x^m (x - r) ... (x^2 + square[0] x + square[1])`, from x^1 to x^4."""
    polynomial = [factor]
    for root in roots:
        polynomial = [
            a - root * b for a, b in zip([0.0, *polynomial], [*polynomial, 0.0], strict=True)
        ]
    p, q = square
    if p or q:
        shifted = [polynomial + [0.0, 0.0], [0.0, *polynomial, 0.0], [0.0, 0.0, *polynomial]]
        polynomial = [q * a + p * b + c for a, b, c in zip(*shifted, strict=True)]
    return tuple([0.0] * (5 - len(polynomial)) + polynomial)[1:]


_TSIT5 = (
    _product(
        -1.0530884977290216,
        0.0,
        1.3299890189751412,
        square=(-1.4364028541716351, 0.7139816917074209),
    ),
    _product(0.1017, 0.0, 0.0, square=(-2.1966568338249754, 1.2949852507374631)),
    _product(2.490627285651252793, 0.0, 0.0, square=(-2.38535645472061657, 1.57803468208092486)),
    _product(-16.54810288924490272, 0.0, 0.0, 1.21712927295533244, 0.61620406037800089),
    _product(47.37952196281928122, 0.0, 0.0, 1.203071208372362603, 0.658047292653547382),
    _product(-34.87065786149660974, 0.0, 0.0, 1.2, 0.666666666666666667),
    _product(2.5, 0.0, 0.0, 1.0, 0.6),
)

_DORMAND_PRINCE = (
    (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
    (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
    (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
    (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
    (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
)

NATIVE = {"tsit5": _TSIT5, "dormand_prince": _DORMAND_PRINCE}
r"""For each stage the coefficients of $\theta,\dots,\theta^4$ of its weight $b_i(\theta)$."""


def native_weights(tableau: tableaus.Tableau) -> tuple[tuple[float, ...], ...] | None:
    """Return the weights of a method's own interpolant.

    Args:
        tableau: the method.

    Returns:
        Four coefficients for each stage, or `None` where the method has no interpolant here.

    Example:
        >>> native_weights(tableaus.rk4)
        >>> len(native_weights(tableaus.tsit5))
        7
    """
    known = tableau.name in NATIVE and tableau == tableaus.METHODS[tableau.name]
    return NATIVE[tableau.name] if known else None


def hermite(theta: ArrayLike, h: ArrayLike, y0: Any, y1: Any, f0: Any, f1: Any) -> Any:
    r"""Interpolate by the cubic with given values and slopes at both ends.

    $$y=y_0+\theta(y_1-y_0)+\theta(\theta-1)\bigl[(1-2\theta)(y_1-y_0)+(\theta-1)hf_0
    +\theta hf_1\bigr]$$

    Args:
        theta: place in the step, 0 to 1.
        h: size of the step, with its sign.
        y0: state at its start, a pytree.
        y1: state at its end.
        f0: slope at its start.
        f1: slope at its end.

    Returns:
        The state, like `y0`.

    Example:
        >>> print(hermite(0.5, 2.0, jnp.zeros(()), jnp.array(8.0), jnp.zeros(()), jnp.array(12.0)))
        1.0
    """

    def leaf(y0: Any, y1: Any, f0: Any, f1: Any) -> Any:
        x, step = jnp.asarray(theta).astype(y0.dtype), jnp.asarray(h).astype(y0.dtype)
        rise = y1 - y0
        bend = (1 - 2 * x) * rise + (x - 1) * step * f0 + x * step * f1
        return y0 + x * rise + x * (x - 1) * bend

    return jax.tree.map(leaf, y0, y1, f0, f1)


def native(
    theta: ArrayLike, h: ArrayLike, y0: Any, stages: Any, weights: tuple[tuple[float, ...], ...]
) -> Any:
    r"""Interpolate by a quartic in the stages: $y=y_0+h\sum_ib_i(\theta)k_i$.

    Args:
        theta: as for `hermite`.
        h: as for `hermite`.
        y0: state at the start of the step.
        stages: the slopes $k_i$, a sequence of trees like `y0`.
        weights: of `native_weights`.

    Returns:
        The state, like `y0`.

    Example:
        >>> stages = [jnp.array(3.0)] * 7
        >>> print(f"{native(0.5, 0.2, jnp.array(1.0), stages, NATIVE['tsit5']):.3f}")
        1.300
    """

    def leaf(y0: Any, *stages: Any) -> Any:
        x, total = jnp.asarray(theta).astype(y0.dtype), jnp.zeros_like(y0)
        for (c1, c2, c3, c4), slope in zip(weights, stages, strict=True):
            if any((c1, c2, c3, c4)):
                total = total + x * (c1 + x * (c2 + x * (c3 + x * c4))) * slope
        return y0 + jnp.asarray(h).astype(y0.dtype) * total

    return jax.tree.map(leaf, y0, *stages)


def step_with_stages(
    tableau: tableaus.Tableau, vector_field: VectorField, t: ArrayLike, y: Any, h: ArrayLike,
    args: Any, *, f0: Any = None,
) -> tuple[tuple[Any, Any, Any], list[Any]]:  # fmt: skip
    """Make a step as `rk_step` does, and return its stages too.

    Args:
        tableau: as for `rk_step`, and so are the others.
        vector_field: `vector_field(t, y, args) -> dy`.
        t: start of the step.
        y: state there.
        h: size.
        args: what the field gets besides.
        f0: slope at the start, where known.

    Returns:
        What `rk_step` returns, and the slopes in the order of their evaluation.

    Example:
        >>> _, stages = step_with_stages(
        ...     tableaus.heun, lambda t, y, args: t + y, 0.0, jnp.array(1.0), 0.5, None)
        >>> print(*stages)
        1.0 2.0
    """
    stages = [] if f0 is None else [f0]

    def field(t: Any, y: Any, args: Any) -> Any:
        stages.append(vector_field(t, y, args))
        return stages[-1]

    return rk_step(tableau, field, t, y, h, args, f0=f0), stages


def dense_output(
    vector_field: VectorField,
    solution: Solution,
    *,
    args: Any = None,
    method: str | tableaus.Tableau | None = None,
) -> Callable[[ArrayLike], Any]:
    r"""Return the solution as a function of time.

    With the `method` that made the steps, and where it is `tsit5` or `dormand_prince`, its own
    quartic, whose error is $O(h^5)$ in a step; else the cubic of `hermite`, $O(h^4)$, for steps of
    any method.

    Args:
        vector_field: the field that was integrated.
        solution: of one trajectory, with a row for every step: `save_at="steps"` of
            `solve_adaptive`, or `save_every=1` of a solver with constant steps.
        args: those of the solve.
        method: the method of the solve; `None` for the cubic.

    Returns:
        A function of times of any shape that gives states with that shape in front; NaN outside
        the span that was reached.

    Raises:
        ValueError: `solution` has fewer than two rows, or no times.

    Example:
        >>> from probjax.diffeq.runge_kutta import solve_fixed
        >>> cube = solve_fixed(lambda t, y, args: 3 * t**2, 0.0, 0.0, 2.0, num_steps=2,
        ...                    save_every=1)
        >>> print(dense_output(lambda t, y, args: 3 * t**2, cube)(1.5))
        3.375

    References:
        Hairer, Norsett, Wanner 1993, II.6; Shampine 1986; Tsitouras 2011.
    """
    times = jnp.asarray(solution.t)
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(
            f"solution must hold one trajectory with a row for every step, got t of shape "
            f"{times.shape}"
        )
    for leaf in jax.tree.leaves(solution.y):
        checks.shape("solution.y", leaf[..., None], (times.shape[0], *leaf.shape[1:], 1))
    tableau = None if method is None else tableaus.as_tableau(method)
    weights = None if tableau is None else native_weights(tableau)
    direction = jnp.where(times[1] < times[0], -1.0, 1.0).astype(times.dtype)
    sorted_times = jnp.where(jnp.isnan(times), jnp.inf, direction * times)
    last = jnp.sum(jnp.isfinite(sorted_times), dtype=jnp.int32) - 1

    def at(t: Any) -> Any:
        place = jnp.searchsorted(sorted_times, direction * t, side="right").astype(jnp.int32) - 1
        place = jnp.clip(place, 0, jnp.maximum(last - 1, 0))
        y0 = jax.tree.map(lambda rows: rows[place], solution.y)
        y1 = jax.tree.map(lambda rows: rows[place + 1], solution.y)
        start, h = times[place], times[place + 1] - times[place]
        theta = (t - start) / h
        if tableau is not None and weights is not None:
            _, stages = step_with_stages(tableau, vector_field, start, y0, h, args)
            y = native(theta, h, y0, stages, weights)
        else:
            f0 = vector_field(start, y0, args)
            f1 = vector_field(times[place + 1], y1, args)
            y = hermite(theta, h, y0, y1, f0, f1)
        inside = (direction * t >= sorted_times[0]) & (direction * t <= sorted_times[last])
        return jax.tree.map(lambda leaf: jnp.where(inside, leaf, jnp.full_like(leaf, jnp.nan)), y)

    def evaluate(t: ArrayLike) -> Any:
        t = jnp.asarray(t, times.dtype)
        found = jax.vmap(at)(t.reshape(-1))
        return jax.tree.map(lambda leaf: leaf.reshape(t.shape + leaf.shape[1:]), found)

    return evaluate
