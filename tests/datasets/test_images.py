import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import datasets


@pytest.mark.parametrize("levels", [2, 17, 256, 1024])
def test_quantise_undoes_dequantise(levels):
    images = jnp.tile(jnp.arange(levels) / (levels - 1), 20)
    smooth = datasets.dequantise(jax.random.key(0), images, levels)
    np.testing.assert_array_equal(datasets.quantise(smooth, levels), images.astype(jnp.float32))
    assert (smooth > 0).all() and (smooth < 1).all()


def test_each_level_becomes_uniform():
    smooth = datasets.dequantise(jax.random.key(0), jnp.full(20_000, 3 / 16), 17)
    inside = smooth * 17 - 3
    assert abs(inside.mean() - 0.5) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(inside.var() - 1 / 12) < 5 * (1 / 180 / 20_000) ** 0.5


@pytest.mark.parametrize("levels", [1, 1025])
def test_levels_out_of_range(levels):
    with pytest.raises(ValueError, match="levels must be at"):
        datasets.quantise(jnp.zeros(3), levels)
