"""The programs of the warm-ups: one for each plan, and sums as their only collective."""

import blackjax
import jax
import jax.numpy as jnp
import pytest

from probjax import mcmc, sharding
from probjax.mcmc import warmup_programs
from probjax.mcmc.warmup import pooled_warmup

KEY = jax.random.key(7)


def logdensity_fn(x):
    return -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]


HMC = mcmc.hmc_kernel(logdensity_fn, 3)
PROGRAMS = ("pooled_program", "window_program", "chees_program", "meads_program")


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_equal_plan_gives_the_same_program_and_another_one_another(name):
    give = getattr(warmup_programs, name)
    subject = HMC if name in PROGRAMS[:2] else logdensity_fn
    options = {"chees_program": (1.0, 100), "meads_program": (2,)}.get(name, ())
    mesh = sharding.make_mesh(2)

    def plan(num_steps):
        return warmup_programs.Plan(subject, num_steps, "diag", mesh, jax.P("items"), 8, options)

    assert give(plan(20)) is give(plan(20))
    assert give(plan(20)) is not give(plan(21))


def test_one_program_for_warm_up_and_one_for_what_follows(compilations):
    mesh = sharding.make_mesh(2)

    def go(seed, target):
        starts = jax.random.normal(jax.random.key(seed), (8, 2))
        warmup = pooled_warmup(
            jax.random.key(seed), HMC, starts, 20, target_acceptance=target, mesh=mesh
        )
        run = mcmc.run_chains(
            KEY, HMC, warmup.states, 3, params=warmup.params, mesh=mesh,
            reducers=(mcmc.counts(),),
        )  # fmt: skip
        assert run.step == 3
        return warmup

    warmup = go(0, 0.8)
    plan = warmup_programs.Plan(HMC, 20, "diag", *mcmc.program.layout(
        warmup.states, mesh, None, 8, None), 8)  # fmt: skip
    program = warmup_programs.pooled_program(plan)
    assert program._cache_size() == 1
    compilations.clear()
    go(1, 0.7)
    assert not compilations and program._cache_size() == 1
    # Nothing of the adaptation is in what is sampled.
    assert type(warmup.states) is blackjax.mcmc.hmc.HMCState
    given = jnp.zeros((8, 2)), jnp.float32(0.8), jnp.float32(0.1)
    text = program.lower(KEY, *given).compile().as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-gather", "permute", "all-to-all"))
