"""Starts from Pathfinder lie where the mass is, not where the paths happened to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.vi.multipathfinder import multi_approximate

from probjax import mcmc

NUM_CHAINS = 32
SCATTERED = jax.random.uniform(jax.random.key(0), (NUM_CHAINS, 2), minval=-8.0, maxval=8.0)


def two_modes(x):
    """At 5 and at -5; the latter, of half the width, has exp(-20) of the other's mass."""
    heavy = -0.5 * jnp.sum((x - 5.0) ** 2)
    light = -20.0 + 2 * jnp.log(2.0) - 0.5 * jnp.sum((2 * (x + 5.0)) ** 2)
    return jnp.logaddexp(heavy, light)


def tilted(x):
    """A normal law with means 1 and -2, variances 1 and 4 and correlation 0.8."""
    a, b = x["a"][0] - 1.0, (x["b"] + 2.0) / 2.0
    return -0.5 * (a**2 - 1.6 * a * b + b**2) / 0.36


def nowhere(x):
    return jnp.where(jnp.sum(x) > 1e9, 0.0, -jnp.inf)


@pytest.mark.slow
def test_no_chain_begins_in_a_region_without_mass():
    starts = mcmc.pathfinder_starts(jax.random.key(1), two_modes, SCATTERED)
    assert starts.positions.shape == SCATTERED.shape
    assert bool((starts.positions > 0).all())
    assert len(np.unique(starts.positions, axis=0)) == NUM_CHAINS
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found, _ = jax.jit(
            lambda key: multi_approximate(key, two_modes, SCATTERED, 10, maxiter=30)
        )(jax.random.key(1))
    light = (found.samples < 0).all(axis=(1, 2)).sum()
    assert 3 <= int(light) < NUM_CHAINS, "paths that end in the light mode there were"


def test_starts_on_a_normal_law_are_draws_from_it():
    positions = {"a": SCATTERED[:, :1], "b": SCATTERED[:, 1]}
    starts = mcmc.pathfinder_starts(jax.random.key(2), tilted, positions)
    assert starts.positions["a"].shape == (NUM_CHAINS, 1)
    assert starts.positions["b"].dtype == SCATTERED.dtype
    assert float(starts.pareto_k) < 0.7
    a, b = np.asarray(starts.positions["a"][:, 0]), np.asarray(starts.positions["b"])
    # Without replacement from 3,200 points of equal weight: independent draws but for one percent.
    z = np.stack([a - 1.0, (b + 2.0) / 2.0])
    five = 5 / np.sqrt(NUM_CHAINS)
    assert np.all(np.abs(z.mean(axis=1)) < five)
    assert np.all(np.abs((z**2).mean(axis=1) - 1) < five * np.sqrt(2))
    assert abs((z[0] * z[1]).mean() - 0.8) < five * np.sqrt(1.64)


def test_what_cannot_give_starts_is_refused():
    key = jax.random.key(3)
    with pytest.raises(ValueError, match="num_draws must be at least 2"):
        mcmc.pathfinder_starts(key, tilted, SCATTERED, num_draws=1)
    with pytest.raises(ValueError, match="max_iterations must be at least 1"):
        mcmc.pathfinder_starts(key, tilted, SCATTERED, max_iterations=0)
    with pytest.raises(TypeError, match="positions must be a floating-point array"):
        mcmc.pathfinder_starts(key, tilted, jnp.zeros((4, 2), jnp.int32))


@pytest.mark.slow
def test_no_support_no_starts():
    key = jax.random.key(3)
    with pytest.raises(ValueError, match="of 128 points around 32 paths 0 have a finite weight"):
        mcmc.pathfinder_starts(key, nowhere, SCATTERED, num_draws=4, max_iterations=3)
