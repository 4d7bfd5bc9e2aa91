"""One beam step after the other: a dictionary's twin, merging, repeats, overflow, models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probjax.sequence import beam
from probjax.sequence.beam import LanguageModel, beam_init, beam_step
from probjax.sequence.decoding import beam_decode

BATCH, FRAMES, CLASSES, WIDTH = 4, 12, 3, 4
LAW = np.log(np.random.default_rng(3).dirichlet(np.ones(CLASSES), size=(CLASSES, CLASSES)))


def trigrams():
    """A model whose state is the last two labels."""
    law = jnp.asarray(LAW)

    def step(state, token):
        one, _ = state
        return (token, one), law[one, token]

    return LanguageModel(lambda: (jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)), step)


def model_score(labels):
    padded = (0, 0, *labels)
    return sum(LAW[padded[i], padded[i + 1], label] for i, label in enumerate(labels))


def search(logits, lm_weight, length_bonus, **options):
    options = {"beam_width": WIDTH, "lm": trigrams(), "exact": False, **options}
    return beam_decode(logits, lm_weight=lm_weight, length_bonus=length_bonus, **options)


@functools.cache
def program():
    return jax.jit(search)


def twin(log_probs, *, width, score, blank=0, labels_of=None, max_len=FRAMES):
    """The search with a dictionary: prefixes are tuples, and equal tuples are one."""
    held = {(): (0.0, -np.inf)}
    is_overflow = False
    for frame in log_probs:
        proposed = range(len(frame)) if labels_of is None else labels_of(frame)
        into, parts = {}, {}

        def add(y, slot, value, into=into):
            into.setdefault(y, [-np.inf, -np.inf])
            into[y][slot] = np.logaddexp(into[y][slot], value)

        for y, (p_blank, p_label) in held.items():
            total = np.logaddexp(p_blank, p_label)
            add(y, 0, total + frame[blank])
            if y:
                add(y, 1, p_label + frame[y[-1]])
            for k in range(len(frame)):
                longer = (*y, k)
                if k == blank or (k not in proposed and longer not in held):
                    continue
                value = (p_blank if y and y[-1] == k else total) + frame[k]
                if len(longer) > max_len:
                    parts[longer] = value
                else:
                    add(longer, 1, value)
        ranks = {y: np.logaddexp(*p) + score(y) for y, p in into.items()}
        ranks = {y: rank for y, rank in ranks.items() if rank > -np.inf}
        held = {y: into[y] for y in sorted(ranks, key=lambda y: -ranks[y])[:width]}
        worst = min(ranks[y] for y in held) if len(held) == width else -np.inf
        is_overflow |= any(value + score(y) > worst for y, value in parts.items())
    return {y: np.logaddexp(*p) for y, p in held.items()}, is_overflow


def draw(seed):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.3, 3, size=(BATCH, 1, 1))
    return rng.normal(size=(BATCH, FRAMES, CLASSES)) * spread


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def check_against_twin(found, logits, lm_weight, length_bonus, *, width=WIDTH, **options):
    for b, x in enumerate(logits):

        def score(y):
            return lm_weight * model_score(y) + length_bonus * len(y)

        expected, is_overflow = twin(log_softmax(x), width=width, score=score, **options)
        assert bool(found.is_overflow[b]) == is_overflow
        live = np.isfinite(found.score[b])
        ours = {
            tuple(row[:size].tolist()): (float(log_prob), float(total))
            for row, size, log_prob, total in zip(
                np.asarray(found.tokens[b])[live],
                np.asarray(found.lengths[b])[live],
                np.asarray(found.log_prob[b])[live],
                np.asarray(found.score[b])[live],
                strict=True,
            )
        }
        assert list(ours) == list(expected) and len(ours) == live.sum()
        for y, (log_prob, total) in ours.items():
            np.testing.assert_allclose(log_prob, expected[y], atol=1e-10, rtol=0)
            np.testing.assert_allclose(total, expected[y] + score(y), atol=1e-10, rtol=0)


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(-1, 1))
def test_a_narrow_beam_is_the_dictionary_search(seed, lm_weight, length_bonus):
    """Few labels, many frames: prefixes are lost, found again and merged all the time."""
    with jax.enable_x64(True):
        logits = draw(seed)
        found = program()(jnp.asarray(logits), lm_weight, length_bonus)
        check_against_twin(found, logits, lm_weight, length_bonus)


@pytest.mark.slow
def test_many_more_searches_of_several_widths(x64):
    for width in (1, 2, 7, 30):
        run = jax.jit(functools.partial(search, beam_width=width))
        for seed in range(25):
            logits = draw(seed)
            found = run(jnp.asarray(logits), 0.4, 0.3)
            check_against_twin(found, logits, 0.4, 0.3, width=width)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "labels_of"),
    [
        ({"token_top_k": 1}, lambda frame: [1 + int(np.argmax(frame[1:]))]),
        ({"prune_log_prob": -1.0}, lambda frame: np.flatnonzero(frame >= -1.0).tolist()),
    ],
)
def test_pruned_labels_are_not_proposed_but_still_counted(x64, options, labels_of):
    run = jax.jit(functools.partial(search, **options))
    for seed in range(20):
        logits = draw(seed)
        found = run(jnp.asarray(logits), 0.4, 0.3)
        check_against_twin(found, logits, 0.4, 0.3, labels_of=labels_of)


@pytest.mark.slow
def test_overflow_is_flagged_where_it_costs_a_hypothesis(x64):
    run = jax.jit(functools.partial(search, max_len=3))
    flags = []
    for seed in range(20):
        logits = draw(seed)
        logits[0, :, 0] += 6  # nearly all blanks: nothing is lost
        found = run(jnp.asarray(logits), 0.0, 0.0)
        check_against_twin(found, logits, 0.0, 0.0, max_len=3)
        flags.append(np.asarray(found.is_overflow))
    flags = np.array(flags)
    assert flags[:, 1:].mean() > 0.5 and flags[:, 0].mean() < 0.5


def run_steps(frames, width=6, **options):
    """The states behind each frame."""
    state = beam_init(frames.shape[-1], beam_width=width, max_len=4, dtype=frames.dtype)
    states = []
    step = jax.jit(functools.partial(beam_step, **options))
    for frame in frames:
        state = step(state, frame)
        states.append(state)
    return states


def check_repeat(states):
    """Two frames of probabilities (b, p): [1] takes 2bp + p^2, and [1, 1] needs three frames."""
    blank, p = 0.3, 0.7
    by_prefix = [
        {
            tuple(row[:size]): (blank_sum, label_sum)
            for row, size, blank_sum, label_sum in zip(
                np.asarray(state.tokens).tolist(),
                np.asarray(state.lengths).tolist(),
                np.exp(state.log_p_blank).tolist(),
                np.exp(state.log_p_label).tolist(),
                strict=True,
            )
            if blank_sum + label_sum > 0
        }
        for state in states
    ]
    for found, expected in zip(
        by_prefix,
        [
            {(): (blank, 0), (1,): (0, p)},
            {(): (blank**2, 0), (1,): (p * blank, p * blank + p**2)},
            {
                (): (blank**3, 0),
                (1,): (2 * p * blank**2 + p**2 * blank, p * blank**2 + blank * p**2 + p**3),
                (1, 1): (0, p * blank * p),
            },
        ],
        strict=True,
    ):
        assert found.keys() == expected.keys()
        for y, sums in expected.items():
            np.testing.assert_allclose(found[y], sums, rtol=1e-12, atol=1e-15)


def test_repeated_labels_and_merged_prefixes_by_hand(x64):
    check_repeat(run_steps(jnp.log(jnp.array([[0.3, 0.7]] * 3))))


def no_merging(state):
    return jnp.zeros_like(state.lengths, bool), jnp.zeros_like(state.lengths)


def swapped(label, last, log_p_blank, total):
    """The mass that ends in the label, where that in a blank is due."""
    label_only = jnp.log(jnp.maximum(jnp.exp(total) - jnp.exp(log_p_blank), 0.0))
    return jnp.where(label == last, label_only, total)


def never_blank(label, last, log_p_blank, total):
    return total + 0 * (label + last).astype(total.dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutant"),
    [("_parents", no_merging), ("_mass_before", swapped), ("_mass_before", never_blank)],
)
def test_the_checks_kill_mistakes(x64, monkeypatch, name, mutant):
    monkeypatch.setattr(beam, name, mutant)
    with pytest.raises(AssertionError):
        check_repeat(run_steps(jnp.log(jnp.array([[0.3, 0.7]] * 3))))
    logits = draw(0)
    found = jax.jit(lambda x: search(x, 0.4, 0.3))(jnp.asarray(logits))
    with pytest.raises(AssertionError):
        check_against_twin(found, logits, 0.4, 0.3)


@pytest.mark.slow
def test_the_checks_kill_a_model_that_keeps_its_state(x64, monkeypatch):
    true = beam._judged

    def stale(new, old, *rest):
        return true(new, old, *rest)._replace(lm_state=old.lm_state)

    monkeypatch.setattr(beam, "_judged", stale)
    logits = draw(0)
    found = jax.jit(lambda x: search(x, 1.5, 0.3))(jnp.asarray(logits))
    with pytest.raises(AssertionError):
        check_against_twin(found, logits, 1.5, 0.3)


def test_the_table_of_prefixes_is_that_of_the_tokens():
    rng = np.random.default_rng(0)
    frames = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(9, 3)), jnp.float32))
    state = jax.tree.map(np.asarray, run_steps(frames)[-1])
    prefixes = [row[:size].tolist() for row, size in zip(state.tokens, state.lengths, strict=True)]
    table = [[a[: len(b)] == b for b in prefixes] for a in prefixes]
    np.testing.assert_array_equal(state.is_prefix, table)
    assert len({tuple(y) for y in prefixes}) == 6


def test_a_frame_that_is_no_law_changes_nothing_but_the_flag():
    frames = jnp.log(jnp.array([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1]]))
    step = jax.jit(beam_step)
    state = step(beam_init(3, beam_width=6, max_len=4), frames[0])
    for bad in ([np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0], [-np.inf] * 3):
        after = step(state, jnp.array(bad))
        assert bool(after.is_nonfinite)
        jax.tree.map(np.testing.assert_array_equal, after._replace(is_nonfinite=False), state)
    assert not bool(step(state, frames[1]).is_nonfinite)


@pytest.mark.slow
def test_a_model_may_leave_the_blank_undefined_but_nothing_else(x64):
    logits = draw(1)

    def with_entry(place):
        model = trigrams()

        def step(state, token):
            state, law = model.step(state, token)
            return state, law.at[place].set(jnp.nan)

        return jax.jit(lambda x: search(x, 0.7, 0.0, lm=LanguageModel(model.init, step)))

    check_against_twin(with_entry(0)(jnp.asarray(logits)), logits, 0.7, 0.0)
    assert np.isnan(with_entry(2)(jnp.asarray(logits)).score).all()


def test_bad_input_is_named():
    state = beam_init(3, beam_width=2, max_len=4)
    with pytest.raises(ValueError, match="lm must be given to beam_init and beam_step alike"):
        beam_step(state, jnp.zeros(3), lm=trigrams())
    with pytest.raises(ValueError, match=r"log_probs of lm.step must have shape \(4,\)"):
        beam_init(4, beam_width=2, max_len=4, lm=trigrams())
    with pytest.raises((ValueError, TypeError), match="log_probs"):
        jax.eval_shape(beam_step, state, jnp.zeros((2, 3)))
    grows = LanguageModel(lambda: (), lambda state, token: ((*state, token), jnp.zeros(3)))
    state = beam_init(3, beam_width=2, max_len=4, lm=grows)
    with pytest.raises(ValueError, match="the state of lm.step must have the structure of"):
        jax.eval_shape(functools.partial(beam_step, lm=grows), state, jnp.zeros(3))
