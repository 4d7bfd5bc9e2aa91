r"""One-dimensional integrals of positive functions, found and summed in log space.

A noised banana or funnel is an integral over one latent number $u$,

$$Z = \int e^{f(u)}\,du,$$

whose integrand may be a peak anywhere in a wide interval, thousands of times narrower than it.
The interval is narrowed a few times to where $f$ is near its maximum; there the trapezoid rule,
which converges exponentially for smooth integrands that vanish at both ends, finishes.

>>> import jax.numpy as jnp
>>> f = lambda u: -0.5 * ((u - 3.0) / 0.01) ** 2
>>> log_mass, _, _ = integrate(f, jnp.array(-100.0), jnp.array(100.0))
>>> float(jnp.exp(log_mass))
0.025066...
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import logspace

_NUM_ZOOMS = 3
_ZOOM_NODES = 129
_NODES = 257
# What lies exp(-45) = 3e-20 below the peak is lost in float64's rounding.
_DROP = 45.0


def integrate(
    log_integrand: Callable[[Array], Array],
    low: Float[Array, "*batch"],
    high: Float[Array, "*batch"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch nodes"], Float[Array, "*batch nodes"]]:
    r"""Integrate $e^{f}$ over `[low, high]`, row by row.

    $$\log Z = \log\sum_i e^{f(u_i)}\,h, \qquad \pi_i = \frac{e^{f(u_i)}}{\sum_j e^{f(u_j)}}$$

    so that $E[g(u)] = \sum_i \pi_i\,g(u_i)$ under the density $e^f/Z$. Exact to rounding for an
    analytic $f$ with one narrow peak, or several whose distance is at most a hundred times
    their width. Gradients flow through `log_integrand`, not through the choice of nodes.

    Args:
        log_integrand: $f$, from nodes `(*B, N)` to values `(*B, N)`; $-\infty$ is allowed.
        low: where the integrand has died out on the left, `(*B,)`.
        high: the same on the right.

    Returns:
        $\log Z$ of shape `(*B,)`, the nodes $u$ `(*B, N)` and their weights $\pi$ `(*B, N)`.
        Where $f=-\infty$ at every node the weights are equal.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.array(1.0)
        >>> _, u, weights = integrate(lambda u: -0.5 * (u - 2.0) ** 2, -20 * one, 20 * one)
        >>> float(jnp.sum(weights * u)), float(jnp.sum(weights * u**2))
        (2.00000, 5.00000)
    """
    low, high = jax.lax.stop_gradient((low, high))
    for _ in range(_NUM_ZOOMS):
        nodes = _grid(low, high, _ZOOM_NODES)
        values = jax.lax.stop_gradient(log_integrand(nodes))
        kept = values > jnp.max(values, axis=-1, keepdims=True) - _DROP
        last = _ZOOM_NODES - 1
        first_kept = jnp.argmax(kept, axis=-1)
        last_kept = last - jnp.argmax(kept[..., ::-1], axis=-1)
        # One node further on each side: the peak may lie between a kept and a dropped node.
        low = _pick(nodes, jnp.maximum(first_kept - 1, 0))
        high = _pick(nodes, jnp.minimum(last_kept + 1, last))
    nodes = _grid(low, high, _NODES)
    values = log_integrand(nodes)
    log_sum = logspace.logsumexp(values)
    dead = jnp.isneginf(log_sum)[..., None]
    shift = jnp.where(dead, 0.0, log_sum[..., None])
    weights = jnp.where(dead, 1 / _NODES, jnp.exp(jnp.where(dead, 0.0, values) - shift))
    return log_sum + jnp.log((high - low) / (_NODES - 1)), nodes, weights


def _grid(low: Array, high: Array, number: int) -> Array:
    """`number` equally spaced nodes on a new last axis."""
    fractions = np.linspace(0, 1, number).reshape((1,) * low.ndim + (number,))
    return low[..., None] + (high - low)[..., None] * jnp.asarray(fractions, low.dtype)


def _pick(nodes: Array, index: Array) -> Array:
    """One node for each row."""
    return jnp.take_along_axis(nodes, index[..., None], axis=-1)[..., 0]
