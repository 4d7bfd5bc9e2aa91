"""Checks that every target passes, and mutants that they kill."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from probjax import targets

_spec = importlib.util.spec_from_file_location(
    "target_checks", Path(__file__).with_name("checks.py")
)
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)

# Those whose density is a sum over many points compile for seconds; they have test files too.
DEAR = ("banana", "funnel", "rings", "two_spirals", "checkerboard")
NAMES = [name for name in targets.NAMES if name not in DEAR]
NAMES += [pytest.param(name, marks=pytest.mark.slow) for name in DEAR]

SQUARE = ((-7.0, -7.0), (7.0, 7.0), (150, 150))
BOXES = {
    "gaussian": ((-9.0, -9.0), (11.0, 5.0), (120, 120)),
    "eight_gaussians": SQUARE,
    "two_modes": ((-13.0, -13.0), (13.0, 13.0), (120, 120)),
    "banana": ((-62.0, -14.0), (62.0, 115.0), (200, 300)),
    "rings": SQUARE,
    "two_spirals": ((-6.0, -6.0), (6.0, 6.0), (90, 90)),
    "checkerboard": SQUARE,
}
HISTOGRAMS = {
    "gaussian": ((-4.0, -6.0), (6.0, 2.0), (12, 12)),
    "eight_gaussians": ((-4.5, -4.5), (4.5, 4.5), (18, 18)),
    "two_modes": ((-9.0, -9.0), (9.0, 9.0), (18, 18)),
    "banana": ((-25.0, -8.0), (25.0, 18.0), (20, 20)),
    "funnel": ((-9.0, -12.0), (9.0, 12.0), (18, 24)),
    "rings": ((-4.0, -4.0), (4.0, 4.0), (20, 20)),
    "two_spirals": ((-4.5, -4.5), (4.5, 4.5), (15, 15)),
    "checkerboard": ((-5.0, -5.0), (5.0, 5.0), (20, 20)),
}


def make(name):
    return targets.make(name, dim=2) if name == "funnel" else targets.make(name)


class Compiled:
    """A target's functions, each compiled once; the noise scale is traced."""

    def __init__(self, target):
        self.log_density, self.score = jax.jit(target.log_density), jax.jit(target.score)
        self.gradient = jax.jit(jax.vmap(jax.grad(target.log_density), in_axes=(0, None)))
        self.sample = jax.jit(target.sample, static_argnums=1)

    def rows(self):
        """Twelve rows near the mass, six far from it."""
        far = 100 * jax.random.normal(jax.random.key(4), (6, 2))
        return jnp.concatenate([self.sample(jax.random.key(3), 20_000, 0.3)[:12], far])


@functools.cache
def compiled(name):
    return Compiled(make(name))


@pytest.mark.parametrize("name", NAMES)
def test_density_score_and_draws_are_of_one_law(name, x64):
    functions = compiled(name)
    if name in BOXES:
        checks.density_integrates_to_one(functions.log_density, BOXES[name], 0.3)
    x = functions.rows()
    for noise_scale in (0.05, 0.3, 2.0):
        checks.score_is_gradient(functions.score, functions.gradient, x, noise_scale)
    draws = functions.sample(jax.random.key(11), 20_000, 0.3)
    checks.draws_follow_density(functions.log_density, draws, HISTOGRAMS[name], 0.3)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_without_noise_too(name, x64):
    target = make(name)
    gradient = jax.vmap(jax.grad(target.log_density))
    x = jax.jit(target.sample, static_argnums=1)(jax.random.key(3), 9)
    score, gradient = jax.jit(lambda x: (target.score(x), gradient(x)))(x)
    checks.score_is_gradient(lambda x, _: score, lambda x, _: gradient, x, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_large_noise_pulls_to_the_mean_like_one_gaussian(name, x64):
    """At noise s far above the data's spread, s^2 * score tends to E[x0] - x."""
    functions, scale = compiled(name), 1e4
    x = jnp.tile(jnp.array([[3.0, -2.0]]), (18, 1))
    draws = functions.sample(jax.random.key(1), 20_000, 0.0)
    mean, spread = draws.mean(axis=0), draws.std(axis=0)
    pulled = scale**2 * functions.score(x, scale)[0] + x[0]
    assert jnp.all(jnp.abs(pulled - mean) < 5 * spread / 20_000**0.5 + 1e-3 * (1 + spread))


@pytest.mark.parametrize("name", NAMES)
def test_float32_far_from_the_mass_by_row_and_beside_a_bad_row(name):
    target = make(name)
    score, log_density = jax.jit(target.score), jax.jit(target.log_density)
    x = np.array([[100, 0], [0, 100], [-100, 0], [70, -70], [0, 0], [1, -2]], np.float32)
    scales = np.array([0.5, 1.0, 0.5, 8.0, 0.3, 80.0], np.float32)
    ours = score(x, scales)
    assert ours.dtype == log_density(x, scales).dtype == jnp.float32
    assert jnp.isfinite(log_density(x, scales)).all() and jnp.isfinite(ours).all()
    with jax.enable_x64(True):
        exact = np.asarray(score(x.astype(np.float64), scales.astype(np.float64)))
    sizes = 1 + np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.max(np.abs(np.asarray(ours) - exact) / sizes) < 1e-3
    assert (score(x[::-1].copy(), scales[::-1].copy())[::-1] == ours).all()
    x[1, 0] = np.nan
    beside = score(x, scales)
    assert (np.delete(beside, 1, axis=0) == np.delete(ours, 1, axis=0)).all()
    assert jnp.isnan(beside[1]).any()


@pytest.mark.slow
def test_batch_shapes_and_narrow_types():
    target = targets.two_modes()
    x, scales = target.sample(jax.random.key(0), 6), jnp.linspace(0.2, 2, 6)
    rows = target.score(x, scales)
    folded = target.score(x.reshape(2, 3, 2), scales.reshape(2, 3))
    np.testing.assert_allclose(folded.reshape(6, 2), rows, rtol=1e-5)
    assert target.score(x.astype(jnp.bfloat16), 0.5).dtype == jnp.bfloat16
    assert target.log_density(jnp.zeros((0, 2)), 0.5).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["funnel", "two_spirals", "gaussian"])
def test_shard_map_with_vma_check_and_no_collective(name):
    target = make(name)
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.jit(
        jax.shard_map(
            lambda x, s: (target.score(x, s), jax.vmap(jax.grad(target.log_density))(x, s)),
            mesh=mesh,
            in_specs=(P("rows"), P("rows")),
            out_specs=P("rows"),
        )
    )
    x, s = target.sample(jax.random.key(0), 4, 0.5), jnp.array([0.3, 0.4, 0.5, 0.6])
    score, gradient = mapped(x, s)
    np.testing.assert_allclose(score, jax.jit(target.score)(x, s), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(score, gradient, rtol=1e-2, atol=1e-3)
    hlo = mapped.lower(x, s).compile().as_text()
    assert not any(word in hlo for word in ("all-reduce", "all-gather", "all-to-all", "permute("))


@pytest.mark.slow
def test_rows_of_a_sample_depend_on_their_index_only():
    target = targets.eight_gaussians()
    few, many = (target.sample(jax.random.key(5), n, 0.5) for n in (3, 7))
    assert (few == many[:3]).all()
    assert target.sample(jax.random.key(5), 0).shape == (0, 2)
    scales = jnp.array([0.0, 0.5, 1.0])
    per_row = target.sample(jax.random.key(5), 3, scales)
    assert (per_row[1] == few[1]).all() and not (per_row[0] == few[0]).all()


def test_bad_input_is_named():
    target = targets.rings()
    with pytest.raises(ValueError, match=r"x must have shape \(\*B, 2\), got \(4, 3\)"):
        target.score(jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"noise_scale must be a scalar or have shape \(4,\)"):
        target.score(jnp.zeros((4, 2)), jnp.ones(3))
    with pytest.raises(ValueError, match=r"noise_scale must be finite and not negative, got -1\.0"):
        target.score(jnp.zeros((4, 2)), -1.0)
    assert jnp.isnan(jax.jit(target.log_density)(jnp.zeros((4, 2)), -1.0)).all()
    with pytest.raises(ValueError, match="name must be one of"):
        targets.make("ring")


def scaled(target, factor):
    return target._replace(score=lambda x, s=0.0: factor * target.score(x, s))


def with_scale(target, change):
    """The density forgets or squares the noise, its score along with it."""
    return target._replace(
        log_density=lambda x, s=0.0: target.log_density(x, change(s)),
        score=lambda x, s=0.0: target.score(x, change(s)),
    )


def heavier(target):
    return target._replace(log_density=lambda x, s=0.0: target.log_density(x, s) + 1e-4)


MUTANTS = {
    "flipped score sign": (lambda t: scaled(t, -1), "gradient"),
    "lost one half": (lambda t: scaled(t, 2), "gradient"),
    "wrong normaliser": (heavier, "integral"),
    "noise forgotten": (lambda t: with_scale(t, lambda s: 0.0), "draws"),
    "noise squared": (lambda t: with_scale(t, lambda s: s * s), "draws"),
    "coordinates swapped": (
        lambda t: t._replace(log_density=lambda x, s=0.0: t.log_density(x[..., ::-1], s)),
        "draws",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_mutants_die(mutant, x64):
    change, check = MUTANTS[mutant]
    functions = Compiled(change(make("gaussian")))
    with pytest.raises(AssertionError):
        if check == "gradient":
            checks.score_is_gradient(functions.score, functions.gradient, functions.rows(), 0.3)
        elif check == "integral":
            checks.density_integrates_to_one(functions.log_density, BOXES["gaussian"], 0.3)
        else:
            draws = functions.sample(jax.random.key(11), 20_000, 0.6)
            checks.draws_follow_density(functions.log_density, draws, HISTOGRAMS["gaussian"], 0.6)
