r"""The posterior of a mixture of two Gaussians in one dimension, its parameters being unknown.

>>> from probjax import targets
>>> targets.low_dim_gauss_mix(y=[-2.0, 3.0, 2.5]).names
('mu[1]', 'mu[2]', 'sigma[1]', 'sigma[2]', 'theta')
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probjax.core import logspace
from probjax.targets.posterior import (
    Posterior,
    indexed,
    log_normal_pdf,
    make_posterior,
    observations,
)
from probjax.targets.record import Numbers


def low_dim_gauss_mix(*, y: Numbers) -> Posterior:
    r"""Return the posterior of two means, two deviations and a weight.

    $$\mu_1<\mu_2\sim N(0,2^2),\quad\sigma_k\sim N^+(0,2^2),\quad\theta\sim\text{Beta}(5,5),\quad
      y_i\sim\theta\,N(\mu_1,\sigma_1^2)+(1-\theta)\,N(\mu_2,\sigma_2^2)$$

    with $u=(\mu_1,\log(\mu_2-\mu_1),\log\sigma_1,\log\sigma_2,\text{logit}\,\theta)$. The order of
    the means removes the second mode that swapping the components would make.

    Args:
        y: observations `(n,)`.

    Returns:
        The posterior of `mu[1]`, `mu[2]`, `sigma[1]`, `sigma[2]`, `theta`.

    Raises:
        ValueError: `y` is no vector of finite numbers.

    References:
        `low_dim_gauss_mix` of posteriordb.

    Example:
        >>> posterior = low_dim_gauss_mix(y=[0.5])
        >>> print(posterior.constrain(jnp.zeros(5)))
        [0.  1.  1.  1.  0.5]
    """
    points = observations("y", y)

    def constrain(u: Array) -> Array:
        second = u[0] + jnp.exp(u[1])
        return jnp.stack([u[0], second, jnp.exp(u[2]), jnp.exp(u[3]), jax.nn.sigmoid(u[4])])

    def unconstrain(parameters: Array) -> Array:
        first, second, sigma1, sigma2, theta = parameters
        logit = jnp.log(theta) - jnp.log1p(-theta)
        return jnp.stack([first, jnp.log(second - first), jnp.log(sigma1), jnp.log(sigma2), logit])

    def logdensity(u: Array) -> Array:
        first, second, sigma1, sigma2, _ = constrain(u)
        data = jnp.asarray(points, u.dtype)
        log_theta, log_rest = jax.nn.log_sigmoid(u[4]), jax.nn.log_sigmoid(-u[4])
        likelihood = jnp.sum(
            logspace.logaddexp(
                log_theta - u[2] - 0.5 * ((data - first) * jnp.exp(-u[2])) ** 2,
                log_rest - u[3] - 0.5 * ((data - second) * jnp.exp(-u[3])) ** 2,
            )
        )
        prior = (
            log_normal_pdf(first, 0.0, 2.0)
            + log_normal_pdf(second, 0.0, 2.0)
            + log_normal_pdf(sigma1, 0.0, 2.0)
            + log_normal_pdf(sigma2, 0.0, 2.0)
            + 4 * (log_theta + log_rest)
        )
        return likelihood + prior + u[1] + u[2] + u[3] + log_theta + log_rest

    names = [*indexed("mu", 2), *indexed("sigma", 2), "theta"]
    return make_posterior(
        "low_dim_gauss_mix", names, logdensity, constrain, unconstrain, center=[0.0] * 5
    )
