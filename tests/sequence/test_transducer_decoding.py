"""Greedy search against a loop, the beam against the loss of every labelling."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import transducer_decoding as decoding
from probjax.sequence.transducer import rnnt_loss

FRAMES, CLASSES, MAX_LEN, BLANK = 3, 3, 3, 1
SPEAKABLE = (0, 2)
LABELLINGS = [y for n in range(MAX_LEN + 1) for y in itertools.product(SPEAKABLE, repeat=n)]
NETWORK = np.random.default_rng(0).normal(size=(CLASSES, 4, CLASSES)) * 1.5


def predict_step(state, token):
    """A predictor that knows the last label and how many there were."""
    count = jnp.minimum(state + (token != BLANK).astype(jnp.int32), 3)
    return count, jnp.asarray(NETWORK)[token, count].astype(jnp.result_type(float))


def joint_fn(enc, pred):
    return enc * jnp.cos(pred) + pred


def inputs(seed=1):
    enc = np.random.default_rng(seed).normal(size=(4, FRAMES, CLASSES)) * 1.5
    lengths = np.array([3, 2, 0, 3])
    enc[1, 2:] = np.nan
    return jnp.asarray(enc), jnp.asarray(lengths)


def log_probs_of(enc, labels):
    """Log-probabilities `(T, U + 1, V)` of one input along one labelling, in NumPy."""
    rows = np.stack([
        NETWORK[labels[n - 1] if n else BLANK, min(n, 3)] for n in range(len(labels) + 1)
    ])  # fmt: skip
    z = enc[:, None] * np.cos(rows) + rows
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def run_by_hand(enc, kind, max_symbols):
    """Greedy search in plain Python."""
    labels, frames, score = [], [], 0.0
    for t in range(len(enc)):
        for nth in range(max_symbols + 1):
            row = log_probs_of(enc[t : t + 1], labels)[0, -1]
            best = int(np.argmax(row))
            if best == BLANK or nth == max_symbols or len(labels) == MAX_LEN:
                score += row[BLANK]
                break
            labels, frames, score = [*labels, best], [*frames, t], score + row[best]
            if kind == "modified":
                break
    return labels, frames, score


@functools.cache
def greedy(kind, max_symbols):
    return jax.jit(
        lambda enc, lengths: decoding.rnnt_greedy(
            predict_step, joint_fn, jnp.zeros((), jnp.int32), enc, lengths,
            max_len=MAX_LEN, max_symbols=max_symbols, kind=kind, blank_id=BLANK,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "max_symbols"),
    [("regular", 2), ("modified", 1), pytest.param("constrained", 1, marks=pytest.mark.slow)],
)
def test_greedy_search_is_the_loop(x64, kind, max_symbols):
    for seed in range(4):
        enc, lengths = inputs(seed)
        found = greedy(kind, max_symbols)(enc, lengths)
        for i, count in enumerate(lengths):
            labels, frames, score = run_by_hand(np.asarray(enc[i, :count]), kind, max_symbols)
            filler = [-1] * (MAX_LEN - len(labels))
            assert found.tokens[i].tolist() == labels + filler
            assert found.frames[i].tolist() == frames + filler
            assert found.length[i] == len(labels)
            np.testing.assert_allclose(found.score[i], score, rtol=1e-12, atol=1e-14)


@functools.cache
def beam(kind, width=16, step=predict_step):
    return jax.jit(
        lambda enc, lengths: decoding.rnnt_beam(
            step, joint_fn, jnp.zeros((), jnp.int32), enc, lengths, beam_width=width,
            max_len=MAX_LEN, max_symbols=MAX_LEN, kind=kind, blank_id=BLANK,
        )
    )  # fmt: skip


@functools.cache
def losses(kind):
    """The loss of every labelling, padded to one shape."""
    return jax.jit(functools.partial(rnnt_loss, kind=kind, blank_id=BLANK))


def exact(enc, count, kind):
    """The log-probability of every labelling, the likeliest first."""
    logits = np.zeros((len(LABELLINGS), FRAMES, MAX_LEN + 1, CLASSES))
    labels = np.full((len(LABELLINGS), MAX_LEN), -1)
    for i, y in enumerate(LABELLINGS):
        logits[i, :, : len(y) + 1] = log_probs_of(np.nan_to_num(enc), y)
        labels[i, : len(y)] = y
    lengths = jnp.array([len(y) for y in LABELLINGS])
    counts = jnp.full(len(LABELLINGS), count)
    loss = losses(kind)(jnp.asarray(logits), jnp.asarray(labels), counts, lengths)
    found = {y: -float(x) for y, x in zip(LABELLINGS, loss, strict=True) if np.isfinite(x)}
    return sorted(found.items(), key=lambda item: -item[1])


def check_ranking(found, kind):
    """With room for all labellings the beam has each once, with its exact probability."""
    enc, lengths = inputs()
    for i, count in enumerate(lengths):
        truth = exact(np.asarray(enc[i]), int(count), kind)
        live = np.asarray(found.log_probs[i]) > -np.inf
        ours = [
            tuple(int(k) for k in tokens[:length])
            for tokens, length in zip(found.tokens[i][live], found.lengths[i][live], strict=True)
        ]
        assert ours == [y for y, _ in truth]
        np.testing.assert_allclose(
            found.log_probs[i][live], [p for _, p in truth], rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("kind", ["regular", pytest.param("modified", marks=pytest.mark.slow)])
def test_a_wide_beam_is_the_exact_posterior(x64, kind):
    found = beam(kind)(*inputs())
    check_ranking(found, kind)
    # The regular kind could speak for ever.
    assert found.is_overflow.tolist() == [kind == "regular" and n > 0 for n in (3, 2, 0, 3)]


@pytest.mark.slow
def test_the_constrained_kind_and_the_order_of_decoders(x64):
    check_ranking(beam("constrained")(*inputs()), "constrained")
    for seed in range(5):
        enc, lengths = inputs(seed)
        for kind, max_symbols in (("regular", 3), ("modified", 1)):
            path = greedy(kind, max_symbols)(enc, lengths)
            narrow = beam(kind, 4)(enc, lengths)
            assert (narrow.log_probs[:, 0] >= path.score - 1e-12).all()


def test_bad_frames_and_lengths_are_told(x64):
    enc, lengths = inputs()
    spoiled = enc.at[0, 1, 0].set(jnp.nan)
    found = greedy("regular", 2)(spoiled, lengths)
    assert found.is_nonfinite.tolist() == [True, False, False, False]
    assert np.isfinite(found.score).all()
    assert np.isnan(greedy("regular", 2)(enc, lengths.at[1].set(4)).score[1])
    step = lambda state, token: (state, jnp.zeros(3))
    for decode, message in [
        (lambda: decoding.rnnt_greedy(step, jnp.add, (), enc[0], max_len=0), "max_len must be at"),
        (lambda: decoding.rnnt_greedy(step, jnp.add, (), enc[0, 0], max_len=1), "enc must have sh"),
        (
            lambda: decoding.rnnt_greedy(step, jnp.add, (), enc[0], jnp.array(4), max_len=1),
            "logit_lengths=4 must be in",
        ),
        (
            lambda: decoding.rnnt_beam(step, jnp.add, (), enc[0], beam_width=0, max_len=1),
            "beam_width must be at least 1, got 0",
        ),
        (
            lambda: decoding.rnnt_greedy(
                lambda state, token: (jnp.zeros(2), jnp.zeros(3)), jnp.add, jnp.zeros(1), enc[0],
                max_len=1,
            ),
            "the state of predict_step must have the shape",
        ),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            decode()


@pytest.mark.slow
def test_one_input_is_the_batch_and_shards(x64):
    enc, lengths = inputs()
    whole = beam("regular", 4)(enc, lengths)
    one = beam("regular", 4)(enc[0], lengths[0])
    for ours, wanted in zip(one, whole, strict=True):
        np.testing.assert_allclose(ours, wanted[0], rtol=1e-12)


@pytest.mark.slow
def test_the_check_kills_mistakes(x64, monkeypatch):
    kind = "regular"
    check_ranking(beam(kind)(*inputs()), kind)

    def forgetful(state, token):  # the predictor's state not moved on
        return state, predict_step(state, token)[1]

    with pytest.raises(AssertionError):
        check_ranking(beam(kind, 16, forgetful)(*inputs()), kind)
    # Equal labellings not merged.
    monkeypatch.setattr(decoding, "_merged", lambda pool: pool.log_probs)
    with pytest.raises(AssertionError):
        unmerged = decoding.rnnt_beam(
            predict_step, joint_fn, jnp.zeros((), jnp.int32), *inputs(), beam_width=16,
            max_len=MAX_LEN, max_symbols=MAX_LEN, blank_id=BLANK,
        )  # fmt: skip
        check_ranking(unmerged, kind)


def test_a_beam_reads_no_more_labels_from_a_frame_than_allowed():
    """One frame, a label with probability 1/4 each time: k labels have 3/4 times 1/4^k."""
    for most in (1, 2):
        found = decoding.rnnt_beam(
            lambda state, token: (state, jnp.zeros(2)),
            jnp.add,
            (),
            jnp.log(jnp.array([[0.75, 0.25]])),
            beam_width=4,
            max_len=3,
            max_symbols=most,
        )
        shares = [0.75 * 0.25**k for k in range(most + 1)] + [0.0] * (3 - most)
        np.testing.assert_allclose(jnp.exp(found.log_probs), shares, rtol=1e-5)
        assert found.lengths.tolist() == [*range(most + 1), *[0] * (3 - most)]
