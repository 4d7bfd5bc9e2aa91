r"""Orders of convergence, measured: slopes of errors against steps.

If an error behaves as $C\,h^p$, two steps $h>h'$ with errors $e,e'$ show

$$p \approx \frac{\log(e/e')}{\log(h/h')}.$$

>>> import numpy as np
>>> from probjax.diffeq.convergence import empirical_order
>>> steps = np.array([0.4, 0.2, 0.1])
>>> measured = empirical_order(3 * steps**2, steps)
>>> print(measured.slopes, round(measured.order, 12))
[2. 2.] 2.0
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from probjax.core import checks, keys
from probjax.diffeq.brownian import coarsen, enumerate_weak, increments
from probjax.diffeq.sde import SDE
from probjax.diffeq.sde_solver import solve_sde_path
from probjax.diffeq.sde_steps import Step, find_method, noise_like
from probjax.diffeq.solution import Solution


class Order(NamedTuple):
    """Slopes between neighbouring steps, from the coarsest pair to the finest."""

    slopes: Float[np.ndarray, "pairs"]
    """One for each pair of neighbours; NaN where an error is zero or not finite."""
    standard_errors: Float[np.ndarray, "pairs"]
    """Of the slopes; zero where nothing is random."""
    usable: Bool[np.ndarray, "pairs"]
    """Whether both errors of the pair are above the floor of rounding."""
    order: float
    """The slope of the finest usable pair; NaN if there is none."""
    standard_error: float
    """Its standard error."""
    errors: Float[np.ndarray, "steps"]
    """The errors that the slopes come from."""
    steps: Float[np.ndarray, "steps"]
    """The steps, decreasing."""


def empirical_order(
    errors: ArrayLike | Sequence[float],
    steps: ArrayLike | Sequence[float],
    *,
    standard_errors: ArrayLike | Sequence[float] | None = None,
    floor: float | None = None,
) -> Order:
    r"""Return the slope of each pair of neighbouring errors, and that of the finest usable pair.

    $$slope_i = \frac{\log(errors_i/errors_{i+1})}{\log(steps_i/steps_{i+1})}$$

    Args:
        errors: not negative, `(n,)`.
        steps: the steps or step sizes they belong to, `(n,)`, strictly decreasing.
        standard_errors: of `errors`, `(n,)`, taken as independent; `None` for exact errors.
        floor: a pair with an error below it is flagged and not used; `None` for 1000 times
            the machine epsilon of `errors`, which suits a solution of size one.

    Returns:
        The slopes, as NumPy arrays.

    Raises:
        ValueError: fewer than two errors, lengths that differ, or steps that do not decrease.

    Example:
        >>> found = empirical_order([1e-2, 1e-4, 1e-16], [0.1, 0.01, 0.001])
        >>> print(found.usable, found.order)  # the last error is rounding
        [ True False] 2.0
    """
    errors = np.asarray(errors)
    dtype = errors.dtype if errors.dtype.kind == "f" else np.dtype(np.float64)
    if errors.ndim != 1 or errors.shape[0] < 2:
        raise ValueError(f"errors must be a vector of two numbers or more, got {errors.shape}")
    errors, steps = errors.astype(np.float64), np.asarray(steps, np.float64)
    checks.strictly_decreasing("steps", steps)
    checks.shape("steps", steps, errors.shape)
    spread = np.zeros_like(errors)
    if standard_errors is not None:
        spread = np.asarray(standard_errors, np.float64)
        checks.shape("standard_errors", spread, errors.shape)
    ratio = np.log(steps[:-1] / steps[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = spread / errors
    return _order(errors, steps, np.hypot(relative[:-1], relative[1:]) / ratio, dtype, floor)


def ode_order(
    solve_fn: Callable[[int], Any],
    num_steps: Sequence[int],
    *,
    exact: Any,
    span: float = 1.0,
) -> Order:
    r"""Measure the order of a solver on one problem.

    The error is the root mean square over all entries of the end. Its floor is 1000 times the
    machine epsilon of the end's precision and of the size of `exact`. Use a non-linear,
    non-autonomous system of two or more components: linear and scalar equations satisfy
    conditions that others do not.

    Args:
        solve_fn: `solve_fn(num_steps)` returns the end, any pytree, or a `Solution` of it.
        num_steps: counts, increasing; four halvings of the step or more are wise.
        exact: the end as it should be, of the same layout.
        span: length of the interval, so that `Order.steps` are step sizes.

    Returns:
        Slopes, errors and steps.

    Raises:
        ValueError: counts that do not increase, fewer than two of them, or an end that differs
            from `exact` in layout.

    Example:
        >>> import math
        >>> found = ode_order(lambda n: (1 + 1 / n) ** n, [64, 128, 256], exact=math.e)
        >>> round(found.order, 2)  # Euler's method for y' = y
        1.0
    """
    counts = [checks.at_least("num_steps", count, 1) for count in num_steps]
    checks.positive("span", span)
    target = [np.asarray(leaf) for leaf in jax.tree.leaves(exact)]
    errors, eps = [], 0.0
    for count in counts:
        end = solve_fn(count)
        found = jax.tree.leaves(end.y if isinstance(end, Solution) else end)
        if [np.shape(leaf) for leaf in found] != [leaf.shape for leaf in target]:
            raise ValueError(
                f"solve_fn({count}) must have the shapes of exact, "
                f"{[leaf.shape for leaf in target]}, got {[np.shape(leaf) for leaf in found]}"
            )
        found = [np.asarray(leaf) for leaf in found]
        eps = max(np.finfo(leaf.dtype).eps for leaf in found)
        errors.append(_rms([a - b for a, b in zip(found, target, strict=True)]))
    steps = span / np.asarray(counts, np.float64)
    return empirical_order(np.asarray(errors), steps, floor=1e3 * float(eps) * _rms(target))


def strong_order(
    key: keys.PRNGKey,
    sde: SDE,
    y0: Float[Array, "*d"],
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    method: str | Step,
    exact_fn: Callable[[Array], Array] | None = None,
    num_steps: Sequence[int] = (8, 16, 32, 64, 128, 256, 512),
    num_paths: int = 20_000,
    refinement: int | None = None,
    batch_size: int = 1000,
) -> Order:
    r"""Measure $\mathbb E\lVert X_{t_1}-Y_{t_1}\rVert$ against the step, on coupled paths.

    Every path draws its increments once, on the finest grid; the coarser grids add them up. So
    the errors of neighbouring steps go up and down together, and the standard error of a slope
    comes from the pairs,

    $$\text{s.e.} = \frac{1}{\log(h/h')\sqrt n}\;
      \mathrm{sd}\Big(\frac{e_i}{\bar e}-\frac{e_i'}{\bar e'}\Big).$$

    Args:
        key: path i has `fold_in(key, i)`.
        sde: the equation.
        y0: the start.
        t0: where to begin.
        t1: where to end.
        method: a name of `sde_steps.METHODS`, or a step of one's own.
        exact_fn: the end that belongs to increments of the finest grid, `(steps, ...)` to a
            state; `None`: the method itself on that grid.
        num_steps: counts, increasing, each a divisor of the last.
        num_paths: how many, 2 or more.
        refinement: steps of the finest grid for each of the last count: 1 where `exact_fn` is
            given, else 16.
        batch_size: paths that run at once.

    Returns:
        Slopes with their standard errors.

    Raises:
        ValueError: counts that do not divide the last, or what `solve_sde` refuses.

    Example:
        >>> import jax.numpy as jnp
        >>> growth = SDE(lambda t, x: 0.5 * x, lambda t, x: 0.8 * x, "diagonal")
        >>> end = lambda dw: jnp.exp(0.18 + 0.8 * dw.sum(0))
        >>> found = strong_order(
        ...     jax.random.key(0), growth, jnp.ones(1), 0.0, 1.0, method="milstein",
        ...     exact_fn=end, num_steps=(16, 32, 64), num_paths=400,
        ... )
        >>> abs(found.order - 1) < 4 * found.standard_error + 0.05
        True
    """
    counts, factors = _counts(num_steps)
    checks.at_least("num_paths", num_paths, 2)
    refinement = (1 if exact_fn else 16) if refinement is None else refinement
    finest = counts[-1] * checks.at_least("refinement", refinement, 1)
    y0 = jnp.asarray(y0)
    dt, like = (float(t1) - float(t0)) / finest, noise_like(sde, t0, y0)

    def path(item_key: Array) -> Array:
        dw = increments(item_key, finest, dt, like)
        end = lambda dw: solve_sde_path(sde, y0, t0, t1, dw, method=method).y  # noqa: E731
        truth = end(dw) if exact_fn is None else exact_fn(dw)
        ends = [end(coarsen(dw, factor * refinement)) for factor in factors]
        return jnp.stack([jnp.sqrt(jnp.sum((y - truth) ** 2)) for y in ends])

    run = jax.jit(lambda k: jax.lax.map(path, k, batch_size=min(batch_size, num_paths)))
    found = np.asarray(run(keys.item_keys(key, num_paths)))
    errors = found.mean(axis=0, dtype=np.float64)
    steps = abs(float(t1) - float(t0)) / np.asarray(counts, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = found / errors
    spread = np.std(share[:, :-1] - share[:, 1:], axis=0, ddof=1) / np.sqrt(num_paths)
    return _order(errors, steps, spread / np.log(steps[:-1] / steps[1:]), found.dtype, None)


def weak_order_moments(
    sde: SDE,
    y0: ArrayLike,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    exact: ArrayLike | Sequence[float],
    method: str | Step,
    num_steps: Sequence[int] = (16, 32, 64, 128, 256),
) -> tuple[Order, ...]:
    r"""Measure weak orders by moments that are computed, not sampled.

    If drift and diffusion are affine in the one component of the state, a step sends polynomials
    to polynomials: with $w$ normal,

    $$\mathbb E\big[step(y,w)^k\big]=\sum_{j\le k}c_{kj}\,y^j .$$

    The coefficients follow from $degree+1$ values of $y$ and Gauss-Hermite nodes in $w$, exactly
    up to rounding; the matrix $c$ carries all moments over one step. Use float64.

    Args:
        sde: the equation, affine in one component, of scalar, diagonal or additive noise.
        y0: the start, a number; or the moments of a random start, as in `exact`.
        t0: where to begin.
        t1: where to end.
        exact: the moments $\mathbb E X^k$ at `t1`, $k=1,\dots,degree$.
        method: a name of `sde_steps.METHODS`, or a step of one's own.
        num_steps: counts, increasing.

    Returns:
        The slopes of each moment.

    Raises:
        ValueError: a step does not send polynomials to polynomials of their degree.

    Example:
        >>> import jax.numpy as jnp
        >>> growth = SDE(lambda t, x: 0.5 * x, lambda t, x: 0.8 * x, "diagonal")
        >>> with jax.enable_x64(True):
        ...     first, second = weak_order_moments(
        ...         growth, 1.0, 0.0, 1.0, exact=jnp.exp(jnp.array([0.5, 1.64])),
        ...         method="euler_maruyama",
        ...     )
        >>> print(round(first.order, 3), round(second.order, 3))
        0.998 0.992
    """
    want = np.asarray(exact, np.float64)
    checks.shape("exact", want, (None,))
    dtype, degree = jnp.result_type(float), want.shape[0]
    step = find_method(method).step
    nodes, weights = np.polynomial.hermite_e.hermegauss(2 * degree + 2)
    nodes, weights = jnp.asarray(nodes, dtype), jnp.asarray(weights / weights.sum(), dtype)
    places = np.linspace(-1.0, 1.0, degree + 2)  # one more than a polynomial needs: a test
    table = np.vander(places[:-1], degree + 1, increasing=True)
    solve = jnp.asarray(np.linalg.inv(table), dtype)
    beyond = jnp.asarray(np.vander(places[-1:], degree + 1, increasing=True)[0], dtype)
    probes = jnp.asarray(places, dtype)
    like = noise_like(sde, t0, jnp.ones(1, dtype))

    def powers(y: Array) -> Array:
        return jnp.stack([y**k for k in range(degree + 1)], axis=-1)

    begin = jnp.asarray(y0, dtype)
    begin = powers(begin) if begin.ndim == 0 else jnp.concatenate([jnp.ones(1, dtype), begin])
    checks.shape("y0 as moments", begin[1:], (degree,))

    @jax.jit
    def moments(count: Array) -> tuple[Array, Array]:
        h = (jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype)) / count.astype(dtype)

        def carry_over(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            t = jnp.asarray(t0, dtype) + k.astype(dtype) * h

            def after(y: Array, w: Array) -> Array:
                dw = (w * jnp.sqrt(jnp.abs(h))).reshape(like.shape)
                return step(sde, t, y[None], h, dw)[0]

            ends = jax.vmap(lambda y: jax.vmap(lambda w: after(y, w))(nodes))(probes)
            values = jnp.einsum("w,ywk->yk", weights, powers(ends))
            c = solve @ values[:-1]
            gap = jnp.max(jnp.abs(beyond @ c - values[-1]) / (1 + jnp.abs(values[-1])))
            return state[0] @ c, jnp.maximum(state[1], gap)

        start = begin, jnp.zeros_like(h)
        return jax.lax.fori_loop(jnp.zeros_like(count), count, carry_over, start)

    counts = [checks.at_least("num_steps", count, 1) for count in num_steps]
    found = [moments(jnp.int32(count)) for count in counts]
    gap = max(float(gap) for _, gap in found)
    if not gap < 1e5 * float(jnp.finfo(dtype).eps):
        raise ValueError(
            "drift and diffusion must be affine: a step leaves the polynomials of degree "
            f"{degree} by {gap:.1e}"
        )
    ends = np.stack([np.asarray(values, np.float64)[1:] for values, _ in found])
    steps = abs(float(t1) - float(t0)) / np.asarray(counts, np.float64)
    floors = 1e3 * float(jnp.finfo(dtype).eps) * np.abs(want)
    return tuple(
        empirical_order(np.abs(ends[:, k] - want[k]), steps, floor=float(floors[k]))
        for k in range(degree)
    )


def weak_order_enumerated(
    sde: SDE,
    y0: Float[Array, "*d"],
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    functional: Callable[[Array], Array],
    exact: float,
    method: str | Step,
    num_steps: Sequence[int] = (2, 4, 8),
) -> Order:
    r"""Measure a weak order by all paths of three-point variables, each with its probability.

    $$\Big|\sum_{\text{paths}}weight\cdot functional(Y_{t_1})-exact\Big|$$

    Any equation and any functional; but $3^n$ paths of $n$ steps, so few and long steps.

    Args:
        sde: the equation, driven by one Brownian motion.
        y0: the start.
        t0: where to begin.
        t1: where to end.
        functional: of the end, a number.
        exact: its expectation.
        method: a name of `sde_steps.METHODS`, or a step of one's own.
        num_steps: counts, increasing, at most 12.

    Returns:
        The slopes.

    Raises:
        ValueError: more than one Brownian motion, or a count that is too large.

    Example:
        >>> import jax.numpy as jnp
        >>> decay = SDE(lambda t, x: -x, lambda t, x: jnp.ones_like(x), "scalar")
        >>> found = weak_order_enumerated(
        ...     decay, jnp.ones(1), 0.0, 1.0, functional=lambda y: y[0] ** 2,
        ...     exact=0.5 + 0.5 * float(np.exp(-2)), method="weak2_platen", num_steps=(1, 2, 4),
        ... )
        >>> print(round(found.order, 1))
        2.0
    """
    y0 = jnp.asarray(y0)
    like = noise_like(sde, t0, y0)
    if like.size != 1:
        raise ValueError(f"sde must be driven by one Brownian motion, got {like.size}")
    counts = [checks.at_least("num_steps", count, 1) for count in num_steps]
    span, errors = float(t1) - float(t0), []
    for count in counts:
        paths, weights = enumerate_weak(count, span / count)

        def value(dw: Array) -> Array:
            dw = dw.reshape(-1, *like.shape)
            return functional(solve_sde_path(sde, y0, t0, t1, dw, method=method).y)

        run = jax.jit(lambda p: jax.lax.map(value, p, batch_size=min(6561, p.shape[0])))
        errors.append(abs(float(jnp.sum(weights * run(paths))) - exact))
    floor = 1e3 * float(jnp.finfo(y0.dtype).eps) * abs(exact)
    return empirical_order(errors, abs(span) / np.asarray(counts, np.float64), floor=floor)


def _counts(num_steps: Sequence[int]) -> tuple[list[int], list[int]]:
    """The counts, and how many steps of the last one go into a step of each."""
    counts = [checks.at_least("num_steps", count, 1) for count in num_steps]
    for count in counts:
        if counts[-1] % count:
            raise ValueError(f"num_steps must divide the last of them, {counts[-1]}, got {count}")
    return counts, [counts[-1] // count for count in counts]


def _rms(leaves: Sequence[Any]) -> float:
    """Root mean square of all entries of several arrays."""
    flat = np.concatenate([np.abs(np.asarray(leaf)).astype(np.float64).ravel() for leaf in leaves])
    return float(np.sqrt(np.mean(flat**2)))


def _order(
    errors: np.ndarray,
    steps: np.ndarray,
    standard_errors: np.ndarray,
    dtype: Any,
    floor: float | None,
) -> Order:
    """Slopes of errors, with the standard errors of the slopes given."""
    floor = 1e3 * float(np.finfo(dtype).eps) if floor is None else floor
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.log(errors[:-1] / errors[1:]) / np.log(steps[:-1] / steps[1:])
    good = np.isfinite(errors) & (errors > 0) & (errors >= floor)
    slopes = np.where(np.isfinite(slopes), slopes, np.nan)
    usable = good[:-1] & good[1:]
    found = np.flatnonzero(usable)
    order, error = np.nan, np.nan
    if found.size:
        order, error = slopes[found[-1]], standard_errors[found[-1]]
    return Order(slopes, standard_errors, usable, float(order), float(error), errors, steps)
