"""Alignment: the best path and posterior draws, against every path there is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import checkify
from jax.sharding import PartitionSpec

from probjax import sharding
from probjax.core import keys
from probjax.sequence import ctc, testing
from probjax.sequence.alignment import CTCAlignment, ctc_align, ctc_sample_alignment

FRAMES, CLASSES, LABELS = 5, 5, 3
# Live frames and target: repeats that just fit or do not, cycles, nothing at all.
CASES = [
    (5, (1, 2)),
    (5, (1, 1)),
    (5, (1, 2, 1)),
    (4, (2, 1)),
    (4, (1, 1, 1)),
    (3, ()),
    (0, ()),
    (0, (1,)),
]
BATCH = len(CASES)


def batch(logits, cases=CASES, *, blank=0, padding=np.nan, label_padding=10**9):
    """Three classes of five are possible: the blank and labels 1 and 2, moved behind it."""
    first = 2 if blank == -1 else 0
    wide = np.full((len(cases), FRAMES, CLASSES), -np.inf)
    wide[:, :, first : first + 3] = logits
    labels = np.full((len(cases), LABELS), label_padding)
    for i, (count, target) in enumerate(cases):
        wide[i, count:] = padding
        labels[i, : len(target)] = [k + first - (blank == -1) for k in target]
    counts, lengths = zip(*[(count, len(target)) for count, target in cases], strict=True)
    return wide, labels, np.array(counts), np.array(lengths)


@functools.cache
def aligned_and_loss(blank=0):
    @jax.jit
    def program(*arguments):
        return ctc_align(*arguments, blank_id=blank), ctc.ctc_loss(*arguments, blank_id=blank)

    return lambda *arguments: jax.tree.map(np.asarray, program(*map(jnp.asarray, arguments)))


def states_of(path, blank):
    """The states that a path walks through: odd ones are labels."""
    states, seen, before = [], 0, blank
    for k in path:
        seen += k not in (blank, before)
        states.append(2 * seen - (k != blank))
        before = k
    return states


def log_softmax(z):
    top = z.max(axis=-1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(axis=-1, keepdims=True))


def check_no_path(found, length):
    for part in (found.path, found.states, found.starts, found.ends):
        assert (part == -1).all()
    assert (found.token_log_probs == 0).all()


def check_spans(found, log_probs, labels):
    """Spans, classes and scores are what the walk through the states says; padding is -1."""
    frames, length = len(log_probs), len(labels)
    walk = found.states[:frames]
    assert (found.states[frames:] == -1).all() and (found.path[frames:] == -1).all()
    assert (found.starts[length:] == -1).all() and (found.ends[length:] == -1).all()
    assert (found.token_log_probs[length:] == 0).all()
    for i, label in enumerate(labels):
        places = np.flatnonzero(walk == 2 * i + 1)
        assert len(places), f"label {i} has no frame"
        assert found.starts[i] == places[0] and found.ends[i] == places[-1] + 1
        np.testing.assert_allclose(
            found.token_log_probs[i], log_probs[places, label].sum(), rtol=1e-6
        )
    picked = log_probs[np.arange(frames), found.path[:frames]]
    np.testing.assert_allclose(found.score, picked.sum(), rtol=1e-6, atol=1e-12)


def check_best(align_fn, logits, cases=CASES, blank=0):
    """The earliest of the best of all paths, its spans, its score. Whole numbers tie exactly."""
    arguments = batch(logits, cases, blank=blank)
    aligned = align_fn(*arguments)
    for i, (count, _) in enumerate(cases):
        found = CTCAlignment(*(x[i] for x in aligned))
        wide, labels = arguments[0][i, :count], arguments[1][i, : arguments[3][i]]
        first = 2 if blank == -1 else 0
        truth = testing.enumerate_ctc(
            wide[:, first : first + 3], [k - first for k in labels], blank_id=blank
        )
        assert bool(found.feasible) == (truth.num_alignments > 0)
        if truth.best_score == -np.inf:
            assert found.score == -np.inf
            check_no_path(found, len(labels))
            continue
        log_probs = log_softmax(wide)
        best = truth.paths[truth.log_probs == truth.best_score]
        walks = np.array([states_of(path, blank % 3) for path in best])
        earliest = walks.max(axis=0)
        assert found.states[:count].tolist() == earliest.tolist()
        chosen = best[(walks == earliest).all(axis=-1)][0]
        assert found.path[:count].tolist() == (chosen + first).tolist()
        wanted = testing.enumerate_ctc(
            log_probs[:, first : first + 3], [k - first for k in labels], blank_id=blank
        ).best_score
        np.testing.assert_allclose(found.score, wanted, rtol=1e-12, atol=1e-12)
        check_spans(found, log_probs, labels)


targets = st.lists(st.integers(1, 2), max_size=LABELS).map(tuple)
rows = st.lists(st.tuples(st.integers(0, FRAMES), targets), min_size=BATCH, max_size=BATCH)


@given(st.integers(0, 2**32 - 1), rows, st.sampled_from([0, -1]), st.sampled_from([1, 2, 5]))
def test_the_best_path_of_all(seed, cases, blank, spread):
    """Few distinct logits, so that ties are common; some classes impossible in some frames."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, spread, size=(BATCH, FRAMES, 3)).astype(float)
    logits[rng.random(logits.shape) < 0.05] = -np.inf
    logits[(logits == -np.inf).all(axis=-1)] = 0
    with jax.enable_x64(True):
        check_best(lambda *a: aligned_and_loss(blank)(*a)[0], logits, cases, blank)


def test_every_path_alike_gives_the_earliest(x64):
    check_best(lambda *a: aligned_and_loss()(*a)[0], np.zeros((BATCH, FRAMES, 3)))


def test_the_loss_lies_between_its_bounds(x64):
    """The sum is at least its largest term, and at most that times how many there are."""
    logits = np.random.default_rng(1).normal(size=(BATCH, FRAMES, 3)) * 2
    best, loss = aligned_and_loss()(*batch(logits))
    for i, (count, target) in enumerate(CASES):
        truth = testing.enumerate_ctc(np.zeros((count, 3)), target)
        if truth.num_alignments == 0:
            assert best.score[i] == -np.inf and loss[i] == np.inf
            continue
        assert 0 <= loss[i] <= -best.score[i] + 1e-12
        assert loss[i] >= -best.score[i] - np.log(truth.num_alignments) - 1e-12
        assert truth.num_alignments > 1 or abs(loss[i] + best.score[i]) < 1e-12


def test_published_path(x64):
    """Of a public CTC test: five alignments, the best of which is 2, 3, 3."""
    logits = np.zeros((BATCH, FRAMES, CLASSES))
    logits[0, :3] = -np.array([[5, 4, 3, 2, 1], [10, 9, 8, 7, 6], [15, 14, 13, 12, 11]])
    labels = np.ones((BATCH, LABELS), int)
    labels[0, :2] = 2, 3
    best, loss = aligned_and_loss()(logits, labels, np.full(BATCH, 3), np.full(BATCH, 2))
    assert best.path[0].tolist() == [2, 3, 3, -1, -1]
    assert best.starts[0].tolist() == [0, 1, -1] and best.ends[0].tolist() == [1, 3, -1]
    assert abs(loss[0] - 4.938849867018) < 1e-11


def test_padding_is_not_read():
    """Whatever stands there: one program, the same bits."""
    logits = np.random.default_rng(2).normal(size=(BATCH, FRAMES, 3))
    one = aligned_and_loss()(*batch(logits))
    for padding, label in ((np.inf, -1), (1e30, 2), (-np.inf, -(10**9))):
        other = aligned_and_loss()(*batch(logits, padding=padding, label_padding=label))
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_bad_rows_are_flagged_and_harm_no_other():
    logits = np.random.default_rng(3).normal(size=(BATCH, FRAMES, 3))
    clean = batch(logits)
    wanted, _ = aligned_and_loss()(*clean)
    others = np.arange(BATCH) != 1
    spoiled = [tuple(x.copy() for x in clean) for _ in range(6)]
    spoiled[0][0][1, 2] = np.nan
    spoiled[1][0][1, 2, 0] = np.inf
    spoiled[2][0][1, 2] = -np.inf
    spoiled[3][1][1, 0] = CLASSES
    spoiled[4][2][1] = FRAMES + 1
    spoiled[5][3][1] = -1
    for arguments in spoiled:
        found, _ = aligned_and_loss()(*arguments)
        assert np.isnan(found.score[1])
        check_no_path(CTCAlignment(*(x[1] for x in found)), 2)
        jax.tree.map(
            lambda x, y: np.testing.assert_array_equal(x[others], y[others]), found, wanted
        )
    assert not found.feasible[1] and wanted.feasible[1]


def test_mistakes_are_named():
    logits, labels = jnp.zeros((2, 3, 4)), jnp.ones((2, 1), int)
    key = jax.random.key(0)
    sample = functools.partial(ctc_sample_alignment, num_samples=1)
    for arguments, options, message in [
        ((logits[0, 0], labels), {}, "logits must have shape"),
        ((logits, labels[:1]), {}, r"labels must have shape \(2, any\), got \(1, 1\)"),
        ((logits, labels.at[1, 0].set(4)), {}, r"labels\[1, 0\]=4 must be in \[0, 4\)"),
        ((logits, labels.at[1, 0].set(0)), {}, r"labels\[1, 0\]=0 is the blank"),
        ((logits, labels, jnp.array([3, 4])), {}, r"logit_lengths\[1\]=4 must be in \[0, 3\]"),
        ((logits, labels), {"blank_id": 4}, r"blank_id=4 must be in \[-4, 4\)"),
        ((logits, labels), {"checks": "none"}, "checks must be one of"),
    ]:
        for function in (ctc_align, functools.partial(sample, key)):
            with pytest.raises(ValueError, match=message):
                function(*arguments, **options)
    with pytest.raises(ValueError, match="num_samples must be"):
        ctc_sample_alignment(key, logits, labels, num_samples=0)
    with pytest.raises(ValueError, match=r"key must be one key or have shape \(2,\), got \(3,\)"):
        sample(keys.item_keys(key, 3), logits, labels)


@pytest.mark.slow
def test_mistakes_in_traced_code_can_be_errors():
    checked = checkify.checkify(
        jax.jit(functools.partial(ctc_align, checks="checkify")), errors=checkify.user_checks
    )
    logits = jnp.zeros((3, 4))
    assert checked(logits, jnp.array([1]))[0].get() is None
    assert "labels" in checked(logits, jnp.array([4]))[0].get()


@pytest.mark.slow
def test_one_sequence_any_layout_half_precision():
    logits = np.random.default_rng(4).normal(size=(BATCH, FRAMES, 3))
    arguments = tuple(map(jnp.asarray, batch(logits, padding=0.0)))
    half = arguments[0].astype(jnp.bfloat16)
    together = jax.jit(ctc_align)(half, *arguments[1:])
    assert together.score.dtype == jnp.float32
    upcast = jax.jit(ctc_align)(half.astype(jnp.float32), *arguments[1:])
    jax.tree.map(np.testing.assert_array_equal, together, upcast)
    alone = jax.jit(ctc_align)(half[2], *(x[2] for x in arguments[1:]))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[2]), alone, together)
    # No lengths; nothing to align; no frames.
    full = ctc_align(jnp.zeros((3, 2)), jnp.zeros((0,), int))
    assert full.path.tolist() == [0, 0, 0] and full.starts.shape == (0,)
    nothing = ctc_align(jnp.zeros((0, 2)), jnp.array([1]))
    assert nothing.score == -np.inf and nothing.path.shape == (0,) and not nothing.feasible
    assert ctc_align(jnp.zeros((0, 2)), jnp.zeros((0,), int)).score == 0


@pytest.mark.slow
def test_log_weights_are_taken_as_they_are(x64):
    weights = np.random.default_rng(5).normal(size=(4, 3)) + 3.0
    found = ctc_align(jnp.asarray(weights), jnp.array([1, 2]), normalise=False)
    truth = testing.enumerate_ctc(weights, [1, 2])
    assert abs(found.score - truth.best_score) < 1e-12 and found.score > 0
    # A constant of a frame moves the score and never the path; a huge one costs no digits.
    moved = ctc_align(jnp.asarray(weights + [[0], [1e6], [0], [0]]), jnp.array([1, 2]))
    np.testing.assert_array_equal(moved.path, found.path)


@pytest.mark.slow
def test_the_score_has_the_derivative_of_a_path(x64):
    """One for the class of the path, minus the softmax: of the best path, and of each draw."""
    logits = jnp.asarray(np.random.default_rng(6).normal(size=(4, 3)))
    labels = jnp.array([1, 2])

    def of_best(z):
        found = ctc_align(z, labels)
        return found.score, found.path

    def of_draw(z):
        found = ctc_sample_alignment(jax.random.key(0), z, labels, num_samples=1)
        return found.score[0], found.path[0]

    for function in (of_best, of_draw):
        gradient, path = jax.jit(jax.grad(function, has_aux=True))(logits)
        np.testing.assert_allclose(
            gradient, jax.nn.one_hot(path, 3) - jax.nn.softmax(logits), atol=1e-12
        )
        _, tangent = jax.jvp(lambda z, f=function: f(z)[0], (logits,), (jnp.cos(logits),))
        np.testing.assert_allclose(tangent, jnp.vdot(gradient, jnp.cos(logits)), atol=1e-12)


@pytest.mark.slow
def test_shard_map_with_its_own_check():
    """Sharded logits, replicated labels, key and length: what one device gives."""
    logits, _, frames, _ = (
        jnp.asarray(x)
        for x in batch(np.random.default_rng(7).normal(size=(BATCH, FRAMES, 3)), padding=0.0)
    )
    labels, length, key = jnp.array([1, 2]), jnp.array(2), jax.random.key(12)

    def local(logits, frames, labels, length, key):
        best = jax.vmap(ctc_align, (0, None, 0, None))(logits, labels, frames, length)
        draw = functools.partial(ctc_sample_alignment, num_samples=3)
        return best, jax.vmap(draw, (None, 0, None, 0, None))(key, logits, labels, frames, length)

    spec, everywhere = PartitionSpec("items"), PartitionSpec()
    sharded = jax.jit(
        jax.shard_map(
            local,
            mesh=sharding.make_mesh(8),
            in_specs=(spec, spec, everywhere, everywhere, everywhere),
            out_specs=spec,
        )
    )
    arguments = logits, frames, labels, length, key
    for one, other in zip(
        jax.tree.leaves(sharded(*arguments)),
        jax.tree.leaves(jax.jit(local)(*arguments)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # whole numbers: equal


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_long_inputs_in_single_precision(scale):
    """The path found in float32 is the best one in float64, up to how float32 stores the terms."""
    frames, classes, length = 8000, 32, 400
    rng = np.random.default_rng(13)
    logits = (rng.normal(size=(frames, classes)) * scale).astype(np.float32)
    labels = jnp.asarray(rng.integers(1, classes, size=length))
    single = jax.jit(ctc_align)(jnp.asarray(logits), labels)
    with jax.enable_x64(True):
        double = jax.jit(ctc_align)(jnp.asarray(logits, jnp.float64), labels.astype(jnp.int64))
    log_probs = log_softmax(logits.astype(np.float64))
    achieved = log_probs[np.arange(frames), np.asarray(single.path)].sum()
    optimum = log_probs[np.arange(frames), np.asarray(double.path)].sum()
    print(f"scale {scale}: lost {optimum - achieved:.2e}, score off {single.score - optimum:.2e}")
    # Each of the frames' terms is at most 16 and rounded to half of 2^-20.
    assert 0 <= optimum - achieved + 1e-9 < 2 * frames * 2.0**-21
    assert abs(float(single.score) / optimum - 1) < 5e-7
    assert abs(float(double.score) / optimum - 1) < 1e-13


# Deliberate mistakes: plain lattices in NumPy, right as they stand, with one thing wrong at a time.


def plain_align(logits, labels, frames, lengths, *, wrong=None):
    found = []
    for z, y, count, length in zip(logits, labels, frames, lengths, strict=True):
        reach = FRAMES if wrong == "last frame" else count
        z = np.where(np.isnan(z), 0.0, z)[:reach]
        y, states = y[:length], np.zeros(2 * length + 1, int)
        states[1::2] = y
        best = np.full(len(states), -np.inf)
        best[0] = 0.0
        came = []
        for t in range(reach):
            options = np.full((3, len(states)), -np.inf)
            options[0] = best
            options[1, 1:] = best[:-1]
            for s in range(2, len(states)):
                skip = s % 2 == 1 and states[s] != states[s - 2]
                skip |= wrong == "equal labels" and s % 2 == 1
                skip |= wrong == "over labels" and s % 2 == 0
                options[2, s] = best[s - 2] if skip else -np.inf
            choice = options.argmax(axis=0)
            if wrong == "latest":
                choice = 2 - options[::-1].argmax(axis=0)
            came.append(choice)
            best = options[choice, np.arange(len(states))] + z[t, states]
        ends = {"last blank": [len(states) - 1], "last label": [max(len(states) - 2, 0)]}.get(
            wrong, [len(states) - 1, max(len(states) - 2, 0)]
        )
        state = max(ends, key=lambda s: best[s])
        exists = best[state] > -np.inf
        walk = np.full(FRAMES, -1)
        for t in reversed(range(reach)):
            walk[t] = state
            state -= came[t][state]
        walk[count:] = -1
        walk[:] = walk if exists else -1
        path = np.where(walk < 0, -1, states[walk])
        starts, ends, spent = np.full(LABELS, -1), np.full(LABELS, -1), np.zeros(LABELS)
        log_probs = log_softmax(z) if reach else z
        for i in range(length if exists else 0):
            places = np.flatnonzero(walk == 2 * i + 1)
            if wrong == "spans from classes":
                places = np.flatnonzero(path == y[i])
            if len(places):
                starts[i], ends[i] = places[0], places[-1] + (wrong != "closed spans")
            spent[i] = log_probs[places, y[i]].sum()
        score = log_probs[np.arange(count), path[:count]].sum() if exists else -np.inf
        needed = length + sum(a == b for a, b in itertools.pairwise(y))
        found.append(CTCAlignment(path, walk, score, starts, ends, spent, count >= needed))
    return CTCAlignment(*map(np.array, zip(*found, strict=True)))


@pytest.mark.slow
def test_the_checks_kill_deliberate_mistakes():
    rng = np.random.default_rng(14)
    several = [rng.integers(0, 3, size=(BATCH, FRAMES, 3)).astype(float) for _ in range(5)]

    def check(wrong=None):
        for logits in several:
            check_best(functools.partial(plain_align, wrong=wrong), logits)

    check()
    for wrong in (
        "equal labels",
        "over labels",
        "last blank",
        "last label",
        "last frame",
        "latest",
        "spans from classes",
        "closed spans",
    ):
        with pytest.raises(AssertionError):
            check(wrong)
