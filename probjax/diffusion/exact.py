r"""Denoisers in closed form: what a perfectly trained network would return.

>>> import jax.numpy as jnp
>>> from probjax.diffusion.exact import gaussian_denoiser
>>> denoiser = gaussian_denoiser(jnp.array([1.0]), jnp.array([[3.0]]))
>>> print(denoiser(jnp.array([5.0]), 1.0))  # 1 + 3 / (3 + 1) * (5 - 1)
[4.]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.step_table import StepTable


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


def gaussian_pf_map(
    x: Float[Array, "*batch d"],
    mean: Float[Array, "d"],
    covariance: Float[Array, "d d"],
    *,
    noise_scale: ArrayLike,
    next_noise_scale: ArrayLike,
) -> Float[Array, "*batch d"]:
    r"""Carry points along the exact probability flow of Gaussian data.

    $$x'=m+(\Sigma+\sigma'^2I)^{1/2}(\Sigma+\sigma^2I)^{-1/2}(x-m)$$

    Args:
        x: rows at the noise scale `noise_scale`, `(*B, d)`.
        mean: $m$, `(d,)`.
        covariance: $\Sigma$, `(d, d)`, symmetric positive semi-definite.
        noise_scale: $\sigma$, from where.
        next_noise_scale: $\sigma'$, to where; 0 is the data.

    Returns:
        Rows `(*B, d)`.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> print(gaussian_pf_map(
        ...     jnp.array([[4.0]]), jnp.zeros(1), jnp.eye(1), noise_scale=3.0**0.5,
        ...     next_noise_scale=0.0))
        [[2.]]

    References:
        Song et al. 2021.
    """
    (dim,) = mean.shape
    checks.shape("covariance", covariance, (dim, dim))
    values, vectors = jnp.linalg.eigh(covariance)
    before = jnp.asarray(noise_scale, x.dtype) ** 2
    after = jnp.asarray(next_noise_scale, x.dtype) ** 2
    stretch = jnp.sqrt((values + after) / (values + before)).astype(x.dtype)
    centre = jnp.broadcast_to(mean.astype(x.dtype), x.shape)
    along = jnp.tensordot(x - centre, vectors.astype(x.dtype), axes=1)
    along = along * jnp.broadcast_to(stretch, along.shape)
    return centre + jnp.tensordot(along, vectors.T.astype(x.dtype), axes=1)


def affine_law(
    table: StepTable,
    mean: ArrayLike,
    covariance: ArrayLike,
    *,
    start_mean: ArrayLike,
    start_covariance: ArrayLike,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return mean and covariance of what a table's sampler draws when the data are Gaussian.

    For $N(m,\Sigma)$ the denoiser is affine, so each row of the table maps the sample together with
    the estimates it keeps, $u=(x,D_{n-1},D_{n-2},D_{n-3})$, by an affine map plus noise:

    $$u'=A_nu+b_n+C_nz,\qquad E\,u'=A_nE\,u+b_n,\quad
      \mathrm{Cov}\,u'=A_n\mathrm{Cov}(u)A_n^\top+C_nC_n^\top$$

    Computed in double precision by NumPy, once for the whole table.

    Args:
        table: the coefficients, not traced, for `alphas` of one or any others: the denoiser is
            that of $x=\alpha x_0+\sigma\varepsilon$, with alpha one at the first level.
        mean: $m$, `(d,)`.
        covariance: $\Sigma$, `(d, d)`.
        start_mean: mean of the samples before the first step, `(d,)`.
        start_covariance: their covariance, `(d, d)`.

    Returns:
        Mean `(d,)` and covariance `(d, d)` after the last step.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> from probjax.diffusion.stochastic import ddim_table
        >>> table = ddim_table(np.array([2.0, 1.0]), eta=1.0, final="keep")
        >>> _, spread = affine_law(
        ...     table, np.zeros(1), np.zeros((1, 1)),
        ...     start_mean=np.zeros(1), start_covariance=np.array([[4.0]]))
        >>> print(spread)  # data in one point: exact
        [[1.]]
    """
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    checks.shape("mean", mean, (None,))
    dim = mean.shape[0]
    checks.shape("covariance", covariance, (dim, dim))
    checks.shape("start_mean", start_mean, (dim,))
    checks.shape("start_covariance", start_covariance, (dim, dim))
    eye, kept = np.eye(dim), 3
    size = dim * (kept + 1)
    law_mean, law = np.zeros(size), np.zeros((size, size))
    law_mean[:dim], law[:dim, :dim] = start_mean, start_covariance
    alpha = 1.0
    for n in range(table.num_steps):
        sigma = float(table.noise_scales[n])
        gain = np.linalg.solve(alpha**2 * covariance + sigma**2 * eye, alpha * covariance).T
        # The estimate comes first: D, x, D of before, D of before that, ...
        grow = np.zeros((size + dim, size))
        grow[:dim, :dim], grow[dim:] = gain, np.eye(size)
        shift = np.concatenate([mean - alpha * gain @ mean, np.zeros(size)])
        change = np.zeros(kept + 1)
        if table.corrector is not None and n:
            change = np.asarray(table.corrector[n - 1], np.float64).copy()
            change[1:] -= table.predictor[n - 1]
            change = change * float(table.alphas[n - 1])
        decay, next_alpha = float(table.decay[n]), float(table.alphas[n])
        weights = decay * change
        weights[:kept] += next_alpha * np.asarray(table.predictor[n], np.float64)
        mix = np.zeros((size, size + dim))
        mix[:dim] = np.kron(np.insert(weights, 1, decay), eye)
        mix[dim : 2 * dim, :dim] = eye
        mix[2 * dim :, 2 * dim : -dim] = np.eye(size - 2 * dim)
        step = mix @ grow
        law_mean = step @ law_mean + mix @ shift
        law = step @ law @ step.T
        if table.spread is not None:
            law[:dim, :dim] += float(table.spread[n]) ** 2 * eye
        alpha = next_alpha
    return law_mean[:dim], law[:dim, :dim]
