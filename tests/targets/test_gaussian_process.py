import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import targets


def test_density_is_that_of_scipy(x64):
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.3, -1.0, 2.0])
    one = targets.gp_regr(x=x, y=y)

    def exact(u):
        rho, alpha, sigma = np.exp(u)
        kernel = alpha**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * rho**2)) + sigma * np.eye(3)
        prior = stats.gamma(25, scale=1 / 4).logpdf(rho) + stats.halfnorm(0, 2).logpdf(alpha)
        prior = prior + stats.halfnorm(0, 1).logpdf(sigma)
        return stats.multivariate_normal(np.zeros(3), kernel).logpdf(y) + prior + u.sum()

    one_u, other = np.array([1.8, 0.5, -0.5]), np.array([0.2, -0.3, 0.4])
    ours = one.logdensity_fn(jnp.asarray(one_u)) - one.logdensity_fn(jnp.asarray(other))
    np.testing.assert_allclose(ours, exact(one_u) - exact(other), rtol=1e-11)


def test_wrong_data():
    with pytest.raises(ValueError, match=r"y must have shape \(11,\), got \(1,\)"):
        targets.gp_regr(y=[1.0])
