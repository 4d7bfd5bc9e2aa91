"""The kernel against the scans it replaces: interpreted here, and lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from probjax import sharding
from probjax.sequence import ctc, ctc_core, kernels

FRAMES, LABELS = 6, 4
TARGETS = [(1, 2, 3, 4), (1, 1), (), (5, 5, 5, 5), (2, 2, 3), (7,), (1, 2, 1, 1)]


def batch(frames=FRAMES, labels=LABELS, seed=0):
    """Log weights, some of them impossible; a target that does not fit; one frame of padding."""
    rng = np.random.default_rng(seed)
    blank = rng.normal(size=(len(TARGETS), frames)) * 3 - 3
    label = rng.normal(size=(len(TARGETS), frames, labels)) * 3 - 3
    label[0, 2, 1], blank[4, 1], label[4, 3, 0] = -np.inf, -np.inf, -np.inf
    skip = np.zeros((len(TARGETS), labels), bool)
    for b, target in enumerate(TARGETS):
        skip[b, 1 : len(target)] = np.diff(target) != 0
        label[b, :, len(target) :] = -np.inf
    blank[1, -1], label[1, -1] = 0, -np.inf
    lengths = np.array([len(target) for target in TARGETS])
    return tuple(map(jnp.asarray, (blank, label, skip, lengths)))


@functools.cache
def smoothed(function):
    return jax.jit(jax.vmap(function))


def check_smoothing(function):
    """Sums and occupancies are those of the scans."""
    ours, wanted = smoothed(function)(*batch()), smoothed(ctc_core.smooth)(*batch())
    assert np.isneginf(wanted.log_z[3]) and np.isfinite(np.delete(wanted.log_z, 3)).all()
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_sums_and_occupancies_are_those_of_the_scans(x64):
    check_smoothing(kernels.smooth)


def test_the_sum_alone_and_its_gradient():
    """In single precision; without a derivative two rows are kept."""
    arguments = batch()
    floats = tuple(x.astype(jnp.float32) for x in arguments[:2])

    def total(log_z, *scores):
        sums = jax.vmap(log_z)(*scores, *arguments[2:])
        return jnp.sum(jnp.where(jnp.isfinite(sums), sums, 0.0)), sums

    @jax.jit
    def run(*scores):
        ours, twin = (
            functools.partial(total, kernels.log_z),
            functools.partial(total, ctc_core.log_z),
        )
        gradients = [jax.grad(f, argnums=(0, 1), has_aux=True)(*scores)[0] for f in (ours, twin)]
        return (ours(*scores)[1], *gradients[0]), (twin(*scores)[1], *gradients[1])

    for one, other in zip(*run(*floats), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
def test_the_loss_takes_either():
    logits = jax.random.normal(jax.random.key(0), (2, FRAMES, 5))
    labels, lengths = jnp.array([[1, 1, 2], [4, 0, -1]]), jnp.array([3, 1])

    def run(implementation):
        def total(logits):
            losses = ctc.ctc_loss(logits, labels, None, lengths, implementation=implementation)
            return jnp.sum(losses)

        return jax.jit(jax.value_and_grad(total))(logits)

    for one, other in zip(run("pallas"), run("xla"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="implementation must be one of"):
        ctc.ctc_loss(jnp.zeros((2, 3)), jnp.array([1]), implementation="triton")


@pytest.mark.slow
def test_no_frames():
    nothing = jnp.zeros((0,)), jnp.zeros((0, 1)), jnp.array([False])
    assert kernels.log_z(*nothing, jnp.array(0)) == 0
    assert kernels.log_z(*nothing, jnp.array(1)) == -np.inf
    assert kernels.smooth(*nothing, jnp.array(0)).label.shape == (0, 1)


def lowered(function, num_sequences=2, frames=50, labels=100, dtype=jnp.float32):
    shapes = [(num_sequences, frames), (num_sequences, frames, labels)]
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    arguments += [
        jax.ShapeDtypeStruct((num_sequences, labels), bool),
        jax.ShapeDtypeStruct((num_sequences,), jnp.int32),
    ]
    traced = jax.jit(jax.vmap(function)).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_lowering_for_cuda():
    """To Triton's language; what its compiler makes of it is seen on a GPU only."""
    alone = lowered(kernels.log_z)
    assert alone.count("@__gpu$xla.gpu.triton") == 1
    assert "tensor<2x1x2x128xf32>" in alone  # two rows
    gradient = lowered(jax.grad(kernels.log_z, argnums=(0, 1)))
    assert "tensor<2x2x50x128xf32>" in gradient  # two programs for each sequence
    assert gradient.count("@__gpu$xla.gpu.triton") == 1


@pytest.mark.slow
@pytest.mark.parametrize("labels", [1, 31, 32, 700])
def test_lowering_for_cuda_of_other_sizes(labels, x64):
    lanes = max(32, 2 ** int(np.ceil(np.log2(labels + 1))))
    text = lowered(kernels.log_z, labels=labels, dtype=jnp.float64)
    assert f"tensor<2x1x2x{lanes}xf64>" in text


@pytest.mark.slow
def test_precision_on_long_input():
    """Single precision against the scans in double: the bars of the scans themselves."""
    frames, labels = 1000, 100
    rng = np.random.default_rng(5)
    scores = jax.nn.log_softmax(rng.normal(size=(2, frames, 32)), axis=-1)
    targets = rng.integers(1, 32, size=(2, labels))
    skip = jnp.asarray(np.pad(np.diff(targets) != 0, ((0, 0), (1, 0))))
    label = jnp.stack([s[:, t] for s, t in zip(scores, targets, strict=True)])
    arguments = scores[:, :, 0], label, skip, jnp.array([100, 80])
    ours = jax.device_get(smoothed(kernels.smooth)(*arguments))
    with jax.enable_x64(True):
        double = [jnp.asarray(np.asarray(x, np.float64)) for x in arguments[:2]]
        wanted = smoothed(ctc_core.smooth)(*double, *arguments[2:])
    np.testing.assert_allclose(ours.log_z, wanted.log_z, rtol=5e-7)
    np.testing.assert_allclose(ours.label, wanted.label, atol=2e-5)
    np.testing.assert_allclose(ours.blank + ours.label.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.slow
def test_forward_mode_and_second_derivatives(x64):
    blank, label, *rest = (x[0] for x in batch())
    moves = jax.random.normal(jax.random.key(0), (2, *label.shape), label.dtype)

    def derivatives(log_z):
        slope = jax.grad(lambda label: log_z(blank, label, *rest))
        return jax.jvp(slope, (jnp.where(jnp.isinf(label), -9.0, label),), (moves[0],))

    for one, other in zip(
        jax.jit(lambda: derivatives(kernels.log_z))(),
        jax.jit(lambda: derivatives(ctc_core.log_z))(),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-11)


@pytest.mark.slow
def test_within_shard_map():
    """For CUDA it passes the default check; JAX's interpreter of kernels does not."""
    mesh = sharding.make_mesh(7)
    blank, label, skip, _ = batch()

    def local(blank, label, length):
        return jax.vmap(kernels.smooth, (0, 0, None, None))(blank, label, skip[0], length)

    def split(check_vma):
        specs = P("items"), P("items"), P()
        return jax.jit(
            jax.shard_map(
                local, mesh=mesh, in_specs=specs, out_specs=P("items"), check_vma=check_vma
            )
        )

    arguments = blank, label, jnp.array(4)
    for one, other in zip(split(False)(*arguments), jax.jit(local)(*arguments), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    text = split(True).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton") == 1


@pytest.mark.slow
def test_the_check_kills_mutants(x64):
    def skips_between_equal_labels(blank, label, skip, length):
        return kernels.smooth(blank, label, jnp.ones_like(skip), length)

    def skips_in_the_order_of_the_target_on_the_way_back(blank, label, skip, length):
        ahead = kernels.smooth(blank, label, skip, length)
        behind = kernels.smooth(blank[::-1], label[::-1, ::-1], skip, length)
        return ahead._replace(label=(ahead.label + behind.label[::-1, ::-1]) / 2)

    def ends_at_the_last_lane(blank, label, skip, length):
        return kernels.smooth(blank, label, skip, jnp.full_like(length, LABELS))

    def one_end_state(blank, label, skip, length):
        result = kernels.smooth(blank, label, skip, length)
        return result._replace(log_z=result.log_z + jnp.log(result.blank[-1]))

    for mutant in (
        skips_between_equal_labels,
        skips_in_the_order_of_the_target_on_the_way_back,
        ends_at_the_last_lane,
        one_end_state,
    ):
        with pytest.raises(AssertionError):
            check_smoothing(mutant)
