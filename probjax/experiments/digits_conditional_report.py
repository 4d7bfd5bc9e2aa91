"""The sections of the digits report on guidance, missing halves and likelihood."""

from typing import Any

import numpy as np

from probjax.experiments import report
from probjax.experiments.digits_conditional import known_half

_MEMORY = ("nearest, median", "nearer than 1 %", "copies")


def guided_sheet(guided: np.ndarray, num_weights: int, columns: int) -> list[np.ndarray]:
    """Lay out guided samples: for each weight the first of each class, a class in a row.

    Args:
        guided: `(num_weights * 10 * n, 8, 8, 1)`, weight by weight and class by class.
        num_weights: how many weights.
        columns: samples of a class to show, `n` at most.

    Returns:
        For each weight `(10 * columns, 8, 8)`.

    Example:
        >>> [one.shape for one in guided_sheet(np.zeros((2 * 10 * 5, 8, 8, 1)), 2, 3)]
        [(30, 8, 8), (30, 8, 8)]
    """
    each = guided.reshape(num_weights, 10, -1, 8, 8)[:, :, :columns]
    return [one.reshape(-1, 8, 8) for one in each]


def completed_sheet(
    completed: np.ndarray, originals: np.ndarray, num_digits: int, num_shown: int
) -> np.ndarray:
    """Lay out completions: what was given, the completions, and the original.

    Args:
        completed: `(num_digits * n, 8, 8, 1)`, digit by digit.
        originals: the held-out digits `(m, 8, 8, 1)`, of which the first were completed.
        num_digits: how many digits were completed.
        num_shown: how many of them to show.

    Returns:
        `(num_shown * (n + 2), 8, 8)`, a digit in a row; what is not given is grey.

    Example:
        >>> completed_sheet(np.zeros((8, 8, 8, 1)), np.ones((5, 8, 8, 1)), 2, 2).shape
        (12, 8, 8)
    """
    tries = completed.reshape(num_digits, -1, 8, 8)[:num_shown]
    whole = originals.reshape(-1, 1, 8, 8)[: len(tries)]
    given = np.where(np.asarray(known_half()).reshape(8, 8), whole, 0.25)
    return np.concatenate([given, tries, whole], axis=1).reshape(-1, 8, 8)


def guidance(found: dict[str, Any], sheets: dict[str, np.ndarray]) -> list[str]:
    """Tell what guidance does.

    Args:
        found: what `metrics.json` holds.
        sheets: with `guided`, if there is any.

    Returns:
        A section of HTML, or none.
    """
    if "guidance" not in found:
        return []
    rows = found["guidance"]["rows"]
    weights = [row["weight"] for row in rows if "weight" in row]
    columns = min(10, len(sheets["guided"]) // (10 * len(weights)))
    grids = "".join(
        report.pixels(sheet, f"weight {weight:g}", columns=columns)
        for weight, sheet in zip(
            weights, guided_sheet(sheets["guided"], len(weights), columns), strict=True
        )
    )
    header = (
        "", "of the class asked for", "nearest in class", "spread in class",
        "two-sample accuracy", *_MEMORY,
    )  # fmt: skip
    return [
        report.section(
            "A wanted class",
            report.text(
                "Classifier-free guidance, a class in a row, the same starts at each weight. A "
                "higher weight makes samples more typical of their class and more alike: what is "
                "gained in the first column is lost in the next two (mean distance to the nearest "
                "other sample of the class; root mean square distance to the class mean).",
                soft=True,
            ),
            f"<div class=grids>{grids}</div>",
            report.table(
                header,
                [
                    [
                        row["sampler"],
                        _percent(row, "class_accuracy"),
                        f"{row['nearest_in_class']:.3f}",
                        f"{row['spread_in_class']:.3f}",
                        _number(row, "two_sample_accuracy"),
                        *_memory(row),
                    ]
                    for row in rows
                ],
            ),
        )
    ]


def inpainting(
    found: dict[str, Any], sheets: dict[str, np.ndarray], images: dict[str, np.ndarray]
) -> list[str]:
    """Tell how halves were completed.

    Args:
        found: what `metrics.json` holds.
        sheets: with `completed`.
        images: with `held-out digits`.

    Returns:
        A section of HTML, or none.
    """
    if "inpainting" not in found:
        return []
    some = found["inpainting"]
    each = some["completions_of_each"]
    sheet = completed_sheet(
        sheets["completed"], images["held-out digits"], len(sheets["completed"]) // each, 20
    )
    kept = "Every bit" if some["known_half_exact"] else "NOT every bit"
    return [
        report.section(
            "A missing half",
            report.text(
                f"The left half of held-out digits is given, {each} completions of each, "
                f"{some['num_evaluations']} evaluations. {kept} of the given half is kept. A "
                "classifier that sees the left half only is right "
                f"{some['half_accuracy']:.1%} of the time; a network that takes a class is told "
                "its guess.",
                soft=True,
            ),
            report.pixels(sheet, "Given, completions, original", columns=2 * (each + 2)),
            report.table(
                ("", "classified as the original", "spread of the unknown half", *_MEMORY),
                [
                    [
                        row["sampler"],
                        _percent(row, "class_accuracy"),
                        f"{row['spread']:.3f}",
                        *_memory(row),
                    ]
                    for row in some["rows"]
                ],
            ),
        )
    ]


def likelihood(found: dict[str, Any]) -> list[str]:
    """Tell what a digit costs in bits.

    Args:
        found: what `metrics.json` holds.

    Returns:
        A section of HTML, or none.
    """
    if "likelihood" not in found:
        return []
    some = found["likelihood"]
    header = ("", "digits", "number", "bits/dim", "nats/digit", "density, nats/dim")
    return [
        report.section(
            "Bits for a digit",
            report.table(
                header,
                [
                    [
                        row["sampler"],
                        row["digits"],
                        str(row["num_digits"]),
                        _number(row, "bits_per_dim"),
                        f"{row['nats']:.1f} ± {row['nats_se']:.1f}",
                        f"{row['density_nats_per_dim']:.3f}",
                    ]
                    for row in rows
                ],
            ),
            report.text(
                "Negative log-likelihood by the probability flow from noise scale "
                f"{some['noise_scale_min']:g} up, {some['num_evaluations']} evaluations, no class "
                "told. Grey levels are dequantised by uniform noise of one level's width, so bits "
                "and nats bound the code length of the 17 levels (uniform: 4.087 bits) from "
                "above; the density is that of the scaled pixels. ± over digits. Hutchinson minus "
                f"exact, same digits: {some['hutchinson_minus_exact']:+.4f} ± "
                f"{some['hutchinson_minus_exact_se']:.4f} bits/dim. Training digits that were "
                "much cheaper than held-out ones would be remembered ones."
            ),
        )
        for rows in [some["rows"]]
    ]


def _percent(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1%} ± {row[f'{name}_se']:.1%}"


def _number(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ± {row[f'{name}_se']:.3f}"


def _memory(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['nearest_median']:.3f}",
        f"{row['nearest_below_1_percent']:.1%}",
        str(row["copies"]),
    ]
