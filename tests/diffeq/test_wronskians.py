"""Liouville's formula on random systems, the quadratures, the adjoint invariant; mutants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.completion import generalized_cross
from probjax.diffeq.linear_systems import fundamental_matrix
from probjax.diffeq.wronskians import (
    adjoint_invariant,
    gauss_rule,
    liouville,
    liouville_defect,
    trace_integral,
    wronskian,
)

TIMES = np.array([0.0, 0.5, 1.5])


def matrix(parts):
    def A_fn(t):
        waves = jnp.stack([jnp.ones_like(t), jnp.cos(3 * t), jnp.sin(5 * t)])
        return jnp.tensordot(waves.astype(parts.dtype), parts, 1)

    return A_fn


def integral(parts):
    traces = np.trace(parts, axis1=1, axis2=2)
    waves = np.stack([TIMES, np.sin(3 * TIMES) / 3, (1 - np.cos(5 * TIMES)) / 5])
    return traces @ waves


@jax.jit
def solved(parts):
    A_fn = matrix(parts)
    phi = fundamental_matrix(A_fn, 0.0, TIMES, method="magnus6", num_steps=64)
    return phi, trace_integral(A_fn, 0.0, TIMES, panels=2), liouville(A_fn, 0.0, TIMES)


def check_liouville(parts, phi, log):
    np.testing.assert_allclose(log, integral(parts), atol=1e-12)
    assert np.abs(liouville_defect(jnp.asarray(phi), jnp.asarray(log))).max() <= 1e-10


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_the_determinant_follows_the_trace(x64, kind):
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(3, 4, 4))
    if kind == "complex":
        parts = parts + 1j * rng.normal(size=(3, 4, 4))
    phi, log, w = solved(parts)
    check_liouville(parts, phi, log)
    np.testing.assert_allclose(wronskian(phi), w, rtol=1e-9)
    swapped = phi[:, :, jnp.array([1, 0, 2, 3])]
    for mutant in (phi.at[:, 0].multiply(2.0), swapped, phi.at[:, 0].multiply(-1.0)):
        with pytest.raises(AssertionError):
            check_liouville(parts, mutant, log)
    with pytest.raises(AssertionError):
        check_liouville(parts, phi, -log)
    with pytest.raises(AssertionError):
        check_liouville(2 * parts, phi, log)


def test_the_defect_does_not_count_turns(x64):
    turned = jnp.asarray(np.diag(np.exp([2.0j, 3.0j])))
    assert liouville_defect(turned, jnp.array(5.0j)) < 1e-14
    np.testing.assert_allclose(liouville_defect(turned, jnp.array(0.3 + 5.4j)), 0.5, rtol=1e-12)


def check_invariant(parts, sign=1.0):
    phi, log, _ = solved(parts)
    nu = jax.jit(jax.vmap(generalized_cross))(phi[:, :, :-1])
    x = phi @ jnp.array([0.3, -1.0, 2.0, 0.7])
    found = adjoint_invariant(nu, x, sign * log)
    np.testing.assert_allclose(found, np.full(len(TIMES), found[0]), rtol=1e-9)


def test_the_normal_of_solutions_has_an_invariant(x64):
    parts = np.random.default_rng(2).normal(size=(3, 4, 4))
    check_invariant(parts)
    with pytest.raises(AssertionError):
        check_invariant(parts, sign=-1.0)


def test_nodes_integrate_up_to_each_other():
    nodes, weights, up_to = gauss_rule()
    for power in range(8):
        exact = nodes ** (power + 1) / (power + 1)
        np.testing.assert_allclose(up_to @ nodes**power, exact, atol=1e-15)
    for power in range(16):
        assert abs(weights @ nodes**power - 1 / (power + 1)) < 1e-15
