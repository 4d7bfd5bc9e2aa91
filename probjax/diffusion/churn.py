r"""The stochastic sampler of EDM: a little noise put back before every step of Heun's rule.

>>> import jax, jax.numpy as jnp
>>> from probjax import diffusion
>>> denoiser = diffusion.gaussian_denoiser(jnp.array([3.0]), jnp.array([[0.25]]))
>>> start = 80.0 * jax.random.normal(jax.random.key(0), (4000, 1))
>>> algorithm = churn_heun(denoiser, diffusion.karras_noise_scales(20), s_churn=5.0)
>>> result = diffusion.sample(jax.random.key(1), algorithm, start, 20)
>>> print(f"{result.x.mean():.1f} {result.x.std():.1f} {result.num_evaluations}")
3.0 0.5 39
"""

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.core.keys import RowKeys, row_normal
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.walk import Levels, SamplerState, StepInfo, call_denoiser, finish, init_fn


def churn_heun(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    s_churn: ArrayLike = 0.0,
    s_min: ArrayLike = 0.0,
    s_max: ArrayLike = float("inf"),
    s_noise: ArrayLike = 1.0,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""Raise the noise of the sample a little, then make Heun's step down from there.

    $$\hat\sigma=(1+\gamma)\sigma,\quad
      \hat x=x+s\_noise\sqrt{\hat\sigma^2-\sigma^2}\,z,\quad
      \gamma=\min\Big(\frac{s\_churn}{N},\sqrt2-1\Big)\;\text{if}\;s\_min\le\sigma\le s\_max$$

    and $\gamma=0$ elsewhere; then `heun` from $(\hat x,\hat\sigma)$ to the next level. With
    `s_churn=0` it is `heun`. For $x=\alpha x_0+\sigma\varepsilon$ hand it the denoiser of
    $x/\alpha$: there is no level at $\hat\sigma$ on a grid of alphas.

    Args:
        denoiser: `denoiser(x, noise_scale)` for $\alpha=1$, row-wise; the scale arrives as a
            scalar.
        noise_scales: $\sigma$, positive and strictly decreasing, `(N,)`.
        s_churn: how much noise over the whole run, not negative.
        s_min: the smallest scale at which noise is put in.
        s_max: the largest.
        s_noise: factor on that noise; a little over one makes up for a denoiser that removes too
            much.
        final: `"denoise"`: N steps and 2 N - 1 calls. `"keep"`: N - 1 steps, 2 (N - 1) calls.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `heun`; a key for each row keeps rows apart.

    Raises:
        ValueError: the grid is not in order (the message names the index), `s_churn`, `s_min` or
            `s_noise` is negative, unknown `final`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = churn_heun(zero, jnp.array([2.0, 1.0]))
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.array([[4.0]])))
        >>> print(state.x, info.num_evaluations)
        [[2.]] 2

    References:
        Karras et al. 2022, algorithm 2.
    """
    levels = Levels.make(noise_scales, None, final)
    for name, value in (("s_churn", s_churn), ("s_min", s_min), ("s_noise", s_noise)):
        checks.non_negative(name, value)

    def step(key: RowKeys, state: SamplerState) -> tuple[SamplerState, StepInfo]:
        x, dtype = state.x, state.x.dtype
        _, sigma, _, there = levels.at(state.i, dtype)
        inside = (sigma >= jnp.asarray(s_min, dtype)) & (sigma <= jnp.asarray(s_max, dtype))
        share = jnp.minimum(jnp.asarray(s_churn, dtype) / levels.num_steps, 2**0.5 - 1)
        gamma = jnp.where(inside, share, jnp.zeros_like(share))
        here = sigma * (1 + gamma)
        spread = jnp.asarray(s_noise, dtype) * sigma * jnp.sqrt(gamma * (2 + gamma))
        x = x + spread * row_normal(key, x, event_ndim=event_ndim)
        clean = call_denoiser(denoiser, x, here)
        slope = (x - clean) / here
        euler = jnp.where(there > 0, x + (there - here) * slope, clean)

        def corrected(euler: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
            at_euler = call_denoiser(denoiser, euler, there)
            return x + 0.5 * (there - here) * (slope + (euler - at_euler) / there)

        moved = jax.lax.cond(there > 0, corrected, lambda euler: euler, euler)
        calls = jnp.where(there > 0, 2, 1).astype(jnp.int32)
        return finish(state, moved, clean, calls, levels.num_steps, event_ndim)

    return SamplingAlgorithm(init_fn(event_ndim), step)
