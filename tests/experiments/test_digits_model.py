"""The parts of the main job: its samplers on a law that is known, its scaling, its objective."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import datasets, diffusion, sharding
from probjax.core import item_keys, row_normal, stream
from probjax.experiments import digits_model, training

EIGENVALUES = np.geomspace(0.02, 1.0, 64)
MEAN = np.linspace(-0.5, 0.5, 64)
CONFIG = digits_model.SamplingConfig(
    ddim_steps=200, heun_steps=40, ancestral_steps=400, flow_tolerance=1e-5,
    langevin_levels=30, langevin_steps=10,
)  # fmt: skip


def exact(params):
    del params
    covariance = jnp.diag(jnp.asarray(EIGENVALUES, jnp.float32))
    return diffusion.gaussian_denoiser(jnp.asarray(MEAN, jnp.float32), covariance)


@pytest.fixture(scope="module")
def drawn():
    keys = item_keys(jax.random.key(0), 400)
    return {
        name: jax.jit(draw)(None, keys)
        for name, (draw, _) in digits_model.samplers(CONFIG, exact).items()
    }


@pytest.mark.slow
def test_three_samplers_follow_one_path(drawn):
    """The exact flow of a Gaussian scales each direction; first order is allowed 2 %."""
    start = CONFIG.max_noise_scale * row_normal(
        stream(item_keys(jax.random.key(0), 400), "init"), jnp.zeros((400, 64))
    )
    factor = np.sqrt(EIGENVALUES / (EIGENVALUES + CONFIG.max_noise_scale**2))
    landed = MEAN + factor * (np.asarray(start) - MEAN)

    def error(name):
        return np.std(np.asarray(drawn[name][0]) - landed) / np.std(landed)

    assert error("DDIM") < 0.02 and error("Heun") < 0.005 and error("probability flow") < 0.002
    assert error("ancestral") > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Heun", "DDIM", "probability flow", "ancestral"])
def test_draws_have_the_law_of_the_data(drawn, name):
    x = np.asarray(drawn[name][0], np.float64)
    z = (x - MEAN) / np.sqrt(EIGENVALUES)
    error = 5 / np.sqrt(x.shape[0])
    assert np.abs(z.mean(0)).max() < error
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / z.size) + 0.02


def test_evaluations_are_counted(drawn):
    count = {name: np.unique(np.asarray(calls)) for name, (_, calls) in drawn.items()}
    assert count["DDIM"] == [200] and count["Heun"] == [79] and count["ancestral"] == [400]
    assert count["annealed Langevin"] == [301]
    assert (count["probability flow"] > 20).all()


def test_scaling_goes_there_and_back():
    train = datasets.load_digits(split="train")
    scaling = digits_model.measure_scaling(train)
    rows = scaling.rows(datasets.dequantise(jax.random.key(1), train.images, train.levels))
    assert rows.shape == (1297, 64)
    assert abs(float(rows.std()) - 0.5) < 0.01 and abs(float(rows.mean())) < 0.01
    np.testing.assert_array_equal(scaling.images(rows, train.levels), train.images)


@pytest.mark.slow
def test_a_fresh_objective_loses_one_for_each_pixel():
    """The raw network starts at zero, so EDM's weighted error is 1 a pixel in expectation."""
    train = datasets.load_digits()
    net = digits_model.make_network(digits_model.NetworkConfig(num_blocks=1))
    objective = digits_model.make_objective(
        jax.random.key(0), digits_model.TrainingConfig(), net, train
    )
    rows = objective.batch_fn(jax.random.key(1), train.images)
    losses = objective.loss_fn(objective.params, item_keys(jax.random.key(2), len(rows)), rows)
    error = losses.std() / len(rows) ** 0.5
    assert abs(losses.mean() - 64) < 5 * error + 64 * 0.02


def collectives(compiled):
    names = r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
    return set(re.findall(names, compiled.as_text()))


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
    state, args = sharding.place((state, (key, train.images)), mesh, jax.P())
    options = sharding.same_bits_options(mesh) if tile else None
    lowered = jax.jit(step, compiler_options=options).lower(state, jnp.int32(0), *args)
    assert collectives(lowered.compile()) == declared


@pytest.mark.parametrize("name", ["Heun", "annealed Langevin"])
def test_the_sampling_step_has_none(name):
    mesh = sharding.make_mesh(4)
    net = digits_model.make_network(digits_model.NetworkConfig(width=8, num_blocks=1))
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))
    short = digits_model.SamplingConfig(heun_steps=3, langevin_levels=2, langevin_steps=2)
    draw, check_vma = digits_model.samplers(
        short, lambda params: digits_model.denoiser(net, params)
    )[name]
    mapped = sharding.map_rows(draw, mesh, tile=8, in_axes=(None, 0), check_vma=check_vma)
    keys = item_keys(jax.random.key(0), 64)
    assert collectives(jax.jit(mapped).lower(params, keys).compile()) == set()
