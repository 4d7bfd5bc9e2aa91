r"""Inpainting: let any sampler fill in what is not known, without training for it.

At each level the known entries are set to what they would be there, noised; the sampler sees them
and moves the others:

>>> import jax, jax.numpy as jnp
>>> from probjax import diffusion
>>> denoiser = diffusion.gaussian_denoiser(jnp.zeros(2), jnp.array([[1.0, 0.9], [0.9, 1.0]]))
>>> noise_scales = diffusion.karras_noise_scales(20)
>>> algorithm = diffusion.inpaint(
...     diffusion.ancestral(denoiser, noise_scales), jnp.array([1.5, 0.0]),
...     jnp.array([True, False]), noise_scales=noise_scales)
>>> start = 80.0 * jax.random.normal(jax.random.key(0), (4, 2))
>>> print(diffusion.sample(jax.random.key(1), algorithm, start, 20).x[:, 0])
[1.5 1.5 1.5 1.5]
"""

from typing import Any

import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key, row_normal, stream
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.walk import FINALS
from probjax.mcmc.driver import scan_steps


def inpaint(
    algorithm: SamplingAlgorithm,
    observed: Float[Array, "*known"],
    mask: Bool[Array, "*flags"],
    *,
    noise_scales: ArrayLike,
    alphas: ArrayLike | None = None,
    final: str = "denoise",
    num_correctors: int = 0,
    corrector_scale: ArrayLike = 0.5,
    denoiser: Denoiser | None = None,
    sigma_data: ArrayLike = 0.5,
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""Wrap a sampler so that the entries under `mask` end as `observed`.

    At the level $(\alpha_i,\sigma_i)$ the known entries are $\alpha_iy+\sigma_iz$ with fresh $z$;
    then the unknown ones take `num_correctors` Langevin steps,

    $$x\leftarrow x+\eta\,\frac{\alpha_iD-x}{\sigma_i^2}+\sqrt{2\eta}\,z,\qquad
      \eta=corrector\_scale\cdot\frac{\sigma_i^2v_i}{\sigma_i^2+v_i},\qquad
      v_i=(\alpha_i\,sigma\_data)^2,$$

    and the sampler makes its step. Without correctors (the "replacement" method) the result is
    biased however fine the grid: the sampler sees the known entries only through their noise.

    Args:
        algorithm: a sampler of `diffusion.samplers`, on the grid given here.
        observed: $y$, broadcast to `(*B, *event)`; what it holds where `mask` is false plays no
            part.
        mask: true where the entry is known, broadcast in the same way.
        noise_scales: the sampler's grid $\sigma$, `(N,)`.
        alphas: its $\alpha$, `(N,)`; ones if left out.
        final: the sampler's own. After `"denoise"` the known entries are $y$, to the bit; after
            `"keep"` they are noised at the last level, like the rest.
        num_correctors: Langevin steps at each level, each a denoiser call.
        corrector_scale: $c$; a step removes about this share of the distance to the law at the
            level. Stable below 2.
        denoiser: the sampler's, for the correctors; not needed without.
        sigma_data: $\sigma_d$, pooled standard deviation of the data.
        event_ndim: how many trailing axes make one row.

    Returns:
        `SamplingAlgorithm` for `sample`, with the same number of steps. With a mask that is false
        everywhere and no correctors it is `algorithm` to the bit.

    Raises:
        TypeError: `mask` is not boolean.
        ValueError: `observed` or `mask` do not broadcast to the rows, the grid is not in order,
            correctors without `denoiser`, or `corrector_scale` is not positive.

    Example:
        >>> import jax
        >>> from probjax.diffusion.samplers import ddim
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> grid = jnp.array([2.0, 1.0])
        >>> known = inpaint(ddim(zero, grid), jnp.ones(2), jnp.array([True, False]),
        ...     noise_scales=grid)
        >>> state, _ = known.step(jax.random.key(0), known.init(jnp.ones((1, 2))))
        >>> state, _ = known.step(jax.random.key(1), state)
        >>> print(state.x)
        [[1. 0.]]

    References:
        Song, Ermon 2019 and Song et al. 2021 (replacement); Lugmayr et al. 2022, *RePaint*, which
        mixes by going back and forth instead of Langevin steps.
    """
    checks.one_of("final", final, FINALS)
    checks.strictly_decreasing("noise_scales", noise_scales)
    (num_levels,) = jnp.shape(noise_scales)
    if alphas is not None:
        checks.shape("alphas", alphas, (num_levels,))
        checks.positive("alphas", alphas)
    checks.at_least("num_correctors", num_correctors, 0)
    checks.positive("corrector_scale", corrector_scale)
    checks.positive("sigma_data", sigma_data)
    if num_correctors and denoiser is None:
        raise ValueError("denoiser must be given for num_correctors > 0, got None")
    num_steps = num_levels - (final == "keep")

    def level(i: Int[Array, ""], dtype: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        i = jnp.minimum(i, num_levels - 1)
        sigma = jnp.asarray(noise_scales, dtype)[i]
        return (jnp.ones_like(sigma) if alphas is None else jnp.asarray(alphas, dtype)[i]), sigma

    def replaced(key: RowKeys, x: Float[Array, "*rows"], i: Int[Array, ""]) -> Array:
        """The known entries as they are at level `i`; as observed after the last of all."""
        y = _spread("observed", observed, x).astype(x.dtype)
        alpha, sigma = level(i, x.dtype)
        noised = alpha * y + sigma * row_normal(key, x, event_ndim=event_ndim)
        known = jnp.where(i < num_levels, noised, y)
        return jnp.where(_spread("mask", mask, x), known, x)

    def corrected(key: RowKeys, x: Float[Array, "*rows"], i: Int[Array, ""]) -> Array:
        """Langevin steps of the unknown entries at level `i`."""
        alpha, sigma = level(i, x.dtype)
        spread = (alpha * jnp.asarray(sigma_data, x.dtype)) ** 2
        size = jnp.asarray(corrector_scale, x.dtype) * sigma**2 * spread / (sigma**2 + spread)

        def step(key: RowKeys, x: Float[Array, "*rows"]) -> tuple[Array, tuple[()]]:
            clean = denoiser(x, sigma)
            checks.same_shape("denoiser(x, noise_scale)", clean, "x", x)
            noise = row_normal(key, x, event_ndim=event_ndim)
            moved = x + size / sigma**2 * (alpha * clean - x) + jnp.sqrt(2 * size) * noise
            return jnp.where(_spread("mask", mask, x), x, moved), ()

        return scan_steps(key, step, x, num_correctors)[0]

    def init(position: Float[Array, "*rows"], rng_key: Any = None) -> Any:
        state = algorithm.init(position, rng_key)
        for name, value in (("observed", observed), ("mask", mask)):
            _spread(name, value, state.x)
        return state

    def step(key: RowKeys, state: Any) -> tuple[Any, Any]:
        key, i = as_key(key), state.i
        live = i < num_steps
        x = jnp.where(i == 0, replaced(stream(key, "init"), state.x, i), state.x)
        if num_correctors:
            x = jnp.where(live, corrected(stream(key, "proposal"), x, i), x)
        moved, info = algorithm.step(key, state._replace(x=x))
        x = jnp.where(live, replaced(stream(key, "noise"), moved.x, i + 1), state.x)
        return moved._replace(x=x), info._replace(
            num_evaluations=info.num_evaluations + jnp.where(live, num_correctors, 0),
            is_nonfinite=~rows.row_finite(x, event_ndim=event_ndim),
        )

    return SamplingAlgorithm(init, step)


def _spread(name: str, value: Array, x: Float[Array, "*rows"]) -> Array:
    """`value` in the shape of the rows."""
    if name == "mask" and value.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean, got {value.dtype}")
    try:
        return jnp.broadcast_to(value, x.shape)
    except ValueError as error:
        raise ValueError(f"{name} must broadcast to x, {x.shape}, got {value.shape}") from error
