r"""Prefix beam search, one frame at a time.

A hypothesis is a labelling so far, a prefix. Its paths are kept in two sums, those that end in a
blank and those that end in the last label, because only behind a blank may the same label come
again. Equal prefixes are one hypothesis, always. `probjax.sequence.decoding.beam_decode` runs the
search over whole sequences.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import beam
>>> state, step = beam.beam_init(2, beam_width=3, max_len=3), jax.jit(beam.beam_step)
>>> for _ in range(3):
...     state = step(state, jnp.log(jnp.array([0.75, 0.25])))
>>> state.tokens.tolist()
[[1, -1, -1], [-1, -1, -1], [1, 1, -1]]
>>> print((64 * (jnp.exp(state.log_p_blank) + jnp.exp(state.log_p_label))).round(3))
[34. 27.  3.]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, rows, trees
from probjax.core.logspace import logaddexp
from probjax.sequence.lattice import front_index


class LanguageModel(NamedTuple):
    """What a search asks of a language model: two pure functions."""

    init: Callable[[], Any]
    """`init() -> state`, before anything was read."""
    step: Callable[[Any, Int[Array, ""]], tuple[Any, Float[Array, " classes"]]]
    """`step(state, token) -> (state, log_probs (V,))`: reads `token`, returns the
    log-probabilities of the label behind it. The blank stands for the beginning: the first label
    is judged by `step(init(), blank_id)`. The blank's own entry is never read."""


class BeamState(NamedTuple):
    """Up to W hypotheses, best first; a slot that is not taken has log-probabilities of -inf."""

    tokens: Int[Array, "width max_len"]
    """The prefixes, each followed by -1."""
    lengths: Int[Array, " width"]
    """Their lengths."""
    log_p_blank: Float[Array, " width"]
    """Log-sum over the paths that collapse to the prefix and end in a blank."""
    log_p_label: Float[Array, " width"]
    """The same over those that end in the prefix's last label."""
    lm_score: Float[Array, " width"]
    """Log-probability of the prefix under the language model, not weighted; zero without one."""
    lm_state: Any
    """The model's state behind each prefix, leaves `(W, ...)`; `None` without a model."""
    lm_log_probs: Float[Array, "width classes"] | None
    """What the model thinks of the next label; `None` without a model."""
    is_prefix: Bool[Array, "width width"]
    """Whether hypothesis j is hypothesis i or a beginning of it."""
    is_overflow: Bool[Array, ""]
    """Whether a prefix that would have stayed among the W was given up for want of `max_len`."""
    is_nonfinite: Bool[Array, ""]
    """Whether a frame, or the language model, gave what is no log-probability."""


def beam_init(
    num_classes: int,
    *,
    beam_width: int,
    max_len: int,
    blank_id: int = 0,
    lm: LanguageModel | None = None,
    dtype: Any = jnp.float32,
) -> BeamState:
    """Start with the empty prefix, whose probability is 1.

    Args:
        num_classes: V, the blank among them.
        beam_width: W, how many hypotheses are carried.
        max_len: how many labels a hypothesis may have.
        blank_id: the blank's index, in `[-V, V)`.
        lm: language model.
        dtype: of the log-probabilities.

    Returns:
        The state before the first frame.

    Raises:
        ValueError: `num_classes`, `beam_width` or `max_len` is below 1, `blank_id` outside
            `[-V, V)`, or the model's log-probabilities are not `(V,)`.

    Example:
        >>> state = beam_init(3, beam_width=2, max_len=4)
        >>> print(state.log_p_blank, state.tokens[0])
        [  0. -inf] [-1 -1 -1 -1]
    """
    width = checks.at_least("beam_width", beam_width, 1)
    checks.at_least("max_len", max_len, 1)
    blank = front_index(blank_id, checks.at_least("num_classes", num_classes, 1))
    lm_state = lm_log_probs = None
    if lm is not None:
        first, law = lm.step(lm.init(), jnp.asarray(blank, jnp.int32))
        checks.shape("log_probs of lm.step", law, (num_classes,))
        lm_state, lm_log_probs = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (width, *jnp.shape(leaf))),
            (jax.tree.map(jnp.asarray, first), law.astype(dtype)),
        )
    empty = jnp.full(width, -jnp.inf, dtype)
    return BeamState(
        tokens=jnp.full((width, max_len), -1, jnp.int32),
        lengths=jnp.zeros(width, jnp.int32),
        log_p_blank=empty.at[0].set(0.0),
        log_p_label=empty,
        lm_score=jnp.zeros(width, dtype),
        lm_state=lm_state,
        lm_log_probs=lm_log_probs,
        is_prefix=jnp.zeros((width, width), bool).at[0, 0].set(True),
        is_overflow=jnp.zeros((), bool),
        is_nonfinite=jnp.zeros((), bool),
    )


def beam_step(
    state: BeamState,
    log_probs: Float[Array, " classes"],
    *,
    blank_id: int = 0,
    lm: LanguageModel | None = None,
    lm_weight: float | Float[Array, ""] = 1.0,
    length_bonus: float | Float[Array, ""] = 0.0,
    token_top_k: int | None = None,
    prune_log_prob: float | None = None,
) -> BeamState:
    r"""Read one frame.

    With $p^\varnothing$ and $p^\ell$ the two sums of a prefix $y$, $p=p^\varnothing+p^\ell$ and
    $q$ the frame's probabilities,

    $$p^\varnothing_t(y) = p_{t-1}(y)\,q(\varnothing),\qquad
    p^\ell_t(y) = q(y_{-1})\,\bigl[p^\ell_{t-1}(y) + a_{t-1}(y_{:-1}, y_{-1})\bigr],\qquad
    a(y, k) = \begin{cases}p^\varnothing(y) & k = y_{-1}\\ p(y) & \text{else}\end{cases}$$

    where $a$ is zero for a prefix outside the beam. Of the prefixes carried and of their
    extensions by one label the W of highest

    $$\log p_t(y) + \text{lm\_weight}\,\log p_\text{lm}(y) + \text{length\_bonus}\,|y|$$

    stay; of equal ones those carried already, then extensions in the order of their parents.

    Args:
        state: the hypotheses so far.
        log_probs: of this frame, normalised, `(V,)`.
        blank_id: the blank's index, in `[-V, V)`.
        lm: the language model that `beam_init` was given.
        lm_weight: what its log-probabilities are multiplied by; with 0 it has no influence.
        length_bonus: added for each label.
        token_top_k: extend only by the labels that are the likeliest of this frame, so many;
            `None` for all.
        prune_log_prob: extend only by labels of at least this log-probability. Both options decide
            which prefixes are *proposed*; what flows between prefixes that the beam holds is
            always counted.

    Returns:
        The hypotheses behind this frame, best first. A frame that is no log-probability (`NaN`,
        $+\infty$, or $-\infty$ only), or a model's answer that makes a score such, changes nothing
        but the flag `is_nonfinite`.

    Raises:
        TypeError: `log_probs` are not floating.
        ValueError: `log_probs` are not one frame, `token_top_k` is below 1, `blank_id` outside
            `[-V, V)`, `lm` does not fit the state, or its state changes its structure or shape.

    References:
        Hannun, Maas, Jurafsky and Ng 2014; Graves, Fernández, Gomez and Schmidhuber 2006.

    Example:
        >>> state = beam_init(2, beam_width=2, max_len=2)
        >>> state = jax.jit(beam_step)(state, jnp.log(jnp.array([0.75, 0.25])))
        >>> print(jnp.exp(state.log_p_blank), jnp.exp(state.log_p_label))
        [0.75 0.  ] [0.   0.25]
    """
    checks.shape("log_probs", log_probs, (None,))
    frame = rows.working("log_probs", log_probs, event_ndim=1).astype(state.log_p_blank.dtype)
    num_classes = frame.shape[-1]
    width, max_len = state.tokens.shape
    blank = front_index(blank_id, num_classes)
    if (lm is None) != (state.lm_log_probs is None):
        raise ValueError("lm must be given to beam_init and beam_step alike, or to neither")
    is_good = is_law(frame)
    frame = jnp.where(is_good, frame, 0.0)

    # Prefixes that stay as they are: a blank, their last label again, or this label behind the
    # prefix one shorter, if that is carried too.
    total = logaddexp(state.log_p_blank, state.log_p_label)
    last = _last(state)
    at_last = jnp.where(last >= 0, frame[last], -jnp.inf)
    has_parent, parent = _parents(state)
    arriving = _mass_before(last, last[parent], state.log_p_blank[parent], total[parent])
    arriving = jnp.where(has_parent, arriving, -jnp.inf)
    stay_blank = total + frame[blank]
    stay_label = logaddexp(state.log_p_label, arriving) + at_last

    # Prefixes one label longer, but for those that are carried already.
    labels, at_label = _proposals(frame, blank, token_top_k, prune_log_prob)
    grow = _mass_before(labels[None, :], last[:, None], state.log_p_blank[:, None], total[:, None])
    grow = grow + at_label[None, :]
    slots = jnp.argmax(labels[None, :] == last[:, None], axis=1)
    is_there = has_parent & jnp.any(labels[None, :] == last[:, None], axis=1)
    is_carried = jnp.zeros_like(grow, dtype=bool)
    is_carried = is_carried.at[jnp.where(is_there, parent, width), slots].set(True, mode="drop")
    is_full = (state.lengths == max_len)[:, None]

    # The W best of all.
    prior = prior_score(state, lm_weight=lm_weight, length_bonus=length_bonus)
    grow_score = grow + (prior + jnp.asarray(length_bonus, prior.dtype))[:, None]
    if lm is not None:
        grow_score = grow_score + _weighted(lm_weight, state.lm_log_probs)[:, labels]
    grow_score = jnp.where(is_carried | jnp.isneginf(grow), -jnp.inf, grow_score)
    stay_score = logaddexp(stay_blank, stay_label) + prior
    fitting = jnp.where(is_full, -jnp.inf, grow_score)
    scores = jax.lax.stop_gradient(jnp.concatenate([stay_score, fitting.reshape(-1)]))
    best, picks = jax.lax.top_k(scores, width)
    is_live = best > -jnp.inf
    has_grown = is_live & (picks >= width)
    pair = jnp.maximum(picks - width, 0)
    source = jnp.where(has_grown, pair // labels.shape[0], jnp.where(is_live, picks % width, 0))
    label = jnp.where(has_grown, labels[pair % labels.shape[0]], -1)

    new = _moved(state, source, label, is_live)
    log_p_blank = jnp.where(has_grown, -jnp.inf, stay_blank[source])
    log_p_label = jnp.where(has_grown, grow.reshape(-1)[pair], stay_label[source])
    new = new._replace(
        log_p_blank=jnp.where(is_live, log_p_blank, -jnp.inf),
        log_p_label=jnp.where(is_live, log_p_label, -jnp.inf),
    )
    if lm is not None:
        new = _judged(new, state, source, label, has_grown, lm, blank)
    # As a minimum: with `best[-1]` XLA does not see the `top_k` any more and sorts all candidates.
    lost = jnp.max(jnp.where(is_full, grow_score, -jnp.inf))
    new = new._replace(is_overflow=state.is_overflow | (lost > jnp.min(best)))
    is_good = is_good & ~jnp.any(jnp.isnan(scores) | jnp.isposinf(scores))
    new = jax.tree.map(lambda after, before: jnp.where(is_good, after, before), new, state)
    return new._replace(is_nonfinite=state.is_nonfinite | ~is_good)


def prior_score(
    state: BeamState,
    *,
    lm_weight: float | Float[Array, ""] = 1.0,
    length_bonus: float | Float[Array, ""] = 0.0,
) -> Float[Array, " width"]:
    r"""Tell what is added to each hypothesis's log-probability to rank it.

    $$\text{lm\_weight}\,\log p_\text{lm}(y) + \text{length\_bonus}\,|y|$$

    Args:
        state: the hypotheses.
        lm_weight: weight of the language model; with 0 it has no influence.
        length_bonus: added for each label.

    Returns:
        One number for each slot.

    Example:
        >>> state = beam_init(3, beam_width=2, max_len=4)
        >>> state = jax.jit(beam_step)(state, jnp.log(jnp.array([0.2, 0.5, 0.3])))
        >>> print(prior_score(state, length_bonus=0.5))
        [0.5 0.5]
    """
    dtype = state.lm_score.dtype
    bonus = jnp.asarray(length_bonus, dtype) * state.lengths.astype(dtype)
    return _weighted(lm_weight, state.lm_score) + bonus


def is_law(logits: Float[Array, "*batch classes"]) -> Bool[Array, "*batch"]:
    """Tell which rows can be normalised: no `NaN`, no positive infinity, one finite entry.

    Args:
        logits: rows `(*B, V)`.

    Returns:
        Flags `(*B,)`.

    Example:
        >>> print(is_law(jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf], [0.0, jnp.nan]])))
        [ True False False]
    """
    # The maximum is NaN beside a NaN.
    return jnp.isfinite(jnp.max(logits, axis=-1, initial=-jnp.inf))


def _last(state: BeamState) -> Int[Array, " width"]:
    """Each prefix's last label, -1 for the empty one."""
    place = jnp.maximum(state.lengths - 1, 0)
    return jnp.take_along_axis(state.tokens, place[:, None], axis=1)[:, 0]


def _parents(state: BeamState) -> tuple[Bool[Array, " width"], Int[Array, " width"]]:
    """For each prefix whether the one that lacks its last label is carried, and in which slot."""
    is_one_shorter = state.lengths[None, :] + 1 == state.lengths[:, None]
    is_parent = state.is_prefix & is_one_shorter
    return jnp.any(is_parent, axis=1), jnp.argmax(is_parent, axis=1)


def _mass_before(
    label: Int[Array, "..."],
    last: Int[Array, "..."],
    log_p_blank: Float[Array, "..."],
    total: Float[Array, "..."],
) -> Float[Array, "..."]:
    """The paths of a prefix behind which `label` is a new one: its last label needs a blank."""
    return jnp.where(label == last, log_p_blank, total)


def _proposals(
    frame: Float[Array, " classes"],
    blank: int,
    token_top_k: int | None,
    prune_log_prob: float | None,
) -> tuple[Int[Array, " labels"], Float[Array, " labels"]]:
    """The labels by which prefixes are extended, and their log-probabilities."""
    labels = jnp.arange(frame.shape[0], dtype=jnp.int32)
    at_label = jnp.where(labels == blank, -jnp.inf, frame)
    if token_top_k is not None:
        count = min(checks.at_least("token_top_k", token_top_k, 1), frame.shape[0])
        at_label, labels = jax.lax.top_k(at_label, count)
    if prune_log_prob is not None:
        at_label = jnp.where(at_label < prune_log_prob, -jnp.inf, at_label)
    return labels, at_label


def _weighted(
    weight: float | Float[Array, ""], log_prob: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The product, in which a weight of zero also silences what is not finite."""
    weight = jnp.asarray(weight, log_prob.dtype)
    return jnp.where(weight == 0, 0.0, weight * jnp.where(weight == 0, 0.0, log_prob))


def _moved(
    state: BeamState,
    source: Int[Array, " width"],
    label: Int[Array, " width"],
    is_live: Bool[Array, " width"],
) -> BeamState:
    """The prefixes at `source`, longer by `label` where it is one."""
    old_lengths = state.lengths[source]
    has_grown = label >= 0
    places = jnp.arange(state.tokens.shape[1], dtype=jnp.int32)
    is_place = places[None, :] == old_lengths[:, None]
    tokens = state.tokens[source]
    tokens = jnp.where(is_place & has_grown[:, None], label[:, None], tokens)
    tokens = jnp.where(is_live[:, None], tokens, -1)
    # A prefix of an old prefix stays one. A grown one is a prefix of i if its parent was and i
    # has the new label at that place: equal tokens, compared at one place only.
    place = jnp.minimum(old_lengths, state.tokens.shape[1] - 1)
    agrees = ~has_grown[None, :] | (tokens[:, place] == label[None, :])
    is_prefix = state.is_prefix[source][:, source] & agrees
    return state._replace(
        tokens=tokens,
        lengths=jnp.where(is_live, old_lengths + has_grown.astype(jnp.int32), 0),
        lm_score=jnp.where(is_live, state.lm_score[source], 0.0),
        is_prefix=is_prefix & is_live[:, None] & is_live[None, :],
    )


def _judged(
    new: BeamState,
    old: BeamState,
    source: Int[Array, " width"],
    label: Int[Array, " width"],
    has_grown: Bool[Array, " width"],
    lm: LanguageModel,
    blank: int,
) -> BeamState:
    """Let the language model read the labels that prefixes have grown by."""
    fed = jnp.where(has_grown, label, blank)
    added = jnp.where(has_grown, old.lm_log_probs[source, fed], 0.0)
    before = jax.tree.map(lambda leaf: leaf[source], (old.lm_state, old.lm_log_probs))
    after, law = jax.vmap(lm.step)(before[0], fed)
    checks.shape("log_probs of lm.step", law, old.lm_log_probs.shape)
    after = trees.same_layout("the state of lm.step", after, "the state given", before[0])
    lm_state, lm_log_probs = jax.tree.map(
        lambda a, b: jnp.where(has_grown.reshape((-1,) + (1,) * (a.ndim - 1)), a, b),
        (after, law.astype(before[1].dtype)),
        before,
    )
    return new._replace(lm_score=new.lm_score + added, lm_state=lm_state, lm_log_probs=lm_log_probs)
