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
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from probjax.core import checks
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
