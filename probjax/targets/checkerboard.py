r"""The checkerboard: eight squares of side 2 on $[-4, 4]^2$.

Its density is flat with sharp edges, so it has no score until noise has been added:

>>> import jax, jax.numpy as jnp
>>> from probjax import targets
>>> target = targets.checkerboard()
>>> target.score(jnp.zeros(2))
Traceback (most recent call last):
ValueError: noise_scale must be positive: the checkerboard has no score at its edges, got 0.0
>>> bool(jnp.all(jnp.abs(jax.jit(target.score)(jnp.zeros(2), 0.3)) < 1e-6))
True
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks, logspace
from probjax.targets.boxes import noised_interval
from probjax.targets.record import Target, is_noiseless, lift, prepare, sampler

_SIDE = 2.0
# Columns at -4, -2, 0, 2; in every other column the two squares are one side higher.
_CORNERS = np.array([(_SIDE * i, _SIDE * (j + i % 2)) for i in (-2, -1, 0, 1) for j in (-2, 0)])


def checkerboard(*, scale: float = 0.0) -> Target:
    r"""Return the checkerboard, sharp or already blurred.

    A product of two noised intervals for each of the eight squares with lower left corner $c$,
    $\tau^2 = \text{scale}^2 + s^2$:

    $$p_s(x) = \frac18\sum_c\prod_{i=0}^1\frac{1}{2}
    \Big[\Phi\big(\tfrac{c_i + 2 - x_i}{\tau}\big) - \Phi\big(\tfrac{c_i - x_i}{\tau}\big)\Big]$$

    Args:
        scale: standard deviation of a blur that is part of the target. With `scale=0.0` the
            squares are sharp, and log density and score demand a positive `noise_scale`.

    Returns:
        The target, in two dimensions. A traced noise scale of zero gives `NaN`.

    Raises:
        ValueError: `scale` is negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_density = jax.jit(checkerboard().log_density)
        >>> print(32 * jnp.exp(log_density(jnp.array([[1.0, 1.0], [1.0, 3.0]]), 0.1)))
        [0. 1.]
    """
    checks.non_negative("scale", scale)

    def components(x: Array, noise_scale: ArrayLike) -> tuple[Array, Array]:
        """Log of each weighted square `(*B, 8)` and its score `(*B, 8, 2)`."""
        if scale == 0 and (is_noiseless(noise_scale) or _has_zero(noise_scale)):
            raise ValueError(
                "noise_scale must be positive: the checkerboard has no score at its edges, "
                f"got {noise_scale}"
            )
        x, variance = prepare(x, noise_scale, 2)
        shape = (*x.shape[:-1], *_CORNERS.shape)
        points = jnp.broadcast_to(x[..., None, :], shape)
        left = jnp.broadcast_to(lift(_CORNERS, len(shape), x.dtype), shape)
        total = variance + scale * scale
        total = jnp.sqrt(jnp.where(total > 0, total, jnp.nan))[..., None, None]
        logs, slopes = noised_interval(points, left, _SIDE, jnp.broadcast_to(total, shape))
        return jnp.sum(logs, axis=-1) - float(np.log(len(_CORNERS))), slopes

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        return logspace.logsumexp(components(x, noise_scale)[0])

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        logs, slopes = components(x, noise_scale)
        shares = jax.nn.softmax(logs, axis=-1)[..., None]
        return jnp.sum(shares * slopes, axis=-2).astype(x.dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, "2"]:
        which_key, place_key, normal_key = jax.random.split(key, 3)
        corner = jnp.asarray(_CORNERS, dtype)[jax.random.randint(which_key, (), 0, len(_CORNERS))]
        point = corner + _SIDE * jax.random.uniform(place_key, (2,), dtype)
        return point + scale * jax.random.normal(normal_key, (2,), dtype)

    return Target(2, log_density, score, sampler(draw, 2))


def _has_zero(noise_scale: ArrayLike) -> bool:
    """Whether a concrete noise scale is zero somewhere; traced ones are not looked at."""
    return not isinstance(noise_scale, jax.core.Tracer) and bool(
        np.any(np.asarray(noise_scale) == 0)
    )
