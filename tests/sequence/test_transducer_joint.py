"""The transducer's loss from a joint network in blocks of frames, and inside `shard_map`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from probjax import sharding
from probjax.sequence import transducer

BATCH, FRAMES, LABELS, CLASSES, BLANK = 8, 4, 3, 5, -3


def joint(weights, enc, pred):
    return jnp.tanh(enc + pred) @ weights


def total(loss):
    return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0))


@functools.cache
def joined(blocked):
    """Losses from a joint network, in blocks of three frames or all at once."""

    def objective(weights, enc, pred, labels, frames, lengths):
        if blocked:
            joint_fn = functools.partial(joint, weights)
            loss = transducer.rnnt_loss_from_joint(
                joint_fn, enc, pred, labels, frames, lengths, time_block=3, blank_id=BLANK
            )
        else:
            logits = joint(weights, enc[:, :, None], pred[:, None])
            loss = transducer.rnnt_loss(logits, labels, frames, lengths, blank_id=BLANK)
        return total(loss), loss

    return jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True))


def arguments():
    """Weights, encodings, predictions, labels; among the lengths nothing at all, and no frame."""
    rng = np.random.default_rng(2)
    enc, pred = rng.normal(size=(BATCH, FRAMES, 2)), rng.normal(size=(BATCH, LABELS + 1, 2))
    labels = rng.choice([0, 1, 3, 4], size=(BATCH, LABELS))
    frames, lengths = np.array([4, 4, 3, 4, 2, 1, 0, 0]), np.array([3, 2, 1, 0, 3, 2, 0, 1])
    weights = rng.normal(size=(2, CLASSES))
    return tuple(map(jnp.asarray, (weights, enc, pred, labels, frames, lengths)))


def test_blocks_of_the_joint_network_change_nothing(x64):
    weights, enc, pred, *rest = arguments()
    (_, whole), whole_gradients = joined(False)(weights, enc, pred, *rest)
    live = (jnp.arange(FRAMES)[None] < rest[1][:, None])[..., None]
    (_, blocks), gradients = joined(True)(weights, jnp.where(live, enc, jnp.nan), pred, *rest)
    np.testing.assert_array_equal(np.isfinite(whole), [1, 1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(blocks, whole, rtol=1e-13)
    for ours, wanted in zip(gradients, whole_gradients, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-13)
    with pytest.raises(ValueError, match="time_block must be at least 1, got 0"):
        transducer.rnnt_loss_from_joint(jnp.add, enc[0], pred[0], rest[0][0], time_block=0)


@pytest.mark.slow
def test_one_sequence_eagerly_is_the_batch(x64):
    weights, *rest = arguments()
    losses = joined(True)(weights, *rest)[0][1]
    one = transducer.rnnt_loss_from_joint(
        functools.partial(joint, weights), *(x[2] for x in rest), blank_id=BLANK
    )
    assert one.shape == () and abs(one - losses[2]) < 1e-13


@pytest.mark.slow
def test_shard_map_with_its_own_check():
    """Sharded logits, replicated labels: the same losses and gradients as on one device."""
    logits = jax.random.normal(jax.random.key(4), (BATCH, FRAMES, LABELS + 1, CLASSES)) * 2
    enc = jax.random.normal(jax.random.key(5), (BATCH, FRAMES, 2))
    frames = jnp.array([4, 4, 3, 4, 2, 1, 0, 0])
    labels, length = jnp.array([0, 1, 3]), jnp.array(2)

    def local(logits, enc, frames, labels, length):
        def objective(arrays):
            loss_fn = functools.partial(transducer.rnnt_loss, blank_id=BLANK)
            loss = jax.vmap(loss_fn, (0, None, 0, None))(arrays[0], labels, frames, length)
            pred = jnp.ones((LABELS + 1, 2))
            joint_fn = functools.partial(joint, jnp.ones((2, CLASSES)))
            from_joint = lambda enc, frames: transducer.rnnt_loss_from_joint(
                joint_fn, enc, pred, labels, frames, length, time_block=3, blank_id=BLANK
            )
            losses = loss, jax.vmap(from_joint)(arrays[1], frames)
            return total(losses[0]) + total(losses[1]), losses

        (_, losses), gradient = jax.value_and_grad(objective, has_aux=True)((logits, enc))
        return losses, gradient

    mesh, spec, whole = sharding.make_mesh(8), PartitionSpec("items"), PartitionSpec()
    in_specs = (spec, spec, spec, whole, whole)
    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=spec))
    operands = logits, enc, frames, labels, length
    for one, other in zip(
        jax.tree.leaves(sharded(*operands)),
        jax.tree.leaves(jax.jit(local)(*operands)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
