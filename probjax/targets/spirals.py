r"""Two spirals, wound into each other.

>>> import jax.numpy as jnp
>>> from probjax import targets
>>> target = targets.two_spirals()
>>> x = jnp.array([1.0, 2.0])
>>> print(target.score(x) + target.score(-x))
[0. 0.]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks, logspace
from probjax.targets.boxes import noised_interval
from probjax.targets.record import Target, lift, prepare, sampler

_END = 3 * np.pi
_JITTER = 0.5
_SHRINK = 1 / 3
_NUM_NODES = 384


def two_spirals(*, scale: float = 0.1) -> Target:
    r"""Return the two spirals in the plane.

    With $n = 3\pi\sqrt{u}$, all $u$'s uniform on $(0, 1)$, a fair sign and $z\sim\mathcal N(0,I)$,

    $$x = \pm\tfrac13\big(-n\cos n + \tfrac12u_1,\; n\sin n + \tfrac12u_2\big)
    + \text{scale}\cdot z .$$

    Given $n$ and the sign, each coordinate is an interval of length $\tfrac16$ plus a normal,
    which is closed; what remains is one integral over $n\in[0, 3\pi]$ with density $2n/(3\pi)^2$,
    done by Gauss-Legendre quadrature with 384 nodes (error of the default's density below 1e-10;
    a smaller `scale` needs a smoother target). Memory is about 3000 numbers for each row.

    Args:
        scale: standard deviation of the blur, at least 0.08.

    Returns:
        The target, in two dimensions.

    Raises:
        ValueError: `scale` is below 0.08, where the quadrature loses digits.

    Example:
        >>> import jax.numpy as jnp
        >>> float(jnp.exp(two_spirals().log_density(jnp.zeros(2))))
        0.0260...
    """
    if not scale >= 0.08:
        raise ValueError(f"scale must be at least 0.08, got {scale}")
    checks.positive("scale", scale)
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    angles = 0.5 * _END * (nodes + 1)
    log_weights = np.log(0.5 * weights * angles / _END)
    curve = _SHRINK * np.stack([-angles * np.cos(angles), angles * np.sin(angles)], axis=-1)
    width = _JITTER * _SHRINK
    # The left end of each interval: that of the second spiral is the mirrored right end.
    lows = np.concatenate([curve, -curve - width])
    log_weights = np.concatenate([log_weights, log_weights])

    def components(x: Array, variance: Array) -> tuple[Array, Array]:
        """Log of each weighted node `(*B, nodes)` and its score `(*B, nodes, 2)`."""
        shape = (*x.shape[:-1], *lows.shape)
        points = jnp.broadcast_to(x[..., None, :], shape)
        left = jnp.broadcast_to(lift(lows, len(shape), x.dtype), shape)
        total = jnp.sqrt(variance + scale * scale)[..., None, None]
        logs, slopes = noised_interval(points, left, width, jnp.broadcast_to(total, shape))
        return jnp.sum(logs, axis=-1) + lift(log_weights, x.ndim, x.dtype), slopes

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        return logspace.logsumexp(components(*prepare(x, noise_scale, 2))[0])

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        logs, slopes = components(*prepare(x, noise_scale, 2))
        shares = jax.nn.softmax(logs, axis=-1)[..., None]
        return jnp.sum(shares * slopes, axis=-2).astype(x.dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, "2"]:
        angle_key, jitter_key, sign_key, normal_key = jax.random.split(key, 4)
        angle = _END * jnp.sqrt(jax.random.uniform(angle_key, (), dtype))
        jitter = _JITTER * jax.random.uniform(jitter_key, (2,), dtype)
        point = jnp.stack([-angle * jnp.cos(angle), angle * jnp.sin(angle)]) + jitter
        blur = scale * jax.random.normal(normal_key, (2,), dtype)
        return _SHRINK * jax.random.rademacher(sign_key, (), dtype) * point + blur

    return Target(2, log_density, score, sampler(draw, 2))
