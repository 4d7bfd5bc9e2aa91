"""The rewriting that would change bits between meshes, and the options that keep it out."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import mcmc, networks, sharding
from probjax.core import item_keys, row_normal, step_key

pytestmark = pytest.mark.bits

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


@pytest.mark.slow
def test_annealed_langevin_with_a_perceptron_hashes_alike():
    """Key, network, ladder and loop as a user would put them together."""
    net = networks.DenoisingMLP(width=32, num_blocks=2)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(8), jnp.zeros(()))
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )

    def score_fn(x, noise_scale):
        level = jnp.broadcast_to(0.25 * jnp.log(noise_scale), x.shape[:-1])
        clean = net.apply(params, x / jnp.sqrt(noise_scale**2 + 1), level)
        return (clean - x) / noise_scale**2

    def chain(key):
        start = 4.0 * jax.random.normal(jax.random.fold_in(key, 0), (8,))
        ladder = np.geomspace(4.0, 0.1, 5)
        return mcmc.sample_annealed(
            jax.random.fold_in(key, 1), score_fn, start, ladder,
            num_steps_per_level=4, epsilon=0.002,
        )[0]  # fmt: skip

    hashes = set()
    for number in (1, 2, 4, 8):
        keys = item_keys(jax.random.key(1), 64)
        out = sharding.map_items(chain, sharding.make_mesh(number), tile=8)(keys)
        hashes.add(hashlib.sha256(np.asarray(out).tobytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.slow
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


@pytest.mark.slow
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
