r"""Sliced Wasserstein distance: optimal transport on random lines.

>>> import jax, jax.numpy as jnp
>>> from probjax import metrics
>>> x = jax.random.normal(jax.random.key(0), (500, 2))
>>> far = metrics.sliced_wasserstein(jax.random.key(1), x, x + jnp.array([[3.0, 4.0]]))
>>> bool(abs(far.value - 25 / 2) < 4 * far.standard_error)
True
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks, keys
from probjax.metrics.estimate import Estimate, check_samples


def sliced_wasserstein(
    key: keys.PRNGKey,
    x: Float[Array, "n *event"],
    y: Float[Array, "m ..."],
    *,
    num_projections: int = 128,
) -> Estimate:
    r"""Estimate the **squared** sliced 2-Wasserstein distance of two empirical laws.

    $$\mathrm{SW}_2^2 = E_\theta\,W_2^2(\theta\cdot x,\ \theta\cdot y),\qquad
    W_2^2 = \int_0^1\big(F_x^{-1}(u) - F_y^{-1}(u)\big)^2\,du$$

    with $\theta$ uniform on the unit sphere. The one-dimensional distance is exact, also for
    samples of different sizes: both quantile functions are step functions with known steps.

    Args:
        key: one key for the directions.
        x: rows `(n, *event)`, flattened.
        y: rows `(m, *event)`, flattened.
        num_projections: number of directions, at least 2.

    Returns:
        The mean over directions; the standard error is that of this mean **over directions**, with
        the samples held fixed. It says nothing about new samples: compare with `noise_floor`,
        since for equal laws the value is positive, of order $1/n$.

    Raises:
        ValueError: a sample has fewer than two rows, rows differ in shape, or
            `num_projections < 2`.

    References:
        Bonneel, Rabin, Peyré and Pfister (2015), Sliced and Radon Wasserstein barycenters of
        measures.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0], [2.0]])
        >>> float(sliced_wasserstein(jax.random.key(0), x, y).value)
        0.5000
    """
    check_samples(x, y)
    checks.at_least("num_projections", num_projections, 2)
    x, y = x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)
    normals = jax.random.normal(keys.stream(key, "metric"), (x.shape[1], num_projections), x.dtype)
    directions = normals / jnp.linalg.norm(normals, axis=0, keepdims=True)
    sorted_x, sorted_y = (
        jnp.sort(jnp.matmul(rows, directions, precision=jax.lax.Precision.HIGHEST), axis=0)
        for rows in (x, y)
    )
    index_x, index_y, lengths = quantile_steps(x.shape[0], y.shape[0])
    gaps = (sorted_x[index_x] - sorted_y[index_y]) ** 2
    distances = jnp.sum(jnp.asarray(lengths, x.dtype)[:, None] * gaps, axis=0)
    error = jnp.std(distances, ddof=1) / num_projections**0.5
    return Estimate(jnp.mean(distances), error)


def quantile_steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the intervals of (0, 1) on which two empirical quantile functions are constant.

    Args:
        n: size of the first sample.
        m: size of the second.

    Returns:
        For each interval: index into the first sorted sample, index into the second, length.
        The lengths sum to one.

    Example:
        >>> i, j, lengths = quantile_steps(2, 3)
        >>> i.tolist(), j.tolist(), lengths.tolist()
        ([0, 0, 1, 1], [0, 1, 1, 2], [0.3333, 0.1666, 0.1666, 0.3333])
    """
    # In units of 1 / (n m) all borders are integers.
    borders = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    starts = borders[:-1]
    return starts // m, starts // n, np.diff(borders) / (n * m)
