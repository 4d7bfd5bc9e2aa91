r"""Losses that train a denoiser, and the laws of the noise they are trained at.

The weights of the network are averaged over the steps by `optax.incremental_update(params,
average, step_size=1 - decay)` (`optax.ema` averages the updates instead).

>>> import jax, jax.numpy as jnp
>>> from probjax.diffusion.parameterization import precondition
>>> from probjax.diffusion.training import edm_loss
>>> denoiser = precondition(lambda x, c_noise: jnp.zeros_like(x), 0.5)
>>> x0 = 0.5 * jax.random.normal(jax.random.key(0), (4000, 8))
>>> loss = edm_loss(jax.random.key(1), denoiser, x0, sigma_data=0.5)
>>> print(f"{loss.mean() / 8:.1f}")  # a network that knows nothing: one per dimension
1.0
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.core.keys import PRNGKey, RowKeys, as_key, row_normal, stream
from probjax.diffusion.parameterization import Denoiser, loss_weight


def denoising_loss(
    key: RowKeys,
    denoiser: Denoiser,
    x0: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    alpha: ArrayLike = 1.0,
    weight: ArrayLike = 1.0,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""The weighted squared error of a denoiser, one value per example.

    $$weight\,\big\Vert denoiser(\alpha x_0+\sigma\varepsilon,\ \sigma)-x_0\big\Vert^2$$

    The sum of squares over the example, without the one half of the score objectives: with
    `alpha=1` and weight $\sigma^{-2}$ it is twice `score.multi_noise_dsm`'s value.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        denoiser: `denoiser(x, noise_scale)`, row-wise; it sees the scales as `(*B,)`.
        x0: clean data `(*B, *event)`.
        noise_scale: $\sigma$, positive; a scalar or `(*B,)`.
        alpha: $\alpha$, a scalar or `(*B,)`.
        weight: a scalar or `(*B,)`, see `loss_weight`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: a wrong shape, or `noise_scale` or `alpha` not positive.

    Example:
        >>> identity = lambda x, noise_scale: x
        >>> denoising_loss(jax.random.key(0), identity, jnp.zeros((2, 3)), noise_scale=0.1).shape
        (2,)

    References:
        Ho, Jain, Abbeel 2020; Karras et al. 2022.
    """
    x0 = rows.working("x0", x0, event_ndim=event_ndim)
    noise = row_normal(key, x0, event_ndim=event_ndim)
    return denoising_loss_from_noise(
        denoiser,
        x0,
        noise,
        noise_scale=noise_scale,
        alpha=alpha,
        weight=weight,
        event_ndim=event_ndim,
    )


def denoising_loss_from_noise(
    denoiser: Denoiser,
    x0: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    alpha: ArrayLike = 1.0,
    weight: ArrayLike = 1.0,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`denoising_loss` at given noise $\varepsilon$.

    $$weight\,\big\Vert denoiser(\alpha x_0+\sigma\,noise,\ \sigma)-x_0\big\Vert^2$$

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        x0: clean data `(*B, *event)`.
        noise: standard normal numbers of `x0`'s shape.
        noise_scale: $\sigma$, positive; a scalar or `(*B,)`.
        alpha: $\alpha$, a scalar or `(*B,)`.
        weight: a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: as `denoising_loss`.

    Example:
        >>> x0, noise = jnp.zeros((1, 2)), jnp.array([[1.0, -2.0]])
        >>> denoising_loss_from_noise(lambda x, noise_scale: x, x0, noise, noise_scale=2.0)
        Array([20.], dtype=float32)
    """
    x0 = rows.working("x0", x0, event_ndim=event_ndim)
    checks.same_shape("noise", noise, "x0", x0)
    checks.positive("noise_scale", noise_scale)
    checks.positive("alpha", alpha)
    batch = x0.shape[: x0.ndim - event_ndim]
    sigma = rows.per_row("noise_scale", noise_scale, x0, event_ndim=event_ndim)
    scale = rows.per_row("alpha", alpha, x0, event_ndim=event_ndim)
    levels = jnp.broadcast_to(jnp.asarray(noise_scale, x0.dtype), batch)
    clean = denoiser(scale * x0 + sigma * noise.astype(x0.dtype), levels)
    checks.same_shape("denoiser(x, noise_scale)", clean, "x0", x0)
    squares = rows.row_sum((clean - x0) ** 2, event_ndim=event_ndim)
    return jnp.broadcast_to(jnp.asarray(weight, x0.dtype), batch) * squares


def edm_loss(
    key: RowKeys,
    denoiser: Denoiser,
    x0: Float[Array, "*rows"],
    *,
    sigma_data: ArrayLike,
    mean: ArrayLike = -1.2,
    std: ArrayLike = 1.2,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""The EDM loss: log-normal noise scales and weights that make every scale equally hard.

    $$\frac{\sigma^2+\sigma_d^2}{(\sigma\sigma_d)^2}
      \big\Vert denoiser(x_0+\sigma\varepsilon,\sigma)-x_0\big\Vert^2,
      \qquad\log\sigma\sim N(mean, std^2)$$

    A preconditioned network that returns zero has the value one per dimension, on data of
    standard deviation $\sigma_d=sigma\_data$ in each.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        denoiser: the preconditioned network, see `precondition`; it sees `(*B,)` scales.
        x0: clean data `(*B, *event)`.
        sigma_data: standard deviation of the data; give `precondition` the same.
        mean: mean of $\log\sigma$.
        std: standard deviation of $\log\sigma$, positive.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `sigma_data` or `std` is not positive, or a wrong shape.

    Example:
        >>> perfect = lambda x, noise_scale: jnp.zeros_like(x)
        >>> edm_loss(jax.random.key(0), perfect, jnp.zeros((2, 3)), sigma_data=0.5)
        Array([0., 0.], dtype=float32)

    References:
        Karras et al. 2022, equations 5 to 8.
    """
    checks.positive("sigma_data", sigma_data)
    x0 = rows.working("x0", x0, event_ndim=event_ndim)
    batch = x0.shape[: x0.ndim - event_ndim]
    noise_scale = log_normal_noise_scales(
        stream(key, "level"), jnp.zeros(batch, x0.dtype), mean=mean, std=std
    )
    weight = loss_weight("edm", 1.0, noise_scale, sigma_data=sigma_data)
    return denoising_loss(
        stream(key, "noise"),
        denoiser,
        x0,
        noise_scale=noise_scale,
        weight=weight,
        event_ndim=event_ndim,
    )


def log_normal_noise_scales(
    key: RowKeys,
    like: Float[Array, "*batch"],
    *,
    mean: ArrayLike = -1.2,
    std: ArrayLike = 1.2,
) -> Float[Array, "*batch"]:
    r"""Draw noise scales with $\log\sigma\sim N(mean, std^2)$.

    Args:
        key: one key, or a key for each scale.
        like: array whose shape and dtype the result takes.
        mean: mean of the logarithm.
        std: standard deviation of the logarithm, positive.

    Returns:
        Noise scales.

    Raises:
        ValueError: `std` is not positive.

    Example:
        >>> scales = log_normal_noise_scales(jax.random.key(0), jnp.zeros(4000))
        >>> print(f"{jnp.log(scales).mean():.1f} {jnp.log(scales).std():.1f}")
        -1.2 1.2
    """
    checks.positive("std", std)
    normal = row_normal(key, like, event_ndim=0)
    return jnp.exp(jnp.asarray(mean, like.dtype) + jnp.asarray(std, like.dtype) * normal)


def sample_times(
    key: PRNGKey, num_times: int, *, law: str = "uniform", start: int | Array = 0, total: int = 0
) -> Float[Array, "num_times"]:
    r"""Draw times in $[0, 1)$.

    `"uniform"`: independent, $t_i$ from the key of item $i$. `"low_discrepancy"`:
    $t_i=(u+i/n)\bmod1$ with one $u$ for all, each uniform by itself and together evenly spread,
    which takes most of the variance out of a loss over times.

    Args:
        key: one key.
        num_times: how many.
        law: `"uniform"` or `"low_discrepancy"`.
        start: global index of the first, where the times are drawn in parts.
        total: $n$ for `"low_discrepancy"`, over all parts; 0 stands for `num_times`.

    Returns:
        Times `(num_times,)`.

    Raises:
        ValueError: unknown law or a negative number.

    Example:
        >>> times = sample_times(jax.random.key(0), 4, law="low_discrepancy")
        >>> print(jnp.diff(jnp.sort(times)))
        [0.25 0.25 0.25]

    References:
        Kingma, Salimans, Poole, Ho 2021, *Variational diffusion models*, appendix I.1.
    """
    checks.one_of("law", law, ("uniform", "low_discrepancy"))
    checks.at_least("num_times", num_times, 0)
    checks.at_least("total", total, 0)
    items = jnp.asarray(start, jnp.int32) + jnp.arange(num_times, dtype=jnp.int32)
    key = as_key(key)
    if law == "uniform":
        return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(items)
    shift = jax.random.uniform(key)
    return (shift + items.astype(shift.dtype) / max(total or num_times, 1)) % 1.0
