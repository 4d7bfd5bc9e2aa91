"""MCLMC and MAMS: BlackJAX's numbers, what the one leaves as bias and the other does not."""

import functools
import importlib.util
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc import adjusted_mclmc, adjusted_mclmc_dynamic

from probjax import mcmc, sharding
from probjax.core.keys import item_keys, stream

_spec = importlib.util.spec_from_file_location("checks", Path(__file__).with_name("checks.py"))
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)

METRIC = jnp.array([1.0, 0.5])
PARAMS = mcmc.MicrocanonicalParams(1.5, 0.4, METRIC)


def quartic(x):
    return -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]


def test_mclmc_equals_blackjax_for_one_key(x64):
    kernel = mcmc.mclmc_kernel(quartic)
    metric = jnp.asarray(METRIC, jnp.float64)
    theirs = blackjax.mclmc(quartic, 1.5, 0.4, inverse_mass_matrix=metric)
    x = jnp.array([0.7, -1.1])
    data = jax.random.key_data(jax.random.key(3))

    @jax.jit
    def both(data):
        begun = theirs.init(x, data), kernel.init(x, PARAMS, jax.random.wrap_key_data(data))
        params = {"L": 1.5, "step_size": 0.4, "inverse_mass_matrix": metric}
        return begun, theirs.step(data, begun[0]), kernel.step(data, begun[1], params)

    begun, (expected, told), (got, info) = both(data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *begun)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), got, expected)
    np.testing.assert_allclose(info.energy_change, told.energy_change, atol=1e-12)
    assert abs(float(info.energy_change)) > 1e-8
    assert not np.array_equal(got.position, x)


def test_mams_equals_blackjax_for_one_key(x64):
    kernel = mcmc.mams_kernel(quartic)
    metric = jnp.asarray(METRIC, jnp.float64)
    draw = adjusted_mclmc_dynamic.make_random_trajectory_length_fn(True)
    step = adjusted_mclmc_dynamic.build_kernel(integration_steps_fn=draw)
    x = jnp.array([0.7, -1.1])

    @jax.jit
    def both(data):
        key = jax.random.wrap_key_data(data)
        began = adjusted_mclmc_dynamic.init(x, quartic, stream(key, "level"))
        with jax.numpy_dtype_promotion("standard"):
            theirs = step(
                stream(key, "proposal"), began, quartic, 0.4, jnp.inf, metric, (jnp.array(3.75),)
            )
        params = PARAMS._replace(inverse_mass_matrix=metric)
        return theirs, kernel.step(data, kernel.init(x, params), params)

    for seed in (4, 5):
        with jax.debug_key_reuse(False):  # theirs splits the key of the length once more
            (expected, told), (got, info) = both(jax.random.key_data(jax.random.key(seed)))
        np.testing.assert_allclose(got.position, expected.position, atol=1e-12)
        np.testing.assert_allclose(info.acceptance_rate, told.acceptance_rate, atol=1e-12)
        assert info.num_integration_steps == told.num_integration_steps
    assert not np.array_equal(got.position, x)


@pytest.mark.slow
def test_gradients_told_are_gradients_made():
    seen = []

    @jax.custom_vjp
    def density(x):
        return quartic(x)

    def forward(x):
        jax.debug.callback(lambda x: seen.append(x), x)
        return density(x), x

    density.defvjp(forward, lambda x, g: (g * jax.grad(quartic)(x),))
    for kernel in (mcmc.mclmc_kernel(density), mcmc.mams_kernel(density)):
        state = kernel.init(jnp.ones(2), PARAMS)
        jax.effects_barrier()
        seen.clear()
        _, info = kernel.step(jax.random.key(6), state, PARAMS)
        jax.effects_barrier()
        assert float(mcmc.info_view(info).num_grad_evals) == len(seen) > 0


def test_what_is_told():
    view = {}
    for make in (mcmc.mclmc_kernel, mcmc.mams_kernel):
        algorithm = mcmc.bind(make(quartic), PARAMS)
        step = jax.jit(lambda key: algorithm.step(key, algorithm.init(jnp.ones(2))))  # noqa: B023
        state, info = step(jax.random.key(7))
        view[make] = mcmc.info_view(info)
        assert not view[make].is_nonfinite and not view[make].is_divergent
        assert state.position.dtype == jnp.float32
    assert np.isnan(view[mcmc.mclmc_kernel].acceptance_rate)
    assert view[mcmc.mclmc_kernel].num_grad_evals == 2 and view[mcmc.mclmc_kernel].is_accepted
    assert 0 < view[mcmc.mams_kernel].acceptance_rate <= 1
    assert np.isfinite(view[mcmc.mams_kernel].energy)


def test_the_first_direction():
    """Without a key it is that of the score, a unit vector; at rest the first axis."""
    kernel = mcmc.mclmc_kernel(quartic)
    x = jnp.array([0.7, -1.1])
    score = np.asarray(jax.grad(quartic)(x))
    np.testing.assert_allclose(
        kernel.init(x, None).momentum, score / np.linalg.norm(score), rtol=1e-6
    )
    np.testing.assert_array_equal(kernel.init(jnp.zeros(2), None).momentum, [1, 0])


@pytest.mark.slow
def test_what_is_not_finite_is_flagged_and_not_stored():
    """No number above 1: some chains run into it, and stay where they are."""
    broken = lambda x: jnp.where(x[0] > 1, jnp.nan, -0.5 * jnp.sum(x**2))
    params = mcmc.MicrocanonicalParams(2.0, 1.0, 1.0)
    for make in (mcmc.mclmc_kernel, mcmc.mams_kernel):
        kernel = make(broken)
        start = kernel.init(jnp.array([0.6, 0.1]), params)
        start = (
            start._replace(momentum=jnp.array([1.0, 0.0])) if hasattr(start, "momentum") else start
        )
        step = jax.jit(jax.vmap(lambda key: kernel.step(key, start, params)))  # noqa: B023
        state, info = step(item_keys(jax.random.key(8), 200))
        flags = np.asarray(info.is_nonfinite)
        assert 5 < flags.sum() < 200
        x = np.asarray(state.position)
        assert np.isfinite(x).all() and np.isfinite(np.asarray(state.logdensity)).all()
        np.testing.assert_array_equal(x[flags], np.tile(np.float32([0.6, 0.1]), (flags.sum(), 1)))
        assert not np.asarray(info.is_accepted)[flags].any()


@functools.lru_cache
def spread(make, num_devices):
    kernel = make(quartic)
    starts = jnp.arange(16.0).reshape(8, 2) / 10
    states = mcmc.init_chains(kernel, starts, params=PARAMS)
    mesh = sharding.make_mesh(num_devices)
    return mcmc.run_chains(
        jax.random.key(9), kernel, states, 5, params=PARAMS, mesh=mesh, reducers=(mcmc.counts(),)
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [mcmc.mclmc_kernel, mcmc.mams_kernel])
def test_the_same_chains_on_devices(make):
    one, four = spread(make, 1), spread(make, 4)
    np.testing.assert_allclose(one.states.position, four.states.position, rtol=1e-4, atol=1e-5)
    assert one.reduced[0].num_grad_evals == four.reduced[0].num_grad_evals > 8 * 5


def test_equal_arguments_give_one_object():
    assert mcmc.mclmc_kernel(quartic) is mcmc.mclmc_kernel(quartic)
    assert mcmc.mams_kernel(quartic) is mcmc.mams_kernel(quartic)


@functools.lru_cache
def one_step(name, step_size):
    """50,000 exact starts, one MAMS step; and where the trajectories ended, accepted or not."""
    target = checks.TARGETS[name]
    kernel = mcmc.mams_kernel(target.logdensity_fn)
    params = mcmc.MicrocanonicalParams(4 * step_size, step_size, 1.0)
    starts = target.draw(jax.random.key(10), checks.CHAINS)

    def step(key, x):
        state, info = kernel.step(key, kernel.init(x, params), params)
        return state.position, info

    after, info = checks.one_step(step, jax.random.key(11), starts)
    return target, np.asarray(starts), np.asarray(after), info


@pytest.mark.slow
@pytest.mark.parametrize("name, step_size", [("normal", 1.5), ("banana", 3.0), ("two modes", 2.0)])
def test_mams_leaves_exact_starts_exact(name, step_size):
    target, before, after, info = one_step(name, step_size)
    assert 0.3 < np.asarray(info.acceptance_rate).mean() < 0.99
    checks.check_uniform(target.uniforms(after))
    checks.check_moves(before, after, step_size)
    checks.check_reversible(before, after)


@pytest.mark.slow
def test_exact_starts_kill_the_step_that_refuses_nothing(monkeypatch):
    """The same trajectories, all accepted: what the accept step is for."""

    def always(sample):
        def step(key, change, state, end):
            _, rate, rest = sample(key, change, state, end)[1]
            return end, (jnp.ones_like(rate, bool), rate, rest)

        return step

    inner = adjusted_mclmc.adjusted_mclmc_proposal
    mutant = functools.partial(
        inner, sample_proposal=always(adjusted_mclmc.static_binomial_sampling)
    )
    monkeypatch.setattr(adjusted_mclmc, "adjusted_mclmc_proposal", mutant)
    target = checks.TARGETS["normal"]
    kernel = mcmc.mams_kernel.__wrapped__(target.logdensity_fn)
    params = mcmc.MicrocanonicalParams(8.0, 2.0, 1.0)
    starts = target.draw(jax.random.key(12), checks.CHAINS)
    after, _ = checks.one_step(
        lambda key, x: (kernel.step(key, kernel.init(x, params), params)[0].position, ()),
        jax.random.key(13),
        starts,
    )
    with pytest.raises(AssertionError):
        checks.check_uniform(target.uniforms(np.asarray(after)))


@pytest.mark.slow
def test_the_bias_of_the_unadjusted_chain():
    """Ten dimensions, one step size: |x|^2 / d is off for MCLMC and right for MAMS."""
    logdensity_fn = lambda x: -0.5 * jnp.sum(x**2)
    radius = lambda state: jnp.mean(state.position**2)
    means = {}
    for make, length, steps in ((mcmc.mclmc_kernel, 6.0, 600), (mcmc.mams_kernel, 12.0, 200)):
        kernel = make(logdensity_fn)
        params = mcmc.MicrocanonicalParams(length, 5.0, jnp.ones(10))
        starts = jax.random.normal(jax.random.key(14), (128, 10))
        states = mcmc.init_chains(kernel, starts, params=params)
        run = mcmc.run_chains(
            jax.random.key(16), kernel, states, steps, params=params,
            reducers=(mcmc.replicate_means(radius),),
        )  # fmt: skip
        means[make] = run.reduced[0]
    biased, exact = means[mcmc.mclmc_kernel], means[mcmc.mams_kernel]
    assert abs(exact.mean - 1) < 5 * exact.mcse < 0.02
    assert abs(biased.mean - 1) > 10 * biased.mcse


SCALES = np.array([1.0, 2.0, 5.0, 1.0])


def wide(x):
    return -0.5 * jnp.sum((x / jnp.asarray(SCALES, x.dtype)) ** 2)


@functools.lru_cache
def tuned(warm, num_devices=1):
    starts = jax.random.normal(jax.random.key(17), (16, 4))
    mesh = sharding.make_mesh(num_devices)
    return warm(jax.random.key(18), wide, starts, 1500, mesh=mesh)


@pytest.mark.slow
def test_mclmc_warmup():
    states, params, trace = tuned(mcmc.mclmc_warmup)
    ratio = np.asarray(params.inverse_mass_matrix) / SCALES**2
    assert (np.abs(np.log(ratio)) < np.log(1.5)).all()
    assert trace.L.shape == (16,) and not trace.is_nonfinite.any()
    assert (trace.num_grad_evals == 3000).all()
    kernel = mcmc.mclmc_kernel(wide)
    run = mcmc.run_chains(
        jax.random.key(19), kernel, states, 500, params=params,
        trace_fn=lambda state, info: info.energy_change,
    )  # fmt: skip
    # Energy errors go as the third power of the step: within 1.3 in the step is 5 in the variance.
    assert 5e-4 / 5 < run.trace.var() / 4 < 5e-4 * 5


@pytest.mark.slow
def test_mams_warmup_and_devices():
    states, params, _ = tuned(mcmc.mams_warmup)
    np.testing.assert_allclose(params.L / params.step_size, 2.0, rtol=0.2)
    run = mcmc.run_chains(
        jax.random.key(20), mcmc.mams_kernel(wide), states, 400, params=params,
        reducers=(mcmc.counts(), mcmc.replicate_means(lambda state: state.position**2)),
    )  # fmt: skip
    counts, squares = run.reduced
    assert (np.abs(squares.mean - SCALES**2) < 5 * squares.mcse).all()
    assert abs(float(counts.acceptance_rate) - 0.9) < 0.06
    four = tuned(mcmc.mams_warmup, 4)
    np.testing.assert_allclose(four.params.step_size, params.step_size, rtol=1e-2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="divergence_threshold must be positive"):
        mcmc.mams_kernel(quartic, divergence_threshold=0.0)
    for make in (mcmc.mclmc_kernel, mcmc.mams_kernel):
        kernel = make(quartic)
        with pytest.raises(ValueError, match=r"more than 1 dimension|at least 2 numbers"):
            kernel.init(jnp.ones(1), PARAMS)
        state = kernel.init(jnp.ones(2), PARAMS)
        with pytest.raises(ValueError, match=r"step_size must be positive and finite, got 0\.0"):
            kernel.step(jax.random.key(0), state, PARAMS._replace(step_size=0.0))
        with pytest.raises(ValueError, match=r"L must be positive and finite, got -1\.0"):
            kernel.step(jax.random.key(0), state, PARAMS._replace(L=-1.0))
    key, starts = jax.random.key(0), jnp.ones((4, 2))
    with pytest.raises(ValueError, match="num_steps must be at least 20, got 5"):
        mcmc.mclmc_warmup(key, quartic, starts, 5)
    with pytest.raises(ValueError, match="energy_variance must be positive"):
        mcmc.mclmc_warmup(key, quartic, starts, 50, energy_variance=0.0)
    with pytest.raises(ValueError, match="metric must be one of 'none', 'diag', got 'dense'"):
        mcmc.mams_warmup(key, quartic, starts, 50, metric="dense")
    with pytest.raises(ValueError, match="target_acceptance must lie between 0 and 1, got 1.5"):
        mcmc.mams_warmup(key, quartic, starts, 50, target_acceptance=1.5)
    with pytest.raises(ValueError, match="mean_integration_steps must be at least 1.2, got 1.0"):
        mcmc.mams_warmup(key, quartic, starts, 50, mean_integration_steps=1.0)
    with pytest.raises(ValueError, match="at least 2 numbers: on a line there is only 1"):
        mcmc.mams_warmup(key, quartic, jnp.ones((4, 1)), 50)
