"""Greedy and beam decoding: enumeration of all paths, fusion, lengths, padding, errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probjax.sequence.beam import LanguageModel
from probjax.sequence.decoding import beam_decode, greedy_decode

FRAMES, CLASSES = 5, 4
WIDTH = 1 + 3 + 9 + 27 + 81 + 243  # every labelling of up to five labels
LAW = np.random.default_rng(7).normal(size=(2, CLASSES, CLASSES))


def counting_model():
    """The law of a label depends on the one before it and on how many there are."""
    law = jnp.asarray(LAW)

    def step(state, token):
        state = {"count": state["count"] + 1, "seen": state["seen"].at[state["count"]].set(token)}
        return state, law[state["count"] % 2, token]

    init = {"count": jnp.zeros((), jnp.int32), "seen": jnp.full(FRAMES + 2, -1, jnp.int32)}
    return LanguageModel(lambda: init, step)


def model_score(labels):
    before = (0, *labels[:-1])
    return sum(
        LAW[(i + 1) % 2, one, other]
        for i, (one, other) in enumerate(zip(before, labels, strict=len(labels) > 0))
    )


def compiled(function, **options):
    """The compiled function, with NumPy arrays as results: to take them apart compiles nothing."""
    program = jax.jit(functools.partial(function, **options))
    return lambda *arguments: jax.device_get(program(*arguments))


@functools.cache
def searches():
    """The programs that the tests share; the weights enter as arrays."""

    def fused(logits, lengths, lm_weight, length_bonus):
        return beam_decode(
            logits, lengths, beam_width=WIDTH, lm=counting_model(),
            lm_weight=lm_weight, length_bonus=length_bonus,
        )  # fmt: skip

    last = compiled(beam_decode, beam_width=WIDTH, blank_id=-1)
    return compiled(fused), last, compiled(greedy_decode)


def draw(seed, *, batch=3):
    logits = 2 * np.random.default_rng(seed).normal(size=(batch, FRAMES, CLASSES))
    logits[0, :, 2] = -np.inf  # a vocabulary of three
    return logits


@functools.cache
def paths_of(length, blank):
    """All paths, what each spells as a number, and the labellings by that number."""
    paths = np.array([*itertools.product(range(CLASSES), repeat=length)], int)
    spelled = [collapsed(path, blank) for path in paths.tolist()]
    labellings = sorted(set(spelled))
    number = {y: i for i, y in enumerate(labellings)}
    return paths, np.array([number[y] for y in spelled]), labellings


def collapsed(path, blank=0):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def enumerated(log_probs, blank=0):
    """The log-probability of every labelling there is, by its paths one by one."""
    paths, number, labellings = paths_of(len(log_probs), blank % CLASSES)
    masses = np.exp(log_probs[np.arange(len(log_probs)), paths].sum(axis=-1))
    sums = np.bincount(number, weights=masses)
    return {y: np.log(p) for y, p in zip(labellings, sums, strict=True) if p > 0}


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def check_ranking(found, logits, lengths, *, blank_id=0, lm_weight=0.0, length_bonus=0.0):
    """The n best are all labellings there are, each with its score, in order."""
    assert not np.asarray(found.is_overflow).any()
    for b, length in enumerate(lengths):
        posterior = enumerated(log_softmax(logits[b, :length]), blank_id)
        truth = {
            y: p + lm_weight * model_score(y) + length_bonus * len(y) for y, p in posterior.items()
        }
        scores = found.score[b]
        live = np.isfinite(scores)
        assert live.sum() == len(truth) and (scores[~live] == -np.inf).all()
        assert (found.tokens[b][~live] == -1).all()
        ranking = [
            tuple(row[:size].tolist())
            for row, size in zip(found.tokens[b][live], found.lengths[b][live], strict=True)
        ]
        assert ranking == sorted(truth, key=lambda y: -truth[y])
        np.testing.assert_allclose(scores[live], [truth[y] for y in ranking], atol=1e-10, rtol=0)
        log_probs = found.log_prob[b][live]
        np.testing.assert_allclose(log_probs, [posterior[y] for y in ranking], atol=1e-10, rtol=0)
        np.testing.assert_allclose(np.exp(log_probs).sum(), 1, atol=1e-12)


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.lists(st.integers(0, FRAMES), min_size=3, max_size=3))
def test_full_width_is_the_posterior_ranking(seed, lengths):
    """Also with a weight of zero beside a language model, which then changes nothing."""
    with jax.enable_x64(True):
        logits = draw(seed)
        for search, weights, blank in ((0, (0.0, 0.0), 0), (1, (), -1)):
            found = searches()[search](logits, np.array(lengths), *weights)
            check_ranking(found, logits, lengths, blank_id=blank)


def test_fusion_is_the_enumeration_scored_again(x64):
    logits, lengths = draw(1), np.array([5, 4, 5])
    for weight, bonus in ((0.7, 0.0), (1.3, 1.5), (0.0, -0.8)):
        found = searches()[0](logits, lengths, weight, bonus)
        check_ranking(found, logits, lengths, lm_weight=weight, length_bonus=bonus)
        y = found.tokens[1, 0, : found.lengths[1, 0]]
        np.testing.assert_allclose(found.lm_score[1, 0], model_score(tuple(y)), atol=1e-12)


@pytest.mark.slow
def test_a_weight_of_zero_gives_the_bits_of_no_model(x64):
    """Also where the model forbids a label altogether."""
    logits, lengths = draw(2), np.array([5, 3, 0])
    forbids = LanguageModel(lambda: (), lambda state, token: (state, jnp.full(CLASSES, -jnp.inf)))
    search = functools.partial(beam_decode, beam_width=WIDTH, blank_id=1)
    with_model = compiled(search, lm=forbids, lm_weight=0.0)(logits, lengths)
    without = compiled(search)(logits, lengths)
    for name in ("tokens", "lengths", "score", "log_prob"):
        np.testing.assert_array_equal(getattr(with_model, name), getattr(without, name))
    check_ranking(without, logits, lengths.tolist(), blank_id=1)
    off = compiled(search, lm=forbids)(logits, lengths)
    for b in range(3):  # what the model forbids is not found: the empty labelling is left
        assert np.isfinite(off.score[b]).tolist() == [True] + [False] * (WIDTH - 1)
        assert int(off.lengths[b, 0]) == 0


def test_three_frames_on_which_greedy_is_not_best(x64):
    logits = np.full((3, FRAMES, CLASSES), -np.inf)
    logits[:, :, :2] = np.log([0.75, 0.25])
    lengths = np.array([3, 1, 0])
    found = searches()[0](logits, lengths, 0.0, 0.0)
    assert found.tokens[0, :3, :2].tolist() == [[1, -1], [-1, -1], [1, 1]]
    np.testing.assert_allclose(64 * np.exp(found.score[0, :3]), [34, 27, 3], rtol=1e-12)
    greedy = searches()[2](logits, lengths)
    assert greedy.lengths.tolist() == [0, 0, 0]
    np.testing.assert_allclose(np.exp(greedy.score), [27 / 64, 3 / 4, 1], rtol=1e-12)


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.lists(st.integers(0, FRAMES), min_size=3, max_size=3))
def test_greedy_is_the_collapsed_best_path_and_the_beam_is_not_below(seed, lengths):
    with jax.enable_x64(True):
        logits = draw(seed)
        greedy = searches()[2](logits, np.array(lengths))
        best = searches()[0](logits, np.array(lengths), 0.0, 0.0)
        for b, length in enumerate(lengths):
            log_probs = log_softmax(logits[b, :length])
            labels = collapsed(log_probs.argmax(axis=-1).tolist())
            assert greedy.tokens[b].tolist() == list(labels) + [-1] * (FRAMES - len(labels))
            assert int(greedy.lengths[b]) == len(labels)
            np.testing.assert_allclose(greedy.score[b], log_probs.max(axis=-1).sum(), atol=1e-12)
            posterior = enumerated(log_probs)[labels]
            assert greedy.score[b] <= posterior + 1e-12
            assert best.score[b, 0] >= posterior - 1e-12


@pytest.mark.parametrize("with_model", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_narrow_beam_is_exact_and_never_below_greedy(x64, with_model):
    """Its own sums are lower bounds, of other labellings too."""
    rng = np.random.default_rng(3)
    spreads = rng.uniform(0.3, 3, size=(32, 1, 1))
    logits = rng.normal(size=(32, 20, CLASSES)) * spreads
    options = {"beam_width": 2, "max_len": 18, "length_bonus": 0.3}
    if with_model:
        options |= {"lm": short_model(), "lm_weight": 0.8}

    def run(logits):
        exact = beam_decode(logits, **options)
        return greedy_decode(logits), exact, beam_decode(logits, exact=False, **options)

    greedy, exact, bounds = compiled(run)(logits)
    log_probs = log_softmax(logits)

    def score(b, labels):
        model = 0.8 * short_score(labels) if with_model else 0.0
        return forward(log_probs[b], labels) + model + 0.3 * len(labels)

    gains = []
    for b in range(32):
        of_greedy = score(b, greedy.tokens[b, : int(greedy.lengths[b])].tolist())
        found = [exact.tokens[b, i, : int(exact.lengths[b, i])].tolist() for i in range(2)]
        np.testing.assert_allclose(exact.score[b], [score(b, y) for y in found], atol=1e-9)
        np.testing.assert_allclose(
            exact.log_prob[b], [forward(log_probs[b], y) for y in found], atol=1e-9
        )
        assert found[0] != found[1] and exact.score[b, 0] >= exact.score[b, 1]
        gains.append(float(exact.score[b, 0]) - of_greedy)
        best = bounds.tokens[b, 0, : int(bounds.lengths[b, 0])].tolist()
        assert bounds.log_prob[b, 0] <= forward(log_probs[b], best) + 1e-9
        assert exact.score[b, 0] >= score(b, best) - 1e-9
    assert min(gains) > -1e-9 and max(gains) > 0.1


def short_model():
    law = jnp.asarray(LAW[0])
    return LanguageModel(lambda: (), lambda state, token: (state, law[token]))


def short_score(labels):
    return sum(LAW[0][one, other] for one, other in itertools.pairwise((0, *labels)))


def forward(log_probs, labels, blank=0):
    """The log-probability of one labelling, by the lattice's recursion."""
    states = [blank]
    for label in labels:
        states += [int(label), blank]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_probs[0, states[:2]]
    for frame in log_probs[1:]:
        before, alpha = alpha, np.full(len(states), -np.inf)
        for s, label in enumerate(states):
            sources = [before[s]] + ([before[s - 1]] if s > 0 else [])
            if s > 1 and label != blank and label != states[s - 2]:
                sources.append(before[s - 2])
            alpha[s] = np.logaddexp.reduce(sources) + frame[label]
    return np.logaddexp.reduce(alpha[-2:])


def test_padding_neighbours_and_order_leave_a_row_alone(x64):
    """The same program throughout, so the bits are the same, too."""
    logits, lengths = draw(4), np.array([4, 2, 5])
    dirty = logits.copy()
    dirty[0, 4:], dirty[1, 2:] = np.nan, np.inf
    dirty[2, 1, 3] = np.nan  # a bad frame harms its own sequence only
    runs = []
    for x, order in ((logits, [0, 1, 2]), (dirty, [0, 1, 2]), (dirty, [2, 0, 1])):
        x, n = x[order], lengths[order]
        found = (searches()[0](x, n, 0.9, 0.3), searches()[2](x, n))
        back = np.argsort(order)
        runs.append(jax.tree.map(lambda leaf, back=back: leaf[back], found))
    clean, bad, moved = runs
    jax.tree.map(np.testing.assert_array_equal, bad, moved)
    for ours, theirs in zip(clean, bad, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:2], b[:2]), ours, theirs)
    for result in bad:
        assert np.isnan(result.score[2]).all() and (result.tokens[2] == -1).all()
        assert (result.lengths[2] == 0).all()


def test_a_traced_length_out_of_range_poisons_its_row_only(x64):
    logits = draw(5)
    for length in (-1, FRAMES + 1):
        for found in (
            searches()[0](logits, np.array([5, length, 3]), 0.0, 0.0),
            searches()[2](logits, np.array([5, length, 3])),
        ):
            scores = found.score.reshape(3, -1)[:, 0]
            assert np.isnan(scores).tolist() == [False, True, False]


def test_greedy_of_one_sequence_and_without_merging():
    path = np.array([1, 1, 0, 1, 2, 2, 0])
    logits, greedy = np.float32(5 * np.eye(3)[path]), searches()[2]
    assert greedy(logits).tokens.tolist() == [1, 1, 2, -1, -1, -1, -1]
    apart = compiled(greedy_decode, merge_repeated=False)(logits, 6)
    assert apart.tokens.tolist() == [1, 1, 1, 2, 2, -1, -1] and int(apart.lengths) == 5
    last = compiled(greedy_decode, blank_id=-1)(np.roll(logits, -1, axis=-1))
    assert last.tokens.tolist() == [0, 0, 1, -1, -1, -1, -1]
    half = greedy(logits.astype(jnp.bfloat16))
    assert half.score.dtype == jnp.float32 and half.tokens.tolist()[:3] == [1, 1, 2]
    none = greedy(logits[:0])
    assert none.tokens.shape == (0,) and float(none.score) == 0


def check_merges_before_dropping(decode):
    """A blank between equal labels keeps both; without one they are one."""
    for path in ([1, 0, 1, 1], [1, 1, 1, 1], [0, 2, 2, 0], [2, 1, 0, 1]):
        logits = jnp.asarray(9 * np.eye(3)[path], jnp.float32)
        tokens, length = decode(logits)
        assert tuple(np.asarray(tokens)[: int(length)].tolist()) == collapsed(path)


@pytest.mark.slow
def test_the_check_kills_blanks_dropped_first():
    check_merges_before_dropping(lambda logits: greedy_decode(logits)[:2])

    def mutant(logits):
        path = np.asarray(logits).argmax(axis=-1)
        kept = path[path != 0]
        merged = kept[np.flatnonzero(np.diff(kept, prepend=-1))]
        return merged, len(merged)

    with pytest.raises(AssertionError):
        check_merges_before_dropping(mutant)


def test_beam_without_frames_and_fewer_answers():
    found = compiled(beam_decode, beam_width=4, num_best=2)(np.zeros((2, 0, 3), np.float32))
    assert found.tokens.shape == (2, 2, 1) and found.lengths.tolist() == [[0, 0], [0, 0]]
    np.testing.assert_array_equal(found.score, [[0, -np.inf], [0, -np.inf]])


@pytest.mark.slow
def test_scores_can_be_differentiated_and_padding_gets_no_gradient(x64):
    logits = draw(6)
    logits[0, :, 2] = draw(7)[1, :, 2]
    logits[:, 4:] = np.nan

    def best(x):
        return jnp.sum(beam_decode(x, jnp.full(3, 4), beam_width=WIDTH, num_best=2).score)

    x = jnp.asarray(logits)
    slope = np.asarray(jax.jit(jax.grad(best))(x))
    assert (slope[:, 4:] == 0).all() and np.isfinite(slope).all()
    np.testing.assert_allclose(slope.sum(axis=-1), 0, atol=1e-12)
    value = jax.jit(best)
    for place in ((0, 0, 1), (1, 3, 0), (2, 2, 3)):
        ends = [float(value(x.at[place].add(d))) for d in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope[place], (ends[0] - ends[1]) / 2e-5, atol=1e-8)


@pytest.mark.slow
def test_eight_devices_give_the_answers_of_one(x64):
    from probjax import sharding

    logits, lengths = jnp.asarray(draw(8, batch=8)), jnp.array([5, 4, 0, 3, 5, 2, 1, 5])

    def one(logits, length):
        lm = counting_model()
        return greedy_decode(logits, length), beam_decode(logits, length, beam_width=6, lm=lm)

    mapped = [sharding.map_items(one, sharding.make_mesh(n))(logits, lengths) for n in (1, 8)]
    plain = jax.jit(jax.vmap(one))(logits, lengths)
    for result in mapped:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), result, plain)


@pytest.mark.parametrize("decode", [greedy_decode, beam_decode])
def test_bad_input_is_named(decode):
    logits = jnp.zeros((2, 3, 4))
    with pytest.raises(TypeError, match="logits"):
        decode(jnp.zeros((2, 3, 4), jnp.int32))
    with pytest.raises(ValueError, match=r"blank_id=4 must be in \[-4, 4\)"):
        decode(logits, blank_id=4)
    with pytest.raises(ValueError, match=r"lengths\[1\]=4 must be in \[0, 3\]"):
        decode(logits, jnp.array([3, 4]))
    with pytest.raises(ValueError, match=r"lengths=-1 must be in \[0, 3\]"):
        decode(logits[0], -1)
    with pytest.raises((ValueError, TypeError), match="lengths"):
        decode(logits, jnp.zeros(3, jnp.int32))
    with pytest.raises((ValueError, TypeError), match="logits"):
        decode(jnp.zeros((1, 2, 3, 4)))


def test_bad_options_are_named():
    logits = jax.ShapeDtypeStruct((3, 4), jnp.float32)

    def decode(**options):
        jax.eval_shape(functools.partial(beam_decode, **options), logits)

    with pytest.raises(ValueError, match="num_best must be at most beam_width=2, got 3"):
        decode(beam_width=2, num_best=3)
    with pytest.raises(ValueError, match="beam_width must be at least 1, got 0"):
        decode(beam_width=0)
    with pytest.raises(ValueError, match="max_len must be at least 1, got 0"):
        decode(max_len=0)
    with pytest.raises(ValueError, match="token_top_k must be at least 1, got 0"):
        decode(token_top_k=0)
