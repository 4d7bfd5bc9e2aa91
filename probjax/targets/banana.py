r"""The banana: a Gaussian bent along a parabola.

$$x_0\sim\mathcal N(0, a^2), \qquad x_1\mid x_0\sim\mathcal N\big(b\,(x_0^2 - a^2),\,1\big)$$

with $a = 10$ and $b = 0.03$. Bending keeps volume, so moments and density are exact.

>>> import jax.numpy as jnp
>>> from probjax import targets
>>> print(targets.banana().score(jnp.array([0.0, -2.0])))
[ 0. -1.]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks
from probjax.targets.quadrature import integrate
from probjax.targets.record import Target, is_noiseless, prepare, sampler

_LOG_TWO_PI = float(np.log(2 * np.pi))


def banana(*, curvature: float = 0.03, scale: float = 10.0) -> Target:
    r"""Return the banana in two dimensions.

    With $A = a^2 + s^2$ and $w = 1 + s^2$, noising leaves one integral over a standard normal $u$:

    $$p_s(x) = \mathcal N(x_0;\,0,\,A)\int\mathcal N(u;\,0,\,1)\;
    \mathcal N\big(x_1;\; b\,(c^2 - a^2),\; w\big)\,du, \qquad
    c = \tfrac{a^2}{A}x_0 + \tfrac{a s}{\sqrt A}u,$$

    where $c$ is the clean first coordinate given the noised one. Its score needs no division by
    $s^2$, so nothing cancels at small noise: with $r = x_1 - b(c^2 - a^2)$ and $E$ over
    $u\mid x$,

    $$\partial_0\log p_s = -\tfrac{x_0}{A} + \tfrac{a^2}{A}\,E\big[\tfrac{2bc\,r}{w}\big],
    \qquad \partial_1\log p_s = -E\big[\tfrac{r}{w}\big].$$

    Args:
        curvature: $b$, not zero or less.
        scale: $a$, the standard deviation of the first coordinate.

    Returns:
        The target. With a Python `noise_scale=0.0` it is closed; otherwise it costs about 650
        evaluations of the integrand for each row.

    Raises:
        ValueError: `curvature` or `scale` is not positive.

    References:
        Haario, Saksman and Tamminen (1999), Adaptive proposal distribution for random walk
        Metropolis algorithm.

    Example:
        >>> import jax.numpy as jnp
        >>> target = banana()
        >>> target.score(jnp.array([10.0, 1.0])).tolist()
        [0.50000, -1.0]
        >>> target.score(jnp.array([10.0, 1.0]), 1e-3).tolist()
        [0.50000, -1.0000]
    """
    checks.positive("curvature", curvature)
    checks.positive("scale", scale)
    spread = scale * scale

    def clean_terms(x: Float[Array, "*batch 2"]) -> tuple[Array, Array]:
        return x[..., 0], x[..., 1] - curvature * (x[..., 0] ** 2 - spread)

    def posterior(x: Array, variance: Array) -> tuple[Array, Array, Array, Array]:
        """Log integral, clean first coordinates, residuals and weights at the nodes."""
        total, width = spread + variance, 1 + variance
        mean, deviation = x[..., 0] * spread / total, jnp.sqrt(spread * variance / total)
        height = x[..., 1] + curvature * spread

        def residuals(u: Array) -> tuple[Array, Array]:
            clean = mean[..., None] + deviation[..., None] * u
            return clean, height[..., None] - curvature * clean**2

        def log_integrand(u: Array) -> Array:
            r = residuals(u)[1]
            return -0.5 * (u**2 + r**2 / width[..., None])

        # The peak lies where both factors rise or both fall: between the mean and the parabola,
        # and no further than the steepest pull of the second factor can drag it.
        reach = jnp.maximum(jnp.abs(mean), jnp.sqrt(jnp.maximum(height, 0) / curvature))
        steepest = 2 * curvature * reach * (jnp.abs(height) + curvature * reach**2) / width
        side = jnp.minimum(
            (reach + jnp.abs(mean)) / jnp.maximum(deviation, 1e-6), deviation * steepest
        )
        side = side + 10
        log_mass, u, weights = integrate(log_integrand, -side, side)
        clean, r = residuals(u)
        return log_mass - 0.5 * (jnp.log(width) + 2 * _LOG_TWO_PI), clean, r, weights

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        x, variance = prepare(x, noise_scale, 2)
        if is_noiseless(noise_scale):
            first, residual = clean_terms(x)
            quadratic = first**2 / spread + residual**2
            return -0.5 * quadratic - _LOG_TWO_PI - float(np.log(scale))
        total = spread + variance
        first = -0.5 * (x[..., 0] ** 2 / total + jnp.log(total) + _LOG_TWO_PI)
        return first + posterior(x, variance)[0]

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        dtype = x.dtype
        x, variance = prepare(x, noise_scale, 2)
        if is_noiseless(noise_scale):
            first, residual = clean_terms(x)
            along = -first / spread + 2 * curvature * first * residual
            return jnp.stack([along, -residual], axis=-1).astype(dtype)
        total, width = spread + variance, 1 + variance
        _, clean, r, weights = posterior(x, variance)
        pull = jnp.sum(weights * 2 * curvature * clean * r, axis=-1) / width
        along = (-x[..., 0] + spread * pull) / total
        return jnp.stack([along, -jnp.sum(weights * r, axis=-1) / width], axis=-1).astype(dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, "2"]:
        z = jax.random.normal(key, (2,), dtype)
        first = scale * z[0]
        return jnp.stack([first, curvature * (first**2 - spread) + z[1]])

    return Target(2, log_density, score, sampler(draw, 2))
