"""The likeliest alignment: enumeration of all, ties, what has none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import testing
from probjax.sequence.transducer_alignment import rnnt_align

FRAMES, LABELS, CLASSES = 4, 3, 4
CASES = [(4, (1, 2, 3)), (4, (1, 1)), (3, (2,)), (4, ()), (2, (1, 2, 3)), (0, ()), (0, (1,))]
BATCH = len(CASES)


def batch(seed=0):
    logits = np.random.default_rng(seed).normal(size=(BATCH, FRAMES, LABELS + 1, CLASSES)) * 2
    labels = np.full((BATCH, LABELS), -1)
    for i, (count, target) in enumerate(CASES):
        logits[i, count:] = np.nan
        labels[i, : len(target)] = target
    frames, lengths = zip(*[(count, len(target)) for count, target in CASES], strict=True)
    return logits, labels, np.array(frames), np.array(lengths)


@functools.cache
def compiled(kind="regular"):
    return jax.jit(functools.partial(rnnt_align, kind=kind))


def check(found, logits, kind):
    """The score is the maximum, of a path that exists, and the sum of that path's arcs."""
    for i, (count, target) in enumerate(CASES):
        z = logits[i, :count, : len(target) + 1]
        log_probs = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        truth = testing.enumerate_rnnt(log_probs, target, kind=kind)
        np.testing.assert_allclose(found.score[i], truth.best_score, rtol=1e-12)
        frames = np.asarray(found.label_frames[i])
        assert (frames[len(target) :] == -1).all()
        assert bool(found.feasible[i]) == (len(truth.log_probs) > 0)
        if not found.feasible[i]:
            assert (frames == -1).all() and not found.arcs.label[i].any()
            continue
        path = np.flatnonzero((truth.label_frames == frames[: len(target)]).all(axis=-1))
        np.testing.assert_allclose(truth.log_probs[path], [truth.best_score], rtol=1e-12)
        blank, label = (np.asarray(x[i]) for x in found.arcs)
        total = sum(log_probs[t, u, 0] for t, u in np.argwhere(blank))
        total += sum(log_probs[t, u, target[u]] for t, u in np.argwhere(label))
        np.testing.assert_allclose(total, found.score[i], rtol=1e-12)
        spoken = [log_probs[t, u, target[u]] for u, t in enumerate(frames[: len(target)])]
        np.testing.assert_allclose(found.label_log_probs[i, : len(target)], spoken)
        assert blank.sum() == count - (len(target) if kind == "modified" else 0)


EACH = ["regular", "modified", pytest.param("constrained", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", EACH)
def test_the_best_alignment_is_the_best_of_all(x64, kind):
    for seed in range(5):
        logits, *rest = batch(seed)
        check(compiled(kind)(*map(jnp.asarray, (logits, *rest))), logits, kind)


@pytest.mark.parametrize(("kind", "wanted"), [("regular", [0, 0, 0]), ("modified", [0, 1, 2])])
def test_ties_go_to_early_labels(x64, kind, wanted):
    logits, *rest = batch()
    logits = np.where(np.isnan(logits), np.nan, 0.0)
    found = compiled(kind)(*map(jnp.asarray, (logits, *rest)))
    check(found, logits, kind)
    assert found.label_frames[0].tolist() == wanted


def test_a_bad_node_makes_the_score_nan(x64):
    logits, *rest = batch()
    logits[0, 1, 1, 2] = np.nan
    found = compiled()(*map(jnp.asarray, (logits, *rest)))
    assert np.isnan(found.score[0]) and (found.label_frames[0] == -1).all()
    assert np.isfinite(found.score[1:4]).all()
    with pytest.raises(ValueError, match=r"logits must have shape \(T, U \+ 1, V\)"):
        rnnt_align(jnp.zeros((3, 4)), jnp.array([1]))


@pytest.mark.slow
def test_the_derivative_of_the_score_is_the_path(x64):
    logits, *rest = map(jnp.asarray, batch())
    one = functools.partial(rnnt_align, labels=rest[0][0])
    gradient = jax.grad(lambda z: one(z).score)(logits[0])
    found, softmax = one(logits[0]), np.asarray(jax.nn.softmax(logits[0]))
    blank, label = (np.asarray(x, float) for x in found.arcs)
    visited = blank + np.pad(label, ((0, 0), (0, 1)))
    np.testing.assert_allclose(gradient[..., 0], blank - softmax[..., 0] * visited, atol=1e-12)


@pytest.mark.slow
def test_the_check_kills_mistakes(x64):
    logits, *rest = batch()
    found = compiled()(*map(jnp.asarray, (logits, *rest)))
    check(found, logits, "regular")
    late = jnp.where(found.label_frames >= 0, jnp.maximum(found.label_frames - 1, 0), -1)
    for mutant in (found._replace(label_frames=late), found._replace(score=found.score + 1e-6)):
        with pytest.raises(AssertionError):
            check(mutant, logits, "regular")
    with pytest.raises(AssertionError):
        check(found, logits, "modified")
