r"""Denoising score matching: learn the score of noised data by predicting the noise.

The regression target of Vincent's theorem is known for every noised example, so the objective
needs neither a density nor a second derivative of the model:

>>> import jax, jax.numpy as jnp
>>> from probjax.score.denoising import denoising_sm
>>> x = jax.random.normal(jax.random.key(0), (4096, 2))
>>> def loss(slope):
...     score_fn = lambda y: slope * y
...     return denoising_sm(jax.random.key(1), score_fn, x, noise_scale=0.5).mean()
>>> slopes = jnp.array([-1.0, -0.8, -0.6])  # the score of N(0, 1.25 I) is -x / 1.25
>>> slopes[jax.vmap(loss)(slopes).argmin()]
Array(-0.8, dtype=float32)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key, row_normal, stream

ScoreFn = Callable[[Float[Array, "*rows"]], Float[Array, "*rows"]]
"""Row-wise score: rows `(*B, *event)` to rows of the same shape."""

NoiseScoreFn = Callable[[Float[Array, "*rows"], Float[Array, "*noise"]], Float[Array, "*rows"]]
"""Row-wise score with a noise scale, a scalar or `(*B,)`."""


def denoising_sm(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    event_ndim: int = 1,
    antithetic: bool = False,
    control: ArrayLike = 0.0,
) -> Float[Array, "*batch"]:
    r"""Denoising score matching with Gaussian noise, one value per example.

    $$\tfrac12\Big\Vert score\_fn(x + noise\_scale\cdot\varepsilon)
      + \frac{\varepsilon}{noise\_scale}\Big\Vert^2, \qquad \varepsilon\sim N(0, I)$$

    Its mean differs from the explicit objective
    $\tfrac12E\Vert score\_fn(\tilde x)-\nabla\log q(\tilde x)\Vert^2$ under the density $q$ of the
    noised data by a constant that does not depend on the model, so both have the same gradient.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model, row-wise over `(*B, *event)`.
        x: clean data `(*B, *event)`.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example (1 for vectors, 3 for images).
        antithetic: average the values at $+\varepsilon$ and at $-\varepsilon$ (two model calls).
        control: the factor $c$ of the control variate
            $-c\,\varepsilon^\top score\_fn(x)/noise\_scale$, which has mean zero and takes away
            that part of the gradient's variance which grows as the noise shrinks (one more
            model call). It cancels in an antithetic pair, where it is left out.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `noise_scale` is not positive or has a wrong shape, or `score_fn` changes the
            shape.

    Example:
        >>> x = jnp.array([[1.0, -2.0], [0.5, 0.0]])
        >>> denoising_sm(jax.random.key(0), lambda y: -y, x, noise_scale=0.5).shape
        (2,)

    References:
        Vincent 2011, *A connection between score matching and denoising autoencoders*.
        Implementations without the one half, or weighted by `noise_scale**2`, differ by it.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    noise = row_normal(key, x, event_ndim=event_ndim)
    return denoising_sm_from_noise(
        score_fn,
        x,
        noise,
        noise_scale=noise_scale,
        event_ndim=event_ndim,
        antithetic=antithetic,
        control=control,
    )


def denoising_sm_from_noise(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    event_ndim: int = 1,
    antithetic: bool = False,
    control: ArrayLike = 0.0,
) -> Float[Array, "*batch"]:
    r"""`denoising_sm` at given noise $\varepsilon$.

    $$\tfrac12\Big\Vert score\_fn(x + noise\_scale\cdot noise)
        + \frac{noise}{noise\_scale}\Big\Vert^2
      - control\,\frac{noise^\top score\_fn(x)}{noise\_scale}$$

    Args:
        score_fn: the model, row-wise over `(*B, *event)`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.
        antithetic: average the values at `noise` and at `-noise`.
        control: factor of the control variate.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: a shape is wrong or `noise_scale` is not positive.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> denoising_sm_from_noise(lambda y: -y, x, noise, noise_scale=0.5)
        Array([1.625], dtype=float32)
    """
    x, noise = _noised_pair(x, noise, event_ndim)
    checks.positive("noise_scale", noise_scale)
    scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)

    def value(signed: Float[Array, "*rows"]) -> Float[Array, "*batch"]:
        residual = _call(score_fn, x + scale * signed) + signed / scale
        return 0.5 * rows.row_sum(residual**2, event_ndim=event_ndim)

    if antithetic:
        return 0.5 * (value(noise) + value(-noise))
    values = value(noise)
    if isinstance(control, int | float) and control == 0:
        return values
    variate = _control_variate(score_fn, x, noise, scale, event_ndim)
    return values - jnp.asarray(control, x.dtype) * variate


def control_coefficient(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    event_ndim: int = 1,
) -> Float[Array, ""]:
    r"""Estimate the `control` of `denoising_sm` that leaves the least variance.

    $$c^\star = \frac{\operatorname{cov}(\ell, v)}{\operatorname{var}(v)}, \qquad
      v = \frac{\varepsilon^\top score\_fn(x)}{noise\_scale}$$

    with $\ell=\frac12\Vert s\Vert^2+\varepsilon^\top s/noise\_scale$ the part of the objective that
    depends on the model $s=score\_fn(\tilde x)$; the rest is uncorrelated with $v$ and would only
    add noise. Use other draws than those of the loss, so that the loss keeps its mean; no
    gradient flows through the result.

    Args:
        key: one key, or a key for each row.
        score_fn: the model, row-wise.
        x: clean data `(*B, *event)`, at least two rows.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        The factor, a scalar; NaN for fewer than two rows.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (512, 2))
        >>> score_fn = lambda y: -y
        >>> best = control_coefficient(jax.random.key(1), score_fn, x, noise_scale=0.01)
        >>> print(f"{best:.2f}")  # tends to 1 with the noise scale to 0
        1.00

    References:
        Wang, Cheng, Li, Zhu, Zhang 2020, *A Wasserstein minimum velocity approach to learning
        unnormalized models*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    noise = row_normal(key, x, event_ndim=event_ndim)
    scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
    score = _call(score_fn, x + scale * noise)
    values = rows.row_sum(score * (0.5 * score + noise / scale), event_ndim=event_ndim)
    variate = _control_variate(score_fn, x, noise, scale, event_ndim)
    centred = variate - jnp.mean(variate)
    return jax.lax.stop_gradient(jnp.sum(centred * values) / jnp.sum(centred**2))


def deen(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""The objective of deep energy estimator networks, one value per example.

    $$\tfrac12\Vert x - \tilde x - noise\_scale^2\,score\_fn(\tilde x)\Vert^2,
      \qquad \tilde x = x + noise\_scale\cdot\varepsilon$$

    the squared error of the Tweedie mean as an estimate of `x`. For equal noise it is exactly
    `noise_scale**4` times `denoising_sm`.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model, row-wise over `(*B, *event)`.
        x: clean data `(*B, *event)`.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `denoising_sm`.

    Example:
        >>> x = jnp.array([[1.0, -2.0]])
        >>> value = deen(jax.random.key(0), jnp.tanh, x, noise_scale=0.3)
        >>> ratio = value / denoising_sm(jax.random.key(0), jnp.tanh, x, noise_scale=0.3)
        >>> print(f"{ratio[0]:.4f}")
        0.0081

    References:
        Saremi, Mehrjou, Schölkopf, Hyvärinen 2018, *Deep energy estimator networks*, written
        there with the gradient of the energy, hence with a plus sign.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    noise = row_normal(key, x, event_ndim=event_ndim)
    return deen_from_noise(score_fn, x, noise, noise_scale=noise_scale, event_ndim=event_ndim)


def deen_from_noise(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`deen` at given noise.

    $$\tfrac12\Vert noise\_scale\cdot noise
      + noise\_scale^2\,score\_fn(x + noise\_scale\cdot noise)\Vert^2$$

    Args:
        score_fn: the model, row-wise over `(*B, *event)`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `denoising_sm_from_noise`.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> deen_from_noise(lambda y: -y, x, noise, noise_scale=0.5)  # 0.5**4 * 1.625
        Array([0.1015625], dtype=float32)
    """
    x, noise = _noised_pair(x, noise, event_ndim)
    checks.positive("noise_scale", noise_scale)
    scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
    residual = scale * noise + scale**2 * _call(score_fn, x + scale * noise)
    return 0.5 * rows.row_sum(residual**2, event_ndim=event_ndim)


def multi_noise_dsm(
    key: RowKeys,
    score_fn: NoiseScoreFn,
    x: Float[Array, "*rows"],
    *,
    noise_scales: ArrayLike,
    event_ndim: int = 1,
    weight: str | Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]] = "noise_scale2",
) -> Float[Array, "*batch"]:
    r"""Denoising score matching over many noise scales, one value per example.

    $$w(\sigma_i)\,\tfrac12\Big\Vert score\_fn(x+\sigma_i\varepsilon,\ \sigma_i)
      + \frac{\varepsilon}{\sigma_i}\Big\Vert^2, \qquad
      i\sim\text{uniform over } noise\_scales \text{, drawn for each row}$$

    The default weight $w=\sigma_i^2$ makes the levels equal in size.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model, `(x, noise_scale)` with rows `(*B, *event)` and scales `(*B,)`.
        x: clean data `(*B, *event)`.
        noise_scales: the levels `(L,)`, positive and strictly decreasing.
        event_ndim: how many trailing axes make one example.
        weight: `"noise_scale2"`, `"one"`, or a function of the rows' scales `(*B,)`.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: the levels are not in order (the message names the index), an unknown
            weight, or a wrong shape.

    Example:
        >>> x = jnp.zeros((4, 2))  # the score of noised zeros is -x / noise_scale**2
        >>> score_fn = lambda y, noise_scale: -y / noise_scale[..., None] ** 2
        >>> levels = jnp.array([1.0, 0.5, 0.1])
        >>> multi_noise_dsm(jax.random.key(0), score_fn, x, noise_scales=levels)
        Array([0., 0., 0., 0.], dtype=float32)

    References:
        Song, Ermon 2019, *Generative modeling by estimating gradients of the data distribution*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    key = as_key(key)
    checks.strictly_decreasing("noise_scales", noise_scales)
    num_levels = jnp.shape(noise_scales)[0]
    batch = x.shape[: x.ndim - event_ndim]
    level_key = stream(key, "level")
    if key.ndim == 0:
        levels = jax.random.randint(level_key, batch, 0, num_levels)
    else:
        draw = jax.vmap(lambda row_key: jax.random.randint(row_key, (), 0, num_levels))
        levels = draw(level_key.reshape(-1)).reshape(key.shape)
    noise = row_normal(stream(key, "noise"), x, event_ndim=event_ndim)
    return multi_noise_dsm_from_noise(
        score_fn, x, noise, levels, noise_scales=noise_scales, event_ndim=event_ndim, weight=weight
    )


def multi_noise_dsm_from_noise(
    score_fn: NoiseScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    levels: Int[Array, "*batch"],
    *,
    noise_scales: ArrayLike,
    event_ndim: int = 1,
    weight: str | Callable[[Float[Array, "*batch"]], Float[Array, "*batch"]] = "noise_scale2",
) -> Float[Array, "*batch"]:
    r"""`multi_noise_dsm` at given noise and levels.

    $$w(\sigma)\,\tfrac12\Vert score\_fn(x+\sigma\,noise,\ \sigma) + noise/\sigma\Vert^2,
      \qquad \sigma = noise\_scales[levels]$$

    Args:
        score_fn: the model, `(x, noise_scale)` with rows `(*B, *event)` and scales `(*B,)`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        levels: index of each row's noise scale, `(*B,)`.
        noise_scales: the levels `(L,)`, positive and strictly decreasing.
        event_ndim: how many trailing axes make one example.
        weight: `"noise_scale2"`, `"one"`, or a function of the rows' scales `(*B,)`.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `multi_noise_dsm`.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> multi_noise_dsm_from_noise(
        ...     lambda y, noise_scale: -y, x, noise, jnp.array([1]),
        ...     noise_scales=jnp.array([1.0, 0.5]))  # 0.5**2 * 1.625
        Array([0.40625], dtype=float32)
    """
    x, noise = _noised_pair(x, noise, event_ndim)
    checks.strictly_decreasing("noise_scales", noise_scales)
    checks.shape("levels", levels, x.shape[: x.ndim - event_ndim])
    scale = jnp.asarray(noise_scales, x.dtype)[levels]
    values = denoising_sm_from_noise(
        lambda noised: score_fn(noised, scale), x, noise, noise_scale=scale, event_ndim=event_ndim
    )
    if callable(weight):
        return weight(scale) * values
    checks.one_of("weight", weight, ("noise_scale2", "one"))
    return scale**2 * values if weight == "noise_scale2" else values


def tweedie(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise_scale: ArrayLike,
    *,
    event_ndim: int = 1,
) -> Float[Array, "*rows"]:
    r"""The mean of the clean example given the noised one, by Tweedie's formula.

    $$E[x_0\mid x] = x + noise\_scale^2\,score\_fn(x)$$

    Args:
        score_fn: score of the density of the *noised* data, row-wise.
        x: noised examples `(*B, *event)`.
        noise_scale: standard deviation of their noise; a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Posterior means `(*B, *event)`.

    Raises:
        ValueError: `noise_scale` is not positive or a shape is wrong.

    Example:
        >>> noised_score = lambda y: -y / (1 + 0.5**2)  # data N(0, I) and noise of scale 0.5
        >>> tweedie(noised_score, jnp.array([1.0, -2.0]), 0.5)
        Array([ 0.8, -1.6], dtype=float32)

    References:
        Robbins 1956, *An empirical Bayes approach to statistics*; Efron 2011, *Tweedie's formula
        and selection bias*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.positive("noise_scale", noise_scale)
    scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
    return x + scale**2 * _call(score_fn, x)


def _noised_pair(
    x: Float[Array, "*rows"], noise: Float[Array, "*rows"], event_ndim: int
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Data and noise of one shape and one working precision."""
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.same_shape("noise", noise, "x", x)
    return x, noise.astype(x.dtype)


def _call(score_fn: ScoreFn, x: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The model at `x`, with its shape checked."""
    score = score_fn(x)
    checks.same_shape("score_fn(x)", score, "x", x)
    return score


def _control_variate(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    scale: Float[Array, "*ones"],
    event_ndim: int,
) -> Float[Array, "*batch"]:
    """What has mean zero and follows the objective as the noise shrinks."""
    return rows.row_sum(noise * _call(score_fn, x) / scale, event_ndim=event_ndim)
