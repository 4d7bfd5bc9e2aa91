"""Likelihoods by the probability flow against exact densities, enumeration and their mutants."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax.core.keys import item_keys
from probjax.core.traces import divergence_exact, probes
from probjax.diffusion import likelihood as module
from probjax.diffusion.exact import gaussian_denoiser, gmm_denoiser
from probjax.diffusion.likelihood import (
    bits_per_dim,
    decode,
    dequantise,
    encode,
    pf_ode_log_prob,
)
from probjax.targets import gaussian_mixture

MEAN, VARIANCES = np.array([1.0, -2.0, 0.5]), np.array([4.0, 1.0, 0.25])
ENDS = {"noise_scale_min": 0.1, "noise_scale_max": 2.0}
RADIUS, SPREAD = 0.6963, 0.08704  # eight gaussians with a pooled standard deviation of one half


def diagonal_gaussian(x, noise_scale):
    mean, variance = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, VARIANCES))
    return mean + variance / (variance + noise_scale**2) * (x - mean)


def gaussian_log_density(x, noise_scale):
    gap, total = np.asarray(x) - MEAN, VARIANCES + noise_scale**2
    return -0.5 * (gap**2 / total + np.log(2 * np.pi * total)).sum(-1)


def gaussian_prior(x):
    mean, total = (
        jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, VARIANCES + 4.0)
    )
    return -0.5 * ((x - mean) ** 2 / total + jnp.log(2 * jnp.pi * total)).sum(-1)


def points(num=16):
    noise = np.random.default_rng(0).normal(size=(num, 3))
    return jnp.asarray(MEAN + noise * np.sqrt(VARIANCES))


def gaussian_error(log_prob_fn, **options):
    """Largest error on the Gaussian, prior exact, noise scales 0.1 to 2."""
    x = points()
    run = jax.jit(
        lambda x: (
            log_prob_fn(diagonal_gaussian, x, prior=gaussian_prior, **ENDS, **options).log_prob
        )
    )
    got = run(x)
    return float(np.abs(got - gaussian_log_density(x, 0.1)).max())


def test_a_gaussian_density_to_one_in_a_million(x64):
    assert gaussian_error(pf_ode_log_prob, num_steps=80) < 1e-6
    assert gaussian_error(pf_ode_log_prob, num_steps=80, tableau="rk4") < 1e-6


@pytest.mark.parametrize(("tableau", "order"), [("heun", 2), ("rk4", 4), ("dormand_prince", 5)])
def test_orders_of_the_rules(x64, tableau, order):
    few, many = (gaussian_error(pf_ode_log_prob, num_steps=n, tableau=tableau) for n in (8, 16))
    assert abs(math.log2(few / many) - order) < 0.35


def wrong(kind):
    """`pf_ode_log_prob` with one deliberate fault."""

    def log_prob(denoiser, x, *, prior, **options):
        def flipped(f, y, **rest):
            value, divergence = divergence_exact(f, y, **rest)
            return value, -divergence

        def none(y):
            return jnp.zeros(y.shape[:-1], y.dtype)

        with pytest.MonkeyPatch.context() as patch:
            if kind == "divergence sign":
                patch.setattr(module.traces, "divergence_exact", flipped)
            return pf_ode_log_prob(
                denoiser, x, prior=none if kind == "missing prior" else prior, **options
            )

    return log_prob


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["divergence sign", "missing prior"])
def test_the_gaussian_kills(x64, kind):
    assert gaussian_error(wrong("none"), num_steps=20) < 1e-4
    assert not gaussian_error(wrong(kind), num_steps=20) < 1e-1


def test_the_default_prior_is_the_noise(x64):
    """Centred data at noise scale 80 are N(0, 6400 I) up to variance / 6400, relatively."""

    def centred(x, noise_scale):
        return diagonal_gaussian(
            x + jnp.broadcast_to(MEAN, x.shape), noise_scale
        ) - jnp.broadcast_to(MEAN, x.shape)

    x, ends = points(), {"noise_scale_min": 0.1, "noise_scale_max": 80.0}
    got = pf_ode_log_prob(centred, x - jnp.broadcast_to(MEAN, x.shape), num_steps=30, **ends)
    assert np.abs(got.log_prob - gaussian_log_density(x, 0.1)).max() < 5e-3
    assert got.num_evaluations == 180


def ring(dtype):
    angles = np.arange(8) * np.pi / 4
    means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    denoiser = gmm_denoiser(
        jnp.asarray(means, dtype), jnp.full(8, SPREAD, dtype), jnp.ones(8, dtype)
    )
    return denoiser, gaussian_mixture(means, SPREAD, np.full(8, 1 / 8))


@pytest.mark.slow
def test_eight_gaussians_within_a_thousandth_of_a_nat(x64):
    denoiser, target = ring(jnp.float64)
    x = target.sample(jax.random.key(1), 512, 0.002)
    got = jax.jit(
        lambda x: pf_ode_log_prob(
            denoiser,
            x,
            noise_scale_min=0.002,
            noise_scale_max=80.0,
            prior=lambda y: target.log_density(y, 80.0),
        )
    )(x)
    bias = np.asarray(got.log_prob - target.log_density(x, 0.002))
    assert got.num_evaluations == 120
    assert abs(bias.mean()) < 1e-3 and np.abs(bias).max() < 2e-2


def twisted(x, noise_scale):
    """A denoiser whose Jacobian is neither symmetric nor constant."""
    weights = jnp.asarray([[0.6, -0.4, 0.2], [0.5, 0.1, -0.7], [-0.1, 0.8, 0.3]], x.dtype)
    return jnp.tanh(jnp.tensordot(x, weights, axes=1)) / (1 + noise_scale)


def all_signs(batch):
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    return jnp.asarray(np.broadcast_to(signs[:, None], (8, batch, 3)))


def test_all_sign_vectors_give_the_exact_trace(x64):
    x = points(4)
    exact = pf_ode_log_prob(twisted, x, num_steps=4, **ENDS)
    every = pf_ode_log_prob(twisted, x, num_steps=4, probes=all_signs(4), **ENDS)
    np.testing.assert_allclose(every.log_prob, exact.log_prob, rtol=1e-12)
    np.testing.assert_array_equal(every.latent, exact.latent)
    chunked = pf_ode_log_prob(twisted, x, num_steps=4, chunk=2, **ENDS)
    np.testing.assert_allclose(chunked.log_prob, exact.log_prob, rtol=1e-12)


COVARIANCE = np.array([[1.0, 0.8, 0.0], [0.8, 2.0, -0.5], [0.0, -0.5, 0.5]])


def probe_error(log_prob_fn):
    """One probe v on a Gaussian: the gain is v' M v with M the exact integral of the Jacobian."""
    v = np.array([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    values, vectors = np.linalg.eigh(COVARIANCE)
    gains = 0.5 * np.log((values + 4.0) / (values + 0.01))
    want = ((v @ vectors) ** 2 * gains).sum(-1)
    got = log_prob_fn(
        gaussian_denoiser(jnp.zeros(3), jnp.asarray(COVARIANCE)),
        points(2),
        probes=jnp.asarray(v)[None],
        prior=lambda y: jnp.zeros(y.shape[:-1], y.dtype),
        **ENDS,
    )
    return float(np.abs(got.log_prob - want).max())


def redrawn_in_each_call(*arguments, **options):
    calls = itertools.count()
    real = module.traces.divergence_hutchinson

    def redrawn(f, y, v, **rest):
        return real(f, y, jnp.roll(v, next(calls), -1), **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.traces, "divergence_hutchinson", redrawn)
        return pf_ode_log_prob(*arguments, **options)


def test_one_probe_serves_the_whole_path(x64):
    assert probe_error(pf_ode_log_prob) < 1e-5
    assert not probe_error(redrawn_in_each_call) < 1e-2


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_narrows_with_the_probes(x64):
    x = jnp.broadcast_to(points(1), (4096, 3))
    exact = pf_ode_log_prob(twisted, x[:1], num_steps=4, **ENDS).log_prob[0]
    estimate = jax.jit(
        lambda v: pf_ode_log_prob(twisted, x, num_steps=4, probes=v, **ENDS).log_prob
    )
    spread = {}
    for k in (1, 4, 16):
        v = probes(jax.random.key(k), (k, *x.shape), "gaussian", dtype=jnp.float64)
        values = estimate(v)
        spread[k] = float(values.std())
        assert abs(values.mean() - exact) < 3 * spread[k] / 64
    # The standard error of a standard deviation is about (2 n)^-1/2 of it for light tails.
    assert abs(spread[1] / spread[4] / 2 - 1) < 0.1 and abs(spread[4] / spread[16] / 2 - 1) < 0.1


def test_decode_undoes_encode(x64):
    x = points()
    for tableau, bound in (("rk4", 1e-5), ("dormand_prince", 1e-7)):
        options = {**ENDS, "num_steps": 24, "tableau": tableau}
        latent = encode(twisted, x, **options)
        np.testing.assert_allclose(decode(twisted, latent, **options), x, atol=bound)
    forward = pf_ode_log_prob(twisted, x, num_steps=24, **ENDS).latent
    np.testing.assert_allclose(latent, forward, rtol=1e-12)
    exact = MEAN + np.sqrt((VARIANCES + 4) / (VARIANCES + 0.01)) * (np.asarray(x) - MEAN)
    np.testing.assert_allclose(encode(diagonal_gaussian, x, num_steps=40, **ENDS), exact, atol=1e-6)


def bits(log_prob, dim, log_scale):
    return bits_per_dim(log_prob, dim=dim, log_scale=log_scale)


def code_length_error(bits_fn):
    """Integers from a discretised normal, wide against a level: bits of the entropy, any scale."""
    width, dim = 40.0, 3
    entropy = 0.5 * math.log2(2 * math.pi * math.e * width**2)
    worst = 0.0
    for factor in (1 / 256, 2.0):
        scale = factor * width  # x = factor * (integer + u) + shift
        mean_log_prob = jnp.full(1, -0.5 * dim * math.log(2 * math.pi * math.e * scale**2))
        got = bits_fn(mean_log_prob, dim, math.log(factor))
        worst = max(worst, abs(float(got[0]) - entropy))
    return worst


def test_bits_per_dimension_count_the_levels_whatever_the_scale():
    assert code_length_error(bits) < 1e-5
    assert not code_length_error(lambda lp, d, c: bits(lp, d, 0.0)) < 1e-1  # no Jacobian
    assert not code_length_error(lambda lp, d, c: bits(lp, d, -c)) < 1e-1
    assert not code_length_error(lambda lp, d, c: bits(lp, d, c / d)) < 1e-1


@pytest.mark.slow
def test_shifted_data_have_the_same_bits(x64):
    shift = np.array([3.0, -1.0, 0.5])
    covariance = jnp.array([[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 0.5]])
    x, got = points(), []
    for move in (np.zeros(3), shift):
        denoiser = gaussian_denoiser(jnp.asarray(MEAN + move), covariance)
        noised = gaussian_mixture(
            (MEAN + move)[None], np.asarray(covariance)[None] + 4 * np.eye(3), [1.0]
        )
        log_prob = pf_ode_log_prob(
            denoiser, x + jnp.broadcast_to(move, x.shape), prior=noised.log_density, **ENDS
        ).log_prob
        got.append(bits_per_dim(log_prob, dim=3, log_scale=math.log(0.1)))
    np.testing.assert_allclose(got[0], got[1], atol=1e-12)


def test_dequantised_integers_come_back_and_rows_have_their_keys():
    x = jnp.arange(16 * 4).reshape(16, 4) % 17
    keys = item_keys(jax.random.key(0), 16)
    spread = dequantise(keys, x, levels=17)
    np.testing.assert_array_equal(jnp.floor(17 * spread), x)
    np.testing.assert_array_equal(spread[5:], dequantise(keys[5:], x[5:], levels=17))
    whole = dequantise(jax.random.key(1), jnp.full((4000,), 3), levels=1024)
    assert (jnp.floor(1024 * whole) == 3).all()
    assert abs(float((1024 * whole - 3).mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 4000)
    traced = jax.jit(lambda x: dequantise(jax.random.key(0), x, levels=4))(jnp.array([3, 4, -1]))
    np.testing.assert_array_equal(jnp.isnan(traced), [False, True, True])
    for bad in (jnp.array([4]), jnp.array([-1])):
        with pytest.raises(ValueError, match="x_int"):
            dequantise(jax.random.key(0), bad, levels=4)
    with pytest.raises(ValueError, match="levels must be at most 1024, got 2000"):
        dequantise(jax.random.key(0), x, levels=2000)


@pytest.mark.slow
def test_rows_stand_alone_on_any_number_of_devices():
    x = jax.random.normal(jax.random.key(0), (8, 3))
    v = probes(jax.random.key(1), (2, 8, 3))

    def run(x, v):
        exact = pf_ode_log_prob(twisted, x, num_steps=2, **ENDS)
        estimate = pf_ode_log_prob(twisted, x, num_steps=2, probes=v, tableau="heun", **ENDS)
        return exact.log_prob, estimate.log_prob, exact.latent

    whole = jax.jit(run)(x, v)
    broken = jax.jit(run)(x.at[3, 1].set(jnp.nan), v)
    for part, other in zip(whole, broken, strict=True):
        assert np.isnan(np.asarray(other)[3]).all()
        np.testing.assert_array_equal(np.delete(part, 3, 0), np.delete(other, 3, 0))
    for num_devices in (1, 2, 4):
        mesh = jax.make_mesh(
            (num_devices,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        spec = PartitionSpec("rows")
        mapped = jax.jit(
            jax.shard_map(
                run, mesh=mesh, in_specs=(spec, PartitionSpec(None, "rows")), out_specs=spec
            )
        )
        for part, other in zip(whole, mapped(x, v), strict=True):
            np.testing.assert_allclose(other, part, rtol=2e-6, atol=2e-6)
    text = mapped.lower(x, v).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_images_half_precision_and_empty_batches():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 1)).astype(np.float32))
    flow = jax.jit(
        lambda x, ndim: pf_ode_log_prob(
            flat_twisted, x, num_steps=2, tableau="heun", event_ndim=ndim, **ENDS
        ),
        static_argnums=1,
    )

    def flat_twisted(y, noise_scale):
        return jnp.sin(y) / (1 + noise_scale)

    images = flow(x, 3)
    np.testing.assert_allclose(images.log_prob, flow(x.reshape(2, 6), 1).log_prob, rtol=1e-6)
    half = flow(x.astype(jnp.bfloat16), 3)
    assert half.log_prob.dtype == jnp.float32 and half.latent.dtype == jnp.bfloat16
    assert flow(x[:0], 3).log_prob.shape == (0,)


def test_one_loop_whatever_the_number_of_steps_and_one_program_for_all_scales(compilations):
    def lines(n):
        run = jax.jit(lambda x: pf_ode_log_prob(twisted, x, num_steps=n, **ENDS).log_prob)
        return len(run.lower(jnp.ones((2, 3))).as_text().splitlines())

    assert lines(3) == lines(50)
    run = jax.jit(
        lambda x, lo, hi: (
            pf_ode_log_prob(
                twisted, x, noise_scale_min=lo, noise_scale_max=hi, num_steps=2
            ).log_prob
        )
    )
    x = jnp.ones((2, 3))
    run(x, 0.1, 2.0)
    compilations.clear()
    run(x, 0.2, 3.0)
    assert not compilations


def test_bad_arguments_are_named():
    x = jnp.ones((2, 3))
    for options, message in (
        ({"noise_scale_min": 2.0, "noise_scale_max": 0.1}, "noise_scale_min must be below"),
        ({"noise_scale_min": 0.0, "noise_scale_max": 0.1}, "noise_scale_min must be positive"),
        ({**ENDS, "num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({**ENDS, "tableau": "rk5"}, "tableau must be one of 'euler', .*, got 'rk5'"),
        ({**ENDS, "probes": jnp.ones((1, 2, 4))}, r"probes must have shape \(any, 2, 3\)"),
        ({**ENDS, "probes": jnp.ones((1, 2, 3)), "chunk": 2}, "chunk must be None"),
        ({**ENDS, "prior": lambda y: y}, r"prior\(x\) must have shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pf_ode_log_prob(twisted, x, **options)
    with pytest.raises(ValueError, match=r"denoiser\(x, noise_scale\) must have the shape of x"):
        encode(lambda y, c: y[..., :1], x, **ENDS)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        bits_per_dim(jnp.zeros(1), dim=0, log_scale=0.0)
