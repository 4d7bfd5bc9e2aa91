"""Posteriors of the alignment: enumeration, conservation in every frame, entropy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import testing
from probjax.sequence.posteriors import alignment_entropy, ctc_posteriors, vocab_occupancy

CASES = [(5, (1, 2)), (5, (2, 2, 1)), (4, ()), (3, (1, 1, 1)), (0, ()), (3, (2, 1, 2))]
FRAMES, CLASSES, LABELS = 5, 3, 3


def batch():
    logits = np.random.default_rng(0).normal(size=(len(CASES), FRAMES, CLASSES)) * 2
    labels = np.full((len(CASES), LABELS), -1)
    for i, (count, target) in enumerate(CASES):
        logits[i, count:] = np.nan
        labels[i, : len(target)] = target
    counts, lengths = zip(*[(count, len(target)) for count, target in CASES], strict=True)
    return logits, labels, np.array(counts), np.array(lengths)


def truths():
    for (count, target), logits in zip(CASES, batch()[0], strict=True):
        log_probs = logits[:count] - np.log(np.exp(logits[:count]).sum(axis=-1, keepdims=True))
        yield count, log_probs, testing.enumerate_ctc(log_probs, target)


@functools.cache
def compiled(function, **options):
    """The compiled function, with NumPy arrays as results: to take them apart compiles nothing."""
    program = jax.jit(functools.partial(function, **options))
    return lambda *arguments: jax.device_get(program(*arguments))


def check_products(posterior):
    """In every live frame the sum over states of alpha times beta is the target's probability."""
    rows = posterior.log_alpha + posterior.log_beta
    by_frame = np.log(np.exp(rows).sum(axis=-1))
    by_frame += posterior.log_alpha_scale + posterior.log_beta_scale
    for i, (count, _, truth) in enumerate(truths()):
        np.testing.assert_allclose(by_frame[i, :count], [truth.log_z] * count, rtol=1e-12)


def test_forward_and_backward_variables(x64):
    posterior = compiled(ctc_posteriors)(*batch())
    with np.errstate(divide="ignore"):
        check_products(posterior)
    counts, losses = batch()[2], [-truth.log_z for *_, truth in truths()]
    np.testing.assert_allclose(posterior.loss, losses, rtol=1e-12, atol=1e-12)
    assert posterior.feasible.tolist() == [True, True, True, False, True, True]
    live = np.arange(FRAMES) < counts[:, None]
    np.testing.assert_allclose(posterior.log_alpha.max(axis=-1)[live], 0, atol=1e-15)
    assert (posterior.log_alpha[~live] == -np.inf).all()
    assert (posterior.log_beta_scale[~live] == 0).all()
    # Smoothing and the product of both variables are two ways to the same posterior.
    rows = posterior.log_alpha + posterior.log_beta
    both = np.exp(rows[:2])
    both /= both.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(posterior.state_posterior[:2], both, atol=1e-12)


def test_occupancies_and_entropy_equal_enumeration(x64):
    logits, labels, *lengths = batch()
    posterior = compiled(ctc_posteriors)(logits, labels, *lengths)
    occupancy = compiled(vocab_occupancy, vocab_size=CLASSES)(posterior, labels)
    entropies = compiled(alignment_entropy)(logits, labels, *lengths)
    for i, (count, _, truth) in enumerate(truths()):
        np.testing.assert_allclose(occupancy[i, :count], truth.occupancy, atol=1e-12)
        assert (occupancy[i, count:] == 0).all()
        np.testing.assert_allclose(entropies[i], truth.entropy, atol=1e-11)
    with pytest.raises(ValueError, match="blank_id=3 must be in"):
        compiled(vocab_occupancy, vocab_size=CLASSES, blank_id=3)(posterior, labels)
    with pytest.raises(ValueError, match="labels must have shape"):
        compiled(vocab_occupancy, vocab_size=CLASSES)(posterior, labels[:, :2])


def test_an_impossible_class_takes_no_part():
    logits = np.array([[0.0, 1.0, -np.inf]] * 3, np.float32)
    posterior = compiled(ctc_posteriors)(logits, np.array([1]))
    occupancy = compiled(vocab_occupancy, vocab_size=3)(posterior, np.array([1]))
    np.testing.assert_allclose(occupancy.sum(axis=-1), 1, atol=1e-6)
    lost = compiled(ctc_posteriors)(logits, np.array([2]))
    assert lost.loss == np.inf and bool(lost.feasible) and (lost.state_posterior == 0).all()
    assert not np.isnan(lost.log_beta).any()


@pytest.mark.slow
def test_entropy_has_a_derivative(x64):
    logits = batch()[0][0]
    gradient = jax.jit(jax.grad(alignment_entropy))(logits, jnp.array([1, 2]))
    move = jax.random.normal(jax.random.key(0), logits.shape, logits.dtype)
    up, down = (
        compiled(alignment_entropy)(logits + h * move, jnp.array([1, 2])) for h in (1e-5, -1e-5)
    )
    assert abs((up - down) / 2e-5 - jnp.vdot(gradient, move)) < 1e-8


@pytest.mark.slow
def test_the_check_kills_a_second_emission(x64):
    posterior = compiled(ctc_posteriors)(*batch())
    logits, labels, *_ = batch()
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    states = np.zeros((len(CASES), 2 * LABELS + 1), int)
    states[:, 1::2] = np.maximum(labels, 0)
    emitted = np.take_along_axis(log_probs, states[:, None, :], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        check_products(posterior)
        with pytest.raises(AssertionError):
            check_products(posterior._replace(log_beta=posterior.log_beta + emitted))
