"""The samplers of the main job on a law that is known, and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import collectives as counting
from probjax import diffusion, sharding
from probjax.core import item_keys, row_normal, stream
from probjax.experiments import digits_model, digits_samplers

EIGENVALUES = np.geomspace(0.02, 1.0, 64)
MEAN = np.linspace(-0.5, 0.5, 64)
CONFIG = digits_samplers.SamplingConfig(
    samplers=("ddim", "heun", "ancestral", "unipc2", "annealed_langevin", "probability_flow"),
    ddim_steps=200, heun_steps=40, ancestral_steps=400, flow_tolerance=1e-5,
    langevin_levels=30, langevin_steps=10, few_evaluations=30, few_min_noise_scale=0.002,
)  # fmt: skip


def exact(params, key):
    del params, key
    covariance = jnp.diag(jnp.asarray(EIGENVALUES, jnp.float32))
    return diffusion.gaussian_denoiser(jnp.asarray(MEAN, jnp.float32), covariance)


@pytest.fixture(scope="module")
def drawn():
    keys = item_keys(jax.random.key(0), 400)
    return {
        name: jax.jit(sampler.draw)(None, keys)
        for name, sampler in digits_samplers.samplers(CONFIG, exact).items()
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

    assert error("ddim") < 0.02 and error("heun") < 0.005 and error("probability_flow") < 0.002
    assert error("unipc2") < 0.005
    assert error("ancestral") > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heun", "ddim", "unipc2", "probability_flow", "ancestral"])
def test_draws_have_the_law_of_the_data(drawn, name):
    x = np.asarray(drawn[name][0], np.float64)
    z = (x - MEAN) / np.sqrt(EIGENVALUES)
    error = 5 / np.sqrt(x.shape[0])
    assert np.abs(z.mean(0)).max() < error
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / z.size) + 0.02


@pytest.mark.slow
def test_the_adaptive_solver_counts_for_each_sample(drawn):
    count = np.asarray(drawn["probability_flow"][1])
    assert (count > 20).all() and len(np.unique(count)) > 1


@pytest.mark.parametrize(
    ("name", "calls"), [("heun", 7), ("dpmpp_2s", 7), ("unipc2", 8), ("annealed_langevin", 7)]
)
def test_evaluations_are_counted(name, calls):
    """What is reported is what the denoiser itself saw."""
    short = digits_samplers.SamplingConfig(
        samplers=(name,), heun_steps=4, few_evaluations=8, langevin_levels=3, langevin_steps=2
    )
    seen = []

    def watched(params, key):
        def denoiser(x, noise_scale):
            jax.debug.callback(lambda: seen.append(1))
            return 0.5 * x

        return denoiser

    draw = digits_samplers.samplers(short, watched)[name].draw
    _, counted = jax.jit(draw)(None, item_keys(jax.random.key(0), 2))
    jax.effects_barrier()
    assert counted.tolist() == [calls, calls]
    assert len(seen) == calls


def collectives(compiled):
    return counting.kinds(counting.in_text(compiled.as_text()))


@pytest.mark.parametrize("name", [pytest.param("heun", marks=pytest.mark.slow), "dpmpp_2m_sde"])
def test_the_sampling_step_has_none(name):
    mesh = sharding.make_mesh(4)
    net = digits_model.make_network(digits_model.NetworkConfig(width=8, num_blocks=1))
    params = digits_model.init_params(jax.random.key(0), net)
    short = digits_samplers.SamplingConfig(samplers=(name,), heun_steps=3, few_evaluations=3)

    def apply(params, key):
        return digits_model.denoiser(net, params, digits_model.draw_classes(key))

    draw, check_vma = digits_samplers.samplers(short, apply)[name]
    mapped = sharding.map_rows(draw, mesh, tile=8, in_axes=(None, 0), check_vma=check_vma)
    keys = item_keys(jax.random.key(0), 64)
    assert collectives(jax.jit(mapped).lower(params, keys).compile()) == set()


@pytest.mark.slow
@pytest.mark.bits
@pytest.mark.parametrize("name", ["dpmpp_2m_sde"])
def test_a_tile_gives_the_same_bits_on_any_number_of_devices(name):
    net = digits_model.make_network(digits_model.NetworkConfig(width=8, num_blocks=1))
    params = digits_model.init_params(jax.random.key(0), net)
    short = digits_samplers.SamplingConfig(samplers=(name,), few_evaluations=4)

    def apply(params, key):
        return digits_model.denoiser(net, params, digits_model.draw_classes(key))

    draw, check_vma = digits_samplers.samplers(short, apply)[name]
    keys = item_keys(jax.random.key(0), 64)
    drawn = [
        np.asarray(
            sharding.map_rows(
                draw, sharding.make_mesh(n), tile=8, in_axes=(None, 0), check_vma=check_vma
            )(params, keys)[0]
        )
        for n in (1, 2, 4, 8)
    ]
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)
