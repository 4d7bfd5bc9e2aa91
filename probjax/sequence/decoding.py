r"""Decoding of whole sequences: the likeliest path, and the likeliest labellings.

Greedy decoding collapses the likeliest *path*, which need not belong to the likeliest labelling;
the beam search sums over the paths of each labelling.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import decoding
>>> logits = jnp.log(jnp.array([[0.75, 0.25]] * 3))  # blank, 1
>>> best_path = decoding.greedy_decode(logits)  # all blanks, 27/64
>>> int(best_path.lengths), float(64 * jnp.exp(best_path.score))
(0, 27.0)
>>> found = jax.jit(lambda logits: decoding.beam_decode(logits, beam_width=3))(logits)
>>> found.tokens[0].tolist(), float(64 * jnp.exp(found.score[0]))
([1, -1, -1], 34.0)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, rows
from probjax.core.logspace import logaddexp
from probjax.sequence.beam import (
    BeamState,
    LanguageModel,
    beam_init,
    beam_step,
    is_law,
    prior_score,
)
from probjax.sequence.ctc_core import log_z
from probjax.sequence.emissions import sequence_scores
from probjax.sequence.lattice import collapse, front_index


class Decoded(NamedTuple):
    """One labelling for each sequence."""

    tokens: Int[Array, "*batch frames"]
    """Labels, then -1."""
    lengths: Int[Array, "*batch"]
    """How many labels."""
    score: Float[Array, "*batch"]
    """Log-probability of the path that was taken; `NaN` for a sequence that could not be read."""


class BeamDecoded(NamedTuple):
    """The n best labellings of each sequence, best first."""

    tokens: Int[Array, "*batch n max_len"]
    """Labels, then -1."""
    lengths: Int[Array, "*batch n"]
    """How many labels."""
    score: Float[Array, "*batch n"]
    """What they are ranked by; -inf where fewer than n were found, `NaN` for a sequence that could
    not be read."""
    log_prob: Float[Array, "*batch n"]
    """The labelling's log-probability; without `exact` a lower bound, the log-sum over those of its
    alignments that the beam kept."""
    lm_score: Float[Array, "*batch n"]
    """Log-probability under the language model; zero without one."""
    is_overflow: Bool[Array, "*batch"]
    """Whether `max_len` cost a hypothesis that would have stayed among the best."""


def greedy_decode(
    logits: Float[Array, "*batch frames classes"],
    lengths: int | Int[Array, "*batch"] | None = None,
    *,
    blank_id: int = 0,
    merge_repeated: bool = True,
) -> Decoded:
    r"""Take the likeliest class of each frame and collapse the path.

    $$\hat\pi_t = \arg\max_k\,\text{logits}_{tk},\qquad
    \text{tokens} = \mathcal B(\hat\pi),\qquad
    \text{score} = \sum_{t<\text{lengths}}\log p_t(\hat\pi_t)$$

    where $\mathcal B$ merges adjacent repeats and **then** drops blanks. Of equal logits the
    lowest index wins. The score is that of one path, hence a lower bound of the labelling's
    log-probability.

    Args:
        logits: `(B, T, V)`, or `(T, V)` for one sequence.
        lengths: valid frames of each sequence `(B,)`; `None` for all. What stands behind them has
            no influence.
        blank_id: the blank's index, in `[-V, V)`.
        merge_repeated: whether adjacent repeats merge; without it the path is that of a model
            which emits every label on one frame only.

    Returns:
        Tokens `(B, T)`, lengths `(B,)` and scores `(B,)`, without `B` for one sequence. A
        sequence with a `NaN`, a $+\infty$ or nothing but $-\infty$ in a valid frame, or (in traced
        code) with a length outside `[0, T]`, alone gets no tokens and the score `NaN`.

    Raises:
        TypeError: `logits` are not floating, or `lengths` not integer.
        ValueError: a shape or `blank_id` does not fit, or a length lies outside `[0, T]`
            (concrete values only).

    References:
        Graves, Fernández, Gomez and Schmidhuber 2006.

    Example:
        >>> logits = jnp.log(jnp.array([[0.1, 0.9], [0.2, 0.8]]))
        >>> greedy_decode(logits, merge_repeated=False).tokens.tolist()
        [1, 1]
        >>> greedy_decode(logits, 3)
        Traceback (most recent call last):
        ValueError: lengths=3 must be in [0, 2]
    """
    logits, lengths, blank = _read(logits, lengths, blank_id)
    one = functools.partial(_decode, blank=blank, merge_repeated=merge_repeated)
    return one(logits, lengths) if logits.ndim == 2 else jax.vmap(one)(logits, lengths)


def beam_decode(
    logits: Float[Array, "*batch frames classes"],
    lengths: int | Int[Array, "*batch"] | None = None,
    *,
    beam_width: int = 16,
    max_len: int | None = None,
    num_best: int | None = None,
    blank_id: int = 0,
    lm: LanguageModel | None = None,
    lm_weight: float | Float[Array, ""] = 1.0,
    length_bonus: float | Float[Array, ""] = 0.0,
    token_top_k: int | None = None,
    prune_log_prob: float | None = None,
    exact: bool = True,
) -> BeamDecoded:
    r"""Search the labellings of highest score, as one `lax.scan` of `beam_step`.

    $$\text{score}(y) = \log p(y\mid x) + \text{lm\_weight}\,\log p_\text{lm}(y)
    + \text{length\_bonus}\,|y|$$

    With `beam_width` at least the number of prefixes nothing is lost. Otherwise the sums of the
    beam miss what was cut off, so at the end the n labellings found, and with them the one that
    `greedy_decode` returns, are scored again over all their alignments: scores are exact, and the
    first is never below greedy's. The scores can be differentiated, the choice of labellings being
    held.

    Args:
        logits: `(B, T, V)`, or `(T, V)` for one sequence.
        lengths: valid frames of each sequence `(B,)`; `None` for all. What stands behind them has
            no influence.
        beam_width: W, how many prefixes are carried.
        max_len: how many labels a hypothesis may have; `None` for T, which is always enough.
        num_best: n, how many labellings are returned; `None` for W.
        blank_id: the blank's index, in `[-V, V)`.
        lm: language model over the same V classes.
        lm_weight: what its log-probabilities are multiplied by; with 0 it has no influence.
        length_bonus: added for each label.
        token_top_k: propose in each frame only so many of the likeliest labels.
        prune_log_prob: propose only labels of at least this log-probability.
        exact: whether to score what was found again; costs n + 1 losses with `max_len` labels each.

    Returns:
        The n best, `(B, n, max_len)` and `(B, n)`, without `B` for one sequence. A sequence with a
        `NaN`, a $+\infty$ or nothing but $-\infty$ in a valid frame, or (in traced code) with a
        length outside `[0, T]`, alone gets no tokens and the score `NaN`.

    Raises:
        TypeError: `logits` are not floating, or `lengths` not integer.
        ValueError: a shape or `blank_id` does not fit, a length lies outside `[0, T]` (concrete
            values only), or `beam_width`, `max_len`, `token_top_k` or `num_best` is below 1, or
            `num_best` above `beam_width`.

    References:
        Hannun, Maas, Jurafsky and Ng 2014.

    Example:
        A model under which label 2 always follows label 1:

        >>> law = jnp.log(jnp.array([[0.0, 0.5, 0.5], [0.0, 0.01, 0.99], [0.0, 0.99, 0.01]]))
        >>> lm = LanguageModel(lambda: (), lambda state, token: (state, law[token]))
        >>> logits = jnp.log(jnp.array([[0.1, 0.8, 0.1], [0.9, 0.0, 0.1], [0.1, 0.5, 0.4]]))
        >>> best = jax.jit(lambda logits: [
        ...     beam_decode(logits, beam_width=8, lm=model).tokens[0] for model in (None, lm)])
        >>> print(*best(logits))
        [ 1  1 -1] [ 1  2 -1]
    """
    logits, lengths, blank = _read(logits, lengths, blank_id)
    max_len = max(logits.shape[-2], 1) if max_len is None else max_len
    num_best = beam_width if num_best is None else checks.at_least("num_best", num_best, 1)
    if num_best > beam_width:
        raise ValueError(f"num_best must be at most beam_width={beam_width}, got {num_best}")
    start = functools.partial(
        beam_init, logits.shape[-1], beam_width=beam_width, max_len=max_len, blank_id=blank, lm=lm
    )
    step = functools.partial(
        beam_step, blank_id=blank, lm=lm, lm_weight=lm_weight, length_bonus=length_bonus,
        token_top_k=token_top_k, prune_log_prob=prune_log_prob,
    )  # fmt: skip

    def one(logits: Float[Array, "frames classes"], length: Int[Array, ""]) -> BeamDecoded:
        log_probs, live, is_good = _frame_log_probs(logits, length)

        def body(state: BeamState, frame: tuple[Array, Array]) -> tuple[BeamState, None]:
            log_probs_t, is_live = frame
            after = step(state, log_probs_t)
            return jax.tree.map(lambda a, b: jnp.where(is_live, a, b), after, state), None

        state = start(dtype=logits.dtype)
        if logits.shape[0] > 0:
            after = jax.eval_shape(lambda s, f: body(s, f)[0], state, (log_probs[0], live[0]))
            state, _ = jax.lax.scan(body, rows.varying_like(state, after), (log_probs, live))
        is_good = is_good & ~state.is_nonfinite
        found = _Candidates(
            state.tokens, state.lengths, logaddexp(state.log_p_blank, state.log_p_label),
            state.lm_score,
        )  # fmt: skip
        found = jax.tree.map(lambda leaf: leaf[:num_best], found)
        if exact:
            found = _with_greedy(found, log_probs, length, lm, blank)
            found = found._replace(log_prob=_log_prob(found, log_probs, length, blank))
        prior = state._replace(lengths=found.lengths, lm_score=found.lm_score)
        score = found.log_prob + prior_score(prior, lm_weight=lm_weight, length_bonus=length_bonus)
        if exact:
            score, found = _best_first(score, found, num_best)
        return BeamDecoded(
            tokens=jnp.where(is_good, found.tokens, -1),
            lengths=jnp.where(is_good, found.lengths, 0),
            score=jnp.where(is_good, score, jnp.nan),
            log_prob=jnp.where(is_good, found.log_prob, jnp.nan),
            lm_score=found.lm_score,
            is_overflow=state.is_overflow,
        )

    return one(logits, lengths) if logits.ndim == 2 else jax.vmap(one)(logits, lengths)


def _read(
    logits: Float[Array, "*batch frames classes"],
    lengths: int | Int[Array, "*batch"] | None,
    blank_id: int,
) -> tuple[Float[Array, "*batch frames classes"], Int[Array, "*batch"], int]:
    """Check what every decoder is given; the blank comes back counted from the front."""
    logits = rows.working("logits", logits, event_ndim=2)
    if logits.ndim > 3:
        raise ValueError(f"logits must have shape (B, T, V) or (T, V), got {logits.shape}")
    batch, (num_frames, num_classes) = logits.shape[:-2], logits.shape[-2:]
    blank = front_index(blank_id, num_classes)
    return logits, checks.lengths("lengths", lengths, batch, num_frames), blank


def _frame_log_probs(
    logits: Float[Array, "frames classes"], length: Int[Array, ""]
) -> tuple[Float[Array, "frames classes"], Bool[Array, " frames"], Bool[Array, ""]]:
    """Log-probabilities, which frames are valid, and whether the sequence can be read.

    What stands behind `length`, and any frame that cannot be read, is replaced *before* it is
    normalised, so that it reaches neither values nor gradients.
    """
    live = jnp.arange(logits.shape[0], dtype=jnp.int32) < length
    inside = jnp.where(live[:, None], logits, 0.0)
    is_good = is_law(inside)
    inside = jnp.where(is_good[:, None], inside, 0.0)
    in_range = (length >= 0) & (length <= logits.shape[0])
    return jax.nn.log_softmax(inside, axis=-1), live, jnp.all(is_good) & in_range


def _decode(
    logits: Float[Array, "frames classes"],
    length: Int[Array, ""],
    *,
    blank: int,
    merge_repeated: bool,
) -> Decoded:
    """One sequence."""
    log_probs, live, is_good = _frame_log_probs(logits, length)
    path = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
    length = jnp.where(is_good, length, 0)
    if merge_repeated:
        tokens, count = collapse(path, length, blank_id=blank)
    else:  # a blank behind every frame keeps all labels apart
        apart = jnp.stack([path, jnp.full_like(path, blank)], axis=1).reshape(-1)
        tokens, count = collapse(apart, 2 * length, blank_id=blank)
    score = jnp.sum(jnp.where(live, jnp.max(log_probs, axis=-1), 0.0))
    return Decoded(tokens[: path.shape[0]], count, jnp.where(is_good, score, jnp.nan))


class _Candidates(NamedTuple):
    """Labellings of one sequence, with the log-probability of each."""

    tokens: Int[Array, "n max_len"]
    lengths: Int[Array, " n"]
    log_prob: Float[Array, " n"]
    lm_score: Float[Array, " n"]


def _with_greedy(
    found: _Candidates, log_probs: Array, length: Array, lm: LanguageModel | None, blank: int
) -> _Candidates:
    """One candidate more: greedy's labelling, impossible where it is there already or too long."""
    width = found.tokens.shape[1]
    greedy = _decode(log_probs, length, blank=blank, merge_repeated=True)
    padding = (0, max(0, width - greedy.tokens.shape[0]))
    tokens = jnp.pad(greedy.tokens, padding, constant_values=-1)[:width]
    is_there = jnp.any(jnp.all(found.tokens == tokens[None], axis=1) & (found.log_prob > -jnp.inf))
    log_prob = jnp.where(is_there | (greedy.lengths > width), -jnp.inf, greedy.score)
    lm_score = jnp.zeros_like(log_prob)
    if lm is not None:
        lm_score = _lm_score(lm, tokens, blank, log_prob.dtype)
    more = _Candidates(tokens, greedy.lengths, log_prob, lm_score)
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), found, more)


def _lm_score(lm: LanguageModel, tokens: Array, blank: int, dtype: Any) -> Array:
    """What the model thinks of one labelling; what is no log-probability counts as impossible."""
    before = lm.step(lm.init(), jnp.asarray(blank, jnp.int32))

    def read(carry: Any, token: Array) -> tuple[Any, None]:
        (state, law), total = carry
        fed = jnp.maximum(token, 0)
        after = total + law[fed].astype(dtype), lm.step(state, fed)
        total, before = jax.tree.map(
            lambda new, old: jnp.where(token >= 0, new, old), after, (total, (state, law))
        )
        return (before, total), None

    start = jax.tree.map(jnp.asarray, before), jnp.zeros((), dtype)
    (_, total), _ = jax.lax.scan(read, rows.varying_over(start, tokens), tokens)
    return jnp.where(jnp.isnan(total) | jnp.isposinf(total), -jnp.inf, total)


def _log_prob(found: _Candidates, log_probs: Array, length: Array, blank: int) -> Array:
    """Each candidate's log-probability, over all alignments."""

    def one(tokens: Array, count: Array) -> Array:
        scores = sequence_scores(
            log_probs, jnp.maximum(tokens, 0), length, count, jnp.array(True), blank=blank,
            normalise=False,
        )  # fmt: skip
        return log_z(scores.blank, scores.label, scores.can_skip, count)

    exact = jax.vmap(one)(found.tokens, found.lengths)
    return jnp.where(found.log_prob > -jnp.inf, exact, -jnp.inf)


def _best_first(score: Array, found: _Candidates, num_best: int) -> tuple[Array, _Candidates]:
    _, order = jax.lax.top_k(jax.lax.stop_gradient(score), num_best)
    score, found = jax.tree.map(lambda leaf: leaf[order], (score, found))
    is_found = score > -jnp.inf
    return score, _Candidates(
        jnp.where(is_found[:, None], found.tokens, -1), jnp.where(is_found, found.lengths, 0),
        found.log_prob, jnp.where(is_found, found.lm_score, 0.0),
    )  # fmt: skip
