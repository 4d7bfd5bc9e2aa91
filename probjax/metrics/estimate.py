"""What every metric returns, and the same metric between two halves of real data.

>>> import jax
>>> from probjax import metrics
>>> real = jax.random.normal(jax.random.key(0), (200, 2))
>>> floor = metrics.noise_floor(metrics.mmd2, real, jax.random.key(1))
>>> bool(abs(floor.value) < 4 * floor.standard_error)
True
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from probjax.core import checks, keys


class Estimate(NamedTuple):
    """A number measured on samples, and how far it may be off."""

    value: Float[Array, ""] | float
    """The estimate."""
    standard_error: Float[Array, ""] | float
    """Estimated standard deviation of `value`; each metric says over what."""


def noise_floor(
    metric: Callable[[Array, Array], Estimate], real: Float[Array, "num *event"], key: keys.PRNGKey
) -> Estimate:
    r"""Measure `metric` between two random halves of the same data.

    No model can be expected to score better, and a difference that is small beside this number is
    none. The halves are half as large as the data, so the noise is that of `num / 2` rows.

    Args:
        metric: `metric(x, y)`; close over a key or options where it needs them.
        real: rows of real data, at least 4; with an odd number one row is left out.
        key: decides the halves.

    Returns:
        `metric` of the halves.

    Raises:
        ValueError: there are fewer than 4 rows.

    Example:
        >>> import jax
        >>> real = jax.random.normal(jax.random.key(0), (100, 3))
        >>> accuracy = lambda x, y: two_sample_accuracy(x, y)
        >>> from probjax.metrics import two_sample_accuracy
        >>> 0.3 < noise_floor(accuracy, real, jax.random.key(1)).value < 0.7
        True
    """
    checks.at_least("the number of rows of real", real.shape[0], 4)
    half = real.shape[0] // 2
    shuffled = real[jax.random.permutation(keys.stream(key, "metric"), real.shape[0])]
    return metric(shuffled[:half], shuffled[half : 2 * half])


def check_samples(x: Float[Array, "n *event"], y: Float[Array, "m ..."]) -> None:
    """Demand two samples of at least two rows each, with rows of one shape.

    Args:
        x: rows `(n, *event)`.
        y: rows `(m, *event)`.

    Raises:
        ValueError: they are not.

    Example:
        >>> import jax.numpy as jnp
        >>> check_samples(jnp.zeros((1, 2)), jnp.zeros((3, 2)))
        Traceback (most recent call last):
        ValueError: the number of rows of x must be at least 2, got 1
    """
    checks.at_least("the number of rows of x", x.shape[0], 2)
    checks.at_least("the number of rows of y", y.shape[0], 2)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must have rows of one shape, got {x.shape[1:]}, {y.shape[1:]}")
