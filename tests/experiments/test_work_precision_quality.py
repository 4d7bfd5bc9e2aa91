"""Slopes, flags and the verdict, from made-up numbers."""

import numpy as np
import pytest

from probjax.experiments import work_precision_quality as quality

STEPS = [64, 128, 256, 512]


def test_the_finest_usable_pair_counts():
    errors = [1e-2, 1e-2 / 16, 1e-2 / 256, 1e-16]
    found = quality.slope(STEPS, errors, [1e-13] * 4)
    assert np.isclose(found["slope"], -4) and found["steps"] == [128, 256]
    assert found["flag"] is None


@pytest.mark.parametrize(
    ("errors", "flag"),
    [
        ([1e-14, 1e-15, 1e-15, 1e-15], "rounding"),
        ([np.inf, np.inf, np.inf, np.inf], "pre-asymptotic"),
        ([1e-1, 1e-2, 1e-4, 1e-5], "pre-asymptotic"),
        ([8.0, 4.0, 2.0, 1.0], "pre-asymptotic"),
        ([np.inf, 1e-2, 1e-3, 1e-16], "pre-asymptotic"),
    ],
)
def test_slopes_that_say_nothing_are_flagged(errors, flag):
    assert quality.slope(STEPS, errors, [1e-13] * 4)["flag"] == flag


def fixed(problem, slope, flag=None, solver="rk4"):
    return {"problem": problem, "solver": solver, "slope": slope, "flag": flag}


@pytest.mark.parametrize(
    ("cell", "judged"),
    [
        (fixed("kepler", -4.19), "pass"),
        (fixed("kepler", -4.21), "fail"),
        (fixed("kepler", 4.0), "fail"),
        (fixed("kepler", -5.0, "pre-asymptotic"), "review"),
        (fixed("kepler", None, "rounding"), "review"),
        (fixed("pleiades", -5.0), "pass"),
        (fixed("pendulum", -3.9, solver="yoshida6"), "fail"),
        ({"problem": "kepler", "solver": "adaptive_tsit5", "factor": 9299.0}, "pass"),
        ({"problem": "kepler", "solver": "adaptive_tsit5", "factor": 9301.0}, "fail"),
        ({"problem": "kepler", "solver": "scipy_dop853", "factor": 9301.0}, "review"),
        ({"problem": "kepler", "solver": "adaptive_tsit5", "factor": None}, "fail"),
    ],
)
def test_the_verdict(cell, judged):
    found = quality.verdict([cell, fixed("pendulum", -4.0)])
    assert found["verdict"] == judged and bool(found["reasons"]) == (judged != "pass")
    if judged != "pass":
        assert found["reasons"][0].startswith(f"{cell['problem']}/{cell['solver']}: ")
    assert found["checks"]["pendulum: slope and order"]["limit"] == 0.2
