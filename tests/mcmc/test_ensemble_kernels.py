"""Dynamic and generalized HMC are BlackJAX's, with their tuning as an argument."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from probjax import mcmc
from probjax.mcmc import program


def logdensity_fn(x):
    return -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]


@pytest.mark.slow
def test_dynamic_hmc_is_what_chees_tuned(x64):
    """The functions that BlackJAX's warm-up hands back, and ours, from its last states."""
    adaptation = blackjax.chees_adaptation(
        logdensity_fn, 8, jitter_amount=0.7, adaptation_info_fn=lambda *_: None
    )
    starts = jax.random.normal(jax.random.key(0), (8, 2))
    key = jax.random.key_data(jax.random.key(2))
    kernel = mcmc.dynamic_hmc_kernel(logdensity_fn, jitter_amount=0.7)

    @jax.jit
    def both():
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            (states, found), _ = adaptation.run(
                jax.random.key(1), starts, 0.3, optax.adam(0.05), 21
            )
            theirs = blackjax.dynamic_hmc(logdensity_fn, **found)
            state = mine = jax.tree.map(lambda leaf: leaf[3], states)
            num_steps = found.pop("integration_steps_params")[0]
            params = mcmc.DynamicHMCParams(
                found["step_size"], found["inverse_mass_matrix"], num_steps
            )
            lengths = []
            for t in range(4):
                state, info = theirs.step(key + np.uint32(t), state)
                mine, ours = kernel.step(key + np.uint32(t), mine, params)
                lengths.append((info.num_integration_steps, ours.num_integration_steps))
            return state, mine, lengths

    state, mine, lengths = both()
    np.testing.assert_allclose(mine.position, state.position, rtol=0, atol=1e-12)
    assert mine.random_generator_arg == state.random_generator_arg == 25
    assert [a for a, _ in lengths] == [b for _, b in lengths]


def test_halton_lengths():
    kernel = mcmc.dynamic_hmc_kernel(lambda x: -0.5 * jnp.sum(x**2))
    params = mcmc.DynamicHMCParams(0.1, jnp.ones(1), 100.0)

    def body(state, t):
        state, info = kernel.step(jax.random.fold_in(jax.random.key(0), t), state, params)
        return state, info.num_integration_steps

    start = kernel.init(jnp.ones(1), params)
    lengths = jax.jit(lambda: jax.lax.scan(body, start, jnp.arange(7))[1])()
    np.testing.assert_array_equal(lengths, [50, 25, 75, 13, 63, 38, 88])


def test_ghmc_is_blackjax_and_a_slice_never_overflows():
    steep = lambda x: -0.5 * jnp.sum(x**2) * jnp.where(jnp.sum(x**2) > 1e3, 1e30, 1.0)
    kernel = mcmc.ghmc_kernel(steep)
    theirs = blackjax.ghmc.build_kernel()
    state = kernel.init(jnp.array([0.4, -0.3]), None)
    key = jax.random.key_data(jax.random.key(2))

    @jax.jit
    def both(step_size):
        params = mcmc.GHMCParams(step_size, jnp.array([1.0, 2.0]), 0.3, 0.15)
        with jax.numpy_dtype_promotion("standard"):
            expected, _ = theirs(key, state, steep, *params)
        return expected, *kernel.step(key, state, params)

    expected, got, info = both(jnp.float32(0.3))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.array_equal(got.position, state.position) and bool(info.is_accepted)
    # BlackJAX has infinity times zero here, which XLA sometimes turns into a selection.
    _, got, info = both(jnp.float32(1e3))
    np.testing.assert_allclose(got.slice, 0.65, rtol=1e-6)
    np.testing.assert_array_equal(got.position, state.position)
    assert bool(info.is_divergent) and not bool(info.is_accepted)


def test_equal_arguments_give_one_object_and_bad_ones_are_named():
    assert mcmc.dynamic_hmc_kernel(logdensity_fn) is mcmc.dynamic_hmc_kernel(logdensity_fn)
    assert mcmc.ghmc_kernel(logdensity_fn) is mcmc.ghmc_kernel(logdensity_fn)
    with pytest.raises(ValueError, match=r"jitter_amount must be from 0 to 1, got -0\.1"):
        mcmc.dynamic_hmc_kernel(logdensity_fn, jitter_amount=-0.1)
    with pytest.raises(ValueError, match="divergence_threshold"):
        mcmc.ghmc_kernel(logdensity_fn, divergence_threshold=0.0)
    kernel = mcmc.dynamic_hmc_kernel(logdensity_fn)
    with pytest.raises(ValueError, match=r"step_size must be positive and finite, got 0\.0"):
        kernel.step(
            jax.random.key(0),
            kernel.init(jnp.ones(2), None),
            mcmc.DynamicHMCParams(0.0, jnp.ones(2), 3.0),
        )


def test_what_chains_share_is_carried_once_and_only_where_they_agree():
    kernel, key = mcmc.dynamic_hmc_kernel(logdensity_fn), jax.random.key(4)
    params = mcmc.DynamicHMCParams(0.2, jnp.ones(2), 9.0)
    positions = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
    alike = mcmc.init_chains(kernel, positions, params=params)
    apart = alike._replace(random_generator_arg=jnp.array([0, 0, 3, 3], jnp.int32))
    assert program.agreed(kernel, alike) == ("random_generator_arg",)
    assert program.agreed(kernel, apart) == ()
    runs = [
        mcmc.run_chains(
            key, kernel, states, 4, params=params,
            trace_fn=lambda state, info: (state.position, info.num_integration_steps),
        )
        for states in (alike, apart)
    ]  # fmt: skip
    np.testing.assert_array_equal(runs[0].trace[1], [[5, 3, 7, 2]] * 4)
    np.testing.assert_array_equal(runs[1].trace[1][2:], [[2, 6, 4, 8]] * 2)
    np.testing.assert_array_equal(runs[1].trace[1][:2], runs[0].trace[1][:2])
    np.testing.assert_allclose(runs[1].trace[0][:2], runs[0].trace[0][:2], rtol=2e-5, atol=2e-6)
    for run, first in zip(runs, (4, 7), strict=True):
        np.testing.assert_array_equal(run.states.random_generator_arg, [4, 4, first, first])
