"""Welford's recursion and its merging: against double-precision NumPy, with draws left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.mcmc import welford

SHIFT = np.array([1000.0, -3.0, 0.0])
DRAWS = np.random.default_rng(0).normal(SHIFT, [1.0, 2.0, 0.1], (4, 9, 3)).astype(np.float32)
PRODUCTS = {"square": jnp.multiply, "outer": jnp.outer}


def per_chain(product, draws=DRAWS):
    init, update = welford.recursion(lambda state: state, product)

    def one(chain):
        step = lambda acc, x: (update(acc, x, None, 0), None)
        return jax.lax.scan(step, init(chain[0]), chain)[0]

    return jax.jit(jax.vmap(one))(jnp.asarray(draws))


def merge_of(product):
    # The product of two rows of a vector, for each chain of a batch.
    return welford.merger(product if product is jnp.multiply else jax.vmap(product))


def exact(product, draws):
    """Mean and sum of products in double precision, over all rows."""
    rows = draws.reshape(-1, draws.shape[-1]).astype(np.float64)
    apart = rows - rows.mean(axis=0)
    square = (apart**2).sum(axis=0) if product is jnp.multiply else apart.T @ apart
    return rows.mean(axis=0), square


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_chain_and_all_chains(name):
    product = PRODUCTS[name]
    accs = per_chain(product)
    for c in range(4):
        mean, square = exact(product, DRAWS[c])
        np.testing.assert_allclose(accs.origin[c] + accs.mean[c], mean, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(accs.deviation[c], square, rtol=1e-4, atol=1e-3)
    merged = merge_of(product)(accs)
    mean, square = exact(product, DRAWS)
    np.testing.assert_allclose(merged.origin + merged.mean, mean, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(merged.deviation, square, rtol=1e-4, atol=2e-3)
    assert float(merged.count) == 36


def check_uneven(merge):
    """Chains with 9, 6, 1 and no draws count by their draws."""
    draws = DRAWS.copy()
    for c, kept in enumerate((9, 6, 1, 0)):
        draws[c, kept:, 1] = np.nan
    accs = per_chain(jnp.multiply, draws)
    np.testing.assert_array_equal(accs.count, [9, 6, 1, 0])
    np.testing.assert_array_equal(accs.excluded, [0, 3, 8, 9])
    merged = merge(accs)
    rows = np.concatenate([draws[0], draws[1, :6], draws[2, :1]])
    mean, square = exact(jnp.multiply, rows)
    np.testing.assert_allclose(merged.origin + merged.mean, mean, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(merged.deviation, square, rtol=1e-4, atol=2e-3)
    assert float(merged.count) == 16 and float(merged.excluded) == 20


def test_uneven_chains():
    check_uneven(welford.merger(jnp.multiply))


def without_the_means_of_chains(accs):
    merged = welford.merger(jnp.multiply)(accs)
    return merged._replace(deviation=accs.deviation.sum(axis=0))


def every_chain_the_same_weight(accs):
    merged = welford.merger(jnp.multiply)(accs)
    return merged._replace(mean=(accs.origin + accs.mean).mean(axis=0) - merged.origin)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [without_the_means_of_chains, every_chain_the_same_weight])
def test_uneven_chains_kill(mutant):
    with pytest.raises(AssertionError):
        check_uneven(mutant)


def test_counts_flags_and_halves_are_numbers_too():
    assert welford.working(jnp.arange(2)).dtype == jnp.float32
    assert welford.working(True).dtype == jnp.float32
    assert welford.working(jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32
    assert welford.total(jnp.full(3, 2**30, jnp.int32)) == 3 * 2.0**30
