r"""What the fits of the toy laboratory are worth: means over seeds, and a verdict with reasons.

>>> from probjax.experiments import toy2d_quality
>>> one = toy2d_quality.over_seeds([0.1, 0.2, 0.3])
>>> print(f"{one['mean']:.3f} {one['se']:.3f}")
0.200 0.058
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

ANCHOR_CONFIG = {"num_steps": 3000, "batch_size": 256, "widths": (128, 128)}
"""What the anchors were measured with."""


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds and its standard error.

    Args:
        values: one number for each seed, two at least.

    Returns:
        `mean` and `se`; NaN if a number is not finite.

    Example:
        >>> over_seeds([1.0, 3.0])
        {'mean': 2.0, 'se': 1.0}
    """
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        return {"mean": math.nan, "se": math.nan}
    return {
        "mean": float(numbers.mean()),
        "se": float(numbers.std(ddof=1) / math.sqrt(len(numbers))),
    }


def verdict(
    cells: Sequence[Mapping[str, Any]], *, anchors: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """Judge all fits: pass, review or fail, and why.

    A cell fails if a number in it is not finite, or if its Fisher divergence from the density that
    it learns is not below that of the model that is zero everywhere. It is to be reviewed if its
    mean lies above its anchor by more than twice their joint standard error.

    Args:
        cells: records with `density`, `label`, `own` and `zero` (of `over_seeds`), `values`.
        anchors: mean and standard error by `density/label`; empty where the run's config is not
            that of the anchors.

    Returns:
        JSON-ready `verdict`, `reasons`, and `checks` with `value`, `limit` and `verdict` of each.

    Example:
        >>> cell = {"density": "rings", "label": "ism", "values": [0.5, 0.7],
        ...         "own": over_seeds([0.5, 0.7]), "zero": over_seeds([9.0, 9.2])}
        >>> verdict([cell], anchors={})["verdict"]
        'pass'
        >>> verdict([cell], anchors={"rings/ism": (0.3, 0.01)})["reasons"]
        ['rings/ism: 0.6 is above the anchor 0.3 by more than 2 standard errors (limit 0.501)']
    """
    checks: dict[str, Any] = {}
    reasons: list[str] = []

    def add(name: str, value: float, limit: float, otherwise: str, reason: str) -> None:
        # A comparison with a number that is not finite is false, as it should be.
        found = "pass" if value < limit else otherwise
        checks[name] = {
            "value": value if math.isfinite(value) else None, "limit": limit, "verdict": found,
        }  # fmt: skip
        if found != "pass":
            reasons.append(reason)

    for cell in cells:
        name, own = f"{cell['density']}/{cell['label']}", cell["own"]
        bad = sum(not math.isfinite(value) for value in cell["values"])
        why = f"{name}: {bad} seeds are not finite"
        add(f"{name}: seeds not finite", float(bad), 0.5, "fail", why)
        zero = cell["zero"]["mean"]
        add(
            f"{name}: below the zero model", own["mean"], zero, "fail",
            f"{name}: {own['mean']:.3g} is not below {zero:.3g}, which a score of zero has",
        )  # fmt: skip
        if name in anchors:
            mean, error = anchors[name]
            limit = mean + 2 * math.hypot(error, own["se"])
            add(
                f"{name}: anchor", own["mean"], limit, "review",
                f"{name}: {own['mean']:.3g} is above the anchor {mean:.3g} by more than 2 standard "
                f"errors (limit {limit:.3f})",
            )  # fmt: skip
    found = {check["verdict"] for check in checks.values()}
    worst = next(name for name in ("fail", "review", "pass") if name in found or name == "pass")
    return {"verdict": worst, "reasons": reasons, "checks": checks}


def energy_from_field(
    field: Float[np.ndarray, "rows columns 2"], spacing: float
) -> Float[np.ndarray, "rows columns"]:
    r"""Find the energy whose downhill slope is nearest to a score field on a grid.

    A score network need not be a gradient. The energy here minimises the squared differences
    $\sum(E_b-E_a+h\,\bar s_{ab})^2$ over all pairs of neighbours $a,b$, with $\bar s_{ab}$ the mean
    of the field's component along the pair. Its normal equations are Laplace's on a grid with free
    edges, which the cosine transform solves exactly.

    Args:
        field: the score, rows along $y$, columns along $x$, last axis $(s_x, s_y)$.
        spacing: $h$, between neighbours.

    Returns:
        The energy, with its lowest value zero.

    Example:
        >>> axis = np.linspace(-1.0, 1.0, 11)
        >>> x, y = np.meshgrid(axis, axis)
        >>> energy = energy_from_field(np.stack([-x, -4 * y], axis=-1), 0.2)
        >>> bool(np.allclose(energy, x**2 / 2 + 2 * y**2))
        True
    """
    from scipy import fft

    rise = np.zeros(field.shape[:2])  # what flows into a place: minus the divergence of the rises
    for axis, part in ((1, 0), (0, 1)):
        along = np.moveaxis(field[..., part], axis, 0)
        step = -spacing * 0.5 * (along[1:] + along[:-1])
        target = np.moveaxis(rise, axis, 0)  # a view
        target[1:] += step
        target[:-1] -= step
    waves = [2 - 2 * np.cos(np.pi * np.arange(size) / size) for size in rise.shape]
    scale = waves[0][:, None] + waves[1][None, :]
    scale[0, 0] = 1.0
    energy = fft.idctn(fft.dctn(rise) / scale)
    return energy - energy.min()
