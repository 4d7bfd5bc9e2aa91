import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import targets

COVARIANCES = np.array([[[2.0, 0.7], [0.7, 0.5]], [[0.3, -0.2], [-0.2, 1.5]]])
MEANS = np.array([[1.0, -3.0], [-2.0, 0.5]])
WEIGHTS = np.array([0.3, 0.7])


def scipy_density(x, noise_scale):
    noise = noise_scale**2 * np.eye(2)
    parts = zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    return sum(w * stats.multivariate_normal(m, c + noise).pdf(x) for w, m, c in parts)


@pytest.mark.parametrize("noise_scale", [0.0, 0.8])
def test_density_equals_scipy(noise_scale, x64):
    target = targets.gaussian_mixture(MEANS, COVARIANCES, WEIGHTS)
    x = np.random.default_rng(0).normal(size=(20, 2)) * 2
    ours = np.exp(jax.jit(target.log_density)(x, noise_scale))
    np.testing.assert_allclose(ours, scipy_density(x, noise_scale), rtol=1e-11)


def test_the_three_forms_of_spread_agree(x64):
    def score(spread, *noise_scale):
        target = targets.gaussian_mixture(MEANS, spread, WEIGHTS)
        return jax.device_get(jax.jit(target.score)(x, *noise_scale))

    x = np.random.default_rng(1).normal(size=(5, 2))
    matrices = np.stack([np.diag([0.25, 4.0]), np.diag([1.0, 0.01])])
    by_axis, by_matrix = score([[0.5, 2.0], [1.0, 0.1]], 0.3), score(matrices, 0.3)
    np.testing.assert_allclose(by_axis, by_matrix, rtol=1e-10)
    np.testing.assert_array_equal(score([0.5, 0.5]), score(0.5))


def test_draws_have_the_moments(x64):
    target = targets.gaussian_mixture(MEANS, COVARIANCES, WEIGHTS)
    sample = jax.jit(target.sample, static_argnums=1)
    draws = np.asarray(sample(jax.random.key(2), 50_000, 0.5))
    mean = WEIGHTS @ MEANS
    centered = MEANS - mean
    covariance = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + 0.25 * np.eye(2)
    covariance = covariance + np.einsum("k,ki,kj->ij", WEIGHTS, centered, centered)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * draws.std(0) / len(draws) ** 0.5)
    deviations = draws - mean
    products = np.einsum("ni,nj->nij", deviations, deviations)
    error = products.std(0) / len(draws) ** 0.5
    assert np.all(np.abs(products.mean(0) - covariance) < 5 * error)


def test_eight_gaussians_fisher_information(x64):
    """Half E|score|^2 is 8 for separate modes, a little less with their overlap."""
    target = targets.eight_gaussians()
    axis = -5 + 10 * (np.arange(300) + 0.5) / 300
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    @jax.jit
    def weighed(x):
        return jnp.sum(jnp.exp(target.log_density(x)) * jnp.sum(target.score(x) ** 2, axis=-1))

    value = 0.5 * float(weighed(x)) * (10 / 300) ** 2
    assert abs(value - 7.75) < 0.05


@pytest.mark.slow
def test_tweedie_mean_by_bayes(x64):
    """x + s^2 score is the posterior mean: compare with a sum over many clean draws."""
    target = targets.two_modes()
    clean = np.asarray(target.sample(jax.random.key(0), 200_000))
    x, s = np.array([1.0, -0.5]), 3.0
    weights = np.exp(-0.5 * ((clean - x) ** 2).sum(1) / s**2)
    weights /= weights.sum()
    mean = weights @ clean
    error = np.sqrt((weights**2) @ (clean - mean) ** 2)
    ours = x + s**2 * np.asarray(target.score(jnp.asarray(x), s))
    assert np.all(np.abs(ours - mean) < 5 * error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MEANS, COVARIANCES, [0.5, 0.6]), "weights must sum to one"),
        ((MEANS, COVARIANCES, [1.5, -0.5]), r"weights\[1\] must be positive"),
        ((MEANS, [1.0, 0.0], WEIGHTS), r"scales\[1\] must be positive"),
        ((MEANS, [1.0, 1.0, 1.0], WEIGHTS), "scales must be one number or have shape"),
        ((MEANS, -COVARIANCES, WEIGHTS), r"covariances\[0\] must be positive definite"),
        ((MEANS, COVARIANCES + np.eye(2)[[1, 1]], WEIGHTS), "covariances must be symmetric"),
    ],
)
def test_bad_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        targets.gaussian_mixture(*arguments)
