"""Time reversal against the Fokker-Planck equation and closed Gaussian and log-normal laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.reverse_time import probability_flow, reverse_sde
from probjax.diffeq.sde import SDE, covariance_product

MU, VOL = 0.3, 0.6


def log_normal(t, x):
    """Log density of geometric Brownian motion from a log-normal start of log-variance 0.5."""
    mean, variance = 0.2 + (MU - VOL**2 / 2) * t, 0.5 + VOL**2 * t
    return (-jnp.log(x) - 0.5 * (jnp.log(x) - mean) ** 2 / variance - 0.5 * jnp.log(variance))[0]


LINEAR = np.array([[-0.5, 0.8], [-0.3, -1.0]])
ROOT = np.array([[0.7, 0.2], [0.0, 0.5]])
START = np.array([[1.0, 0.2], [0.2, 0.4]])


def ou_covariance(t):
    """Covariance of dX = A X dt + G dW, by Van Loan's block exponential."""
    rate = ROOT @ ROOT.T
    block = jnp.block([[-LINEAR, rate], [jnp.zeros((2, 2)), LINEAR.T]])
    grown = jax.scipy.linalg.expm(block * t)
    forward = grown[2:, 2:].T
    return forward @ START @ forward.T + forward @ grown[:2, 2:]


def ou_log_density(t, x):
    covariance = ou_covariance(t)
    return -0.5 * x @ jnp.linalg.solve(covariance, x) - 0.5 * jnp.linalg.slogdet(covariance)[1]


CASES = {
    "geometric, diagonal": (
        SDE(lambda t, x: MU * x, lambda t, x: VOL * x, "diagonal"),
        log_normal,
        jnp.array([1.7]),
    ),
    "geometric, scalar": (
        SDE(lambda t, x: MU * x, lambda t, x: VOL * x, "scalar"),
        log_normal,
        jnp.array([0.6]),
    ),
    "geometric, general": (
        SDE(lambda t, x: MU * x, lambda t, x: VOL * x[:, None], "general"),
        log_normal,
        jnp.array([0.9]),
    ),
    "ornstein-uhlenbeck": (
        SDE(lambda t, x: LINEAR @ x, lambda t, x: jnp.asarray(ROOT), "additive"),
        ou_log_density,
        jnp.array([0.4, -0.7]),
    ),
}


def fokker_planck_gap(sde, log_density, t, x, *, backwards):
    """dp/dt + div(f p) -+ div div(GG' p) / 2, over p: zero if p solves the equation."""
    p = lambda t, x: jnp.exp(log_density(t, x))

    def flux(x):
        return sde.drift(t, x) * p(t, x)

    def second(x):
        rate = jax.vmap(lambda e: covariance_product(sde, t, x, e))(jnp.eye(x.shape[0]))
        return rate * p(t, x)

    slope = jax.grad(p)(t, x)
    divergence = jnp.trace(jax.jacfwd(flux)(x))
    curvature = jnp.einsum("ijij", jax.jacfwd(jax.jacfwd(second))(x))
    sign = -1.0 if backwards else 1.0
    return float((slope + divergence - sign * 0.5 * curvature) / p(t, x))


@pytest.mark.parametrize(
    "name",
    [
        name if name == "geometric, general" else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_marginals_are_kept_backwards_at_any_stochasticity(x64, name):
    sde, log_density, x = CASES[name]
    x = x.astype(jnp.float64)
    t = 0.8
    assert abs(fokker_planck_gap(sde, log_density, t, x, backwards=False)) < 1e-10
    score_fn = jax.grad(log_density, argnums=1)
    for stochasticity in (0.0, 0.5, 1.0, 1.7):
        back = reverse_sde(sde, score_fn, stochasticity=stochasticity)
        assert abs(fokker_planck_gap(back, log_density, t, x, backwards=True)) < 1e-10
        # The same equation run forwards, or without its noise, is another one.
        assert abs(fokker_planck_gap(sde, log_density, t, x, backwards=True)) > 1e-3
    flow = probability_flow(sde, score_fn)
    np.testing.assert_allclose(
        flow(t, x, None), reverse_sde(sde, score_fn, stochasticity=0.0).drift(t, x), atol=1e-14
    )


def dropped_divergence(sde, score_fn, stochasticity):
    factor = 0.5 * (1 + stochasticity**2)
    back = reverse_sde(sde, score_fn, stochasticity=stochasticity)
    return back._replace(
        drift=lambda t, x: sde.drift(t, x) - factor * covariance_product(sde, t, x, score_fn(t, x))
    )


def wrong_noise(sde, score_fn, stochasticity):
    back = reverse_sde(sde, score_fn, stochasticity=stochasticity)
    return back._replace(diffusion=lambda t, x: stochasticity**2 * sde.diffusion(t, x))


def flipped_score(sde, score_fn, stochasticity):
    return reverse_sde(sde, lambda t, x: -score_fn(t, x), stochasticity=stochasticity)


def lost_half(sde, score_fn, stochasticity):
    return reverse_sde(sde, lambda t, x: 2 * score_fn(t, x), stochasticity=stochasticity)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [dropped_divergence, wrong_noise, flipped_score, lost_half])
def test_fokker_planck_kills(x64, mutant):
    sde, log_density, x = CASES["geometric, diagonal"]
    back = mutant(sde, jax.grad(log_density, argnums=1), 0.5)
    assert abs(fokker_planck_gap(back, log_density, 0.8, x.astype(jnp.float64), backwards=True)) > (
        1e-3
    )


def test_the_flow_of_geometric_brownian_motion_keeps_quantiles(x64):
    """Carried from t=0 to 1, the quantile z stays exp(mean(t) + z sqrt(variance(t)))."""
    sde, log_density, _ = CASES["geometric, diagonal"]
    field = probability_flow(sde, jax.grad(log_density, argnums=1))
    z = 1.3
    x, h = jnp.array([np.exp(0.2 + z * np.sqrt(0.5))]), 1 / 64

    def rk4(x, t):
        k1 = field(t, x, None)
        k2 = field(t + h / 2, x + h / 2 * k1, None)
        k3 = field(t + h / 2, x + h / 2 * k2, None)
        k4 = field(t + h, x + h * k3, None)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    x, _ = jax.lax.scan(rk4, x, jnp.arange(64.0) * h)
    want = np.exp(0.2 + MU - VOL**2 / 2 + z * np.sqrt(0.5 + VOL**2))
    np.testing.assert_allclose(x[0], want, rtol=1e-8)


def test_bad_arguments_are_named():
    sde, log_density, x = CASES["geometric, diagonal"]
    with pytest.raises(ValueError, match=r"stochasticity must .* got -1\.0"):
        reverse_sde(sde, jax.grad(log_density, argnums=1), stochasticity=-1.0)
    with pytest.raises(ValueError, match="noise must be one of"):
        probability_flow(sde._replace(noise="white"), jax.grad(log_density, argnums=1))
    with pytest.raises(ValueError, match=r"score_fn\(t, x\) must have the shape of x"):
        probability_flow(sde, lambda t, x: x[0])(0.0, x, None)
