r"""The record that every target is, and what all targets share.

A target is one distribution $p$ on $\mathbb R^d$ with everything known about it: log density,
score and draws, each also after Gaussian noising, i.e. for the density

$$p_s(x) = \int p(x_0)\,\mathcal N(x;\,x_0,\,s^2 I)\,dx_0, \qquad s = \texttt{noise\_scale}.$$

>>> import jax, jax.numpy as jnp
>>> from probjax import targets
>>> target = targets.two_modes()
>>> x = jnp.array([[5.0, 5.0], [-5.0, -5.0]])
>>> print(jnp.exp(target.log_density(x)) * 2 * jnp.pi)
[0.8 0.2]
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks, keys

Numbers = ArrayLike | Sequence[Any]
"""Concrete numbers: an array, or nested lists of the shape that the docstring gives."""


class Target(NamedTuple):
    """A distribution with exact log density, exact score and exact draws."""

    dim: int
    """Number of coordinates $d$."""
    log_density: Callable[..., Array]
    """`log_density(x, noise_scale=0.0)`: `(*B, d)` to `(*B,)`, normalised."""
    score: Callable[..., Array]
    r"""`score(x, noise_scale=0.0)`: `(*B, d)` to `(*B, d)`, $\nabla_x\log p_s(x)$."""
    sample: Callable[..., Array]
    """`sample(key, num_samples, noise_scale=0.0)`: `(num_samples, d)`; row i depends on i only."""


def prepare(
    x: Float[Array, "*batch dim"], noise_scale: ArrayLike, dim: int
) -> tuple[Float[Array, "*batch dim"], Float[Array, "*batch"]]:
    """Check a target's arguments; return `x` in its working dtype and the variance of each row.

    float32 and float64 stay, narrower types are widened to float32. A traced negative noise scale
    gives `NaN`, never a plausible number.

    Args:
        x: rows `(*B, d)`.
        noise_scale: standard deviation of the added noise, a scalar or `(*B,)`.
        dim: the target's number of coordinates.

    Returns:
        `x` and `noise_scale**2`, of shape `(*B,)`, in one dtype.

    Raises:
        TypeError: `x` is not floating.
        ValueError: the shapes do not fit, or `noise_scale` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> rows, variance = prepare(jnp.zeros((3, 2)), 0.5, 2)
        >>> print(variance)
        [0.25 0.25 0.25]
    """
    checks.floating("x", x)
    if x.shape[-1] != dim:
        raise ValueError(f"x must have shape (*B, {dim}), got {x.shape}")
    batch = x.shape[:-1]
    if jnp.shape(noise_scale) not in ((), batch):
        raise ValueError(
            f"noise_scale must be a scalar or have shape {batch}, got {jnp.shape(noise_scale)}"
        )
    checks.non_negative("noise_scale", noise_scale)
    dtype = working_dtype(x)
    scale = jnp.broadcast_to(jnp.asarray(noise_scale).astype(dtype), batch)
    return x.astype(dtype), jnp.where(scale >= 0, scale * scale, jnp.nan)


def working_dtype(x: Float[Array, "..."]) -> jnp.dtype:
    """Return float64 for float64 and float32 for everything narrower.

    Args:
        x: any floating array.

    Returns:
        The dtype in which a target computes.

    Example:
        >>> import jax.numpy as jnp
        >>> working_dtype(jnp.zeros(2, jnp.bfloat16)) == jnp.float32
        True
    """
    return jnp.dtype(x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32)


def lift(array: ArrayLike, ndim: int, dtype: jnp.dtype) -> Float[Array, "..."]:
    """Return a constant as an array of `ndim` axes, new ones in front (no silent promotion).

    Args:
        array: the constant.
        ndim: number of axes wanted.
        dtype: dtype wanted.

    Returns:
        The same numbers, shape `(1, ..., 1, *array.shape)`.

    Example:
        >>> import numpy as np
        >>> lift(np.ones(3), 2, np.dtype("float32")).shape
        (1, 3)
    """
    values = jnp.asarray(array, dtype)
    return values.reshape((1,) * (ndim - values.ndim) + values.shape)


def is_noiseless(noise_scale: ArrayLike) -> bool:
    """Tell whether `noise_scale` is the Python number zero, known before tracing.

    Args:
        noise_scale: what a caller gave.

    Returns:
        True for `0` and `0.0`, false for arrays whatever they hold.

    Example:
        >>> is_noiseless(0.0), is_noiseless(0.5)
        (True, False)
    """
    return isinstance(noise_scale, int | float) and noise_scale == 0


def sampler(
    draw: Callable[[Array, jnp.dtype], Array], dim: int
) -> Callable[..., Float[Array, "num_samples dim"]]:
    """Turn a function that draws one noiseless point into a target's `sample`.

    Args:
        draw: `draw(key, dtype)` to `(dim,)`.
        dim: number of coordinates.

    Returns:
        `sample(key, num_samples, noise_scale=0.0)`. The dtype is JAX's default float; row `i`
        uses `item_key(key, i)`, so fewer or more rows change no row.

    Example:
        >>> import jax
        >>> sample = sampler(lambda key, dtype: jax.random.uniform(key, (1,), dtype), 1)
        >>> few, many = sample(jax.random.key(0), 2), sample(jax.random.key(0), 5)
        >>> bool((few == many[:2]).all())
        True
    """

    def sample(
        key: keys.PRNGKey, num_samples: int, noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "num_samples dim"]:
        dtype = jnp.dtype(jax.dtypes.canonicalize_dtype(float))
        row_keys = keys.item_keys(key, num_samples)
        clean = jax.vmap(lambda row: draw(keys.stream(row, "sample"), dtype))(row_keys)
        _, variance = prepare(clean, noise_scale, dim)
        noise = keys.row_normal(keys.stream(row_keys, "noise"), clean)
        return clean + jnp.sqrt(variance)[:, None] * noise

    return sample
