"""Parametric kernels are BlackJAX's, and infos have one set of names."""

import inspect

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import mcmc
from probjax.core.keys import item_keys


def logdensity_fn(x):
    return -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]


METRIC = jnp.array([1.0, 0.5])
MATRIX = jnp.array([[1.0, 0.2], [0.2, 0.5]])


def hmc_pair(metric):
    theirs = blackjax.hmc(logdensity_fn, 0.4, metric, 3)
    return mcmc.hmc_kernel(logdensity_fn, 3), theirs


def nuts_pair(metric):
    return mcmc.nuts_kernel(logdensity_fn), blackjax.nuts(logdensity_fn, 0.4, metric)


@pytest.mark.parametrize("pair", [hmc_pair, nuts_pair])
@pytest.mark.parametrize("shape", [(2,), pytest.param((2, 2), marks=pytest.mark.slow)])
def test_equal_blackjax_for_one_key(x64, pair, shape):
    metric = jnp.asarray(METRIC if shape == (2,) else MATRIX, jnp.float64)
    ours, theirs = pair(metric)
    x = jnp.array([0.7, -1.1])
    params = mcmc.HMCParams(0.4, metric)
    algorithm = mcmc.bind(ours, {"step_size": 0.4, "inverse_mass_matrix": metric})
    # The key travels as data: BlackJAX's NUTS does not pass the check of key reuse.
    data = jax.random.key_data(jax.random.key(3))

    @jax.jit
    def all_three(data):
        state = theirs.init(x)
        return (
            theirs.step(data, state),
            ours.step(jax.random.wrap_key_data(data), ours.init(x, params), params),
            algorithm.step(data, algorithm.init(x)),
        )

    (expected, info), (got, our_info), (bound, _) = all_three(data)
    assert not np.array_equal(expected.position, x)
    np.testing.assert_allclose(got.position, expected.position, rtol=0, atol=1e-12)
    np.testing.assert_allclose(bound.position, expected.position, rtol=0, atol=1e-12)
    np.testing.assert_allclose(our_info.acceptance_rate, info.acceptance_rate, atol=1e-12)


def test_equal_arguments_give_one_object():
    assert mcmc.hmc_kernel(logdensity_fn, 3) is mcmc.hmc_kernel(logdensity_fn, 3)
    assert mcmc.hmc_kernel(logdensity_fn, 3) is not mcmc.hmc_kernel(logdensity_fn, 4)
    assert mcmc.nuts_kernel(logdensity_fn) is mcmc.nuts_kernel(logdensity_fn)
    assert mcmc.hmc_kernel(logdensity_fn, 3).vma_clean
    assert not mcmc.nuts_kernel(logdensity_fn).vma_clean


def test_gradients_told_are_gradients_made():
    """Count evaluations of the log density's gradient by its side effect."""
    seen = []

    @jax.custom_vjp
    def density(x):
        return logdensity_fn(x)

    def forward(x):
        jax.debug.callback(lambda x: seen.append(x), x)
        return density(x), x

    density.defvjp(forward, lambda x, g: (g * jax.grad(logdensity_fn)(x),))
    kernel = mcmc.hmc_kernel(density, 4)
    params = mcmc.HMCParams(0.1, METRIC)
    state = kernel.init(jnp.ones(2), params)
    jax.effects_barrier()
    seen.clear()
    _, info = kernel.step(jax.random.key(0), state, params)
    jax.effects_barrier()
    assert float(mcmc.info_view(info).num_grad_evals) == len(seen) == 4


def test_info_view_of_each_kind():
    x = jnp.ones(2)

    def view(algorithm):
        state = algorithm.init(x)
        return mcmc.info_view(algorithm.step(jax.random.key(0), state)[1])

    mala = view(blackjax.mala(logdensity_fn, 0.1))
    assert float(mala.num_grad_evals) == 1 and np.isnan(mala.energy)
    assert not mala.is_divergent and not mala.is_nonfinite
    walk = view(blackjax.rmh(logdensity_fn, lambda key, x: x + jax.random.normal(key, (2,))))
    assert float(walk.num_grad_evals) == 0 and 0 <= float(walk.acceptance_rate) <= 1
    ours = view(mcmc.ula(lambda x: -x, 0.1))
    assert bool(ours.is_accepted) and float(ours.num_grad_evals) == 1
    wild = mcmc.bind(mcmc.hmc_kernel(logdensity_fn, 10), mcmc.HMCParams(1e4, METRIC))
    blown = view(wild)
    assert bool(blown.is_divergent) and bool(blown.is_nonfinite) and not blown.is_accepted
    nothing = mcmc.info_view(())
    assert np.isnan(nothing.acceptance_rate) and np.isnan(nothing.num_grad_evals)
    assert not nothing.is_accepted and nothing.is_accepted.dtype == jnp.bool_


def test_info_view_of_many_chains():
    algorithm = mcmc.bind(mcmc.hmc_kernel(logdensity_fn, 2), mcmc.HMCParams(0.3, METRIC))
    states = jax.vmap(algorithm.init)(jnp.ones((5, 2)))
    _, info = jax.jit(jax.vmap(algorithm.step))(item_keys(jax.random.key(0), 5), states)
    assert {leaf.shape for leaf in mcmc.info_view(info)} == {(5,)}


def test_errors():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        mcmc.hmc_kernel(logdensity_fn, 0)
    with pytest.raises(ValueError, match="max_num_doublings must be at least 1, got 0"):
        mcmc.nuts_kernel(logdensity_fn, max_num_doublings=0)
    with pytest.raises(ValueError, match="divergence_threshold"):
        mcmc.nuts_kernel(logdensity_fn, divergence_threshold=-1.0)
    kernel = mcmc.hmc_kernel(logdensity_fn, 1)
    state = kernel.init(jnp.ones(2), None)
    with pytest.raises(ValueError, match=r"step_size must be positive and finite, got 0\.0"):
        kernel.step(jax.random.key(0), state, mcmc.HMCParams(0.0, METRIC))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(mcmc.hmc_kernel, blackjax.hmc.build_kernel), (mcmc.nuts_kernel, blackjax.nuts.build_kernel)],
)
def test_divergence_begins_where_blackjax_says(ours, theirs):
    defaults = [
        inspect.signature(f).parameters["divergence_threshold"].default for f in (ours, theirs)
    ]
    assert defaults[0] == defaults[1]
