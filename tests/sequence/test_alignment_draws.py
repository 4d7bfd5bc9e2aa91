"""Drawn alignments: the exact law, keys, entropy, deliberate mistakes."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax.core import keys
from probjax.sequence import testing
from probjax.sequence.alignment import CTCAlignment, ctc_sample_alignment

_spec = importlib.util.spec_from_file_location(
    "alignment_cases", Path(__file__).with_name("test_alignment.py")
)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

NUM_DRAWS = 6_000
DRAWN = [0, 1, 2, 3, 5]  # the cases that have alignments of some length


def posterior_logits():
    """Uniform in the first row, bent in the others."""
    logits = np.random.default_rng(7).normal(size=(cases.BATCH, cases.FRAMES, 3))
    logits[0] = 0
    return logits


@functools.cache
def drawn():
    program = jax.jit(functools.partial(ctc_sample_alignment, num_samples=NUM_DRAWS))
    arguments = map(jnp.asarray, cases.batch(posterior_logits()))
    return jax.tree.map(np.asarray, program(jax.random.key(8), *arguments))


@functools.cache
def posteriors():
    """All alignments of each row and their probabilities given the target."""
    result = []
    for logits, (count, target) in zip(posterior_logits(), cases.CASES, strict=True):
        truth = testing.enumerate_ctc(cases.log_softmax(logits[:count]), target)
        result.append((truth.paths, np.exp(truth.log_probs - truth.log_z)))
    return result


def check_law(draws, paths, probabilities):
    """Pearson's statistic below its 0.999 quantile; nothing drawn that is no alignment."""
    place = {tuple(path): i for i, path in enumerate(paths.tolist())}
    counts = np.zeros(len(paths))
    found, times = np.unique(draws, axis=0, return_counts=True)
    for path, number in zip(found.tolist(), times, strict=True):
        assert tuple(path) in place, f"{path} is not an alignment"
        counts[place[tuple(path)]] += number
    expected = probabilities * len(draws)
    common = expected >= 5
    counts = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    kept = expected > 0
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = max(kept.sum() - 1, 1)
    assert statistic < stats.chi2.ppf(0.999, freedom), (statistic, freedom)


def test_draws_follow_the_posterior():
    draws = drawn()
    for i in DRAWN:
        check_law(draws.path[i, :, : cases.CASES[i][0]], *posteriors()[i])


def test_draws_are_alignments_like_the_best_one():
    draws = drawn()
    logits, labels, _, lengths = cases.batch(posterior_logits())
    assert draws.path.shape == (cases.BATCH, NUM_DRAWS, cases.FRAMES)
    assert draws.starts.shape == (cases.BATCH, NUM_DRAWS, cases.LABELS)
    for i, (count, _) in enumerate(cases.CASES):
        for s in (0, 1, NUM_DRAWS - 1):
            found = CTCAlignment(*(x[i, s] for x in draws))
            if i in (4, 7):
                assert found.score == -np.inf and not found.feasible
                cases.check_no_path(found, lengths[i])
            else:
                cases.check_spans(
                    found, cases.log_softmax(logits[i, :count]), labels[i, : lengths[i]]
                )


def test_what_draws_say_of_the_entropy():
    """The mean of -ln p(path | y) is the entropy, within four standard errors."""
    draws = drawn()
    for i in (1, 2, 3):
        _, probabilities = posteriors()[i]
        log_z = testing.enumerate_ctc(
            cases.log_softmax(posterior_logits()[i, : cases.CASES[i][0]]), cases.CASES[i][1]
        ).log_z
        surprise = log_z - draws.score[i].astype(np.float64)
        entropy = -(probabilities * np.log(probabilities)).sum()
        error = surprise.std() / np.sqrt(NUM_DRAWS)
        assert abs(surprise.mean() - entropy) < 4 * error


@pytest.mark.slow
def test_sixty_thousand_draws_over_fifteen_paths():
    draws = jax.jit(functools.partial(ctc_sample_alignment, num_samples=60_000))(
        jax.random.key(9), jnp.zeros((4, 3)), jnp.array([1, 2])
    )
    truth = testing.enumerate_ctc(np.zeros((4, 3)), [1, 2])
    assert truth.num_alignments == 15
    counts = [(np.asarray(draws.path) == path).all(axis=-1).sum() for path in truth.paths]
    statistic = ((np.array(counts) - 4000) ** 2 / 4000).sum()
    print(f"chi-square with 14 degrees of freedom: {statistic:.2f}")
    assert sum(counts) == 60_000
    assert statistic < 36.12  # the 0.999 quantile


@pytest.mark.slow
@pytest.mark.bits
def test_a_draw_keeps_its_bits(reuse_keys):
    """With other numbers of draws, frames of padding, and sequences beside it."""
    key = jax.random.key(10)
    run = jax.jit(ctc_sample_alignment, static_argnames="num_samples")
    logits, labels, frames, lengths = map(jnp.asarray, cases.batch(posterior_logits(), padding=0.0))
    own = keys.item_keys(key, cases.BATCH)
    many = run(own, logits, labels, frames, lengths, num_samples=5).path
    few = run(key, logits, labels, frames, lengths, num_samples=2).path
    np.testing.assert_array_equal(many[:, :2], few)
    turned = run(
        own[::-1], logits[::-1], labels[::-1], frames[::-1], lengths[::-1], num_samples=5
    ).path
    np.testing.assert_array_equal(turned[::-1], many)
    alone = run(own[3], logits[3, :4], labels[3], None, lengths[3], num_samples=5).path
    np.testing.assert_array_equal(alone, many[3, :, :4])


@pytest.mark.slow
def test_certain_frames_leave_nothing_to_chance():
    """Where the posterior is one path, every draw is that path, far above rounding."""
    path = np.array([0, 1, 1, 0, 1, 2, 2, 0])
    logits = np.where(np.arange(3) == path[:, None], 0.0, -np.inf)
    draws = jax.jit(functools.partial(ctc_sample_alignment, num_samples=20_000))(
        jax.random.key(11), jnp.asarray(logits), jnp.array([1, 1, 2])
    )
    assert (np.asarray(draws.path) == path).all() and (draws.score == 0).all()


def plain_law(paths, logits, count, target, *, wrong=None):
    """Probability of each path under the local weights of a walk back through the lattice."""
    states = np.zeros(2 * len(target) + 1, int)
    states[1::2] = target
    weights = np.exp(cases.log_softmax(logits[:count]))
    moves = np.zeros((len(states), len(states)))
    for s, k in enumerate(states):
        for back in range(min(2, s) + 1):
            moves[s - back, s] = back < 2 or (s % 2 and k != states[s - 2])
    alpha = [np.eye(len(states))[0]]
    for t in range(count):
        alpha.append((alpha[-1] @ moves) * weights[t, states])
    law = []
    for path in paths:
        walk = [0, *cases.states_of(path, 0)]
        ends = alpha[-1][-2:]
        chance = alpha[-1][walk[-1]] / ends.sum() if wrong != "last end" else 1 / len(ends)
        for t in range(count):
            over = moves[:, walk[t + 1]]
            total = (alpha[t] * over).sum()
            if wrong == "successors":
                total = alpha[t][walk[t]] * moves[walk[t]].sum()
            if wrong == "forward weights":
                total, chance = over.sum(), chance / alpha[t][walk[t]]
            chance *= alpha[t][walk[t]] / total
        law.append(chance)
    return np.array(law) / np.sum(law)


@pytest.mark.slow
def test_the_law_kills_deliberate_mistakes():
    rng = np.random.default_rng(15)

    def check(wrong=None):
        for i in (0, 1, 2, 3):
            paths, probabilities = posteriors()[i]
            law = plain_law(paths, posterior_logits()[i], *cases.CASES[i], wrong=wrong)
            check_law(paths[rng.choice(len(paths), size=NUM_DRAWS, p=law)], paths, probabilities)

    check()
    for wrong in ("last end", "successors", "forward weights"):
        with pytest.raises(AssertionError):
            check(wrong)
