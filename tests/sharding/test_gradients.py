"""Data-parallel gradients against plain ones, to the bit where tiles promise it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import collectives as counting
from probjax import sharding

PARAMS = {
    "w": 0.5 * jax.random.normal(jax.random.key(0), (5, 24)),
    "v": 0.5 * jax.random.normal(jax.random.key(1), (24, 5)),
}
ROWS = (
    jax.random.normal(jax.random.key(2), (32, 5)),
    jax.random.normal(jax.random.key(3), (32, 5)),
)


def loss_fn(params, x, y):
    return jnp.sum((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2, axis=-1)


def plain(params, *rows):
    return jax.value_and_grad(lambda p: loss_fn(p, *rows).mean())(params)


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize("tile", [None, 4])
def test_it_is_the_gradient_of_the_mean(num_devices, tile):
    fn = jax.jit(sharding.value_and_grad(loss_fn, sharding.make_mesh(num_devices), tile=tile))
    close(fn(PARAMS, *ROWS), plain(PARAMS, *ROWS))


@pytest.mark.slow
@pytest.mark.bits
def test_tiles_give_the_same_bits_on_any_number_of_devices():
    results = [
        jax.jit(sharding.value_and_grad(loss_fn, sharding.make_mesh(num), tile=4))(PARAMS, *ROWS)
        for num in (1, 2, 4, 8)
    ]
    for other in results[1:]:
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def collectives(fn, *args):
    return counting.kinds(counting.of(jax.jit(fn), *args))


def test_the_declared_collectives_and_no_others():
    mesh = sharding.make_mesh(4)
    assert collectives(sharding.value_and_grad(loss_fn, mesh), PARAMS, *ROWS) == {"all-reduce"}
    tiled = sharding.value_and_grad(loss_fn, mesh, tile=4)
    assert collectives(tiled, PARAMS, *ROWS) == {"all-gather"}


def test_pmap_twin():
    mesh = sharding.make_mesh(4)
    split = [row.reshape(4, 8, 5) for row in ROWS]

    def on_one_device(params, *rows):
        return jax.lax.pmean(plain(params, *rows), "items")

    out = jax.pmap(
        on_one_device, axis_name="items", in_axes=(None, 0, 0), devices=jax.devices()[:4]
    )(PARAMS, *split)
    close(
        jax.jit(sharding.value_and_grad(loss_fn, mesh))(PARAMS, *ROWS),
        jax.tree.map(lambda a: a[0], out),
    )


@pytest.mark.slow
def test_mutants_of_the_reduction_are_seen():
    """A gradient summed twice over devices, or divided by a tile, is off by a factor."""
    mesh = sharding.make_mesh(4)
    fn = jax.jit(sharding.value_and_grad(loss_fn, mesh, tile=4))
    loss, gradient = fn(PARAMS, *ROWS)
    for factor in (4.0, 0.25, 8.0):
        mutant = (loss, jax.tree.map(lambda g, f=factor: g * f, gradient))
        with pytest.raises(AssertionError):
            close(mutant, plain(PARAMS, *ROWS))


def test_errors():
    mesh = sharding.make_mesh(4)
    fn = sharding.value_and_grad(loss_fn, mesh, tile=3)
    with pytest.raises(ValueError, match="positive multiple of 12 .* got 32"):
        fn(PARAMS, *ROWS)
    with pytest.raises(ValueError, match=r"one leading length, got \[16, 32\]"):
        fn(PARAMS, ROWS[0], ROWS[1][:16])
    with pytest.raises(ValueError, match="positive multiple of 4 .* got 0"):
        sharding.value_and_grad(loss_fn, mesh)(PARAMS, ROWS[0][:0], ROWS[1][:0])
    with pytest.raises(ValueError, match=r"loss_fn\(params, \*rows\) must have shape \(8,\)"):
        sharding.value_and_grad(lambda p, x, y: x, mesh)(PARAMS, *ROWS)
