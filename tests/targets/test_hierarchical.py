import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import targets


def test_the_two_parametrisations_are_one_posterior(x64):
    """The densities differ by the log-Jacobian of theta = mu + tau t, which is J log tau."""
    plain, centered = targets.eight_schools(), targets.eight_schools(centered=True)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(4, 10)))

    @jax.jit
    def both(u):
        v = centered.unconstrain(plain.constrain(u))
        difference = plain.logdensity_fn(u) - centered.logdensity_fn(v) - 8 * u[-1]
        return difference, plain.constrain(u) - centered.constrain(v)

    difference, parameters = jax.vmap(both)(u)
    np.testing.assert_allclose(difference, difference[0], atol=1e-11)
    np.testing.assert_allclose(parameters, 0, atol=1e-12)


def test_wrong_data():
    with pytest.raises(ValueError, match=r"sigma must have shape \(8,\), got \(2,\)"):
        targets.eight_schools(sigma=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"sigma\[1\] must be positive"):
        targets.eight_schools(y=[1.0, 2.0], sigma=[1.0, 0.0])
