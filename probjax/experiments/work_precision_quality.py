r"""Slopes of curves of error against work, and a verdict.

>>> found = slope([64, 128, 256, 512], [1e-3, 1.25e-4, 1.5625e-5, 1e-16], [1e-12] * 4)
>>> print(f"{found['slope']:.3f}", found["steps"], found["flag"])
-3.000 [128.0, 256.0] None
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probjax.diffeq import empirical_order
from probjax.experiments.work_precision_model import SOLVERS
from probjax.experiments.work_precision_reference import GROWTH

SMOOTH = ("pendulum", "kepler")
"""Problems whose slopes are judged: all others are uneven, and a curve may reach rounding before
its slope has settled."""

WITHIN = 0.2
"""How far a slope may be from minus the order, and from its neighbour to count as settled."""

TIMES_GROWTH = 20.0
"""An adaptive solver's error may be this many times its tolerance times the problem's growth."""


def slope(
    steps: Sequence[float | int], errors: Sequence[float], floors: Sequence[float]
) -> dict[str, Any]:
    """Measure the slope of the logarithm of the error against that of the number of steps.

    Args:
        steps: their numbers, increasing.
        errors: the error of each.
        floors: errors below these are not used.

    Returns:
        JSON-ready `slope` of the finest usable pair or None, its `steps`, and `flag`: None, or
        `rounding` where no pair is usable, or `pre-asymptotic` where the slope of the pair before
        is further away than `WITHIN` or the error is above a tenth.

    Example:
        >>> slope([1, 2, 4], [1.0, 0.5, 0.05], [0.0] * 3)["flag"]
        'pre-asymptotic'
        >>> slope([1, 2], [1e-15, 1e-16], [1e-13] * 2)
        {'slope': None, 'steps': None, 'flag': 'rounding'}
    """
    steps, errors = np.asarray(steps, np.float64), np.asarray(errors, np.float64)
    good = np.isfinite(errors) & (errors > np.asarray(floors))
    pairs = np.flatnonzero(good[:-1] & good[1:])
    if not len(pairs):
        flag = "pre-asymptotic" if not np.all(np.isfinite(errors)) else "rounding"
        return {"slope": None, "steps": None, "flag": flag}
    with np.errstate(invalid="ignore"):
        slopes = -empirical_order(errors, 1 / steps).slopes
    last = int(pairs[-1])
    before = slopes[last - 1] if last > 0 and good[last - 1] else math.nan
    settled = abs(slopes[last] - before) <= WITHIN and errors[last] < 0.1
    return {
        "slope": float(slopes[last]),
        "steps": steps[last : last + 2].tolist(),
        "flag": None if settled else "pre-asymptotic",
    }


def bound(problem: str) -> float:
    """Tell how many tolerances the error of an adaptive solver may be.

    Args:
        problem: its name.

    Returns:
        The factor.

    Example:
        >>> bound("kepler")
        9300.0
    """
    return TIMES_GROWTH * GROWTH[problem]


def verdict(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judge all curves.

    Args:
        cells: records with `problem`, `solver`, and `slope` (of fixed steps) or `factor`, the
            largest error in tolerances.

    Returns:
        JSON-ready `verdict`, `reasons`, and `checks`, one for each problem and kind, with the
        `value` furthest out, its `limit`, `solver` and `verdict`.

    Example:
        >>> one = {"problem": "pendulum", "solver": "rk4", "slope": -3.9, "flag": None}
        >>> verdict([one])["verdict"]
        'pass'
        >>> verdict([one | {"slope": -3.5}])["reasons"]
        ['pendulum/rk4: slope -3.50 is not within 0.2 of -4']
    """
    reasons: list[str] = []
    checks: dict[str, Any] = {}
    worst = "pass"
    ranks = ("pass", "review", "fail")

    def note(name: str, value: float | None, limit: float, solver: str, judged: str) -> None:
        nonlocal worst
        worst = max(worst, judged, key=ranks.index)
        value = math.inf if value is None or not math.isfinite(value) else value
        old = checks.get(name)
        if old is None or value > (math.inf if old["value"] is None else old["value"]):
            shown = value if math.isfinite(value) else None
            checks[name] = {"value": shown, "limit": limit, "solver": solver, "verdict": judged}

    for cell in cells:
        problem, solver = cell["problem"], cell["solver"]
        known = SOLVERS[solver]
        if not known.steps_are_fixed:
            factor = math.inf if cell["factor"] is None else cell["factor"]
            limit, judged = bound(problem), "pass"
            if not factor <= limit:
                judged = "fail" if known.family == "adaptive" else "review"
                reasons.append(
                    f"{problem}/{solver}: the error is {factor:.3g} times the tolerance, above "
                    f"{limit:.3g}"
                )
            note(f"{problem}: error in tolerances", factor, limit, solver, judged)
        elif problem in SMOOTH:
            if cell["slope"] is None:
                reasons.append(f"{problem}/{solver}: no slope could be measured ({cell['flag']})")
                note(f"{problem}: slope and order", None, WITHIN, solver, "review")
                continue
            away, judged = abs(cell["slope"] + known.order), "pass"
            if away > WITHIN:
                judged = "review" if cell["flag"] else "fail"
                why = f" ({cell['flag']})" if cell["flag"] else ""
                reasons.append(
                    f"{problem}/{solver}: slope {cell['slope']:.2f} is not within {WITHIN} of "
                    f"-{known.order}{why}"
                )
            note(f"{problem}: slope and order", away, WITHIN, solver, judged)
    return {"verdict": worst, "reasons": reasons, "checks": checks}
