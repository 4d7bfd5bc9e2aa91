"""Interpolants: their conditions, SciPy's and diffrax's, orders between the steps, mutants."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from probjax.diffeq import dense_output, tableaus
from probjax.diffeq.adaptive import solve_adaptive
from probjax.diffeq.runge_kutta import solve_fixed


def check_conditions(name, coefficients):
    """`b(theta)` is the method at 1, and quadrature of t^(q-1) over [0, theta] for q up to 4."""
    weights, tableau = np.asarray(coefficients), tableaus.METHODS[name]
    c = np.asarray(tableau.c, float)
    np.testing.assert_allclose(weights.sum(1), np.asarray(tableau.b, float), atol=1e-13)
    for theta in (0.2, 0.7):
        at = weights @ theta ** np.arange(1, 5)
        for q in range(1, 5):
            np.testing.assert_allclose(at @ c ** (q - 1), theta**q / q, atol=1e-13)
        a = np.zeros((7, 7))
        for i, row in enumerate(tableau.a):
            a[i, : len(row)] = [float(x) for x in row]
        np.testing.assert_allclose(at @ a @ c, theta**3 / 6, atol=1e-13)
        np.testing.assert_allclose(at @ a @ a @ c, theta**4 / 24, atol=1e-13)
    slope = np.zeros(7)
    slope[0] = 1.0
    np.testing.assert_allclose(weights[:, 0], slope, atol=1e-13)  # it leaves along the first stage


@pytest.mark.parametrize("name", dense_output.NATIVE)
def test_native_weights(name):
    check_conditions(name, dense_output.NATIVE[name])


@pytest.mark.parametrize("name", dense_output.NATIVE)
def test_the_check_kills_wrong_weights(name):
    rows = [list(row) for row in dense_output.NATIVE[name]]
    for i, j in ((0, 1), (4, 2), (6, 3)):
        mutant = [list(row) for row in rows]
        mutant[i][j] *= -1
        with pytest.raises(AssertionError):
            check_conditions(name, mutant)
    with pytest.raises(AssertionError):
        check_conditions(name, rows[::-1])


def test_weights_are_scipys():
    np.testing.assert_allclose(
        dense_output.NATIVE["dormand_prince"], scipy.integrate.RK45.P, rtol=1e-14
    )


def rotate(t, y, args):
    return jnp.stack([y[1], -y[0] * args])


TIMES = np.linspace(0.0, 3.0, 31)


def error(num_steps, method):
    @jax.jit
    def run(y0):
        rows = solve_fixed(
            rotate, y0, 0.0, 3.0, num_steps=num_steps, method="dormand_prince", args=1.0,
            save_every=1,
        )  # fmt: skip
        return dense_output.dense_output(rotate, rows, args=1.0, method=method)(TIMES)

    return np.abs(run(jnp.array([0.0, 1.0]))[:, 0] - np.sin(TIMES)).max()


@pytest.mark.parametrize("method, order", [(None, 4), ("dormand_prince", 5)])
def test_orders_between_the_steps(x64, method, order):
    assert abs(np.log2(error(8, method) / error(16, method)) - order) < 0.35


def test_between_accepted_steps_backwards(x64):
    @jax.jit
    def run(y0):
        steps = solve_adaptive(
            rotate, y0, 3.0, 0.0, args=1.0, rtol=1e-9, atol=1e-9, save_at="steps", max_steps=100
        )
        between = dense_output.dense_output(rotate, steps, args=1.0, method="tsit5")
        return steps, between(TIMES), between(jnp.array([[-0.1], [3.1]])), between(steps.t[2])

    steps, rows, outside, at_step = run(jnp.array([np.sin(3.0), np.cos(3.0)]))
    np.testing.assert_allclose(rows[:, 0], np.sin(TIMES), atol=1e-7)
    assert outside.shape == (2, 1, 2) and np.isnan(outside).all()
    np.testing.assert_allclose(at_step, steps.y[2], rtol=1e-14)


def test_a_solution_without_steps_is_named():
    end = solve_fixed(lambda t, y, args: -y, jnp.ones(()), 0.0, 1.0, num_steps=2)
    with pytest.raises(ValueError, match="row for every step, got t of shape"):
        dense_output.dense_output(lambda t, y, args: -y, end)


@pytest.mark.slow
def test_tsit5_is_diffraxs(x64):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rotate), diffrax.Tsit5(), 0.0, 3.0, 0.25, jnp.array([0.0, 1.0]), 1.3,
            saveat=diffrax.SaveAt(dense=True), max_steps=16,
        )  # fmt: skip
        theirs = jax.vmap(solution.evaluate)(jnp.asarray(TIMES))
    rows = solve_fixed(
        rotate, jnp.array([0.0, 1.0]), 0.0, 3.0, num_steps=12, method="tsit5", args=1.3,
        save_every=1,
    )  # fmt: skip
    ours = dense_output.dense_output(rotate, rows, args=1.3, method="tsit5")(TIMES)
    np.testing.assert_allclose(ours, theirs, atol=1e-13)
