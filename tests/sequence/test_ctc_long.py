"""CTC where it takes longer: every small target, long inputs, deliberate mistakes."""

import functools
import importlib.util
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import ctc, testing

_spec = importlib.util.spec_from_file_location("ctc_cases", Path(__file__).with_name("test_ctc.py"))
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


@pytest.mark.slow
def test_every_small_target_and_their_sum(x64):
    """All T <= 6, V <= 4, L <= 4; the probabilities of all labellings add up to one."""
    rng = np.random.default_rng(7)
    for classes in (2, 3, 4):
        targets = [t for n in range(7) for t in itertools.product(range(1, classes), repeat=n)]
        labels = jnp.array([t + (0,) * (6 - len(t)) for t in targets])
        lengths = jnp.array([len(t) for t in targets])
        compiled = jax.jit(jax.value_and_grad(_summed(labels, lengths), has_aux=True))
        for frames in range(7):
            logits = np.zeros((6, classes))
            logits[:frames] = rng.normal(size=(frames, classes)) * 2
            (total, losses), _ = compiled(jnp.asarray(logits), frames)
            assert abs(total - 1) < 1e-12
            short = testing.enumerate_labellings(cases.log_softmax(logits[:frames]))
            for target, loss in zip(targets, np.asarray(losses), strict=True):
                assert abs(np.exp(-loss) - np.exp(short.get(target, -np.inf))) < 1e-13
                assert np.isinf(loss) == (target not in short)


def _summed(labels, lengths):
    def total(logits, frames):
        loss = jax.vmap(lambda y, n: ctc.ctc_loss(logits, y, frames, n))(labels, lengths)
        return jnp.sum(jnp.exp(-loss)), loss

    return total


@functools.cache
def gradients(frames, labels, classes=32, seeds=8):
    """Loss and gradient at unit variance, in float32 and in float64."""
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(seeds, frames, classes)).astype(np.float32)
    targets = rng.integers(1, classes, size=(seeds, labels))
    with jax.enable_x64(True):
        run = jax.jit(
            lambda z, y: jax.lax.map(lambda a: jax.value_and_grad(ctc.ctc_loss)(*a), (z, y))
        )
        truth = run(jnp.asarray(logits, jnp.float64), jnp.asarray(targets))
        single = run(jnp.asarray(logits), jnp.asarray(targets))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), (truth, single))


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "labels", "bound"), [(1000, 100, 2e-5), (8000, 400, 5e-4)])
def test_single_precision_keeps_its_digits(frames, labels, bound):
    (loss, gradient), (single_loss, single) = gradients(frames, labels)
    error, relative = np.abs(single - gradient).max(), np.abs(single_loss / loss - 1).max()
    print(f"T={frames}: gradient {error:.2e}, loss {relative:.2e}")
    assert error < bound
    assert relative < 5e-7
    assert np.abs(single.sum(axis=-1)).max() < 1e-5


# Deliberate mistakes: a plain lattice of 2L+1 states in float64, right as it stands (all flags
# off), with one thing wrong at a time.


def plain_losses(logits, labels, frames, lengths, *, wrong=None, floor=-np.inf):
    losses = []
    for z, y, count, length in zip(
        *map(np.asarray, (logits, labels, frames, lengths)), strict=True
    ):
        z = np.where(np.isfinite(z), z, 0)
        log_probs = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        states = np.zeros(2 * length + 1, int)
        states[1::2] = y[:length]
        alpha = np.full(len(states), floor)
        alpha[0] = 0.0
        for t in range(cases.FRAMES if wrong == "last frame" else count):
            new = alpha.copy()
            for s in range(len(states)):
                if s >= 1:
                    new[s] = np.logaddexp(new[s], alpha[s - 1])
                skip = s >= 2 and states[s] != 0 and states[s] != states[s - 2]
                skip |= wrong == "equal labels" and s >= 3 and s % 2 == 1
                skip |= wrong == "over labels" and s >= 2 and s % 2 == 0
                if skip:
                    new[s] = np.logaddexp(new[s], alpha[s - 2])
            alpha = new + log_probs[t, states]
        ends = {"last label": alpha[-2:-1], "last blank": alpha[-1:]}.get(wrong, alpha[-2:])
        losses.append(-np.logaddexp.reduce(ends) if len(ends) else np.inf)
    return np.array(losses)


@pytest.mark.slow
def test_the_checks_kill_deliberate_mistakes(x64):
    cases.check_values(plain_losses)
    for wrong in ("equal labels", "over labels", "last label", "last blank", "last frame"):
        with pytest.raises(AssertionError):
            cases.check_values(functools.partial(plain_losses, wrong=wrong))
    with pytest.raises(AssertionError):
        cases.check_values(functools.partial(plain_losses, floor=-1e5))

    right = lambda *a: cases.both(ctc.ctc_loss)(*a)[1]
    with pytest.raises(AssertionError):
        cases.check_gradient(lambda *a: -right(*a))
    with pytest.raises(AssertionError):  # softmax plus occupancy, for targets that fit
        cases.check_gradient(
            lambda z, *rest: 2 * jax.nn.softmax(jnp.where(jnp.isfinite(z), z, 0)) - right(z, *rest)
        )
    with pytest.raises(AssertionError):  # of logits, given for log probabilities
        cases.check_log_prob_gradient(lambda log_probs, *rest: right(log_probs, *rest))
