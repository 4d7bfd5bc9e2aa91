"""Warm-ups of many chains: against BlackJAX, by hand, on devices, and what mutants get wrong."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from blackjax.adaptation.step_size import dual_averaging_adaptation

from probjax import mcmc, sharding
from probjax.core.keys import item_key, stream
from probjax.mcmc import adaptation, warmup_programs
from probjax.mcmc.warmup import chees_warmup, meads_warmup, pooled_warmup, window_warmup

_spec = importlib.util.spec_from_file_location("checks", Path(__file__).with_name("checks.py"))
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)

KEY = jax.random.key(7)
SCALES = np.array([1.0, 10.0, 0.1])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
COVARIANCE = ROTATION @ np.diag(SCALES**2) @ ROTATION.T


class Drawn(NamedTuple):
    position: jax.Array
    logdensity: jax.Array


class DrawnInfo(NamedTuple):
    acceptance_rate: jax.Array
    num_grad_evals: jax.Array


def ideal(covariance, dead=None):
    """Draws from the target; accepts `exp(-step_size)`; lost where the start has `dead`."""
    root = np.linalg.cholesky(covariance)

    def init(x, params):
        value = jnp.sum(x)
        return Drawn(x, value if dead is None else jnp.where(x[0] == dead, jnp.nan, value))

    def step(key, state, params):
        x = jnp.asarray(root, state.position.dtype) @ jax.random.normal(key, (3,))
        lost = jnp.isnan(state.logdensity)
        moved = Drawn(jnp.where(lost, state.position, x), state.logdensity)
        rate = jnp.where(lost, jnp.nan, jnp.exp(-params.step_size))
        return moved, DrawnInfo(rate, jnp.ones((), jnp.int32))

    return mcmc.Kernel(init, step)


DIAGONAL = ideal(np.diag(SCALES**2), dead=1e4)
ROTATED = ideal(COVARIANCE)
STARTS = jnp.ones((64, 3))


def check_metric(found, covariance, count):
    """Each entry within five standard deviations of its exact law, after Stan's shrinkage."""
    diagonal = np.diag(covariance)
    variances = np.outer(diagonal, diagonal) + covariance**2
    truth = count / (count + 5) * covariance + 5e-3 / (count + 5) * np.eye(3)
    if found.ndim == 1:
        truth, variances = np.diag(truth), np.diag(variances)
    assert (np.abs(found - truth) < 5 * np.sqrt(variances / (count - 1))).all()


@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_metric_has_the_law_of_a_sample_covariance(metric):
    """200 steps: the last slow window is that of steps 100 to 149, with 64 independent draws."""
    kernel, covariance = (
        (DIAGONAL, np.diag(SCALES**2)) if metric == "diag" else (ROTATED, COVARIANCE)
    )
    warmup = pooled_warmup(KEY, kernel, STARTS, 200, metric=metric)
    check_metric(np.asarray(warmup.params.inverse_mass_matrix), covariance, 50 * 64)
    # exp(-0.2231) = 0.8, without noise.
    np.testing.assert_allclose(warmup.params.step_size, -np.log(0.8), rtol=0.05)
    assert float(warmup.trace.num_grad_evals[0]) == 64
    with pytest.raises(AssertionError):
        check_metric(np.asarray(warmup.params.inverse_mass_matrix) * 1.25, covariance, 50 * 64)


def on_devices(num_devices, kernel=DIAGONAL, starts=None):
    mesh = sharding.make_mesh(num_devices)
    starts = STARTS.at[9].set(1e4) if starts is None else starts
    return pooled_warmup(KEY, kernel, starts, 100, mesh=mesh)


@pytest.fixture(scope="module")
def one():
    return on_devices(1)


def check_devices(one, kernel=DIAGONAL):
    """One device and four; a chain that is lost counts as 0 in the mean, and for nothing else."""
    four = on_devices(4, kernel)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(four.trace.is_nonfinite), [9])
    rates = np.exp(-np.asarray(four.trace.step_size)) * 63 / 64
    np.testing.assert_allclose(four.trace.acceptance_rate, rates, rtol=1e-5)
    check_metric(np.asarray(four.params.inverse_mass_matrix), np.diag(SCALES**2), 75 * 63)
    return four


def test_devices_agree_and_a_lost_chain_harms_no_other(one):
    warmup = check_devices(one)
    assert len(warmup.states.position.sharding.device_set) == 4
    whole = on_devices(1, starts=STARTS)
    others = np.arange(64) != 9
    np.testing.assert_array_equal(
        np.asarray(warmup.states.position)[others], np.asarray(whole.states.position)[others]
    )


def unchecked(init, step):
    return mcmc.Kernel(init, step, vma_clean=False)


def local_mean(monkeypatch):
    right = adaptation.mean_acceptance
    wrong = lambda rates, fine, axes=(): right(rates, fine)
    monkeypatch.setattr(adaptation, "mean_acceptance", wrong)


def local_metric(monkeypatch):
    right = adaptation._pooled
    wrong = lambda moments, product, axes: right(moments, product, ())
    monkeypatch.setattr(adaptation, "_pooled", wrong)


@pytest.mark.parametrize("mutant", [local_mean, local_metric])
def test_devices_kill(mutant, monkeypatch, one):
    """`shard_map`'s check sees it before it runs, and the numbers tell where it is off."""
    mutant(monkeypatch)
    warmup_programs.pooled_program.cache_clear()
    with pytest.raises((ValueError, TypeError), match="var"):
        on_devices(4)
    with pytest.raises(AssertionError):
        check_devices(one, unchecked(*DIAGONAL[:2]))
    warmup_programs.pooled_program.cache_clear()


def logdensity_fn(x):
    """A lopsided density that is NaN far out, except at 100 itself."""
    value = -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]
    return jnp.where((x[0] > 50) & (x[0] != 100), jnp.nan, value)


HMC = mcmc.hmc_kernel(logdensity_fn, 3)


@jax.jit
def by_hand(starts, shift):
    """18 steps with the driver's keys, and BlackJAX's dual averaging on the mean."""
    init, update, _ = dual_averaging_adaptation(0.8)

    def body(carry, t):
        states, dual = carry

        def chain(c, state):
            key = jax.random.fold_in(jax.random.fold_in(stream(KEY, "init"), c), t + shift)
            return HMC.step(key, state, mcmc.HMCParams(jnp.exp(dual.log_step_size), jnp.ones(2)))

        states, info = jax.vmap(chain)(jnp.arange(len(starts)), states)
        new = update(dual, jnp.mean(info.acceptance_rate))
        return (states, new), jnp.exp(dual.log_step_size)

    with jax.numpy_dtype_promotion("standard"):
        begun = jax.tree.map(jnp.float64, init(jnp.float64(0.1)))
        states = jax.vmap(lambda x: HMC.init(x, None))(starts)
        return jax.lax.scan(body, (states, begun), jnp.arange(18))[1]


def test_keys_by_chain_and_step_and_one_update_by_the_mean(x64):
    starts = jax.random.normal(jax.random.key(3), (4, 2)).at[2, 0].set(100.0)
    warmup = pooled_warmup(KEY, HMC, starts, 20, metric="none")
    # 20 steps: a fast window of 3, a slow one of 15, at whose end dual averaging begins anew.
    np.testing.assert_allclose(warmup.trace.step_size[:18], by_hand(starts, 0), rtol=1e-8)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(warmup.trace.step_size[:18], by_hand(starts, 1), rtol=1e-8)
    np.testing.assert_array_equal(warmup.states.position[2], starts[2])
    assert not warmup.trace.is_nonfinite.any()
    # The one chain that never moves counts as nothing accepted.
    assert float(warmup.trace.acceptance_rate.max()) <= 0.75


@pytest.mark.slow
def test_window_warmup_is_blackjax(x64):
    starts = jax.random.normal(jax.random.key(3), (2, 2))
    warmup = window_warmup(KEY, HMC, starts, 40, mesh=sharding.make_mesh(2))
    theirs = blackjax.window_adaptation(
        blackjax.hmc, logdensity_fn, initial_step_size=0.1, num_integration_steps=3
    )
    with jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        (state, params), info = theirs.run(item_key(stream(KEY, "init"), 1), starts[1], 40)
    np.testing.assert_allclose(warmup.params.step_size[1], params["step_size"], rtol=1e-9)
    np.testing.assert_allclose(
        warmup.params.inverse_mass_matrix[1], params["inverse_mass_matrix"], rtol=1e-9
    )
    np.testing.assert_allclose(warmup.states.position[1], state.position, rtol=1e-9)
    np.testing.assert_allclose(
        warmup.trace.step_size[1, 1:], info.adaptation_state.step_size[:-1], rtol=1e-9
    )
    assert warmup.trace.step_size[0, 0] == 0.1 != warmup.trace.step_size[0, 1]


def test_bad_arguments_are_named():
    def warm(kernel=HMC, starts=STARTS[:, :2], num_steps=20, fn=pooled_warmup, **options):
        return fn(KEY, kernel, starts, num_steps, **options)

    with pytest.raises(ValueError, match="num_steps must be at least 20, got 19"):
        warm(num_steps=19)
    with pytest.raises(TypeError, match="Kernel"):
        warm(mcmc.ula(lambda x: -x, 0.1))
    with pytest.raises(ValueError, match="target_acceptance must lie between 0 and 1, got 80"):
        warm(target_acceptance=80)
    with pytest.raises(ValueError, match=r"initial_step_size must be positive and finite, got 0"):
        warm(initial_step_size=0.0)
    with pytest.raises(ValueError, match="metric must be one of 'none', 'diag', 'dense', got 'x'"):
        warm(metric="x")
    with pytest.raises(ValueError, match="metric must be one of 'diag', 'dense', got 'none'"):
        warm(fn=window_warmup, metric="none")
    with pytest.raises(ValueError, match="64 chains do not divide over 3 devices"):
        warm(mesh=sharding.make_mesh(3))
    with pytest.raises(TypeError, match=r"positions\['n'\] must be"):
        warm(starts={"n": jnp.zeros(4, jnp.int32)})
    with pytest.raises(ValueError, match=r"positions\['b'\] has 4 chains but positions\['a'\] has"):
        warm(starts={"a": jnp.zeros((3, 1)), "b": jnp.zeros((4, 1))})
    with pytest.raises(ValueError, match="finite in no chain"):
        warm(DIAGONAL, STARTS * 1e4, 100)
    with pytest.raises(ValueError, match="64 chains do not make num_folds=5 groups"):
        warm(logdensity_fn, fn=meads_warmup, num_folds=5)
    with pytest.raises(ValueError, match="jitter_amount must be from 0 to 1, got 2"):
        warm(logdensity_fn, fn=chees_warmup, jitter_amount=2.0)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        warm(logdensity_fn, fn=chees_warmup, learning_rate=0.0)


# What takes longer.


def gaussian100(x):
    return -0.5 * jnp.sum(x**2)


def single_chain_optimum(kernel, target=0.8):
    """The step size at which a chain on N(0, I_100) accepts `target`, from exact starts."""

    @jax.jit
    def acceptance(step_size):
        keys = jax.random.split(jax.random.key(0), 5_000)

        def one(key):
            first, second = jax.random.split(key)
            params = mcmc.HMCParams(step_size, jnp.ones(100))
            state = kernel.init(jax.random.normal(first, (100,)), params)
            return kernel.step(second, state, params)[1].acceptance_rate

        return jnp.mean(jax.lax.map(one, keys, batch_size=1000))

    low, high = 0.1, 0.9
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if acceptance(middle) > target else (low, middle)
    return low


@pytest.mark.slow
def test_step_size_on_a_normal_law_of_100_dimensions():
    kernel = mcmc.hmc_kernel(gaussian100, 3)
    best = single_chain_optimum(kernel)
    starts = jax.random.normal(jax.random.key(1), (64, 100))
    found = []
    for number, metric in ((1, "none"), (4, "none"), (1, "diag")):
        warmup = pooled_warmup(
            KEY, kernel, starts, 500, metric=metric, mesh=sharding.make_mesh(number)
        )
        found.append(float(warmup.params.step_size))
        assert abs(found[-1] / best - 1) < 0.1
    assert abs(found[1] / found[0] - 1) < 0.05


@pytest.mark.slow
def test_nuts_on_devices():
    kernel = mcmc.nuts_kernel(
        lambda x: -0.5 * jnp.sum((x / jnp.array([1.0, 10.0])) ** 2), max_num_doublings=6
    )
    starts = jax.random.normal(jax.random.key(1), (16, 2))
    one, two = (pooled_warmup(KEY, kernel, starts, 150, mesh=sharding.make_mesh(n)) for n in (1, 2))
    np.testing.assert_allclose(one.params.step_size, two.params.step_size, rtol=0.05)
    run = mcmc.run_chains(
        KEY, kernel, two.states, 200, params=two.params, mesh=sharding.make_mesh(2),
        reducers=(mcmc.replicate_means(lambda state: state.position**2), mcmc.counts()),
    )  # fmt: skip
    found = run.reduced[0]
    assert (np.abs(found.mean - np.array([1.0, 100.0])) < 5 * np.asarray(found.mcse)).all()
    assert abs(float(run.reduced[1].acceptance_rate) - 0.8) < 0.1


def still_tuning(target, gain):
    """Steps whose size goes on adapting to what its own chain accepts."""
    kernel = mcmc.hmc_kernel(target.logdensity_fn, 3)

    def step(key, carry):
        state, log_size = carry
        metric = jnp.ones(state.position.shape)
        state, info = kernel.step(key, state, mcmc.HMCParams(jnp.exp(log_size), metric))
        return (state, log_size + gain * (info.acceptance_rate - 0.8)), info

    return kernel, step


def check_sampling_leaves_the_law_alone(gain):
    target = checks.TARGETS["log gamma"]
    starts = target.draw(jax.random.key(2), checks.CHAINS)
    kernel, step = still_tuning(target, gain)

    def chain(key, x):
        begun = kernel.init(x, None), jnp.log(jnp.asarray(0.5, x.dtype))
        (state, _), info, _ = mcmc.scan_steps(key, step, begun, 30)
        return state.position, info.acceptance_rate

    x, _ = checks.one_step(chain, jax.random.key(3), starts)
    checks.check_uniform(target.uniforms(np.asarray(x, np.float64)))


@pytest.mark.slow
def test_tuning_that_goes_on_is_killed():
    check_sampling_leaves_the_law_alone(0.0)
    with pytest.raises(AssertionError):
        check_sampling_leaves_the_law_alone(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["none", "diag"])
def test_chees_is_blackjax_and_finds_a_length(metric):
    scales = jnp.array([1.0, 10.0])
    density = lambda x: -0.5 * jnp.sum((x / scales) ** 2)
    starts = scales[None] * jax.random.normal(jax.random.key(1), (64, 2))
    warmup = chees_warmup(KEY, density, starts, 300, metric=metric, mesh=sharding.make_mesh(2))
    theirs = blackjax.chees_adaptation(
        density, 64, mass_matrix_estimation="diagonal" if metric == "diag" else None
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run = jax.jit(lambda x: theirs.run(
            stream(KEY, "init"), x, jnp.float32(0.1), optax.adam(0.05), 300)[0].parameters[
                "integration_steps_params"])  # fmt: skip
        (num_steps,) = run(starts)
    np.testing.assert_allclose(warmup.params.num_steps, num_steps, rtol=0.05)
    # A quarter to a half of the longest period, 2 pi times the scale, is what moves it most.
    length = float(warmup.params.num_steps * warmup.params.step_size)
    longest = 10.0 if metric == "none" else 1.0
    assert 0.5 * longest < length < 2 * np.pi * longest
    kernel = mcmc.dynamic_hmc_kernel(density)
    sampled = mcmc.run_chains(
        KEY, kernel, warmup.states, 300, params=warmup.params, mesh=sharding.make_mesh(2),
        reducers=(mcmc.replicate_means(lambda state: state.position**2), mcmc.counts()),
    )  # fmt: skip
    found = sampled.reduced[0]
    assert (np.abs(found.mean - np.array([1.0, 100.0])) < 5 * np.asarray(found.mcse)).all()
    assert int(sampled.states.random_generator_arg[0]) == 600


@pytest.mark.slow
@pytest.mark.parametrize("fn", [pooled_warmup, window_warmup, chees_warmup, meads_warmup])
def test_positions_of_any_structure_keep_their_precision(fn, x64):
    """Single precision under x64, where BlackJAX's own zeros are double."""
    density = lambda x: -0.5 * jnp.sum(x["a"] ** 2) - 0.5 * jnp.sum(x["b"] ** 2)
    keys = jax.random.split(jax.random.key(1))
    starts = {
        "a": jax.random.normal(keys[0], (8, 2), jnp.float32),
        "b": jax.random.normal(keys[1], (8, 1, 2), jnp.float32),
    }
    subject = mcmc.hmc_kernel(density, 2) if fn in (pooled_warmup, window_warmup) else density
    warmup = fn(KEY, subject, starts, 20)
    for leaf in jax.tree.leaves(warmup):
        assert leaf.dtype == jnp.float32 or not jnp.issubdtype(leaf.dtype, jnp.floating)
    assert warmup.states.position["b"].shape == (8, 1, 2)
    values = jax.vmap(density)(warmup.states.position)
    np.testing.assert_allclose(warmup.states.logdensity, values, rtol=1e-5)
    np.testing.assert_allclose(
        warmup.states.logdensity_grad["b"], -warmup.states.position["b"], rtol=1e-5
    )


@pytest.mark.slow
def test_meads_samples_after_it():
    scales = jnp.array([1.0, 3.0, 0.5])
    density = lambda x: -0.5 * jnp.sum((x / scales) ** 2)
    starts = jax.random.normal(jax.random.key(1), (64, 3))
    warmup = meads_warmup(KEY, density, starts, 500, mesh=sharding.make_mesh(2))
    kernel = mcmc.ghmc_kernel(density)
    sampled = mcmc.run_chains(
        KEY, kernel, warmup.states, 1000, params=warmup.params, mesh=sharding.make_mesh(2),
        reducers=(mcmc.replicate_means(lambda state: state.position**2), mcmc.counts()),
    )  # fmt: skip
    found = sampled.reduced[0]
    assert (np.abs(found.mean - np.asarray(scales) ** 2) < 5 * np.asarray(found.mcse)).all()
    assert float(sampled.reduced[1].acceptance_rate) > 0.8
    # It masks nothing: one chain without a gradient spoils all.
    broken = lambda x: density(x) + 0.0 * jnp.sqrt(50 - x[0])
    with pytest.raises(ValueError, match="found no finite params"):
        meads_warmup(KEY, broken, starts.at[0, 0].set(100.0), 20)
