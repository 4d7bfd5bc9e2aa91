r"""Posteriors of time series: ARMA(1, 1), GARCH(1, 1) and a hidden Markov model.

>>> from probjax import targets
>>> targets.arma11(y=[0.7, 0.6, 0.9]).names
('mu', 'phi', 'theta', 'sigma')
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probjax.core import checks, logspace
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


def arma11(*, y: Numbers) -> Posterior:
    r"""Return the posterior of an autoregression of order one with a moving average.

    $$e_1=y_1-\mu-\varphi\mu,\qquad
      e_t=y_t-\mu-\varphi y_{t-1}-\vartheta e_{t-1}\sim N(0,\sigma^2),$$

    $\mu\sim N(0,10^2)$, $\varphi,\vartheta\sim N(0,2^2)$, $\sigma\sim C^+(2.5)$,
    $u=(\mu,\varphi,\vartheta,\log\sigma)$. Where $\lvert\vartheta\rvert>1$ errors grow like
    $\vartheta^t$ and may overflow to a log density of $-\infty$; chains start below.

    Args:
        y: the series `(T,)`, at least two values.

    Returns:
        The posterior of `mu`, `phi`, `theta`, `sigma`.

    Raises:
        ValueError: `y` is shorter, or not finite.

    References:
        `arma11` of posteriordb.
    """
    series = observations("y", y)
    checks.at_least("length of y", len(series), 2)

    def logdensity(u: Array) -> Array:
        mu, phi, theta, log_sigma = u
        values = jnp.asarray(series, u.dtype)
        first = values[0] - mu - phi * mu
        innovations = values[1:] - mu - phi * values[:-1]

        def step(error: Array, innovation: Array) -> tuple[Array, Array]:
            error = innovation - theta * error
            return error, error

        _, errors = jax.lax.scan(step, first, innovations)
        likelihood = log_normal_residuals(jnp.concatenate([first[None], errors]), log_sigma)
        prior = (
            log_normal_pdf(mu, 0.0, 10.0)
            + log_normal_pdf(phi, 0.0, 2.0)
            + log_normal_pdf(theta, 0.0, 2.0)
            + log_half_cauchy(log_sigma, 2.5)
        )
        return likelihood + prior + log_sigma

    def constrain(u: Array) -> Array:
        return u.at[3].set(jnp.exp(u[3]))

    def unconstrain(parameters: Array) -> Array:
        return parameters.at[3].set(jnp.log(parameters[3]))

    return make_posterior(
        "arma11", ["mu", "phi", "theta", "sigma"], logdensity, constrain, unconstrain,
        center=[0.0] * 4, radius=[2.0, 1.0, 0.9, 2.0],
    )  # fmt: skip


def garch11(*, y: Numbers, sigma1: float) -> Posterior:
    r"""Return the posterior of a series whose variance follows its own past.

    $$v_1=\text{sigma1}^2,\qquad v_t=\alpha_0+\alpha_1(y_{t-1}-\mu)^2+\beta_1v_{t-1},\qquad
      y_t\sim N(\mu,v_t),$$

    flat on $\mu$, $\alpha_0>0$, $0<\alpha_1<1$, $0<\beta_1<1-\alpha_1$, with
    $u=(\mu,\log\alpha_0,\text{logit}\,\alpha_1,\text{logit}\frac{\beta_1}{1-\alpha_1})$.

    Args:
        y: the series `(T,)`, at least two values.
        sigma1: standard deviation of the first value.

    Returns:
        The posterior of `mu`, `alpha0`, `alpha1`, `beta1`.

    Raises:
        ValueError: `y` is shorter or not finite, or `sigma1` is not positive.

    References:
        Bollerslev 1986, *Generalized autoregressive conditional heteroskedasticity*; `garch11` of
        posteriordb.

    Example:
        >>> posterior = garch11(y=[0.1, -0.3, 0.2], sigma1=1.0)
        >>> print(posterior.constrain(jnp.zeros(4)))
        [0.   1.   0.5  0.25]
    """
    series = observations("y", y)
    checks.at_least("length of y", len(series), 2)
    checks.positive("sigma1", sigma1)

    def constrain(u: Array) -> Array:
        alpha1 = jax.nn.sigmoid(u[2])
        beta1 = jax.nn.sigmoid(-u[2]) * jax.nn.sigmoid(u[3])
        return jnp.stack([u[0], jnp.exp(u[1]), alpha1, beta1])

    def unconstrain(parameters: Array) -> Array:
        mu, alpha0, alpha1, beta1 = parameters
        share = beta1 / (1 - alpha1)
        logits = [jnp.log(p) - jnp.log1p(-p) for p in (alpha1, share)]
        return jnp.stack([mu, jnp.log(alpha0), *logits])

    def logdensity(u: Array) -> Array:
        mu, alpha0, alpha1, beta1 = constrain(u)
        residuals = jnp.asarray(series, u.dtype) - mu
        first = jnp.full_like(mu, sigma1**2)

        def step(variance: Array, square: Array) -> tuple[Array, Array]:
            variance = alpha0 + alpha1 * square + beta1 * variance
            return variance, variance

        _, variances = jax.lax.scan(step, first, residuals[:-1] ** 2)
        variances = jnp.concatenate([first[None], variances])
        likelihood = -0.5 * jnp.sum(residuals**2 / variances + jnp.log(variances))
        log_alpha1, log_rest = jax.nn.log_sigmoid(u[2]), jax.nn.log_sigmoid(-u[2])
        shares = jax.nn.log_sigmoid(u[3]) + jax.nn.log_sigmoid(-u[3])
        return likelihood + u[1] + log_alpha1 + 2 * log_rest + shares

    return make_posterior(
        "garch11", ["mu", "alpha0", "alpha1", "beta1"], logdensity, constrain, unconstrain,
        center=[0.0] * 4,
    )  # fmt: skip


def hmm_drive_0(*, u: Numbers, v: Numbers, alpha: Numbers) -> Posterior:
    r"""Return the posterior of a hidden Markov model with two states and two emissions.

    $$u_t\sim\text{Exp}(\varphi_{z_t}),\quad v_t\sim\text{Exp}(\lambda_{z_t}),\quad
      P(z_t=j\mid z_{t-1}=k)=\theta_{kj},\quad\theta_k\sim\text{Dir}(\alpha_k),$$

    ordered $0<\varphi_1<\varphi_2$ and $0<\lambda_1<\lambda_2$, each with priors $N(0,1)$ and
    $N(3,1)$. States are summed out by the forward recursion; the first one has no weight. The
    unconstrained vector is $(\text{logit}\,\theta_{11},\text{logit}\,\theta_{21},\log\varphi_1,
    \log(\varphi_2-\varphi_1),\log\lambda_1,\log(\lambda_2-\lambda_1))$.

    Args:
        u: first emission `(T,)`, at least two values.
        v: second emission `(T,)`.
        alpha: `(2, 2)`, one row of Dirichlet parameters for each state.

    Returns:
        The posterior of `theta1[1]`, `theta1[2]`, `theta2[1]`, `theta2[2]`, `phi[1]`, `phi[2]`,
        `lambda[1]`, `lambda[2]`: eight parameters of six coordinates.

    Raises:
        ValueError: lengths differ, `alpha` is not positive, or a number is not finite.

    References:
        `hmm_drive_0` of posteriordb.

    Example:
        >>> posterior = hmm_drive_0(u=[0.3, 1.2], v=[0.1, 0.9], alpha=[[2, 1], [1, 2]])
        >>> print(posterior.constrain(jnp.zeros(6)))
        [0.5 0.5 0.5 0.5 1.  2.  1.  2. ]
    """
    first, second = observations("u", u), observations("v", v)
    checks.at_least("length of u", len(first), 2)
    checks.same_shape("v", second, "u", first)
    counts = numbers("alpha", alpha)
    checks.shape("alpha", counts, (2, 2))
    checks.positive("alpha", counts)

    def rates(point: Array) -> tuple[Array, Array]:
        def pair(low: Array, gap: Array) -> Array:
            return jnp.stack([jnp.exp(low), jnp.exp(low) + jnp.exp(gap)])

        return pair(point[2], point[3]), pair(point[4], point[5])

    def log_transitions(point: Array) -> Array:
        logits = point[:2]
        return jnp.stack([jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)], axis=1)

    def constrain(point: Array) -> Array:
        return jnp.concatenate([jnp.exp(log_transitions(point)).ravel(), *rates(point)])

    def unconstrain(parameters: Array) -> Array:
        logits = jnp.log(parameters[0:4:2]) - jnp.log(parameters[1:4:2])
        low, high = parameters[4::2], parameters[5::2]
        pairs = jnp.stack([jnp.log(low), jnp.log(high - low)], axis=1)
        return jnp.concatenate([logits, pairs.ravel()])

    def logdensity(point: Array) -> Array:
        phi, lam = rates(point)
        table = log_transitions(point)
        data = jnp.asarray(np.stack([first, second]), point.dtype)[..., None]
        emissions = jnp.log(phi)[None] - data[0] * phi[None]
        emissions = emissions + jnp.log(lam)[None] - data[1] * lam[None]

        def step(log_forward: Array, emission: Array) -> tuple[Array, None]:
            arriving = logspace.logsumexp(log_forward[:, None] + table, axis=0)
            return arriving + emission, None

        log_forward, _ = jax.lax.scan(step, emissions[0], emissions[1:])
        # Dirichlet parameters and not those less one: the log-Jacobian of each row is their sum.
        rows = jnp.sum(jnp.asarray(counts, point.dtype) * table)
        prior = sum(
            log_normal_pdf(pair[0], 0.0, 1.0) + log_normal_pdf(pair[1], 3.0, 1.0)
            for pair in (phi, lam)
        )
        return logspace.logsumexp(log_forward) + rows + prior + jnp.sum(point[2:])

    names = [
        *indexed("theta1", 2), *indexed("theta2", 2), *indexed("phi", 2), *indexed("lambda", 2),
    ]  # fmt: skip
    return make_posterior(
        "hmm_drive_0", names, logdensity, constrain, unconstrain, center=[0.0] * 6
    )
