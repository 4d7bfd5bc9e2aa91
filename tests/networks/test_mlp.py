"""The perceptrons are row-wise, start at zero where they say so, and use their noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.networks import MLP, DenoisingMLP


def perturbed(net, *inputs):
    """Initial parameters moved off their zeros."""
    params = jax.jit(net.init)(jax.random.key(0), *inputs)
    leaves, tree = jax.tree.flatten(params)
    moved = [
        leaf + 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(1), i), leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, moved)


def test_mlp_is_its_formula():
    net = MLP((3, 2), activation=jnp.tanh)
    params = perturbed(net, jnp.zeros(4))
    x = jax.random.normal(jax.random.key(2), (5, 4))
    first, second = params["params"]["Dense_0"], params["params"]["Dense_1"]
    hidden = np.tanh(np.asarray(x) @ first["kernel"] + np.asarray(first["bias"])[None])
    expected = hidden @ second["kernel"] + np.asarray(second["bias"])[None]
    np.testing.assert_allclose(net.apply(params, x), expected, atol=1e-5)


@pytest.mark.parametrize("dim", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 64])
def test_rows_do_not_influence_each_other(dim):
    net = DenoisingMLP(width=16, num_blocks=2)
    apply = jax.jit(net.apply)
    params = perturbed(net, jnp.zeros(dim), jnp.zeros(()))
    x = jax.random.normal(jax.random.key(2), (3, 4, dim))
    levels = jax.random.normal(jax.random.key(3), (3, 4))
    out = apply(params, x, levels)
    alone = apply(params, x[1, 2], levels[1, 2])
    np.testing.assert_allclose(out[1, 2], alone, rtol=1e-4, atol=1e-5)
    poisoned = apply(params, x.at[0, 0].set(jnp.nan), levels)
    assert jnp.isnan(poisoned).any(-1).sum() == 1
    assert apply(params, x[:0], levels[:0]).shape == (0, 4, dim)


def test_it_starts_at_zero_and_learns_its_noise_level():
    net = DenoisingMLP(width=16, num_blocks=2)
    x, level = jnp.ones((2, 3)), jnp.array([0.0, 1.0])
    fresh = jax.jit(net.init)(jax.random.key(0), x, level)
    assert (net.apply(fresh, x, level) == 0).all()
    out = net.apply(perturbed(net, x, level), x, level)
    assert jnp.abs(out[0] - out[1]).max() > 1e-3
