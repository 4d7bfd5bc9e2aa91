"""Higher order as systems: closed solutions, the companion matrix, mutants."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import pytest

from probjax.diffeq import as_first_order, companion_matrix
from probjax.diffeq.runge_kutta import solve_fixed

COEFFICIENTS = np.array([6.0, 11.0, 6.5])  # y''' + 6.5 y'' + 11 y' + 6 y = 0
ROOTS = np.roots([1.0, *COEFFICIENTS[::-1]])


def exact(t):
    """A solution and its two derivatives: a sum of exponentials with lopsided weights."""
    weights = np.array([1.0, -0.4, 0.7])
    return np.real(np.stack([np.sum(weights * ROOTS**k * np.exp(ROOTS * t)) for k in range(3)]))


def third(t, z, args):
    return -(args[0] * z[0] + args[1] * z[1] + args[2] * z[2])


def check_system(as_first_order):
    field = as_first_order(third, 3)
    start = tuple(jnp.asarray(x) for x in exact(0.0))
    solve = jax.jit(lambda y0: solve_fixed(field, y0, 0.0, 1.0, num_steps=200, args=COEFFICIENTS).y)
    np.testing.assert_allclose(np.stack(solve(start)), exact(1.0), atol=1e-8)


def check_matrix(companion_matrix):
    matrix = np.asarray(companion_matrix(jnp.asarray(COEFFICIENTS)))
    np.testing.assert_allclose(np.poly(matrix), [1.0, *COEFFICIENTS[::-1]], rtol=1e-12)
    moved = matrix @ exact(0.3)
    np.testing.assert_allclose(moved[:2], exact(0.3)[1:], rtol=1e-12)
    assert np.trace(matrix) == -COEFFICIENTS[-1]


def test_a_system_has_the_solutions_of_its_equation(x64):
    check_system(as_first_order)


def test_a_companion_matrix_has_the_equation_as_polynomial(x64):
    check_matrix(companion_matrix)
    theirs = jax.scipy.linalg.companion(jnp.array([1.0, *COEFFICIENTS[::-1]]))
    assert not np.allclose(theirs, companion_matrix(jnp.asarray(COEFFICIENTS)))


SYSTEM_MUTANTS = {
    "derivatives not shifted": lambda f, n: lambda t, y, a: (*y[:-1], f(t, y, a)),
    "highest first": lambda f, n: lambda t, y, a: (f(t, y, a), *y[:-1]),
    "derivatives read backwards": lambda f, n: lambda t, y, a: (*y[1:], f(t, y[::-1], a)),
}
MATRIX_MUTANTS = {
    "sign of the last row": lambda a: companion_matrix(-a),
    "coefficients read from the top": lambda a: companion_matrix(a[::-1]),
    "transposed": lambda a: companion_matrix(a).T,
    "the other layout": lambda a: jax.scipy.linalg.companion(
        jnp.concatenate([jnp.ones(1, a.dtype), a[::-1]])
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEM_MUTANTS)
def test_the_checks_kill_systems(x64, name):
    with pytest.raises(AssertionError):
        check_system(SYSTEM_MUTANTS[name])


@pytest.mark.parametrize("name", MATRIX_MUTANTS)
def test_the_checks_kill_matrices(x64, name):
    with pytest.raises(AssertionError):
        check_matrix(MATRIX_MUTANTS[name])


def test_a_circuit_settles_at_its_amplitude(x64):
    """L q'' + R q' + q / C = e0 cos(w t): the amplitude after the start has died away."""
    inductance, resistance, capacity, omega = 1.0, 0.5, 0.25, 1.5
    reactance = 1 / capacity - inductance * omega**2
    amplitude = 1 / np.hypot(reactance, resistance * omega)
    assert abs(amplitude - 0.525226) < 5e-7

    def circuit(t, q, args):
        return (jnp.cos(omega * t) - resistance * q[1] - q[0] / capacity) / inductance

    solve = jax.jit(
        lambda y0: solve_fixed(as_first_order(circuit, 2), y0, 0.0, 150.0, num_steps=6000).y
    )
    q, current = solve((jnp.array(0.3), jnp.array(0.0)))
    assert abs(np.hypot(q, current / omega) - amplitude) < 1e-7


def test_unknowns_may_be_trees():
    field = as_first_order(lambda t, z, args: jax.tree.map(jnp.negative, z[0]), 2)
    y = {"a": jnp.ones(2), "b": jnp.zeros(())}
    v = {"a": jnp.full(2, 3.0), "b": jnp.ones(())}
    first, second = field(0.0, (y, v), None)
    assert first is v and (second["a"] == -1).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        as_first_order(third, 0)
    with pytest.raises(ValueError, match="y must hold 3 parts, .* got 2"):
        as_first_order(third, 3)(0.0, (jnp.ones(()), jnp.ones(())), COEFFICIENTS)
    with pytest.raises(ValueError, match=r"coefficients must be a non-empty vector, got shape \(0"):
        companion_matrix(jnp.zeros(0))
    with pytest.raises(TypeError, match="coefficients must be floating or complex, got int32"):
        companion_matrix(jnp.arange(3))
