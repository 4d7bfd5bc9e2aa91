r"""Rings: circles blurred by a Gaussian.

>>> import jax.numpy as jnp
>>> from probjax import targets
>>> print(targets.rings().score(jnp.zeros(2), 0.3))
[0. 0.]
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks, logspace
from probjax.targets.record import Target, lift, prepare, sampler

_LOG_TWO_PI = float(np.log(2 * np.pi))


def rings(*, radii: Sequence[float] = (3.0, 2.25, 1.5, 0.75), scale: float = 0.08) -> Target:
    r"""Return equally likely concentric rings in the plane.

    A point is uniform on a circle of radius $R$, plus a round Gaussian of variance `scale`$^2$.
    With $\tau^2 = \text{scale}^2 + s^2$, $r=\Vert x\Vert$ and $\kappa = rR/\tau^2$, integrating
    out the angle gives Bessel functions, used in their scaled form $I_\nu e^{-\kappa}$:

    $$p_s(x) = \frac1K\sum_{R}\frac{1}{2\pi\tau^2}\,e^{-(r-R)^2/2\tau^2}\,
    \big[e^{-\kappa}I_0(\kappa)\big], \qquad
    \nabla\log p_s(x) = \frac{x}{\tau^2}\sum_R r_R(x)\Big[\frac{R^2}{\tau^2}
    \frac{I_1(\kappa)}{\kappa\,I_0(\kappa)} - 1\Big],$$

    where $r_R(x)$ is the posterior probability of ring $R$.

    Args:
        radii: the circles' radii.
        scale: standard deviation of the blur.

    Returns:
        The target, in two dimensions.

    Raises:
        ValueError: a radius or the scale is not positive, or there is no radius.

    Example:
        >>> import jax.numpy as jnp
        >>> target = rings(radii=[2.0], scale=0.5)
        >>> target.score(jnp.array([[100.0, 0.0], [1.0, 0.0]]))[:, 0].tolist()
        [-392.0..., 3.48...]
    """
    circles = np.asarray(radii, np.float64)
    checks.shape("radii", circles, (None,))
    checks.at_least("the number of radii", circles.size, 1)
    checks.positive("radii", circles)
    checks.positive("scale", scale)

    def components(x: Array, variance: Array) -> tuple[Array, Array, Array]:
        """Log of each weighted ring, the radial factor of its score, and the total variance."""
        total = (variance + scale * scale)[..., None]
        squares = jnp.sum(x * x, axis=-1, keepdims=True)
        # At the centre the derivative in x is zero; that of the square root is infinite.
        radius = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        radii_ = lift(circles, x.ndim, x.dtype)
        kappa = radius * radii_ / total
        logs = jnp.log(i0e(kappa)) - 0.5 * (radius - radii_) ** 2 / total
        logs = logs - jnp.log(total) - _LOG_TWO_PI - float(np.log(circles.size))
        small = kappa < 1e-3
        kappa_safe = jnp.where(small, 1, kappa)
        ratio = jnp.where(
            small, 0.5 - kappa**2 / 16, i1e(kappa_safe) / (kappa_safe * i0e(kappa_safe))
        )
        return logs, radii_**2 / total * ratio - 1, total

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        return logspace.logsumexp(components(*prepare(x, noise_scale, 2))[0])

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        rows, variance = prepare(x, noise_scale, 2)
        logs, radial, total = components(rows, variance)
        factor = jnp.sum(jax.nn.softmax(logs, axis=-1) * radial, axis=-1, keepdims=True) / total
        return (rows * factor).astype(x.dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, "2"]:
        which_key, angle_key, normal_key = jax.random.split(key, 3)
        radius = jnp.asarray(circles, dtype)[jax.random.randint(which_key, (), 0, circles.size)]
        angle = 2 * np.pi * jax.random.uniform(angle_key, (), dtype)
        blur = scale * jax.random.normal(normal_key, (2,), dtype)
        return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)]) + blur

    return Target(2, log_density, score, sampler(draw, 2))
