import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import targets


def test_density_is_that_of_scipy(x64):
    y = np.array([0.3, -1.0, 2.0])
    one = targets.low_dim_gauss_mix(y=y)

    def exact(u):
        mu = np.array([u[0], u[0] + np.exp(u[1])])
        sigma, theta = np.exp(u[2:4]), 1 / (1 + np.exp(-u[4]))
        weights = np.array([theta, 1 - theta])
        likelihood = np.log((stats.norm(mu, sigma).pdf(y[:, None]) * weights).sum(axis=1)).sum()
        prior = stats.norm(0, 2).logpdf(mu).sum() + stats.halfnorm(0, 2).logpdf(sigma).sum()
        jacobian = u[1] + u[2] + u[3] + np.log(theta * (1 - theta))
        return likelihood + prior + stats.beta(5, 5).logpdf(theta) + jacobian

    first, second = np.array([-0.5, 0.3, 0.1, -0.4, 0.8]), np.array([0.2, -0.3, 0.4, 0.5, -1.0])
    ours = one.logdensity_fn(jnp.asarray(first)) - one.logdensity_fn(jnp.asarray(second))
    np.testing.assert_allclose(ours, exact(first) - exact(second), rtol=1e-11)


def test_wrong_data():
    with pytest.raises(ValueError, match="y must not be empty"):
        targets.low_dim_gauss_mix(y=[])


def test_parameters_return_from_their_coordinates():
    one, parameters = targets.low_dim_gauss_mix(y=[0.5]), jnp.array([-0.5, 0.7, 0.4, 2.0, 0.3])
    np.testing.assert_allclose(one.constrain(one.unconstrain(parameters)), parameters, rtol=1e-5)
