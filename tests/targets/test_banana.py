import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from probjax import targets

CURVATURE = 0.03
TARGET = targets.banana()
LOG_DENSITY, SCORE = jax.jit(TARGET.log_density), jax.jit(TARGET.score)


@pytest.mark.parametrize("x", [[3.0, 1.0], [-14.0, 2.5], [0.5, 60.0], [40.0, -20.0]])
@pytest.mark.parametrize("noise_scale", [0.3, 4.0])
def test_noised_density_against_scipy(x, noise_scale, x64):
    def log_joint(first):
        second = stats.norm.logpdf(x[1], CURVATURE * (first**2 - 100), np.hypot(1, noise_scale))
        return (
            stats.norm.logpdf(first, 0, 10) + stats.norm.logpdf(x[0], first, noise_scale) + second
        )

    dense = np.linspace(-80, 80, 800_001)
    values = log_joint(dense)
    top = values.max()
    exact = top + np.log(integrate.trapezoid(np.exp(values - top), dense))
    np.testing.assert_allclose(LOG_DENSITY(jnp.array(x), noise_scale), exact, rtol=1e-9)
    mean = integrate.trapezoid(np.exp(values - exact) * dense, dense)
    score = SCORE(jnp.array(x), noise_scale)
    np.testing.assert_allclose(score[0], (mean - x[0]) / noise_scale**2, rtol=1e-6)


def test_noise_goes_to_zero_without_cancellation():
    """float32: division of a difference by noise_scale^2 would leave no digit at 1e-4."""
    x = TARGET.sample(jax.random.key(0), 50)
    clean = TARGET.score(x)
    for noise_scale in (1e-4, 0.0):
        error = jnp.abs(SCORE(x, noise_scale) - clean) / (1 + jnp.abs(clean))
        assert jnp.max(error) < 1e-4
    density = LOG_DENSITY(x, 0.0)
    np.testing.assert_allclose(density, TARGET.log_density(x), rtol=1e-5, atol=1e-5)


def test_moments_of_the_draws(x64):
    draws = np.asarray(targets.banana().sample(jax.random.key(1), 100_000))
    variances = [100.0, 1 + CURVATURE**2 * 2 * 100.0**2]
    assert np.all(np.abs(draws.mean(0)) < 5 * np.sqrt(variances) / 100_000**0.5)
    squares = draws**2
    assert np.all(np.abs(squares.mean(0) - variances) < 5 * squares.std(0) / 100_000**0.5)


def test_bad_parameters_are_named():
    with pytest.raises(ValueError, match="curvature must be positive"):
        targets.banana(curvature=0.0)
