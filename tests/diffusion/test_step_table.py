"""The grid on which tables are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.schedules import vp
from probjax.diffusion.step_table import StepGrid, newest_rows

GRID = np.array([4.0, 1.0, 0.5])


def test_lengths_and_noise():
    grid = StepGrid.make(GRID, None, "denoise", 0.6)
    h = np.log([4.0, 2.0])
    np.testing.assert_allclose(grid.lengths, 1.36 * h)
    table = grid.table(newest_rows(-np.expm1(-grid.lengths), np), None)
    assert table.num_steps == 3
    np.testing.assert_allclose(table.decay, [0.25 * 4**-0.36, 0.5 * 2**-0.36, 0])
    # The law of data in one point is kept: decay^2 sigma^2 + spread^2 is the next variance.
    after = table.decay**2 * GRID**2 + table.spread**2
    np.testing.assert_allclose(after, [1.0, 0.25, 0.0])
    assert not StepGrid.make(GRID, None, "keep", 0.0).noisy
    assert StepGrid.make(GRID, None, "keep", 0.0).table(np.zeros((2, 3)), None).spread is None


def test_middles_lie_on_the_schedule(x64):
    schedule, times = vp(), jnp.array([0.8, 0.4, 0.1])
    grid = StepGrid.make(schedule.noise_scale(times), schedule.alpha(times), "keep", 0.0)
    middles = grid.with_middles(schedule, first_only=False)
    assert middles.noise_scales.shape == (5,)
    np.testing.assert_allclose(middles.alphas**2 + middles.noise_scales**2, 1, rtol=1e-12)
    np.testing.assert_allclose(middles.lengths[::2], middles.lengths[1::2], rtol=1e-9)
    np.testing.assert_array_equal(middles.noise_scales[::2], grid.noise_scales)
    with pytest.raises(ValueError, match="schedule must be given with alphas"):
        grid.with_middles(None, first_only=True)


def test_traced_levels_stay_in_their_precision():
    def noise(grid, level):
        return StepGrid.make(grid, None, "denoise", level).table(jnp.zeros((2, 3)), None)

    table = jax.jit(noise)(jnp.asarray(GRID, jnp.float32), jnp.float32(0.6))
    assert table.decay.dtype == jnp.float32 and table.spread.shape == (3,)
    np.testing.assert_allclose(table.decay, [0.25 * 4**-0.36, 0.5 * 2**-0.36, 0], rtol=1e-6)
