r"""Truth by enumeration, in float64 NumPy: every path, one by one.

For tests and pages. Nothing here knows a recursion, a logarithmic semiring or JAX.

>>> import numpy as np
>>> from probjax.sequence import testing
>>> uniform = np.full((4, 3), -np.log(3))
>>> result = testing.enumerate_ctc(uniform, [1, 2])
>>> result.num_alignments, float(round(-result.log_z, 6))
(15, 1.686399)
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class CTCEnumeration(NamedTuple):
    """All alignments of one target."""

    log_z: float
    """Logarithm of the sum of the alignments' probabilities, $-\\infty$ if there is none."""
    num_alignments: int
    """How many paths spell the target."""
    occupancy: np.ndarray
    """`(T, V)`: probability, given the target, that frame `t` shows class `k`; 0 without paths."""
    entropy: float
    """Entropy of the path given the target, in nats."""
    best_score: float
    """Logarithm of the largest probability of one path."""
    paths: np.ndarray
    """`(n, T)`: the paths, in lexicographic order."""
    log_probs: np.ndarray
    """`(n,)`: their log probabilities."""


class RNNTEnumeration(NamedTuple):
    """All alignments of one target on the transducer's lattice."""

    log_z: float
    """Logarithm of the sum of the alignments' probabilities, $-\\infty$ if there is none."""
    blank: np.ndarray
    """`(T, U + 1)`: how often, given the target, the blank is taken there; 0 without alignment."""
    label: np.ndarray
    """`(T, U)`: with which probability label `u` comes in frame `t`."""
    best_score: float
    """Logarithm of the largest probability of one alignment."""
    label_frames: np.ndarray
    """`(n, U)`: in which frame each label comes, by alignment, in lexicographic order."""
    log_probs: np.ndarray
    """`(n,)`: the alignments' log probabilities."""


def spelled(path: Iterable[Any], *, blank_id: int = 0) -> tuple[int, ...]:
    """Return what a path spells: equal neighbours merged, then blanks dropped.

    Args:
        path: one class for each frame.
        blank_id: the class of the blank.

    Returns:
        The labels.

    Example:
        >>> spelled([1, 1, 0, 1, 2, 2, 0])
        (1, 1, 2)
    """
    return tuple(int(k) for k, _ in itertools.groupby(path) if k != blank_id)


def enumerate_ctc(log_probs: Any, labels: Iterable[Any], *, blank_id: int = 0) -> CTCEnumeration:
    r"""Sum over every path that spells `labels`.

    $$p(y)=\sum_{\pi:\,\mathcal B(\pi)=y}\ \prod_t p_t(\pi_t)$$

    Args:
        log_probs: `(T, V)`, not necessarily normalised. All $V^T$ paths are visited.
        labels: the target, `L` labels.
        blank_id: the class of the blank, in $[-V, V)$.

    Returns:
        `CTCEnumeration`.

    Example:
        >>> enumerate_ctc(np.log([[0.5, 0.5], [0.2, 0.8]]), [1]).num_alignments
        3
    """
    log_probs = np.asarray(log_probs, np.float64)
    num_frames, num_classes = log_probs.shape
    blank = blank_id % num_classes
    target = tuple(int(k) for k in labels)
    paths = [
        path
        for path in itertools.product(range(num_classes), repeat=num_frames)
        if spelled(path, blank_id=blank) == target
    ]
    paths = np.array(paths, int).reshape(len(paths), num_frames)
    scores = log_probs[np.arange(num_frames), paths].sum(axis=-1)
    occupancy = np.zeros_like(log_probs)
    best = scores.max(initial=-np.inf)
    if best == -np.inf:
        return CTCEnumeration(-np.inf, len(paths), occupancy, -np.inf, best, paths, scores)
    log_z = best + np.log(np.exp(scores - best).sum())
    posterior = np.exp(scores - log_z)
    for path, weight in zip(paths, posterior, strict=True):
        occupancy[np.arange(num_frames), path] += weight
    entropy = -(posterior[posterior > 0] * np.log(posterior[posterior > 0])).sum()
    return CTCEnumeration(log_z, len(paths), occupancy, entropy, best, paths, scores)


def enumerate_labellings(log_probs: Any, *, blank_id: int = 0) -> dict[tuple[int, ...], float]:
    r"""Return the log probability of everything that the frames can spell.

    Args:
        log_probs: `(T, V)`.
        blank_id: the class of the blank, in $[-V, V)$.

    Returns:
        $\ln p(y)$ by labelling, the likeliest first.

    Example:
        >>> two = np.log([[0.75, 0.25]] * 3)
        >>> {y: round(p, 6) for y, p in enumerate_labellings(two).items()}
        {(1,): -0.632523, (): -0.863046, (1, 1): -3.060271}
    """
    log_probs = np.asarray(log_probs, np.float64)
    num_frames, num_classes = log_probs.shape
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(num_classes), repeat=num_frames):
        labels = spelled(path, blank_id=blank_id % num_classes)
        score = log_probs[np.arange(num_frames), path].sum()
        sums[labels] = np.logaddexp(sums.get(labels, -np.inf), score)
    return dict(sorted(((y, float(p)) for y, p in sums.items()), key=lambda item: -item[1]))


def enumerate_rnnt(
    log_probs: Any, labels: Iterable[Any], *, blank_id: int = 0, kind: str = "regular"
) -> RNNTEnumeration:
    r"""Sum over every choice of frames for the labels of a transducer.

    $$p(y)=\sum_{f_1\le\dots\le f_U}\ \prod_u p_{f_u,\,u-1}(y_u)\
      \prod_t p_{t,\,\#\{u:f_u\le t\}}(\varnothing)$$

    Of kind `"modified"` and `"constrained"` no two labels share a frame; of kind `"modified"` a
    frame with a label has no blank.

    Args:
        log_probs: `(T, U + 1, V)`, not necessarily normalised.
        labels: the target, `U` labels.
        blank_id: the class of the blank, in $[-V, V)$.
        kind: `"regular"`, `"modified"` or `"constrained"`.

    Returns:
        `RNNTEnumeration`.

    Example:
        >>> uniform = np.full((3, 3, 4), -np.log(4))
        >>> result = enumerate_rnnt(uniform, [1, 2])
        >>> len(result.log_probs), round(float(-result.log_z), 6)
        (6, 5.139712)
    """
    log_probs = np.asarray(log_probs, np.float64)
    num_frames, target = log_probs.shape[0], [int(k) for k in labels]
    distinct, repeated = itertools.combinations, itertools.combinations_with_replacement
    choose = repeated if kind == "regular" else distinct
    choices = list(choose(range(num_frames), len(target)))
    paths = np.array(choices, int).reshape(len(choices), len(target))
    scores = np.zeros(len(paths))
    blanks = np.zeros((len(paths), *log_probs.shape[:2]))
    moves = np.zeros((len(paths), num_frames, len(target)))
    for path, frames in enumerate(paths):
        for lane, (frame, label) in enumerate(zip(frames, target, strict=True)):
            scores[path] += log_probs[frame, lane, label]
            moves[path, frame, lane] = 1
        for frame in range(num_frames):
            if kind != "modified" or frame not in frames:
                lane = np.sum(frames <= frame)
                scores[path] += log_probs[frame, lane, blank_id]
                blanks[path, frame, lane] = 1
    best = scores.max(initial=-np.inf)
    if best == -np.inf:
        nothing = np.zeros(log_probs.shape[:2]), np.zeros((num_frames, len(target)))
        return RNNTEnumeration(best, *nothing, best, paths, scores)
    log_z = best + np.log(np.exp(scores - best).sum())
    weights = np.exp(scores - log_z)
    blank, label = np.tensordot(weights, blanks, 1), np.tensordot(weights, moves, 1)
    return RNNTEnumeration(log_z, blank, label, best, paths, scores)
