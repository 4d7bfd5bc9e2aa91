"""The simple loss, the band it finds, and the loss on the band."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import transducer, transducer_pruned
from probjax.sequence.transducer_arcs import KINDS, Arcs

FRAMES, LABELS, CLASSES, WIDTH = 4, 3, 5, 2
CASES = [(4, (1, 2, 3)), (4, (1, 1)), (3, (2,)), (4, ()), (2, (1, 2, 3)), (0, (1,)), (3, (3, 3, 1))]
BATCH = len(CASES)


def batch(seed=0, padding=np.nan):
    rng = np.random.default_rng(seed)
    am = rng.normal(size=(BATCH, FRAMES, CLASSES)) * 2
    lm = rng.normal(size=(BATCH, LABELS + 1, CLASSES)) * 2
    labels = np.full((BATCH, LABELS), -1)
    for i, (count, target) in enumerate(CASES):
        am[i, count:] = padding
        lm[i, len(target) + 1 :] = padding
        labels[i, : len(target)] = target
    frames, lengths = zip(*[(count, len(target)) for count, target in CASES], strict=True)
    return am, lm, labels, np.array(frames), np.array(lengths)


def total(loss):
    return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0))


def fetched(function):
    """The compiled function, with NumPy arrays as results: to take them apart compiles nothing."""
    program = jax.jit(function)
    return lambda *arguments: jax.device_get(program(*arguments))


@functools.cache
def compiled(simple):
    """Losses and gradients from the sum of am and lm."""

    def objective(am, lm, *rest):
        if simple:
            loss = transducer_pruned.rnnt_simple_loss(am, lm, *rest, blank_id=-1)
        else:
            loss = transducer.rnnt_loss(am[:, :, None] + lm[:, None], *rest, blank_id=-1)
        return total(loss), loss

    return fetched(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))


def test_the_simple_loss_is_the_loss_of_the_sum(x64):
    (_, ours), gradients = compiled(True)(*batch())
    (_, wanted), wanted_gradients = compiled(False)(*batch(padding=0.0))
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_constants_of_frames_and_lanes_do_not_matter(x64):
    am, lm, *rest = batch()
    rng = np.random.default_rng(1)
    shifts = [100 * rng.normal(size=(*x.shape[:2], 1)) for x in (am, lm)]
    (_, losses), gradients = compiled(True)(am, lm, *rest)
    (_, shifted), moved = compiled(True)(am + shifts[0], lm + shifts[1], *rest)
    np.testing.assert_allclose(shifted, losses, rtol=1e-11)
    for one, other in zip(gradients, moved, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_a_node_without_a_normaliser_poisons_its_sequence_alone(x64):
    am, lm, *rest = batch(padding=0.0)
    (_, clean), clean_gradients = compiled(True)(am, lm, *rest)
    others = np.arange(BATCH) != 1
    far = np.array([0.0, 0.0, 0.0, 0.0, 2000.0])
    for changes in (
        ((0, (1, 2), far), (1, (1, 1), far[::-1])),  # both peaks are out of reach
        ((0, (1, 2, 0), np.nan),),
        ((1, (1, 2), -np.inf),),
    ):
        spoiled = am.copy(), lm.copy()
        for which, place, value in changes:
            spoiled[which][place] = value
        (_, losses), gradients = compiled(True)(*spoiled, *rest)
        assert np.isnan(losses[1])
        np.testing.assert_array_equal(losses[others], clean[others])
        for one, other in zip(gradients, clean_gradients, strict=True):
            assert (one[1] == 0).all()
            np.testing.assert_array_equal(one[others], other[others])


def test_arcs_of_the_simple_lattice(x64):
    am, lm, *rest = batch()
    arcs = fetched(functools.partial(transducer_pruned.simple_arcs, blank_id=-1))(am, lm, *rest)
    scores = am[0][:, None] + lm[0]
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(arcs.blank[0], log_probs[..., -1], atol=1e-13)
    for lane, label in enumerate(CASES[0][1]):
        np.testing.assert_allclose(arcs.label[0, :, lane], log_probs[:, lane, label], atol=1e-13)
    with pytest.raises(ValueError, match=r"lm must have shape \(7, 4, 5\), got \(7, 3, 5\)"):
        jax.eval_shape(transducer_pruned.simple_arcs, am, lm[:, 1:], *rest)


def check_ranges(starts, width, frames, length, kind):
    """Never falling, never too steep, from lane 0 to the last one, if that can be climbed."""
    starts = np.asarray(starts)[:frames]
    climb = width - 1 if kind == "regular" else 1
    last = max(length + 1 - width, 0)
    assert starts[0] == 0
    assert (np.diff(starts) >= 0).all() and (np.diff(starts) <= climb).all()
    assert starts[-1] == min(last, climb * (frames - 1))


@functools.cache
def ranges(kind, width):
    return jax.jit(
        lambda arcs, frames, lengths: transducer_pruned.pruning_ranges(
            arcs, width, frames, lengths, kind=kind
        )
    )


@pytest.mark.parametrize(("kind", "width"), [("regular", 3), ("constrained", 2)])
def test_ranges_can_be_walked(kind, width):
    frames, lanes = 7, 6
    rng = np.random.default_rng(0)
    counts, lengths = np.tile([7, 4, 1, 7], 10), np.tile([5, 5, 1, 0], 10)
    blank, label = rng.random((40, frames, lanes)) ** 8, rng.random((40, frames, lanes - 1)) ** 8
    arcs = Arcs(*(jnp.asarray(x, jnp.float32) for x in (blank, label)))
    starts = np.asarray(ranges(kind, width)(arcs, jnp.asarray(counts), jnp.asarray(lengths)))
    for row in range(40):
        check_ranges(starts[row], width, counts[row], lengths[row], kind)


def test_ranges_hold_the_most_where_nothing_forbids_it():
    """A posterior that climbs slowly enough: each frame has its own best window."""
    path = np.array([0, 0, 1, 2, 2, 3, 4, 5, 5])
    blank = np.eye(6, dtype=np.float32)[path] + np.float32(0.01)
    arcs = Arcs(jnp.asarray(blank), jnp.full((9, 5), 0.01))
    starts = np.asarray(ranges("regular", 2)(arcs, jnp.asarray(9), jnp.asarray(5)))
    assert (starts <= path).all() and (starts + 1 >= path).all()
    with pytest.raises(ValueError, match="width must be at least 2, got 1"):
        transducer_pruned.pruning_ranges(arcs, 1)


@functools.cache
def pruned(kind):
    def objective(logits, labels, starts, frames, lengths):
        loss = transducer_pruned.rnnt_pruned_loss(
            logits, labels, starts, frames, lengths, kind=kind, blank_id=-1
        )
        return total(loss), loss

    return fetched(jax.value_and_grad(objective, has_aux=True))


def lattice_logits():
    am, lm, *rest = batch(padding=0.0)
    return am[:, :, None] * np.cos(lm)[:, None] + lm[:, None], *rest


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", ["constrained", *(pytest.param(kind, marks=SLOW) for kind in KINDS[:2])]
)
def test_at_full_width_nothing_is_pruned(x64, kind):
    logits, *rest = lattice_logits()
    whole = jax.jit(
        jax.value_and_grad(
            lambda z, *rest: total(transducer.rnnt_loss(z, *rest, kind=kind, blank_id=-1))
        )
    )
    starts = np.zeros((BATCH, FRAMES), int)
    wanted, wanted_gradient = whole(logits, *rest)
    (loss, _), gradient = pruned(kind)(logits, rest[0], starts, *rest[1:])
    assert abs(loss - wanted) < 1e-12
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-13)


def check_band(loss_fn):
    """The sum over alignments that stay in the band, by enumeration."""
    logits, labels, frames, lengths = lattice_logits()
    starts = np.tile([0, 0, 1, 2], (BATCH, 1))
    lanes = np.minimum(starts[..., None] + np.arange(WIDTH), LABELS)
    band = np.take_along_axis(logits, lanes[..., None], axis=2)
    loss = loss_fn(band, labels, starts, frames, lengths)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for i, (count, target) in enumerate(CASES):
        scores = []
        for path in itertools.combinations_with_replacement(range(count), len(target)):
            nodes, score, lane = [], 0.0, 0
            for t in range(count):
                while lane < len(target) and path[lane] == t:
                    nodes.append((t, lane))
                    score += log_probs[i, t, lane, target[lane]]
                    lane += 1
                nodes.append((t, lane))
                score += log_probs[i, t, lane, -1]
            if all(0 <= u - starts[i, t] < WIDTH for t, u in nodes):
                scores.append(score)
        wanted = -np.logaddexp.reduce(scores) if scores else np.inf
        np.testing.assert_allclose(loss[i], wanted, rtol=1e-12)


def test_the_loss_on_a_band_is_the_sum_over_what_stays_there(x64):
    check_band(lambda *a: pruned("regular")(*a)[0][1])


def test_bands_that_do_not_fit_are_named():
    labels, starts = jnp.array([1, 2]), jnp.zeros(3, int)
    with pytest.raises(ValueError, match=r"starts must have shape \(4,\), got \(3,\)"):
        transducer_pruned.rnnt_pruned_loss(jnp.zeros((4, 2, 5)), labels, starts)
    with pytest.raises(ValueError, match=r"logits must have shape \(T, W, V\)"):
        transducer_pruned.rnnt_pruned_loss(jnp.zeros((4, 5)), labels, starts)
    with pytest.raises(ValueError, match="pred must have shape"):
        transducer_pruned.take_band(jnp.zeros((2, 3, 4)), jnp.zeros((3, 5), int), 2)


@pytest.mark.slow
def test_wider_bands_come_closer(x64):
    """The band found by the simple loss: losses fall towards the full one with the width."""
    rng = np.random.default_rng(6)
    am = jnp.asarray(rng.normal(size=(30, 8)) * 2)
    lm = jnp.asarray(rng.normal(size=(13, 8)))
    labels = jnp.asarray(rng.integers(1, 8, size=12))
    posterior = transducer.rnnt_arc_posteriors(*transducer_pruned.simple_arcs(am, lm, labels))
    full = float(transducer.rnnt_loss(am[:, None] + lm[None], labels))
    losses = []
    for width in (2, 4, 8, 13):
        starts = transducer_pruned.pruning_ranges(posterior, width)
        band = am[:, None] + transducer_pruned.take_band(lm, starts, width)
        losses.append(float(transducer_pruned.rnnt_pruned_loss(band, labels, starts)))
    assert all(one > other for one, other in itertools.pairwise(losses))
    assert abs(losses[-1] - full) < 1e-12 and losses[2] - full < 0.1


@pytest.mark.slow
def test_the_checks_kill_mistakes(x64):
    check_band(lambda *a: pruned("regular")(*a)[0][1])

    def shifted(logits, labels, starts, *lengths):
        return pruned("regular")(logits, labels, jnp.maximum(starts - 1, 0), *lengths)[0][1]

    def same_labels(logits, labels, starts, *lengths):  # labels not moved along with the band
        return pruned("regular")(logits, labels, jnp.zeros_like(starts), *lengths)[0][1]

    for mutant in (shifted, same_labels):
        with pytest.raises(AssertionError):
            check_band(mutant)
    check_ranges([0, 0, 1, 2], 2, 4, 3, "regular")
    for bad in ([0, 1, 0, 2], [0, 0, 2, 2], [1, 1, 2, 2], [0, 0, 1, 1]):
        with pytest.raises(AssertionError):
            check_ranges(bad, 2, 4, 3, "regular")
