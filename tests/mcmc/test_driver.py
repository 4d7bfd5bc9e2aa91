"""The loop all chains share: keys by global step, totals, traces."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core.keys import item_keys, step_key
from probjax.mcmc.driver import row_step_key, scan_steps


class Seen(NamedTuple):
    count: jax.Array
    flag: jax.Array


def walk(key, x):
    moved = x + jax.random.normal(key, x.shape)
    return moved, Seen(jnp.ones((), jnp.int32), moved > 3)


def test_same_numbers_as_a_python_loop():
    x = jnp.zeros(3)
    last, totals, kept = scan_steps(
        jax.random.key(0), walk, x, 12, trace_fn=lambda state, info: state
    )
    flags = np.zeros(3, bool)
    for t in range(12):
        x, info = walk(step_key(jax.random.key(0), t), x)
        flags |= np.asarray(info.flag)
        np.testing.assert_allclose(kept[t], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last, kept[-1])
    assert int(totals.count) == 12
    np.testing.assert_array_equal(totals.flag, flags)


def test_cut_in_two_it_gives_the_same_bits():
    run = jax.jit(
        lambda x, start, n: scan_steps(jax.random.key(0), walk, x, n, start=start)[0],
        static_argnums=2,
    )
    whole = run(jnp.zeros(3), 0, 10)
    np.testing.assert_array_equal(run(run(jnp.zeros(3), 0, 4), 4, 6), whole)


def test_a_key_for_each_row():
    keys = item_keys(jax.random.key(0), 4)
    for i, key in enumerate(row_step_key(keys, 3)):
        assert key == step_key(keys[i], 3)
    assert row_step_key(jax.random.PRNGKey(0), 3) == step_key(jax.random.key(0), 3)


def test_no_steps_and_bad_counts():
    last, totals, kept = scan_steps(jax.random.key(0), walk, jnp.ones(2), 0)
    np.testing.assert_array_equal(last, 1)
    assert int(totals.count) == 0 and kept is None
    with pytest.raises(ValueError, match="num_steps must be at least 0, got -1"):
        scan_steps(jax.random.key(0), walk, jnp.ones(2), -1)
