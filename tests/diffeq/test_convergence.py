"""Slopes: exact powers, floors of rounding, standard errors, and what is refused."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.convergence import empirical_order, ode_order
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
