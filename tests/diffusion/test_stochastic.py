"""Steps of the reverse equation against their formulas, and the corrector's size of step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.core.keys import item_keys, row_normal, step_key, stream
from probjax.diffeq.reverse_time import reverse_sde
from probjax.diffusion.exponential import dpmpp_2m
from probjax.diffusion.samplers import ancestral, sample
from probjax.diffusion.schedules import edm, subvp, to_sde, ve, vp
from probjax.diffusion.stochastic import (
    euler_maruyama,
    euler_maruyama_table,
    langevin_corrector,
    predictor_corrector,
    reverse_diffusion,
)
from probjax.mcmc.driver import row_step_key
from tests.diffusion.tables_walk import MEAN, VARIANCES

GRID = np.array([7.0, 3.1, 0.8, 0.2])


def diagonal_gaussian(x, noise_scale):
    mean, variance = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, VARIANCES))
    return mean + variance / (variance + noise_scale**2) * (x - mean)


def one_step(algorithm, key, x):
    return jax.jit(lambda x: algorithm.step(key, algorithm.init(x))[0].x)(x)


def test_reverse_diffusion_as_published(x64, reuse_keys):
    """Variance exploding: x + (s^2 - t^2) score + sqrt(s^2 - t^2) z. Variance preserving: with
    beta, (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z."""
    key, x = jax.random.key(0), jnp.array([[3.0, -1.0, 0.4], [2.0, 0.3, -2.0]])
    z = row_normal(key, x)
    score = (diagonal_gaussian(x, 7.0) - x) / 49
    gap = 49 - 3.1**2
    got = one_step(reverse_diffusion(diagonal_gaussian, GRID), key, x)
    np.testing.assert_allclose(got, x + gap * score + np.sqrt(gap) * z, rtol=1e-12)

    beta, alphas = 0.3, np.sqrt(np.array([0.7 * 0.6, 0.6]))
    scales = np.sqrt(1 - alphas**2)

    def preserving(x, noise_scale):
        alpha = jnp.sqrt(1 - noise_scale**2)
        return diagonal_gaussian(x / alpha, noise_scale / alpha)

    score = (alphas[0] * preserving(x, scales[0]) - x) / scales[0] ** 2
    want = (2 - np.sqrt(1 - beta)) * x + beta * score + np.sqrt(beta) * z
    got = one_step(reverse_diffusion(preserving, scales, alphas=alphas), key, x)
    np.testing.assert_allclose(got, want, rtol=1e-12)


SCHEDULES = {"ve": ve(), "vp": vp(), "subvp": subvp(), "edm": edm()}


@pytest.mark.parametrize("name", SCHEDULES)
def test_euler_maruyama_is_eulers_rule_on_reverse_sde(x64, reuse_keys, name):
    schedule, key = SCHEDULES[name], jax.random.key(0)
    x, t, after, level = jnp.array([[3.0, -1.0, 0.4]]), 0.7, 0.55, 0.8
    alpha, sigma = float(schedule.alpha(t)), float(schedule.noise_scale(t))

    def score_fn(t, x):
        return (alpha * diagonal_gaussian(x, sigma) - x) / sigma**2

    back = reverse_sde(to_sde(schedule), score_fn, stochasticity=level)
    noise = row_normal(key, x)
    want = x - back.drift(t, x) * (t - after)
    want = want + back.diffusion(t, x) * np.sqrt(t - after) * noise
    algorithm = euler_maruyama(
        diagonal_gaussian, schedule, np.array([t, after]), stochasticity=level, final="keep"
    )
    np.testing.assert_allclose(one_step(algorithm, key, x), want, rtol=1e-10)
    quiet = euler_maruyama_table(schedule, np.array([t, after]), stochasticity=0.0)
    assert quiet.spread is None and quiet.num_steps == 2


def check_corrector(corrector):
    """Steps of the stated size, each row with its own norms, and none without a score."""
    x = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
    score = jnp.array([[0.3, -0.4], [4.0, 3.0], [0.0, 0.0]])
    noise = jnp.array([[1.0, -2.0], [0.5, 0.1], [1.0, 1.0]])
    got = corrector(x, score, noise, 0.2)
    for row in range(2):
        ratio = np.linalg.norm(noise[row]) / np.linalg.norm(score[row])
        eta = 2 * (0.2 * ratio) ** 2
        want = x[row] + eta * score[row] + np.sqrt(2 * eta) * noise[row]
        np.testing.assert_allclose(got[row], want, rtol=1e-12)
    np.testing.assert_array_equal(got[2], x[2])


def test_langevin_corrector(x64):
    check_corrector(langevin_corrector)
    alone = langevin_corrector(jnp.ones(2), jnp.zeros(2), jnp.ones(2), 0.16)
    np.testing.assert_array_equal(alone, 1)
    bad = langevin_corrector(jnp.ones((2, 2)), jnp.full((2, 2), jnp.nan), jnp.ones((2, 2)), 0.1)
    assert bool(jnp.isnan(bad).all())


def test_corrector_kills(x64):
    def batch_norm(x, score, noise, r):  # one size of step for the whole batch
        eta = 2 * r**2 * jnp.sum(noise**2) / jnp.sum(score**2)
        return x + eta * score + jnp.sqrt(2 * eta) * noise

    def other_convention(x, score, noise, r):
        return langevin_corrector(x, score, noise, r / 2**0.5)

    def infinite(x, score, noise, r):
        eta = 2 * r**2 * jnp.sum(noise**2, 1) / jnp.sum(score**2, 1)
        return x + eta[:, None] * score + jnp.sqrt(2 * eta[:, None]) * noise

    for mutant in (batch_norm, other_convention, infinite):
        with pytest.raises(AssertionError):
            check_corrector(mutant)


def test_predictor_corrector_step_by_step(x64, reuse_keys):
    """Two Langevin steps at the level, then the predictor's own step."""
    key, x = jax.random.key(0), jnp.array([[3.0, -1.0, 0.4], [2.0, 0.3, -2.0]])
    base = reverse_diffusion(diagonal_gaussian, GRID)
    pair = predictor_corrector(reverse_diffusion, diagonal_gaussian, GRID, num_correctors=2)
    want = x
    for j in range(2):
        score = (diagonal_gaussian(want, 7.0) - want) / 49
        noise = row_normal(row_step_key(stream(key, "proposal"), j), want)
        want = langevin_corrector(want, score, noise, 0.16)
    np.testing.assert_allclose(one_step(pair, key, x), one_step(base, key, want), rtol=1e-12)
    none = predictor_corrector(ancestral, diagonal_gaussian, GRID, num_correctors=0)
    plain = ancestral(diagonal_gaussian, GRID)
    got, bare = (jax.jit(lambda x, a=a: sample(key, a, x, 4))(x) for a in (none, plain))
    np.testing.assert_array_equal(got.x, bare.x)
    result = jax.jit(lambda x: sample(key, pair, x, 6))(x)
    assert int(result.num_evaluations) == 12


@pytest.mark.slow
def test_correctors_mend_the_variance(x64):
    """One point of data in 200 dimensions at the last level: ancestral steps with a score that is
    a tenth too small leave too much spread, and correctors take some of it away."""

    def weak(x, noise_scale):
        return x - 0.8 * noise_scale**2 * x / (noise_scale**2 + 1)

    grid, start = np.geomspace(20, 0.1, 12), 20 * jax.random.normal(jax.random.key(0), (50, 200))
    spreads = []
    for num in (0, 4):
        algorithm = predictor_corrector(
            reverse_diffusion, weak, grid, num_correctors=num, final="keep", signal_to_noise=0.2
        )
        x = jax.jit(lambda x, a=algorithm: sample(jax.random.key(1), a, x, 11).x)(start)
        spreads.append(float(x.std()))
    target = np.sqrt((0.01 + 1) / 0.8)  # the law whose score this is, at the last level
    assert abs(spreads[1] - target) < abs(spreads[0] - target)


@pytest.mark.slow
def test_rows_stand_alone_on_any_number_of_devices(reuse_keys):
    grid = GRID.astype(np.float32)
    algorithm = predictor_corrector(ancestral, diagonal_gaussian, grid, num_correctors=2)

    def one(key, x):
        return sample(key, algorithm, x, 4).x

    keys, x = item_keys(jax.random.key(0), 16), 7 * jax.random.normal(jax.random.key(1), (16, 3))
    results = [
        np.asarray(sharding.map_items(one, sharding.make_mesh(n), tile=2)(keys, x))
        for n in (1, 2, 4, 8)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    whole = jax.jit(one)(keys, x)
    np.testing.assert_allclose(whole, results[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole, jax.jit(one)(step_key(jax.random.key(0), 1), x))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_correctors must be at least 0"):
        predictor_corrector(ancestral, diagonal_gaussian, GRID, num_correctors=-1)
    with pytest.raises(ValueError, match="signal_to_noise"):
        predictor_corrector(ancestral, diagonal_gaussian, GRID, signal_to_noise=0.0)
    with pytest.raises(ValueError, match="must not keep earlier estimates"):
        predictor_corrector(dpmpp_2m, diagonal_gaussian, GRID).init(jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"times\[1\]"):
        euler_maruyama(diagonal_gaussian, vp(), np.array([0.5, 0.6]))
