r"""Fisher divergence: how far one score is from another.

>>> import jax, jax.numpy as jnp
>>> from probjax import metrics
>>> x = jax.random.normal(jax.random.key(0), (100, 2))
>>> result = metrics.fisher_divergence(lambda x: 1 - x, lambda x: -x, x)
>>> float(result.value), float(result.standard_error)
(1.0000, 0.0000)
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.metrics.estimate import Estimate


def fisher_divergence(
    score_fn: Callable[[Array], Array],
    true_score_fn: Callable[[Array], Array],
    x: Float[Array, "n *event"],
) -> Estimate:
    r"""Estimate half the mean squared distance between two scores under the law of `x`.

    $$J = E\,\tfrac12\Vert\text{score\_fn}(x) - \text{true\_score\_fn}(x)\Vert^2$$

    the objective that explicit score matching minimises; many texts leave out the one half.

    Args:
        score_fn: row-wise, `(n, *event)` to `(n, *event)`.
        true_score_fn: the exact score, row-wise.
        x: exact draws, `(n, *event)`.

    Returns:
        The mean over rows and its standard error.

    Raises:
        ValueError: there are fewer than two rows, or a score has another shape than `x`.

    References:
        Hyvärinen (2005), Estimation of non-normalized statistical models by score matching.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0], [3.0]])
        >>> result = fisher_divergence(lambda x: -2 * x, lambda x: -x, x)
        >>> float(result.value), float(result.standard_error)
        (2.5, 2.0)
    """
    rows = checks.at_least("the number of rows of x", x.shape[0], 2)
    score, truth = score_fn(x), true_score_fn(x)
    checks.same_shape("score_fn(x)", score, "x", x)
    checks.same_shape("true_score_fn(x)", truth, "x", x)
    losses = 0.5 * jnp.sum(((score - truth) ** 2).reshape(rows, -1), axis=1)
    return Estimate(jnp.mean(losses), jnp.std(losses, ddof=1) / rows**0.5)
