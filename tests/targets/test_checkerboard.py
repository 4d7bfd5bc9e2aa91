import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import targets

LOG_DENSITY = jax.jit(targets.checkerboard().log_density)
CENTERS = [(-3, -3), (-3, 1), (-1, -1), (-1, 3), (1, -3), (1, 1), (3, -1), (3, 3)]


def test_squares_are_where_the_usual_generator_puts_them():
    """x1 in U(-2, 2); x2 in U(0, 1) - {0, 2} + floor(x1) mod 2; both times 2."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-2, 2, 5000)
    second = rng.uniform(size=5000) - 2 * rng.integers(0, 2, 5000) + np.floor(first) % 2
    usual = 2 * np.stack([first, second], axis=-1)
    density = np.exp(LOG_DENSITY(np.float32(usual), 1e-4))
    inside = np.all(np.abs((usual % 2) - 1) < 0.99, axis=1)
    np.testing.assert_allclose(density[inside], 1 / 32, rtol=1e-5)
    centers, mirrored = np.array(CENTERS, np.float32), np.array(CENTERS, np.float32) * [1, -1]
    full = np.exp(LOG_DENSITY(centers, 0.1))
    empty = np.exp(LOG_DENSITY(np.float32(mirrored), 0.1))
    np.testing.assert_allclose(full, 1 / 32, rtol=1e-5)
    assert empty.max() < 1e-6


def test_no_noise_no_score():
    target = targets.checkerboard()
    for function in (target.score, target.log_density):
        for noise_scale in (0.0, jnp.array([0.3, 0.0])):
            with pytest.raises(ValueError, match="noise_scale must be positive"):
                function(jnp.zeros((2, 2)), noise_scale)
    assert np.isnan(jax.jit(target.score)(jnp.zeros((2, 2)), 0.0)).all()
    draws = jax.eval_shape(lambda: target.sample(jax.random.key(0), 3))
    assert draws.shape == (3, 2)


@pytest.mark.slow
def test_a_blur_of_its_own_is_noise():
    sharp, blurred = targets.checkerboard(), targets.checkerboard(scale=0.3)
    x = sharp.sample(jax.random.key(0), 10)
    np.testing.assert_allclose(blurred.score(x), sharp.score(x, 0.3), rtol=1e-6)
    np.testing.assert_allclose(blurred.score(x, 0.4), sharp.score(x, 0.5), rtol=1e-4, atol=1e-5)
