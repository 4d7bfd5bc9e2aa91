r"""Which frames belong to which label: the best alignment, and draws from all of them.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import alignment
>>> logits = 3.0 * jax.nn.one_hot(jnp.array([1, 1, 0, 1, 2]), 3)
>>> best = jax.jit(alignment.ctc_align)(logits, jnp.array([1, 1, 2]))
>>> print(best.path, best.states)
[1 1 0 1 2] [1 1 2 3 5]
>>> print(best.starts, best.ends)  # the two 1s have a span each
[0 3 4] [2 4 5]
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from probjax.core import checks as core_checks
from probjax.core import rows
from probjax.core.keys import RowKeys, as_key, item_keys, step_key, stream
from probjax.sequence import ctc_core, emissions
from probjax.sequence.ctc_core import Arrivals, LatticeStates
from probjax.sequence.lattice import ctc_feasible, live_places


class CTCAlignment(NamedTuple):
    """One path that spells the target, for each sequence or for each draw."""

    path: Int[Array, "*batch frames"]
    """The class of each frame; -1 in padding, and everywhere if there is no path."""
    states: Int[Array, "*batch frames"]
    """The state of the lattice in each frame, of those of `extend_labels`; -1 as `path`."""
    score: Float[Array, "*batch"]
    """Log probability of the path; $-\\infty$ if there is none, NaN for a sequence that is not
    sound."""
    starts: Int[Array, "*batch labels"]
    """First frame of each label; -1 for labels beyond the target, and if there is no path."""
    ends: Int[Array, "*batch labels"]
    """The frame behind the last one of each label; -1 as `starts`."""
    token_log_probs: Float[Array, "*batch labels"]
    """Log probability of each label, added up over its span; 0 where `starts` is -1."""
    feasible: Bool[Array, "*batch"]
    """Whether the target fits into the frames, whatever the probabilities."""


class _Exact(NamedTuple):
    """A sum of floats as a float and what its rounding left out."""

    high: Array
    low: Array


def ctc_align(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    normalise: bool = True,
    checks: str = "poison",
) -> CTCAlignment:
    r"""Align each target by its most probable path (Viterbi).

    $$\hat\pi=\arg\max_{\pi:\,\mathcal B(\pi)=y}\ \sum_{t<T}\ln p_t(\pi_t),\qquad
      score=\sum_{t<T}\ln p_t(\hat\pi_t)$$

    Of several best paths the earliest is taken: each label begins, and each ends, no later than in
    any other best path. Paths are compared by sums that carry their own rounding errors, so the
    order of the terms decides no tie, and long inputs cost no digits.

    Spans are read from the states, not from the classes: equal neighbours in a target stay two
    labels. `score` and `token_log_probs` are differentiable; the path is held.

    Args:
        logits: $z$, `(T, V)` or `(B, T, V)`; half precision is computed in float32.
        labels: targets `(L,)` or `(B, L)`, without blanks.
        logit_lengths: live frames, `()` or `(B,)`; all when `None`.
        label_lengths: lengths of the targets, `()` or `(B,)`; all of `L` when `None`.
        blank_id: class of the blank, in $[-V,V)$.
        normalise: whether `logits` go through a log-softmax. Without, they are log weights of any
            kind and `score` is their sum (log probabilities need no mention: they are logits, too).
        checks: `"poison"`, or `"checkify"` for an error under `checkify.checkify` as well.

    Returns:
        `CTCAlignment`. Without any path of positive probability `score` is $-\infty$ and the rest
        -1. A live frame with NaN, $+\infty$ or nothing but $-\infty$ makes `score` of that
        sequence NaN; so does, in traced code, a live label or length out of range.

    Raises:
        ValueError: shapes, ranks or dtypes do not fit, `blank_id` is out of range, a name is
            unknown, or a concrete label or length is out of range.

    Example:
        >>> best = jax.jit(ctc_align)(jnp.zeros((4, 3)), jnp.array([1, 2]))
        >>> print(best.path, jnp.exp(-best.score))  # fifteen paths alike, of 1/81 each
        [1 2 0 0] 81.0

    References:
        Viterbi 1967; Forney 1973; Graves and others 2006. `torchaudio.functional.forced_align`
        returns frame by frame what stands in `path`; its spans come from merging equal classes.
    """
    given = emissions.prepare(
        logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
    )
    scores_of = functools.partial(emissions.sequence_scores, blank=given.blank)

    def one(
        logits: Array, labels: Array, frames: Array, length: Array, valid: Array
    ) -> CTCAlignment:
        sequence = labels, frames, length, valid
        values = scores_of(logits, *sequence, normalise=normalise)
        # Constants of a frame are common to all paths. Without the normaliser, whose rounding
        # differs from frame to frame, equal logits are equal terms.
        logits = jax.lax.stop_gradient(logits)
        relative = logits - jnp.max(logits, axis=-1, keepdims=True)
        terms = scores_of(relative, *sequence, normalise=False)
        last, arrivals = _best_arrivals(terms)
        blank, label = (_Exact(x.high[length], x.low[length]) for x in last)
        certain = jnp.zeros_like(terms.blank)
        states = _trace_back(arrivals, length, _greater(label, blank), certain)
        exists = values.sound & ~jnp.isneginf(jnp.maximum(blank.high, label.high))
        return _described(states, values, *sequence, exists, blank=given.blank)

    return emissions.over_sequences(one, given)


def ctc_sample_alignment(
    key: RowKeys,
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    num_samples: int,
    blank_id: int = 0,
    normalise: bool = True,
    checks: str = "poison",
) -> CTCAlignment:
    r"""Draw alignments of each target from their posterior, independently.

    $$\pi\sim p(\pi\mid y)=\frac{[\mathcal B(\pi)=y]\ \prod_tp_t(\pi_t)}{p(y)},\qquad
      P(s_{t-1}=s'\mid s_t=s)=\frac{\alpha_{t-1}(s')}{\sum_{s''\to s}\alpha_{t-1}(s'')}$$

    The last state first, then backwards, by the same weights that give the gradient of the loss.
    The draws are exact: no burn-in, no correlation.

    Draw $i$ of sequence $b$ decides at frame $t$ by the key `fold_in(fold_in(k, i), t)`, with $k$
    the stream `"sample"` of `item_key(key, b)`, or of `key` itself for one sequence. More draws,
    frames of padding or other sequences change none of them.

    Args:
        key: one key, or a key for each sequence `(B,)`.
        logits: as for `ctc_align`.
        labels: as for `ctc_align`.
        logit_lengths: as for `ctc_align`.
        label_lengths: as for `ctc_align`.
        num_samples: how many draws `S` for each sequence.
        blank_id: as for `ctc_align`.
        normalise: as for `ctc_align`.
        checks: as for `ctc_align`.

    Returns:
        `CTCAlignment` with an axis of `S` draws behind the batch's: paths `(B, S, T)`, spans
        `(B, S, L)`, `score` $=\ln p(\pi)$ of shape `(B, S)`. Its derivative is that of
        $\ln p(\pi)$ at the drawn path. The posterior log probability of a draw is `score` plus the
        loss.

    Raises:
        ValueError: as for `ctc_align`; `num_samples` below 1; the keys' shape does not fit.

    Example:
        >>> key = jax.random.key(0)
        >>> draw = jax.jit(ctc_sample_alignment, static_argnames="num_samples")
        >>> draws = draw(key, jnp.zeros((4, 3)), jnp.array([1, 2]), num_samples=1000)
        >>> share = (draws.path[:, 1] == 1).mean()  # 8 of the 15 paths
        >>> print(bool(abs(share - 8 / 15) < 0.05))
        True

    References:
        Rabiner 1989; Frühwirth-Schnatter 1994.
    """
    core_checks.at_least("num_samples", num_samples, 1)
    given = emissions.prepare(
        logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
    )
    scores_of = functools.partial(emissions.sequence_scores, blank=given.blank)
    key, batch = as_key(key), given.scores.shape[:-2]
    if batch and key.ndim == 0:
        key = item_keys(key, batch[0])
    if key.shape != batch:
        raise ValueError(f"key must be one key or have shape {batch}, got {key.shape}")

    def one(
        key: Array, logits: Array, labels: Array, frames: Array, length: Array, valid: Array
    ) -> CTCAlignment:
        sequence = labels, frames, length, valid
        values = scores_of(logits, *sequence, normalise=normalise)
        fixed = jax.lax.stop_gradient(values)
        last, arrivals = ctc_core.forward(
            fixed.blank, fixed.label, fixed.can_skip, lambda states, arrivals: arrivals
        )
        log_z, end = ctc_core.ending(last, length)
        exists = values.sound & ~jnp.isneginf(log_z)
        in_label = _certain(end.label[length])

        def draw(key: Array) -> CTCAlignment:
            places = jnp.arange(logits.shape[0] + 1, dtype=jnp.uint32)
            uniform = jax.vmap(lambda t: jax.random.uniform(step_key(key, t), dtype=logits.dtype))(
                places
            )
            states = _trace_back(arrivals, length, uniform[-1] < in_label, uniform[:-1])
            return _described(states, values, *sequence, exists, blank=given.blank)

        return jax.vmap(draw)(item_keys(stream(key, "sample"), num_samples))

    return (jax.vmap(one) if batch else one)(key, *given[:5])


def _best_arrivals(scores: emissions.LatticeScores) -> tuple[LatticeStates, Arrivals]:
    r"""Carry the best beginnings through the frames, and keep where each state was entered from.

    $$\delta_t(s)=\ln p_t(e_s)+\max\{\delta_{t-1}(s),\ \delta_{t-1}(s-1),\
      \delta_{t-1}(s-2)\ \text{where } skip(s)\}$$

    Of equals the first in this order stays: coming from the highest state.
    """
    may_skip = ctc_core.with_lane_zero(scores.can_skip, False)
    label_lp = ctc_core.with_lane_zero(scores.label, -jnp.inf)
    nowhere = jnp.full_like(label_lp, -jnp.inf, shape=label_lp.shape[1:])

    def step(state: LatticeStates, emission: tuple[Array, Array]) -> tuple[LatticeStates, Arrivals]:
        rises = _greater(state.label, state.blank)
        blank = _plus(_where(rises, state.label, state.blank), emission[0])

        earlier = _after(state.blank)
        enters = _greater(earlier, state.label)
        best = _where(enters, earlier, state.label)
        over = _after(state.label)
        skips = may_skip & _greater(over, best)
        label = _plus(_where(skips, over, best), emission[1])
        return LatticeStates(blank, label), Arrivals(rises, enters & ~skips, skips)

    first = jnp.where(jnp.arange(nowhere.shape[0], dtype=jnp.int32) == 0, 0.0, nowhere)
    start = LatticeStates(
        _Exact(first, jnp.zeros_like(first)), _Exact(nowhere, jnp.zeros_like(nowhere))
    )
    start = rows.varying_over(start, (scores.blank, label_lp, may_skip))
    return jax.lax.scan(step, start, (scores.blank, label_lp))


def _trace_back(
    arrivals: Arrivals,
    length: Int[Array, ""],
    in_label: Bool[Array, ""],
    uniform: Float[Array, "frames"],
) -> Int[Array, "frames"]:
    """Walk back from the last label, or the blank behind it, and return the state in each frame.

    The numbers in [0, 1) decide where from; nothing depends on them if the arrivals are flags.
    """

    def step(state: Array, frame: tuple[Arrivals, Array]) -> tuple[Array, Array]:
        arrival, uniform = frame
        lane, in_label = (state + 1) // 2, state % 2 == 1
        rise, enter, skip = (x[lane].astype(uniform.dtype) for x in arrival)
        skip = jnp.where(in_label, skip, 0.0)
        one = jnp.where(in_label, enter, rise)
        back = jnp.where(
            uniform < _certain(skip), 2, (uniform < _certain(skip + one)).astype(state.dtype)
        )
        return state - back, state

    end = 2 * length - in_label.astype(length.dtype)
    end = rows.varying_over(end, (arrivals, uniform))
    return jax.lax.scan(step, end, (arrivals, uniform), reverse=True)[1]


def _certain(probability: Array) -> Array:
    """One, where what is missing to it may be rounding: the rest may be impossible."""
    return jnp.where(probability > 1 - 4 * jnp.finfo(probability.dtype).eps, 1.0, probability)


def _described(
    states: Int[Array, "frames"],
    values: emissions.LatticeScores,
    labels: Int[Array, "labels"],
    frames: Int[Array, ""],
    length: Int[Array, ""],
    valid: Bool[Array, ""],
    exists: Bool[Array, ""],
    *,
    blank: int,
) -> CTCAlignment:
    """Say in all ways what a walk through the states is; states never decrease."""
    live = live_places(frames, (), states.shape[0]) & exists
    named = live_places(length, (), labels.shape[0]) & exists
    state_of = 2 * jnp.arange(labels.shape[0], dtype=states.dtype) + 1
    before = live[:, None] & (states[:, None] < state_of[None])
    within = live[:, None] & (states[:, None] == state_of[None])
    in_blank = live & (states % 2 == 0)
    path = jnp.sum(jnp.where(within, labels[None], 0), axis=-1, dtype=labels.dtype)
    path = path + jnp.where(in_blank, blank, 0).astype(labels.dtype)
    starts = jnp.sum(before, axis=0, dtype=jnp.int32)
    ends = starts + jnp.sum(within, axis=0, dtype=jnp.int32)

    spent = jnp.where(within, values.label, 0.0)
    by_frame = jnp.sum(spent, axis=-1) + jnp.where(in_blank, values.blank, 0.0)
    nothing = jnp.where(values.sound, -jnp.inf, jnp.nan).astype(by_frame.dtype)
    return CTCAlignment(
        jnp.where(live, path, -1),
        jnp.where(live, states, -1),
        jnp.where(exists, jnp.sum(by_frame), nothing),
        jnp.where(named, starts, -1),
        jnp.where(named, ends, -1),
        jnp.sum(spent, axis=0),
        ctc_feasible(frames, labels, length) & valid,
    )


def _greater(a: _Exact, b: _Exact) -> Bool[Array, "..."]:
    return (a.high > b.high) | ((a.high == b.high) & (a.low > b.low))


def _where(flags: Array, a: _Exact, b: _Exact) -> _Exact:
    return _Exact(*(jnp.where(flags, x, y) for x, y in zip(a, b, strict=True)))


def _plus(a: _Exact, b: Array) -> _Exact:
    """Add one more term: the rounding error of a sum of two floats is a float."""
    total = a.high + b
    moved = total - a.high
    error = (a.high - (total - moved)) + (b - moved) + a.low
    high = total + error
    finite = jnp.isfinite(total)
    return _Exact(jnp.where(finite, high, total), jnp.where(finite, error - (high - total), 0.0))


def _after(x: _Exact) -> _Exact:
    """Each lane takes what the lane before it had; the first becomes impossible."""
    return _Exact(ctc_core.right(x.high, -jnp.inf), ctc_core.right(x.low, 0.0))
