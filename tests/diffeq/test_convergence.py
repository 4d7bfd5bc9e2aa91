"""Slopes: exact powers, floors of rounding, standard errors, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.brownian import coarsen
from probjax.diffeq.convergence import (
    empirical_order,
    ode_order,
    strong_order,
    weak_order_enumerated,
    weak_order_moments,
)
from probjax.diffeq.exact import gbm_moments, ou_moments
from probjax.diffeq.reverse_time import reverse_sde
from probjax.diffeq.sde import SDE
from probjax.diffeq.sde_steps import euler_maruyama, milstein
from probjax.diffeq.solution import Solution, Stats

STEPS = np.array([0.4, 0.2, 0.08, 0.02])


@pytest.mark.parametrize("power", [0.5, 1.0, 4.0])
def test_a_power_shows_its_exponent_at_unequal_ratios(power):
    found = empirical_order(7 * STEPS**power, STEPS)
    np.testing.assert_allclose(found.slopes, power, rtol=1e-12)
    assert found.usable.all() and found.order == found.slopes[-1]
    assert found.standard_error == 0.0


def test_pairs_below_the_floor_are_flagged_and_not_used():
    found = empirical_order([1e-1, 1e-3, 1e-13, 1e-16], [8.0, 4.0, 2.0, 1.0])
    np.testing.assert_array_equal(found.usable, [True, False, False])
    assert found.order == found.slopes[0]
    single = empirical_order(np.array([1e-1, 1e-3, 1e-5], np.float32), [4.0, 2.0, 1.0])
    np.testing.assert_array_equal(single.usable, [True, False])
    nothing = empirical_order([0.0, np.nan, 1.0], [4.0, 2.0, 1.0])
    assert not nothing.usable.any() and math.isnan(nothing.order)
    assert np.isnan(nothing.slopes).all()


def test_standard_errors_follow_the_delta_method():
    errors, spread = np.array([0.5, 0.25]), np.array([0.01, 0.02])
    found = empirical_order(errors, [2.0, 1.0], standard_errors=spread)
    want = np.hypot(0.01 / 0.5, 0.02 / 0.25) / np.log(2)
    np.testing.assert_allclose(found.standard_error, want)


def test_ode_order_of_hand_written_solvers():
    def heun(n):
        """A rotation, in a tree, by n steps of Heun's method."""
        h, (q, p) = 1.0 / n, (1.0, 0.0)
        for _ in range(n):
            a, b = q + h * p, p - h * q
            q, p = q + h / 2 * (p + b), p - h / 2 * (q + a)
        return {"q": np.array([q]), "p": np.array(p)}

    exact = {"q": np.array([math.cos(1.0)]), "p": np.array(-math.sin(1.0))}
    found = ode_order(heun, [8, 16, 32, 64], exact=exact)
    assert abs(found.order - 2) < 0.05
    np.testing.assert_allclose(found.steps, 1 / np.array([8, 16, 32, 64]))

    def euler(n):
        nothing = jnp.zeros((), jnp.int32)
        end = jnp.asarray((1 + 1 / n) ** n)
        return Solution(jnp.ones(()), end, Stats(*[nothing] * 4), nothing)

    single = ode_order(euler, [16, 32, 64, 2**20], exact=math.e)
    assert list(single.usable) == [True, True, False] and abs(single.order - 1) < 0.05


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="errors must be a vector of two"):
        empirical_order([0.1], [1.0])
    with pytest.raises(ValueError, match=r"steps\[1\]=2.0 is not below"):
        empirical_order([0.1, 0.2], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"steps must have shape \(2,\)"):
        empirical_order([0.1, 0.2], [3.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=r"solve_fn\(4\) must have the shapes of exact"):
        ode_order(lambda n: np.zeros(2), [4, 8], exact=np.zeros(3))
    with pytest.raises(ValueError, match="steps"):
        ode_order(lambda n: np.zeros(2), [8, 4], exact=np.zeros(2))


MU, VOL = 0.5, 0.8
GBM = SDE(lambda t, x: MU * x, lambda t, x: VOL * x, "scalar")
KEY = jax.random.key(11)


def gbm_end(dw):
    """The end of a path from one at time 1, from all its increments."""
    return jnp.exp(MU - VOL**2 / 2 + VOL * jnp.sum(dw, 0))[None]


@pytest.mark.parametrize(
    ("method", "expected"), [("euler_maruyama", (0.998, 0.992, 0.978)),
                             ("weak2_platen", (1.998, 1.994, 1.990))]
)  # fmt: skip
def test_weak_orders_of_three_moments(x64, method, expected):
    """Within 0.05 of 1 and 2; Euler-Maruyama's first two moments also by their closed forms."""
    exact = gbm_moments(1.0, 1.0, drift=MU, volatility=VOL)
    found = weak_order_moments(GBM, 1.0, 0.0, 1.0, exact=exact, method=method)
    slopes = [order.order for order in found]
    np.testing.assert_allclose(slopes, round(expected[0]), atol=0.05)
    np.testing.assert_allclose(slopes, expected, atol=6e-4)
    if method == "euler_maruyama":
        h = found[0].steps
        first, second = (1 + MU * h) ** (1 / h), ((1 + MU * h) ** 2 + VOL**2 * h) ** (1 / h)
        np.testing.assert_allclose(found[0].errors, np.abs(first - exact[0]), rtol=1e-9)
        np.testing.assert_allclose(found[1].errors, np.abs(second - exact[1]), rtol=1e-9)


def test_weak_orders_kill_a_wrong_root(x64):
    exact = gbm_moments(1.0, 1.0, drift=MU, volatility=VOL)

    def wrong(sde, t, y, h, dw):
        return euler_maruyama(sde, t, y, h, 1.01 * dw)

    found = weak_order_moments(GBM, 1.0, 0.0, 1.0, exact=exact, method=wrong)
    assert abs(found[0].order - 1) < 0.05 and abs(found[1].order - 1) > 0.05


def test_all_paths_give_the_moments_of_the_quadrature(x64):
    """Three points agree with the normal law up to the fifth power of each step."""
    moments, options = (
        gbm_moments(1.0, 1.0, drift=MU, volatility=VOL),
        {"method": "euler_maruyama", "num_steps": (1, 3)},
    )
    points = weak_order_enumerated(
        GBM, jnp.ones(1), 0.0, 1.0, functional=lambda y: y[0] ** 3, exact=float(moments[2]),
        **options,
    )  # fmt: skip
    nodes = weak_order_moments(GBM, 1.0, 0.0, 1.0, exact=moments, **options)[2]
    np.testing.assert_allclose(points.errors, nodes.errors, rtol=1e-11)


OU = SDE(lambda t, x: -1.3 * x, lambda t, x: jnp.asarray(0.7, x.dtype), "additive")
DATA_MEAN, DATA_VARIANCE = 1.5, 0.3


def test_the_recursion_of_euler_maruyama_keeps_its_own_variance(x64):
    """At h = 0.1 the stationary variance 0.201563 is a fixed point, 0.188462 is not."""
    stationary = 0.7**2 / (2 * 1.3 - 1.3**2 * 0.1)
    exact = 0.7**2 / (2 * 1.3)
    assert (round(stationary, 6), round(exact, 6)) == (0.201563, 0.188462)
    found = weak_order_moments(
        OU, jnp.array([0.0, stationary]), 0.0, 0.8, exact=np.array([0.0, stationary]),
        method="euler_maruyama", num_steps=(4, 8),
    )[1]  # fmt: skip
    assert found.errors[1] < 1e-15 < 1e-3 < found.errors[0]


def check_reversed(reverse_fn, stochasticity):
    """Backwards from the law at t = 1 the moments of Gaussian data return, to weak order one."""
    law = {"rate": 1.3, "mean": 0.0, "scale": 0.7}

    def score_fn(t, x):
        mean, noise = ou_moments(DATA_MEAN, t, **law)
        return (mean - x) / (noise + jnp.exp(-2.6 * t) * DATA_VARIANCE)

    mean, noise = ou_moments(DATA_MEAN, 1.0, **law)
    variance = noise + jnp.exp(-2.6) * DATA_VARIANCE
    back = reverse_fn(OU, score_fn, stochasticity=stochasticity)
    found = weak_order_moments(
        back, jnp.stack([mean, variance + mean**2]), 1.0, 0.0, method="euler_maruyama",
        exact=np.array([DATA_MEAN, DATA_VARIANCE + DATA_MEAN**2]), num_steps=(512, 1024, 2048),
    )  # fmt: skip
    for order in found:
        assert abs(order.order - 1) < 0.05
        assert 2 * order.errors[-1] < 0.02  # what is left at this step, and no more


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_the_reversed_equation_and_the_flow_give_gaussian_data_back(x64, stochasticity):
    check_reversed(reverse_sde, stochasticity)


def test_the_way_back_kills_wrong_noise_and_wrong_scores(x64):
    def wrong_noise(sde, score_fn, *, stochasticity):
        back = reverse_sde(sde, score_fn, stochasticity=stochasticity)
        return back._replace(diffusion=lambda t, x: 1.1 * back.diffusion(t, x))

    def half_score(sde, score_fn, *, stochasticity):
        return reverse_sde(sde, lambda t, x: 0.5 * score_fn(t, x), stochasticity=stochasticity)

    for mutant in (wrong_noise, half_score):
        with pytest.raises(AssertionError):
            check_reversed(mutant, 1.0)


def check_strong(method, expected, num_paths, sde=GBM, counts=(8, 16, 32, 64, 128, 256, 512)):
    found = strong_order(
        KEY, sde, jnp.ones(1), 0.0, 1.0, method=method, exact_fn=gbm_end, num_steps=counts,
        num_paths=num_paths,
    )  # fmt: skip
    assert abs(found.order - expected) < 0.1
    assert found.standard_error < 0.05
    return found


def test_strong_order_of_milstein_on_few_paths():
    check_strong("milstein", 1.0, 1000, counts=(32, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "expected"), [("euler_maruyama", 0.5), ("milstein", 1.0), ("stochastic_heun", 1.0)]
)
def test_strong_orders_on_twenty_thousand_paths(x64, method, expected):
    found = check_strong(method, expected, 20_000)
    assert found.usable.all() and found.errors.shape == (7,)


@pytest.mark.slow
def test_strong_order_without_an_exact_end(x64):
    """The finest grid stands for the truth; additive noise lifts Euler-Maruyama to order one."""
    bent = SDE(lambda t, x: jnp.sin(3 * x) - x, lambda t, x: jnp.ones(()), "additive")
    found = strong_order(
        KEY, bent, jnp.ones(2), 0.0, 1.0, method="euler_maruyama", num_steps=(16, 32, 64),
        num_paths=2000,
    )  # fmt: skip
    assert abs(found.order - 1) < 0.1


@pytest.mark.slow
def test_strong_orders_kill(monkeypatch):
    def doubled(sde, t, y, h, dw):
        plain = euler_maruyama(sde, t, y, h, dw)
        return plain + 2 * (milstein(sde, t, y, h, dw) - plain)

    with pytest.raises(AssertionError):
        check_strong(doubled, 1.0, 1000, counts=(32, 64, 128))
    monkeypatch.setattr(
        "probjax.diffeq.convergence.coarsen", lambda dw, factor: coarsen(dw, factor) / factor
    )
    with pytest.raises(AssertionError):
        check_strong("milstein", 1.0, 1000, counts=(32, 64, 128))


def test_what_the_stochastic_orders_refuse():
    with pytest.raises(ValueError, match="num_steps must divide the last of them, 16, got 12"):
        strong_order(
            KEY, GBM, jnp.ones(1), 0.0, 1.0, method="milstein", exact_fn=gbm_end,
            num_steps=(12, 16),
        )  # fmt: skip
    bent = GBM._replace(drift=lambda t, x: jnp.sin(x))
    with pytest.raises(ValueError, match="drift and diffusion must be affine"):
        weak_order_moments(
            bent, 1.0, 0.0, 1.0, exact=np.ones(2), method="euler_maruyama", num_steps=(2, 4)
        )
    wide = GBM._replace(noise="diagonal")
    with pytest.raises(ValueError, match="driven by one Brownian motion, got 2"):
        weak_order_enumerated(
            wide, jnp.ones(2), 0.0, 1.0, functional=jnp.sum, exact=1.0, method="milstein"
        )
