"""Gains of the skips: ones change no bit, order and depth are as said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.skip_tuning import skip_scales
from probjax.networks import UNet

NET = UNet(widths=(8, 8))
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32))
LEVELS = jnp.array([-0.5, 0.5])


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(NET.init, jax.random.key(0), X, LEVELS)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.1, 0.2, leaf.shape).astype(np.float32)), shapes
    )


def test_scales_are_linear_from_the_input_to_the_bottom():
    np.testing.assert_allclose(skip_scales(5, 0.6, 0.9), np.linspace(0.9, 0.6, 5), rtol=1e-6)
    np.testing.assert_array_equal(skip_scales(7, 1.0), np.ones(7))
    got = skip_scales(4, 0.3)
    assert got[0] == 1 and got[-1] == np.float32(0.3)
    np.testing.assert_array_equal(skip_scales(1, 0.3, 0.8), np.float32([0.8]))
    np.testing.assert_array_equal(jax.jit(lambda r: skip_scales(3, r))(0.5), skip_scales(3, 0.5))


@pytest.mark.bits
def test_ones_change_no_bit(params):
    plain = jax.jit(NET.apply)(params, X, LEVELS)
    ones = skip_scales(NET.num_skips, 1.0)
    fixed = jax.jit(lambda params, x: NET.apply(params, x, LEVELS, ones))(params, X)
    np.testing.assert_array_equal(plain, fixed)
    # Ones that the compiler cannot see are another program, which may round a bit otherwise.
    traced = jax.jit(NET.apply)(params, X, LEVELS, ones)
    np.testing.assert_allclose(plain, traced, rtol=1e-5, atol=1e-6)


@jax.jit
def slopes(params, scale):
    """Derivative of the output's squared size in each gain."""
    return jax.grad(lambda scale: jnp.sum(NET.apply(params, X, LEVELS, scale) ** 2))(scale)


def deaf_to_the_outermost(params):
    """The last block up, which takes the skip nearest the input, no longer looks at it."""
    block = params["params"]["_Block_3"]
    kernel = block["Conv_0"]["kernel"].at[:, :, -8:].set(0.0)
    shortcut = block["Dense_1"]["kernel"].at[-8:].set(0.0)
    changed = {
        **block,
        "Conv_0": {**block["Conv_0"], "kernel": kernel},
        "Dense_1": {**block["Dense_1"], "kernel": shortcut},
    }
    return {"params": {**params["params"], "_Block_3": changed}}


def outermost_is_first(gradient):
    return gradient[0] == 0 and (gradient[1:] != 0).all()


def test_the_first_gain_is_that_of_the_skip_nearest_the_input(params):
    ones = jnp.ones(NET.num_skips)
    assert (slopes(params, ones) != 0).all()
    gradient = slopes(deaf_to_the_outermost(params), ones)
    assert outermost_is_first(gradient)
    assert not outermost_is_first(gradient[::-1])


def test_skips_that_are_zero_have_no_gradient(params):
    """With every parameter on the way down zero the skips are zero, whatever their gains."""
    silent = ("Conv_0", "_Block_0", "_Block_1")
    quiet = {
        name: jax.tree.map(jnp.zeros_like, part) if name in silent else part
        for name, part in params["params"].items()
    }
    np.testing.assert_array_equal(slopes({"params": quiet}, jnp.full(2, 0.7)), np.zeros(2))


def test_a_new_gain_compiles_nothing(params, compilations):
    apply = jax.jit(NET.apply)
    first = apply(params, X, LEVELS, skip_scales(2, 0.9))
    compilations.clear()
    assert not np.array_equal(apply(params, X, LEVELS, skip_scales(2, 0.5)), first)
    assert not compilations


def test_bad_arguments_are_named(params):
    with pytest.raises(ValueError, match="num_skips must be at least 1, got 0"):
        skip_scales(0, 0.5)
    with pytest.raises(ValueError, match="rho_bottom must be finite and not negative"):
        skip_scales(3, -0.5)
    with pytest.raises(ValueError, match=r"skip_scale must have shape \(2,\), got \(3,\)"):
        NET.apply(params, X, LEVELS, jnp.ones(3))
