"""One scan over a table: equal to the table's definition, to published loops, and everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.core.keys import item_keys, row_normal, step_key
from probjax.diffusion.exact import affine_law
from probjax.diffusion.exponential import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s,
    dpmpp_3m,
    multistep,
    unipc,
)
from probjax.diffusion.samplers import ddim, sample
from probjax.diffusion.schedules import vp
from probjax.diffusion.stochastic import ddim_table, reverse_diffusion_table
from probjax.diffusion.tables import adams_table, dpmpp_3m_table, single_step_table
from tests.diffusion.tables_walk import MEAN, START, VARIANCES, gaussian, walk

GRID = np.array([7.0, 3.1, 1.9, 0.8, 0.55, 0.2])

TABLES = {
    "order 3": lambda g: adams_table(g, order=3),
    "3+C": lambda g: adams_table(g, order=3, corrector=True),
    "3+C warm": lambda g: adams_table(g, order=3, corrector=True, start="midpoint"),
    "UniPC-2": lambda g: adams_table(g, order=2, corrector=True, variant="half", end="lower"),
    "noisy 3+C": lambda g: adams_table(g, order=3, corrector=True, stochasticity=0.6),
    "2S SDE": lambda g: single_step_table(g, stochasticity=1.0),
    "copied": dpmpp_3m_table,
    "ancestral": lambda g: ddim_table(g, eta=1.0),
    "reverse diffusion": reverse_diffusion_table,
}


def quick(names, *kept):
    """All names, of which the default selection takes `kept`."""
    return [n if n in kept else pytest.param(n, marks=pytest.mark.slow) for n in names]


def diagonal_gaussian(x, noise_scale):
    mean, variance = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, VARIANCES))
    return mean + variance / (variance + noise_scale**2) * (x - mean)


@jax.jit
def run(key, table, x):
    """One program for each shape of table."""
    algorithm = multistep(diagonal_gaussian, table)
    return sample(key, algorithm, x, table.num_steps, trajectory=True)


@pytest.mark.parametrize("name", quick(TABLES, "3+C warm", "noisy 3+C", "2S SDE"))
def test_the_scan_is_the_tables_definition(x64, reuse_keys, name):
    """Which goes back and makes each corrected step again from its start."""
    table, key = TABLES[name](GRID), jax.random.key(0)
    like = jnp.zeros((1, 3))
    noise = [
        np.asarray(row_normal(step_key(key, n), like))[0] if table.spread is not None else None
        for n in range(table.num_steps)
    ]
    result = run(key, jax.tree.map(jnp.asarray, table), jnp.asarray(START)[None])
    want = walk(table, gaussian, START, noise)
    np.testing.assert_allclose(result.trajectory[:, 0], want, rtol=1e-12)
    assert int(result.num_evaluations) == table.num_steps


@pytest.mark.parametrize("name", quick(TABLES, "noisy 3+C", "ancestral"))
def test_affine_law_is_what_the_sampler_does(x64, reuse_keys, name):
    """The sampler's own Jacobian in the start and in every noise, put together."""
    table, key = TABLES[name](GRID)._replace(), jax.random.key(0)
    quiet = table._replace(spread=None)

    def last(x, noise):
        """The sampler without noise, but with `noise` added by hand after each step."""
        algorithm = multistep(diagonal_gaussian, quiet)

        def step(state, extra):
            state, _ = algorithm.step(key, state)
            return state._replace(x=state.x + extra), None

        return jax.lax.scan(step, algorithm.init(x), noise)[0].x

    start, zero = jnp.asarray(START), jnp.zeros((table.num_steps, 3))
    into_x, into_noise = jax.jit(jax.jacfwd(last, argnums=(0, 1)))(start, zero)
    spreads = np.zeros(table.num_steps) if table.spread is None else np.asarray(table.spread)
    start_covariance = np.diag([9.0, 4.0, 1.0]) + 0.3
    want = into_x @ start_covariance @ into_x.T
    want = want + np.einsum("inj,knj,n->ik", into_noise, into_noise, spreads**2)
    mean, covariance = affine_law(
        table,
        MEAN,
        np.diag(VARIANCES),
        start_mean=START,
        start_covariance=start_covariance,
    )
    np.testing.assert_allclose(covariance, want, atol=1e-10)
    np.testing.assert_allclose(mean, jax.jit(last)(start, zero), atol=1e-10)


@pytest.mark.slow
def test_a_hundred_thousand_draws_follow_the_affine_law(x64):
    table = adams_table(GRID, order=2, corrector=True, stochasticity=0.8)
    draws = 100_000
    start = 7 * jax.random.normal(jax.random.key(0), (draws, 3)) + jnp.asarray(START)[None]
    x = np.asarray(run(jax.random.key(1), jax.tree.map(jnp.asarray, table), start).x)
    mean, covariance = affine_law(
        table, MEAN, np.diag(VARIANCES), start_mean=START, start_covariance=49 * np.eye(3)
    )
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(x.mean(0) - mean) < 4 * spread / np.sqrt(draws))
    assert np.all(np.abs(x.var(0) / spread**2 - 1) < 4 * np.sqrt(2 / draws))


def test_exact_variance_of_ancestral_sampling():
    """Data N(0, 1/4), ten Karras scales from 80: 0.0911..., far from 0.25."""
    grid = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 10) ** 7
    _, covariance = affine_law(
        ddim_table(grid, eta=1.0, final="keep"),
        np.zeros(1),
        np.full((1, 1), 0.25),
        start_mean=np.zeros(1),
        start_covariance=np.full((1, 1), 0.25 + 80.0**2),
    )
    assert abs(covariance[0, 0] - 0.0911361926920368) < 1e-12


NAMED = {
    "2M": (dpmpp_2m, lambda g, **o: adams_table(g, order=2, variant="half", **o)),
    "3M": (dpmpp_3m, lambda g, **o: adams_table(g, order=3, **o)),
    "copied": (lambda d, g, **o: dpmpp_3m(d, g, copied=True, **o), dpmpp_3m_table),
    "2S": (dpmpp_2s, single_step_table),
    "2M SDE": (
        dpmpp_2m_sde,
        lambda g, **o: adams_table(g, order=2, variant="half", stochasticity=1.0, **o),
    ),
    "UniPC": (
        unipc,
        lambda g, **o: adams_table(g, order=2, corrector=True, variant="half", end="lower", **o),
    ),
}


@pytest.mark.parametrize("name", quick(NAMED, "UniPC"))
def test_the_named_samplers_are_these_tables(x64, reuse_keys, name):
    make, table = NAMED[name]
    algorithm, table = make(diagonal_gaussian, GRID, final="keep"), table(GRID, final="keep")
    x, key = jnp.asarray(START)[None], jax.random.key(3)
    got = jax.jit(lambda x: sample(key, algorithm, x, table.num_steps).x)(x)
    want = run(key, jax.tree.map(jnp.asarray, table), x).x
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_order_one_is_ddim(x64):
    x = jnp.asarray(START)[None]
    one = multistep(diagonal_gaussian, adams_table(GRID, order=1))
    two = ddim(diagonal_gaussian, GRID)
    a, b = (jax.jit(lambda x, s=s: sample(jax.random.key(0), s, x, 6).x)(x) for s in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("name", quick(["3+C", "3+C warm", "noisy 3+C", "2S SDE"], "3+C warm"))
def test_variance_preserving_is_variance_exploding_rescaled(x64, reuse_keys, name):
    alphas = np.sqrt(1 / (1 + GRID**2))

    def preserving(x, noise_scale):
        alpha = jnp.sqrt(1 - noise_scale**2)
        return diagonal_gaussian(x / alpha, noise_scale / alpha)

    options = {
        "3+C": {"order": 3, "corrector": True},
        "3+C warm": {"order": 3, "corrector": True, "start": "midpoint"},
        "noisy 3+C": {"order": 3, "corrector": True, "stochasticity": 0.6},
        "2S SDE": {"stochasticity": 1.0},
    }[name]
    make = single_step_table if name == "2S SDE" else adams_table
    between = {"schedule": vp()} if name in ("3+C warm", "2S SDE") else {}
    one = make(GRID * alphas, alphas=alphas, **options, **between)
    two = make(GRID, **options)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    algorithm = multistep(preserving, one)
    got = jax.jit(
        lambda x: sample(jax.random.key(1), algorithm, x, one.num_steps, trajectory=True)
    )(x)
    want = run(jax.random.key(1), jax.tree.map(jnp.asarray, two), x / alphas[0])
    scaled = got.trajectory / np.asarray(one.alphas)[:, None, None]
    np.testing.assert_allclose(scaled, want.trajectory, rtol=1e-11, atol=1e-13)


WEIGHTS = np.array([[0.3, -0.2, 0.1], [0.5, 0.1, -0.4], [-0.1, 0.2, 0.3]], np.float32)


def network(x, noise_scale):
    return jnp.tanh(jnp.tensordot(x, jnp.asarray(WEIGHTS, x.dtype), axes=1)) / (1 + noise_scale)


def elementwise(x, noise_scale):
    return jnp.tanh(x) / (1 + noise_scale)


SAMPLERS = {
    "UniPC": lambda denoiser: unipc(denoiser, GRID.astype(np.float32), order=3),
    "2M SDE": lambda denoiser: dpmpp_2m_sde(denoiser, GRID.astype(np.float32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_samples_on_any_number_of_devices(name):
    algorithm = SAMPLERS[name](elementwise)

    def one(key, x):
        return sample(key, algorithm, x, 6).x

    keys, x = item_keys(jax.random.key(0), 16), 7 * jax.random.normal(jax.random.key(1), (16, 3))
    results = [
        np.asarray(sharding.map_items(one, sharding.make_mesh(n), tile=2)(keys, x))
        for n in (1, 2, 4, 8)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize("name", quick(SAMPLERS, "2M SDE"))
def test_rows_stand_alone(reuse_keys, name):
    algorithm = SAMPLERS[name](network)
    keys, x = item_keys(jax.random.key(0), 8), 4 * jax.random.normal(jax.random.key(1), (8, 3))
    jitted = jax.jit(lambda keys, x: sample(keys, algorithm, x, 6))
    whole = jitted(keys, x)
    np.testing.assert_allclose(jitted(keys[::-1], x[::-1]).x[::-1], whole.x, rtol=1e-4, atol=1e-5)
    broken = jitted(keys, x.at[3, 1].set(jnp.nan))
    np.testing.assert_array_equal(broken.is_nonfinite, np.arange(8) == 3)
    np.testing.assert_array_equal(np.delete(broken.x, 3, 0), np.delete(whole.x, 3, 0))
    mapped = sharding.map_items(lambda k, x: sample(k, algorithm, x, 6).x, sharding.make_mesh(4))
    np.testing.assert_allclose(mapped(keys, x), whole.x, rtol=1e-4, atol=1e-5)


def test_other_levels_and_another_guidance_need_no_new_program(compilations):
    @jax.jit
    def guided(x, noise_scales, strength):
        def denoiser(x, noise_scale):
            return (1 + strength) * network(x, noise_scale) - strength * elementwise(x, noise_scale)

        return sample(jax.random.key(0), unipc(denoiser, noise_scales), x, 6).x

    x, grid = jnp.ones((2, 3)), jnp.asarray(GRID, jnp.float32)
    first = guided(x, grid, jnp.float32(0.5))
    others = 0.9 * grid, jnp.float32(2.0)
    compilations.clear()
    second = guided(x, *others)
    assert not compilations and not jnp.allclose(first, second)


def test_state_and_program_do_not_grow_with_the_steps():
    def lines(n):
        algorithm = unipc(network, np.geomspace(7.0, 0.2, n), order=3)
        state = algorithm.init(jnp.ones((2, 3)))
        assert len(state.history) == 3
        lowered = jax.jit(lambda x: sample(jax.random.key(0), algorithm, x, n).x).lower(
            jnp.ones((2, 3))
        )
        return len(lowered.as_text().splitlines())

    assert lines(8) == lines(200)


def test_half_precision_gradient_and_steps_past_the_end(reuse_keys):
    algorithm = SAMPLERS["UniPC"](network)
    x = jnp.ones((2, 3), jnp.bfloat16)
    result = sample(jax.random.key(0), algorithm, x, 8, trajectory=True)
    assert result.x.dtype == jnp.bfloat16 and int(result.num_evaluations) == 6
    np.testing.assert_array_equal(result.trajectory[5], result.x)

    def total(a):
        algorithm = SAMPLERS["UniPC"](lambda x, c: a * network(x, c))
        return (sample(jax.random.key(0), algorithm, jnp.ones((2, 3)), 6).x ** 2).sum()

    slope = jax.jit(jax.grad(total))(1.0)
    assert np.isfinite(slope) and slope != 0


def test_a_table_that_does_not_fit_is_named():
    table = adams_table(GRID)
    with pytest.raises(ValueError, match="table.predictor"):
        multistep(network, table._replace(predictor=table.predictor[:, :2]))
    with pytest.raises(ValueError, match="table.spread"):
        multistep(network, table._replace(spread=np.ones(2)))
