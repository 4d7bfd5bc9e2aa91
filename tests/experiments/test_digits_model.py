"""The parts of the main job: its scaling, its network, its objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import collectives as counting
from probjax import datasets, sharding
from probjax.core import item_keys
from probjax.experiments import digits_model, training


def test_scaling_goes_there_and_back():
    train = datasets.load_digits(split="train")
    scaling = digits_model.measure_scaling(train)
    rows = scaling.rows(datasets.dequantise(jax.random.key(1), train.images, train.levels))
    assert rows.shape == (1297, 64)
    assert abs(float(rows.std()) - 0.5) < 0.01 and abs(float(rows.mean())) < 0.01
    np.testing.assert_array_equal(scaling.images(rows, train.levels), train.images)


def test_a_share_of_the_classes_is_hidden_and_a_loss_without_any_hides_none():
    """Each class has its own output, so the loss tells which one the network saw."""
    train = datasets.load_digits()
    net = digits_model.make_network(digits_model.NetworkConfig(width=8, num_blocks=1))
    config = digits_model.TrainingConfig(label_dropout=0.25)
    objective = digits_model.make_objective(jax.random.key(0), config, net, train)
    rows, labels = objective.batch_fn(jax.random.key(1), (train.images[:400], train.labels[:400]))
    keys = item_keys(jax.random.key(2), len(labels))
    draw = np.random.default_rng(0)  # a fresh network's zeros would hide the class
    params = jax.tree.map(
        lambda w: w + 0.3 * draw.normal(size=w.shape).astype(w.dtype), objective.params
    )
    params["params"]["classes"] = jax.random.normal(jax.random.key(3), (10, 128))
    loss = jax.jit(objective.loss_fn)
    told, hidden = (loss(params, keys, (rows, c)) for c in (labels, jnp.full_like(labels, 10)))
    share = float(jnp.mean(told == hidden))
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(labels))


@pytest.mark.slow
def test_a_fresh_objective_loses_one_for_each_pixel():
    """The raw network starts at zero, so EDM's weighted error is 1 a pixel in expectation."""
    train = datasets.load_digits()
    net = digits_model.make_network(digits_model.NetworkConfig(num_blocks=1))
    objective = digits_model.make_objective(
        jax.random.key(0), digits_model.TrainingConfig(), net, train
    )
    rows = objective.batch_fn(jax.random.key(1), (train.images, train.labels))
    keys = item_keys(jax.random.key(2), len(train.labels))
    losses = objective.loss_fn(objective.params, keys, rows)
    error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() - 64) < 5 * error + 64 * 0.02


def collectives(compiled):
    return counting.kinds(counting.in_text(compiled.as_text()))


@pytest.mark.parametrize(
    ("tile", "declared"),
    [(None, {"all-reduce"}), pytest.param(8, {"all-gather"}, marks=pytest.mark.slow)],
)
def test_the_training_step_has_the_declared_collectives(tile, declared):
    mesh, config = sharding.make_mesh(4), digits_model.TrainingConfig()
    net = digits_model.make_network(digits_model.NetworkConfig(width=8, num_blocks=1))
    train = datasets.load_digits()
    key = jax.random.key(0)
    objective = digits_model.make_objective(key, config, net, train)
    step = training.make_step(
        objective.loss_fn, objective.batch_fn, objective.optimizer, mesh,
        batch_size=64, ema_decay=0.999, tile=tile,
    )  # fmt: skip
    state = training.init_state(objective.params, objective.optimizer)
    state, args = sharding.place((state, (key, (train.images, train.labels))), mesh, jax.P())
    options = sharding.same_bits_options(mesh) if tile else None
    lowered = jax.jit(step, compiler_options=options).lower(state, jnp.int32(0), *args)
    assert collectives(lowered.compile()) == declared
