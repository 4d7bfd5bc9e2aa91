"""Exponential integrators: phi functions, exact cases, orders, Runge-Kutta limits, mutants."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from probjax.diffeq import (
    NON_FINITE,
    etd2rk,
    etdrk4,
    exponential_euler,
    phi_functions,
    solve_exponential,
    tableaus,
)
from probjax.diffeq.runge_kutta import rk_step, solve_fixed

METHODS = {"exponential_euler": exponential_euler, "etd2rk": etd2rk, "etdrk4": etdrk4}
ORDERS = {"exponential_euler": 1, "etd2rk": 2, "etdrk4": 4}
POINTS = np.array([-30.0, -2.0, -1.0, -0.999, -1e-3, -1e-9, 0.0, 1e-6, 0.3, 1.0, 1.7, 5.0])


def exact_phi(z, j):
    """The series in rationals."""
    z, total, term = Fraction(float(z)), Fraction(0), Fraction(1, math.factorial(j))
    for m in range(200):
        total += term
        term = term * z / (m + 1 + j)
        term = term.limit_denominator(10**60) if term.denominator > 10**80 else term
    return float(total)


def check_phi(phi_functions):
    found = jax.jit(lambda z: phi_functions(z, 3))(POINTS)
    expected = np.array([[exact_phi(z, j) for z in POINTS] for j in range(4)])
    np.testing.assert_allclose(np.array(found), expected, rtol=2e-14)


def test_phi_functions_of_numbers(x64):
    check_phi(phi_functions)


PHI_MUTANTS = {
    "one off": lambda z, k: phi_functions(z, k + 1)[1:],
    "recursion without its constant": lambda z, k: tuple(jnp.exp(z) / z**j for j in range(k + 1)),
    "recursion everywhere": lambda z, k: functools.reduce(
        lambda found, j: (*found, (found[-1] - 1 / math.factorial(j - 1)) / z),
        range(1, k + 1),
        (jnp.exp(z),),
    ),
}


@pytest.mark.parametrize("name", PHI_MUTANTS)
def test_the_check_kills_phi(x64, name):
    with pytest.raises(AssertionError):
        check_phi(PHI_MUTANTS[name])


def test_phi_functions_of_a_matrix_are_those_of_its_eigenvalues(x64):
    basis = np.array([[1.0, 0.3, -0.2], [0.1, 1.0, 0.4], [-0.5, 0.2, 1.0]])
    values = np.array([-2.0, 0.4, 0.0])
    z = basis @ np.diag(values) @ np.linalg.inv(basis)
    dense, entries = jax.jit(lambda z, v: (phi_functions(z, 3), phi_functions(v, 3)))(z, values)
    for phi, diagonal in zip(dense, entries, strict=True):
        np.testing.assert_allclose(
            phi, basis @ np.diag(diagonal) @ np.linalg.inv(basis), atol=1e-13
        )
    singular = np.array([[0.0, 1.0], [0.0, 0.0]])
    for j, phi in enumerate(jax.jit(lambda z: phi_functions(z, 2))(singular)):
        expected = np.eye(2) / math.factorial(j) + singular / math.factorial(j + 1)
        np.testing.assert_allclose(phi, expected, atol=1e-15)


def test_phi_functions_of_complex_numbers_and_their_slopes(x64):
    z = np.array([0.3 + 0.4j, -2.0 + 3.0j, 0.999j, 1.001j])
    phis = jax.jit(lambda z: phi_functions(z, 2))(z)
    for above, below, j in zip(phis[1:], phis[:-1], range(2), strict=True):
        np.testing.assert_allclose(z * above, below - 1 / math.factorial(j), rtol=1e-13)
    # z phi_1' = phi_0 - phi_1, at both sides of the border and at its centre.
    at = jnp.array([0.0, 0.5, 2.0])
    slope = jax.jit(jax.vmap(jax.grad(lambda z: phi_functions(z, 1)[1])))(at)
    expected = [0.5, *((np.exp(v) - (np.exp(v) - 1) / v) / v for v in (0.5, 2.0))]
    np.testing.assert_allclose(slope, expected, rtol=1e-13)


def test_a_polynomial_rest_is_exact(x64):
    """N = constant for order 1, N linear in t for order 2, N quadratic in t for order 4."""
    linear, y0 = np.array([-3.0, 0.5]), np.array([1.0, -2.0])

    def exact(coefficients, t):
        """y = e^(Lt) y0 + sum_k k! t^(k+1) phi_(k+1)(Lt) c_k."""
        total = np.exp(linear * t) * y0
        for k, c in enumerate(coefficients):
            phi = np.array([exact_phi(v * t, k + 1) for v in linear])
            total += math.factorial(k) * t ** (k + 1) * phi * c
        return total

    coefficients = [np.array([1.0, 0.3]), np.array([-0.7, 2.0]), np.array([0.5, -0.4])]
    for name, degree in (("exponential_euler", 0), ("etd2rk", 1), ("etdrk4", 2)):
        kept = coefficients[: degree + 1]

        def rest(t, y, kept=kept):
            return functools.reduce(lambda total, c: total * t + c, kept[::-1], jnp.zeros(2))

        solve = jax.jit(
            lambda y0, rest=rest, name=name: (
                solve_exponential(linear, rest, y0, 0.0, 1.2, num_steps=3, method=name).y
            )
        )
        np.testing.assert_allclose(solve(y0), exact(kept, 1.2), rtol=1e-13)


LINEAR = np.array([[-0.8, 0.5], [-0.2, -0.3]])
START = np.array([0.9, -0.3])


def rest(t, y):
    return jnp.stack([jnp.sin(2 * t) * y[1] - y[0] ** 2, jnp.cos(t) + y[0] * y[1]])


def field(t, y, args):
    return jnp.asarray(LINEAR) @ y + rest(t, y)


@functools.cache
def reference():
    return np.asarray(jax.jit(lambda y: solve_fixed(field, y, 0.0, 1.0, num_steps=4000).y)(START))


def slope(make, counts):
    @jax.jit
    def end(num_steps, h):
        step = make(jnp.asarray(LINEAR), h)
        body = lambda k, y: step(rest, k * h, y)
        return jax.lax.fori_loop(0, num_steps, body, jnp.asarray(START))

    errors = [np.abs(end(n, 1 / n) - reference()).max() for n in counts]
    return np.log2(errors[-2] / errors[-1])


def check_order(make, order, counts=(64, 128)):
    assert abs(slope(make, counts) - order) < 0.1


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "etdrk4" else pytest.mark.slow) for n in METHODS]
)
def test_orders(x64, name):
    check_order(METHODS[name], ORDERS[name])


def test_without_a_linear_part_they_are_runge_kutta(x64):
    """Exponential Euler is Euler, ETD2RK Heun, ETDRK4 the classical method."""
    nothing, y = jnp.zeros(2), jnp.asarray(START)

    @jax.jit
    def both(y):
        ours = [make(nothing, 0.3)(rest, 0.2, y) for make in METHODS.values()]
        theirs = [
            rk_step(t, lambda t, y, args: rest(t, y), 0.2, y, 0.3, None)[0]
            for t in (tableaus.euler, tableaus.heun, tableaus.rk4)
        ]
        return ours, theirs

    for ours, theirs in zip(*both(y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_a_diagonal_is_its_matrix(x64):
    diagonal = jnp.array([-2.0, 0.7])

    ours, theirs = jax.jit(
        lambda y: [etdrk4(linear, 0.3)(rest, 0.2, y) for linear in (diagonal, jnp.diag(diagonal))]
    )(jnp.asarray(START))
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_order_one_and_two_take_a_matrix_too(x64):
    """Their phi functions are those of the method of order 4; a constant rest shows all."""
    matrix, y = jnp.asarray(LINEAR), jnp.asarray(START)

    @jax.jit
    def both(y):
        full, phi1, phi2 = phi_functions(0.3 * matrix, 2)
        n0, euler = rest(0.2, y), full @ y + 0.3 * phi1 @ rest(0.2, y)
        second = euler + 0.3 * phi2 @ (rest(0.5, euler) - n0)
        ours = [make(matrix, 0.3)(rest, 0.2, y) for make in (exponential_euler, etd2rk)]
        return ours, [euler, second]

    for ours, theirs in zip(*both(y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def _etd2_without_phi2(linear, h):
    full, phi1 = phi_functions(h * linear, 1)

    def step(n, t, y):
        n0 = n(t, y)
        a = full @ y + h * phi1 @ n0
        return a + 0.5 * h * phi1 @ (n(t, a) - n0)

    return step


def _etd2_weak(linear, h):
    full, phi1 = phi_functions(h * linear, 1)

    def step(n, t, y):
        n0 = n(t, y)
        a = full @ y + h * phi1 @ n0
        return a + h * phi1 @ (n(t + h, a) - n0)

    return step


def etdrk4_with(weights=(1, -3, 4, 2, -4, -1, 4), c_factor=2.0, half=0.5, start="a"):
    """The four stages with coefficients that can be spoilt."""

    def make(linear, h):
        full, phi1, phi2, phi3 = phi_functions(h * linear, 3)
        middle, psi = phi_functions(0.5 * h * linear, 1)
        w = weights

        def step(n, t, y):
            n0 = n(t, y)
            a = middle @ y + 0.5 * h * psi @ n0
            na = n(t + half * h, a)
            b = middle @ y + 0.5 * h * psi @ na
            nb = n(t + half * h, b)
            c = middle @ (a if start == "a" else b) + 0.5 * h * psi @ (
                c_factor * nb - (c_factor - 1) * n0
            )
            nc = n(t + h, c)
            return full @ y + h * (
                (w[0] * phi1 + w[1] * phi2 + w[2] * phi3) @ n0
                + (w[3] * phi2 + w[4] * phi3) @ (na + nb)
                + (w[5] * phi2 + w[6] * phi3) @ nc
            )

        return step

    return make


MUTANTS = {
    "exponential in place of phi 1, twice the field": (
        lambda linear, h: exponential_euler(linear, 2 * h), 1,
    ),
    "second stage at the old time": (_etd2_without_phi2, 2),
    "phi 1 for phi 2": (_etd2_weak, 2),
    "stage c from b": (etdrk4_with(start="b"), 4),
    "stage c with one slope": (etdrk4_with(c_factor=1.0), 4),
    "phi 2 and phi 3 swapped at the end": (etdrk4_with((1, -3, 4, 2, -4, 4, -1)), 4),
    "sign of the middle": (etdrk4_with((1, -3, 4, -2, 4, -1, 4)), 4),
    "stages at the end of the step": (etdrk4_with(half=1.0), 4),
}  # fmt: skip


@pytest.mark.slow
def test_the_mutants_are_made_of_the_method(x64):
    check_order(etdrk4_with(), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_order_kills(x64, name):
    make, order = MUTANTS[name]
    with pytest.raises(AssertionError):
        check_order(make, order)


def test_stiffness_costs_order_but_not_stability(x64):
    """Heat in a rod with a rest that does not vanish at its ends: order 4 falls to 2.

    With the mean for the integral, u = x (1 - x) e^t solves it up to the sum's error.
    """
    n = 31
    matrix = (n + 1) ** 2 * (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n))
    values, vectors = np.linalg.eigh(matrix)
    x = np.arange(1, n + 1) / (n + 1)
    y0 = vectors.T @ (x * (1 - x))

    def heated(t, y):
        source = jnp.mean(vectors @ y) + jnp.exp(t) * (x * (1 - x) + 2 - 1 / 6)
        return vectors.T @ source

    @jax.jit
    def end(count, h):
        step = etdrk4(values, h)
        body = lambda k, y: step(heated, k * h, y)
        return jax.lax.fori_loop(0, count, body, jnp.asarray(y0))

    truth = end(4096, 1 / 4096)
    errors = [np.abs(vectors @ (end(n, 1 / n) - truth)).max() for n in (8, 16, 32)]
    slopes = np.log2(errors[:-1]) - np.log2(errors[1:])
    # The largest |hL| is 512 at eight steps, where RK4 allows 2.8.
    assert errors[0] < 1e-4 and ((slopes > 1.5) & (slopes < 2.8)).all()


def test_complex_rows_backwards_and_flags(x64):
    linear, y0 = jnp.array([2j, -1.0 + 1j]), jnp.array([1.0 + 0j, 0.5j])

    @jax.jit
    def run(y0):
        rows = solve_exponential(
            linear, lambda t, y: 0.1 * y, y0, 0.0, 2.0, num_steps=40, save_every=20
        )
        back = solve_exponential(linear, lambda t, y: 0.1 * y, rows.y[-1], 2.0, 0.0, num_steps=40)
        lost = solve_exponential(
            linear, lambda t, y: jnp.where(t < 1.2, y, jnp.nan), y0, 0.0, 2.0, num_steps=4
        )
        return rows, back, lost

    rows, back, lost = run(y0)
    np.testing.assert_allclose(rows.t, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(rows.y[-1], y0 * np.exp(2 * (linear + 0.1)), rtol=1e-7)
    np.testing.assert_allclose(back.y, y0, rtol=1e-7)
    assert rows.stats.num_evaluations == 160
    assert lost.result == NON_FINITE and lost.stats.num_accepted == 2


def test_gradients_are_those_of_differences(x64):
    @jax.jit
    @jax.value_and_grad
    def end(rate):
        linear = rate * jnp.array([-1.0, 0.5])
        settings = {"num_steps": 4, "method": "etd2rk"}
        return solve_exponential(linear, rest, START, 0.0, 1.0, **settings).y.sum()

    slope = end(0.8)[1]
    assert abs(slope - (end(0.8 + 1e-5)[0] - end(0.8 - 1e-5)[0]) / 2e-5) < 1e-8


def test_matrix_exponential_is_that_of_scipy(x64):
    full, _ = jax.jit(lambda z: phi_functions(z, 1))(0.7 * LINEAR)
    np.testing.assert_allclose(full, scipy.linalg.expm(0.7 * LINEAR), rtol=1e-13)


def test_bad_arguments_are_named():
    y = jnp.ones(2)
    with pytest.raises(ValueError, match="method must be one of 'exponential_euler', 'etd2rk'"):
        solve_exponential(y, rest, y, 0.0, 1.0, num_steps=2, method="etd4")
    with pytest.raises(ValueError, match=r"linear must have shape .* got \(3,\) and \(2,\)"):
        solve_exponential(jnp.ones(3), rest, y, 0.0, 1.0, num_steps=2)
    with pytest.raises(TypeError, match="y0 must be complex where linear is"):
        solve_exponential(y.astype(complex), rest, y, 0.0, 1.0, num_steps=2)
    with pytest.raises(TypeError, match="must be like y"):
        solve_exponential(y, lambda t, y: y[:1], y, 0.0, 1.0, num_steps=2)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        solve_exponential(y, rest, y, 0.0, 1.0, num_steps=0)
    with pytest.raises(ValueError, match="z must be a number, a vector or a square matrix"):
        phi_functions(jnp.ones((2, 3)), 1)
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        phi_functions(y, -1)
