"""Denoisers in closed form against conditioning and against the score of the noised density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion import (
    affine_law,
    ddim_table,
    gaussian_denoiser,
    gaussian_pf_map,
    gmm_denoiser,
)

MEAN = np.array([1.0, -2.0, 0.5])
COVARIANCE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.5]])


def gaussian_log_density(x, mean, covariance):
    gap = x - mean
    _, log_det = jnp.linalg.slogdet(2 * jnp.pi * covariance)
    return -0.5 * (gap @ jnp.linalg.solve(covariance, gap) + log_det)


@pytest.mark.parametrize("noise_scale", [0.01, 0.7, 30.0])
def test_gaussian_denoiser_is_the_conditional_mean(x64, noise_scale):
    x = jax.random.normal(jax.random.key(0), (5, 3)) * 4
    denoised = gaussian_denoiser(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))(x, noise_scale)
    total = COVARIANCE + noise_scale**2 * np.eye(3)
    expected = MEAN + (np.asarray(x) - MEAN) @ np.linalg.solve(total, COVARIANCE)
    np.testing.assert_allclose(denoised, expected, rtol=1e-11)


@pytest.mark.slow
def test_mixture_denoiser_is_tweedie_of_the_noised_density(x64):
    means = jnp.array([[-2.0, 1.0], [3.0, 0.0], [0.0, -4.0]])
    scales, weights = jnp.array([0.5, 1.5, 0.0]), jnp.array([1.0, 3.0, 0.5])
    noise_scale = 0.8

    def log_density(x):
        parts = [
            jnp.log(w) + gaussian_log_density(x, m, (s**2 + noise_scale**2) * jnp.eye(2))
            for m, s, w in zip(means, scales, weights / weights.sum(), strict=True)
        ]
        return jax.scipy.special.logsumexp(jnp.stack(parts))

    x = 3 * jax.random.normal(jax.random.key(1), (6, 2))
    expected = x + noise_scale**2 * jax.vmap(jax.grad(log_density))(x)
    denoised = gmm_denoiser(means, scales, weights)(x, noise_scale)
    np.testing.assert_allclose(denoised, expected, rtol=1e-10, atol=1e-10)


def test_one_component_is_the_gaussian(x64):
    x = jax.random.normal(jax.random.key(2), (4, 3))
    one = gmm_denoiser(jnp.asarray(MEAN)[None], jnp.array([0.7]), jnp.array([2.0]))
    other = gaussian_denoiser(jnp.asarray(MEAN), 0.49 * jnp.eye(3))
    for noise_scale in (0.1, jnp.array([0.1, 1.0, 2.0, 9.0])):
        np.testing.assert_allclose(one(x, noise_scale), other(x, noise_scale), rtol=1e-12)


def test_limits(x64):
    x = jnp.array([[3.0, 1.0, -1.0]])
    denoiser = gaussian_denoiser(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))
    np.testing.assert_allclose(denoiser(x, 1e-6), x, atol=1e-9)
    np.testing.assert_allclose(denoiser(x, 1e6)[0], MEAN, atol=1e-9)


def test_gaussian_flow_solves_its_equation(x64):
    """Its slope in the logarithm of the noise scale is x - D."""
    x = jax.random.normal(jax.random.key(0), (5, 3)) * 4
    mean, covariance = jnp.asarray(MEAN), jnp.asarray(COVARIANCE)
    denoiser = gaussian_denoiser(mean, covariance)

    def at(log_scale):
        return gaussian_pf_map(
            x, mean, covariance, noise_scale=3.0, next_noise_scale=jnp.exp(log_scale)
        )

    for scale in (3.0, 0.4):
        there, slope = jax.jvp(at, (jnp.log(scale),), (1.0,))
        np.testing.assert_allclose(slope, there - denoiser(there, scale), atol=1e-12)
    np.testing.assert_allclose(at(jnp.log(3.0)), x, rtol=1e-12)


def test_affine_law_of_one_exact_step():
    """Order one on data in one point is exact: the noised law of that point at each level."""
    table = ddim_table(np.array([3.0, 1.0, 0.5]), eta=0.7, final="keep")
    mean, covariance = affine_law(
        table, MEAN, np.zeros((3, 3)), start_mean=MEAN, start_covariance=9 * np.eye(3)
    )
    np.testing.assert_allclose(mean, MEAN, rtol=1e-13)
    np.testing.assert_allclose(covariance, 0.25 * np.eye(3), atol=1e-13)
    with pytest.raises(ValueError, match="start_covariance"):
        affine_law(table, MEAN, COVARIANCE, start_mean=MEAN, start_covariance=np.zeros((2, 2)))
