r"""What the fits of hares and lynxes are worth: their optima, the period, and a verdict.

>>> import numpy as np
>>> from probjax.experiments import predator_prey_quality as quality
>>> values = np.array([166.34, 122.926, np.inf, 122.9261])
>>> [(one["value"], one["starts"]) for one in quality.optima(np.zeros((4, 8)), values)]
[(122.926, 2), (166.34, 1)]
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

ANCHOR_VALUE = 122.926
"""Negative log-likelihood at the optimum, found by another optimiser and another solver."""

ANCHOR_RATES = (0.5400, 0.02716, 0.7966, 0.02370)
"""The rates there."""

PUBLISHED = ((0.547, 0.063), (0.0277, 0.0042), (0.800, 0.089), (0.0241, 0.0035))
"""Means and standard deviations of the rates in the posterior of posteriordb."""

ONE_OPTIMUM = 0.02
"""Fits whose values differ by less than this from the lowest of a group are one optimum."""


def optima(
    ends: Float[np.ndarray, "n parameters"], values: Float[np.ndarray, " n"]
) -> list[dict[str, Any]]:
    """Gather fits that ended at one value, lowest first.

    Args:
        ends: logarithms of the parameters that each fit ended with.
        values: negative log-likelihoods; those that are not finite are left out.

    Returns:
        A record for each optimum: `value`, `starts`, and the `parameters` of its best fit.

    Example:
        >>> optima(np.log(np.array([[2.0], [3.0]])), np.array([1.0, 1.01]))
        [{'value': 1.0, 'starts': 2, 'parameters': [2.0]}]
    """
    found: list[dict[str, Any]] = []
    for i in np.argsort(values):
        if not np.isfinite(values[i]):
            continue
        if found and values[i] - found[-1]["value"] < ONE_OPTIMUM:
            found[-1]["starts"] += 1
        else:
            parameters = np.exp(np.asarray(ends[i], np.float64)).tolist()
            found.append({"value": float(values[i]), "starts": 1, "parameters": parameters})
    return found


def period(log_z: Float[np.ndarray, "rows 2"], rates: Sequence[float], spacing: float) -> float:
    """Mean time between two rises of the prey through its equilibrium.

    Args:
        log_z: a finely sampled solution, logarithms of prey and predators.
        rates: the four rates; the equilibrium of the prey is the third over the fourth.
        spacing: time between two rows.

    Returns:
        The period; NaN if the prey does not rise through its equilibrium twice.

    Example:
        >>> t = np.arange(0.0, 30.0, 0.01)
        >>> wave = np.stack([np.sin(2 * np.pi * t / 7.5 - 1.0), np.zeros_like(t)], axis=1)
        >>> print(f"{period(wave, (1.0, 1.0, 1.0, 1.0), 0.01):.3f}")
        7.500
    """
    height = log_z[:, 0] - math.log(rates[2] / rates[3])
    at = np.flatnonzero((height[:-1] < 0) & (height[1:] >= 0))
    if len(at) < 2:
        return math.nan
    times = spacing * (at + height[at] / (height[at] - height[at + 1]))
    return float(np.diff(times).mean())


def explained(
    log_counts: Float[np.ndarray, "rows 2"], log_z: Float[np.ndarray, "rows 2"]
) -> list[float]:
    r"""How much of the scatter of the logarithms a solution explains, $R^2$ of each population.

    Args:
        log_counts: logarithms of the counts.
        log_z: those of the solution at the same dates.

    Returns:
        Two numbers, at most 1.

    Example:
        >>> counts = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]])
        >>> explained(counts, np.array([[0.0, 2.0], [1.0, 2.0], [2.0, 2.0]]))
        [1.0, 0.0]
    """
    total = np.sum((log_counts - log_counts.mean(axis=0)) ** 2, axis=0)
    return (1 - np.sum((log_counts - log_z) ** 2, axis=0) / total).tolist()


def verdict(
    found: Sequence[Mapping[str, Any]],
    *,
    num_starts: int,
    gradient: float,
    solver_error: float,
    converged: float,
) -> dict[str, Any]:
    """Judge the fits: pass, review or fail, and why.

    Args:
        found: what `optima` gave.
        num_starts: how many fits there were.
        gradient: largest entry of the gradient at the best fit.
        solver_error: change of the best value when the solver's steps are halved.
        converged: share of the fits whose gradient is below 0.1.

    Returns:
        JSON-ready `verdict`, `reasons`, and `checks` with `value`, `limit` and `verdict` of each.

    Example:
        >>> best = {"value": 122.93, "starts": 3, "parameters": [*ANCHOR_RATES, 34.6, 5.8, 0.2]}
        >>> good = {"num_starts": 9, "gradient": 0.0, "solver_error": 0.0, "converged": 1.0}
        >>> verdict([best], **good)["verdict"]
        'pass'
        >>> verdict([best | {"value": 130.0}], **good)["reasons"]
        ['the best value 130.000 is more than 0.01 away from 122.926']
    """
    checks: dict[str, Any] = {}
    reasons: list[str] = []

    def add(name: str, value: float, limit: float, otherwise: str, reason: str) -> None:
        # A comparison with a number that is not finite is false, as it should be.
        judged = "pass" if value <= limit else otherwise
        checks[name] = {
            "value": value if math.isfinite(value) else None, "limit": limit, "verdict": judged,
        }  # fmt: skip
        if judged != "pass":
            reasons.append(reason)

    if not found:
        add("fits without a value", math.inf, 0.0, "fail", "no fit has a finite value")
        return {"verdict": "fail", "reasons": reasons, "checks": checks}
    best, rates = found[0], found[0]["parameters"][:4]
    add(
        "slope at the best", gradient, 0.1, "fail",
        f"the gradient at the best fit is {gradient:.3g}, above 0.1: it is no optimum",
    )  # fmt: skip
    add(
        "steps halved", solver_error, 1e-3, "fail",
        f"half the steps of the solver move the best value by {solver_error:.2g}, above 0.001",
    )  # fmt: skip
    add(
        "best value", abs(best["value"] - ANCHOR_VALUE), 0.01, "review",
        f"the best value {best['value']:.3f} is more than 0.01 away from {ANCHOR_VALUE}",
    )  # fmt: skip
    away = max(abs(a / b - 1) for a, b in zip(rates, ANCHOR_RATES, strict=True))
    add(
        "rates", away, 0.02, "review",
        f"a rate is {100 * away:.1f} % away from that of the known optimum",
    )  # fmt: skip
    far = max(abs(a - mean) / sd for a, (mean, sd) in zip(rates, PUBLISHED, strict=True))
    add(
        "published posterior", far, 2.0, "review",
        f"a rate is {far:.1f} posterior standard deviations away from the published mean",
    )  # fmt: skip
    alone = 1 / best["starts"]
    add(
        "found more than once", alone, 0.5, "review",
        f"one of {num_starts} starts alone ended at the best value",
    )  # fmt: skip
    add(
        "not converged", 1 - converged, 0.2, "review",
        f"{100 * (1 - converged):.0f} % of the fits have a gradient above 0.1",
    )  # fmt: skip
    judged = {check["verdict"] for check in checks.values()}
    worst = next(name for name in ("fail", "review", "pass") if name in judged)
    return {"verdict": worst, "reasons": reasons, "checks": checks}
