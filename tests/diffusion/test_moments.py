"""Moments against quadrature, weights against powers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.moments import interpolation_weights, moments

NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def quadrature(length, power):
    u = 0.5 * (NODES + 1)
    return length * np.sum(0.5 * WEIGHTS * np.exp(-length * (1 - u)) * u**power)


@pytest.mark.parametrize("length", [1e-6, 0.01, 0.6, 0.999999, 1.0, 1.3, 4.0, 12.0])
def test_moments_are_integrals(length):
    for power, value in enumerate(moments(np.array([length]))):
        np.testing.assert_allclose(value[0], quadrature(length, power), rtol=1e-13)


def test_float32_does_not_cancel():
    lengths = np.geomspace(1e-5, 20, 300).astype(np.float32)
    exact = moments(lengths.astype(np.float64))
    for value, want in zip(jax.jit(moments)(jnp.asarray(lengths)), exact, strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, want, rtol=2e-6)


def test_derivatives_on_both_sides_of_one(x64):
    slope = jax.jit(jax.vmap(jax.grad(lambda h: moments(h)[2])))
    lengths = jnp.array([1e-3, 0.5, 1.0, 5.0])
    gap = 1e-4
    difference = (moments(lengths + gap)[2] - moments(lengths - gap)[2]) / (2 * gap)
    np.testing.assert_allclose(slope(lengths), difference, rtol=1e-6)


def check_weights(weights_fn):
    """All powers up to the number of nodes, and not one more."""
    mu = [np.array([v]) for v in (0.7, 0.4, 0.25, 0.18)]
    for nodes in ([-0.8], [1.0, -1.3], [1.0, -1.3, -2.9]):
        weights = weights_fn(mu, [np.array([v]) for v in nodes])
        places = np.array([0.0, *nodes])
        for power in range(len(places)):
            got = np.sum(np.array(weights)[:, 0] * places**power)
            assert abs(got - mu[power][0]) < 1e-14, (nodes, power)


def test_weights_are_exact_on_powers():
    check_weights(interpolation_weights)


def test_weights_kills():
    def wrong_node(mu, nodes):
        return interpolation_weights(mu, [nodes[0] * 0.5, *nodes[1:]])

    def half_second_moment(mu, nodes):
        return interpolation_weights([mu[0], mu[1], 0.5 * mu[2], mu[3]], nodes)

    def unbalanced(mu, nodes):
        return [mu[0], *interpolation_weights(mu, nodes)[1:]]

    for mutant in (wrong_node, half_second_moment, unbalanced):
        with pytest.raises(AssertionError):
            check_weights(mutant)
