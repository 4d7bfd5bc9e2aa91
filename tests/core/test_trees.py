"""Pytrees: finiteness, precision, layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import trees


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_entry_that_is_not_finite_is_seen_in_any_leaf(bad):
    tree = {"a": jnp.ones(2), "n": jnp.arange(3), "flag": jnp.array(True), "b": jnp.ones((2, 2))}
    assert trees.all_finite(tree)
    for name in ("a", "b"):
        poisoned = tree | {name: tree[name].at[(-1,) * tree[name].ndim].set(bad)}
        assert not trees.all_finite(poisoned)
    assert trees.all_finite({})
    assert not trees.all_finite(jnp.array(complex(0, bad)))


def test_finiteness_is_one_flag_for_each_row_under_vmap():
    x = jnp.array([[1.0, 2.0], [jnp.nan, 0.0]])
    np.testing.assert_array_equal(jax.vmap(trees.all_finite)({"x": x}), [True, False])


def test_narrow_floats_are_widened_and_nothing_else(x64):
    given = {"half": jnp.float16, "brain": jnp.bfloat16, "single": jnp.float32, "double": float}
    wanted = ["float32", "float64", "float32", "float32"]  # brain, double, half, single
    tree = trees.widened({name: jnp.ones(2, dtype) for name, dtype in given.items()})
    assert [leaf.dtype.name for leaf in jax.tree.leaves(tree)] == wanted
    assert trees.widened(jnp.arange(2, dtype=jnp.int8)).dtype == jnp.int8
    assert isinstance(trees.widened(1.5), jax.Array)


def test_a_layout_is_demanded_by_structure_shape_and_dtype():
    wanted = {"a": jnp.ones(2), "b": jnp.arange(3)}
    given = trees.same_layout(
        "new", {"a": np.zeros(2, np.float32), "b": jnp.arange(3)}, "x", wanted
    )
    assert isinstance(given["a"], jax.Array)
    with pytest.raises(ValueError, match="new must have the structure of x"):
        trees.same_layout("new", {"a": jnp.ones(2)}, "x", wanted)
    with pytest.raises(ValueError, match=r"new\['a'\] must have the shape of x\['a'\], \(2,\)"):
        trees.same_layout("new", wanted | {"a": jnp.ones(3)}, "x", wanted)
    with pytest.raises(TypeError, match=r"new\['b'\] must have the dtype of x\['b'\], int32"):
        trees.same_layout("new", wanted | {"b": jnp.ones(3)}, "x", wanted)
