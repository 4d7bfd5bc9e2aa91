"""Heads and weights: round trips, the unit-variance demands, equal weighted losses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.exact import gaussian_denoiser
from probjax.diffusion.parameterization import (
    KINDS,
    convert,
    denoiser_from_score,
    loss_weight,
    precondition,
    score_from_denoiser,
)

ALPHA, SIGMA = np.array([0.9, 0.3, 1.0]), np.array([0.2, 1.5, 0.7])


def setting():
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
    alpha, sigma = ALPHA[:, None], SIGMA[:, None]
    truth = {
        "score": -noise / sigma,
        "noise": noise,
        "x0": x0,
        "v": alpha * noise - sigma * x0,
    }
    return alpha * x0 + sigma * noise, truth


@pytest.mark.parametrize("source, target", list(itertools.product(KINDS, KINDS)))
def test_conversions(x64, source, target):
    x, truth = setting()
    got = convert(truth[source], x, ALPHA, SIGMA, source=source, target=target)
    np.testing.assert_allclose(got, truth[target], atol=1e-12)
    # Any prediction, not only a true one, comes back.
    guess = jnp.sin(3 * x)
    there = convert(guess, x, ALPHA, SIGMA, source=source, target=target)
    back = convert(there, x, ALPHA, SIGMA, source=target, target=source)
    np.testing.assert_allclose(back, guess, atol=1e-12)


def test_weighted_losses_of_the_heads_are_equal(x64):
    x, truth = setting()
    alpha, scale = jnp.asarray(ALPHA), jnp.sqrt(1.1 - ALPHA**2)
    guess = jnp.cos(x)
    x0_error = ((guess - truth["x0"]) ** 2).sum(-1)
    for kind in KINDS:
        options = {"source": "x0", "target": kind}
        here = convert(guess, x, alpha, scale, **options)
        there = convert(truth["x0"], x, alpha, scale, **options)
        error = ((here - there) ** 2).sum(-1)
        np.testing.assert_allclose(loss_weight(kind, alpha, scale) * x0_error, error, rtol=1e-12)


def test_weights_in_closed_form(x64):
    sigma = jnp.array([0.1, 0.5, 3.0])
    alpha = jnp.sqrt(1 / (1 + sigma**2))
    noise = alpha * sigma
    np.testing.assert_allclose(
        loss_weight("v", alpha, noise), loss_weight("noise", alpha, noise) + 1, rtol=1e-12
    )
    c_out = sigma * 0.5 / jnp.sqrt(sigma**2 + 0.25)
    weight = loss_weight("edm", 1.0, sigma, sigma_data=0.5)
    np.testing.assert_allclose(weight * c_out**2, 1.0, rtol=1e-13)
    soft = loss_weight("soft_min_snr", 1.0, sigma, sigma_data=0.5)
    np.testing.assert_allclose(soft, weight * (0.5 * sigma) ** 2 / (sigma**2 + 0.25) ** 2)
    likelihood = loss_weight("likelihood", alpha, noise, diffusion2=2.0)
    np.testing.assert_allclose(likelihood, 2 * loss_weight("score", alpha, noise))


def precondition_gap(make, sigma_data=0.6):
    """Distance from: unit variance in, unit variance to learn, best linear denoiser at zero."""
    data = np.array([[sigma_data], [-sigma_data]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    gap = 0.0
    for sigma in (0.05, 0.6, 4.0):
        seen = {}

        def spy(x, c_noise, seen=seen):
            seen.update(x=x, c_noise=c_noise)
            return jnp.zeros_like(x)

        noise = jnp.asarray(np.tile(nodes, 2)[:, None])
        x0 = jnp.asarray(np.repeat(data, 5, axis=0))
        share = np.tile(weights / weights.sum() / 2, 2)
        skip = make(spy, sigma_data)(x0 + sigma * noise, jnp.asarray(sigma))
        one = make(lambda x, c: jnp.ones_like(x), sigma_data)(x0 + sigma * noise, sigma)
        target = (x0 - skip) / (one - skip)
        gap = max(
            gap,
            abs(share @ np.asarray(seen["x"])[:, 0] ** 2 - 1),
            abs(share @ np.asarray(target)[:, 0] ** 2 - 1),
            float(jnp.abs(seen["c_noise"] - 0.25 * np.log(sigma)).max()),
            abs(share @ np.asarray(target * (x0 + sigma * noise))[:, 0]),
        )
    return gap


def edm_like(c_skip=1.0, c_out=1.0, c_in=1.0, c_noise=0.25):
    def make(net, sigma_data):
        def denoiser(x, sigma):
            total = sigma**2 + sigma_data**2
            level = jnp.full(x.shape[:1], c_noise * jnp.log(sigma))
            inner = net(c_in * x / jnp.sqrt(total), level)
            skip = c_skip * sigma_data**2 / total * x
            return skip + c_out * sigma * sigma_data / jnp.sqrt(total) * inner

        return denoiser

    return make


def test_preconditioning(x64):
    assert precondition_gap(precondition) < 1e-12
    assert precondition_gap(edm_like()) < 1e-12
    for mutant in ({"c_skip": 0.9}, {"c_out": 1.2}, {"c_in": 0.5}, {"c_noise": 0.5}):
        assert precondition_gap(edm_like(**mutant)) > 1e-2


def test_a_scale_per_row_and_images():
    def net(x, c_noise):
        return jnp.tanh(x) * c_noise.reshape(c_noise.shape + (1,) * (x.ndim - c_noise.ndim))

    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
    scales = jnp.array([0.1, 1.0, 10.0])
    images = precondition(net, 0.5, event_ndim=3)(x, scales)
    for i in range(3):
        alone = precondition(net, 0.5)(x[i].reshape(1, 4), scales[i])
        np.testing.assert_allclose(images[i].reshape(1, 4), alone, rtol=1e-6)


def test_score_and_denoiser_are_two_sides(x64):
    denoiser = gaussian_denoiser(jnp.array([1.0, -1.0]), jnp.array([[2.0, 0.5], [0.5, 1.0]]))
    x, scale = jnp.array([[0.3, 2.0], [-1.0, 0.1]]), jnp.array([0.5, 2.0])
    score_fn = score_from_denoiser(denoiser)
    for i in range(2):
        noised = np.array([[2.0, 0.5], [0.5, 1.0]]) + scale[i] ** 2 * np.eye(2)
        want = -np.linalg.solve(noised, x[i] - np.array([1.0, -1.0]))
        np.testing.assert_allclose(score_fn(x, scale)[i], want, rtol=1e-12)
    np.testing.assert_allclose(
        denoiser_from_score(score_fn)(x, scale), denoiser(x, scale), rtol=1e-12
    )


def test_bad_arguments_are_named():
    x = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="source must be one of"):
        convert(x, x, 1.0, 1.0, source="eps", target="x0")
    with pytest.raises(ValueError, match=r"noise_scale must be positive and finite, got 0\.0"):
        convert(x, x, 1.0, 0.0, source="noise", target="x0")
    with pytest.raises(ValueError, match="needs sigma_data"):
        loss_weight("edm", 1.0, jnp.ones(2))
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        precondition(lambda x, c: x, 0.0)
    with pytest.raises(ValueError, match=r"net\(x, c_noise\) must have the shape of x"):
        precondition(lambda x, c: x[..., :1], 1.0)(x, 1.0)
