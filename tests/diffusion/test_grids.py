"""Grids: their law, their ends, their order."""

import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.grids import (
    geometric_noise_scales,
    karras_noise_scales,
    leap_noise_scales,
    log_snr_times,
)
from probjax.diffusion.schedules import cosine, vp


def test_grids():
    karras, geometric = karras_noise_scales(18), geometric_noise_scales(10, 0.1, 10.0)
    assert karras.dtype == jnp.float32
    for grid, lo, hi in ((karras, 0.002, 80.0), (geometric, 0.1, 10.0)):
        assert float(grid[0]) == np.float32(hi) and float(grid[-1]) == np.float32(lo)
        assert bool((jnp.diff(grid) < 0).all())
    ratio = geometric[1:] / geometric[:-1]
    np.testing.assert_allclose(ratio, 0.01 ** (1 / 9), rtol=1e-5)
    np.testing.assert_allclose(jnp.diff(karras ** (1 / 7.0), n=2), 0, atol=2e-5)
    assert karras_noise_scales(1).tolist() == [80.0]
    times = log_snr_times(cosine(), 5, start=0.99, stop=0.01)
    assert bool((jnp.diff(times) < 0).all())
    np.testing.assert_allclose(jnp.diff(cosine().log_snr(times), n=2), 0, atol=1e-4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_scales must be at least 1, got 0"):
        karras_noise_scales(0)
    with pytest.raises(ValueError, match="lo must be positive and finite"):
        geometric_noise_scales(3, 0.0, 1.0)
    with pytest.raises(ValueError, match="is not below"):
        log_snr_times(vp(), 3, start=0.1, stop=0.5)


def test_leap_is_one_scale_and_then_karras():
    grid = leap_noise_scales(6, 0.01, 80.0, sigma_data=0.7)
    assert grid[0] == 80.0
    np.testing.assert_array_equal(grid[1:], karras_noise_scales(5, 0.01, 1.4))
    for options, match in (
        ({"num_scales": 1}, "num_scales must be at least 2"),
        ({"num_scales": 5, "sigma_data": 40.0}, "hi must be above 2"),
        ({"num_scales": 5, "lo": 1.5}, "lo must be below hi"),
    ):
        with pytest.raises(ValueError, match=match):
            leap_noise_scales(**options)
