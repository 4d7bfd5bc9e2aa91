import math

import numpy as np
import pytest

from probjax.diffeq import tableaus
from probjax.diffeq.stability import (
    imaginary_limit,
    real_limit,
    stability_function,
    stability_polynomial,
)


@pytest.mark.parametrize("name", tableaus.METHODS)
def test_begins_like_the_exponential(name):
    tableau = tableaus.METHODS[name]
    for k, x in enumerate(stability_polynomial(tableau)[: tableau.order + 1]):
        assert abs(x - 1 / math.factorial(k)) <= 1e-13
    after = stability_polynomial(tableau)[tableau.order + 1 :]
    if after:
        assert abs(after[0] - 1 / math.factorial(tableau.order + 1)) > 1e-6


def test_limits_that_are_known():
    known = {"euler": (-2.0, 0.0), "heun": (-2.0, 0.0), "dormand_prince": (-3.3066, 0.9972)}
    known |= {name: (-2.5127, math.sqrt(3)) for name in ("kutta3", "heun3", "ssprk3")}
    known |= {name: (-2.7853, 2 * math.sqrt(2)) for name in ("rk4", "three_eighths")}
    for name, (real, imaginary) in known.items():
        tableau = tableaus.METHODS[name]
        assert math.isclose(real_limit(tableau), real, abs_tol=5e-5)
        assert math.isclose(imaginary_limit(tableau), imaginary, abs_tol=5e-5)


@pytest.mark.parametrize("name", tableaus.METHODS)
def test_limits_are_where_the_factor_leaves_the_disc(name):
    tableau = tableaus.METHODS[name]
    for end, direction in ((-real_limit(tableau), -1.0), (imaginary_limit(tableau), 1j)):
        inside = np.linspace(0, end, 301)[1:] * (1 - 1e-9)
        assert (np.abs(stability_function(tableau, direction * inside)) <= 1 + 1e-12).all()
        beyond = end * 1.01 + 0.2
        assert np.abs(stability_function(tableau, direction * beyond)) > 1


def test_the_function_is_the_rational_expression():
    """R(z) = 1 + z b^T (I - z A)^-1 1, by solving instead of by powers."""
    tableau = tableaus.cash_karp
    s = tableau.num_stages
    A = np.zeros((s, s))
    for i, row in enumerate(tableau.a):
        A[i, :i] = [float(x) for x in row]
    for z in (-0.7, 1.3j, 0.4 - 2.1j):
        stages = np.linalg.solve(np.eye(s) - z * A, np.ones(s))
        expected = 1 + z * np.array([float(x) for x in tableau.b]) @ stages
        np.testing.assert_allclose(stability_function(tableau, z), expected, rtol=1e-13)
