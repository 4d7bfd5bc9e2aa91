"""The rewriting that would change bits between meshes, and the options that keep it out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.core import item_keys, row_normal, step_key

WEIGHT = 0.3 * jax.random.normal(jax.random.key(0), (16, 16))


def divided_twice(keys, x):
    """Divisions by roots and by scalars, written as a reader would, in a loop with noise."""

    def step(x, t):
        scale = 1.0 / (1.0 + t.astype(x.dtype))
        total = jnp.sqrt(scale**2 + 0.25 + 0 * x[:, :1] ** 2)
        score = (jnp.tanh(x / total @ WEIGHT) / total - x) / scale**2
        noise = row_normal(jax.vmap(lambda key: step_key(key, t))(keys), x)
        return x + 0.01 * scale**2 * score + 0.1 * scale * noise, None

    return jax.lax.scan(step, x, jnp.arange(6))[0]


@pytest.mark.parametrize("tile", [4, 8])
def test_one_two_four_and_eight_devices_give_the_same_bits(tile):
    keys = item_keys(jax.random.key(1), 64)
    x = jax.random.normal(jax.random.key(2), (64, 16))
    outs = [
        np.asarray(sharding.map_rows(divided_twice, sharding.make_mesh(n), tile=tile)(keys, x))
        for n in (1, 2, 4, 8)
    ]
    for other in outs[1:]:
        np.testing.assert_array_equal(outs[0], other)


def test_options_are_for_cpus():
    assert sharding.same_bits_options(sharding.make_mesh(1)) == {
        "xla_disable_hlo_passes": "algsimp"
    }
