"""Periodic features of a noise level, the input by which a denoiser knows how noisy its data is.

>>> import jax.numpy as jnp
>>> from probjax.networks import noise_features
>>> noise_features(jnp.zeros(3), num_features=8).shape
(3, 8)
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks


def noise_features(
    c_noise: Float[Array, "*batch"], *, num_features: int = 32, max_frequency: float = 32.0
) -> Float[Array, "*batch features"]:
    r"""Cosines and sines of a noise level at geometrically spaced frequencies.

    $$\big(\cos(f_k\,c\_noise),\ \sin(f_k\,c\_noise)\big),\qquad
      f_k = max\_frequency^{\,k/(n-1)},\quad k=0,\dots,n-1,\quad n=num\_features/2$$

    Args:
        c_noise: levels, for EDM $\tfrac14\ln(noise\_scale)$.
        num_features: even number of features.
        max_frequency: the highest frequency; the lowest is 1.

    Returns:
        Features, one row for each level.

    Raises:
        ValueError: `num_features` is odd or below 4.

    Example:
        >>> import jax.numpy as jnp
        >>> print(noise_features(jnp.zeros(1), num_features=4))
        [[1. 1. 0. 0.]]

    References:
        Vaswani et al. (2017) for the form; Karras et al. (2022) for its use on noise levels.
    """
    checks.at_least("num_features", num_features, 4)
    if num_features % 2:
        raise ValueError(f"num_features must be even, got {num_features}")
    half = num_features // 2
    steps = jnp.arange(half, dtype=c_noise.dtype) * (math.log(max_frequency) / (half - 1))
    frequencies = jnp.exp(steps).reshape((1,) * c_noise.ndim + (half,))
    angles = c_noise[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
