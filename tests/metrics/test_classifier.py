import jax.numpy as jnp
import numpy as np
import pytest

from probjax import metrics


def test_bayes_rate_of_two_shifted_gaussians():
    """No classifier can beat Phi(1) = 0.841; this one comes close."""
    rng = np.random.default_rng(0)
    shift = np.array([2.0, 0.0, 0.0])
    found = metrics.two_sample_accuracy(
        rng.normal(size=(400, 3)), shift + rng.normal(size=(500, 3))
    )
    assert isinstance(found.value, float)
    assert 0.841 - 0.05 < found.value < 0.841 + 3 * found.standard_error
    np.testing.assert_allclose(
        found.standard_error, (found.value * (1 - found.value) / 800) ** 0.5, rtol=1e-12
    )


def test_images_are_flattened_and_the_seed_decides():
    rng = np.random.default_rng(1)
    real, fake = rng.uniform(size=(40, 4, 4, 1)), rng.uniform(size=(60, 4, 4, 1))
    one = metrics.two_sample_accuracy(jnp.asarray(real, jnp.float32), fake, seed=3)
    assert one == metrics.two_sample_accuracy(jnp.asarray(real, jnp.float32), fake, seed=3)


def test_bad_input_is_named():
    rows = np.zeros((10, 2))
    with pytest.raises(ValueError, match="fake must be finite"):
        metrics.two_sample_accuracy(rows, rows + np.nan)
    with pytest.raises(ValueError, match="rows of the smaller sample must be at least 5, got 3"):
        metrics.two_sample_accuracy(rows, rows[:3])
    with pytest.raises(ValueError, match="real and fake must have rows of one shape"):
        metrics.two_sample_accuracy(rows, np.zeros((10, 3)))
