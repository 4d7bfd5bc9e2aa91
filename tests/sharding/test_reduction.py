"""Sums in the order of the leading axis."""

import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding


def test_the_order_is_first_to_last():
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 1e4
    total = np.zeros(3, np.float32)
    for row in values:
        total = total + row
    np.testing.assert_array_equal(sharding.ordered_sum(jnp.asarray(values)), total)
    assert (np.asarray(sharding.ordered_sum(jnp.asarray(values[::-1]))) != total).any()


def test_trees_single_rows_and_nothing():
    tree = {"a": jnp.arange(3), "b": jnp.ones((3, 2))}
    total = sharding.ordered_sum(tree)
    assert total["a"] == 3
    assert total["b"].tolist() == [3, 3]
    assert sharding.ordered_sum(jnp.ones((1, 2))).tolist() == [1, 1]
    with pytest.raises(ValueError, match="number of summands must be at least 1, got 0"):
        sharding.ordered_sum(jnp.ones((0, 2)))
