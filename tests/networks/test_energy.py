"""Energy and score perceptrons: the formula by hand, slopes that learn, smoothness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.networks.energy import EnergyMLP, ScoreMLP, Swish

X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
NETS = {"energy": EnergyMLP((6, 4)), "score": ScoreMLP((6, 4))}


def start(name):
    return jax.jit(NETS[name].init)(jax.random.key(0), X)


def by_hand(params, x):
    layers = params["params"]
    for i in (0, 1):
        x = x @ np.asarray(layers[f"Dense_{i}"]["kernel"]) + np.asarray(
            layers[f"Dense_{i}"]["bias"]
        )
        x = x / (1 + np.exp(-np.asarray(layers[f"Swish_{i}"]["beta"]) * x))
    return x @ np.asarray(layers["Dense_2"]["kernel"]) + np.asarray(
        layers["Dense_2"].get("bias", 0)
    )


@pytest.mark.parametrize("name", NETS)
def test_it_is_its_formula(name):
    params = jax.tree.map(lambda leaf: leaf + 0.3, start(name))  # slopes other than one
    found = jax.jit(NETS[name].apply)(params, X)
    expected = by_hand(params, X)
    assert found.shape == ((5,) if name == "energy" else (5, 2))
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-5)


def test_every_slope_has_a_gradient():
    params = start("energy")
    total = jax.jit(jax.grad(lambda p: NETS["energy"].apply(p, jnp.asarray(X)).sum()))
    slopes = total(params)["params"]
    for i in (0, 1):
        assert (np.asarray(slopes[f"Swish_{i}"]["beta"]) != 0).all()


def test_swish_at_its_ends():
    params = {"params": {"beta": jnp.array([0.0, 1e4, 1.0])}}
    np.testing.assert_allclose(
        Swish().apply(params, jnp.array([-2.0, -2.0, 0.0])), [-1.0, 0.0, 0.0], atol=1e-6
    )


def test_the_energy_bends():
    """A second derivative that is not zero: with ReLU units the trace would be."""
    params = start("energy")
    hessian = jax.jit(jax.hessian(lambda x: NETS["energy"].apply(params, x)))(X[0])
    assert np.linalg.norm(hessian) > 1e-3


def test_default_sizes():
    shapes = jax.eval_shape(EnergyMLP().init, jax.random.key(0), jnp.zeros(2))["params"]
    assert [shapes[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [
        (2, 300), (300, 300), (300, 1)
    ]  # fmt: skip
    assert "bias" not in shapes["Dense_2"]
    shapes = jax.eval_shape(ScoreMLP().init, jax.random.key(0), jnp.zeros(11))["params"]
    assert shapes["Dense_2"]["kernel"].shape == (300, 11)


@pytest.mark.parametrize("name", NETS)
def test_rows_stand_alone(name):
    params, apply = start(name), jax.jit(NETS[name].apply)
    broken = X.copy()
    broken[2, 0] = np.nan
    good = np.arange(5) != 2
    np.testing.assert_allclose(
        np.asarray(apply(params, broken))[good], np.asarray(apply(params, X))[good], rtol=1e-6
    )
    assert np.isnan(apply(params, broken)[2]).all()
