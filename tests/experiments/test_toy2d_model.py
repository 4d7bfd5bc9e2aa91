"""Parts of the toy laboratory: one fit is the same on any mesh, and errors are exact errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding, targets
from probjax.core import item_keys
from probjax.experiments import toy2d_model as model

CONFIG = model.FitConfig(num_steps=5, batch_size=8, widths=(8,), learning_rate=0.02)


def fitted(devices, tile):
    mesh = sharding.make_mesh(devices)
    keys = item_keys(jax.random.key(0), 4)
    x = jax.random.normal(jax.random.key(1), (4, 5, 8, 2))
    start = sharding.map_items(model.make_init("dsm", CONFIG), mesh, tile=tile)(keys)
    fit = sharding.map_items(
        model.make_fit("dsm", CONFIG), mesh, tile=tile, in_axes=(0, 0, 0, 0, None)
    )
    return fit(keys, start, x, jnp.zeros_like(x), jnp.float32(0.5))


@pytest.mark.slow
def test_gradients_of_constant_starts_are_not_summed_over_devices():
    """Biases start as zeros everywhere: made inside the mapped fit they would count as shared."""
    one, four = fitted(1, None), fitted(4, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, four)


def test_the_fit_walks_downhill_and_seeds_differ():
    params, losses = fitted(1, None)
    assert losses.shape == (4, 5) and bool(jnp.isfinite(losses).all())
    kernel = params["params"]["Dense_0"]["kernel"]
    assert kernel.shape == (4, 2, 8) and not np.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize("name", list(model.OBJECTIVES))
def test_objectives_have_the_exact_score_as_their_best(name):
    """On N(0, 4) the best linear score has the slope of the density that the objective learns."""
    objective = model.OBJECTIVES[name]
    x = 2.0 * jax.random.normal(jax.random.key(0), (20_000, 2))
    noise = jnp.float32(1.0)
    slopes = jnp.array([-0.35, -0.25, -0.2, -0.15])
    batch = model.Batch(x, -x / 4, noise)

    def value(slope):
        at = model.Model(lambda y: slope * y, lambda y: -0.5 * slope * jnp.sum(y**2, axis=-1))
        return jnp.mean(objective.rows(jax.random.key(1), at, batch, 0.1))

    # Not by vmap: compiled without optimisation, it gave wrong numbers for slices shared by slopes.
    value = jax.jit(value)
    with jax.debug_key_reuse(False):
        best = slopes[jnp.stack([value(slope) for slope in slopes]).argmin()]
    assert float(best) == pytest.approx(-0.2 if objective.is_denoising else -0.25)


def test_the_cost_of_slices_and_of_the_exact_trace():
    config = model.FitConfig(batch_size=32, widths=(32, 32))
    unit = model.gradient_flops("regression", config)
    assert model.gradient_flops("dsm", config) / unit < 1.2
    assert model.gradient_flops("ism", config) / unit > 1.9


def test_exact_scores_in_blocks_are_the_target_own():
    target = targets.gaussian([1.0, -2.0], [[2.0, 0.9], [0.9, 1.0]])
    x = jax.random.normal(jax.random.key(0), (7, 2))
    both = jax.jit(lambda x: (model.exact_score(target, x, 0.2, block=3), target.score(x, 0.2)))(x)
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_langevin_has_the_variance_of_its_recursion():
    """With s = -x and step h the variance tends to 1 / (1 - h / 2)."""
    chains = jnp.zeros((4000, 2))
    x = jax.jit(lambda key: model.langevin(key, lambda y: -y, chains, num_steps=60, step_size=0.4))(
        jax.random.key(0)
    )
    expected = 1 / (1 - 0.2)
    assert abs(float((x**2).mean()) - expected) < 4 * expected * (2 / 8000) ** 0.5
