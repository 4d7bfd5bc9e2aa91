"""Grids of noise scales for samplers to walk down: always positive, strictly decreasing.

A last step to no noise is asked for by a sampler's `final="denoise"`, never by a zero in the grid.

>>> from probjax.diffusion.grids import karras_noise_scales
>>> print(karras_noise_scales(3, 0.1, 10.0, rho=1.0))
[10.    5.05  0.1 ]
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffusion.schedules import NoiseSchedule


def karras_noise_scales(
    num_scales: int, lo: float = 0.002, hi: float = 80.0, rho: float = 7.0
) -> Float[Array, "num_scales"]:
    r"""Noise scales that crowd towards the small ones.

    $$\sigma_i=\Big(hi^{1/\rho}+\tfrac i{n-1}(lo^{1/\rho}-hi^{1/\rho})\Big)^\rho$$

    Args:
        num_scales: how many.
        lo: the smallest, positive.
        hi: the largest, above `lo`.
        rho: how much they crowd; 1 is linear, large values tend to geometric.

    Returns:
        Strictly decreasing scales `(num_scales,)` from `hi` to `lo`; one scale is `hi`.

    Raises:
        ValueError: `num_scales < 1`, not `0 < lo < hi`, or `rho` not positive.

    Example:
        >>> print(", ".join(f"{v:.3f}" for v in karras_noise_scales(4)))
        80.000, 9.723, 0.470, 0.002

    References:
        Karras et al. 2022, equation 5.
    """
    checks.positive("rho", rho)
    return _grid(num_scales, lo, hi, lambda v: v ** (1 / rho), lambda v: v**rho)


def geometric_noise_scales(
    num_scales: int, lo: float = 0.01, hi: float = 50.0
) -> Float[Array, "num_scales"]:
    r"""Noise scales in a constant ratio, that is, uniform in their logarithm.

    $$\sigma_i=hi\,(lo/hi)^{i/(n-1)}$$

    Args:
        num_scales: how many.
        lo: the smallest, positive.
        hi: the largest, above `lo`.

    Returns:
        Strictly decreasing scales `(num_scales,)` from `hi` to `lo`; one scale is `hi`.

    Raises:
        ValueError: `num_scales < 1` or not `0 < lo < hi`.

    Example:
        >>> print(", ".join(f"{v:.2f}" for v in geometric_noise_scales(3, 0.1, 10.0)))
        10.00, 1.00, 0.10

    References:
        Song, Ermon 2019.
    """
    return _grid(num_scales, lo, hi, np.log, np.exp)


def leap_noise_scales(
    num_scales: int,
    lo: float = 0.002,
    hi: float = 80.0,
    *,
    sigma_data: float = 0.5,
    rho: float = 7.0,
) -> Float[Array, "num_scales"]:
    r"""One leap from the largest scale to where the data begin to show, then Karras's scales.

    $$\sigma_0=hi,\qquad\sigma_1,\dots,\sigma_{n-1}=
      \text{karras\_noise\_scales}(n-1,\,lo,\,2\,sigma\_data,\,rho)$$

    While the noise is far larger than the data the denoiser hardly changes, and a method that is
    exact for a constant denoiser (`ddim`, the exponential multistep methods, not `heun`) crosses
    that range in one step. For about ten evaluations: what the leap costs stays, however many
    follow, and where several modes are near it sends some starts to another one.

    Args:
        num_scales: how many, two at least.
        lo: the smallest, positive.
        hi: the largest, above `2 * sigma_data`.
        sigma_data: pooled standard deviation of the data.
        rho: as for `karras_noise_scales`.

    Returns:
        Strictly decreasing scales `(num_scales,)`.

    Raises:
        ValueError: `num_scales < 2`, or not `0 < lo < 2 * sigma_data < hi`.

    Example:
        >>> print(", ".join(f"{v:.3f}" for v in leap_noise_scales(5)))
        80.000, 1.000, 0.217, 0.031, 0.002
    """
    checks.at_least("num_scales", num_scales, 2)
    checks.positive("sigma_data", sigma_data)
    checks.positive("rho", rho)
    if not 2 * sigma_data < hi:
        raise ValueError(f"hi must be above 2 * sigma_data, got {hi} and {2 * sigma_data}")
    tail = karras_noise_scales(num_scales - 1, lo, 2 * sigma_data, rho)
    return jnp.concatenate([jnp.full((1,), hi, tail.dtype), tail])


def log_snr_times(
    schedule: NoiseSchedule, num_times: int, *, start: float, stop: float
) -> Float[Array, "num_times"]:
    r"""Times of a schedule between which the log signal-to-noise ratio grows evenly.

    $$t_i=\lambda^{-1}\Big(\lambda(start)+\tfrac i{n-1}\big(\lambda(stop)-\lambda(start)\big)\Big)$$

    Args:
        schedule: the schedule.
        num_times: how many, two at least.
        start: the noisiest time.
        stop: the least noisy time, below `start`.

    Returns:
        Strictly decreasing times; `schedule.noise_scale` and `schedule.alpha` of them are what a
        sampler takes.

    Raises:
        ValueError: `num_times < 2` or not `0 < stop < start`.

    Example:
        >>> from probjax.diffusion.schedules import vp
        >>> times = log_snr_times(vp(), 3, start=1.0, stop=0.01)
        >>> print(", ".join(f"{v:.3f}" for v in jnp.diff(vp().log_snr(times))))
        4.067, 4.067
    """
    checks.at_least("num_times", num_times, 2)
    checks.strictly_decreasing("(start, stop)", np.array([start, stop]))
    ends = schedule.log_snr(jnp.array([start, stop]))
    return schedule.t_of_log_snr(jnp.linspace(ends[0], ends[1], num_times))


def _grid(
    num_scales: int,
    lo: float,
    hi: float,
    warp: Callable[[np.ndarray], np.ndarray],
    unwarp: Callable[[np.ndarray], np.ndarray],
) -> Float[Array, "num_scales"]:
    """Values from `hi` to `lo`, uniform after `warp`; in double precision, ends exact."""
    checks.at_least("num_scales", num_scales, 1)
    checks.positive("lo", lo)
    checks.positive("hi", hi)
    if not lo < hi:
        raise ValueError(f"lo must be below hi, got {lo} and {hi}")
    ends = warp(np.array([hi, lo], np.float64))
    values = unwarp(np.linspace(ends[0], ends[1], num_scales))
    values[0] = hi
    if num_scales > 1:
        values[-1] = lo
    return jnp.asarray(values, jnp.result_type(float))
