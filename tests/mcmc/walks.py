"""Chains for the driver's tests: a walk whose path is known, and kernels of five kinds."""

from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from probjax import mcmc, sharding

STEPS = 23


class Walk(NamedTuple):
    position: jax.Array
    made: jax.Array


class WalkInfo(NamedTuple):
    acceptance_rate: jax.Array
    is_accepted: jax.Array


def stroll(key, state, params):
    noise = jax.random.normal(key, state.position.shape)
    moved = 0.9 * state.position + params * noise
    flag = noise[0] > 0
    return Walk(moved, state.made + 1), WalkInfo(flag.astype(moved.dtype), flag)


WALK = mcmc.Kernel(lambda x, params: Walk(x, jnp.zeros((), jnp.int32)), stroll)
STARTS = jnp.arange(16.0).reshape(8, 2) / 3
REDUCERS = (mcmc.moments(), mcmc.counts())


def keep(state, info):
    return {"x": state.position, "made": state.made, "up": info.is_accepted}


def walk_run(num_steps=STEPS, algorithm=WALK, **options):
    options = {"params": jnp.float32(0.5), "reducers": REDUCERS, "trace_fn": keep, **options}
    states = mcmc.init_chains(algorithm, STARTS, params=options["params"])
    return mcmc.run_chains(jax.random.key(5), algorithm, states, num_steps, **options)


def assert_same_run(one, other):
    assert one.step == other.step
    for a, b in zip(*(jax.tree.leaves(r._replace(key=None)) for r in (one, other)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def logdensity_fn(x):
    return -0.5 * jnp.sum(x**2 / jnp.array([1.0, 4.0])) - 0.1 * x[0] * x[1]


def walker(key, x):
    return x + jax.random.normal(key, x.shape)


PARAMS = mcmc.HMCParams(0.4, jnp.array([1.0, 3.0]))
KERNELS = {
    "ula": (mcmc.ula(jax.grad(logdensity_fn), 0.1), None),
    "rmh": (blackjax.rmh(logdensity_fn, walker), None),
    "mala": (blackjax.mala(logdensity_fn, 0.3), None),
    "hmc": (mcmc.hmc_kernel(logdensity_fn, 3), PARAMS),
    "nuts": (mcmc.nuts_kernel(logdensity_fn, max_num_doublings=3), PARAMS),
}


def position(state, info):
    return state.position


def sampled(name, num_devices, num_steps=60, **options):
    algorithm, params = KERNELS[name]
    states = mcmc.init_chains(algorithm, STARTS, params=params)
    mesh = sharding.make_mesh(num_devices, axis="chains")
    return mcmc.run_chains(
        jax.random.key(2), algorithm, states, num_steps, params=params, mesh=mesh,
        **{"trace_fn": position, **options},
    )  # fmt: skip
