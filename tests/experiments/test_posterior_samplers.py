"""The table of samplers: parameters of the shapes that a warm-up finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import mcmc, sharding
from probjax.experiments.posterior_samplers import SAMPLERS, warm_up


def logdensity_fn(x):
    return -0.5 * jnp.sum(x**2)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("hmc", "dense"),
        *(pytest.param(name, "diag", marks=pytest.mark.slow) for name in SAMPLERS),
    ],
)
def test_saved_parameters_have_the_shapes_of_those_found(name, metric):
    """Else a run could not be resumed: the table's are what a checkpoint is read into."""
    sampler = SAMPLERS[name]
    kernel = sampler.kernel(logdensity_fn, 2)
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    warmup = warm_up(
        name, jax.random.key(0), kernel, logdensity_fn, starts, 20,
        target_acceptance=0.7, metric=metric, mesh=sharding.make_mesh(2),
    )  # fmt: skip
    like = sampler.params(starts[0], metric == "dense")
    assert type(like) is type(warmup.params)
    for a, b in zip(like, warmup.params, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
    assert warmup.states.position.shape == (16, 3) and metric in sampler.metrics


@pytest.mark.slow
def test_a_chain_that_starts_far_out_comes_in_before_chees_tunes():
    """At 200 the force is 8e6: no step size that suits the middle moves a chain from there."""
    starts = jnp.linspace(-1.0, 1.0, 32)[:, None].at[7].set(200.0)
    kernel = SAMPLERS["chees"].kernel(quartic, 2)
    options = {"target_acceptance": 0.651, "metric": "diag", "mesh": sharding.make_mesh(2)}
    alone = mcmc.chees_warmup(jax.random.key(0), quartic, starts, 300, **options)
    assert abs(alone.states.position[7]) > 100
    warmup = warm_up("chees", jax.random.key(0), kernel, quartic, starts, 300, **options)
    assert jnp.abs(warmup.states.position).max() < 5
    made = warmup.trace.num_grad_evals
    assert made.shape == (300,) and bool((made >= 32).all())


def quartic(x):
    return -0.25 * jnp.sum(x**4)
