r"""A Gaussian whose standard deviations span orders of magnitude, along its axes or across them.

$$x\sim N(0,\,Q\,\mathrm{diag}(\lambda)\,Q^\top),\qquad \lambda_i=\kappa^{\,i/(d-1)-1/2}$$

>>> from probjax import targets
>>> import jax.numpy as jnp
>>> target = targets.ill_conditioned(3, condition=100.0)
>>> print(target.score(jnp.ones(3)))  # -1 / variance, 0.1, 1 and 10
[-10.   -1.   -0.1]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks
from probjax.targets.record import Target, is_noiseless, lift, prepare, sampler

_EXACT = jax.lax.Precision.HIGHEST


def ill_conditioned(
    dim: int = 100, *, condition: float = 1000.0, rotated: bool = False, seed: int = 0
) -> Target:
    r"""Return a Gaussian with a covariance of condition number $\kappa$.

    The variances are geometric from $\kappa^{-1/2}$ to $\kappa^{1/2}$. A diagonal metric makes the
    unrotated one round; the rotated one needs a dense metric, or a sampler that needs none.

    Args:
        dim: number of coordinates $d$, at least 2.
        condition: $\kappa\ge1$, the largest variance over the smallest.
        rotated: whether $Q$ is a random rotation and not the identity.
        seed: of the rotation.

    Returns:
        The target. Unrotated it costs $O(d)$ for a row, rotated $O(d^2)$.

    Raises:
        ValueError: `dim < 2`, or `condition < 1`.

    Example:
        >>> target = ill_conditioned(5, rotated=True)
        >>> x = target.sample(jax.random.key(0), 4)
        >>> gradient = jax.vmap(jax.grad(target.log_density))(x)
        >>> bool(jnp.allclose(gradient, target.score(x), rtol=1e-4))
        True
    """
    dim = checks.at_least("dim", dim, 2)
    checks.at_least("seed", seed, 0)
    checks.positive("condition", condition)
    if condition < 1:
        raise ValueError(f"condition must be at least 1, got {condition}")
    spectrum = float(condition) ** (np.arange(dim) / (dim - 1) - 0.5)
    rotation = _rotation(dim, seed) if rotated else None

    def turned(x: Array, back: bool) -> Array:
        """The coordinates along the axes of the covariance, or back from them."""
        if rotation is None:
            return x
        matrix = jnp.asarray(rotation.T if back else rotation, x.dtype)
        return jnp.matmul(x, matrix, precision=_EXACT)

    def variances(x: Array, variance: Array, noise_scale: ArrayLike) -> Array:
        own = lift(spectrum, x.ndim, x.dtype)
        return own if is_noiseless(noise_scale) else own + variance[..., None]

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        x, variance = prepare(x, noise_scale, dim)
        total = variances(x, variance, noise_scale)
        quadratic = jnp.sum(turned(x, False) ** 2 / total, axis=-1)
        # Without noise the logarithms are constants, and their sum is zero.
        logs = 0.0 if is_noiseless(noise_scale) else jnp.sum(jnp.log(total), axis=-1)
        return -0.5 * (quadratic + logs + dim * float(np.log(2 * np.pi)))

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        rows, variance = prepare(x, noise_scale, dim)
        total = variances(rows, variance, noise_scale)
        return -turned(turned(rows, False) / total, True).astype(x.dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, " dim"]:
        deviations = jnp.asarray(np.sqrt(spectrum), dtype)
        return turned(deviations * jax.random.normal(key, (dim,), dtype), True)

    return Target(dim, log_density, score, sampler(draw, dim))


def _rotation(dim: int, seed: int) -> np.ndarray:
    """A uniformly random orthogonal matrix, whose columns are the axes."""
    q, r = np.linalg.qr(np.random.RandomState(seed).normal(size=(dim, dim)))
    return q * np.sign(np.diagonal(r))[None]
