import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import metrics


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_equals_brute_force(chunk_size):
    x = np.random.default_rng(0).normal(size=(11, 2, 3)).astype(np.float32)
    reference = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    found = metrics.nearest_distances(jnp.asarray(x), jnp.asarray(reference), chunk_size=chunk_size)
    distances = np.sqrt(((x[:, None] - reference[None]) ** 2).sum(axis=(2, 3)))
    np.testing.assert_array_equal(found.index, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=1e-5)


def test_a_copy_is_at_exactly_zero_far_from_the_origin():
    reference = 1000 + jax.random.uniform(jax.random.key(0), (50, 8))
    found = metrics.nearest_distances(reference[::-1], reference)
    assert (found.distance == 0).all() and (found.index == jnp.arange(50)[::-1]).all()


def test_edges():
    empty = metrics.nearest_distances(jnp.zeros((0, 2)), jnp.zeros((3, 2)))
    assert empty.distance.shape == (0,)
    with pytest.raises(ValueError, match="the number of rows of reference must be at least 1"):
        metrics.nearest_distances(jnp.zeros((3, 2)), jnp.zeros((0, 2)))
    with pytest.raises(ValueError, match="x and reference must have rows of one shape"):
        metrics.nearest_distances(jnp.zeros((3, 2)), jnp.zeros((3, 1)))
