r"""Images with labels, and the step between grey levels and real numbers.

>>> import jax, jax.numpy as jnp
>>> from probjax import datasets
>>> levels = jnp.array([0.0, 0.5, 1.0])
>>> smooth = datasets.dequantise(jax.random.key(0), levels, 3)
>>> print(datasets.quantise(smooth, 3))
[0.  0.5 1. ]
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.core import checks, keys

# Keeps a draw off the borders of its level by more than float32 rounds a number below 1 when
# there are up to 1024 levels.
_MARGIN = 2.0**-12


class Images(NamedTuple):
    """Labelled images."""

    images: Float[Array, "n height width channels"]
    """Grey values in [0, 1], multiples of `1 / (levels - 1)`."""
    labels: Int[Array, " n"]
    """Classes, int32."""
    levels: int
    """Number of grey levels."""


def dequantise(
    key: keys.PRNGKey, images: Float[Array, "*shape"], levels: int
) -> Float[Array, "*shape"]:
    r"""Spread each grey level over an interval, so that a density exists.

    $$x = \frac{(\text{levels} - 1)\cdot\text{images} + u}{\text{levels}}, \qquad
    u\sim U(0, 1)$$

    Without it a density model is rewarded without bound for spikes on the levels. A log density
    $\log p(x)$ of `d` values bounds that of the levels by $\log p(x) - d\log\text{levels}$.

    Args:
        key: one key.
        images: values in [0, 1], multiples of `1 / (levels - 1)`.
        levels: number of levels, 2 to 1024.

    Returns:
        Values in (0, 1); `quantise` undoes it exactly.

    Raises:
        ValueError: `levels` is out of range.

    References:
        Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = dequantise(jax.random.key(0), jnp.ones((4, 4)), 16)
        >>> bool(((x > 15 / 16) & (x < 1)).all())
        True
    """
    _check_levels(levels)
    level = jnp.round(images * (levels - 1))
    draws = jax.random.uniform(keys.stream(key, "dequantise"), images.shape, images.dtype)
    return (level + jnp.clip(draws, _MARGIN, 1 - _MARGIN)) / levels


def quantise(x: Float[Array, "*shape"], levels: int) -> Float[Array, "*shape"]:
    r"""Round to grey levels; values outside [0, 1] go to the nearest level.

    $$\text{images} = \frac{\mathrm{clip}(\lfloor\text{levels}\cdot x\rfloor,\,0,\,
    \text{levels}-1)}{\text{levels} - 1}$$

    Args:
        x: real values.
        levels: number of levels, 2 to 1024.

    Returns:
        Multiples of `1 / (levels - 1)` in [0, 1].

    Raises:
        ValueError: `levels` is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(quantise(jnp.array([-1.0, 0.1, 0.4, 0.9, 7.0]), 3))
        [0.  0.  0.5 1.  1. ]
    """
    _check_levels(levels)
    return jnp.clip(jnp.floor(x * levels), 0, levels - 1) / (levels - 1)


def _check_levels(levels: int) -> None:
    if checks.at_least("levels", levels, 2) > 1024:
        raise ValueError(f"levels must be at most 1024, got {levels}")
