"""Time reversal against the Fokker-Planck equation and closed Gaussian and log-normal laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.convergence import weak_order_moments
from probjax.diffeq.reverse_time import probability_flow, reverse_sde
from probjax.diffeq.sde import SDE, covariance_product
from probjax.diffeq.sde_solver import solve_sde

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


LOG_START, LOG_END = (0.2, 0.5), (0.2 + MU - VOL**2 / 2, 0.5 + VOL**2)


def check_way_back(reverse_fn):
    """From the law at t = 1 log-normal data return; in log x the moments are computed exactly.

    By Ito's formula in the time that runs back, log x has the drift D / x + b^2 / 2x^2.
    """
    sde, log_density, _ = CASES["geometric, diagonal"]
    back = reverse_fn(sde, jax.grad(log_density, argnums=1), 0.7)

    def drift(t, u):
        x = jnp.exp(u)
        return back.drift(t, x) / x + 0.5 * (back.diffusion(t, x) / x) ** 2

    logarithm = SDE(drift, lambda t, u: back.diffusion(t, jnp.exp(u)) / jnp.exp(u), "diagonal")
    start, exact = (jnp.array([m, v + m**2]) for m, v in (LOG_END, LOG_START))
    mean, second = weak_order_moments(
        logarithm, start, 1.0, 0.0, exact=exact, method="euler_maruyama", num_steps=(256, 512)
    )
    assert mean.errors.max() < 1e-12  # it moves along a straight line
    assert abs(second.order - 1) < 0.05


def test_log_normal_data_come_back(x64):
    check_way_back(lambda sde, score_fn, size: reverse_sde(sde, score_fn, stochasticity=size))


def wrong_scale(sde, score_fn, stochasticity):
    back = reverse_sde(sde, score_fn, stochasticity=stochasticity)
    return back._replace(diffusion=lambda t, x: stochasticity**2 * sde.diffusion(t, x))


@pytest.mark.parametrize("mutant", [dropped_divergence, wrong_scale, lost_half])
def test_the_way_back_kills(x64, mutant):
    with pytest.raises(AssertionError):
        check_way_back(mutant)


def test_solved_backwards_gaussian_data_come_back():
    """The ends of `solve_sde` with t1 < t0 have the moments of the steps' own recursion.

    Those are within 4 % of the data's, N(1.5, 0.3); wrong by a sign or a factor they are not.
    """
    decay, width = lambda t: jnp.exp(-1.3 * t), 0.49 / 2.6
    spread = lambda t: 0.3 * decay(t) ** 2 + width * (1 - decay(t) ** 2)
    score_fn = lambda t, x: (1.5 * decay(t) - x) / spread(t)
    forward = SDE(lambda t, x: -1.3 * x, lambda t, x: jnp.asarray(0.7), "additive")
    back, steps, number = reverse_sde(forward, score_fn), 100, 5_000
    mean, variance, h = float(1.5 * decay(1.0)), float(spread(1.0)), -1 / steps
    start = mean + variance**0.5 * jax.random.normal(jax.random.key(1), (number,))
    solve = jax.jit(lambda key, y: solve_sde(key, back, y, 1.0, 0.0, num_steps=steps).y)
    ends = np.asarray(solve(jax.random.key(2), start), np.float64)
    times = 1 + h * jnp.arange(steps, dtype=jnp.int32).astype(jnp.float32)
    at = np.asarray(jax.jit(jax.vmap(lambda t: back.drift(t, jnp.array([0.0, 1.0]))))(times))
    for zero, one in at:
        mean, variance = (
            mean + h * (zero + (one - zero) * mean),
            (variance * (1 + h * (one - zero)) ** 2 + 0.49 * abs(h)),
        )
    assert abs(ends.mean() - mean) < 4 * (variance / number) ** 0.5
    assert abs(ends.var() - variance) < 4 * variance * (2 / number) ** 0.5
    np.testing.assert_allclose([mean, variance], [1.5, 0.3], rtol=0.04)


def test_bad_arguments_are_named():
    sde, log_density, x = CASES["geometric, diagonal"]
    with pytest.raises(ValueError, match=r"stochasticity must .* got -1\.0"):
        reverse_sde(sde, jax.grad(log_density, argnums=1), stochasticity=-1.0)
    with pytest.raises(ValueError, match="noise must be one of"):
        probability_flow(sde._replace(noise="white"), jax.grad(log_density, argnums=1))
    with pytest.raises(ValueError, match=r"score_fn\(t, x\) must have the shape of x"):
        probability_flow(sde, lambda t, x: x[0])(0.0, x, None)
