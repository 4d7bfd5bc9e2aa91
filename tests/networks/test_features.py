"""The features of a noise level are cosines and sines at geometric frequencies."""

import jax.numpy as jnp
import numpy as np
import pytest

from probjax.networks import noise_features


def test_noise_features_are_their_formula(x64):
    levels = jnp.array([-0.7, 0.0, 1.3])
    features = noise_features(levels, num_features=6, max_frequency=16.0)
    angles = np.asarray(levels)[:, None] * np.array([[1.0, 4.0, 16.0]])
    np.testing.assert_allclose(
        features, np.concatenate([np.cos(angles), np.sin(angles)], -1), atol=1e-12
    )
    with pytest.raises(ValueError, match="num_features must be even, got 5"):
        noise_features(levels, num_features=5)
    with pytest.raises(ValueError, match="num_features must be at least 4, got 2"):
        noise_features(levels, num_features=2)


def test_any_batch_shape_and_neighbouring_levels_are_told_apart():
    levels = jnp.linspace(-1.6, 1.1, 60).reshape(3, 4, 5)
    features = noise_features(levels)
    assert features.shape == (3, 4, 5, 32)
    assert noise_features(jnp.zeros(())).shape == (32,)
    assert noise_features(jnp.zeros(0)).shape == (0, 32)
    rows = np.asarray(features).reshape(60, 32)
    gaps = np.linalg.norm(rows[1:] - rows[:-1], axis=-1)
    assert gaps.min() > 0.1
