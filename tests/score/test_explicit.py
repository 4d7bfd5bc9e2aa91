"""Explicit and implicit score matching: closed forms, quadrature, where parts fail, mutants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.score.denoising import denoising_sm_from_noise
from probjax.score.explicit import explicit_sm, implicit_sm

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[2.0, 0.6], [0.6, 0.5]])
SLOPE = np.array([[-0.7, 0.3], [0.1, -1.2]])
OFFSET = np.array([0.4, -0.2])


def hermite(num_nodes):
    """Nodes and weights of the standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes, weights / weights.sum()


def gaussian_rows():
    """Points and weights that integrate cubics under N(MEAN, COVARIANCE) exactly."""
    nodes, weights = hermite(3)
    points = np.array(list(itertools.product(nodes, repeat=2)))
    mass = np.array(list(itertools.product(weights, repeat=2))).prod(-1)
    return MEAN + points @ np.linalg.cholesky(COVARIANCE).T, mass


def linear_score(x):
    return jnp.tensordot(x, jnp.asarray(SLOPE.T, x.dtype), axes=1) + jnp.broadcast_to(
        jnp.asarray(OFFSET, x.dtype), x.shape
    )


def bent(x):
    """A score that is no gradient, with a Jacobian that differs from row to row."""
    return jnp.sin(2 * x) * jnp.roll(x, 1, axis=-1) - x


def divergence(score_fn):
    return lambda row: jnp.trace(jax.jacfwd(score_fn)(row))


def check_implicit(objective):
    """Mean on Gaussian data, and the trace of a non-linear field, against closed forms."""
    x, mass = gaussian_rows()
    at_mean = SLOPE @ MEAN + OFFSET
    square = at_mean @ at_mean + np.trace(SLOPE @ COVARIANCE @ SLOPE.T)

    @jax.jit
    def both(x, rows):
        expected = jax.vmap(divergence(bent))(rows) + 0.5 * (bent(rows) ** 2).sum(-1)
        return objective(linear_score, x), objective(bent, rows), expected

    values, found, expected = both(x, np.random.default_rng(0).normal(size=(4, 3)))
    assert abs(mass @ np.asarray(values) - (np.trace(SLOPE) + 0.5 * square)) < 1e-12
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_implicit_is_the_trace_and_half_the_square(x64):
    check_implicit(implicit_sm)


def test_explicit_less_implicit_does_not_know_the_model(x64):
    x, mass = gaussian_rows()
    precision = np.linalg.inv(COVARIANCE)
    truth = -(x - MEAN) @ precision
    gap = jax.jit(lambda x, t: explicit_sm(linear_score, x, t) - implicit_sm(linear_score, x))
    assert abs(mass @ np.asarray(gap(x, truth)) - 0.5 * np.trace(precision)) < 1e-12


MUTANTS = {
    "lost half": lambda s, x: 2 * implicit_sm(s, x) - jax.vmap(divergence(s))(x),
    "flipped sign of the trace": lambda s, x: implicit_sm(s, x) - 2 * jax.vmap(divergence(s))(x),
    "flipped sign of the score": lambda s, x: implicit_sm(lambda y: -s(y), x),
    "trace over d": lambda s, x: (
        implicit_sm(s, x) - (1 - 1 / x.shape[-1]) * jax.vmap(divergence(s))(x)
    ),
    "mean over coordinates": lambda s, x: implicit_sm(s, x) / x.shape[-1],
    "all entries of the Jacobian": lambda s, x: (
        jax.vmap(jax.jacfwd(s))(x).sum((1, 2)) + 0.5 * (s(x) ** 2).sum(-1)
    ),
    "batch summed": lambda s, x: implicit_sm(s, x).sum() + 0 * x[:, 0],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_kills(x64, name):
    with pytest.raises(AssertionError):
        check_implicit(MUTANTS[name])


MIXTURE = np.array([-2.0, 1.0]), np.array([0.5, 0.8]), np.array([0.3, 0.7])


def curved(theta, x):
    return theta[0] * jnp.sin(x) + theta[1] * x + theta[2] * x**2


def test_both_have_one_gradient_on_a_mixture(x64):
    """Trapezoids are exact for what is smooth and decays."""
    means, scales, weights = MIXTURE
    x = np.linspace(-12, 12, 4001)[:, None]
    parts = weights * np.exp(-0.5 * ((x - means) / scales) ** 2) / (np.sqrt(2 * np.pi) * scales)
    density = 24 / 4000 * parts.sum(-1)
    truth = -(parts * (x - means) / scales**2).sum(-1, keepdims=True) / parts.sum(-1)[:, None]
    x, truth, density = jnp.asarray(x), jnp.asarray(truth), jnp.asarray(density)

    def losses(theta):
        explicit = explicit_sm(lambda y: curved(theta, y), x, truth)
        implicit = implicit_sm(lambda y: curved(theta, y), x)
        return jnp.stack([jnp.vdot(density, explicit), jnp.vdot(density, implicit)])

    explicit, implicit = jax.jit(jax.jacfwd(losses))(jnp.array([0.3, -0.4, 0.2]))
    np.testing.assert_allclose(explicit, implicit, atol=1e-10)


def test_denoising_is_implicit_on_noised_data_and_a_constant(x64):
    """Stein's identity, row sums over one grid: E[DSM] = E[ISM at the noised] + d / 2 sigma^2."""
    means, scales, weights = MIXTURE
    node, mass = hermite(12)
    x = (means[:, None, None] + scales[:, None, None] * node[:, None] + 0 * node).reshape(-1, 1)
    noise = np.broadcast_to(node, (2, 12, 12)).reshape(-1, 1)
    mass = (weights[:, None, None] * mass[:, None] * mass).reshape(-1)

    def score_fn(y):
        return 0.3 - 0.7 * y + 0.2 * y**2 - 0.1 * y**3

    @jax.jit
    def gap(x, noise, sigma):
        denoising = denoising_sm_from_noise(score_fn, x, noise, noise_scale=sigma)
        return jnp.vdot(mass, denoising - implicit_sm(score_fn, x + sigma * noise))

    for sigma in (0.4, 1.5):
        assert abs(gap(x, noise, sigma) - 1 / (2 * sigma**2)) < 1e-10


def test_where_the_boundary_term_stays(x64):
    """p = exp(-x) on x >= 0: for s = a the two differ by a + 1/2, and parts choose a = 0."""
    node, mass = np.polynomial.laguerre.laggauss(20)
    x = jnp.asarray(node)[:, None]

    @jax.jit
    def gaps(a):
        constant = lambda y: a + 0 * y
        vanishing = lambda y: a * y * (1 - 0.1 * y)  # zero at the boundary
        return [
            jnp.vdot(mass, explicit_sm(score_fn, x, -jnp.ones_like(x)) - implicit_sm(score_fn, x))
            for score_fn in (constant, vanishing)
        ]

    for a in (-1.0, 0.0, 2.0):
        stays, goes = gaps(a)
        assert abs(stays - (a + 0.5)) < 1e-12
        assert abs(goes - 0.5) < 1e-12


def test_no_lower_bound_on_repeated_columns():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 1)).astype(np.float32), 2, axis=1)
    values = jax.jit(lambda k: implicit_sm(lambda y: k * (y[..., ::-1] - y), jnp.asarray(x)))
    for steepness in (1.0, 1e3):
        np.testing.assert_allclose(values(steepness), -2 * steepness)


@pytest.mark.parametrize("chunk", [None, 2])
def test_images_and_chunks(chunk):
    x = jax.random.normal(jax.random.key(0), (2, 2, 3, 1))
    values = implicit_sm(bent, x.reshape(2, 6))
    flat = implicit_sm(
        lambda y: bent(y.reshape(2, 6)).reshape(y.shape), x, event_ndim=3, chunk=chunk
    )
    np.testing.assert_allclose(flat, values, rtol=1e-5)
    target = jnp.ones_like(x)
    squares = explicit_sm(jnp.sin, x, target, event_ndim=3)
    np.testing.assert_allclose(squares, 0.5 * ((jnp.sin(x) - 1) ** 2).sum((1, 2, 3)), rtol=1e-6)


def test_bad_arguments_are_named():
    x = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=r"f\(x\) must have the shape of x, \(3, 2\)"):
        implicit_sm(lambda y: y[..., :1], x)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        implicit_sm(jnp.sin, x, chunk=0)
    with pytest.raises(ValueError, match=r"score_fn\(x\) must have the shape of x"):
        explicit_sm(lambda y: y[..., 0], x, x)
    with pytest.raises(Exception, match="target"):
        explicit_sm(jnp.sin, x, jnp.zeros((3, 1)))
