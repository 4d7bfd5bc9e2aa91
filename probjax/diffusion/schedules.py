r"""Noise schedules: how far data and noise are mixed at a time.

$x_t=\alpha(t)\,x_0+\sigma(t)\,\varepsilon$ is the marginal of $dx=f(t)\,x\,dt+g(t)\,dW$ if

$$f=\frac{d\log\alpha}{dt},\qquad g^2=\frac{d\sigma^2}{dt}-2f\sigma^2 .$$

One identity that checks them all:

>>> import jax
>>> from probjax.diffusion.schedules import subvp
>>> schedule = subvp()
>>> noise_scale, slope = jax.jvp(lambda t: schedule.noise_scale(t) ** 2, (0.3,), (1.0,))
>>> error = slope - 2 * schedule.drift(0.3) * noise_scale - schedule.diffusion2(0.3)
>>> bool(abs(error) < 1e-5)
True

A sampler needs only a grid of noise scales, see `probjax.diffusion.grids`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffeq.sde import SDE

Curve = Callable[[ArrayLike], Float[Array, "*times"]]
"""A function of time."""


class NoiseSchedule(NamedTuple):
    """The functions of a schedule; a pytree whose leaves are its parameters."""

    alpha: Curve
    r"""$\alpha(t)$, what is left of the data."""
    noise_scale: Curve
    r"""$\sigma(t)$, the standard deviation of the noise."""
    log_snr: Curve
    r"""$\lambda(t)=\log(\alpha/\sigma)$, half the logarithm of the signal-to-noise ratio."""
    t_of_log_snr: Curve
    r"""The inverse of $\lambda$."""
    drift: Curve
    r"""$f(t)$ of $dx=f\,x\,dt+g\,dW$."""
    diffusion2: Curve
    r"""$g(t)^2$."""


def ve(lo: float = 0.01, hi: float = 50.0) -> NoiseSchedule:
    r"""The variance-exploding schedule, geometric in time.

    $$\alpha=1,\qquad\sigma=lo\,(hi/lo)^t,\qquad g^2=2\sigma^2\log(hi/lo),\qquad 0\le t\le1$$

    Args:
        lo: noise scale at `t=0`, positive.
        hi: noise scale at `t=1`, above `lo`.

    Returns:
        The schedule.

    Raises:
        ValueError: not `0 < lo < hi`.

    Example:
        >>> print(f"{ve(0.1, 10.0).noise_scale(0.5):.3f}")
        1.000

    References:
        Song et al. 2021, *Score-based generative modeling through stochastic differential
        equations*.
    """
    _check_ends(lo, hi)
    rate = math.log(hi / lo)

    return NoiseSchedule(
        alpha=Partial(_ones),
        noise_scale=Partial(_ve_noise_scale, lo, rate),
        log_snr=Partial(_ve_log_snr, lo, rate),
        t_of_log_snr=Partial(_ve_t_of_log_snr, lo, rate),
        drift=Partial(_zeros),
        diffusion2=Partial(_ve_diffusion2, lo, rate),
    )


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
    r"""The variance-preserving schedule with a linear rate.

    $$B=\beta_{min}t+\tfrac12(\beta_{max}-\beta_{min})t^2,\quad\alpha=e^{-B/2},\quad
      \sigma^2=1-e^{-B},\quad f=-\tfrac12\beta,\quad g^2=\beta,\qquad 0<t\le1$$

    Args:
        beta_min: the rate at `t=0`, positive.
        beta_max: the rate at `t=1`, above `beta_min`.

    Returns:
        The schedule; its inverse is $B=\mathrm{softplus}(-2\lambda)$,
        $t=2B/(\sqrt{\beta_{min}^2+2(\beta_{max}-\beta_{min})B}+\beta_{min})$.

    Raises:
        ValueError: not `0 < beta_min < beta_max`.

    Example:
        >>> schedule = vp()
        >>> print(f"{schedule.alpha(0.4) ** 2 + schedule.noise_scale(0.4) ** 2:.4f}")
        1.0000

    References:
        Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*; Song et al. 2021.
    """
    _check_ends(beta_min, beta_max, ("beta_min", "beta_max"))

    return NoiseSchedule(
        alpha=Partial(_vp_alpha, beta_min, beta_max),
        noise_scale=Partial(_vp_noise_scale, beta_min, beta_max),
        log_snr=Partial(_vp_log_snr, beta_min, beta_max),
        t_of_log_snr=Partial(_vp_t_of_log_snr, beta_min, beta_max),
        drift=Partial(_vp_drift, beta_min, beta_max),
        diffusion2=Partial(_vp_rate, beta_min, beta_max),
    )


def subvp(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
    r"""The sub-variance-preserving schedule: `vp`'s drift with less noise.

    $$\alpha=e^{-B/2},\qquad\sigma=1-e^{-B},\qquad f=-\tfrac12\beta,\qquad g^2=\beta(1-e^{-2B})$$

    Args:
        beta_min: the rate at `t=0`, positive.
        beta_max: the rate at `t=1`, above `beta_min`.

    Returns:
        The schedule; its inverse is $B=2\,\mathrm{arsinh}(e^{-\lambda}/2)$.

    Raises:
        ValueError: not `0 < beta_min < beta_max`.

    Example:
        >>> schedule = subvp()
        >>> bool(schedule.noise_scale(0.1) < vp().noise_scale(0.1))
        True

    References:
        Song et al. 2021.
    """
    _check_ends(beta_min, beta_max, ("beta_min", "beta_max"))

    return NoiseSchedule(
        alpha=Partial(_vp_alpha, beta_min, beta_max),
        noise_scale=Partial(_subvp_noise_scale, beta_min, beta_max),
        log_snr=Partial(_subvp_log_snr, beta_min, beta_max),
        t_of_log_snr=Partial(_subvp_t_of_log_snr, beta_min, beta_max),
        drift=Partial(_vp_drift, beta_min, beta_max),
        diffusion2=Partial(_subvp_diffusion2, beta_min, beta_max),
    )


def edm() -> NoiseSchedule:
    r"""The schedule whose time is the noise scale.

    $$\alpha=1,\qquad\sigma=t,\qquad f=0,\qquad g^2=2t,\qquad t>0$$

    Returns:
        The schedule.

    Example:
        >>> print(edm().noise_scale(80.0), edm().diffusion2(80.0))
        80.0 160.0

    References:
        Karras, Aittala, Aila, Laine 2022, *Elucidating the design space of diffusion-based
        generative models*.
    """
    return NoiseSchedule(
        alpha=Partial(_ones),
        noise_scale=Partial(_time),
        log_snr=Partial(_edm_log_snr),
        t_of_log_snr=Partial(_edm_t_of_log_snr),
        drift=Partial(_zeros),
        diffusion2=Partial(_edm_diffusion2),
    )


def cosine(max_log_snr: float = 10.0) -> NoiseSchedule:
    r"""The cosine schedule.

    $$\alpha=\cos\tfrac{\pi t}2,\qquad\sigma=\sin\tfrac{\pi t}2,\qquad
      f=-\tfrac\pi2\tan\tfrac{\pi t}2,\qquad g^2=\pi\tan\tfrac{\pi t}2,\qquad 0\le t\le1$$

    $\lambda=-\log\tan(\pi t/2)$ is clipped to $\pm max\_log\_snr$: beyond, nothing changes any more
    and drift and diffusion are zero.

    Args:
        max_log_snr: where to clip, positive.

    Returns:
        The schedule.

    Raises:
        ValueError: `max_log_snr` is not positive.

    Example:
        >>> print(f"{cosine().alpha(0.5):.4f} {cosine().log_snr(0.0):.0f}")
        0.7071 10

    References:
        Nichol, Dhariwal 2021, *Improved denoising diffusion probabilistic models*.
    """
    checks.positive("max_log_snr", max_log_snr)

    bound = float(max_log_snr)
    return NoiseSchedule(
        alpha=Partial(_cosine_alpha, bound),
        noise_scale=Partial(_cosine_noise_scale, bound),
        log_snr=Partial(_cosine_log_snr, bound),
        t_of_log_snr=Partial(_cosine_t_of_log_snr, bound),
        drift=Partial(_cosine_drift, bound),
        diffusion2=Partial(_cosine_diffusion2, bound),
    )


def to_sde(schedule: NoiseSchedule) -> SDE:
    r"""Return the schedule's equation $dx=f(t)\,x\,dt+g(t)\,dW$ as a `diffeq.SDE`.

    Args:
        schedule: the schedule.

    Returns:
        The equation, with additive noise; it takes states of any shape.

    Example:
        >>> sde = to_sde(edm())
        >>> print(f"{sde.diffusion(2.0, jnp.zeros(3)):.1f}")  # sqrt(2 t)
        2.0
    """

    def drift(t: ArrayLike, x: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        return schedule.drift(t).astype(x.dtype) * x

    def diffusion(t: ArrayLike, x: Float[Array, "*rows"]) -> Float[Array, ""]:
        return jnp.sqrt(schedule.diffusion2(t)).astype(x.dtype)

    return SDE(drift, diffusion, "additive")


def _check_ends(lo: float, hi: float, names: tuple[str, str] = ("lo", "hi")) -> None:
    checks.positive(names[0], lo)
    checks.positive(names[1], hi)
    if not lo < hi:
        raise ValueError(f"{names[0]} must be below {names[1]}, got {lo} and {hi}")


def _time(t: ArrayLike) -> Array:
    """Time as a floating-point array."""
    return jnp.asarray(t, jnp.result_type(float)) if not hasattr(t, "dtype") else jnp.asarray(t)


def _ones(t: ArrayLike) -> Array:
    return jnp.ones_like(_time(t))


def _zeros(t: ArrayLike) -> Array:
    return jnp.zeros_like(_time(t))


def _ve_noise_scale(lo: ArrayLike, rate: ArrayLike, t: ArrayLike) -> Array:
    return lo * jnp.exp(rate * _time(t))


def _ve_log_snr(lo: ArrayLike, rate: ArrayLike, t: ArrayLike) -> Array:
    return -rate * _time(t) - jnp.log(lo)


def _ve_t_of_log_snr(lo: ArrayLike, rate: ArrayLike, value: ArrayLike) -> Array:
    return -(_time(value) + jnp.log(lo)) / rate


def _ve_diffusion2(lo: ArrayLike, rate: ArrayLike, t: ArrayLike) -> Array:
    return 2 * rate * _ve_noise_scale(lo, rate, t) ** 2


def _vp_rate(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    return low + (high - low) * _time(t)


def _vp_total(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    """The integral of the rate."""
    t = _time(t)
    return t * (low + 0.5 * (high - low) * t)


def _vp_t_of_total(low: ArrayLike, high: ArrayLike, total: Array) -> Array:
    return 2 * total / (jnp.sqrt(low**2 + 2 * (high - low) * total) + low)


def _vp_alpha(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    return jnp.exp(-0.5 * _vp_total(low, high, t))


def _vp_noise_scale(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    return jnp.sqrt(-jnp.expm1(-_vp_total(low, high, t)))


def _vp_log_snr(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    total = _vp_total(low, high, t)
    return -0.5 * (total + jnp.log(-jnp.expm1(-total)))


def _vp_t_of_log_snr(low: ArrayLike, high: ArrayLike, value: ArrayLike) -> Array:
    return _vp_t_of_total(low, high, jax.nn.softplus(-2 * _time(value)))


def _vp_drift(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    return -0.5 * _vp_rate(low, high, t)


def _subvp_noise_scale(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    return -jnp.expm1(-_vp_total(low, high, t))


def _subvp_log_snr(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    total = _vp_total(low, high, t)
    return -0.5 * total - jnp.log(-jnp.expm1(-total))


def _subvp_t_of_log_snr(low: ArrayLike, high: ArrayLike, value: ArrayLike) -> Array:
    return _vp_t_of_total(low, high, 2 * jnp.arcsinh(0.5 * jnp.exp(-_time(value))))


def _subvp_diffusion2(low: ArrayLike, high: ArrayLike, t: ArrayLike) -> Array:
    return -_vp_rate(low, high, t) * jnp.expm1(-2 * _vp_total(low, high, t))


def _edm_log_snr(t: ArrayLike) -> Array:
    return -jnp.log(_time(t))


def _edm_t_of_log_snr(value: ArrayLike) -> Array:
    return jnp.exp(-_time(value))


def _edm_diffusion2(t: ArrayLike) -> Array:
    return 2 * _time(t)


def _cosine_angle(bound: ArrayLike, t: ArrayLike) -> Array:
    plain = 0.5 * jnp.pi * _time(t)
    least = jnp.full_like(plain, jnp.arctan(jnp.exp(-bound)))
    return jnp.clip(plain, least, 0.5 * jnp.pi - least)


def _cosine_alpha(bound: ArrayLike, t: ArrayLike) -> Array:
    return jnp.cos(_cosine_angle(bound, t))


def _cosine_noise_scale(bound: ArrayLike, t: ArrayLike) -> Array:
    return jnp.sin(_cosine_angle(bound, t))


def _cosine_log_snr(bound: ArrayLike, t: ArrayLike) -> Array:
    return -jnp.log(jnp.tan(_cosine_angle(bound, t)))


def _cosine_t_of_log_snr(bound: ArrayLike, value: ArrayLike) -> Array:
    return 2 / jnp.pi * jnp.arctan(jnp.exp(-jnp.clip(_time(value), -bound, bound)))


def _cosine_drift(bound: ArrayLike, t: ArrayLike) -> Array:
    """Minus half the rate; nothing moves where the schedule is clipped."""
    angle = _cosine_angle(bound, t)
    slope = -0.5 * jnp.pi * jnp.tan(angle)
    return jnp.where(angle == 0.5 * jnp.pi * _time(t), slope, jnp.zeros_like(slope))


def _cosine_diffusion2(bound: ArrayLike, t: ArrayLike) -> Array:
    return -2 * _cosine_drift(bound, t)
