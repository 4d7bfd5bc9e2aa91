"""Ladders of temperatures: geometric ones, their barrier, and levels refused equally often."""

import jax
import jax.numpy as jnp
import numpy as np

from probjax import mcmc


def test_ladders():
    np.testing.assert_allclose(mcmc.geometric_ladder(4, 0.001), [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert mcmc.geometric_ladder(7, 0.01)[0] == 1
    np.testing.assert_allclose(mcmc.communication_barrier([0.2, 0.5, 0.1]), 0.8, rtol=1e-6)


def test_equalising_a_ladder(x64):
    """On a Gaussian the exact rates become equal, and the ladder geometric."""
    betas = jnp.array([1.0, 0.95, 0.3, 0.1, 0.05])
    rates = lambda b: (b[:-1] - b[1:]) / (b[:-1] + b[1:])
    assert rates(betas).max() > 10 * rates(betas).min()
    place = jax.jit(mcmc.equalised_ladder)
    for _ in range(8):
        betas = place(betas, rates(betas))
        assert (np.diff(betas) < 0).all()
    np.testing.assert_allclose(rates(betas), rates(betas)[0], rtol=1e-6)
    np.testing.assert_allclose(betas, mcmc.geometric_ladder(5, 0.05), rtol=1e-6)
    # An interval that ends at zero is cut in beta itself; one where nothing is refused is passed.
    cut = mcmc.equalised_ladder(jnp.array([1.0, 0.5, 0.0]), jnp.array([0.0, 0.6]), num_levels=4)
    np.testing.assert_allclose(cut, [1, 0.5 * 2 / 3, 0.5 / 3, 0], atol=1e-12)
