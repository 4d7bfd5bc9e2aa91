import jax
import numpy as np
import pytest
from scipy import integrate, stats

from probjax import targets

TARGET = targets.funnel(3)
LOG_DENSITY, SCORE = jax.jit(TARGET.log_density), jax.jit(TARGET.score)


@pytest.mark.parametrize(
    "x", [[0.4, 1.0, -2.0], [-6.0, 0.1, 0.2], [3.0, 90.0, -20.0], [-8.0, 5.0, 1.0]]
)
@pytest.mark.parametrize("noise_scale", [0.3, 2.0])
def test_noised_density_against_scipy(x, noise_scale, x64):
    dense = np.linspace(-40, 30, 70_001)
    values = stats.norm.logpdf(dense, 0, 3) + stats.norm.logpdf(x[0], dense, noise_scale)
    width = np.sqrt(np.exp(dense) + noise_scale**2)
    values = values + stats.norm.logpdf(x[1], 0, width) + stats.norm.logpdf(x[2], 0, width)
    top = values.max()
    exact = top + np.log(integrate.trapezoid(np.exp(values - top), dense))
    np.testing.assert_allclose(LOG_DENSITY(np.array(x), noise_scale), exact, rtol=1e-9)
    posterior = np.exp(values - exact)
    mean = integrate.trapezoid(posterior * dense, dense)
    score = np.asarray(SCORE(np.array(x), noise_scale))
    np.testing.assert_allclose(score[0], (mean - x[0]) / noise_scale**2, rtol=1e-6, atol=1e-8)
    inverse = integrate.trapezoid(posterior / width**2, dense)
    np.testing.assert_allclose(score[1:], -np.array(x[1:]) * inverse, rtol=1e-7)


@pytest.mark.slow
def test_traced_zero_noise_is_the_closed_form():
    x = TARGET.sample(jax.random.key(0), 40)
    close = {"rtol": 2e-4, "atol": 1e-4}
    np.testing.assert_allclose(SCORE(x, 0.0), TARGET.score(x), **close)
    np.testing.assert_allclose(LOG_DENSITY(x, 0.0), TARGET.log_density(x), **close)


def test_marginal_of_the_neck_is_normal(x64):
    """Integrate out x: what remains is N(v; 0, 9)."""
    target = targets.funnel(2)
    v = 1.3
    others = np.linspace(-40, 40, 20_001)
    points = np.stack([np.full_like(others, v), others], axis=-1)
    marginal = integrate.trapezoid(np.exp(jax.jit(target.log_density)(points)), others)
    np.testing.assert_allclose(marginal, stats.norm.pdf(v, 0, 3), rtol=1e-8)


def test_deep_neck_gives_no_nan():
    x = np.float32([[-100, 0, 0], [-100, 1, 0], [100, 1, 1]])
    gradient = jax.jit(jax.vmap(jax.grad(TARGET.log_density), in_axes=(0, None)))
    for noise_scale in ((), (0.0,), (0.3,)):
        assert not np.isnan(LOG_DENSITY(x, *noise_scale)).any()
        assert not np.isnan(SCORE(x, *noise_scale)).any()
    for noise_scale in (0.0, 0.3):
        assert not np.isnan(np.asarray(gradient(x, noise_scale))[::2]).any()


def test_too_few_coordinates():
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        targets.funnel(1)
