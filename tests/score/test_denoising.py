"""Denoising score matching against quadrature, closed forms and its own mutants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scipy import special

from probjax.core.keys import item_keys, row_normal
from probjax.score.denoising import (
    control_coefficient,
    deen,
    deen_from_noise,
    denoising_sm,
    denoising_sm_from_noise,
    multi_noise_dsm,
    multi_noise_dsm_from_noise,
    tweedie,
)

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[2.0, 0.6], [0.6, 0.5]])
SLOPE = np.array([[-0.7, 0.3], [0.1, -1.2]])
OFFSET = np.array([0.4, -0.2])


def hermite(num_nodes):
    """Nodes and weights of the standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes, weights / weights.sum()


def gauss_grid(num_nodes, dim):
    nodes, weights = hermite(num_nodes)
    points = np.array(list(itertools.product(nodes, repeat=dim)))
    return points, np.array(list(itertools.product(weights, repeat=dim))).prod(-1)


def linear_score(x):
    return jnp.tensordot(x, jnp.asarray(SLOPE.T, x.dtype), axes=1) + jnp.broadcast_to(
        jnp.asarray(OFFSET, x.dtype), x.shape
    )


def vincent_gap(objective, noise_scale=0.6):
    """E[objective] - (tr A + E|s|^2 / 2 under the noised data) - d / (2 noise_scale^2)."""
    points, weights = gauss_grid(3, 4)
    x = MEAN + points[:, :2] @ np.linalg.cholesky(COVARIANCE).T
    run = jax.jit(lambda x, noise, noise_scale: objective(linear_score, x, noise, noise_scale))
    values = run(x, points[:, 2:], noise_scale)
    noised = COVARIANCE + noise_scale**2 * np.eye(2)
    at_mean = SLOPE @ MEAN + OFFSET
    implicit = np.trace(SLOPE) + 0.5 * (at_mean @ at_mean + np.trace(SLOPE @ noised @ SLOPE.T))
    return float(weights @ np.asarray(values)) - implicit - 2 / (2 * noise_scale**2)


def ours(score_fn, x, noise, noise_scale):
    return denoising_sm_from_noise(score_fn, x, noise, noise_scale=noise_scale)


@pytest.mark.parametrize("noise_scale", [0.3, 1.7])
@pytest.mark.parametrize("options", [{}, {"antithetic": True}, {"control": 0.8}])
def test_vincent_identity_with_the_constant(x64, noise_scale, options):
    def objective(score_fn, x, noise, noise_scale):
        return denoising_sm_from_noise(score_fn, x, noise, noise_scale=noise_scale, **options)

    assert abs(vincent_gap(objective, noise_scale)) < 1e-10


MUTANTS = {
    "lost half": lambda s, x, z, c: 2 * ours(s, x, z, c),
    "flipped sign of the score": lambda s, x, z, c: ours(lambda y: -s(y), x, z, c),
    "flipped sign of the target": lambda s, x, z, c: 0.5 * ((s(x + c * z) - z / c) ** 2).sum(-1),
    "target over the squared scale": lambda s, x, z, c: (
        0.5 * ((s(x + c * z) + z / c**2) ** 2).sum(-1)
    ),
    "noise variance for its scale": lambda s, x, z, c: (
        0.5 * ((s(x + c**2 * z) + z / c) ** 2).sum(-1)
    ),
    "score at the clean point": lambda s, x, z, c: 0.5 * ((s(x) + z / c) ** 2).sum(-1),
    "mean over coordinates": lambda s, x, z, c: ours(s, x, z, c) / 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_identity_kills(x64, name):
    assert abs(vincent_gap(MUTANTS[name])) > 1e-2


def test_gradient_equals_that_of_explicit_matching_on_a_mixture(x64):
    """Vincent's theorem: same gradient under the noised density, here by two quadratures."""
    means, scales, weights = np.array([-2.0, 1.0]), np.array([0.5, 0.8]), np.array([0.3, 0.7])
    noise_scale = 0.7
    nodes, node_weights = hermite(60)
    wide = np.sqrt(scales**2 + noise_scale**2)

    def model(theta, x):
        return theta[0] * jnp.sin(x) + theta[1] * x + theta[2]

    def noised_score(x):
        away = x - jnp.broadcast_to(means, (*x.shape[:-1], 2))
        wides = jnp.broadcast_to(wide, away.shape)
        logs = jnp.log(jnp.broadcast_to(weights, away.shape) / wides) - 0.5 * (away / wides) ** 2
        return -(jax.nn.softmax(logs, axis=-1) * away / wides**2).sum(-1, keepdims=True)

    def explicit(theta):
        x = np.linspace(-12, 12, 4001)[:, None]  # trapezoids: exact for what decays and is smooth
        density = np.exp(-0.5 * ((x - means) / wide) ** 2) / (np.sqrt(2 * np.pi) * wide)
        values = 0.5 * (model(theta, jnp.asarray(x)) - noised_score(jnp.asarray(x))) ** 2
        return 24 / 4000 * jnp.vdot(density @ weights, values[:, 0])

    def denoising(theta):
        x = means[:, None, None] + scales[:, None, None] * nodes[:, None]
        x, noise = np.broadcast_arrays(x, nodes)
        values = denoising_sm_from_noise(
            lambda y: model(theta, y),
            jnp.asarray(x)[..., None],
            jnp.asarray(noise)[..., None],
            noise_scale=noise_scale,
        )
        return (weights[:, None, None] * node_weights[:, None] * node_weights * values).sum()

    theta = jnp.array([0.3, -0.4, 0.2])
    ours, wanted = jax.jit(lambda t: (jax.grad(denoising)(t), jax.grad(explicit)(t)))(theta)
    np.testing.assert_allclose(ours, wanted, atol=1e-8)


def test_deen_is_the_fourth_power_of_the_scale_times_dsm(x64):
    @jax.jit
    def run(x, noise_scale):
        def score_fn(y):
            return jnp.sin(3 * y) - y

        values = deen(jax.random.key(1), score_fn, x, noise_scale=noise_scale)
        plain = denoising_sm(jax.random.key(1), score_fn, x, noise_scale=noise_scale)
        noise = jax.random.normal(jax.random.key(1), x.shape)
        noised = x + noise_scale[:, None] * noise
        squared = noise_scale[:, None] ** 2
        plus = 0.5 * ((x - noised + squared * score_fn(noised)) ** 2).sum(-1)
        return values, plain, deen_from_noise(score_fn, x, noise, noise_scale=noise_scale), plus

    noise_scale = np.linspace(0.05, 3.0, 7)
    found = run(np.random.default_rng(0).normal(size=(7, 3)), noise_scale)
    values, plain, from_noise, plus = jax.device_get(found)
    np.testing.assert_allclose(values / plain, noise_scale**4, rtol=1e-12)
    np.testing.assert_allclose(values, from_noise, rtol=1e-14)
    assert np.ptp(plus / plain / noise_scale**4) > 1e-2  # a plus sign is another objective


def test_the_model_of_least_loss_is_the_noised_score(x64):
    """For data N(0, I) the loss is stationary at the slope -1 / (1 + noise_scale^2)."""
    x = np.random.default_rng(0).normal(size=(20_000, 2))

    @jax.jit
    def derivative(slope, x):
        def one(slope):
            return denoising_sm(jax.random.key(1), lambda y: slope * y, x, noise_scale=0.8)

        return jax.jvp(one, (slope,), (1.0,))[1]

    def slope_gradient(slope):
        return np.asarray(derivative(slope, x))

    at_truth = slope_gradient(-1 / 1.64)
    error = at_truth.std() / np.sqrt(len(x))
    assert abs(at_truth.mean()) < 4 * error
    assert abs(slope_gradient(1 / 1.64).mean()) > 50 * error
    assert abs(slope_gradient(-1.0).mean()) > 10 * error


def test_tweedie_is_the_posterior_mean_of_a_mixture(x64):
    atoms, weights = np.array([[-1.0, 0.0], [2.0, 1.0], [0.5, -3.0]]), np.array([0.2, 0.5, 0.3])
    noise_scale = np.array([0.5, 2.0, 1.0, 0.1])

    def log_density(x, scale):
        return jax.nn.logsumexp(
            np.log(weights) - 0.5 * ((x[None] - atoms) ** 2).sum(-1) / scale**2, axis=-1
        )

    @jax.jit
    def denoised(x, noise_scale):
        score_fn = jax.vmap(jax.grad(log_density))
        return tweedie(lambda y: score_fn(y, noise_scale), x, noise_scale)

    x = np.random.default_rng(0).normal(size=(4, 2))
    squares = ((x[:, None] - atoms) ** 2).sum(-1)
    posterior = special.softmax(np.log(weights) - 0.5 * squares / noise_scale[:, None] ** 2, axis=1)
    np.testing.assert_allclose(denoised(x, noise_scale), posterior @ atoms, atol=1e-12)


def test_control_variate_keeps_the_mean_and_quietens_the_gradient(x64):
    x = np.random.default_rng(0).normal(size=(4000, 2))

    @jax.jit
    def slopes(control, x):
        def values(slope):
            return denoising_sm(
                jax.random.key(1), lambda y: slope * y, x, noise_scale=0.02, control=control
            )

        return jax.jvp(values, (-0.9,), (1.0,))[1]

    plain, quiet = np.asarray(slopes(0.0, x)), np.asarray(slopes(1.0, x))
    difference = plain - quiet
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(x))
    assert quiet.var() < 0.01 * plain.var()


def test_control_coefficient_is_a_covariance_over_a_variance(x64):
    def score_fn(y):
        return jnp.tanh(y) - 2 * y

    @jax.jit
    def run(x):
        noise = row_normal(jax.random.key(1), x)
        score = score_fn(x + 0.5 * noise)
        value = (0.5 * score**2 + score * noise / 0.5).sum(-1)
        coefficient = control_coefficient(jax.random.key(1), score_fn, x, noise_scale=0.5)
        return value, (noise * score_fn(x) / 0.5).sum(-1), coefficient

    x = 3 * np.random.default_rng(0).normal(size=(200, 2))
    value, variate, coefficient = jax.device_get(run(x))
    covariance = np.cov(value, variate)
    np.testing.assert_allclose(coefficient, covariance[0, 1] / covariance[1, 1], rtol=1e-12)
    assert abs(coefficient - np.corrcoef(value, variate)[0, 1]) > 0.05
    gradient = jax.grad(
        lambda a: control_coefficient(
            jax.random.key(1), lambda y: a * score_fn(y), jnp.asarray(x), noise_scale=0.5
        )
    )
    assert jax.jit(gradient)(1.0) == 0


def test_antithetic_is_the_mean_of_both_signs(x64):
    @jax.jit
    def run(x, noise):
        pair = denoising_sm_from_noise(jnp.sin, x, noise, noise_scale=0.4, antithetic=True)
        with_control = denoising_sm_from_noise(
            jnp.sin, x, noise, noise_scale=0.4, antithetic=True, control=3.0
        )
        return pair, with_control, ours(jnp.sin, x, noise, 0.4), ours(jnp.sin, x, -noise, 0.4)

    x, noise = np.random.default_rng(0).normal(size=(2, 5, 3))
    pair, with_control, plus, minus = jax.device_get(run(x, noise))
    np.testing.assert_allclose(pair, (plus + minus) / 2, rtol=1e-14)
    np.testing.assert_array_equal(pair, with_control)


LEVELS = np.array([4.0, 1.0, 0.3])


def noise_score(x, noise_scale):
    return -x / (1 + noise_scale[..., None] ** 2)


def test_each_row_of_multi_noise_is_dsm_at_its_level(x64):
    weights = ("noise_scale2", "one", lambda s: s**3)

    @jax.jit
    def run(x, noise, levels):
        scale = jnp.asarray(LEVELS)[levels]
        score_fn = lambda y: noise_score(y, scale)
        return denoising_sm_from_noise(score_fn, x, noise, noise_scale=scale), [
            multi_noise_dsm_from_noise(
                noise_score, x, noise, levels, noise_scales=LEVELS, weight=weight
            )
            for weight in weights
        ]

    x, noise = np.random.default_rng(0).normal(size=(2, 6, 2))
    levels = np.array([0, 1, 2, 2, 1, 0])
    plain, weighted = jax.device_get(run(x, noise, levels))
    scale = LEVELS[levels]
    for got, factor in zip(weighted, (scale**2, 1.0, scale**3), strict=True):
        np.testing.assert_allclose(got, factor * plain, rtol=1e-13)


@pytest.mark.parametrize("rowwise", [False, True])
def test_levels_are_uniform_and_independent_of_the_noise(rowwise):
    rows = 30_000

    @jax.jit
    def seen_by_the_model(key):
        seen = {}

        def spy(x, noise_scale):
            seen.update(x=x, scale=noise_scale)
            return jnp.zeros_like(x)

        multi_noise_dsm(key, spy, jnp.zeros((rows, 2)), noise_scales=LEVELS.astype(np.float32))
        return seen

    key = item_keys(jax.random.key(3), rows) if rowwise else jax.random.key(3)
    seen = jax.device_get(seen_by_the_model(key))
    noise = seen["x"] / seen["scale"][:, None]
    for level in LEVELS:
        chosen = np.isclose(seen["scale"], level)
        assert abs(chosen.mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / rows)
        here = noise[chosen]
        error = 1 / np.sqrt(len(here))
        assert np.all(abs(here.mean(0)) < 4 * error)
        assert np.all(abs((here**2).mean(0) - 1) < 4 * np.sqrt(2) * error)


OBJECTIVES = {
    "denoising_sm": lambda key, x: denoising_sm(key, jnp.sin, x, noise_scale=0.5),
    "deen": lambda key, x: deen(key, jnp.sin, x, noise_scale=0.5),
    "multi_noise_dsm": lambda key, x: multi_noise_dsm(
        key, lambda y, scale: jnp.sin(y) / scale[..., None], x, noise_scales=LEVELS
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_stand_alone(reuse_keys, name):
    """A key per row: no row feels the batch, its order, a NaN beside it or the devices."""
    objective = OBJECTIVES[name]
    keys = item_keys(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (8, 3))
    values = objective(keys, x)
    assert values.shape == (8,)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(objective(keys[::-1], x[::-1])[::-1], values)
    np.testing.assert_array_equal(objective(keys[2:5], x[2:5]), values[2:5])
    broken = objective(keys, x.at[3, 1].set(jnp.nan))
    assert np.isnan(broken[3])
    np.testing.assert_array_equal(np.delete(broken, 3), np.delete(values, 3))
    grid = objective(keys.reshape(2, 4), x.reshape(2, 4, 3))
    np.testing.assert_array_equal(grid.reshape(8), values)
    assert objective(keys[:0], x[:0]).shape == (0,)
    half = objective(keys, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32

    compiled = jax.jit(objective).lower(keys, x).compile()
    whole = compiled(keys, x)
    for num_devices in (1, 2, 4, 8):
        mesh = jax.make_mesh(
            (num_devices,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        spec = PartitionSpec("rows")
        mapped = jax.jit(jax.shard_map(objective, mesh=mesh, in_specs=spec, out_specs=spec))
        np.testing.assert_allclose(mapped(keys, x), whole, rtol=1e-6)
    assert "all-" not in mapped.lower(keys, x).compile().as_text()


def test_one_key_for_the_batch_and_old_keys():
    x = np.zeros((4, 2), np.float32)
    loss = jax.jit(lambda key, x: denoising_sm(key, jnp.sin, x, noise_scale=0.5))
    new, old = loss(jax.random.key(0), x), loss(jax.random.PRNGKey(0), x)
    np.testing.assert_array_equal(new, old)
    assert len(np.unique(new)) == 4


def test_images_and_a_scale_per_row():
    @jax.jit
    def run(x, scale):
        key, flat = jax.random.key(1), x.reshape(3, 32)
        values = denoising_sm(key, jnp.tanh, x, noise_scale=scale, event_ndim=3)
        return values, denoising_sm(jax.random.key(1), jnp.tanh, flat, noise_scale=scale)

    x = np.float32(np.random.default_rng(0).normal(size=(3, 4, 4, 2)))
    values, flat = run(x, np.float32([0.1, 1.0, 2.0]))
    np.testing.assert_allclose(values, flat, rtol=1e-6)


def test_bad_arguments_are_named():
    x, key = jnp.zeros((3, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match=r"noise_scale must be positive and finite, got -0\.5"):
        denoising_sm(key, jnp.sin, x, noise_scale=-0.5)
    with pytest.raises(ValueError, match=r"noise_scale must be a scalar or have shape \(3,\)"):
        deen(jax.random.key(0), jnp.sin, x, noise_scale=jnp.ones(2))
    with pytest.raises(ValueError, match=r"score_fn\(x\) must have the shape of x"):
        denoising_sm(jax.random.key(0), lambda y: y[..., 0], x, noise_scale=1.0)
    with pytest.raises((ValueError, TypeError), match="noise"):
        denoising_sm_from_noise(jnp.sin, x, jnp.zeros((3, 1)), noise_scale=1.0)
    with pytest.raises(ValueError, match=r"noise_scales\[2\]=0\.5 is not below noise_scales\[1\]"):
        multi_noise_dsm(key, noise_score, x, noise_scales=np.array([1.0, 0.5, 0.5]))
    with pytest.raises(ValueError, match="weight must be one of"):
        multi_noise_dsm(key, noise_score, x, noise_scales=LEVELS, weight="sigma")
    with pytest.raises(ValueError, match="keys of shape"):
        denoising_sm(item_keys(jax.random.key(0), 2), jnp.sin, x, noise_scale=1.0)
