"""Training losses: means by quadrature, links to the score objectives, streams."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from probjax.core.keys import item_keys
from probjax.diffusion.exact import gaussian_denoiser
from probjax.diffusion.parameterization import loss_weight, precondition, score_from_denoiser
from probjax.diffusion.training import (
    denoising_loss,
    denoising_loss_from_noise,
    edm_loss,
    log_normal_noise_scales,
    sample_times,
)
from probjax.score.denoising import multi_noise_dsm_from_noise


def quadratic_gap(loss):
    """E|a x + b - x0|^2 for x0 ~ N(m, v), by exact quadrature against its closed form."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    a, b, m, v, alpha, sigma = 0.7, 0.2, 1.3, 0.5, 0.8, 0.4
    x0 = jnp.asarray(np.repeat(m + np.sqrt(v) * nodes, 4)[:, None])
    noise = jnp.asarray(np.tile(nodes, 4)[:, None])
    values = loss(lambda x, c: a * x + b, x0, noise, alpha, sigma)
    mean = np.outer(weights, weights).ravel() @ np.asarray(values)
    exact = ((a * alpha - 1) * m + b) ** 2 + (a * alpha - 1) ** 2 * v + (a * sigma) ** 2
    return abs(mean / 3 - exact)


def ours(denoiser, x0, noise, alpha, sigma):
    return denoising_loss_from_noise(
        denoiser, x0, noise, alpha=alpha, noise_scale=sigma, weight=3.0
    )


MUTANTS = {
    "alpha and noise scale swapped": lambda d, x, z, a, s: ours(d, x, z, s, a),
    "noised target": lambda d, x, z, a, s: 3 * ((d(a * x + s * z, s) - a * x) ** 2).sum(-1),
    "one half": lambda d, x, z, a, s: ours(d, x, z, a, s) / 2,
    "squared noise scale": lambda d, x, z, a, s: ours(d, x, z, a, s**2),
}


def test_mean_in_closed_form_and_what_it_kills(x64):
    assert quadratic_gap(ours) < 1e-12
    for mutant in MUTANTS.values():
        assert quadratic_gap(mutant) > 1e-2


def test_weighted_by_the_noise_it_is_twice_multi_noise_dsm(x64):
    levels, scales = jnp.array([0, 2, 1, 1]), np.array([3.0, 1.0, 0.2])
    x0, noise = jax.random.normal(jax.random.key(0), (2, 4, 3))
    sigma = jnp.asarray(scales)[levels]

    def denoiser(x, noise_scale):
        return jnp.sin(x) / (1 + noise_scale[..., None])

    loss = denoising_loss_from_noise(
        denoiser, x0, noise, noise_scale=sigma, weight=loss_weight("noise", 1.0, sigma)
    )
    dsm = multi_noise_dsm_from_noise(
        score_from_denoiser(denoiser), x0, noise, levels, noise_scales=scales
    )
    np.testing.assert_allclose(loss, 2 * dsm, rtol=1e-12)


def test_a_network_of_zeros_costs_one_per_dimension_at_every_scale():
    """Data of standard deviation sigma_data: the weight makes all scales equal."""
    rows, dim = 20_000, 2
    x0 = 0.7 * jax.random.normal(jax.random.key(0), (rows, dim))
    seen = []

    def net(x, c_noise):
        seen.append(c_noise)
        return jnp.zeros_like(x)

    loss = np.asarray(edm_loss(jax.random.key(1), precondition(net, 0.7), x0, sigma_data=0.7))
    log_scale = 4 * np.asarray(seen[0])
    assert abs(log_scale.mean() + 1.2) < 4 * 1.2 / np.sqrt(rows)
    assert abs(log_scale.std() - 1.2) < 4 * 1.2 / np.sqrt(2 * rows)
    for part in np.array_split(np.argsort(log_scale), 4):
        error = loss[part].std() / np.sqrt(len(part))
        assert abs(loss[part].mean() - dim) < 4 * error
    wrong = edm_loss(jax.random.key(1), precondition(net, 0.7), x0, sigma_data=0.5)
    assert abs(float(wrong.mean()) - dim) > 0.3


def test_the_exact_denoiser_is_a_stationary_point(x64):
    covariance = jnp.array([[2.0, 0.6], [0.6, 0.5]])
    exact = gaussian_denoiser(jnp.zeros(2), covariance)
    root = jnp.linalg.cholesky(covariance)
    x0 = jnp.tensordot(jax.random.normal(jax.random.key(0), (10_000, 2)), root.T, axes=1)

    def slope(at):
        def values(a):
            return denoising_loss(
                jax.random.key(1), lambda x, c: a * exact(x, c), x0, noise_scale=0.8
            )

        return jax.jvp(values, (at,), (1.0,))[1]

    here = slope(1.0)
    error = here.std() / 100
    assert abs(here.mean()) < 4 * error
    assert abs(slope(0.9).mean()) > 5 * error


@pytest.mark.slow
def test_rows_draw_for_themselves():
    keys = item_keys(jax.random.key(0), 6)
    x0 = jax.random.normal(jax.random.key(1), (6, 3))
    denoiser = precondition(lambda x, c: jnp.tanh(x) * c[..., None], 0.5)
    with jax.debug_key_reuse(False):
        values = edm_loss(keys, denoiser, x0, sigma_data=0.5)
        swapped = edm_loss(keys[::-1], denoiser, x0[::-1], sigma_data=0.5)[::-1]
        broken = edm_loss(keys, denoiser, x0.at[2].set(jnp.nan), sigma_data=0.5)
        empty = edm_loss(keys[:0], denoiser, x0[:0], sigma_data=0.5)
        half = edm_loss(keys, denoiser, x0.astype(jnp.bfloat16), sigma_data=0.5)
    np.testing.assert_array_equal(values, swapped)
    np.testing.assert_array_equal(np.isnan(broken), np.arange(6) == 2)
    assert empty.shape == (0,) and half.dtype == jnp.float32
    images = edm_loss(
        jax.random.key(2),
        precondition(lambda x, c: jnp.tanh(x), 0.5, event_ndim=3),
        jnp.ones((2, 4, 4, 1)),
        sigma_data=0.5,
        event_ndim=3,
    )
    assert images.shape == (2,)


def test_times():
    even = sample_times(jax.random.key(0), 1000, law="low_discrepancy")
    assert np.histogram(even, bins=1000, range=(0, 1))[0].max() <= 2
    assert abs(float(even.mean()) - 0.5) < 1e-3
    part = sample_times(jax.random.key(0), 400, law="low_discrepancy", start=600, total=1000)
    np.testing.assert_allclose(part, even[600:], atol=1e-6)
    plain = sample_times(jax.random.key(1), 1000)
    np.testing.assert_array_equal(plain[300:], sample_times(jax.random.key(1), 700, start=300))
    assert abs(float(plain.mean()) - 0.5) < 4 / np.sqrt(12 * 1000)


def test_weights_are_averaged_by_optax():
    average = optax.incremental_update({"w": jnp.ones(2)}, {"w": jnp.zeros(2)}, step_size=0.01)
    np.testing.assert_allclose(average["w"], 0.01, rtol=1e-6)


def test_bad_arguments_are_named():
    x0 = jnp.zeros((3, 2))

    def denoiser(x, c):
        return x

    with pytest.raises(ValueError, match="sigma_data must be positive"):
        edm_loss(jax.random.key(0), denoiser, x0, sigma_data=0.0)
    with pytest.raises(ValueError, match="std must be positive"):
        log_normal_noise_scales(jax.random.key(0), jnp.zeros(3), std=-1.0)
    with pytest.raises(ValueError, match=r"noise_scale must be a scalar or have shape \(3,\)"):
        denoising_loss(jax.random.key(0), denoiser, x0, noise_scale=jnp.ones(2))
    with pytest.raises(ValueError, match="law must be one of"):
        sample_times(jax.random.key(0), 3, law="sobol")
