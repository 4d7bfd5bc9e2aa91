r"""The eight schools: a small hierarchical model, in two parametrisations.

>>> from probjax import targets
>>> targets.eight_schools().names[:2], targets.eight_schools(centered=True).dim
(('theta[1]', 'theta[2]'), 10)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probjax.targets.posterior import (
    Posterior,
    indexed,
    log_half_cauchy,
    log_normal_pdf,
    log_normal_residuals,
    make_posterior,
    observations,
)
from probjax.targets.record import Numbers

EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
"""Estimated effects of coaching in eight schools."""

ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
"""Their standard errors."""


def eight_schools(
    *, y: Numbers = EFFECTS, sigma: Numbers = ERRORS, centered: bool = False
) -> Posterior:
    r"""Return the posterior of school effects with a common mean and spread.

    $$\mu\sim N(0,5^2),\quad\tau\sim C^+(5),\quad\theta_j\sim N(\mu,\tau^2),\quad
      y_j\sim N(\theta_j,\sigma_j^2)$$

    Not centered, $u=(t,\mu,\log\tau)$ with $\theta_j=\mu+\tau t_j$: the standard normal $t$ keeps
    its scale whatever $\tau$ is. Centered, $u=(\theta,\mu,\log\tau)$: for small $\tau$ all
    $\theta_j$ are squeezed onto $\mu$, a funnel that one step size does not fit.

    Args:
        y: effects `(J,)`.
        sigma: their standard errors `(J,)`.
        centered: which parametrisation; the posterior of the parameters is the same.

    Returns:
        The posterior of `theta[1]`, ..., `theta[J]`, `mu`, `tau`.

    Raises:
        ValueError: lengths differ, a number is not finite, or an error is not positive.

    References:
        Rubin 1981, *Estimation in parallel randomized experiments*;
        `eight_schools_noncentered` of posteriordb.

    Example:
        >>> u = jnp.arange(4.0)
        >>> two = {"y": [1.0, 2.0], "sigma": [1.0, 1.0]}
        >>> print(eight_schools(**two).constrain(u)[:2])  # 2 + e^3 (0, 1)
        [ 2.    22.085...]
        >>> print(eight_schools(**two, centered=True).constrain(u)[:2])
        [0. 1.]
    """
    effects = observations("y", y)
    number = len(effects)
    errors = observations("sigma", sigma, length=number, positive=True)

    def school_effects(u: Array) -> Array:
        return u[:-2] if centered else u[-2] + jnp.exp(u[-1]) * u[:-2]

    def logdensity(u: Array) -> Array:
        mu, log_tau = u[-2], u[-1]
        theta = school_effects(u)
        scaled = (jnp.asarray(effects, u.dtype) - theta) / jnp.asarray(errors, u.dtype)
        schools = (
            log_normal_residuals(theta - mu, log_tau)
            if centered
            else jnp.sum(log_normal_pdf(u[:-2]))
        )
        prior = log_normal_pdf(mu, 0.0, 5.0) + log_half_cauchy(log_tau, 5.0) + log_tau
        return prior + schools - 0.5 * jnp.sum(scaled**2)

    def constrain(u: Array) -> Array:
        return jnp.concatenate([school_effects(u), u[-2:-1], jnp.exp(u[-1:])])

    def unconstrain(parameters: Array) -> Array:
        theta, mu, tau = parameters[:-2], parameters[-2], parameters[-1]
        first = theta if centered else (theta - mu) / tau
        return jnp.concatenate([first, mu[None], jnp.log(tau)[None]])

    return make_posterior(
        "eight_schools_centered" if centered else "eight_schools_noncentered",
        [*indexed("theta", number), "mu", "tau"],
        logdensity,
        constrain,
        unconstrain,
        center=np.zeros(number + 2),
    )
