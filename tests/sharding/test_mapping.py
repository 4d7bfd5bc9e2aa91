"""One function, one call, the same answer on any number of devices."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.core import item_keys, step_key
from probjax.sharding import mapping

WEIGHTS = [
    0.3 * jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(6, 32), (32, 32), (32, 6)])
]


def drift(x):
    for weight in WEIGHTS[:-1]:
        x = jnp.tanh(x @ weight)
    return x @ WEIGHTS[-1]


def chain(key, x):
    """Langevin steps with a network drift: matrix products, transcendentals, noise, a loop."""

    def step(x, t):
        noise = jax.random.normal(step_key(key, t), x.shape)
        return x + 0.1 * (drift(x) - x) + 0.3 * noise, jnp.sum(x)

    return jax.lax.scan(step, x, jnp.arange(20))


def inputs(num_items):
    keys = item_keys(jax.random.key(1), num_items)
    return keys, jax.random.normal(jax.random.key(2), (num_items, 6))


def sha(tree):
    leaves = [np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


@pytest.mark.slow
@pytest.mark.bits
@pytest.mark.parametrize("num_items", [32, 13])
def test_tiles_give_the_same_bits_on_any_number_of_devices(num_items):
    hashes = {
        num: sha(sharding.map_items(chain, sharding.make_mesh(num), tile=4)(*inputs(num_items)))
        for num in (1, 2, 4, 8)
    }
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.slow
def test_without_tiles_equal_up_to_rounding_and_to_plain_vmap():
    expected = jax.vmap(chain)(*inputs(13))
    for num in (1, 3, 8):
        got = sharding.map_items(chain, sharding.make_mesh(num))(*inputs(13))
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [None, 2])
def test_pmap_twin(tile):
    mesh = sharding.make_mesh(4)
    ours = sharding.map_items(chain, mesh, tile=tile)(*inputs(13))
    twin = sharding.pmap_items(chain, mesh, tile=tile)(*inputs(13))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(twin), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.bits
@pytest.mark.parametrize("tile", [None, 4])
def test_rows_are_items_in_blocks(tile):
    def block(keys, x, weight):
        return jnp.tanh(x @ weight) + jax.vmap(lambda key: jax.random.normal(key, (6,)))(keys)

    weight = WEIGHTS[0] @ WEIGHTS[2]
    outs = [
        sharding.map_rows(block, sharding.make_mesh(num), tile=tile, in_axes=(0, 0, None))(
            *inputs(13), weight
        )
        for num in (1, 2, 8)
    ]
    expected = block(*inputs(13), weight)
    for out in outs:
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
        if tile is not None:
            np.testing.assert_array_equal(out, outs[0])
    assert sharding.map_rows(block, sharding.make_mesh(2), in_axes=(0, 0, None))(
        *inputs(0), weight
    ).shape == (0, 6)


@pytest.mark.slow
@pytest.mark.bits
def test_more_items_leave_the_first_ones_alone():
    mesh = sharding.make_mesh(2)
    few = sharding.map_items(chain, mesh, tile=4)(*inputs(5))[0]
    many = sharding.map_items(chain, mesh, tile=4)(
        inputs(29)[0], jnp.concatenate([inputs(5)[1], jnp.ones((24, 6))])
    )[0]
    np.testing.assert_array_equal(few, many[:5])


@pytest.mark.parametrize("num_items", [0, 1, 2, 7, 8, 9])
@pytest.mark.parametrize("tile", [None, 3])
def test_any_number_of_items(num_items, tile):
    x = jnp.arange(num_items, dtype=jnp.float32)
    tree = {"a": x, "b": (jnp.stack([x, -x], axis=-1),)}
    fn = sharding.map_items(
        lambda item, c: {"sum": item["a"] + c * item["b"][0].sum(), "pair": item["b"][0]},
        sharding.make_mesh(4), tile=tile, in_axes=(0, None),
    )  # fmt: skip
    out = fn(tree, 2.0)
    np.testing.assert_array_equal(out["sum"], x)
    np.testing.assert_array_equal(out["pair"], tree["b"][0])


def test_no_data_crosses_devices_and_one_compile_for_a_shape():
    mesh = sharding.make_mesh(4)
    sharding.map_items(chain, mesh, tile=2)(*inputs(16))
    program = mapping._mesh_program(chain, mesh, 2, 0, True, True, True)
    before = program._cache_size()
    sharding.map_items(chain, sharding.make_mesh(4), tile=2)(*inputs(15))
    sharding.map_items(chain, mesh, tile=2)(*inputs(16))
    assert program._cache_size() == before == 1
    text = program.lower(*inputs(16)).compile().as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text


def test_explicit_meshes_and_inputs_from_elsewhere_are_placed():
    explicit = jax.make_mesh((2,), ("items",))
    elsewhere = jax.device_put(jnp.arange(4.0), jax.devices()[5])
    np.testing.assert_array_equal(
        sharding.map_items(lambda x: x + 1, explicit)(elsewhere), [1, 2, 3, 4]
    )


def test_a_bad_item_harms_no_other():
    keys, x = inputs(8)
    good = sharding.map_items(chain, sharding.make_mesh(4), tile=2)(keys, x)[0]
    bad = sharding.map_items(chain, sharding.make_mesh(4), tile=2)(keys, x.at[3].set(jnp.nan))[0]
    assert jnp.isnan(bad[3]).all()
    np.testing.assert_array_equal(np.delete(bad, 3, 0), np.delete(good, 3, 0))


def test_it_composes_under_jit_and_grad():
    mapped = sharding.map_items(lambda w, x: (w * x) ** 2, sharding.make_mesh(4), in_axes=(None, 0))
    x = jnp.arange(6.0)
    gradient = jax.jit(jax.grad(lambda w: mapped(w, x).sum()))(jnp.float32(3.0))
    np.testing.assert_allclose(gradient, 2 * 3 * (x**2).sum(), rtol=1e-6)


PAIR = (jnp.ones(3), jnp.ones(4))
TREES = ({"a": jnp.ones(3)}, {"b": jnp.ones(2)})


@pytest.mark.parametrize(
    ("options", "args", "message"),
    [
        ({}, PAIR, "argument 1 has 4 items but argument 0 has 3"),
        ({}, TREES, r"argument 1\['b'\] has 2 items but argument 0\['a'\] has 3"),
        ({}, (jnp.ones(3), 1.0), "argument 1 is mapped but has no leading axis"),
        ({}, ((), {}), "no mapped argument holds an array"),
        ({"in_axes": (0,)}, PAIR, "in_axes has 1 entries for 2 arguments"),
        ({"in_axes": (None, None)}, PAIR, "in_axes must hold 0 or None, and 0 at least once"),
        ({"in_axes": (1, 0)}, PAIR, "in_axes must hold 0 or None"),
        ({"tile": 0}, PAIR, "tile must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize(
    "mapper", [sharding.map_items, sharding.map_rows, sharding.pmap_items], ids=lambda m: m.__name__
)
def test_errors_name_the_argument(mapper, options, args, message):
    with pytest.raises(ValueError, match=message):
        mapper(lambda a, b: a, sharding.make_mesh(2), **options)(*args)
