r"""The alignments of CTC: what a path spells, and which targets fit into how many frames.

A path names one class for each frame. It spells a target by merging equal neighbours first and
dropping blanks second, so a blank between two equal labels keeps both:

>>> import jax.numpy as jnp
>>> from probjax.sequence import lattice
>>> tokens, length = lattice.collapse(jnp.array([1, 1, 0, 1, 2, 2, 0]))
>>> print(tokens[:length])
[1 1 2]
>>> print(lattice.required_frames(tokens, length))
4
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped


class Collapsed(NamedTuple):
    """What a path spells."""

    tokens: Int[Array, "*batch frames"]
    """The labels, then `pad_id`."""
    length: Int[Array, "*batch"]
    """How many labels there are."""


class ExtendedLabels(NamedTuple):
    """The states of the lattice of one target: blank, label, blank, ..., label, blank."""

    states: Int[Array, "*batch states"]
    """The class that each of the $2L+1$ states emits; the blank past the target's end."""
    can_skip: Bool[Array, "*batch states"]
    """Whether a path may come from two states before, over the blank between."""


def collapse(
    path: Int[Array, "*batch frames"],
    length: Int[ArrayLike, "*batch"] | None = None,
    *,
    blank_id: int = 0,
    pad_id: int = -1,
) -> Collapsed:
    r"""Merge equal neighbours of a path, then drop its blanks.

    $$\mathcal B(\pi)=(\pi_t:\ \pi_t\ne\pi_{t-1},\ \pi_t\ne\varnothing)$$

    The order matters: dropping blanks first would merge the labels that a blank keeps apart.

    Args:
        path: classes `(*B, T)`; what lies beyond `length` is not read.
        length: live frames `(*B,)`; all when `None`.
        blank_id: the blank as it stands in `path`.
        pad_id: what fills the places behind the labels.

    Returns:
        `Collapsed`: tokens `(*B, T)`, of static shape, and their lengths `(*B,)`.

    Example:
        >>> collapse(jnp.array([2, 0, 2, 2])).tokens
        Array([ 2,  2, -1, -1], dtype=int32)

    References:
        Graves and others 2006.
    """
    batch, num_frames = path.shape[:-1], path.shape[-1]
    live = live_places(length, batch, num_frames)
    before = jnp.concatenate([jnp.full_like(path[..., :1], blank_id), path[..., :-1]], axis=-1)
    kept = live & (path != blank_id) & (path != before)
    place = jnp.where(kept, jnp.cumsum(kept, axis=-1) - 1, num_frames)

    def put(place: Array, path: Array) -> Array:
        return jnp.full_like(path, pad_id).at[place].set(path, mode="drop")

    for _ in batch:
        put = jax.vmap(put)
    return Collapsed(put(place, path), jnp.sum(kept, axis=-1, dtype=jnp.int32))


def extend_labels(
    labels: Int[Array, "*batch labels"],
    label_lengths: Int[ArrayLike, "*batch"] | None = None,
    *,
    blank_id: int = 0,
) -> ExtendedLabels:
    r"""Interleave a target with blanks, and say where a blank may be left out.

    $$e=(\varnothing,y_1,\varnothing,y_2,\dots,y_L,\varnothing),\qquad
      skip(s)=[e_s\ne\varnothing]\,[e_s\ne e_{s-2}]$$

    Args:
        labels: targets `(*B, L)`.
        label_lengths: their lengths `(*B,)`; all of `L` when `None`.
        blank_id: the class of the blank.

    Returns:
        `ExtendedLabels`, both `(*B, 2L + 1)`.

    Example:
        >>> lattice = extend_labels(jnp.array([3, 3, 5]))
        >>> print(lattice.states)
        [0 3 0 3 0 5 0]
        >>> print(lattice.can_skip.astype(int))
        [0 0 0 0 0 1 0]
    """
    batch, num_labels = labels.shape[:-1], labels.shape[-1]
    live = live_places(label_lengths, batch, num_labels)
    shown = jnp.where(live, labels, blank_id)
    skip = live & label_changes(labels)

    def interleave(blanks: Array, between: Array) -> Array:
        pairs = jnp.stack([blanks[..., :-1], between], axis=-1)
        return jnp.concatenate([pairs.reshape(*batch, 2 * num_labels), blanks[..., -1:]], axis=-1)

    blanks = jnp.full((*batch, num_labels + 1), blank_id, labels.dtype)
    return ExtendedLabels(interleave(blanks, shown), interleave(jnp.zeros_like(blanks, bool), skip))


def label_changes(labels: Int[Array, "*batch labels"]) -> Bool[Array, "*batch labels"]:
    """Tell where a label differs from the one before it; false for the first.

    Args:
        labels: targets `(*B, L)`.

    Returns:
        Flags `(*B, L)`: whether no blank is needed before that label.

    Example:
        >>> print(label_changes(jnp.array([3, 3, 5])))
        [False False  True]
    """
    same = jnp.zeros_like(labels[..., :1], bool)
    return jnp.concatenate([same, labels[..., 1:] != labels[..., :-1]], axis=-1)


def required_frames(
    labels: Int[Array, "*batch labels"], label_lengths: Int[ArrayLike, "*batch"] | None = None
) -> Int[Array, "*batch"]:
    r"""Return how many frames a target needs at least.

    $$L+r,\qquad r=\#\{i:\ y_i=y_{i-1}\}$$

    One frame for each label and one for the blank that each repeat needs.

    Args:
        labels: targets `(*B, L)`; what lies beyond the length is not read.
        label_lengths: their lengths `(*B,)`; all of `L` when `None`.

    Returns:
        Frames `(*B,)`.

    Example:
        >>> print(required_frames(jnp.array([[1, 1, 2], [1, 1, 1]]), jnp.array([3, 2])))
        [4 3]
    """
    batch, num_labels = labels.shape[:-1], labels.shape[-1]
    live = live_places(label_lengths, batch, num_labels)
    repeats = live[..., 1:] & (labels[..., 1:] == labels[..., :-1])
    return jnp.sum(live, axis=-1, dtype=jnp.int32) + jnp.sum(repeats, axis=-1, dtype=jnp.int32)


def ctc_feasible(
    num_frames: Int[ArrayLike, "*batch"],
    labels: Int[Array, "*batch labels"],
    label_lengths: Int[ArrayLike, "*batch"] | None = None,
) -> Bool[Array, "*batch"]:
    r"""Tell whether a target has any alignment at all, whatever the probabilities.

    $$T\ge L+r$$

    Args:
        num_frames: live frames `(*B,)`, or one number for all.
        labels: targets `(*B, L)`.
        label_lengths: their lengths `(*B,)`; all of `L` when `None`.

    Returns:
        Flags `(*B,)`.

    Example:
        >>> print(ctc_feasible(3, jnp.array([[1, 2, 3], [1, 1, 1]])))
        [ True False]
    """
    return jnp.asarray(num_frames) >= required_frames(labels, label_lengths)


def log_num_alignments(
    num_frames: Int[ArrayLike, "*batch"],
    labels: Int[Array, "*batch labels"],
    label_lengths: Int[ArrayLike, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Logarithm of how many paths spell a target.

    $$\ln\binom{T+L-r}{2L}$$

    Each path cuts the $T$ frames into runs: $L$ runs of labels, and a run of blanks, empty or not,
    before, between and after them, never empty between equal labels.

    Args:
        num_frames: live frames `(*B,)`, or one number for all.
        labels: targets `(*B, L)`.
        label_lengths: their lengths `(*B,)`; all of `L` when `None`.

    Returns:
        Logarithms `(*B,)` in the default floating dtype; $-\infty$ where there is no path.

    Example:
        >>> print(jnp.exp(log_num_alignments(4, jnp.array([1, 2]))).round(3))
        15.0
    """
    required = required_frames(labels, label_lengths)
    length = jnp.sum(live_places(label_lengths, labels.shape[:-1], labels.shape[-1]), axis=-1)
    repeats = required - length.astype(required.dtype)
    frames = jnp.broadcast_to(jnp.asarray(num_frames), required.shape)
    possible = frames >= required
    kind = jnp.result_type(float)
    n = jnp.where(possible, frames.astype(required.dtype) + required - 2 * repeats, 0).astype(kind)
    k = jnp.where(possible, 2 * length.astype(required.dtype), 0).astype(kind)
    logs = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return jnp.where(possible, logs, -jnp.inf)


def lengths_from_mask(mask: Shaped[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """Turn masks that are true on a prefix into lengths.

    Args:
        mask: `(*B, N)`, true (or nonzero) on the live entries.

    Returns:
        Lengths `(*B,)`. In traced code a mask that is no prefix gets length -1, which every
        function here refuses as out of range, and a `checkify` error where that is asked for.

    Raises:
        ValueError: a mask has a gap (concrete values only).

    Example:
        >>> print(lengths_from_mask(jnp.array([[True, True, False], [False, False, False]])))
        [2 0]
        >>> lengths_from_mask(jnp.array([True, False, True]))
        Traceback (most recent call last):
        ValueError: mask must be true on a prefix only, got [ True False  True]
    """
    return _prefix_lengths("mask", mask, mask.astype(bool), "true on a prefix only")


def lengths_from_paddings(paddings: Shaped[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """Turn paddings that are nonzero on a suffix, as optax has them, into lengths.

    Args:
        paddings: `(*B, N)`, 0 on the live entries and 1 on padding.

    Returns:
        Lengths `(*B,)`; -1 in traced code where the padding is no suffix.

    Raises:
        ValueError: a live entry stands behind padding (concrete values only).

    Example:
        >>> print(lengths_from_paddings(jnp.array([[0.0, 0.0, 1.0]])))
        [2]
    """
    return _prefix_lengths("paddings", paddings, ~paddings.astype(bool), "nonzero on a suffix only")


def _prefix_lengths(name: str, given: Array, live: Array, words: str) -> Array:
    """Lengths of the live prefixes; -1, or an error, where the live entries are none."""
    prefix = jnp.all(live[..., :-1] | ~live[..., 1:], axis=-1)
    if isinstance(prefix, jax.core.Tracer):
        checkify.debug_check(jnp.all(prefix), f"{name} must be {words}, got {{given}}", given=given)
    else:
        bad = np.argwhere(~np.asarray(prefix))
        if len(bad):
            index = tuple(int(i) for i in bad[0])
            place = f"[{', '.join(map(str, index))}]" if index else ""
            raise ValueError(f"{name}{place} must be {words}, got {np.asarray(given)[index]}")
    return jnp.where(prefix, jnp.sum(live, axis=-1, dtype=jnp.int32), -1)


def live_places(
    lengths: Int[ArrayLike, "..."] | None, batch: tuple[int, ...], count: int
) -> Bool[Array, "..."]:
    """Tell which of `count` places lie within the lengths.

    Args:
        lengths: of shape `batch`, or one number for all; `None` for no padding.
        batch: leading axes of the answer.
        count: how many places there are.

    Returns:
        Flags `(*batch, count)`.

    Example:
        >>> print(live_places(jnp.array([1, 3]), (2,), 3).astype(int))
        [[1 0 0]
         [1 1 1]]
    """
    if lengths is None:
        return jnp.ones((*batch, count), bool)
    lengths = jnp.broadcast_to(jnp.asarray(lengths), batch)[..., None]
    places = jnp.arange(count, dtype=lengths.dtype)
    return jnp.broadcast_to(places, (*batch, count)) < lengths


def front_index(blank_id: int, num_classes: int) -> int:
    """Count the blank's index from the front.

    Args:
        blank_id: static, in `[-V, V)`.
        num_classes: V.

    Returns:
        The same index in `[0, V)`.

    Raises:
        ValueError: it lies outside.

    Example:
        >>> front_index(-1, 5)
        4
    """
    if not -num_classes <= blank_id < num_classes:
        raise ValueError(f"blank_id={blank_id} must be in [{-num_classes}, {num_classes})")
    return blank_id % num_classes
