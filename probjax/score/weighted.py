r"""Denoising objectives with other weights and other targets than `denoising_sm`.

One energy for all noise scales, the weight that bounds the likelihood, and the target that uses
the score of the clean density where it is known:

>>> import jax, jax.numpy as jnp
>>> from probjax.score.weighted import target_sm
>>> x = jax.random.normal(jax.random.key(0), (4096, 2))  # its score is -x
>>> def loss(slope):
...     score_fn = lambda y: slope * y
...     return target_sm(jax.random.key(1), score_fn, x, -x, noise_scale=0.5).mean()
>>> slopes = jnp.array([-1.0, -0.8, -0.6])  # noised: N(0, 1.25 I)
>>> print(slopes[jax.vmap(loss)(slopes).argmin()])
-0.8
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key, row_normal, stream
from probjax.score.denoising import ScoreFn


def multiscale_dsm(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    noise_scales: ArrayLike,
    reference_noise_scale: ArrayLike,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Denoising score matching of ONE unconditional score at many noise scales.

    $$\frac{1}{2\sigma_i^2}\Big\Vert score\_fn(\tilde x)
      + \frac{\tilde x-x}{reference\_noise\_scale^2}\Big\Vert^2,\qquad
      \tilde x = x+\sigma_i\varepsilon,\quad i\sim\text{uniform over } noise\_scales$$

    The model does not see $\sigma_i$: it learns the score of one density, which near the data is
    that at the reference scale and far from it still points back. (In `multi_noise_dsm` the
    target is $-\varepsilon/\sigma_i$ and the model is told the scale.)

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model, row-wise over `(*B, *event)`; often `score_from_energy(...)`.
        x: clean data `(*B, *event)`.
        noise_scales: the levels `(L,)`, positive and strictly decreasing.
        reference_noise_scale: $\sigma_0$ of the target, positive.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside. With one level equal to the reference scale they
        are those of `denoising_sm` over its square.

    Raises:
        ValueError: the levels are not in order, a scale is not positive, or a shape is wrong.

    Example:
        >>> x = jnp.zeros((4, 2))
        >>> multiscale_dsm(
        ...     jax.random.key(0), lambda y: -y / 0.25, x,
        ...     noise_scales=jnp.array([1.0, 0.1]), reference_noise_scale=0.5)
        Array([0., 0., 0., 0.], dtype=float32)

    References:
        Li, Chen, Sommer 2019, *Learning energy-based models in high-dimensional spaces with
        multi-scale denoising score matching*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.strictly_decreasing("noise_scales", noise_scales)
    num_levels = jnp.shape(noise_scales)[0]
    batch = x.shape[: x.ndim - event_ndim]
    key = as_key(key)
    level_key = stream(key, "level")
    if key.ndim == 0:
        levels = jax.random.randint(level_key, batch, 0, num_levels)
    else:
        draw = jax.vmap(lambda row_key: jax.random.randint(row_key, (), 0, num_levels))
        levels = draw(level_key.reshape(-1)).reshape(key.shape)
    noise = row_normal(stream(key, "noise"), x, event_ndim=event_ndim)
    return multiscale_dsm_from_noise(
        score_fn,
        x,
        noise,
        levels,
        noise_scales=noise_scales,
        reference_noise_scale=reference_noise_scale,
        event_ndim=event_ndim,
    )


def multiscale_dsm_from_noise(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    levels: Int[Array, "*batch"],
    *,
    noise_scales: ArrayLike,
    reference_noise_scale: ArrayLike,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`multiscale_dsm` at given noise and levels.

    $$\frac{1}{2\sigma^2}\Big\Vert score\_fn(x+\sigma\,noise)
      + \frac{\sigma\,noise}{reference\_noise\_scale^2}\Big\Vert^2,\qquad
      \sigma=noise\_scales[levels]$$

    Args:
        score_fn: the model, row-wise over `(*B, *event)`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        levels: index of each row's noise scale, `(*B,)`.
        noise_scales: as for `multiscale_dsm`.
        reference_noise_scale: as for `multiscale_dsm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `multiscale_dsm`.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> multiscale_dsm_from_noise(
        ...     lambda y: -y, x, noise, jnp.array([1]),
        ...     noise_scales=jnp.array([1.0, 0.5]), reference_noise_scale=0.5)  # 1.625 / 0.5**2
        Array([6.5], dtype=float32)
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.same_shape("noise", noise, "x", x)
    checks.strictly_decreasing("noise_scales", noise_scales)
    checks.shape("levels", levels, x.shape[: x.ndim - event_ndim])
    checks.positive("reference_noise_scale", reference_noise_scale)
    checks.shape("reference_noise_scale", reference_noise_scale, ())
    row_scales = jnp.asarray(noise_scales, x.dtype)[levels]
    scale = rows.per_row("noise_scales", row_scales, x, event_ndim=event_ndim)
    shift = scale * noise.astype(x.dtype)
    residual = _call(score_fn, x + shift) + shift / jnp.asarray(reference_noise_scale, x.dtype) ** 2
    return 0.5 * rows.row_sum(residual**2, event_ndim=event_ndim) / row_scales**2


def likelihood_dsm(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    diffusion2: ArrayLike,
    alpha: ArrayLike = 1.0,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Denoising score matching with the weight of the likelihood, one value per example.

    $$\tfrac12\,diffusion2\,\Big\Vert score\_fn(x_t)+\frac{\varepsilon}{noise\_scale}\Big\Vert^2,
      \qquad x_t = alpha\cdot x + noise\_scale\cdot\varepsilon$$

    With $t$ uniform on the time interval (of length one) and $diffusion2=g(t)^2$ its mean is, up
    to a constant that does not depend on the model, an upper bound in nats of
    $KL(p_0\Vert p_{\text{model}})$; for a model that is the score of some diffused density it is
    the exact difference of the KL divergences at both ends.

    For $\sigma$ geometric in $t$, $g^2=2\sigma^2\log(\sigma_{\max}/\sigma_{\min})$: the default
    weight of `multi_noise_dsm` is this one up to that constant factor. For other schedules they
    differ.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model at the rows' noise scales, row-wise: a closure over them.
        x: clean data `(*B, *event)`.
        noise_scale: $\sigma(t)$ of each row, positive; a scalar or `(*B,)`.
        diffusion2: $g(t)^2$ of each row, not negative; a scalar or `(*B,)`.
        alpha: $\alpha(t)$ of each row, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: a scale is not positive, or a shape is wrong.

    Example:
        >>> x = jnp.zeros((3, 2))  # the score of noised zeros is -x / noise_scale**2
        >>> likelihood_dsm(
        ...     jax.random.key(0), lambda y: -y / 0.25, x, noise_scale=0.5, diffusion2=2.0)
        Array([0., 0., 0.], dtype=float32)

    References:
        Song, Durkan, Murray, Ermon 2021, *Maximum likelihood training of score-based diffusion
        models*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    noise = row_normal(key, x, event_ndim=event_ndim)
    return likelihood_dsm_from_noise(
        score_fn,
        x,
        noise,
        noise_scale=noise_scale,
        diffusion2=diffusion2,
        alpha=alpha,
        event_ndim=event_ndim,
    )


def likelihood_dsm_from_noise(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    diffusion2: ArrayLike,
    alpha: ArrayLike = 1.0,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`likelihood_dsm` at given noise.

    $$\tfrac12\,diffusion2\,\Big\Vert score\_fn(alpha\cdot x + noise\_scale\cdot noise)
      + \frac{noise}{noise\_scale}\Big\Vert^2$$

    Args:
        score_fn: as for `likelihood_dsm`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        noise_scale: as for `likelihood_dsm`.
        diffusion2: as for `likelihood_dsm`.
        alpha: as for `likelihood_dsm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `likelihood_dsm`.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> likelihood_dsm_from_noise(
        ...     lambda y: -y, x, noise, noise_scale=0.5, diffusion2=2.0)  # 2 * 1.625
        Array([3.25], dtype=float32)
    """
    x, scale, noised, noise = _noised(x, noise, noise_scale, alpha, event_ndim)
    checks.non_negative("diffusion2", diffusion2)
    weight = rows.per_row("diffusion2", diffusion2, x, event_ndim=event_ndim)
    residual = _call(score_fn, noised) + noise / scale
    return 0.5 * rows.row_sum(weight * residual**2, event_ndim=event_ndim)


def target_sm(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    target: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    alpha: ArrayLike = 1.0,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Target score matching: the score of noised data from the score of the clean data.

    $$\tfrac12\Big\Vert score\_fn(x_t)-\frac{target}{alpha}\Big\Vert^2,\qquad
      x_t=alpha\cdot x+noise\_scale\cdot\varepsilon,\qquad target=\nabla\log p_0(x)$$

    It has the minimiser of `denoising_sm`,
    $\nabla\log p_t(x_t)=E[\nabla\log p_0(x_0)/alpha\mid x_t]$, and its target does not grow as
    the noise shrinks: use it at small noise, and denoising at large noise, where the clean score
    says little about the noised one.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model at the rows' noise scales, row-wise.
        x: clean data `(*B, *event)`.
        target: the score of the clean density at `x`, of `x`'s shape.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        alpha: factor on the clean data, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: a scale is not positive, or a shape is wrong.

    Example:
        >>> x = jnp.array([[1.0, -2.0]])
        >>> target_sm(jax.random.key(0), lambda y: 0 * y, x, -x, noise_scale=0.5, alpha=0.5)
        Array([10.], dtype=float32)

    References:
        De Bortoli, Hutchinson, Wirnsberger, Doucet 2024, *Target score matching*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    noise = row_normal(key, x, event_ndim=event_ndim)
    return target_sm_from_noise(
        score_fn, x, noise, target, noise_scale=noise_scale, alpha=alpha, event_ndim=event_ndim
    )


def target_sm_from_noise(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    target: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    alpha: ArrayLike = 1.0,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`target_sm` at given noise.

    $$\tfrac12\Big\Vert score\_fn(alpha\cdot x+noise\_scale\cdot noise)
      -\frac{target}{alpha}\Big\Vert^2$$

    Args:
        score_fn: as for `target_sm`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        target: as for `target_sm`.
        noise_scale: as for `target_sm`.
        alpha: as for `target_sm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `target_sm`.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> target_sm_from_noise(lambda y: -2 * y, x, noise, -x, noise_scale=0.5)
        Array([1.], dtype=float32)
    """
    x, _, noised, _ = _noised(x, noise, noise_scale, alpha, event_ndim)
    checks.same_shape("target", target, "x", x)
    factor = rows.per_row("alpha", alpha, x, event_ndim=event_ndim)
    residual = _call(score_fn, noised) - target.astype(x.dtype) / factor
    return 0.5 * rows.row_sum(residual**2, event_ndim=event_ndim)


def _noised(
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    noise_scale: ArrayLike,
    alpha: ArrayLike,
    event_ndim: int,
) -> tuple[Array, Array, Array, Array]:
    """Clean rows, their noise scales, the noised rows and the noise, of one working precision."""
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.same_shape("noise", noise, "x", x)
    checks.positive("noise_scale", noise_scale)
    checks.positive("alpha", alpha)
    noise = noise.astype(x.dtype)
    scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
    factor = rows.per_row("alpha", alpha, x, event_ndim=event_ndim)
    return x, scale, factor * x + scale * noise, noise


def _call(score_fn: ScoreFn, x: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The model at `x`, with its shape checked."""
    score = score_fn(x)
    checks.same_shape("score_fn(x)", score, "x", x)
    return score
