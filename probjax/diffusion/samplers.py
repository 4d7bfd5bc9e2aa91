r"""Samplers for a denoiser: DDIM, ancestral and Heun, each a pair `init`, `step`, run by one scan.

All walk a strictly decreasing grid of noise scales. The last act, `final="denoise"`, replaces the
sample by the denoiser's estimate at the smallest scale; the grid never contains a zero.

>>> import jax, jax.numpy as jnp
>>> from probjax import diffusion
>>> denoiser = diffusion.gaussian_denoiser(jnp.array([3.0]), jnp.array([[0.25]]))
>>> noise_scales = diffusion.karras_noise_scales(20)
>>> start = 80.0 * jax.random.normal(jax.random.key(0), (4000, 1))
>>> result = diffusion.sample(
...     jax.random.key(1), diffusion.heun(denoiser, noise_scales), start, 20)
>>> print(f"{result.x.mean():.1f} {result.x.std():.1f} {result.num_evaluations}")
3.0 0.5 39
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks
from probjax.core.keys import RowKeys, row_normal
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.walk import Levels, SamplerState, StepInfo, call_denoiser, finish, init_fn
from probjax.mcmc.driver import scan_steps


class SampleResult(NamedTuple):
    """What `sample` returns."""

    x: Float[Array, "*rows"]
    """The samples, in the start's shape and dtype."""
    num_evaluations: Int[Array, ""]
    """Denoiser calls (NFE), each for the whole batch."""
    is_nonfinite: Bool[Array, "*batch"]
    """Whether a row was not finite after some step."""
    trajectory: Float[Array, "num_steps *rows"] | None
    """The samples after each step, or `None`."""


def ddim(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    eta: float = 0.0,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""DDIM, from deterministic (`eta=0`) to ancestral (`eta=1`).

    From the level $(\alpha_t,\sigma_t)$ to the next, $(\alpha_s,\sigma_s)$, with
    $\sigma_{t|s}^2=\sigma_t^2-(\alpha_t/\alpha_s)^2\sigma_s^2$ and
    $\tau=eta\,\sigma_s\sigma_{t|s}/\sigma_t$:

    $$x_s=\alpha_sD+\sqrt{\sigma_s^2-\tau^2}\;\frac{x-\alpha_tD}{\sigma_t}+\tau z,
      \qquad D=denoiser(x,\sigma_t)$$

    Deterministic DDIM has order one: exact where the denoiser is constant.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise; the scale arrives as a scalar.
        noise_scales: $\sigma$, positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels, positive, `(N,)`; ones if left out. $\sigma/\alpha$
            must decrease strictly too.
        eta: share of the noise put in, in [0, 1].
        final: `"denoise"`: N steps, the last of which returns $D$. `"keep"`: N - 1 steps, ending
            at the last noise scale.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`: `init(x) -> SamplerState`, `step(key, state) -> (SamplerState,
        StepInfo)`. One denoiser call a step; steps past the end hold.

    Raises:
        ValueError: the grid is not in order (the message names the index), `eta` is outside
            [0, 1], unknown `final`, shapes differ.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = ddim(zero, jnp.array([2.0, 1.0]))
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.array([[4.0]])))
        >>> print(state.x)  # x / noise_scale stays
        [[2.]]

    References:
        Song, Meng, Ermon 2021, *Denoising diffusion implicit models*, written there with the
        square of our alpha.
    """
    levels = Levels.make(noise_scales, alphas, final)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")

    def step(key: RowKeys, state: SamplerState) -> tuple[SamplerState, StepInfo]:
        x = state.x
        alpha, sigma, next_alpha, next_sigma = levels.at(state.i, x.dtype)
        clean = call_denoiser(denoiser, x, sigma)
        # The ratio of signal to noise before and after, below one; 0 where the noise ends.
        ratio = (alpha * next_sigma) / (next_alpha * sigma)
        fresh = (1 - ratio) * (1 + ratio)
        keep = next_sigma / sigma * jnp.sqrt(1 - eta**2 * fresh)
        moved = keep * x + (next_alpha - alpha * keep) * clean
        if eta > 0:
            spread = eta * next_sigma * jnp.sqrt(fresh)
            moved = moved + spread * row_normal(key, x, event_ndim=event_ndim)
        return finish(state, moved, clean, 1, levels.num_steps, event_ndim)

    return SamplingAlgorithm(init_fn(event_ndim), step)


def ancestral(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""Ancestral sampling: draw $x_s$ from the posterior $q(x_s\mid x_t, x_0=D)$.

    `ddim` with `eta=1`. For $\alpha=1$ that is
    $x+(\sigma_t^2-\sigma_s^2)\,s+\frac{\sigma_s}{\sigma_t}\sqrt{\sigma_t^2-\sigma_s^2}\;z$ with the
    score $s=(D-x)/\sigma_t^2$. On a coarse grid its samples are too narrow: $D$ stands for a
    whole distribution of clean data.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        final: `"denoise"` or `"keep"`.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `ddim`.

    Raises:
        ValueError: as `ddim`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = ancestral(zero, jnp.array([2.0, 1.0]))
        >>> sample(jax.random.key(0), algorithm, jnp.ones((3, 1)), 2).num_evaluations
        Array(2, dtype=int32)

    References:
        Ho, Jain, Abbeel 2020; Song et al. 2021, appendix F.
    """
    return ddim(denoiser, noise_scales, alphas=alphas, eta=1.0, final=final, event_ndim=event_ndim)


def heun(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""Heun's second-order rule on the probability-flow equation in the noise scale.

    With $y=x/\alpha$, $\varsigma=\sigma/\alpha$, slope $d=(y-D)/\varsigma$ and the Euler point
    $y_e=y+(\varsigma'-\varsigma)d$:

    $$y'=y+\tfrac12(\varsigma'-\varsigma)(d+d_e),\qquad d_e=\frac{y_e-denoiser(y_e)}{\varsigma'}$$

    The step to zero noise is Euler's, which is the denoiser's estimate.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise; the scale arrives as a scalar.
        noise_scales: $\sigma$, positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        final: `"denoise"`: N steps and 2 N - 1 calls. `"keep"`: N - 1 steps, 2 (N - 1) calls.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `ddim`; the key is not used.

    Raises:
        ValueError: as `ddim`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = heun(zero, jnp.array([2.0, 1.0]))
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.array([[4.0]])))
        >>> print(state.x, info.num_evaluations)
        [[2.]] 2

    References:
        Karras et al. 2022, algorithm 1.
    """
    levels = Levels.make(noise_scales, alphas, final)

    def step(key: RowKeys, state: SamplerState) -> tuple[SamplerState, StepInfo]:
        del key
        x = state.x
        alpha, sigma, next_alpha, next_sigma = levels.at(state.i, x.dtype)
        clean = call_denoiser(denoiser, x, sigma)
        here, there = sigma / alpha, next_sigma / next_alpha
        y = x / alpha
        slope = (y - clean) / here
        euler = jnp.where(there > 0, y + (there - here) * slope, clean)

        def corrected(euler: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
            at_euler = call_denoiser(denoiser, next_alpha * euler, next_sigma)
            return y + 0.5 * (there - here) * (slope + (euler - at_euler) / there)

        moved = jax.lax.cond(there > 0, corrected, lambda euler: euler, euler)
        calls = jnp.where(there > 0, 2, 1).astype(jnp.int32)
        return finish(state, next_alpha * moved, clean, calls, levels.num_steps, event_ndim)

    return SamplingAlgorithm(init_fn(event_ndim), step)


def sample(
    key: RowKeys,
    algorithm: SamplingAlgorithm,
    x: Float[Array, "*rows"],
    num_steps: int,
    *,
    trajectory: bool = False,
) -> SampleResult:
    r"""Run a sampler for `num_steps` steps, as one `lax.scan`.

    Memory does not grow with the steps, unless `trajectory`. With a key for each row a sample
    does not depend on the batch it is drawn in.

    Args:
        key: one key, or a key for each row; step $t$ draws from `fold_in(key, t)`.
        algorithm: `ddim`, `ancestral` or `heun`.
        x: where to start, `(*B, *event)`: noise of the first noise scale (plus alpha times data,
            if any).
        num_steps: how many steps: the length of the grid for `final="denoise"`, one less for
            `"keep"`. Fewer leave noise in the samples.
        trajectory: keep the samples after each step.

    Returns:
        `SampleResult`.

    Raises:
        ValueError: `num_steps < 1`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = ddim(zero, jnp.array([4.0, 2.0, 1.0]))
        >>> result = sample(jax.random.key(0), algorithm, jnp.array([[4.0]]), 3, trajectory=True)
        >>> print(result.trajectory.ravel(), result.num_evaluations)
        [2. 1. 0.] 3

    References:
        Karras et al. 2022.
    """
    checks.at_least("num_steps", num_steps, 1)

    def step(key: RowKeys, state: SamplerState) -> tuple[SamplerState, Any]:
        state, info = algorithm.step(key, state)
        return state, (info.num_evaluations, info.is_nonfinite)

    keep = (lambda state, info: state.x.astype(x.dtype)) if trajectory else None
    state, (calls, bad), kept = scan_steps(key, step, algorithm.init(x), num_steps, trace_fn=keep)
    return SampleResult(state.x.astype(x.dtype), calls, bad, kept)
