r"""Maximum mean discrepancy, unbiased, with its standard error.

$$\mathrm{MMD}^2 = E\,k(X, X') + E\,k(Y, Y') - 2\,E\,k(X, Y)$$

>>> import jax
>>> from probjax import metrics
>>> x = jax.random.normal(jax.random.key(0), (300, 2))
>>> shifted = metrics.mmd2(x, 1.0 + jax.random.normal(jax.random.key(1), (300, 2)))
>>> bool(shifted.value > 5 * shifted.standard_error)
True
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.core.rows import varying_like
from probjax.metrics.estimate import Estimate, check_samples

_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def mmd2(
    x: Float[Array, "n *event"],
    y: Float[Array, "m ..."],
    *,
    bandwidths: Float[Array, " k"] | None = None,
) -> Estimate:
    r"""Estimate the squared MMD of two samples under a mixture of Gaussian kernels.

    $$k(a, b) = \frac1K\sum_{j}\exp\frac{-\Vert a - b\Vert^2}{2\,\text{bandwidths}_j^2},
    \qquad \widehat{\mathrm{MMD}^2} = \frac{\sum_{i\ne j}k(x_i,x_j)}{n(n-1)}
    + \frac{\sum_{i\ne j}k(y_i,y_j)}{m(m-1)} - \frac{2\sum_{i,j}k(x_i,y_j)}{nm}$$

    A U-statistic: unbiased for fixed bandwidths, hence negative about half the time when both
    laws are equal. Memory is $O((n+m)^2)$.

    Args:
        x: rows `(n, *event)`.
        y: rows `(m, *event)`.
        bandwidths: kernel widths `(K,)`; `None` takes 1/4, 1/2, 1, 2 and 4 times the median
            distance between rows of the pooled sample.

    Returns:
        The estimate; its standard error over new samples by the jackknife (see
        `u_statistic`), too large by up to a factor $\sqrt2$ when both laws are equal.

    Raises:
        ValueError: a sample has fewer than two rows, rows differ in shape, or a bandwidth is not
            positive.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), A kernel two-sample test.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0], [2.0]])
        >>> one = mmd2(x, y, bandwidths=jnp.array([1.0]))
        >>> float(one.value)
        -0.262...
    """
    check_samples(x, y)
    rows = jnp.concatenate([x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)])
    squares = squared_distances(rows, rows)
    if bandwidths is None:
        bandwidths = _median(squares) * jnp.asarray(_FACTORS, rows.dtype)
    checks.positive("bandwidths", bandwidths)
    kernel = jnp.zeros_like(squares)
    for j in range(bandwidths.shape[0]):
        kernel = kernel + jnp.exp(-0.5 * squares / bandwidths[j].astype(squares.dtype) ** 2)
    return u_statistic(kernel / bandwidths.shape[0], x.shape[0])


def u_statistic(kernel: Float[Array, "total total"], num_first: int) -> Estimate:
    r"""Squared MMD and its jackknife error, from the kernel matrix of the pooled sample.

    With $\hat\theta_{-i}$ the estimate without row $i$ (all of them from row sums, in
    $O((n+m)^2)$ altogether),

    $$\mathrm{se}^2 = \frac{n-1}{n}\sum_{i\in x}(\hat\theta_{-i} - \bar\theta_x)^2
    + \frac{m-1}{m}\sum_{i\in y}(\hat\theta_{-i} - \bar\theta_y)^2 .$$

    Args:
        kernel: symmetric kernel matrix of the rows of x, then those of y.
        num_first: how many rows belong to x.

    Returns:
        The estimate. With two rows in a sample there is nothing to leave out: the standard error
        is `NaN`.

    Raises:
        ValueError: either sample has fewer than two rows.

    Example:
        >>> import jax.numpy as jnp
        >>> estimate = u_statistic(jnp.ones((6, 6)), 3)
        >>> float(estimate.value), float(estimate.standard_error)
        (0.0, 0.0)
    """
    total = kernel.shape[0]
    n = checks.at_least("num_first", num_first, 2)
    m = checks.at_least("the number of rows of y", total - n, 2)
    diagonal = jnp.diagonal(kernel)
    in_x, in_y = jnp.sum(kernel[:, :n], axis=1), jnp.sum(kernel[:, n:], axis=1)
    own_x, own_y = in_x[:n] - diagonal[:n], in_y[n:] - diagonal[n:]
    sum_x, sum_y, cross = jnp.sum(own_x), jnp.sum(own_y), jnp.sum(in_y[:n])
    mean_x, mean_y = sum_x / (n * (n - 1)), sum_y / (m * (m - 1))
    value = mean_x + mean_y - 2 * cross / (n * m)
    if min(n, m) < 3:
        return Estimate(value, jnp.full_like(value, jnp.nan))
    without_x = (sum_x - 2 * own_x) / ((n - 1) * (n - 2)) - 2 * (cross - in_y[:n]) / ((n - 1) * m)
    without_y = (sum_y - 2 * own_y) / ((m - 1) * (m - 2)) - 2 * (cross - in_x[n:]) / ((m - 1) * n)
    variance = (n - 1) * jnp.var(without_x) + (m - 1) * jnp.var(without_y)
    return Estimate(value, jnp.sqrt(variance))


def squared_distances(x: Float[Array, "n dim"], y: Float[Array, "m dim"]) -> Float[Array, "n m"]:
    r"""Squared Euclidean distances of all pairs, by one matrix product.

    $$\Vert x_i - y_j\Vert^2 = \Vert x_i\Vert^2 + \Vert y_j\Vert^2 - 2\,x_i\cdot y_j$$

    after moving the origin to the mean of `y`, which costs fewer digits.

    Args:
        x: rows `(n, dim)`.
        y: rows `(m, dim)`.

    Returns:
        Non-negative squared distances `(n, m)`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(squared_distances(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])))
        [[25.  1.]]
    """
    center = jnp.mean(y, axis=0, keepdims=True)
    x, y = x - center, y - center
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    sums = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    return jnp.maximum(sums - 2 * product, 0)


@jax.jit  # else its loops are compiled again at every call
def _median(squares: Array) -> Array:
    """Median distance between two different rows; 1 where more than half coincide.

    By bisection on the bits, which order non-negative numbers: a sort of all pairs costs far more.
    """
    size = squares.shape[0]
    num_pairs = size * (size - 1) // 2
    integer = jnp.int64 if squares.dtype == jnp.float64 else jnp.int32
    largest = jnp.iinfo(integer).max
    bits = jax.lax.bitcast_convert_type(squares, integer)
    bits = jnp.where(jnp.eye(size, dtype=bool), largest, bits)

    def smallest(rank: int) -> Array:
        """The entry above the diagonal with this rank, counted from 1; each stands there twice."""

        def halve(_, ends):
            low, high = ends
            middle = low + (high - low) // 2
            enough = jnp.sum(bits <= middle) >= 2 * rank
            return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

        ends = jnp.zeros((), integer), jnp.full((), largest, integer)
        ends = varying_like(ends, (bits, bits))
        low, _ = jax.lax.fori_loop(0, jnp.iinfo(integer).bits, halve, ends)
        return jax.lax.bitcast_convert_type(low, squares.dtype)

    median = jnp.sqrt((smallest((num_pairs + 1) // 2) + smallest(num_pairs // 2 + 1)) / 2)
    return jnp.where(median > 0, median, 1)
