"""The training step is the optimiser's textbook loop, and the loop resumes to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from probjax import sharding
from probjax.core import step_key, stream
from probjax.datasets import batch_indices
from probjax.experiments import runs, training

DATA = jax.random.normal(jax.random.key(5), (20, 3))


def loss_fn(params, keys, x):
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    return jnp.sum((x + 0.1 * noise - params["w"][None]) ** 2, axis=-1)


def batch_fn(key, x):
    return x + 0.01 * jax.random.uniform(key, x.shape)


def make(num_devices=2, tile=None):
    return training.make_step(
        loss_fn, batch_fn, optax.sgd(0.1), sharding.make_mesh(num_devices),
        batch_size=8, ema_decay=0.9, tile=tile,
    )  # fmt: skip


def start():
    return training.init_state({"w": jnp.zeros(3)}, optax.sgd(0.1))


def test_a_step_is_gradient_update_and_average_by_hand():
    key, state = jax.random.key(0), start()
    step = jax.jit(make())

    @jax.jit
    def gradient(weights, t):
        places = batch_indices(stream(key, "data"), t, 20, 8)
        rows = batch_fn(step_key(stream(key, "dequantise"), t), DATA[places])
        base = step_key(stream(key, "noise"), t)
        keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(8))
        return jax.grad(lambda params: loss_fn(params, keys, rows).mean())({"w": weights})

    weights, average = np.zeros(3), np.zeros(3)
    for t in range(5):
        grad = gradient(np.float32(weights), t)
        weights = weights - 0.1 * np.asarray(grad["w"])
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weights
        state, metrics = step(state, t, key, DATA)
        np.testing.assert_allclose(state.params["w"], weights, rtol=1e-5)
        np.testing.assert_allclose(state.average["w"], average, rtol=1e-5)
        assert metrics["loss"].shape == ()


def context(folder, num_devices, **changes):
    folder.mkdir(exist_ok=True)
    quiet = lambda label, **_: lambda chunk: None
    base = runs.Context(folder, sharding.make_mesh(num_devices), quiet, lambda line: None, None)
    return base._replace(**changes)


def fit(folder, num_devices=2, tile=2, step=None, **changes):
    return training.fit(
        step or make(num_devices, tile), start(), 12,
        args=(jax.random.key(0), DATA), context=context(folder, num_devices, **changes),
        config={"tile": tile}, held_out=lambda p: jnp.sum(p["w"]), chunk_size=3, checkpoint_every=3,
        same_bits=tile is not None,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.bits
def test_a_stopped_run_goes_on_to_the_same_bits_on_other_devices(tmp_path):
    whole, log, reason = fit(tmp_path / "whole")
    assert reason == "finished"
    assert [record["step"] for record in log.records] == [3, 6, 9, 12]
    half, _, reason = fit(tmp_path / "cut", deadline=0.0)
    assert reason == "deadline"
    told = []
    rest, log, reason = fit(tmp_path / "cut", num_devices=4, say=told.append)
    assert (reason, told) == ("finished", ["resumed from step 3 of 12"])
    assert [record["step"] for record in log.records] == [3, 6, 9, 12]
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(rest), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert (np.asarray(half.params["w"]) != np.asarray(rest.params["w"])).all()


def test_divergence_is_an_error_that_keeps_the_last_good_checkpoint(tmp_path):
    good = make(2, 2)

    def step(state, t, key, data):
        state, metrics = good(state, t, key, data)
        return state, {"loss": jnp.where(t >= 7, jnp.nan, metrics["loss"])}

    with pytest.raises(FloatingPointError, match="between steps 6 and 9.* checkpoint is step 6"):
        fit(tmp_path, step=step)
    assert sharding.checkpoints.steps(tmp_path / "checkpoints") == [3, 6]


def test_adam_warms_up_and_decays_to_zero():
    optimizer = training.adam(1e-2, 10, 4)
    with jax.numpy_dtype_promotion("standard"):
        state, sizes = optimizer.init(jnp.ones(1)), []
        for _ in range(11):
            update, state = optimizer.update(jnp.ones(1), state)
            sizes.append(float(-update[0]))
    assert sizes[0] == 0.0 and sizes[10] == pytest.approx(0.0, abs=1e-9)
    assert max(sizes) == pytest.approx(1e-2, rel=1e-3) and np.argmax(sizes) == 4
