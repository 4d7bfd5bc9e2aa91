r"""What a transducer says: labellings found frame by frame, one path or a beam of hypotheses.

The decoders know the networks as two pure functions. `predict_step(state, token)` reads a label
and gives the predictor's next state and output; `joint_fn(enc, pred)` gives logits. Here the
predictor remembers the last label, and the joint network adds:

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import transducer_decoding as decoding
>>> def predict_step(state, token):  # after label 1 comes the blank, unless ...
...     return state, jnp.where(token == 1, jnp.array([3.0, 0.0]), 0.0)
>>> enc = jnp.array([[0.0, 1.0], [0.0, 5.0]])  # ... the encoder insists
>>> found = decoding.rnnt_greedy(predict_step, jnp.add, (), enc, max_len=4, max_symbols=1)
>>> print(found.tokens, found.frames, found.length)
[ 1  1 -1 -1] [ 0  1 -1 -1] 2
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from probjax.core import checks as core_checks
from probjax.core import rows, trees
from probjax.core.logspace import logsumexp
from probjax.sequence import emissions
from probjax.sequence.beam import is_law
from probjax.sequence.lattice import front_index, live_places
from probjax.sequence.transducer_arcs import KINDS

PredictStep = Callable[[Any, Int[Array, ""]], tuple[Any, Array]]
"""`predict_step(state, token) -> (state, output)`; the blank stands for the beginning."""


class RNNTDecoded(NamedTuple):
    """A labelling found frame by frame."""

    tokens: Int[Array, "*batch max_len"]
    """The labels, followed by -1."""
    length: Int[Array, "*batch"]
    """How many they are."""
    frames: Int[Array, "*batch max_len"]
    """In which frame each came, followed by -1."""
    score: Float[Array, "*batch"]
    """Log probability of the path, blanks included; NaN for a traced length out of range."""
    is_overflow: Bool[Array, "*batch"]
    """Whether a label was given up for want of `max_len`."""
    is_nonfinite: Bool[Array, "*batch"]
    """Whether a live frame had logits that no distribution has; it was passed over."""


class RNNTBeam(NamedTuple):
    """The labellings of a beam, best first; a slot that is not taken has log probability -inf."""

    tokens: Int[Array, "*batch width max_len"]
    """The labels, followed by -1."""
    lengths: Int[Array, "*batch width"]
    """How many they are."""
    log_probs: Float[Array, "*batch width"]
    """Logarithm of the sum over those paths of the labelling that the beam has seen; NaN for a
    traced length out of range."""
    is_overflow: Bool[Array, "*batch"]
    """Whether a hypothesis that would have stayed was given up for want of `max_len`."""
    is_nonfinite: Bool[Array, "*batch"]
    """Whether a live frame had logits that no distribution has; it was passed over."""


class _Hypotheses(NamedTuple):
    """What a beam carries of each labelling."""

    tokens: Array
    lengths: Array
    log_probs: Array
    state: Any
    output: Array


def rnnt_greedy(
    predict_step: PredictStep,
    joint_fn: Callable[[Array, Array], Array],
    predict_state: Any,
    enc: Float[Array, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    max_len: int,
    max_symbols: int = 3,
    kind: str = "regular",
    blank_id: int = 0,
) -> RNNTDecoded:
    """Take the likeliest class at every node.

    In each frame labels are taken until the blank is likeliest, or `max_symbols` are out; then the
    blank is taken. Of kind `"modified"` a frame has one class, of kind `"constrained"` at most one
    label. The path is not the likeliest path, and its labels not the likeliest labelling.

    Args:
        predict_step: `predict_step(state, token) -> (state, output)`; first it is given the blank.
        joint_fn: `joint_fn(enc (E,), output) -> logits (V,)`.
        predict_state: pytree, what the predictor knows before anything was said.
        enc: the encoder's output `(T, E)` or `(B, T, E)`.
        logit_lengths: live frames, `()` or `(B,)`; all when `None`.
        max_len: how many labels fit in the answer.
        max_symbols: most labels in one frame; only for kind `"regular"`.
        kind: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.

    Returns:
        `RNNTDecoded`.

    Raises:
        ValueError: shapes do not fit, a number is below 1, a name is unknown, or a concrete length
            is out of range.

    Example:
        >>> enc = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
        >>> step = lambda state, token: (state, jnp.zeros(2))
        >>> found = rnnt_greedy(step, jnp.add, (), enc, max_len=3, kind="modified")
        >>> print(found.tokens, found.frames)
        [ 1  1 -1] [ 0  2 -1]

    References:
        Graves 2012.
    """
    limit = _limit(kind, max_symbols, max_len)

    def one(enc: Array, count: Array, valid: Array) -> RNNTDecoded:
        networks = predict_step, joint_fn, predict_state
        blank, state, output, dtype = _beginning(*networks, enc, blank_id)

        def symbol(carry: Any, nth: Array) -> tuple[Any, None]:
            found, state, output, is_open, frame, enc_t = carry
            logits = rows.working("joint_fn(enc, pred)", joint_fn(enc_t, output), event_ndim=1)
            is_good = is_law(logits)
            log_probs = jax.nn.log_softmax(jnp.where(is_good, logits, 0.0))
            label = jnp.argmax(log_probs).astype(jnp.int32)
            wanted = is_open & is_good & (label != blank) & (nth < limit)
            speaks = wanted & (found.length < max_len)
            closes = is_open & is_good & ~speaks
            place = jnp.where(speaks, found.length, max_len)
            gain = jnp.where(speaks, log_probs[label], jnp.where(closes, log_probs[blank], 0.0))
            found = RNNTDecoded(
                found.tokens.at[place].set(label, mode="drop"),
                found.length + speaks.astype(jnp.int32),
                found.frames.at[place].set(frame, mode="drop"),
                found.score + gain,
                found.is_overflow | (wanted & ~speaks),
                found.is_nonfinite | (is_open & ~is_good),
            )
            after = predict_step(state, jnp.where(speaks, label, blank))
            after = _same(after, (state, output))
            state, output = jax.tree.map(
                lambda new, old: jnp.where(speaks, new, old), after, (state, output)
            )
            goes_on = speaks & (kind != "modified")
            return (found, state, output, goes_on, frame, enc_t), None

        def step(carry: Any, given: tuple[Array, Array]) -> tuple[Any, None]:
            frame, enc_t = given
            nths = jnp.arange(limit + (kind != "modified"), dtype=jnp.int32)
            inner = (*carry, frame < count, frame, enc_t)
            return jax.lax.scan(symbol, inner, nths)[0][:3], None

        nothing = jnp.full(max_len, -1, jnp.int32)
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        found = RNNTDecoded(nothing, zero, nothing, jnp.zeros((), dtype), no, no)
        carry = rows.varying_over((found, state, output), (enc, count))
        frames = rows.varying_over(jnp.arange(enc.shape[0], dtype=jnp.int32), (enc, count))
        found = jax.lax.scan(step, carry, (frames, enc))[0][0]
        return found._replace(score=jnp.where(valid, found.score, jnp.nan))

    return _over_inputs(one, enc, logit_lengths)


def rnnt_beam(
    predict_step: PredictStep,
    joint_fn: Callable[[Array, Array], Array],
    predict_state: Any,
    enc: Float[Array, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    beam_width: int,
    max_len: int,
    max_symbols: int = 3,
    kind: str = "regular",
    blank_id: int = 0,
) -> RNNTBeam:
    r"""Find the likeliest labellings, paths of one labelling added up.

    Frame by frame: hypotheses grow by up to `max_symbols` labels, the `beam_width` best of each
    number are kept, a blank closes each; equal labellings, compared label by label, become one,
    and the `beam_width` best go on. With a beam as wide as there are labellings, and as many
    symbols as labels, the log probabilities are those of `rnnt_loss`.

    Args:
        predict_step: as for `rnnt_greedy`; its state may depend on nothing but the labels read.
        joint_fn: as for `rnnt_greedy`.
        predict_state: as for `rnnt_greedy`.
        enc: as for `rnnt_greedy`.
        logit_lengths: as for `rnnt_greedy`.
        beam_width: hypotheses carried.
        max_len: as for `rnnt_greedy`.
        max_symbols: as for `rnnt_greedy`.
        kind: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.

    Returns:
        `RNNTBeam`.

    Raises:
        ValueError: as for `rnnt_greedy`.

    Example:
        >>> enc = jnp.log(jnp.array([[0.75, 0.25]] * 2))
        >>> step = lambda state, token: (state, jnp.zeros(2))
        >>> found = rnnt_beam(step, jnp.add, (), enc, beam_width=3, max_len=2, kind="modified")
        >>> print((16 * jnp.exp(found.log_probs)).round(), found.lengths)
        [9. 6. 1.] [0 1 2]

    References:
        Graves 2012.
    """
    limit = _limit(kind, max_symbols, max_len)
    core_checks.at_least("beam_width", beam_width, 1)
    width = beam_width

    def one(enc: Array, count: Array, valid: Array) -> RNNTBeam:
        networks = predict_step, joint_fn, predict_state
        blank, state, output, dtype = _beginning(*networks, enc, blank_id)

        def grow(enc_t: Array, hyps: _Hypotheses) -> tuple[_Hypotheses, tuple[_Hypotheses, Any]]:
            """Hypotheses one label longer; those given, closed by a blank; the two flags."""
            logits = jax.vmap(joint_fn, (None, 0))(enc_t, hyps.output)
            logits = rows.working("joint_fn(enc, pred)", logits, event_ndim=2)
            is_live = hyps.log_probs > -jnp.inf
            is_good = is_law(logits) | ~is_live
            log_probs = jax.nn.log_softmax(jnp.where(is_law(logits)[:, None], logits, 0.0))
            closed = hyps._replace(log_probs=hyps.log_probs + log_probs[:, blank])
            scores = (hyps.log_probs[:, None] + log_probs).at[:, blank].set(-jnp.inf)
            is_full = (hyps.lengths == max_len)[:, None]
            best, picks = _top(jnp.where(is_full, -jnp.inf, scores).reshape(-1), width)
            lost = jnp.max(jnp.where(is_full, scores, -jnp.inf))
            source, label = picks // logits.shape[1], (picks % logits.shape[1]).astype(jnp.int32)
            parent = jax.tree.map(lambda x: x[source], hyps)
            is_new = best > -jnp.inf
            place = jnp.where(is_new, parent.lengths, max_len)
            tokens = jax.vmap(lambda row, i, k: row.at[i].set(k, mode="drop"))(
                parent.tokens, place, label
            )
            after = jax.vmap(predict_step)(parent.state, jnp.where(is_new, label, blank))
            after = _same(after, (parent.state, parent.output))
            lengths = parent.lengths + is_new.astype(jnp.int32)
            grown = _Hypotheses(tokens, lengths, best, *after)
            return grown, (closed, (lost > jnp.min(best), ~jnp.all(is_good)))

        def step(carry: Any, given: tuple[Array, Array]) -> tuple[Any, None]:
            hyps, is_overflow, is_nonfinite = carry
            frame, enc_t = given
            if kind == "modified":
                grown, (closed, (lost, bad)) = grow(enc_t, hyps)
                pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), closed, grown)
            else:
                stages = jax.lax.scan(
                    lambda hyps, _: grow(enc_t, hyps), hyps, None, length=limit + 1
                )[1]
                pool = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stages[0])
                # What the last stage proposes is never used.
                lost, bad = jnp.any(stages[1][0][:-1]), jnp.any(stages[1][1])
            merged = _merged(pool)
            best, picks = _top(merged, width)
            new = jax.tree.map(lambda x: x[picks], pool)._replace(log_probs=best)
            is_live = frame < count
            takes = is_live & ~bad
            new = jax.tree.map(lambda after, before: jnp.where(takes, after, before), new, hyps)
            return (new, is_overflow | (takes & lost), is_nonfinite | (is_live & bad)), None

        hyps = _Hypotheses(
            jnp.full((width, max_len), -1, jnp.int32),
            jnp.zeros(width, jnp.int32),
            jnp.full(width, -jnp.inf, dtype).at[0].set(0.0),
            *jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), (state, output)),
        )
        no = jnp.zeros((), bool)
        carry = rows.varying_over((hyps, no, no), (enc, count))
        frames = rows.varying_over(jnp.arange(enc.shape[0], dtype=jnp.int32), (enc, count))
        (hyps, *flags), _ = jax.lax.scan(step, carry, (frames, enc))
        is_live = hyps.log_probs > -jnp.inf
        return RNNTBeam(
            jnp.where(is_live[:, None], hyps.tokens, -1),
            jnp.where(is_live, hyps.lengths, 0),
            jnp.where(valid, hyps.log_probs, jnp.nan),
            *flags,
        )

    return _over_inputs(one, enc, logit_lengths)


def _merged(pool: _Hypotheses) -> Float[Array, " pool"]:
    """Log probabilities of labellings: the first of equal ones has the sum, the others nothing."""
    same = jnp.all(pool.tokens[:, None] == pool.tokens[None], axis=-1)
    same &= pool.lengths[:, None] == pool.lengths[None]
    is_live = pool.log_probs > -jnp.inf
    same &= is_live[:, None] & is_live[None]
    is_first = jnp.argmax(same, axis=1) == jnp.arange(same.shape[0])
    total = logsumexp(jnp.broadcast_to(pool.log_probs, same.shape), axis=1, where=same)
    return jnp.where(is_first & is_live, total, -jnp.inf)


def _top(scores: Array, width: int) -> tuple[Array, Array]:
    """The best, and where they are; filled with -inf if there are too few."""
    short = max(width - scores.shape[0], 0)
    best, picks = jax.lax.top_k(jnp.pad(scores, (0, short), constant_values=-jnp.inf), width)
    return best, jnp.minimum(picks, scores.shape[0] - 1)


def _limit(kind: str, max_symbols: int, max_len: int) -> int:
    """How many labels one frame may have."""
    core_checks.one_of("kind", kind, KINDS)
    core_checks.at_least("max_len", max_len, 1)
    limit = core_checks.at_least("max_symbols", max_symbols, 1)
    return limit if kind == "regular" else 1


def _beginning(
    predict_step: PredictStep, joint_fn: Any, state: Any, enc: Array, blank_id: int
) -> tuple[int, Any, Array, Any]:
    """The blank's index, what the predictor says first, and the dtype of scores."""
    token, frame = jnp.zeros((), jnp.int32), jax.ShapeDtypeStruct(enc.shape[1:], enc.dtype)
    state = jax.tree.map(jnp.asarray, state)
    output = jax.eval_shape(predict_step, state, token)[1]
    logits = jax.eval_shape(joint_fn, frame, output)
    core_checks.shape("joint_fn(enc, pred)", logits, (None,))
    blank = front_index(blank_id, logits.shape[0])
    first, output = predict_step(state, jnp.asarray(blank, jnp.int32))
    first = trees.same_layout("the state of predict_step", first, "the state given", state)
    narrow = jnp.finfo(logits.dtype).bits < 32
    return blank, first, output, jnp.dtype(jnp.float32) if narrow else logits.dtype


def _same(after: Any, before: Any) -> Any:
    """What the predictor returns has to keep its layout."""
    return trees.same_layout("what predict_step returns", after, "what it returned first", before)


def _over_inputs(one: Callable[[Array, Array, Array], Any], enc: Array, lengths: Any) -> Any:
    """Call `one(enc, num_frames, valid)` for each input."""
    enc = jnp.asarray(enc)
    no_labels = jnp.zeros((*enc.shape[:-2], 0), jnp.int32)
    given = emissions.prepare(enc, no_labels, lengths, name="enc")
    live = live_places(given.frames, enc.shape[:-2], enc.shape[-2])[..., None]
    enc = jnp.where(live, enc, 0.0)
    mapped = one if enc.ndim == 2 else jax.vmap(one)
    return mapped(enc, given.frames, given.valid)
