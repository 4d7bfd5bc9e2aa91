"""Losses over a mesh: the answers of one device, and the collectives that were promised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives as counting
from probjax import sharding
from probjax.sequence import ctc, sharded, transducer

BATCH, FRAMES, CLASSES, LABELS = 24, 10, 20, 3
NAN_FRAME, BAD_LABEL, LONG, MINUS_INFINITY = 3, 9, 14, 20
LAYOUTS = {
    "batch": ((8,), ("batch",)),
    "batch, vocab": ((2, 4), ("batch", "vocab")),
    "vocab": ((4,), ("vocab",)),
    "vocab, undivided": ((5,), ("vocab",)),
    "batch, time": ((4, 2), ("batch", "time")),
    "time, undivided": ((5,), ("time",)),
    "vocab, time": ((4, 2), ("vocab", "time")),
    "all": ((2, 2, 2), ("batch", "vocab", "time")),
}
KINDS = {"batch": "batch_axis", "vocab": "vocab_axis", "time": "time_axis"}


def mesh_of(shape, names):
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))


def layout(name):
    shape, names = LAYOUTS[name]
    mesh = mesh_of(shape, names)
    axes = {"batch_axis": None} | {KINDS[axis]: axis for axis in names}
    spec = P(*(axis if axis in names else None for axis in ("batch", "time", "vocab")))
    return mesh, sharded.sharded_ctc_loss(mesh, **axes), spec


@functools.cache
def arguments():
    """Ordinary sequences, among them one of each kind that needs care."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(BATCH, FRAMES, CLASSES)) * 2
    labels = rng.integers(1, CLASSES, size=(BATCH, LABELS))
    frames = rng.integers(6, FRAMES + 1, size=BATCH)
    lengths = rng.integers(0, LABELS + 1, size=BATCH)
    labels[5], frames[5], lengths[5] = [7, 7, 7], 4, 3  # does not fit
    frames[6], lengths[6] = 0, 0
    frames[7], lengths[7] = 0, 2
    labels[8], lengths[8] = [4, 4, 4], 3
    frames[0], logits[NAN_FRAME, 2, 13] = 10, np.nan
    frames[NAN_FRAME] = frames[LONG] = 8
    labels[BAD_LABEL, 0], lengths[BAD_LABEL] = CLASSES, 2
    logits[LONG, 7] = -np.inf  # a live frame in which nothing is possible
    logits[MINUS_INFINITY, :, 5:] = -np.inf  # whole shards of impossible classes
    labels[MINUS_INFINITY], lengths[MINUS_INFINITY] = [1, 2, 1], 3
    for b in range(BATCH):
        logits[b, frames[b] :] = [np.nan, np.inf, -np.inf][b % 3]
        labels[b, lengths[b] :] = -1
    return tuple(map(jnp.asarray, (logits.astype(np.float32), labels, frames, lengths)))


def both(loss_fn):
    """Losses, and the gradient of a lopsided sum of the finite ones, compiled."""
    weights = 1 + jnp.arange(BATCH) % 5 / 4

    def total(logits, *rest):
        loss = loss_fn(logits, *rest)
        return jnp.sum(weights * jnp.where(jnp.isfinite(loss), loss, 0.0)), loss

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@functools.cache
def on_one_device():
    (_, losses), gradient = both(ctc.ctc_loss)(*arguments())
    assert np.isnan(losses[jnp.array([NAN_FRAME, BAD_LABEL, LONG])]).all()
    assert np.isinf(losses[jnp.array([5, 7])]).all() and losses[6] == 0
    assert np.isfinite(losses).sum() == BATCH - 5 and np.isfinite(gradient).all()
    return np.asarray(losses), np.asarray(gradient)


def check_layout(name):
    """Logits split, labels replicated: what one device says, to 1e-6."""
    mesh, loss_fn, spec = layout(name)
    logits, *rest = arguments()
    logits = jax.device_put(logits, NamedSharding(mesh, spec))
    rest = [jax.device_put(x, NamedSharding(mesh, P())) for x in rest]
    (_, losses), gradient = both(loss_fn)(logits, *rest)
    wanted, wanted_gradient = on_one_device()
    np.testing.assert_allclose(losses, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-6)
    assert gradient.sharding.is_equivalent_to(NamedSharding(mesh, spec), 3)


def test_three_axes_at_once_equal_one_device():
    check_layout("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "all"])
def test_each_layout_equals_one_device(name):
    check_layout(name)


def collectives(fn, *args):
    """The collectives of the compiled program, with the bytes that each leaves on a device."""
    return [(each.kind, each.bytes) for each in counting.of(jax.jit(fn), *args)]


def spread(mesh, spec, batch=16, frames=64, classes=128, labels=12):
    key = jax.random.key(0)
    logits = jax.random.normal(key, (batch, frames, classes))
    targets = 1 + jnp.arange(batch * labels).reshape(batch, labels) % (classes - 1)
    return (
        jax.device_put(logits, NamedSharding(mesh, spec)),
        jax.device_put(targets, NamedSharding(mesh, P(spec[0]))),
    )


def gradient_of(loss_fn):
    return jax.grad(lambda logits, labels: jnp.sum(loss_fn(logits, labels)))


@pytest.mark.slow
def test_batch_sharding_moves_no_data():
    mesh, loss_fn, spec = layout("batch")
    given = spread(mesh, spec)
    assert collectives(loss_fn, *given) == []
    assert collectives(gradient_of(loss_fn), *given) == []

    def mean(logits, labels):
        return jnp.mean(loss_fn(logits, labels))

    assert collectives(jax.value_and_grad(mean), *given) == [("all-reduce", 4)]


@pytest.mark.slow
def test_vocabulary_sharding_moves_emissions():
    """B=16, T=64, V=128, L=12 on four devices."""
    mesh, loss_fn, spec = layout("vocab")
    rows = 4 * 16 * 64
    given = spread(mesh, spec)
    forward = [("all-reduce", rows), ("all-reduce", rows), ("reduce-scatter", rows * 13 // 4)]
    assert collectives(loss_fn, *given) == forward
    assert collectives(gradient_of(loss_fn), *given) == sorted(
        [*forward, ("all-gather", rows * 13)]
    )
    # Sequences that do not divide: one sum of all emissions, and nothing on the way back.
    few = tuple(x[:15] for x in given)
    rows = 4 * 15 * 64
    moved = collectives(gradient_of(loss_fn), *few)
    assert {name for name, _ in moved} == {"all-reduce"}
    assert sum(size for _, size in moved) == rows * (1 + 1 + 13) <= 65_600


@pytest.mark.slow
def test_time_sharding_moves_emissions():
    mesh = mesh_of((4,), ("time",))
    loss_fn = sharded.sharded_ctc_loss(mesh, batch_axis=None, time_axis="time")
    given = spread(mesh, P(None, "time"))
    emissions = 4 * 16 * 64 * 13
    assert collectives(loss_fn, *given) == [("all-to-all", emissions // 4)]
    assert collectives(gradient_of(loss_fn), *given) == [("all-to-all", emissions // 4)] * 2
    few = tuple(x[:15] for x in given)
    assert collectives(gradient_of(loss_fn), *few) == [("all-gather", emissions * 15 // 16)]


def check_mean(mean_fn):
    """The mean over the targets that fit, of which the devices have 3, 1, 2 and 0."""
    fits = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0])
    logits = jax.random.normal(jax.random.key(1), (16, 4, 5))
    labels = jnp.where(fits[:, None] == 1, jnp.array([1, 2, 3]), jnp.array([4, 4, 4]))
    losses = jax.jit(ctc.ctc_loss)(logits, labels)
    wanted = losses[jnp.asarray(fits == 1)].mean()
    np.testing.assert_allclose(mean_fn(logits, labels), wanted, rtol=1e-6)


@pytest.mark.slow
def test_mean_over_unequal_counts_and_its_mutant():
    mesh = sharding.make_mesh(4)
    loss_fn = sharded.sharded_ctc_loss(mesh, batch_axis="items")

    def by_sums(logits, labels):
        losses = loss_fn(logits, labels)
        fits = jnp.isfinite(losses)
        return jnp.sum(jnp.where(fits, losses, 0.0)) / jnp.sum(fits.astype(losses.dtype))

    def in_shard_map(per_device):
        return jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=P("items"), out_specs=P()))

    def sums(logits, labels):
        losses = ctc.ctc_loss(logits, labels)
        fits = jnp.isfinite(losses)
        total, count = jnp.sum(jnp.where(fits, losses, 0.0)), jnp.sum(fits).astype(losses.dtype)
        return total, count

    def psummed(logits, labels):
        total, count = jax.lax.psum(sums(logits, labels), "items")
        return total / count

    def mean_of_means(logits, labels):
        total, count = sums(logits, labels)
        return jax.lax.pmean(total / jnp.maximum(count, 1), "items")

    check_mean(jax.jit(by_sums))
    check_mean(in_shard_map(psummed))
    with pytest.raises(AssertionError):
        check_mean(in_shard_map(mean_of_means))


@pytest.mark.slow
def test_pmap_is_a_twin():
    logits, *rest = arguments()
    split = [x.reshape(8, BATCH // 8, *x.shape[1:]) for x in (logits, *rest)]
    twin = jax.pmap(ctc.ctc_loss)(*split).reshape(BATCH)
    losses = jax.jit(layout("batch")[1])(logits, *rest)
    np.testing.assert_allclose(losses, twin, rtol=1e-6)


@pytest.mark.slow
def test_second_derivatives_and_forward_mode():
    """Through the collectives, too."""
    _, loss_fn, _ = layout("all")
    logits, labels, *_ = arguments()
    logits, labels = jnp.nan_to_num(logits, posinf=1.0, neginf=-1.0), 1 + labels % (CLASSES - 1)
    move = jax.random.normal(jax.random.key(2), logits.shape)

    def curvature(loss_fn):
        def total(z):
            loss = loss_fn(z, labels)
            return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0) ** 2)

        return jax.jit(lambda: (jax.jvp(total, (logits,), (move,))[1],
                                jax.jvp(jax.grad(total), (logits,), (move,))[1]))()  # fmt: skip

    for ours, wanted in zip(curvature(loss_fn), curvature(ctc.ctc_loss), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named():
    mesh = mesh_of((2, 4), ("batch", "vocab"))
    for axes, message in [
        ({"batch_axis": "rows"}, r"batch_axis='rows' is not an axis of the mesh, \('batch', 'v"),
        ({"batch_axis": None}, "one of batch_axis, vocab_axis, time_axis must name an axis"),
        ({"batch_axis": "vocab", "vocab_axis": "vocab"}, "one axis cannot split two things"),
    ]:
        with pytest.raises(ValueError, match=message):
            sharded.sharded_ctc_loss(mesh, **axes)
    by_class = sharded.sharded_ctc_loss(mesh, batch_axis="batch", vocab_axis="vocab")
    by_frame = sharded.sharded_ctc_loss(mesh, batch_axis="batch", time_axis="vocab")
    good = jnp.zeros((2, 4, 8)), jnp.array([[1], [2]])
    for loss_fn, logits, labels, options, message in [
        (by_class, good[0][:1], good[1][:1], {}, "have 1 sequences, which do not divide"),
        (by_class, good[0][..., :7], good[1], {}, "7 classes, .* by mesh axis 'vocab' of size 4"),
        (by_frame, good[0][:, :3], good[1], {}, "have 3 frames, which do not divide"),
        (by_class, good[0][0], good[1][0], {}, r"must have shape \(B, T, V\), got \(4, 8\)"),
        (by_class, good[0], good[1] + 7, {}, r"labels\[0, 0\]=8 must be in \[0, 8\)"),
        (by_class, *good, {"infeasible": "nan"}, "infeasible must be one of"),
        (by_class, *good, {"blank_id": 8}, "blank_id=8 must be in"),
    ]:
        with pytest.raises(ValueError, match=message):
            loss_fn(logits, labels, **options)


def test_what_does_not_fit_the_transducer_is_named():
    loss_fn = sharded.sharded_rnnt_loss(sharding.make_mesh(2), batch_axis="items")
    good = jnp.zeros((2, 3, 2, 4)), jnp.array([[1], [2]])
    for logits, labels, message in [
        (good[0][:1], good[1][:1], "have 1 sequences, which do not divide"),
        (good[0][0], good[1], r"must have shape \(B, T, U \+ 1, V\)"),
        (good[0], good[1] + 2, r"labels\[1, 0\]=4 must be in \[0, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            loss_fn(logits, labels)
    with pytest.raises(ValueError, match="batch_axis='rows' is not an axis"):
        sharded.sharded_rnnt_loss(sharding.make_mesh(2), batch_axis="rows")


@pytest.mark.slow
def test_transducers_of_eight_devices_equal_those_of_one():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(8, 4, 3, 5)).astype(np.float32)
    labels = jnp.asarray(rng.integers(1, 5, size=(8, 2)))
    frames, lengths = jnp.array([4, 3, 2, 0, 4, 1, 4, 0]), jnp.array([2, 1, 2, 0, 0, 2, 2, 1])
    logits[2, 2:] = np.nan
    logits[4, 1, 0, 2] = np.nan
    mesh = sharding.make_mesh(8)
    loss_fn = sharded.sharded_rnnt_loss(mesh, batch_axis="items")

    def both(loss_fn):
        def total(logits):
            loss = loss_fn(logits, labels, frames, lengths, kind="modified", blank_id=0)
            return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0)), loss

        return jax.jit(jax.value_and_grad(total, has_aux=True))

    split = jax.device_put(logits, NamedSharding(mesh, P("items")))
    (_, losses), gradient = both(loss_fn)(split)
    (_, wanted), wanted_gradient = both(transducer.rnnt_loss)(jnp.asarray(logits))
    assert np.isnan(losses[4]) and np.isinf(losses[jnp.array([5, 7])]).all()
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-6)
    placed = jax.device_put(labels, NamedSharding(mesh, P("items")))
    assert collectives(loss_fn, split, placed) == []
