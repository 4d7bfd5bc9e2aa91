"""Known laws: closed forms against each other, against their equations and against draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.exact import (
    gbm_exact,
    gbm_moments,
    linear_sde_moments,
    ou_exact,
    ou_moments,
)

A = np.array([[-0.5, 0.8], [-0.3, -1.0]])
B = np.array([0.4, -0.2])
ROOT = np.array([[0.7, 0.2], [0.0, 0.5]])
Q = ROOT @ ROOT.T
MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[1.0, 0.2], [0.2, 0.4]])


@functools.partial(jax.jit, static_argnames="num_doublings")
def moments(A, b, Q, t, mean, covariance, num_doublings=0):
    return linear_sde_moments(
        A, b, Q, t, mean=mean, covariance=covariance, num_doublings=num_doublings
    )


def linear(t, num_doublings=0, noise=1.0):
    arrays = map(jnp.asarray, (A, B, noise * Q, t, MEAN, COVARIANCE))
    return [np.asarray(value) for value in moments(*arrays, num_doublings=num_doublings)]


def check_moment_equations(moments_fn):
    """m' = A m + b and C' = A C + C A' + Q, from the start; slopes by differences of order 4."""
    start = moments_fn(0.0)
    np.testing.assert_allclose(start[0], MEAN, atol=1e-14)
    np.testing.assert_allclose(start[1], COVARIANCE, atol=1e-14)
    h, (m, c) = 1e-3, moments_fn(0.7)
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    near = {k: moments_fn(0.7 + k * h) for k in weights}
    dm, dc = (sum(w * near[k][i] for k, w in weights.items()) / h for i in (0, 1))
    np.testing.assert_allclose(dm, A @ m + B, atol=1e-10)
    np.testing.assert_allclose(dc, A @ c + c @ A.T + Q, atol=1e-10)


def test_linear_moments_solve_their_equations(x64):
    check_moment_equations(linear)


def test_the_moment_equations_kill(x64):
    def late_noise(t):
        m, c = linear(t)
        return m, c @ c.T + COVARIANCE - COVARIANCE @ COVARIANCE.T

    for mutant in (late_noise, lambda t: linear(t, noise=0.5), lambda t: linear(-t)):
        with pytest.raises(AssertionError):
            check_moment_equations(mutant)


def test_doublings_change_no_answer_and_save_digits_at_long_times(x64):
    for plain, doubled in zip(linear(0.9), linear(0.9, 9), strict=True):
        np.testing.assert_allclose(plain, doubled, atol=1e-12)
    mean, covariance = linear(200.0, 9)
    np.testing.assert_allclose(mean, -np.linalg.solve(A, B), atol=1e-12)
    np.testing.assert_allclose(A @ covariance + covariance @ A.T + Q, 0, atol=1e-12)


def test_ornstein_uhlenbeck_is_the_scalar_linear_equation(x64):
    for rate in (1.3, 0.0, -0.4):
        mean, variance = ou_moments(2.0, 0.8, rate=rate, mean=0.5, scale=0.7)
        arrays = [[-rate]], [rate * 0.5], [[0.49]], 0.8, [2.0], [[0.0]]
        m, c = moments(*(jnp.asarray(np.array(value)) for value in arrays))
        np.testing.assert_allclose([mean, variance], [m[0], c[0, 0]], rtol=1e-13)
    slope = jax.grad(lambda r: ou_moments(1.0, 1.0, rate=r, mean=0.0, scale=1.0)[0])(0.0)
    np.testing.assert_allclose(slope, -1.0)


def test_ornstein_uhlenbeck_draws_have_the_law_at_every_row():
    law = {"rate": 1.3, "mean": 0.5, "scale": 0.7}
    path = ou_exact(jax.random.key(0), jnp.full(20_000, 2.0), 0.4, num_steps=3, **law)
    assert path.shape == (4, 20_000)
    for row in (1, 3):
        mean, variance = ou_moments(2.0, 0.4 * row, **law)
        assert abs(path[row].mean() - mean) < 4 * np.sqrt(variance / 20_000)
        assert abs(path[row].var() - variance) < 4 * variance * np.sqrt(2 / 20_000)


def test_geometric_paths_and_moments(x64):
    """Moments by Gauss-Hermite over the sum of two steps; the start and the walk are kept."""
    node, share = np.polynomial.hermite_e.hermegauss(60)
    y0 = jnp.full(60, 1.5)
    dw = jnp.stack([0.25 * jnp.asarray(node), 0.75 * jnp.asarray(node)]) * np.sqrt(0.5)
    path = gbm_exact(y0, dw, 0.25, drift=0.5, volatility=0.8)
    np.testing.assert_allclose(path[0], y0)
    ends = np.asarray(path[-1])
    want = [np.sum(share * ends**k) / share.sum() for k in (1, 2, 3)]
    found = gbm_moments(1.5, 0.5, drift=0.5, volatility=0.8)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"dw must have shape \(any, 2\)"):
        gbm_exact(jnp.ones(2), jnp.ones((3, 1)), 0.1, drift=0.0, volatility=1.0)
    with pytest.raises(ValueError, match="degree must be at least 1"):
        gbm_moments(1.0, 1.0, drift=0.0, volatility=1.0, degree=0)
    with pytest.raises(ValueError, match="num_doublings must be at least 0"):
        one = jnp.ones((1, 1))
        linear_sde_moments(one, one[0], one, 1.0, mean=one[0], covariance=one, num_doublings=-1)
