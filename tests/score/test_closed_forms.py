"""Closed forms: stationary points of the implicit objective, singular systems, units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.score.closed_forms import exponential_family_sm, gaussian_sm
from probjax.score.explicit import implicit_sm

X = np.random.default_rng(0).normal(size=(40, 3)) @ np.array(
    [[1.0, 0.5, 0.0], [0.0, 0.3, 0.2], [0.0, 0.0, 2.0]]
) + np.array([1.0, -2.0, 0.5])

fit_gaussian = jax.jit(gaussian_sm)


def check_gaussian(fit_fn):
    """Mean and precision make the gradient of the implicit objective vanish."""
    fit = fit_fn(X)

    def loss(mean, precision):
        symmetric = 0.5 * (precision + precision.T)
        return implicit_sm(lambda y: -(y - mean[None]) @ symmetric, jnp.asarray(X)).mean()

    for slope in jax.jit(jax.grad(loss, (0, 1)))(fit.mean, fit.precision):
        np.testing.assert_allclose(slope, 0, atol=1e-10)
    np.testing.assert_allclose(fit.covariance, np.cov(X.T, ddof=0), rtol=1e-10)


def test_gaussian_is_the_stationary_point(x64):
    check_gaussian(fit_gaussian)


def with_divisor(x):
    fit = gaussian_sm(x)
    return fit._replace(precision=fit.precision * (len(x) - 1) / len(x))


GAUSSIAN_MUTANTS = {
    "divisor n - 1": with_divisor,
    "covariance for precision": lambda x: gaussian_sm(x)._replace(
        precision=gaussian_sm(x).covariance
    ),
    "median for mean": lambda x: gaussian_sm(x)._replace(mean=jnp.median(x, axis=0)),
}


@pytest.mark.parametrize("name", GAUSSIAN_MUTANTS)
def test_the_check_kills(x64, name):
    with pytest.raises(AssertionError):
        check_gaussian(jax.jit(GAUSSIAN_MUTANTS[name]))


def stats(x):
    """Neither independent coordinates nor polynomials alone."""
    pair = x[..., :1] * x[..., 1:2]
    return jnp.concatenate([x, x**2, pair, jnp.cos(x[..., 2:])], axis=-1)


def test_exponential_family_is_the_stationary_point(x64):
    theta = jax.jit(lambda x: exponential_family_sm(stats, x))(X)

    def loss(theta):
        score_fn = jax.grad(lambda y: (stats(y) @ theta).sum())
        return implicit_sm(score_fn, jnp.asarray(X)).mean()

    slope, curvature = jax.jit(lambda t: (jax.grad(loss)(t), jax.hessian(loss)(t)))(theta)
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    assert np.linalg.eigvalsh(curvature)[0] > 0


def test_quartic_family_recovers_its_parameters(x64):
    """Quantiles of exp(1.5 x^2 - 0.5 x^4): two wells, no closed normalising constant."""
    grid = np.linspace(-4, 4, 200_001)
    density = np.exp(1.5 * grid**2 - 0.5 * grid**4)
    cumulative = np.cumsum(density) / density.sum()
    x = np.interp((np.arange(20_000) + 0.5) / 20_000, cumulative, grid)[:, None]
    theta = jax.jit(
        lambda x: exponential_family_sm(lambda y: jnp.concatenate([y**2, y**4], axis=-1), x)
    )(x)
    np.testing.assert_allclose(theta, [1.5, -0.5], rtol=2e-3)


def test_two_roads_to_the_gaussian(x64):
    theta = jax.jit(
        lambda x: exponential_family_sm(lambda y: jnp.concatenate([y, y**2], axis=-1), x)
    )(X[:, :1])
    fit = fit_gaussian(X[:, :1])
    np.testing.assert_allclose(theta[1], -0.5 * fit.precision[0, 0], rtol=1e-12)
    np.testing.assert_allclose(theta[0], (fit.precision @ fit.mean)[0], rtol=1e-12)


SINGULAR = {
    "repeated column": lambda x: x[:, [0, 1, 0]],
    "constant column": lambda x: np.concatenate([x[:, :2], np.full((len(x), 1), 7.0)], axis=1),
    "sum of columns": lambda x: np.stack([x[:, 0], x[:, 1], x[:, 0] + x[:, 1]], axis=1),
    "as many rows as columns": lambda x: x[:3],
    "one row": lambda x: x[:1],
    "no row": lambda x: x[:0],
    "a row of NaN": lambda x: np.where(np.arange(len(x))[:, None] == 3, np.nan, x),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_is_nan(x64, dtype):
    made = [make(X).astype(dtype) for make in SINGULAR.values()]
    for fit in jax.jit(lambda made: [gaussian_sm(x) for x in made])(made):
        assert np.isnan(fit.precision).all()


def test_dependent_statistics_are_nan():
    x = jnp.asarray(X, jnp.float32)
    families = (lambda y: jnp.concatenate([y, 2 * y], axis=-1), lambda y: 0 * y + 1)
    for theta in jax.jit(lambda x: [exponential_family_sm(each, x) for each in families])(x):
        assert np.isnan(theta).all()


def test_units_are_no_reason_to_refuse():
    units = np.array([1e-5, 1.0, 1e4], np.float32)
    x = X.astype(np.float32)
    plain, scaled = fit_gaussian(x), fit_gaussian(x * units)
    np.testing.assert_allclose(
        scaled.precision * np.outer(units, units), plain.precision, rtol=2e-3, atol=1e-3
    )


def test_half_is_computed_in_single():
    assert gaussian_sm(jnp.asarray(X, jnp.bfloat16)).precision.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"stats_fn\(x\) must have shape \(40, any\), got \(40,\)"):
        exponential_family_sm(lambda y: y[..., 0], jnp.asarray(X, jnp.float32))
    with pytest.raises(Exception, match=r"x|floating"):
        gaussian_sm(jnp.zeros((3, 2), int))
