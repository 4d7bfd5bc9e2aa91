"""Finite-difference objectives: order two, exactness on quadratics, mutants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.score.denoising import denoising_sm_from_noise
from probjax.score.energies import score_from_energy
from probjax.score.finite_difference import (
    fd_dsm,
    fd_dsm_from_noise,
    fd_ssm,
    fd_ssm_from_slices,
)
from probjax.score.sliced import sliced_sm_energy_from_slices

RANDOM = np.random.default_rng(0)
X, NOISE = RANDOM.normal(size=(2, 5, 3))
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
ALL_SIGNS = np.broadcast_to(SIGNS[:, None], (8, 5, 3))
MATRIX = np.array([[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 0.7]])
SIGMA = 0.6


def energy(x):
    return jnp.sum(jnp.cosh(x) + x * jnp.sin(jnp.roll(x, 1, axis=-1)), axis=-1)


def quadratic(x):
    return 0.5 * ((x @ jnp.asarray(MATRIX, x.dtype)) * x).sum(-1) + x[..., 0]


def error_ratios(objective, truth, steps=(0.02, 0.01)):
    """Error at a step over the error at half of it, for the mean over rows."""
    errors = jax.jit(lambda step: (objective(energy, step) - truth(energy)).mean())
    coarse, fine = map(errors, steps)
    return float(coarse / fine)


def sliced_pair():
    def objective(energy_fn, step):
        return fd_ssm_from_slices(energy_fn, jnp.asarray(X), jnp.asarray(ALL_SIGNS), epsilon=step)

    def truth(energy_fn):
        return sliced_sm_energy_from_slices(energy_fn, jnp.asarray(X), jnp.asarray(ALL_SIGNS))

    return objective, truth


def denoising_pair():
    """All sign vectors, so that the mean over slices is exact."""

    def objective(energy_fn, step):
        return fd_dsm_from_noise(
            energy_fn, jnp.asarray(X), jnp.asarray(NOISE), jnp.asarray(ALL_SIGNS),
            noise_scale=SIGMA, epsilon=step,
        )  # fmt: skip

    def truth(energy_fn):
        return denoising_sm_from_noise(
            score_from_energy(energy_fn), jnp.asarray(X), jnp.asarray(NOISE), noise_scale=SIGMA
        )

    return objective, truth


PAIRS = {"fd_ssm": sliced_pair(), "fd_dsm": denoising_pair()}


@pytest.mark.parametrize("name", PAIRS)
def test_half_the_step_is_a_quarter_of_the_error(x64, name):
    assert abs(error_ratios(*PAIRS[name]) - 4) < 0.1


@pytest.mark.parametrize("name", PAIRS)
def test_exact_for_a_quadratic_energy(x64, name):
    objective, truth = PAIRS[name]
    for step in (0.1, 2.0):
        found, exact = jax.jit(lambda s: (objective(quadratic, s), truth(quadratic)))(step)
        np.testing.assert_allclose(found, exact, rtol=1e-10)


def sides(energy_fn, x, slices, step):
    return energy_fn(x[None] + step * slices), energy_fn(x[None] - step * slices)


def sliced_mutant(second, first):
    """`second` (E, E+, E-) and `first` (E+, E-) in place of the right bracket."""

    def objective(energy_fn, step):
        up, down = sides(energy_fn, jnp.asarray(X), jnp.asarray(ALL_SIGNS), step)
        middle = energy_fn(jnp.asarray(X))[None]
        return ((second(middle, up, down) + first(up, down)) / step**2).mean(0)

    return objective


def denoising_mutant(residual):
    """`residual` (E+, E-, step, v . noise) in place of the right one."""

    def objective(energy_fn, step):
        noise, signs = jnp.asarray(NOISE), jnp.asarray(ALL_SIGNS)
        up, down = sides(energy_fn, jnp.asarray(X) + SIGMA * noise, signs, step)
        pull = (signs * noise[None]).sum(-1)
        return 0.5 * (residual(up, down, step, pull) ** 2).mean(0)

    return objective


SOUND = {
    "fd_ssm": sliced_mutant(lambda m, u, d: 2 * m - u - d, lambda u, d: (u - d) ** 2 / 8),
    "fd_dsm": denoising_mutant(lambda u, d, e, pull: (d - u) / (2 * e) + pull / SIGMA),
}

MUTANTS = {
    "missing second-difference factor": (
        "fd_ssm", sliced_mutant(lambda m, u, d: m - u - d, lambda u, d: (u - d) ** 2 / 8)),
    "flipped sign of the curvature": (
        "fd_ssm", sliced_mutant(lambda m, u, d: u + d - 2 * m, lambda u, d: (u - d) ** 2 / 8)),
    "lost half": (
        "fd_ssm", sliced_mutant(lambda m, u, d: 2 * m - u - d, lambda u, d: (u - d) ** 2 / 4)),
    "one-sided slope": (
        "fd_ssm", sliced_mutant(lambda m, u, d: 2 * m - u - d, lambda u, d: (u - d) ** 2 / 2)),
    "flipped sign of the energy": (
        "fd_dsm", denoising_mutant(lambda u, d, e, pull: (u - d) / (2 * e) + pull / SIGMA)),
    "step for twice the step": (
        "fd_dsm", denoising_mutant(lambda u, d, e, pull: (d - u) / e + pull / SIGMA)),
    "scale for its square": (
        "fd_dsm", denoising_mutant(lambda u, d, e, pull: (d - u) / (2 * e) + pull)),
    "square of the scale": (
        "fd_dsm", denoising_mutant(lambda u, d, e, pull: (d - u) / (2 * e) + pull / SIGMA**2)),
}  # fmt: skip


@pytest.mark.slow
def test_the_checks_kill(x64):
    for name, sound in SOUND.items():
        assert abs(error_ratios(sound, PAIRS[name][1]) - 4) < 0.1
    for name, mutant in MUTANTS.values():
        assert abs(error_ratios(mutant, PAIRS[name][1]) - 4) > 0.1


def test_a_step_for_each_row_and_images(x64):
    x, noise = jnp.asarray(X), jnp.asarray(NOISE)
    signs = jnp.asarray(ALL_SIGNS[1:3])
    steps = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5])

    @jax.jit
    def both(steps):
        rows = [
            fd_ssm_from_slices(energy, x, signs, epsilon=steps),
            fd_dsm_from_noise(energy, x, noise, signs, noise_scale=2 * steps, epsilon=steps),
        ]
        one = [
            fd_ssm_from_slices(energy, x, signs, epsilon=0.3),
            fd_dsm_from_noise(energy, x, noise, signs, noise_scale=0.6, epsilon=0.3),
        ]
        image = fd_ssm_from_slices(
            lambda y: energy(y.reshape(5, 3)), x.reshape(5, 3, 1, 1), signs.reshape(2, 5, 3, 1, 1),
            epsilon=0.3, event_ndim=3,
        )  # fmt: skip
        return rows, one, image

    rows, one, image = both(steps)
    for many, single in zip(rows, one, strict=True):
        np.testing.assert_allclose(many[2], single[2], rtol=1e-12)
        assert abs(many[0] - single[0]) > 1e-6
    np.testing.assert_allclose(image, one[0], rtol=1e-12)


def test_rounding_bounds_the_step_from_below():
    """In float32 the error has a floor of some units of the energies over the squared step."""
    x, signs = jnp.asarray(X, jnp.float32), jnp.asarray(ALL_SIGNS[:1], jnp.float32)
    errors = jax.jit(
        lambda step: (
            fd_ssm_from_slices(energy, x, signs, epsilon=step)
            - sliced_sm_energy_from_slices(energy, x, signs)
        )
    )
    unit = 2.0**-24 * 30
    assert abs(errors(1e-3)).max() < 10 * unit / 1e-6
    assert abs(errors(0.03)).max() < abs(errors(1e-3)).max()


def test_shells_use_other_numbers_for_noise_and_slices():
    x = jnp.zeros((4000, 1))
    seen = jax.jit(
        lambda key: fd_dsm(key, lambda y: y[..., 0] * 0, x, noise_scale=1.0, law="gaussian")
    )
    values = 2 * seen(jax.random.key(0))  # (v . z)^2: mean 1 if independent, 3 if the same
    assert abs(values.mean() - 1) < 4 * values.std() / 4000**0.5
    several = jax.eval_shape(lambda key: fd_ssm(key, energy, x, num_slices=2), jax.random.key(0))
    assert several.shape == (4000,)


def test_bad_arguments_are_named():
    x, v = jnp.zeros((3, 2)), jnp.zeros((1, 3, 2))
    with pytest.raises(ValueError, match=r"epsilon must be positive and finite, got 0\.0"):
        fd_ssm(jax.random.key(0), energy, x, epsilon=0.0)
    with pytest.raises(ValueError, match=r"epsilon must be a scalar or have shape \(3,\)"):
        fd_ssm(jax.random.key(0), energy, x, epsilon=jnp.ones(2))
    with pytest.raises(ValueError, match="noise_scale must be positive and finite, got -1.0"):
        fd_dsm(jax.random.key(0), energy, x, noise_scale=-1.0)
    with pytest.raises(ValueError, match=r"slices must have shape \(any, 3, 2\), got \(3, 2\)"):
        fd_ssm_from_slices(energy, x, v[0])
    with pytest.raises(ValueError, match="number of slices must be at least 1, got 0"):
        fd_dsm_from_noise(energy, x, x, v[:0], noise_scale=1.0)
    with pytest.raises(ValueError, match=r"energy_fn\(x\) must have shape \(3,\), got \(3, 2\)"):
        fd_ssm_from_slices(jnp.sin, x, v)
    with pytest.raises(ValueError, match="law must be one of"):
        fd_dsm(jax.random.key(0), energy, x, noise_scale=1.0, law="unit")
