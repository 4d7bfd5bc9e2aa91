r"""Models whose score-matching estimate is the solution of a linear system.

The implicit objective is quadratic in the parameters of an exponential family, so its minimiser
needs neither a normalising constant nor an optimiser:

>>> import jax, jax.numpy as jnp
>>> from probjax.score.closed_forms import exponential_family_sm, gaussian_sm
>>> x = 1.0 + 2.0 * jax.random.normal(jax.random.key(0), (4096, 1))
>>> fit = gaussian_sm(x)
>>> theta = exponential_family_sm(lambda y: jnp.concatenate([y, y**2], axis=-1), x)
>>> print(bool(jnp.allclose(theta[1], -0.5 / fit.covariance[0, 0], rtol=1e-4)))
True
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks, rows


class GaussianFit(NamedTuple):
    """The normal density of least implicit objective."""

    mean: Float[Array, " d"]
    """The sample mean."""
    covariance: Float[Array, "d d"]
    """The sample covariance with divisor `n`."""
    precision: Float[Array, "d d"]
    """Its inverse; NaN where the covariance is singular."""


def gaussian_sm(x: Float[Array, "n d"]) -> GaussianFit:
    r"""Fit a normal density by score matching, in closed form.

    $$s(y)=-P(y-m):\qquad m=\frac1n\sum_i x_i,\qquad
      P^{-1}=\frac1n\sum_i(x_i-m)(x_i-m)^\top$$

    the same as maximum likelihood. The score is `-(y - mean) @ precision`.

    Args:
        x: examples, `(n, d)`.

    Returns:
        `GaussianFit`. A singular covariance (fewer than `d + 1` rows, repeated or constant
        columns) has a precision of NaN: the objective then has no lower bound. Without rows all
        is NaN.

    Raises:
        TypeError: `x` is not floating.

    Example:
        >>> fit = gaussian_sm(jnp.array([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]]))
        >>> print(fit.mean, fit.covariance[0, 0])
        [1. 2.] 0.6666667

    References:
        Hyvärinen 2005, *Estimation of non-normalized statistical models by score matching*,
        section 3.1.
    """
    x = rows.working("x", x, event_ndim=1)
    num_rows, dim = x.shape
    mean = jnp.sum(x, axis=0) / num_rows if num_rows else jnp.full((dim,), jnp.nan, x.dtype)
    centred = x - mean[None]
    covariance = centred.T @ centred / (num_rows or jnp.nan)
    precision = _solve(covariance, jnp.eye(dim, dtype=x.dtype))
    return GaussianFit(mean, covariance, 0.5 * (precision + precision.T))


def exponential_family_sm(
    stats_fn: Callable[[Float[Array, "n d"]], Float[Array, "n k"]], x: Float[Array, "n d"]
) -> Float[Array, " k"]:
    r"""Fit $p(y)\propto\exp(\theta^\top T(y))$ by score matching, in closed form.

    $$\theta = -G^{-1}h,\qquad
      G_{ab}=\frac1n\sum_i\nabla T_a(x_i)\cdot\nabla T_b(x_i),\qquad
      h_a=\frac1n\sum_i\Delta T_a(x_i)$$

    with $T=stats\_fn$. Both are averages of derivatives of the statistics, taken forward along
    one coordinate at a time.

    Args:
        stats_fn: $T$, row-wise, `(n, d)` to `(n, k)`; the density must vanish at the boundary.
        x: examples, `(n, d)`.

    Returns:
        $\theta$, `(k,)`; NaN where $G$ is singular: statistics that depend on one another, or
        constant ones, or too few rows.

    Raises:
        ValueError: `stats_fn(x)` is not of shape `(n, k)`.
        TypeError: `x` is not floating.

    Example:
        >>> x = jnp.array([[-1.0], [0.0], [1.0]])  # of variance 2/3
        >>> theta = exponential_family_sm(lambda y: y**2, x)
        >>> print(f"{theta[0]:.3f}")  # -1 / (2 variance)
        -0.750

    References:
        Hyvärinen 2007, *Some extensions of score matching*, section 4.
    """
    x = rows.working("x", x, event_ndim=1)
    num_rows, dim = x.shape
    checks.shape("stats_fn(x)", jax.eval_shape(stats_fn, x), (num_rows, None))
    gram = laplace = None
    for axis in range(dim):
        along = jnp.zeros_like(x).at[:, axis].set(1)

        def slope(at: Float[Array, "n d"], along: Array = along) -> Float[Array, "n k"]:
            return jax.jvp(stats_fn, (at,), (along,))[1]

        first, second = jax.jvp(slope, (x,), (along,))
        products, bends = first.T @ first, jnp.sum(second, axis=0)
        gram = products if gram is None else gram + products
        laplace = bends if laplace is None else laplace + bends
    return -_solve(gram, laplace[:, None])[:, 0]


def _solve(matrix: Float[Array, "k k"], right: Float[Array, "k m"]) -> Float[Array, "k m"]:
    """Solve with a positive definite matrix; NaN where it is singular to rounding.

    The test is made on the matrix scaled to a unit diagonal: columns in other units are no
    reason to refuse.
    """
    scale = jnp.sqrt(jnp.diagonal(matrix))
    scaled = matrix / (scale[:, None] * scale[None, :])
    spread = jnp.linalg.eigvalsh(scaled)
    limit = len(scale) * jnp.finfo(matrix.dtype).eps * 10
    regular = spread[0] > limit * spread[-1]
    solution = jnp.linalg.solve(scaled, right / scale[:, None]) / scale[:, None]
    return jnp.where(regular, solution, jnp.nan)
