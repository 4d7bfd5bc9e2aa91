"""Optima, period and verdict of the hares and lynxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.experiments import predator_prey_quality as quality

BEST = {"value": 122.926, "starts": 90, "parameters": [*quality.ANCHOR_RATES, 34.6, 5.84, 0.2, 0.2]}
GOOD = {"num_starts": 256, "gradient": 0.01, "solver_error": 1e-5, "converged": 0.98}


def test_optima_are_gathered_from_the_lowest():
    values = np.array([167.2, 122.93, np.nan, 122.926, np.inf, 167.21, 166.3])
    ends = np.log(np.arange(1.0, 8.0))[:, None]
    found = quality.optima(ends, values)
    assert [one["value"] for one in found] == [122.926, 166.3, 167.2]
    assert [one["starts"] for one in found] == [2, 1, 2]
    assert found[0]["parameters"] == pytest.approx([4.0])
    assert quality.optima(ends, np.full(7, np.inf)) == []


def test_a_chain_of_close_values_is_not_one_optimum():
    values = 100 + 0.015 * np.arange(5)
    assert [one["starts"] for one in quality.optima(np.zeros((5, 1)), values)] == [2, 2, 1]


def test_the_period_is_that_of_small_circles():
    """Near the equilibrium the period is 2 pi / sqrt(theta_1 theta_3)."""
    from probjax.experiments import predator_prey_model as model

    rates = (0.5, 0.1, 0.8, 0.2)
    v = jnp.log(jnp.array([*rates, 4.0 * 1.01, 5.0, 0.2, 0.2]))
    solve = jax.jit(lambda v: model.paths(v, num_years=60, steps_per_year=20, rows_per_year=20))
    found = quality.period(np.asarray(solve(v)), rates, 0.05)
    assert found == pytest.approx(2 * np.pi / np.sqrt(0.4), rel=1e-3)
    assert np.isnan(quality.period(np.zeros((5, 2)), rates, 0.1))


@pytest.mark.parametrize(
    ("best", "settings", "word", "reason"),
    [
        ({}, {}, "pass", None),
        ({"value": 122.94}, {}, "review", "the best value 122.940 is more than 0.01 away"),
        ({"value": 122.91}, {}, "review", "the best value 122.910 is more than 0.01 away"),
        ({"starts": 1}, {}, "review", "one of 256 starts alone"),
        ({"parameters": [0.56, 0.02716, 0.7966, 0.0237]}, {}, "review", "a rate is 3.7 % away"),
        ({"parameters": [0.54, 0.02716, 1.1, 0.0237]}, {}, "review", "a rate is 3.4 posterior"),
        ({}, {"gradient": 0.3}, "fail", "the gradient at the best fit is 0.3, above 0.1"),
        ({}, {"solver_error": 0.01}, "fail", "half the steps of the solver move the best value"),
        ({}, {"solver_error": np.nan}, "fail", "half the steps of the solver move the best value"),
        ({}, {"converged": 0.5}, "review", "50 % of the fits have a gradient above 0.1"),
    ],
)
def test_the_verdict(best, settings, word, reason):
    gate = quality.verdict([BEST | best], **(GOOD | settings))
    assert gate["verdict"] == word
    assert any(reason in r for r in gate["reasons"]) if reason else not gate["reasons"]


def test_no_fit_at_all_fails():
    gate = quality.verdict([], **(GOOD | {"gradient": np.inf, "solver_error": np.inf}))
    assert gate["verdict"] == "fail" and gate["reasons"] == ["no fit has a finite value"]
