"""How well lines are read, where the digits are found, and whether the numbers can be believed.

>>> from probjax.experiments import digit_lines_quality
>>> digit_lines_quality.edit_pairs([1, 2, 2, 4], [1, 2, 3, 4, 5])
[(1, 1), (2, 2), (2, 3), (4, 4), (None, 5)]
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from probjax import metrics
from probjax.datasets import Images
from probjax.datasets.digit_lines import DigitLines

NUM_DIGITS = 10
"""Classes without the blank."""

LIMITS = {
    "label_error_rate": ((0.02, 0.07), (0.015, 0.10)),
    "span_centres_inside": ((0.95, 1.0), (0.90, 1.0)),
    "images_on_both_sides": ((0.0, 0.0), (0.0, 0.0)),
}
"""For each check the range in which a run passes, and that in which it is worth a review. A label
error rate below the range means that held-out images were trained on; one above it, a mistake."""


def edit_pairs(hyp: Sequence[int], ref: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """Pair the labels of two sequences at the cost of their edit distance.

    Of several such pairings a substitution is preferred to an insertion, and that to a deletion,
    from the end on.

    Args:
        hyp: what was read.
        ref: what is true.

    Returns:
        Pairs `(hyp, ref)` in order; `None` on the side where a label is missing.

    Example:
        >>> edit_pairs([7, 1], [1])
        [(7, None), (1, 1)]
    """
    cost = np.zeros((len(hyp) + 1, len(ref) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(hyp) + 1), np.arange(len(ref) + 1)
    for i, a in enumerate(hyp, 1):
        for j, b in enumerate(ref, 1):
            cost[i, j] = min(cost[i - 1, j - 1] + (a != b), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(hyp), len(ref)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (hyp[i - 1] != ref[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((hyp[i], ref[j]))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((hyp[i], None))
        else:
            j -= 1
            pairs.append((None, ref[j]))
    return pairs[::-1]


def confusion(
    tokens: Int[np.ndarray, "lines n"], lengths: Int[np.ndarray, "lines"], lines: DigitLines
) -> Int[np.ndarray, "11 11"]:
    """Count what each digit was read as.

    Args:
        tokens: digits read, padded.
        lengths: how many.
        lines: the truth.

    Returns:
        Counts: the row is the true digit, the column what was read; the last row holds insertions,
        the last column deletions.

    Example:
        >>> import numpy as np
        >>> line = np.array([[3, 3, 5]])
        >>> lines = DigitLines(None, line, np.array([3]), None, None)
        >>> counts = confusion(np.array([[3, 5, 5]]), np.array([2]), lines)
        >>> [int(counts[place]) for place in ((3, 3), (5, 5), (3, NUM_DIGITS))]
        [1, 1, 1]
    """
    counts = np.zeros((NUM_DIGITS + 1, NUM_DIGITS + 1), int)
    refs, sizes = np.asarray(lines.labels), np.asarray(lines.label_lengths)
    for hyp, n, ref, m in zip(tokens, lengths, refs, sizes, strict=True):
        for a, b in edit_pairs(hyp[:n].tolist(), ref[:m].tolist()):
            counts[NUM_DIGITS if b is None else b, NUM_DIGITS if a is None else a] += 1
    return counts


def reading_quality(
    tokens: Int[np.ndarray, "lines n"], lengths: Int[np.ndarray, "lines"], lines: DigitLines
) -> dict[str, Any]:
    """Measure what was read against the truth.

    Args:
        tokens: digits read, padded.
        lengths: how many.
        lines: the truth.

    Returns:
        JSON-ready: `label_error_rate`, its standard error and 95 % interval (normal, cut at 0),
        `line_accuracy` and its 95 % interval (Wilson), and `distances`, the edits of each line.
    """
    pair = jnp.asarray(tokens), lines.labels, jnp.asarray(lengths), lines.label_lengths
    rate = metrics.label_error_rate(*pair)
    value, error = float(rate.value), float(rate.standard_error)
    distances = np.asarray(metrics.edit_distance(*pair))
    right, count = int(np.sum(distances == 0)), len(distances)
    return {
        "label_error_rate": value,
        "label_error_rate_se": error,
        "label_error_rate_interval": [max(value - 1.96 * error, 0.0), value + 1.96 * error],
        "line_accuracy": right / count,
        "line_accuracy_interval": list(wilson(right, count)),
        "distances": distances.tolist(),
    }


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a probability, inside [0, 1] also near its ends.

    Args:
        successes: how often it happened.
        trials: how often it could have.
        z: standard errors to both sides.

    Returns:
        Both ends.

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]

    References:
        Wilson 1927.
    """
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return (centre - half) / scale, (centre + half) / scale


def difference(distances: Sequence[int], others: Sequence[int], num_labels: int) -> dict[str, Any]:
    """Compare two readings of the same lines: the difference of their label error rates.

    Args:
        distances: edits of each line.
        others: those of the reading that it is compared with.
        num_labels: true labels of all lines.

    Returns:
        JSON-ready `difference` and `difference_se`; the spread is that of the lines' differences.

    Example:
        >>> difference([0, 1, 0, 0], [0, 1, 2, 0], 20)["difference"]
        -0.1
    """
    change = np.asarray(distances) - np.asarray(others)
    error = math.sqrt(len(change) * np.var(change, ddof=1)) / num_labels
    return {"difference": float(change.sum() / num_labels), "difference_se": error}


def centres_inside(
    starts: Int[np.ndarray, "lines n"],
    ends: Int[np.ndarray, "lines n"],
    lines: DigitLines,
    columns_per_frame: int,
) -> dict[str, Any]:
    """Ask where aligned labels lie: how many have the middle of their frames in the digit's cell.

    Args:
        starts: first frame of each true label.
        ends: one past its last frame.
        lines: the truth, with the cells.
        columns_per_frame: columns of the image that a frame stands over.

    Returns:
        JSON-ready: the `share`, and the `median_offset` of these middles from those of the cells,
        columns to the right.
    """
    live = np.asarray(lines.labels) >= 0
    centre = ((starts + ends) * columns_per_frame / 2)[live]
    left, right = np.asarray(lines.starts)[live], np.asarray(lines.ends)[live]
    inside = (left <= centre) & (centre <= right)
    return {
        "share": float(inside.mean()),
        "median_offset": float(np.median(centre - (left + right) / 2)),
    }


def isolated_error(train: Images, test: Images) -> float:
    """Tell how hard the held-out digits are by themselves: a support vector machine's error.

    Args:
        train: digits to learn from.
        test: digits to name.

    Returns:
        Its error rate, every digit being cut out for it.
    """
    from sklearn.svm import SVC

    classify = SVC(C=10).fit(_flat(train), np.asarray(train.labels))
    return 1 - float(classify.score(_flat(test), np.asarray(test.labels)))


def images_on_both_sides(train: Images, test: Images) -> int:
    """Count held-out images that equal a training image in every pixel.

    Args:
        train: images trained on.
        test: images held out.

    Returns:
        The number.
    """
    known = {row.tobytes() for row in _flat(train)}
    return sum(row.tobytes() in known for row in _flat(test))


def verdict(found: Mapping[str, float]) -> dict[str, Any]:
    """Hold a run's numbers against `LIMITS`.

    Args:
        found: a number for each check, or for some of them.

    Returns:
        JSON-ready: `verdict` (`pass`, `review` or `fail`), `reasons`, and for each check `value`,
        the ranges `pass` and `review`, and its `verdict`.

    Example:
        >>> gate = verdict({"label_error_rate": 0.08})
        >>> gate["verdict"], gate["reasons"]
        ('review', ['label_error_rate is 0.08, outside 0.02 to 0.07'])
    """
    checks, reasons = {}, []
    for name, value in found.items():
        inside, near = LIMITS[name]
        within = [low <= value <= high for low, high in (inside, near)]
        one = "pass" if within[0] else "review" if within[1] else "fail"
        checks[name] = {"value": value, "pass": inside, "review": near, "verdict": one}
        if one != "pass":
            reasons.append(f"{name} is {value:.4g}, outside {inside[0]:.4g} to {inside[1]:.4g}")
    worst = max((one["verdict"] for one in checks.values()), key=("pass", "review", "fail").index)
    return {"verdict": worst, "reasons": reasons, "checks": checks}


def _flat(glyphs: Images) -> np.ndarray:
    return np.asarray(glyphs.images).reshape(len(glyphs.images), -1)
