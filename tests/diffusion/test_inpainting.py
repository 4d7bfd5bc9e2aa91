"""Inpainting against the exact recursion of replacement, the conditional law, and its mutants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax.core.keys import item_keys, step_key
from probjax.diffusion.exact import gaussian_denoiser
from probjax.diffusion.grids import karras_noise_scales
from probjax.diffusion.inpainting import inpaint
from probjax.diffusion.samplers import ancestral, ddim, heun, sample

RHO = 0.9
MASK = np.array([True, False])
PAIR = gaussian_denoiser(jnp.zeros(2), jnp.array([[1.0, RHO], [RHO, 1.0]]))
GRID = np.array([4.0, 1.0, 0.3, 0.1], np.float32)


def grid(num_scales):
    return np.asarray(karras_noise_scales(num_scales), np.float64)


def replacement_law(scales):
    """Mean and variance of the unknown entry, y = 1: the recursion of replacement, in closed form.

    At scale s the denoiser of the unknown entry u is a u + b k, and k = 1 + s z is drawn afresh.
    """
    mean, variance = 0.0, scales[0] ** 2
    for i, s in enumerate(scales):
        inverse = np.linalg.inv(np.array([[1.0, RHO], [RHO, 1.0]]) + s**2 * np.eye(2))
        row = np.array([RHO, 1.0]) @ inverse  # the unknown entry's: weights of known, unknown
        after = scales[i + 1] if i + 1 < len(scales) else 0.0
        keep = after**2 / s**2
        spread = after**2 * (1 - keep)
        on_unknown, on_known = keep + (1 - keep) * row[1], (1 - keep) * row[0]
        mean = on_unknown * mean + on_known
        variance = on_unknown**2 * variance + (on_known * s) ** 2 + spread
    return mean, variance


def test_the_recursion_of_replacement_in_the_limit():
    mean, variance = replacement_law(grid(5000))
    assert abs(mean - 0.626) < 1e-3 and abs(variance - 0.310) < 1e-3
    assert abs(mean - RHO) > 0.2  # not the conditional law, N(0.9, 0.19)


def painted(num_steps, num_correctors, chains=4000, mask=MASK, observed=(1.0, np.nan)):
    scales = grid(num_steps)
    algorithm = inpaint(
        ancestral(PAIR, scales),
        jnp.asarray(observed, jnp.float32),
        jnp.asarray(mask),
        noise_scales=scales,
        denoiser=PAIR,
        num_correctors=num_correctors,
        sigma_data=1.0,
    )

    @jax.jit
    def run(key, start):
        return sample(key, algorithm, 80.0 * start, num_steps)

    return run(jax.random.key(1), jax.random.normal(jax.random.key(0), (chains, 2)))


def follows_the_recursion(mask):
    scales, chains = grid(20), 4000
    x = np.asarray(painted(20, 0, chains, mask).x, np.float64)
    mean, variance = replacement_law(scales)
    return (
        (x[:, 0] == 1).all()
        and abs(x[:, 1].mean() - mean) < 4 * np.sqrt(variance / chains)
        and abs(x[:, 1].var() / variance - 1) < 4 * np.sqrt(2 / chains)
    )


def test_replacement_follows_its_recursion():
    assert follows_the_recursion(MASK)


@pytest.mark.slow
def test_a_mask_upside_down_is_killed():
    assert not follows_the_recursion(~MASK)


@pytest.mark.slow
def test_correctors_tend_to_the_conditional_law():
    means, errors = [], []
    for num_correctors in (1, 4, 16):
        x = np.asarray(painted(200, num_correctors, 8000).x[:, 1], np.float64)
        means.append(x.mean())
        errors.append(x.std() / np.sqrt(len(x)))
    assert replacement_law(grid(200))[0] < 0.7 < means[0]
    assert means[0] < means[1] + 4 * errors[1] and means[1] < means[2] + 4 * errors[2]
    assert abs(means[2] - RHO) < 0.02


def test_known_entries_are_noised_data_at_each_level(reuse_keys):
    """Mean alpha y, standard deviation the noise scale, from step to step and fresh each time."""
    alphas = np.array([0.3, 0.6, 0.9, 0.98], np.float32)
    algorithm = inpaint(
        ddim(PAIR, GRID, alphas=alphas), jnp.array([2.0, 0.0]), jnp.asarray(MASK),
        noise_scales=GRID, alphas=alphas,
    )  # fmt: skip
    draws, noises = 4000, []
    step = jax.jit(algorithm.step)
    state = algorithm.init(jnp.zeros((draws, 2)))
    for t in range(3):
        state, info = step(step_key(jax.random.key(0), t), state)
        noise = (np.asarray(state.x[:, 0]) - 2.0 * alphas[t + 1]) / GRID[t + 1]
        assert abs(noise.mean()) < 4 / np.sqrt(draws)
        assert abs(noise.var() - 1) < 4 * np.sqrt(2 / draws)
        noises.append(noise)
    assert abs(np.corrcoef(noises)[np.triu_indices(3, 1)]).max() < 4 / np.sqrt(draws)
    assert not bool(info.is_nonfinite.any())
    state, _ = step(step_key(jax.random.key(0), 3), state)
    np.testing.assert_array_equal(state.x[:, 0], 2.0)
    held, info = step(step_key(jax.random.key(0), 4), state)
    np.testing.assert_array_equal(held.x, state.x)
    assert int(info.num_evaluations) == 0


@pytest.mark.bits
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(ddim, marks=pytest.mark.slow),
        ancestral,
        pytest.param(heun, marks=pytest.mark.slow),
    ],
)
def test_masks_of_all_and_of_nothing(reuse_keys, make):
    x = 4 * jax.random.normal(jax.random.key(0), (6, 2))
    y = jax.random.normal(jax.random.key(1), (6, 2))
    options = {"noise_scales": GRID, "denoiser": PAIR, "num_correctors": 1}
    everything = inpaint(make(PAIR, GRID), y, jnp.ones(2, bool), **options)
    result = sample(jax.random.key(2), everything, x, 4)
    np.testing.assert_array_equal(result.x, y)
    assert int(result.num_evaluations) == (7 if make is heun else 4) + 4
    nothing = inpaint(make(PAIR, GRID), y, jnp.zeros(2, bool), noise_scales=GRID)
    plain = sample(jax.random.key(2), make(PAIR, GRID), x, 4)
    np.testing.assert_array_equal(sample(jax.random.key(2), nothing, x, 4).x, plain.x)


def test_keep_ends_at_the_last_noise_scale(reuse_keys):
    kept = inpaint(
        ddim(PAIR, GRID, final="keep"), jnp.zeros(2), jnp.asarray(MASK), noise_scales=GRID,
        final="keep",
    )  # fmt: skip
    x = sample(jax.random.key(0), kept, jnp.ones((4000, 2)), 3).x[:, 0]
    assert abs(float(x.std()) / 0.1 - 1) < 4 / np.sqrt(8000)


def rowwise(keys, x, y):
    def elementwise(x, noise_scale):
        return jnp.tanh(x + x[..., ::-1]) / (1 + noise_scale)

    algorithm = inpaint(
        ancestral(elementwise, GRID), y, jnp.asarray(MASK), noise_scales=GRID,
        denoiser=elementwise, num_correctors=2,
    )  # fmt: skip
    return sample(keys, algorithm, x, 4).x


@pytest.mark.slow
def test_rows_stand_alone_on_any_number_of_devices(reuse_keys):
    keys = item_keys(jax.random.key(0), 8)
    x = 4 * jax.random.normal(jax.random.key(1), (8, 2))
    y = jax.random.normal(jax.random.key(2), (8, 2))
    jitted = jax.jit(rowwise)
    whole = jitted(keys, x, y)
    np.testing.assert_array_equal(whole[:, 0], y[:, 0])
    back = jitted(keys[::-1], x[::-1], y[::-1])[::-1]
    np.testing.assert_allclose(back, whole, rtol=1e-5, atol=1e-6)
    broken = jitted(keys, x.at[3, 1].set(jnp.nan), y)
    np.testing.assert_array_equal(np.delete(broken, 3, 0), np.delete(whole, 3, 0))
    assert np.isnan(np.asarray(broken)[3, 1])
    for num_devices in (1, 2, 4):
        mesh = jax.make_mesh(
            (num_devices,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        spec = PartitionSpec("rows")
        mapped = jax.jit(jax.shard_map(rowwise, mesh=mesh, in_specs=spec, out_specs=spec))
        np.testing.assert_allclose(mapped(keys, x, y), whole, rtol=1e-5, atol=1e-6)
    text = mapped.lower(keys, x, y).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_bad_arguments_are_named():
    algorithm = ddim(PAIR, GRID)
    y, mask, options = jnp.zeros(2), jnp.asarray(MASK), {"noise_scales": GRID}
    with pytest.raises(ValueError, match="denoiser must be given for num_correctors > 0"):
        inpaint(algorithm, y, mask, num_correctors=1, **options)
    with pytest.raises(ValueError, match=r"observed must broadcast to x, \(4, 2\), got \(3,\)"):
        inpaint(algorithm, jnp.zeros(3), mask, **options).init(jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=r"mask must broadcast to x, \(4, 2\), got \(4,\)"):
        inpaint(algorithm, y, jnp.ones(4, bool), **options).init(jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="corrector_scale must be positive"):
        inpaint(algorithm, y, mask, corrector_scale=0.0, **options)
    with pytest.raises(ValueError, match=r"noise_scales\[1\]=2\.0 is not below"):
        inpaint(algorithm, y, mask, noise_scales=np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="final must be one of"):
        inpaint(algorithm, y, mask, final="zero", **options)
