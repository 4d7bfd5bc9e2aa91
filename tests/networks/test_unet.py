"""The U-Net keeps shapes, rows apart, and reaches every pixel from every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.networks import UNet

NET = UNet(widths=(8, 16))
APPLY = jax.jit(NET.apply)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(NET.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()))


@pytest.fixture(scope="module")
def moved(fresh):
    rng = np.random.default_rng(0)
    noise = lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + noise(leaf)), fresh)


def test_a_fresh_network_gives_zero(fresh):
    assert (APPLY(fresh, jnp.ones((2, 8, 8, 1)), jnp.zeros(2)) == 0).all()


def test_rows_do_not_influence_each_other(moved):
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    levels = jnp.array([-1.0, 0.0, 1.0])
    out = APPLY(moved, x, levels)
    np.testing.assert_allclose(out[1], APPLY(moved, x[1], levels[1]), rtol=1e-4, atol=1e-4)
    assert jnp.isnan(APPLY(moved, x.at[0].set(jnp.nan), levels)[1:]).sum() == 0
    assert APPLY(moved, x[:0], levels[:0]).shape == (0, 8, 8, 1)
    assert jnp.abs(APPLY(moved, x, levels + 1.0) - out).max() > 1e-3


def test_every_pixel_depends_on_every_pixel(moved):
    x = jax.random.normal(jax.random.key(1), (8, 8, 1))
    corner = jax.jit(jax.grad(lambda x: NET.apply(moved, x, jnp.zeros(()))[0, 0, 0]))(x)
    assert (jnp.abs(corner) > 0).all()


def test_mnist_sizes_and_bad_sizes():
    net = UNet(widths=(8, 8, 8))
    shape = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((28, 28, 1)), jnp.zeros(()))
    out = jax.eval_shape(net.apply, shape, jnp.zeros((5, 28, 28, 1)), jnp.zeros(5))
    assert out.shape == (5, 28, 28, 1)
    with pytest.raises(ValueError, match="x must have sides divisible by 4 for 3 widths, got 10x8"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((10, 8, 1)), jnp.zeros(()))
