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


def test_tiled_gradients_too_in_a_program_with_those_options():
    def loss_fn(weight, keys, x):
        noise = row_normal(keys, x)
        total = jnp.sqrt(noise[:, :1] ** 2 + 0.25)
        clean = jnp.tanh((x + noise) / total @ weight) / total
        return jnp.sum((clean - x) ** 2 / total**2, axis=-1)

    x = jax.random.normal(jax.random.key(2), (64, 16))
    found = []
    for number in (1, 2, 4, 8):
        mesh = sharding.make_mesh(number)
        fn = jax.jit(
            sharding.value_and_grad(loss_fn, mesh, tile=8),
            compiler_options=sharding.same_bits_options(mesh),
        )
        args = sharding.place((WEIGHT, item_keys(jax.random.key(1), 64), x), mesh, jax.P())
        found.append([np.asarray(leaf) for leaf in fn(*args)])
    for loss, gradient in found[1:]:
        np.testing.assert_array_equal(loss, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])


@pytest.mark.parametrize("number", [1, 2, 5])
def test_map_tiles_is_map(number):
    tiles = {"x": jnp.arange(number * 6.0).reshape(number, 3, 2), "n": jnp.arange(number)}
    fn = lambda tile: (tile["x"].sum(0) * tile["n"].astype(jnp.float32), tile["n"] - 1)
    for one, other in zip(
        jax.jit(lambda t: sharding.map_tiles(fn, t))(tiles), jax.lax.map(fn, tiles), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    keys = item_keys(jax.random.key(0), number)
    folded = sharding.map_tiles(lambda key: jax.random.fold_in(key, 1), keys)
    assert folded.shape == (number,)


def test_options_are_for_cpus():
    assert sharding.same_bits_options(sharding.make_mesh(1)) == {
        "xla_disable_hlo_passes": "algsimp"
    }
