r"""Gaussians and their mixtures: closed under Gaussian noising.

$$p_s(x) = \sum_k w_k\,\mathcal N(x;\,m_k,\,C_k + s^2 I)$$

Each covariance is diagonalised once, $C_k = U_k\,\mathrm{diag}(\lambda_k)\,U_k^\top$; adding noise
then only adds $s^2$ to $\lambda_k$, also when every row has its own noise scale.

>>> import jax.numpy as jnp
>>> from probjax import targets
>>> target = targets.gaussian([1.0, -2.0], [[2.0, 0.9], [0.9, 1.0]])
>>> print(target.score(jnp.array([1.0, -2.0])) == 0)
[ True  True]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks, logspace
from probjax.targets.record import Numbers, Target, lift, prepare, sampler

_EXACT = jax.lax.Precision.HIGHEST


def gaussian(mean: Numbers, covariance: Numbers) -> Target:
    r"""Return a correlated Gaussian.

    $$p_s(x) = \mathcal N(x;\,\text{mean},\,\text{covariance} + s^2 I), \qquad
    \nabla\log p_s(x) = -(\text{covariance} + s^2 I)^{-1}(x - \text{mean})$$

    Args:
        mean: concrete numbers `(d,)`.
        covariance: symmetric positive definite, `(d, d)`.

    Returns:
        The target.

    Raises:
        ValueError: the shapes do not fit, or `covariance` is not symmetric positive definite.

    Example:
        >>> import jax.numpy as jnp
        >>> target = gaussian([0.0], [[4.0]])
        >>> print(target.score(jnp.array([2.0])), target.score(jnp.array([2.0]), 2.0))
        [-0.5] [-0.25]
    """
    center, matrix = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    checks.shape("mean", center, (None,))
    checks.shape("covariance", matrix, (center.size, center.size))
    return gaussian_mixture(center[None], matrix[None], [1.0])


def gaussian_mixture(means: Numbers, covariances_or_scales: Numbers, weights: Numbers) -> Target:
    r"""Return a mixture of K Gaussians.

    $$p_s(x) = \sum_k w_k\,\mathcal N(x;\,m_k,\,C_k + s^2 I), \qquad
    \nabla\log p_s(x) = -\sum_k r_k(x)\,(C_k + s^2 I)^{-1}(x - m_k),$$

    with responsibilities $r_k(x) = w_k\mathcal N_k(x)/p_s(x)$ computed in log space, so rows far
    from every component are exact too. Memory is $O(BKd)$.

    Args:
        means: concrete numbers `(K, d)`.
        covariances_or_scales: covariances `(K, d, d)`, or standard deviations: one number, `(K,)`
            (round components) or `(K, d)` (one for each axis).
        weights: positive numbers `(K,)` that sum to one.

    Returns:
        The target.

    Raises:
        ValueError: shapes do not fit, weights are not positive or do not sum to one, scales are
            not positive, or a covariance is not symmetric positive definite.

    Example:
        >>> import jax.numpy as jnp
        >>> target = gaussian_mixture([[-1.0], [3.0]], 1.0, [0.25, 0.75])
        >>> print(target.score(jnp.array([[-50.0], [50.0]])))
        [[ 49.]
         [-47.]]
    """
    means = np.asarray(means, np.float64)
    checks.shape("means", means, (None, None))
    num_components, dim = means.shape
    weights = np.asarray(weights, np.float64)
    checks.shape("weights", weights, (num_components,))
    checks.positive("weights", weights)
    if abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights must sum to one, got a sum of {weights.sum()}")
    spectra, rotations = _spectra(np.asarray(covariances_or_scales, np.float64), means.shape)
    log_weights = np.log(weights / weights.sum())

    def components(
        x: Float[Array, "*batch dim"], variance: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k dim"]]:
        """Log of each weighted component, and `(C_k + s^2 I)^{-1} (x - m_k)` in its own axes."""
        ndim = x.ndim + 1
        centered = x[..., None, :] - lift(means, ndim, x.dtype)
        if rotations is not None:
            axes = jnp.asarray(rotations, x.dtype)
            centered = jnp.einsum("...kd,kde->...ke", centered, axes, precision=_EXACT)
        total = lift(spectra, ndim, x.dtype) + variance[..., None, None]
        whitened = centered / total
        exponents = jnp.sum(centered * whitened + jnp.log(2 * np.pi * total), axis=-1)
        return lift(log_weights, ndim - 1, x.dtype) - 0.5 * exponents, whitened

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        return logspace.logsumexp(components(*prepare(x, noise_scale, dim))[0])

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        logs, whitened = components(*prepare(x, noise_scale, dim))
        pulls = jax.nn.softmax(logs, axis=-1)[..., None] * whitened
        if rotations is None:
            return -jnp.sum(pulls, axis=-2).astype(x.dtype)
        axes = jnp.asarray(rotations, pulls.dtype)
        total = jnp.einsum("...ke,kde->...d", pulls, axes, precision=_EXACT)
        return -total.astype(x.dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, " dim"]:
        which_key, normal_key = jax.random.split(key)
        k = jax.random.categorical(which_key, jnp.asarray(log_weights, dtype))
        offset = jnp.sqrt(jnp.asarray(spectra, dtype)[k]) * jax.random.normal(
            normal_key, (dim,), dtype
        )
        if rotations is not None:
            offset = jnp.matmul(jnp.asarray(rotations, dtype)[k], offset, precision=_EXACT)
        return jnp.asarray(means, dtype)[k] + offset

    return Target(dim, log_density, score, sampler(draw, dim))


def eight_gaussians() -> Target:
    r"""Return eight equal Gaussians on a circle.

    $$m_k = \tfrac{4}{\sqrt2}\,(\cos\tfrac{k\pi}4,\ \sin\tfrac{k\pi}4), \qquad
    C_k = \big(\tfrac{0.5}{\sqrt2}\big)^2 I, \qquad w_k = \tfrac18$$

    Returns:
        The target, in two dimensions.

    Example:
        >>> import jax.numpy as jnp
        >>> target = eight_gaussians()
        >>> float(jnp.linalg.norm(target.score(jnp.zeros(2)))) < 1e-5
        True
    """
    angles = np.arange(8) * np.pi / 4
    means = 4 / np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return gaussian_mixture(means, 0.5 / np.sqrt(2), np.full(8, 1 / 8))


def two_modes() -> Target:
    r"""Return two round Gaussians so far apart that plain Langevin dynamics never crosses.

    $$p(x) = 0.2\,\mathcal N(x;\,(-5,-5),\,I) + 0.8\,\mathcal N(x;\,(5,5),\,I)$$

    Returns:
        The target, in two dimensions.

    References:
        Song and Ermon (2019), Generative modeling by estimating gradients of the data
        distribution.

    Example:
        >>> import jax
        >>> draws = two_modes().sample(jax.random.key(0), 1000)
        >>> abs(float((draws[:, 0] > 0).mean()) - 0.8) < 0.05
        True
    """
    return gaussian_mixture([[-5.0, -5.0], [5.0, 5.0]], 1.0, [0.2, 0.8])


def _spectra(given: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Variances `(K, d)` along each component's axes, and the axes if they are rotated."""
    num_components, dim = shape
    if given.ndim < 3:
        checks.positive("scales", given)
        if given.shape not in ((), (num_components,), shape):
            raise ValueError(
                f"scales must be one number or have shape ({num_components},) or {shape}, "
                f"got {given.shape}"
            )
        columns = given[:, None] if given.ndim == 1 else given
        return np.broadcast_to(columns, shape) ** 2, None
    checks.shape("covariances", given, (num_components, dim, dim))
    if not np.allclose(given, np.swapaxes(given, -1, -2), rtol=1e-6, atol=0):
        raise ValueError("covariances must be symmetric")
    spectra, rotations = np.linalg.eigh(given)
    smallest = spectra.min(axis=-1)
    if not (smallest > 0).all():
        k = int(np.argmin(smallest))
        raise ValueError(
            f"covariances[{k}] must be positive definite, got smallest eigenvalue {smallest[k]}"
        )
    return spectra, rotations
