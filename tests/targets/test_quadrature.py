import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.targets.quadrature import integrate


def integrated(f, low, high):
    """The compiled integral, as NumPy arrays: to take sums of those compiles nothing."""
    program = jax.jit(lambda low, high: integrate(f, low, high))
    return jax.device_get(program(np.array(low), np.array(high)))


@pytest.mark.parametrize(("center", "width"), [(-77.7, 1e-3), (60.0, 0.3), (0.1, 20.0)])
def test_one_peak_wherever_it_is(center, width, x64):
    def f(u):
        return -0.5 * ((u - center) / width) ** 2

    low, high = center - 12 * width - 50, center + 12 * width + 70
    log_mass, u, weights = integrated(f, low, high)
    np.testing.assert_allclose(log_mass, np.log(width * np.sqrt(2 * np.pi)), atol=1e-12)
    np.testing.assert_allclose(np.sum(weights * u), center, rtol=1e-12)
    np.testing.assert_allclose(np.sum(weights * (u - center) ** 2), width**2, rtol=1e-11)


def test_two_peaks_a_hundred_widths_apart(x64):
    def f(u):
        return jnp.logaddexp(-0.5 * (u - 50) ** 2, jnp.log(3.0) - 0.5 * (u + 50) ** 2)

    log_mass, u, weights = integrated(f, -70.0, 80.0)
    np.testing.assert_allclose(log_mass, np.log(4 * np.sqrt(2 * np.pi)), atol=1e-10)
    np.testing.assert_allclose(np.sum(weights * u), (50 - 150) / 4, rtol=1e-9)


def test_gradient_is_the_mean_of_the_gradient(x64):
    def log_mass(c):
        return integrate(lambda u: -(u**4) / 4 + c * u, -9 + 0 * c, 9 + 0 * c)[0]

    _, u, weights = integrated(lambda u: -(u**4) / 4 + 0.7 * u, -9.0, 9.0)
    gradient = jax.jit(jax.grad(log_mass))(0.7)
    np.testing.assert_allclose(gradient, np.sum(weights * u), rtol=1e-10)


def test_nothing_anywhere():
    log_mass, _, weights = integrated(
        lambda u: jnp.full_like(u, -jnp.inf), np.float32(0), np.float32(1)
    )
    assert np.isneginf(log_mass) and np.isfinite(weights).all()


def test_rows_do_not_see_each_other(x64):
    center, width = jnp.array([-77.7, 60.0, 0.1]), jnp.array([1e-3, 0.3, 20.0])
    log_mass, u, weights = integrate(
        lambda u: -0.5 * ((u - center[:, None]) / width[:, None]) ** 2,
        center - 12 * width - 50,
        center + 12 * width + 70,
    )
    np.testing.assert_allclose(log_mass, np.log(width * np.sqrt(2 * np.pi)), atol=1e-12)
    np.testing.assert_allclose(jnp.sum(weights * u, axis=-1), center, rtol=1e-12)
