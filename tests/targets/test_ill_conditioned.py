import jax
import numpy as np
import pytest
from scipy import stats

from probjax import targets


@pytest.mark.parametrize("rotated", [False, True])
def test_density_and_draws_are_those_of_the_covariance(rotated, x64):
    """The covariance is read off the score, which is linear."""
    target = targets.ill_conditioned(4, condition=50.0, rotated=rotated)
    log_density, score = jax.jit(target.log_density), jax.jit(target.score)
    covariance = -np.linalg.inv(np.asarray(score(np.eye(4))))
    spectrum = np.linalg.eigvalsh(covariance)
    np.testing.assert_allclose(spectrum, np.geomspace(50**-0.5, 50**0.5, 4), rtol=1e-10)
    assert rotated == (abs(covariance[0, 1]) > 1e-3)
    x = np.random.default_rng(0).normal(size=(5, 4))
    for noise_scale in (0.0, 0.8):
        noised = stats.multivariate_normal(np.zeros(4), covariance + noise_scale**2 * np.eye(4))
        ours = log_density(x, noise_scale)
        np.testing.assert_allclose(ours, noised.logpdf(x), rtol=1e-10)
        np.testing.assert_allclose(score(x, noise_scale), -x @ np.linalg.inv(noised.cov), rtol=1e-8)
    sample = jax.jit(target.sample, static_argnums=1)
    draws = np.asarray(sample(jax.random.key(0), 20_000))
    whitened = draws @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    # A sample covariance of n normal rows is off by sqrt(2 / n) on, less off the diagonal.
    assert np.abs(np.cov(whitened.T) - np.eye(4)).max() < 5 * (2 / 20_000) ** 0.5


def test_wrong_arguments():
    with pytest.raises(ValueError, match="dim must be at least 2"):
        targets.ill_conditioned(1)
    with pytest.raises(ValueError, match="condition must be at least 1, got 0.5"):
        targets.ill_conditioned(3, condition=0.5)
