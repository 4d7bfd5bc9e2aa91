r"""From the arguments of a CTC function to what its lattice reads: checks, scores, padding.

Whatever stands beyond the lengths is replaced before anything is computed with it, so it reaches
neither a value nor a gradient:

>>> import jax.numpy as jnp
>>> from probjax.sequence import emissions
>>> logits = jnp.array([[0.0, 0.0], [jnp.nan, jnp.inf]])
>>> given = emissions.prepare(logits, jnp.array([1, -7]), 1, 1)
>>> scores = emissions.lattice_scores(given, normalise=True)
>>> print(scores.blank)  # ln 1/2, then a frame that is blank for certain
[-0.693  0.   ]
>>> print(scores.label[:, 0])
[-0.693   -inf]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from probjax.core import checks as core_checks
from probjax.sequence.lattice import front_index, label_changes, live_places

CHECKS = ("poison", "checkify")
"""What happens to a bad label or length in traced code: NaN for that sequence, or an error too."""

FEW_CLASSES = 64
"""Up to so many classes label gradients are gathered by a matrix product, beyond by scattering."""


class Prepared(NamedTuple):
    """Checked arguments; labels and lengths are in range."""

    scores: Float[Array, "*batch frames classes"]
    """Logits or log probabilities, float32 or float64; padding as it came."""
    labels: Int[Array, "*batch labels"]
    """Targets, 0 beyond their lengths."""
    frames: Int[Array, "*batch"]
    """Live frames."""
    label_lengths: Int[Array, "*batch"]
    """Lengths of the targets."""
    valid: Bool[Array, "*batch"]
    """Whether labels and lengths were in range."""
    blank: int
    """Index of the blank, not negative."""


class LatticeScores(NamedTuple):
    """What the lattice of one sequence reads."""

    blank: Float[Array, "*batch frames"]
    """Log probability of the blank; 0 in padding."""
    label: Float[Array, "*batch frames labels"]
    """Log probabilities of the target's labels; $-\\infty$ in padding."""
    can_skip: Bool[Array, "*batch labels"]
    """Whether a label may follow the one before with no blank between."""
    sound: Bool[Array, "*batch"]
    """Whether the arguments were valid and every live frame is a distribution."""


def prepare(
    scores: Num[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    checks: str = "poison",
    name: str = "logits",
) -> Prepared:
    """Check the arguments that all CTC functions share, and bring them into range.

    Args:
        scores: `(T, V)` or `(B, T, V)`.
        labels: `(L,)` or `(B, L)`, integers.
        logit_lengths: live frames, `()` or `(B,)`; all when `None`.
        label_lengths: lengths of the targets; all of `L` when `None`.
        blank_id: the blank's class, in $[-V,V)$.
        checks: one of `CHECKS`.
        name: what `scores` is called in messages.

    Returns:
        `Prepared`.

    Raises:
        ValueError: ranks, shapes or dtypes do not fit, `blank_id` or `checks` is unknown; where
            values are concrete also a live label outside $[0,V)$ or equal to the blank, or a
            length outside the array.

    Example:
        >>> prepare(jnp.zeros((3, 4)), jnp.array([1, 4]))
        Traceback (most recent call last):
        ValueError: labels[1]=4 must be in [0, 4)
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    core_checks.integers("labels", labels)
    if scores.ndim not in (2, 3) or scores.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (T, V) or (B, T, V), V > 0, got {scores.shape}")
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating, got {scores.dtype}")
    core_checks.one_of("checks", checks, CHECKS)
    *batch, num_frames, num_classes = scores.shape
    core_checks.shape("labels", labels, (*batch, None))
    blank, num_labels = front_index(blank_id, num_classes), labels.shape[-1]

    frames, frames_fit = _lengths("logit_lengths", logit_lengths, batch, num_frames)
    lengths, lengths_fit = _lengths("label_lengths", label_lengths, batch, num_labels)
    live = live_places(lengths, tuple(batch), num_labels)
    outside = live & ((labels < 0) | (labels >= num_classes))
    is_blank = live & (labels == blank)
    core_checks.refuse("labels", labels, outside, f"must be in [0, {num_classes})")
    core_checks.refuse("labels", labels, is_blank, f"is the blank (blank_id={blank_id})")
    labels_fit = ~jnp.any(outside | is_blank, axis=-1)
    if checks == "checkify":
        for what, given, fit in (
            ("logit_lengths", frames, frames_fit),
            ("label_lengths", lengths, lengths_fit),
            ("labels", labels, labels_fit),
        ):
            message = f"{what} out of range, or a label is the blank: {{given}}"
            checkify.debug_check(jnp.all(fit), message, given=given)
    narrow = jnp.finfo(scores.dtype).bits < 32
    return Prepared(
        scores.astype(jnp.float32) if narrow else scores,
        jnp.where(live & ~outside, labels, 0).astype(jnp.int32),
        frames,
        lengths,
        frames_fit & lengths_fit & labels_fit,
        blank,
    )


def over_sequences(function: Callable[..., Any], given: Prepared) -> Any:
    """Call `function(scores, labels, frames, label_length, valid)` for each sequence.

    Args:
        function: of one sequence.
        given: arguments of one sequence or of a batch.

    Returns:
        What the function returns, with a batch axis if there is one.

    Example:
        >>> given = prepare(jnp.zeros((2, 3, 4)), jnp.ones((2, 1), int))
        >>> print(over_sequences(lambda scores, *rest: scores.sum(), given))
        [0. 0.]
    """
    mapped = function if given.scores.ndim == 2 else jax.vmap(function)
    return mapped(*given[:5])


def lattice_scores(given: Prepared, *, normalise: bool) -> LatticeScores:
    r"""Read off the log probabilities of each target's labels and of the blank.

    $$\ln p_t(k)=(z_t(k)-m_t)-\ln\sum_j e^{z_t(j)-m_t},\qquad m_t=\max_jz_t(j)$$

    Args:
        given: the arguments.
        normalise: whether `scores` are logits; log probabilities are taken as they are.

    Returns:
        `LatticeScores`, of one sequence or of a batch.

    Example:
        >>> given = prepare(jnp.zeros((1, 4)), jnp.array([2]))
        >>> print(jnp.exp(lattice_scores(given, normalise=True).label))
        [[0.25]]
    """

    def one(scores: Array, labels: Array, *rest: Array) -> LatticeScores:
        return sequence_scores(scores, labels, *rest, blank=given.blank, normalise=normalise)

    return over_sequences(one, given)


def sequence_scores(
    scores: Float[Array, "frames classes"],
    labels: Int[Array, "labels"],
    frames: Int[Array, ""],
    label_length: Int[Array, ""],
    valid: Bool[Array, ""],
    *,
    blank: int,
    normalise: bool,
    closed_form: bool = True,
) -> LatticeScores:
    """`lattice_scores` of one sequence, from the parts of `Prepared`.

    Args:
        scores: `(T, V)`.
        labels: `(L,)`.
        frames: live frames.
        label_length: length of the target.
        valid: whether the arguments were in range.
        blank: index of the blank.
        normalise: whether `scores` are logits.
        closed_form: whether derivatives are written out; without, they are automatic.

    Returns:
        `LatticeScores` without a batch axis.

    Example:
        >>> one = jnp.array(1)
        >>> scores = sequence_scores(jnp.zeros((1, 2)), jnp.array([1]), one, one, jnp.array(True),
        ...                          blank=0, normalise=True)
        >>> print(scores.blank)
        [-0.693]
    """
    columns = jnp.concatenate([labels, jnp.full_like(labels, blank, shape=(1,))])
    live = live_places(frames, (), scores.shape[0])
    if normalise and closed_form:
        top, log_sum = _normaliser(scores)
        picked = (_pick(scores, columns) - top[:, None]) - log_sum[:, None]
    elif normalise:
        scores = jnp.where(live[:, None], scores, 0.0)
        top = jnp.max(scores, axis=-1)
        picked = _take(jax.nn.log_softmax(scores, axis=-1), columns)
    else:
        top = jnp.max(scores, axis=-1)
        picked = _pick(scores, columns)
    # The maximum is NaN beside a NaN, +inf beside a +inf, -inf where nothing is possible.
    sound = valid & jnp.all(jnp.isfinite(top) | ~live)
    live = (live & sound)[:, None]
    label_live = live & live_places(label_length, (), labels.shape[0])[None]
    return LatticeScores(
        jnp.where(live[:, 0], picked[:, -1], 0.0),
        jnp.where(label_live, picked[:, :-1], -jnp.inf),
        label_changes(labels),
        sound,
    )


def _take(scores: Array, columns: Array) -> Array:
    return scores.at[:, columns].get(mode="promise_in_bounds")


@jax.custom_jvp
def _pick(scores: Array, columns: Array) -> Array:
    """The columns of the scores."""
    return _take(scores, columns)


@_pick.defjvp
def _pick_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    scores, columns = primals
    moved = tangents[0]
    if scores.shape[-1] > FEW_CLASSES:
        return _pick(scores, columns), _take(moved, columns)
    # Turned round this is a matrix product, where `_take` would be a scatter. Full precision:
    # tensor cores would round the posteriors to three digits.
    chosen = jax.nn.one_hot(columns, scores.shape[-1], dtype=scores.dtype)
    moved = jnp.einsum("tv,kv->tk", moved, chosen, precision=jax.lax.Precision.HIGHEST)
    return _pick(scores, columns), moved


@jax.custom_jvp
def _normaliser(scores: Array) -> tuple[Array, Array]:
    """The largest score of each frame, and the logarithm of the sum beside it."""
    top = jnp.max(scores, axis=-1)
    return top, jnp.log(jnp.sum(jnp.exp(scores - top[:, None]), axis=-1))


@_normaliser.defjvp
def _normaliser_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    (scores,), (moved,) = primals, tangents
    top, log_sum = _normaliser(scores)

    def mean(scores: Array, top: Array, log_sum: Array, moved: Array) -> Array:
        good = (jnp.isfinite(top) & jnp.isfinite(log_sum))[:, None]
        softmax = jnp.exp((scores - top[:, None]) - log_sum[:, None])
        return jnp.sum(jnp.where(good, softmax, 0.0) * moved, axis=-1)

    # Only their sum means anything, so all of its derivative may stand with the second. The
    # softmax is written again from the scores when the gradient asks for it, never stored.
    tangent = jax.checkpoint(mean, prevent_cse=False)(scores, top, log_sum, moved)
    return (top, log_sum), (jnp.zeros_like(top), tangent)


def _lengths(
    name: str, lengths: ArrayLike | None, batch: list[int], most: int
) -> tuple[Array, Array]:
    """Lengths in range, and whether they were."""
    lengths = core_checks.lengths(name, lengths, batch, most)
    return jnp.clip(lengths, 0, most), (lengths >= 0) & (lengths <= most)
