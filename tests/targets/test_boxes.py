import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from probjax.targets.boxes import mills_ratio, noised_interval


def test_mills_ratio_in_both_precisions():
    z = np.concatenate([np.linspace(0, 40, 4001), np.logspace(1.6, 7, 200)])
    exact = np.sqrt(np.pi / 2) * special.erfcx(z / np.sqrt(2))
    assert np.max(np.abs(np.asarray(mills_ratio(jnp.asarray(z, jnp.float32))) / exact - 1)) < 3e-6
    with jax.enable_x64(True):
        assert np.max(np.abs(np.asarray(mills_ratio(jnp.asarray(z))) / exact - 1)) < 3e-14


@pytest.mark.parametrize("x", [-3.0, -1.0, 0.2, 1.0, 1.3, 2.9])
@pytest.mark.parametrize("scale", [0.2, 1.5, 20.0])
def test_interval_against_numerical_convolution(x, scale, x64):
    low, width = -1.0, 2.3

    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = low + 0.5 * width * (nodes + 1)
    kernel = 0.5 * weights * stats.norm.pdf(x, t, scale)
    mass, derivative = kernel.sum(), (kernel * (t - x)).sum() / scale**2
    log_density, score = noised_interval(jnp.asarray(x), low, width, jnp.asarray(scale))
    np.testing.assert_allclose(log_density, np.log(mass), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(score, derivative / mass, rtol=1e-9, atol=1e-10)


def test_far_tail_follows_the_nearer_edge(x64):
    """A thousand deviations out the interval acts like an exponential at its edge."""
    log_density, score = noised_interval(jnp.asarray(101.0), -1.0, 2.0, jnp.asarray(0.1))
    z = 1000.0
    np.testing.assert_allclose(score, -(z + 1 / z) / 0.1, rtol=1e-9)
    tail = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(z) - 1 / z**2 - np.log(2.0)
    np.testing.assert_allclose(log_density, tail, rtol=1e-13)
