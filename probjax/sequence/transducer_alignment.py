r"""Which frame each label of a known target belongs to: the likeliest path of a transducer.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import transducer_alignment
>>> logits = jnp.zeros((3, 3, 3)).at[1, 0, 1].set(4.0).at[2, 1, 2].set(4.0)
>>> found = jax.jit(transducer_alignment.rnnt_align)(logits, jnp.array([1, 2]))
>>> print(found.label_frames)
[1 2]
>>> print(found.arcs.blank.astype(int))  # the lane on which each frame ends
[[1 0 0]
 [0 1 0]
 [0 0 1]]
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from probjax.core import checks as core_checks
from probjax.core import rows
from probjax.sequence import emissions, transducer_core
from probjax.sequence.lattice import live_places
from probjax.sequence.transducer_arcs import (
    Arcs,
    lane_labels,
    masked_arcs,
    node_scores,
    over_sequences,
    walk,
)


class RNNTAlignment(NamedTuple):
    """The likeliest alignment of a target."""

    score: Float[Array, "*batch"]
    """Its log probability; $-\\infty$ if there is none, NaN where the input is bad."""
    arcs: Arcs
    """Whether it takes each arc, `(T, U + 1)` and `(T, U)`."""
    label_frames: Int[Array, "*batch labels"]
    """In which frame each label comes; -1 in padding and without alignment."""
    label_log_probs: Float[Array, "*batch labels"]
    """Log probability of each label there; 0 in padding and without alignment."""
    feasible: Bool[Array, "*batch"]
    """Whether there is an alignment."""


def rnnt_align(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    kind: str = "regular",
    blank_id: int = 0,
    checks: str = "poison",
) -> RNNTAlignment:
    r"""Find the likeliest alignment of each target.

    $$\max_{\text{alignments}}\ \sum_{\text{arcs}}\ln p_{tu}(k)$$

    Of equally likely ways into a node the one with the blank last is taken, so labels come as
    early as the maximum allows. The score is the sum over the path, so its derivative is the path.

    Args:
        logits: as for `rnnt_loss`.
        labels: as for `rnnt_loss`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        kind: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        `RNNTAlignment`.

    Raises:
        ValueError: as for `rnnt_loss`.

    Example:
        >>> logits = jnp.zeros((3, 2, 2)).at[1, 0, 1].set(2.0)  # the label fits into frame 1
        >>> import jax
        >>> print(jax.jit(rnnt_align)(logits, jnp.array([1])).label_frames)
        [1]
    """
    logits = jnp.asarray(logits)
    if logits.ndim not in (3, 4) or 0 in logits.shape[-2:]:
        words = "logits must have shape (T, U + 1, V) or (B, T, U + 1, V)"
        raise ValueError(f"{words}, got {logits.shape}")
    given = emissions.prepare(
        logits[..., 0, :],
        labels,
        logit_lengths,
        label_lengths,
        blank_id=blank_id,
        checks=checks,
    )
    core_checks.shape("logits", logits, (*logits.shape[:-2], given.labels.shape[-1] + 1, None))
    logits = rows.working("logits", logits, event_ndim=3)

    def one(logits: Array, labels: Array, *rest: Array) -> RNNTAlignment:
        frames, length, _ = rest
        num_frames, num_labels = logits.shape[0], labels.shape[0]
        scores = node_scores(logits, lane_labels(labels, num_frames), given.blank)
        arcs, sound = masked_arcs(scores, *rest)
        lanes = transducer_core.best_walk(*walk(arcs, frames, kind, 0.0), length)
        found = sound & (lanes[0] >= 0)
        order = jnp.arange(num_labels, dtype=jnp.int32)
        # A label is taken in the last step that begins at or before its lane.
        when = jnp.sum(lanes[:, None] <= order[None], axis=0, dtype=jnp.int32) - 1
        when = when - order if kind == "regular" else when
        when = jnp.where(found & (order < length), when, -1)
        frame = jnp.arange(num_frames, dtype=jnp.int32)[:, None]
        is_label = frame == when[None]
        out = jnp.sum((when[None] <= frame) & (when[None] >= 0), axis=1, dtype=jnp.int32)
        is_blank = out[:, None] == jnp.arange(num_labels + 1, dtype=jnp.int32)[None]
        is_blank &= found & live_places(frames, (), num_frames)[:, None]
        if kind == "modified":
            is_blank &= ~jnp.any(is_label, axis=1, keepdims=True)
        spoken = jnp.where(is_label, arcs.label, 0.0)
        score = jnp.sum(spoken) + jnp.sum(jnp.where(is_blank, arcs.blank, 0.0))
        score = jnp.where(found, score, -jnp.inf)
        return RNNTAlignment(
            jnp.where(sound, score, jnp.nan),
            Arcs(is_blank, is_label),
            when,
            jnp.sum(spoken, axis=0),
            found,
        )

    return over_sequences(one, given, logits)
