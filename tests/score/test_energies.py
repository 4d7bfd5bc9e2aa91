"""Energies: forward derivatives against backward ones, the autoencoder's identity, mutants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.score.denoising import denoising_sm_from_noise
from probjax.score.energies import (
    TiedAutoencoder,
    energy_second,
    score_from_energy,
    tied_dae_energy,
)

RANDOM = np.random.default_rng(0)
X, V = RANDOM.normal(size=(2, 5, 3))
PARTS = RANDOM.normal(size=(4, 3)), RANDOM.normal(size=4), RANDOM.normal(size=3)


def energy(x):
    return jnp.sum(jnp.cosh(x) + x * jnp.sin(jnp.roll(x, 1, axis=-1)), axis=-1)


def test_forward_twice_is_forward_over_backward(x64):
    x, v = jnp.asarray(X), jnp.asarray(V)

    @jax.jit
    def both(x, v):
        slope, turn = jax.jvp(jax.grad(lambda y: energy(y).sum()), (x,), (v,))
        return energy_second(energy, x, v), (energy(x), (v * slope).sum(-1), (v * turn).sum(-1))

    ours, other = both(x, v)
    for mine, theirs in zip(ours, other, strict=True):
        assert mine.shape == (5,)
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_the_program_holds_no_transposition():
    """No backward pass over x: nothing in the trace sums an energy over its rows."""
    text = str(jax.make_jaxpr(lambda x, v: energy_second(energy, x, v))(jnp.ones((5, 3)), V[:5]))
    assert "reduce_sum[axes=(0,)" not in text and "transpose" not in text


def test_score_points_down_the_energy(x64):
    x = jnp.asarray(X)
    matrix = jnp.asarray(PARTS[0].T @ PARTS[0])
    score = score_from_energy(lambda y: 0.5 * ((y @ matrix) * y).sum(-1))(x)
    np.testing.assert_allclose(score, -x @ matrix, rtol=1e-12)


def check_autoencoder(energy_fn, noise_scale):
    """DSM of the energy is the reconstruction error of the autoencoder, row by row."""
    weights, inner, outer = PARTS

    @jax.jit
    def loss(params, x, noise):
        score_fn = score_from_energy(lambda y: energy_fn(params, y, noise_scale=noise_scale))
        return denoising_sm_from_noise(score_fn, x, noise, noise_scale=noise_scale)

    found = loss(TiedAutoencoder(*map(jnp.asarray, PARTS)), X, V)
    scale = np.broadcast_to(noise_scale, 5)
    code = 1 / (1 + np.exp(-((X + scale[:, None] * V) @ weights.T + inner)))
    error = ((code @ weights + outer - X) ** 2).sum(-1) / (2 * scale**4)
    np.testing.assert_allclose(found, error, rtol=1e-10)


@pytest.mark.parametrize("noise_scale", [0.3, np.linspace(0.1, 2.0, 5)])
def test_tied_energy_is_an_autoencoder(x64, noise_scale):
    check_autoencoder(tied_dae_energy, noise_scale)


def with_inner(unit):
    def energy_fn(params, x, *, noise_scale):
        inner = x @ params.weights.T + params.inner_bias[None]
        linear = (x * params.outer_bias[None]).sum(-1)
        return -(linear - 0.5 * (x**2).sum(-1) + unit(inner).sum(-1)) / noise_scale**2

    return energy_fn


MUTANTS = {
    "linear inner units": with_inner(lambda a: 0.5 * a**2),
    "flipped sign": lambda params, x, *, noise_scale: (
        -tied_dae_energy(params, x, noise_scale=noise_scale)
    ),
    "scale for its square": lambda params, x, *, noise_scale: (
        noise_scale * tied_dae_energy(params, x, noise_scale=noise_scale)
    ),
    "lost half": lambda params, x, *, noise_scale: (
        tied_dae_energy(params, x, noise_scale=noise_scale) + 0.5 * (x**2).sum(-1) / noise_scale**2
    ),
    "biases exchanged": lambda params, x, *, noise_scale: tied_dae_energy(
        params._replace(inner_bias=params.inner_bias[::-1], outer_bias=params.outer_bias[::-1]),
        x,
        noise_scale=noise_scale,
    ),
}


@pytest.mark.slow
def test_the_check_kills(x64):
    check_autoencoder(with_inner(jax.nn.softplus), 0.3)  # the frame is sound
    for mutant in MUTANTS.values():
        with pytest.raises(AssertionError):
            check_autoencoder(mutant, 0.3)


def test_rows_and_dtypes():
    x, v = X.astype(np.float32), V.astype(np.float32)
    x[2, 1] = np.nan
    x, alone = jnp.asarray(x), [False, False, True, False, False]
    score_fn = score_from_energy(energy)
    score, second = jax.jit(lambda x, v: (score_fn(x), energy_second(energy, x, v).second))(x, v)
    assert np.isnan(score).any(-1).tolist() == np.isnan(second).tolist() == alone
    assert jax.jit(score_fn)(x[:0]).shape == (0, 3)
    params = TiedAutoencoder(*(jnp.asarray(part, jnp.float32) for part in PARTS))
    tied = jax.jit(lambda params, x: tied_dae_energy(params, x, noise_scale=0.5))
    half = tied(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32 and half.shape == (5,)


def test_bad_arguments_are_named():
    x = jnp.zeros((3, 2))
    params = TiedAutoencoder(jnp.zeros((4, 2)), jnp.zeros(4), jnp.zeros(2))
    with pytest.raises(ValueError, match="noise_scale must be positive and finite, got 0.0"):
        tied_dae_energy(params, x, noise_scale=0.0)
    with pytest.raises(ValueError, match=r"noise_scale must be a scalar or have shape \(3,\)"):
        tied_dae_energy(params, x, noise_scale=jnp.ones(2))
    with pytest.raises(Exception, match="v"):
        energy_second(energy, x, jnp.zeros((3, 1)))
    with pytest.raises(Exception, match=r"floating|x"):
        energy_second(energy, jnp.zeros((3, 2), int), x)


def test_one_point_has_the_energy_of_its_row(x64):
    params, x = TiedAutoencoder(*map(jnp.asarray, PARTS)), jnp.asarray(X)
    rows = tied_dae_energy(params, x, noise_scale=jnp.linspace(0.5, 1.0, len(x)))
    np.testing.assert_allclose(
        tied_dae_energy(params, x[-1], noise_scale=1.0), rows[-1], rtol=1e-12
    )
