r"""Posteriors of regressions: logistic, and linear ones of three data sets of posteriordb.

>>> import jax.numpy as jnp
>>> from probjax import targets
>>> posterior = targets.logistic_regression(x=[[1.0, 0.0], [1.0, 2.0]], y=[0, 1])
>>> print(posterior.logdensity_fn(jnp.zeros(2)))  # 2 log(1/2)
-1.386...
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probjax.core import checks
from probjax.targets.posterior import (
    Posterior,
    indexed,
    log_half_cauchy,
    log_normal_pdf,
    log_normal_residuals,
    make_posterior,
    numbers,
    observations,
)
from probjax.targets.record import Numbers


def logistic_regression(
    *, x: Numbers, y: Numbers, names: Sequence[str] | None = None, prior_scale: float = 1.0
) -> Posterior:
    r"""Return the posterior of a logistic regression with a Gaussian prior.

    $$\beta_j\sim N(0,\,\text{prior\_scale}^2),\qquad
      P(y_i=1)=\frac1{1+e^{-x_i\cdot\beta}},\qquad u=\beta$$

    Args:
        x: covariates `(n, d)`; a column of ones gives an intercept.
        y: outcomes `(n,)`, 0 or 1.
        names: of the coefficients; `beta[1]` and so on when `None`.
        prior_scale: standard deviation of the prior.

    Returns:
        The posterior.

    Raises:
        ValueError: shapes do not fit, `y` holds something else than 0 and 1, or `prior_scale` is
            not positive.

    Example:
        >>> posterior = logistic_regression(x=[[1.0], [3.0]], y=[1, 0])
        >>> print(jax.grad(posterior.logdensity_fn)(jnp.zeros(1)))  # 1/2 - 3/2
        [-1.]
    """
    rows = numbers("x", x)
    checks.shape("x", rows, (None, None))
    outcomes = observations("y", y, length=len(rows), integers=(0, 1))
    checks.positive("prior_scale", prior_scale)
    dim = rows.shape[1]
    names = indexed("beta", dim) if names is None else list(names)
    if len(names) != dim:
        raise ValueError(f"names must be {dim}, one for each column of x, got {len(names)}")

    def logdensity(u: Array) -> Array:
        logits = jnp.asarray(rows, u.dtype) @ u
        likelihood = jnp.sum(jnp.asarray(outcomes, u.dtype) * logits - jax.nn.softplus(logits))
        return likelihood + jnp.sum(log_normal_pdf(u, 0.0, prior_scale))

    return make_posterior(
        "logistic_regression", names, logdensity, _same, _same, center=np.zeros(dim)
    )


def nes(
    *,
    partyid7: Numbers,
    real_ideo: Numbers,
    race_adj: Numbers,
    age_discrete: Numbers,
    educ1: Numbers,
    gender: Numbers,
    income: Numbers,
) -> Posterior:
    r"""Return the posterior of party identification in the American National Election Studies.

    $$y\sim N(X\beta,\,\sigma^2),\qquad p(\beta,\sigma)\propto1,\qquad u=(\beta,\,\log\sigma)$$

    with columns 1, `real_ideo`, `race_adj`, `age_discrete` = 2, 3, 4, `educ1`, `gender`, `income`.

    Args:
        partyid7: party identification $y$ on a scale of seven, `(n,)`.
        real_ideo: ideology.
        race_adj: race.
        age_discrete: group of age, 1 to 4.
        educ1: education.
        gender: gender.
        income: income.

    Returns:
        The posterior of `beta[1]`, ..., `beta[9]`, `sigma`.

    Raises:
        ValueError: the columns differ in length or hold something else than finite numbers.

    References:
        Gelman, Hill 2006, *Data Analysis Using Regression*; `nes` of posteriordb.

    Example:
        >>> voters = dict(real_ideo=[2, 6], race_adj=[1, 1], age_discrete=[1, 4], educ1=[3, 2])
        >>> nes(partyid7=[1, 7], **voters, gender=[0, 1], income=[4, 2]).names[-2:]
        ('beta[9]', 'sigma')
    """
    y = observations("partyid7", partyid7)
    number = len(y)
    age = observations("age_discrete", age_discrete, length=number, integers=(1, 2, 3, 4))
    columns = [
        np.ones(number),
        observations("real_ideo", real_ideo, length=number),
        observations("race_adj", race_adj, length=number),
        *((age == group).astype(float) for group in (2, 3, 4)),
        observations("educ1", educ1, length=number),
        observations("gender", gender, length=number),
        observations("income", income, length=number),
    ]
    return _linear("nes", np.stack(columns, axis=1), y, lambda beta, log_sigma: log_sigma)


def kidscore_interaction(*, kid_score: Numbers, mom_hs: Numbers, mom_iq: Numbers) -> Posterior:
    r"""Return the posterior of children's test scores given their mothers, with an interaction.

    $$y\sim N(\beta_1+\beta_2h+\beta_3q+\beta_4hq,\,\sigma^2),\qquad
      \sigma\sim C^+(2.5),\qquad u=(\beta,\,\log\sigma)$$

    The columns are neither centred nor scaled, so the coefficients are strongly correlated.

    Args:
        kid_score: scores $y$, `(n,)`.
        mom_hs: whether the mother finished high school, $h$, 0 or 1.
        mom_iq: her intelligence quotient, $q$.

    Returns:
        The posterior of `beta[1]`, ..., `beta[4]`, `sigma`.

    Raises:
        ValueError: the columns differ in length, or hold what they must not.

    References:
        Gelman, Hill 2006, *Data Analysis Using Regression*; `kidscore_interaction` of posteriordb.

    Example:
        >>> kidscore_interaction(kid_score=[65, 98], mom_hs=[1, 0], mom_iq=[121.1, 89.4]).names[3:]
        ('beta[4]', 'sigma')
    """
    y = observations("kid_score", kid_score)
    school = observations("mom_hs", mom_hs, length=len(y), integers=(0, 1))
    quotient = observations("mom_iq", mom_iq, length=len(y))
    columns = np.stack([np.ones(len(y)), school, quotient, school * quotient], axis=1)

    def prior(beta: Array, log_sigma: Array) -> Array:
        return log_half_cauchy(log_sigma, 2.5) + log_sigma

    return _linear("kidscore_interaction", columns, y, prior)


def blr(*, x: Numbers, y: Numbers) -> Posterior:
    r"""Return the posterior of a linear regression with weak priors.

    $$\beta_k\sim N(0,10^2),\qquad\sigma\sim N^+(0,10^2),\qquad y\sim N(X\beta,\,\sigma^2),\qquad
      u=(\beta,\,\log\sigma)$$

    Args:
        x: covariates $X$, `(n, d)`.
        y: outcomes `(n,)`.

    Returns:
        The posterior of `beta[1]`, ..., `beta[d]`, `sigma`.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.

    References:
        `blr` of posteriordb.

    Example:
        >>> blr(x=[[1.0], [2.0]], y=[1.0, 2.5]).names
        ('beta[1]', 'sigma')
    """
    rows = numbers("x", x)
    checks.shape("x", rows, (None, None))

    def prior(beta: Array, log_sigma: Array) -> Array:
        return (
            jnp.sum(log_normal_pdf(beta, 0.0, 10.0))
            + log_normal_pdf(jnp.exp(log_sigma), 0.0, 10.0)
            + log_sigma
        )

    return _linear("blr", rows, observations("y", y, length=len(rows)), prior)


def _linear(
    name: str, x: np.ndarray, y: np.ndarray, log_prior: Callable[[Array, Array], Array]
) -> Posterior:
    """A linear regression; the prior of coefficients and log deviation has its log-Jacobian."""

    def logdensity(u: Array) -> Array:
        beta, log_sigma = u[:-1], u[-1]
        residuals = jnp.asarray(y, u.dtype) - jnp.asarray(x, u.dtype) @ beta
        return log_normal_residuals(residuals, log_sigma) + log_prior(beta, log_sigma)

    dim = x.shape[1] + 1
    names = [*indexed("beta", dim - 1), "sigma"]
    return make_posterior(
        name, names, logdensity, _last(jnp.exp), _last(jnp.log), center=np.zeros(dim)
    )


def _last(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Apply a function to the last entry."""
    return lambda vector: vector.at[-1].set(function(vector[-1]))


def _same(vector: Array) -> Array:
    return vector
