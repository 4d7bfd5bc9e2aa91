"""A key depends on the global index and the purpose, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import keys


def data(key):
    return np.asarray(jax.random.key_data(key))


def test_item_and_step_keys_are_nested_folds():
    key = jax.random.key(3)
    expected = jax.random.fold_in(jax.random.fold_in(key, 5), 17)
    np.testing.assert_array_equal(data(keys.step_key(keys.item_key(key, 5), 17)), data(expected))


def test_items_do_not_depend_on_how_many_there_are_or_where_a_shard_starts():
    key = jax.random.key(3)
    all_keys = data(keys.item_keys(key, 7))
    np.testing.assert_array_equal(all_keys[:4], data(keys.item_keys(key, 4)))
    np.testing.assert_array_equal(all_keys[4:], data(keys.item_keys(key, 3, start=4)))
    np.testing.assert_array_equal(
        all_keys[4:], data(jax.jit(lambda s: keys.item_keys(key, 3, start=s))(4))
    )
    assert len({tuple(row) for row in all_keys}) == 7
    assert keys.item_keys(key, 0).shape == (0,)


def test_old_keys_give_the_same_streams():
    np.testing.assert_array_equal(
        data(keys.item_keys(jax.random.PRNGKey(9), 3)), data(keys.item_keys(jax.random.key(9), 3))
    )
    with pytest.raises(TypeError, match=r"key must be .* got float32\(2,\)"):
        keys.as_key(jnp.zeros(2))


def test_raw_keys_are_the_same_stream_and_name_their_implementation():
    key = jax.random.key(9)
    np.testing.assert_array_equal(keys.raw_key(key), jax.random.PRNGKey(9))
    np.testing.assert_array_equal(keys.raw_key(jax.random.PRNGKey(9)), jax.random.PRNGKey(9))
    draws = [
        jax.random.normal(k, (3,))
        for k in (keys.item_key(key, 1), keys.raw_key(keys.item_key(key, 1)))
    ]
    np.testing.assert_array_equal(*draws)
    other = jax.random.key(9, impl="rbg")
    assert keys.raw_key(other).dtype == other.dtype


def test_streams_differ_and_the_table_is_frozen_in_order():
    assert list(keys.STREAMS.values()) == list(range(len(keys.STREAMS)))
    key = jax.random.key(0)
    seen = {tuple(data(keys.stream(key, purpose))) for purpose in keys.STREAMS}
    assert len(seen) == len(keys.STREAMS)
    with pytest.raises(ValueError, match="purpose must be one of 'init', .* got 'luck'"):
        keys.stream(key, "luck")


def test_streams_of_key_arrays_are_streams_of_their_entries():
    rows = keys.item_keys(jax.random.key(0), 6)
    streams = keys.stream(rows.reshape(2, 3), "noise")
    np.testing.assert_array_equal(data(streams)[1, 0], data(keys.stream(rows[3], "noise")))


def test_row_normals_follow_their_row():
    key = jax.random.key(1)
    like = jnp.zeros((4, 3, 2, 2))
    rows = keys.item_keys(key, 12)
    draws = keys.row_normal(rows.reshape(4, 3), like, event_ndim=2)
    alone = keys.row_normal(keys.item_key(key, 7), jnp.zeros((2, 2)), event_ndim=2)
    np.testing.assert_array_equal(draws[2, 1], alone)
    assert keys.row_normal(jax.random.key(2), like.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"keys of shape \(4, 3\), one for each row, got \(12,\)"):
        keys.row_normal(rows, like, event_ndim=2)


def test_row_normals_of_no_rows():
    assert keys.row_normal(keys.item_keys(jax.random.key(1), 0), jnp.zeros((0, 3))).shape == (0, 3)


def test_row_normals_of_more_batch_than_event_axes():
    rows = keys.item_keys(jax.random.key(1), 12)
    draws = keys.row_normal(rows.reshape(4, 3), jnp.zeros((4, 3, 2)))
    np.testing.assert_array_equal(draws[2, 1], keys.row_normal(rows[7], jnp.zeros(2)))
