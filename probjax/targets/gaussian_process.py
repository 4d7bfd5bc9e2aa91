r"""A Gaussian-process regression whose three hyper-parameters are sampled.

>>> from probjax import targets
>>> targets.gp_regr().names
('rho', 'alpha', 'sigma')
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probjax.targets.posterior import Posterior, log_normal_pdf, make_posterior, observations
from probjax.targets.record import Numbers

INPUTS = tuple(float(x) for x in range(-10, 11, 2))
"""Eleven inputs of the data set `gp_pois_regr` of posteriordb."""

OUTPUTS = (
    4.75906, 1.59423, 2.99548, 5.27501, 1.66472, 2.24347, 2.8914, 4.08681, 4.60588, 0.802364,
    3.92136,
)  # fmt: skip
"""Their outputs."""


def gp_regr(*, x: Numbers = INPUTS, y: Numbers = OUTPUTS) -> Posterior:
    r"""Return the posterior of a Gaussian process's length scale, amplitude and noise.

    $$\rho\sim\Gamma(25,\,4),\quad\alpha\sim N^+(0,2^2),\quad\sigma\sim N^+(0,1),\quad y\sim N(0,K),
      \quad K_{ij}=\alpha^2e^{-(x_i-x_j)^2/2\rho^2}+\sigma\,[i=j]$$

    with $u=(\log\rho,\log\alpha,\log\sigma)$. Note that $\sigma$ is added as a variance.

    Args:
        x: inputs `(n,)`.
        y: outputs `(n,)`.

    Returns:
        The posterior of `rho`, `alpha`, `sigma`.

    Raises:
        ValueError: lengths differ, or a number is not finite.

    References:
        Rasmussen, Williams 2006, *Gaussian Processes for Machine Learning*; `gp_regr` of
        posteriordb.

    Example:
        >>> print(gp_regr(x=[0.0], y=[0.0]).logdensity_fn(jnp.zeros(3)))
        -4.97...
    """
    inputs = observations("x", x)
    outputs = observations("y", y, length=len(inputs))
    squares = (inputs[:, None] - inputs[None]) ** 2
    number = len(inputs)

    def logdensity(u: Array) -> Array:
        rho, alpha, sigma = jnp.exp(u)
        shape = jnp.exp(-0.5 * jnp.asarray(squares, u.dtype) / rho**2)
        kernel = alpha**2 * shape + sigma * jnp.eye(number, dtype=u.dtype)
        factor = jnp.linalg.cholesky(kernel)
        white = jax.scipy.linalg.solve_triangular(factor, jnp.asarray(outputs, u.dtype), lower=True)
        likelihood = -0.5 * jnp.sum(white**2) - jnp.sum(jnp.log(jnp.diagonal(factor)))
        prior = 24 * u[0] - 4 * rho + log_normal_pdf(alpha, 0.0, 2.0) + log_normal_pdf(sigma)
        return likelihood + prior + jnp.sum(u)

    return make_posterior(
        "gp_regr", ["rho", "alpha", "sigma"], logdensity, jnp.exp, jnp.log, center=[0.0, 0.0, 0.0]
    )
