import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import metrics


def test_equal_laws_cover_zero_and_different_ones_do_not():
    features = metrics.random_features((5,))

    def one(key, shift):
        first, second = jax.random.split(key)
        x = jax.random.normal(first, (50, 5))
        y = jax.random.normal(second, (50, 5)) + shift
        return metrics.kid(x, y, feature_fn=features)

    measure = jax.jit(jax.vmap(one, in_axes=(0, None)))
    same = measure(jax.random.split(jax.random.key(0), 200), 0.0)
    shifted = measure(jax.random.split(jax.random.key(1), 200), 0.7)
    covered = jnp.mean(jnp.abs(same.value) < 2 * same.standard_error)
    assert covered > 0.9
    assert abs(same.value.mean()) < 5 * same.value.std() / 200**0.5
    assert jnp.mean(shifted.value > 2 * shifted.standard_error) > 0.95
    ratio = jnp.mean(shifted.standard_error**2) ** 0.5 / shifted.value.std()
    assert 0.8 < ratio < 1.25


def test_cubic_kernel_on_given_features(x64):
    x, y = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[-1.0, 0.5], [2.0, 2.0]])
    ours = metrics.kid(x, y, feature_fn=lambda rows: rows).value

    def k(a, b):
        return (float(a @ b) / 2 + 1) ** 3

    cross = np.mean([k(a, b) for a in x for b in y])
    np.testing.assert_allclose(ours, k(x[0], x[1]) + k(y[0], y[1]) - 2 * cross, rtol=1e-12)


def test_features_are_fixed_and_see_position():
    features = metrics.random_features((8, 8, 1))
    image = jnp.zeros((1, 8, 8, 1)).at[0, 1, 1, 0].set(1.0)
    moved = jnp.zeros((1, 8, 8, 1)).at[0, 6, 6, 0].set(1.0)
    again = metrics.random_features((8, 8, 1))(image)
    assert (features(image) == again).all()
    assert jnp.abs(features(image) - features(moved)).max() > 0.01
    # The first weights of RandomState(20180), frozen for good.
    first = metrics.random_features((2,), num_features=4)(jnp.eye(2))
    draws = np.random.RandomState(20180)
    weights, offsets = draws.standard_normal((2, 4)), draws.standard_normal((1, 4))
    np.testing.assert_allclose(first, np.maximum(weights + offsets, 0), rtol=1e-5, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="event_shape must be"):
        metrics.random_features((2, 2, 1))
    with pytest.raises(ValueError, match="the number of rows of x must be at least 2"):
        metrics.kid(jnp.zeros((1, 3)), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"feature_fn\(x\) must have shape"):
        metrics.kid(jnp.zeros((2, 3)), jnp.zeros((4, 3)), feature_fn=lambda x: x[:, None])
