r"""Denoisers in closed form: what a perfectly trained network would return.

>>> import jax.numpy as jnp
>>> from probjax.diffusion.exact import gaussian_denoiser
>>> denoiser = gaussian_denoiser(jnp.array([1.0]), jnp.array([[3.0]]))
>>> print(denoiser(jnp.array([5.0]), 1.0))  # 1 + 3 / (3 + 1) * (5 - 1)
[4.]
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.diffusion.parameterization import Denoiser


def gaussian_denoiser(mean: Float[Array, "d"], covariance: Float[Array, "d d"]) -> Denoiser:
    r"""The posterior mean for data $N(m,\Sigma)$.

    $$D(x,\sigma)=m+\Sigma(\Sigma+\sigma^2I)^{-1}(x-m)$$

    One eigendecomposition serves all noise scales.

    Args:
        mean: $m$, `(d,)`.
        covariance: $\Sigma$, `(d, d)`, symmetric positive semi-definite.

    Returns:
        `denoiser(x, noise_scale)` over rows `(*B, d)`, for $x=x_0+\sigma\varepsilon$. For
        $x=\alpha x_0+\sigma\varepsilon$ call it at $(x/\alpha,\sigma/\alpha)$.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> denoiser = gaussian_denoiser(jnp.zeros(2), jnp.diag(jnp.array([3.0, 0.0])))
        >>> print(denoiser(jnp.array([[4.0, 4.0]]), 1.0))
        [[3. 0.]]

    References:
        Robbins 1956.
    """
    checks.shape("mean", mean, (covariance.shape[0],))
    checks.shape("covariance", covariance, (mean.shape[0], mean.shape[0]))
    values, vectors = jnp.linalg.eigh(covariance)

    def denoiser(x: Float[Array, "*batch d"], noise_scale: ArrayLike) -> Float[Array, "*batch d"]:
        sigma = rows.per_row("noise_scale", noise_scale, x)
        spectrum = jnp.broadcast_to(values.astype(x.dtype), x.shape)
        centre = jnp.broadcast_to(mean.astype(x.dtype), x.shape)
        basis = vectors.astype(x.dtype)
        along = jnp.tensordot(x - centre, basis, axes=1) * (spectrum / (spectrum + sigma**2))
        return centre + jnp.tensordot(along, basis.T, axes=1)

    return denoiser


def gmm_denoiser(
    means: Float[Array, "k d"], scales: Float[Array, "k"], weights: Float[Array, "k"]
) -> Denoiser:
    r"""The posterior mean for a mixture of isotropic Gaussians.

    $$D(x,\sigma)=\sum_kr_k(x)\Big[m_k+\frac{c_k^2}{c_k^2+\sigma^2}(x-m_k)\Big],\qquad
      r_k\propto w_k\,N\big(x;m_k,(c_k^2+\sigma^2)I\big)$$

    Args:
        means: $m_k$, `(k, d)`.
        scales: standard deviations $c_k\ge0$, `(k,)`; zeros give the denoiser of a finite data set.
        weights: $w_k>0$, `(k,)`; they need not sum to one.

    Returns:
        `denoiser(x, noise_scale)` over rows `(*B, d)`.

    Raises:
        ValueError: the shapes do not fit, a weight is not positive or a scale is negative.

    Example:
        >>> atoms = jnp.array([[-1.0], [1.0]])
        >>> denoiser = gmm_denoiser(atoms, jnp.zeros(2), jnp.ones(2))
        >>> print(denoiser(jnp.array([[0.0], [30.0]]), 1.0))
        [[0.]
         [1.]]

    References:
        Efron 2011.
    """
    num_components, _ = means.shape
    checks.shape("scales", scales, (num_components,))
    checks.shape("weights", weights, (num_components,))
    checks.positive("weights", weights)
    checks.non_negative("scales", scales)

    def denoiser(x: Float[Array, "*batch d"], noise_scale: ArrayLike) -> Float[Array, "*batch d"]:
        dtype, dim = x.dtype, x.shape[-1]
        checks.shape("means", means, (num_components, dim))
        batch = x.shape[:-1]
        sigma2 = jnp.broadcast_to(jnp.asarray(noise_scale, dtype) ** 2, batch)[..., None]
        own = jnp.broadcast_to(scales.astype(dtype) ** 2, (*batch, num_components))
        total = own + sigma2
        centres = jnp.broadcast_to(means.astype(dtype), (*batch, num_components, dim))
        squares = jnp.sum((x[..., None, :] - centres) ** 2, axis=-1)
        prior = jnp.broadcast_to(jnp.log(weights.astype(dtype)), total.shape)
        shares = jax.nn.softmax(prior - 0.5 * (dim * jnp.log(total) + squares / total), axis=-1)
        pull = shares * own / total
        rest = jnp.tensordot(shares - pull, means.astype(dtype), axes=1)
        return rest + jnp.sum(pull, axis=-1, keepdims=True) * x

    return denoiser
