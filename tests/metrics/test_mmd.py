import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import metrics
from probjax.metrics.mmd import squared_distances, u_statistic

POINTS = np.array([[0.0, 0.3], [1.0, -0.5], [2.5, 1.0], [-1.0, 0.2]])
WIDTHS = np.array([0.7, 2.0])


def kernel(a, b):
    return np.mean(np.exp(-0.5 * np.sum((a - b) ** 2) / WIDTHS**2))


def population_mmd2(p, q):
    gram = np.array([[kernel(a, b) for b in POINTS] for a in POINTS])
    return (p - q) @ gram @ (p - q)


def enumerated_mean(estimate, p, q, n, m):
    """Mean of an estimator over every sample of sizes n and m from laws on four points."""
    total = 0.0
    for xs in itertools.product(range(4), repeat=n):
        for ys in itertools.product(range(4), repeat=m):
            weight = np.prod(p[list(xs)]) * np.prod(q[list(ys)])
            if weight > 0:
                total += weight * estimate(list(xs), list(ys))
    return total


def gram_of(rows):
    return np.array([[kernel(POINTS[a], POINTS[b]) for b in rows] for a in rows])


P, Q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.0, 0.3, 0.6])


def unbiased(estimate):
    found = enumerated_mean(estimate, P, Q, 2, 3)
    assert abs(found - population_mmd2(P, Q)) < 1e-12, found


def plain(xs, ys):
    gram, n, m = gram_of(xs + ys), len(xs), len(ys)
    within_x, within_y = gram[:n, :n], gram[n:, n:]
    return (
        (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
        + (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
        - 2 * gram[:n, n:].mean()
    )


def test_the_formula_is_unbiased_by_enumeration_and_is_ours(x64):
    unbiased(plain)
    rng = np.random.default_rng(0)
    for _ in range(3):
        xs, ys = rng.integers(0, 4, 3).tolist(), rng.integers(0, 4, 5).tolist()
        ours = u_statistic(jnp.asarray(gram_of(xs + ys)), 3)
        np.testing.assert_allclose(ours.value, plain(xs, ys), atol=1e-12)
        rows = metrics.mmd2(
            jnp.asarray(POINTS[xs]), jnp.asarray(POINTS[ys]), bandwidths=jnp.asarray(WIDTHS)
        )
        np.testing.assert_allclose(rows.value, plain(xs, ys), atol=1e-12)


def with_diagonal(xs, ys):
    gram, n = gram_of(xs + ys), len(xs)
    return gram[:n, :n].mean() + gram[n:, n:].mean() - 2 * gram[:n, n:].mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [
        with_diagonal,
        lambda xs, ys: -plain(xs, ys),
        lambda xs, ys: plain(xs, ys) + gram_of(xs + ys)[: len(xs), len(xs) :].mean(),
        lambda xs, ys: plain(xs, ys) * len(xs) / (len(xs) - 1),
    ],
)
def test_mutants_die(mutant):
    with pytest.raises(AssertionError):
        unbiased(mutant)


def test_jackknife_is_the_one_with_rows_left_out(x64):
    rng = np.random.default_rng(1)
    rows = jnp.asarray(rng.normal(size=(9, 2)))
    gram = jnp.exp(-0.5 * squared_distances(rows, rows))
    n, m = 4, 5
    left_out = [
        float(u_statistic(jnp.asarray(np.delete(np.delete(gram, i, 0), i, 1)), n - (i < n)).value)
        for i in range(9)
    ]
    variance = (n - 1) * np.var(left_out[:n]) + (m - 1) * np.var(left_out[n:])
    np.testing.assert_allclose(u_statistic(gram, n).standard_error, variance**0.5, rtol=1e-9)


@pytest.mark.parametrize(("shift", "low", "high"), [(1.0, 0.8, 1.25), (0.0, 0.9, 1.8)])
def test_standard_error_against_the_spread_of_repeats(shift, low, high):
    """Honest for different laws; for equal laws (degenerate) about sqrt(2) too large."""

    def one(key):
        first, second = jax.random.split(key)
        x = jax.random.normal(first, (60, 2))
        y = shift + jax.random.normal(second, (40, 2))
        return metrics.mmd2(x, y, bandwidths=jnp.array([1.0]))

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400))
    spread, claimed = jnp.std(found.value), jnp.mean(found.standard_error**2) ** 0.5
    assert low < claimed / spread < high
    if shift == 0:
        assert abs(found.value.mean()) < 5 * spread / 20


def test_symmetric_and_blind_to_order():
    x = jax.random.normal(jax.random.key(0), (30, 3))
    y = 0.5 + jax.random.normal(jax.random.key(1), (20, 3))
    one, swapped, shuffled = metrics.mmd2(x, y), metrics.mmd2(y, x), metrics.mmd2(x[::-1], y)
    np.testing.assert_allclose(one.value, swapped.value, atol=1e-6)
    np.testing.assert_allclose(one.value, shuffled.value, atol=1e-6)
    np.testing.assert_allclose(one.standard_error, shuffled.standard_error, rtol=1e-4)


def test_bad_input_is_named():
    rows = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="the number of rows of y must be at least 2, got 1"):
        metrics.mmd2(rows, rows[:1])
    with pytest.raises(ValueError, match="x and y must have rows of one shape"):
        metrics.mmd2(rows, jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"bandwidths\[1\] must be positive"):
        metrics.mmd2(rows, rows, bandwidths=jnp.array([1.0, 0.0]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (20, 31)])
def test_default_bandwidths_follow_the_median_distance(x64, dtype, sizes):
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(size, 3)).astype(dtype) for size in sizes)
    y[0] = x[0]  # a distance of zero counts too
    rows = np.concatenate([x, y])
    squares = ((rows[:, None] - rows[None]) ** 2).sum(-1)[np.triu_indices(len(rows), 1)]
    widths = np.sqrt(np.median(squares)) * np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    expected = metrics.mmd2(jnp.asarray(x), jnp.asarray(y), bandwidths=jnp.asarray(widths, dtype))
    found = metrics.mmd2(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(
        found.value, expected.value, rtol=1e-5 if dtype == "float32" else 1e-10
    )


def test_coinciding_rows_have_a_bandwidth():
    assert metrics.mmd2(jnp.ones((4, 2)), jnp.ones((5, 2))).value == 0
