"""Linear systems: fundamental matrices by every method, propagators, forcing, the adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from probjax.diffeq import tableaus
from probjax.diffeq.linear_systems import (
    adjoint_solution,
    fundamental_matrix,
    propagator,
    variation_of_parameters,
)

CONSTANT = np.array([[0.1, -1.0, 0.3], [0.8, 0.2, 0.0], [-0.4, 0.5, -0.6]])
WAVE = np.array([[0.0, 0.7, 0.2], [-0.3, 0.4, 1.0], [0.5, 0.0, -0.2]])
TIMES = np.array([0.0, 0.4, 1.0])


def A_fn(t):
    return CONSTANT + jnp.cos(2 * t) * WAVE


def b_fn(t):
    return jnp.stack([jnp.sin(3 * t), t, 0.5 + 0 * t])


@jax.jit
def solved(nu0, y0):
    phi = fundamental_matrix(A_fn, 0.0, TIMES, method="magnus6", num_steps=32)
    by_rk = fundamental_matrix(A_fn, 0.0, TIMES, method=tableaus.butcher6, num_steps=32)
    moves = propagator(A_fn, 1.0, 0.4, method="magnus6", num_steps=32)
    nu = adjoint_solution(A_fn, 0.0, TIMES, nu0, method="magnus6", num_steps=32)
    args = A_fn, b_fn, 0.0, TIMES, y0
    forced = variation_of_parameters(*args, method="magnus6", num_steps=32)
    return phi, by_rk, moves, nu, forced


NU0, Y0 = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -1.0])


def test_methods_agree_and_propagators_compose(x64):
    phi, by_rk, moves, *_ = map(np.asarray, solved(NU0, Y0))
    np.testing.assert_array_equal(phi[0], np.eye(3))
    np.testing.assert_allclose(by_rk, phi, atol=1e-9)
    np.testing.assert_allclose(moves @ phi[1], phi[2], atol=1e-9)
    constant = jax.jit(lambda t: propagator(lambda t: CONSTANT, t, 0.5, num_steps=1))
    np.testing.assert_allclose(constant(-0.7), scipy.linalg.expm(-1.2 * CONSTANT), atol=1e-14)


def check_adjoint(phi, nu):
    """The product with every solution stays; so does its direction: not with any other matrix."""
    products = np.einsum("ti,tij->tj", nu, phi)
    np.testing.assert_allclose(products, np.broadcast_to(NU0, products.shape), atol=1e-9)


def test_the_adjoint_keeps_products(x64):
    phi, _, _, nu, _ = solved(NU0, Y0)
    check_adjoint(phi, nu)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [lambda t: A_fn(t).T, lambda t: -A_fn(t)])
def test_the_check_kills_other_adjoints(x64, mutant):
    """A for its transpose: the solver transposes and turns the sign once more."""
    phi = solved(NU0, Y0)[0]
    nu = jax.jit(lambda v: adjoint_solution(mutant, 0.0, TIMES, v, method="magnus6", num_steps=32))
    with pytest.raises(AssertionError):
        check_adjoint(phi, nu(NU0))


def test_forcing_is_the_integral_of_the_propagated_force(x64):
    phi, *_, forced = map(np.asarray, solved(NU0, Y0))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    nodes, weights = 0.5 + 0.5 * nodes, 0.5 * weights
    run = jax.jit(lambda ts: fundamental_matrix(A_fn, 0.0, ts, method="magnus6", num_steps=8))
    inside = np.asarray(run(nodes))
    pulled = np.linalg.solve(inside, np.asarray(jax.vmap(b_fn)(jnp.asarray(nodes)))[..., None])
    truth = phi[2] @ (Y0 + weights @ pulled[..., 0])
    np.testing.assert_allclose(forced[2], truth, atol=1e-9)
    np.testing.assert_array_equal(forced[0], Y0)


def test_bad_input_is_named():
    eye, ts = lambda t: jnp.eye(2), jnp.array([1.0])
    with pytest.raises(ValueError, match="method must be one of 'magnus2', .* got 'rk5'"):
        fundamental_matrix(eye, 0.0, ts, method="rk5", num_steps=1)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        fundamental_matrix(eye, 0.0, ts, num_steps=0)
    with pytest.raises(ValueError, match=r"A_fn\(t\) must have shape \(n, n\), got \(2, 3\)"):
        fundamental_matrix(lambda t: jnp.ones((2, 3)), 0.0, ts, num_steps=1)
    with pytest.raises(ValueError, match=r"ts\[1\]=0.5 does not follow ts\[0\]=1.0"):
        fundamental_matrix(eye, 0.0, jnp.array([1.0, 0.5, 2.0]), num_steps=1)


def test_programs_lower_for_an_accelerator():
    def both(y0):
        args = lambda t: jnp.eye(3), lambda t: y0, 0.0, jnp.array([1.0]), y0
        return variation_of_parameters(*args, method="magnus6", num_steps=2)

    jax.jit(both).trace(jnp.ones(3)).lower(lowering_platforms=("cuda",))
