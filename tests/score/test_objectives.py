"""What all objectives share: their sign, one value for each row, precision, devices, cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax import score
from probjax.core.keys import item_keys

SIGMA = 0.8
NOISED = -1 / (1 + SIGMA**2)
LADDER = np.array([2.0, 0.7, 0.3])


def energy_of(slope):
    """The energy whose score is slope * x."""
    return lambda x: -0.5 * slope * (x**2).sum(-1)


def likelihood(key, s, x):
    return score.likelihood_dsm(key, s, x, noise_scale=SIGMA, diffusion2=3.0)


def multiscale(key, s, x):
    return score.multiscale_dsm(key, s, x, noise_scales=LADDER, reference_noise_scale=0.5)


def noise_by_level(key, s, x):
    def score_fn(y, noise_scale):
        return s(y) / (1 + noise_scale[..., None] ** 2)

    return score.multi_noise_dsm(key, score_fn, x, noise_scales=LADDER)


# Of a score model: (objective of key, score_fn, x; slope that is best on N(0, I)).
OF_SCORES = {
    "explicit": (lambda key, s, x: score.explicit_sm(s, x, -x), -1.0),
    "implicit": (lambda key, s, x: score.implicit_sm(s, x), -1.0),
    "sliced, reduced": (score.sliced_sm, -1.0),
    "sliced": (lambda key, s, x: score.sliced_sm(key, s, x, variance_reduced=False), -1.0),
    "sliced, two gaussian slices": (
        lambda key, s, x: score.sliced_sm(key, s, x, num_slices=2, law="gaussian"), -1.0),
    "denoising": (lambda key, s, x: score.denoising_sm(key, s, x, noise_scale=SIGMA), NOISED),
    "deen": (lambda key, s, x: score.deen(key, s, x, noise_scale=SIGMA), NOISED),
    "multi-noise": (noise_by_level, -1.0),
    "likelihood": (likelihood, NOISED),
    "target": (lambda key, s, x: score.target_sm(key, s, x, -x, noise_scale=SIGMA), NOISED),
    "multi-scale": (multiscale, -3 / 0.25 / np.sum(1 + 1 / LADDER**2)),
}  # fmt: skip

# Of an energy: (objective of key, energy_fn, x; best slope of its score).
OF_ENERGIES = {
    "sliced energy": (score.sliced_sm_energy, -1.0),
    "fd_ssm": (lambda key, e, x: score.fd_ssm(key, e, x, epsilon=0.1), -1.0),
    "fd_dsm": (lambda key, e, x: score.fd_dsm(key, e, x, noise_scale=SIGMA), NOISED),
}

MODELS = {name: (pair, lambda slope: lambda x: slope * x) for name, pair in OF_SCORES.items()}
MODELS |= {name: (pair, energy_of) for name, pair in OF_ENERGIES.items()}


@functools.cache
def slopes_of_losses(flip):
    """For each objective the rows' derivatives in c of s = c x, at the best c and at minus it."""
    x = jax.random.normal(jax.random.key(0), (10_000, 2))

    def derivative(name, slope):
        (objective, _), model = MODELS[name]

        def values(c):
            return objective(jax.random.key(1), model(flip * c), x)

        return jax.jvp(values, (slope,), (jnp.ones_like(slope),))[1]

    @jax.jit
    def run(best):
        return {name: (derivative(name, c), derivative(name, -c)) for name, c in best.items()}

    found = run({name: jnp.float32(pair[1]) for name, (pair, _) in MODELS.items()})
    return jax.tree.map(np.asarray, found)


def check_sign(name, flip=1.0):
    """The loss of s = c x on N(0, I) is stationary at the right c, within four errors, only."""
    at_best, at_other = slopes_of_losses(flip)[name]

    def errors_away(slopes):
        # Where a row's derivative is the same for all draws only rounding remains.
        return abs(slopes.mean()) / (slopes.std() / 100 + 1e-6)

    assert errors_away(at_best) < 4
    assert errors_away(at_other) > 20


@pytest.mark.parametrize("name", MODELS)
def test_the_best_slope_is_negative(name):
    check_sign(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_flipped_sign_is_seen(name):
    with pytest.raises(AssertionError):
        check_sign(name, flip=-1.0)


def bent(x):
    return jnp.sin(2 * x) - x


def curved(x):
    return (jnp.cosh(x) + jnp.sin(2 * x)).sum(-1)


ROWS = {
    name: lambda key, x, objective=objective: objective(key, bent, x)
    for name, (objective, _) in OF_SCORES.items()
} | {
    name: lambda key, x, objective=objective: objective(key, curved, x)
    for name, (objective, _) in OF_ENERGIES.items()
}


def every(keys, x):
    """All objectives at the same keys, one value a row each."""
    return {name: objective(jax.random.clone(keys), x) for name, objective in ROWS.items()}


@functools.cache
def rows_and_values():
    keys, x = item_keys(jax.random.key(0), 8), jax.random.normal(jax.random.key(1), (8, 3))
    return keys, x, jax.tree.map(np.asarray, jax.jit(every)(jax.random.clone(keys), x))


@pytest.mark.slow
def test_rows_stand_alone(reuse_keys):
    """A key per row: no row feels the batch, its order or a NaN beside it."""
    keys, x, values = rows_and_values()
    run = jax.jit(every)
    turned = run(keys[::-1], x.at[3, 1].set(jnp.nan)[::-1])
    some = jax.jit(every)(keys[2:4].reshape(2, 1), x[2:4].reshape(2, 1, 3))
    for name, found in values.items():
        assert found.shape == (8,) and found.dtype == np.float32, name
        back = np.asarray(turned[name])[::-1]
        assert np.isnan(back[3]), name
        np.testing.assert_allclose(np.delete(back, 3), np.delete(found, 3), rtol=1e-5)
        assert some[name].shape == (2, 1)
        np.testing.assert_allclose(some[name][:, 0], found[2:4], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_devices_change_nothing_and_do_not_talk(reuse_keys, num_devices):
    keys, x, values = rows_and_values()
    spec, devices = PartitionSpec("rows"), jax.devices()[:num_devices]
    mesh = jax.make_mesh((num_devices,), ("rows",), (AxisType.Auto,), devices=devices)
    mapped = jax.jit(jax.shard_map(every, mesh=mesh, in_specs=spec, out_specs=spec))
    by_jit = jax.jit(every, in_shardings=jax.NamedSharding(mesh, spec))
    for program in (mapped, by_jit)[: 1 + (num_devices == 4)]:
        compiled = program.lower(keys, x).compile()
        for name, found in compiled(
            *jax.device_put((keys, x), jax.NamedSharding(mesh, spec))
        ).items():
            np.testing.assert_allclose(found, values[name], rtol=1e-5, err_msg=name)
        text = compiled.as_text()
        assert not any(word in text for word in ("all-", "collective-", "reduce-scatter"))


@pytest.mark.parametrize("name", ROWS)
def test_empty_batches_and_half_kinds(name):
    def shape_of(x):
        return jax.eval_shape(ROWS[name], jax.random.key(0), x)

    assert shape_of(jnp.zeros((0, 3))).shape == (0,)
    for dtype in (jnp.bfloat16, jnp.float16):
        assert shape_of(jnp.zeros((2, 3), dtype)).dtype == jnp.float32
    single = shape_of(jnp.zeros(3))  # one example, no batch
    assert single.shape == () and single.dtype == jnp.float32
    with pytest.raises(Exception, match=r"floating|Float"):
        shape_of(jnp.zeros((2, 3), int))


def test_an_empty_batch_runs_and_halves_are_computed_in_single():
    names = ("implicit", "explicit", "sliced", "fd_dsm", "multi-scale")
    keys, half = jax.random.key(0), jnp.asarray(np.linspace(-1, 1, 6).reshape(2, 3), jnp.bfloat16)

    def run(key, half):
        for name in names:
            empty = ROWS[name](jax.random.clone(key), half[:0])
            narrow = ROWS[name](jax.random.clone(key), half)
            yield empty, narrow, ROWS[name](jax.random.clone(key), half.astype(jnp.float32))

    for empty, narrow, exact in jax.jit(lambda key, x: list(run(key, x)))(keys, half):
        assert empty.shape == (0,)
        np.testing.assert_array_equal(narrow, exact)
