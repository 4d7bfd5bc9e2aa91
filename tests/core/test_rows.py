"""Rows: shapes, precision, and the mark of what varies over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax.core import rows


def test_only_the_trailing_axes_are_reduced():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(rows.row_sum(x), np.arange(24.0).reshape(2, 3, 4).sum(-1))
    np.testing.assert_array_equal(rows.row_sum(x, event_ndim=2), [66, 210])
    np.testing.assert_array_equal(rows.row_sum(x, event_ndim=0), x)
    bad = x.at[1, 2, 0].set(jnp.inf)
    np.testing.assert_array_equal(rows.row_finite(bad, event_ndim=2), [True, False])
    assert rows.row_finite(jnp.zeros((0, 2))).shape == (0,)
    picked = rows.select(jnp.array([True, False]), x, -x)
    np.testing.assert_array_equal(picked, np.stack([x[0], -x[1]]))


def test_a_number_for_each_row():
    x = jnp.ones((2, 3, 4))
    assert rows.per_row("scale", 2.0, x).shape == ()
    assert rows.per_row("scale", np.ones((2, 3)), x).shape == (2, 3, 1)
    assert rows.per_row("scale", np.ones(2), x, event_ndim=2).shape == (2, 1, 1)
    with pytest.raises(ValueError, match=r"scale must be a scalar or have shape \(2, 3\)"):
        rows.per_row("scale", jnp.ones(4), x)


def test_working_precision(x64):
    for given, want in [(jnp.bfloat16, "float32"), (jnp.float32, "float32"), (float, "float64")]:
        assert rows.working("x", jnp.zeros(2, given), event_ndim=1).dtype == want
    with pytest.raises(TypeError, match="x"):
        rows.working("x", jnp.arange(2), event_ndim=1)
    with pytest.raises(ValueError, match="x must have at least event_ndim=3 axes"):
        rows.working("x", jnp.zeros((2, 2)), event_ndim=3)


def test_a_constant_carry_enters_a_loop_over_what_varies():
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:4])

    def total(x, mark):
        start = jnp.zeros(())
        start = rows.varying_like(start, x[0]) if mark else start
        return jax.lax.scan(lambda carry, value: (carry + value, None), start, x)[0][None]

    spec = PartitionSpec("rows")
    x = jnp.arange(8.0)
    for mark in (True, False):
        mapped = jax.shard_map(
            lambda x, mark=mark: total(x, mark), mesh=mesh, in_specs=spec, out_specs=spec
        )
        if mark:
            np.testing.assert_array_equal(jax.jit(mapped)(x), [1, 5, 9, 13])
        else:
            with pytest.raises(TypeError, match="carry"):
                jax.jit(mapped)(x)


def test_what_varies_already_is_left_as_it_is():
    mesh = jax.make_mesh((2,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:2])
    spec = PartitionSpec("rows")
    mapped = jax.shard_map(
        lambda x: rows.varying_like(x, x), mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_array_equal(mapped(jnp.arange(4.0)), np.arange(4.0))
