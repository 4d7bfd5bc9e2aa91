"""The mixer keeps rows apart, reads patches where they are, and starts at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.networks import DenoisingMixer

NET = DenoisingMixer(image_size=8, width=8, token_width=4, channel_width=16, num_blocks=2)
APPLY = jax.jit(NET.apply)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(NET.init)(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))


@pytest.fixture(scope="module")
def moved(fresh):
    rng = np.random.default_rng(0)
    noise = lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + noise(leaf)), fresh)


def test_a_fresh_network_gives_zero(fresh):
    assert (APPLY(fresh, jnp.ones((2, 64)), jnp.zeros(2)) == 0).all()


def test_rows_do_not_influence_each_other(moved):
    x = jax.random.normal(jax.random.key(1), (3, 4, 64))
    levels = jax.random.normal(jax.random.key(2), (3, 4))
    out = APPLY(moved, x, levels)
    np.testing.assert_allclose(out[1, 2], APPLY(moved, x[1, 2], levels[1, 2]), rtol=1e-4, atol=1e-4)
    poisoned = APPLY(moved, x.at[0, 0].set(jnp.nan), levels)
    assert jnp.isnan(poisoned).any(-1).sum() == 1
    assert APPLY(moved, x[:0], levels[:0]).shape == (0, 4, 64)


def test_patches_and_rows_undo_each_other():
    x = jnp.arange(3 * 64.0).reshape(3, 64)
    patches = NET._patches(x)
    np.testing.assert_array_equal(NET._rows(patches), x)
    image = np.asarray(x[1]).reshape(8, 8)
    np.testing.assert_array_equal(patches[6, 1].reshape(2, 2), image[2:4, 4:6])


def test_every_pixel_and_the_level_matter(moved):
    x = jax.random.normal(jax.random.key(1), (64,))
    corner = jax.jit(jax.grad(lambda x: NET.apply(moved, x, jnp.zeros(()))[0]))(x)
    assert (jnp.abs(corner) > 0).all()
    here, there = (APPLY(moved, x, jnp.asarray(level)) for level in (-0.5, 0.5))
    assert jnp.abs(here - there).max() > 1e-3


CLASSY = DenoisingMixer(4, width=8, token_width=4, channel_width=8, num_blocks=1, num_classes=2)
PLAIN = DenoisingMixer(4, width=8, token_width=4, channel_width=8, num_blocks=1)


@pytest.fixture(scope="module")
def classy():
    """Parameters without zeros, and what each class gives for the same rows and levels."""
    params = jax.jit(CLASSY.init)(jax.random.key(0), jnp.zeros(16), jnp.zeros(()))
    rng = np.random.default_rng(1)
    noise = lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + noise(leaf)), params)
    return params["params"], jax.random.normal(jax.random.key(1), (4, 16)), jnp.linspace(-1, 1, 4)


def test_a_class_is_added_to_the_embedding_and_enters_nowhere_else(classy):
    """The network without classes whose bias is moved by the class's row is the same network."""
    params, x, levels = classy
    shared = {name: value for name, value in params.items() if name != "classes"}
    first, plain = shared["Dense_0"], jax.jit(PLAIN.apply)
    mixed = jax.jit(CLASSY.apply)({"params": params}, x, levels, jnp.array([1, 0, 2, -1]))
    for row, added in enumerate([params["classes"][1], params["classes"][0], 0.0, 0.0]):
        moved = {**shared, "Dense_0": {**first, "bias": first["bias"] + added}}
        alone = plain({"params": moved}, x[row], levels[row])
        np.testing.assert_allclose(mixed[row], alone, rtol=1e-4, atol=1e-5)


def test_no_label_is_no_class_to_the_bit(classy):
    params, x, levels = classy
    apply, params = jax.jit(CLASSY.apply), {"params": params}
    none, told = apply(params, x, levels), apply(params, x, levels, jnp.zeros(4, jnp.int32))
    for label in (-1, 2):
        np.testing.assert_array_equal(apply(params, x, levels, jnp.full(4, label)), none)
    assert jnp.abs(told - none).max() > 1e-2


def test_only_the_class_told_learns(classy):
    params, x, levels = classy
    loss = lambda params: (CLASSY.apply({"params": params}, x, levels, label) ** 2).sum()
    label = jnp.array([1, -1, 2, 1])
    slope = jax.jit(jax.grad(loss))(params)["classes"]
    assert (slope[0] == 0).all() and jnp.abs(slope[1]).max() > 0


def test_errors():
    with pytest.raises(ValueError, match="label must be None without num_classes"):
        PLAIN.init(jax.random.key(0), jnp.zeros(16), jnp.zeros(()), jnp.int32(1))
    with pytest.raises(ValueError, match="patch_size must divide image_size=8, got 3"):
        DenoisingMixer(8, 3).init(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))
    with pytest.raises(ValueError, match=r"x must have rows of 64, got shape \(63,\)"):
        NET.init(jax.random.key(0), jnp.zeros(63), jnp.zeros(()))
