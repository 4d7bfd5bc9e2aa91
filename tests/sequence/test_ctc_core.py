"""The sums over alignments, on padded arrays of one shape: enumeration, smoothing, derivatives."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import ctc_core, testing, wide

FRAMES, CLASSES, LABELS = 5, 3, 4


def scores(log_probs, target):
    """Frames and labels of any number, padded to one shape."""
    count, length = len(log_probs), len(target)
    labels = np.array(list(target) + [1] * (LABELS - length), int)
    blank, label = np.zeros(FRAMES), np.full((FRAMES, LABELS), -np.inf)
    blank[:count] = log_probs[:, 0]
    label[:count, :length] = log_probs[:, labels[:length]]
    return blank, label, np.diff(labels, prepend=labels[0]) != 0, length


@functools.cache
def compiled(name):
    program = jax.jit(getattr(ctc_core, name))
    return lambda *arguments: jax.device_get(program(*arguments))


def case(seed, count, target, holes):
    """Log weights, some of them -inf, and what enumeration says."""
    rng = np.random.default_rng(seed)
    log_probs = rng.normal(size=(count, CLASSES)) - 1
    log_probs[rng.random((count, CLASSES)) < holes] = -np.inf
    return log_probs, testing.enumerate_ctc(log_probs, target)


def check_sum(log_z, log_probs, target, truth):
    np.testing.assert_allclose(log_z(*scores(log_probs, target)), truth.log_z, rtol=1e-12)


def check_occupancy(smooth, log_probs, target, truth):
    result = smooth(*scores(log_probs, target))
    count, by_class = len(log_probs), np.zeros((len(log_probs), CLASSES))
    by_class[:, 0] = result.blank[:count]
    for place, label in enumerate(target):
        by_class[:, label] += result.label[:count, place]
    np.testing.assert_allclose(by_class, truth.occupancy, atol=1e-12)


@hypothesis.given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, FRAMES),
    target=st.lists(st.integers(1, CLASSES - 1), max_size=LABELS),
    holes=st.sampled_from([0.0, 0.3]),
)
def test_sums_and_occupancies_equal_enumeration(seed, count, target, holes):
    with jax.enable_x64(True):
        log_probs, truth = case(seed, count, target, holes)
        check_sum(compiled("log_z"), log_probs, target, truth)
        check_sum(compiled("log_z_reference"), log_probs, target, truth)
        check_occupancy(compiled("smooth"), log_probs, target, truth)


def test_smoothing_conserves_probability_in_every_frame():
    rng = np.random.default_rng(1)
    log_probs = rng.normal(size=(FRAMES, CLASSES))
    result = compiled("smooth")(*scores(log_probs, [1, 2]))
    np.testing.assert_allclose(result.blank + result.label.sum(axis=-1), 1, atol=1e-6)
    result = compiled("smooth")(*scores(log_probs, [1, 1, 1, 2]))
    assert result.log_z == -jnp.inf
    assert (result.blank == 0).all() and (result.label == 0).all()


def test_forward_variables_count_paths():
    """With weight one everywhere they are binomial numbers: paths from the start to a state."""

    def run(can_skip):
        zero = jnp.zeros((4, 2))
        states, _ = ctc_core.forward(zero[:, 0], zero, can_skip, lambda *_: None)
        return [wide.to_log(x) for x in states]

    blank, label = (
        np.exp(x).round(3) for x in jax.device_get(jax.jit(run)(np.array([False, True])))
    )
    assert blank.tolist() == [1, 6, 5] and label.tolist() == [0, 4, 10]


def test_derivatives_of_second_order_are_the_references(x64):
    rng = np.random.default_rng(2)
    *weights, skip, length = scores(rng.normal(size=(FRAMES, CLASSES)), [1, 1, 2])
    moves = [rng.normal(size=x.shape) for x in weights]

    def second(function, weights, moves, skip):
        gradient = jax.grad(lambda x: function(*x, skip, jnp.asarray(length)))
        return jax.jvp(gradient, (weights,), (moves,))

    @jax.jit
    def both(*given):
        return second(ctc_core.log_z, *given), second(ctc_core.log_z_reference, *given)

    ours, reference = jax.device_get(both(weights, moves, skip))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.slow
def test_the_checks_kill_weights_normalised_over_successors(x64):
    """Backward weights must say where a path came from, not where one goes."""

    def smooth(blank_lp, label_lp, can_skip, length):
        def successors(_, arrivals):
            return arrivals

        states, a = ctc_core.forward(blank_lp, label_lp, can_skip, successors)
        # Of what leaves label j: to its blank, to the next label; the shares made to sum to one.
        out = a.blank_from_label + jnp.roll(a.label_from_label, -1, axis=-1) + 1e-300
        stay = 1 - a.label_from_blank - a.label_from_label
        total = out + stay
        a = a._replace(
            blank_from_label=a.blank_from_label / total,
            label_from_label=a.label_from_label / jnp.roll(total, 1, axis=-1),
        )
        total_z, end = ctc_core.ending(states, length)
        got = ctc_core.backward(
            a, end, lambda g: ctc_core.LatticeStates(jnp.sum(g.blank), g.label[1:])
        )
        return ctc_core.Smoothed(total_z, got.blank, got.label)

    log_probs, truth = case(3, 5, [1, 2], 0.0)
    check_occupancy(compiled("smooth"), log_probs, [1, 2], truth)
    with pytest.raises(AssertionError):
        check_occupancy(jax.jit(smooth), log_probs, [1, 2], truth)
