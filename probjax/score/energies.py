r"""Energies: their score, their derivatives along a direction, and the autoencoder's energy.

A network with one output is an energy, $p(x)\propto e^{-E(x)}$. Its score is one gradient away,
and what slicing needs of it, two derivatives along one direction, takes no gradient at all:

>>> import jax, jax.numpy as jnp
>>> from probjax.score.energies import energy_second, score_from_energy
>>> energy_fn = lambda x: 0.5 * jnp.sum(x**2, axis=-1)
>>> x, v = jnp.array([[1.0, -2.0]]), jnp.array([[1.0, 1.0]])
>>> print(score_from_energy(energy_fn)(x), energy_second(energy_fn, x, v).second)
[[-1.  2.]] [2.]
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows

EnergyFn = Callable[[Float[Array, "*rows"]], Float[Array, "*batch"]]
"""Row-wise energy: rows `(*B, *event)` to one number a row, `(*B,)`."""


class EnergySecond(NamedTuple):
    """An energy and its first two derivatives along a direction, for each row."""

    value: Float[Array, "*batch"]
    """$E(x)$."""
    first: Float[Array, "*batch"]
    r"""$v\cdot\nabla E(x)$."""
    second: Float[Array, "*batch"]
    r"""$v^\top\nabla^2E(x)\,v$."""


class TiedAutoencoder(NamedTuple):
    """Parameters of an autoencoder whose decoder is its encoder transposed."""

    weights: Float[Array, "units d"]
    """$W$, one row $w_j$ for each inner unit."""
    inner_bias: Float[Array, " units"]
    """$b$."""
    outer_bias: Float[Array, " d"]
    """$c$."""


def score_from_energy(
    energy_fn: EnergyFn,
) -> Callable[[Float[Array, "*rows"]], Float[Array, "*rows"]]:
    r"""Return the score of an energy, as a row-wise function.

    $$score\_fn(x) = -\nabla_x\,energy\_fn(x)$$

    Args:
        energy_fn: row-wise, `(*B, *event)` to `(*B,)`.

    Returns:
        `score_fn`, `(*B, *event)` to the same shape: one backward pass for the whole batch.

    Example:
        >>> score_fn = score_from_energy(lambda x: jnp.sum(x**4, axis=-1) / 4)
        >>> print(score_fn(jnp.array([[1.0, -2.0]])))
        [[-1.  8.]]
    """
    gradient = jax.grad(lambda x: jnp.sum(energy_fn(x)))

    def score_fn(x: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
        return -gradient(x)

    return score_fn


def energy_second(
    energy_fn: EnergyFn, x: Float[Array, "*rows"], v: Float[Array, "*rows"]
) -> EnergySecond:
    r"""Value, slope and curvature of an energy along `v`, by forward differentiation twice.

    $$E(x),\qquad v\cdot\nabla E(x),\qquad v^\top\nabla^2E(x)\,v$$

    No backward pass over `x`: the gradient in the parameters of a loss of these three is a single
    backward pass through a program that ran forward only.

    Args:
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: points `(*B, *event)`.
        v: a direction for each row, of `x`'s shape.

    Returns:
        `EnergySecond`, three arrays `(*B,)`.

    Raises:
        ValueError: `v` has another shape than `x`.
        TypeError: `x` or `v` is not floating.

    Example:
        >>> cubic = lambda x: jnp.sum(x**3, axis=-1)
        >>> second = energy_second(cubic, jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 5.0]]))
        >>> print(second.value, second.first, second.second)
        [8.] [12.] [12.]
    """
    checks.floating("x", x)
    checks.floating("v", v)
    checks.same_shape("v", v, "x", x)
    v = v.astype(x.dtype)

    def first(at: Float[Array, "*rows"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        return jax.jvp(energy_fn, (at,), (v,))

    (value, slope), (_, curvature) = jax.jvp(first, (x,), (v,))
    return EnergySecond(value, slope, curvature)


def tied_dae_energy(
    params: TiedAutoencoder, x: Float[Array, "*batch d"], *, noise_scale: ArrayLike
) -> Float[Array, "*batch"]:
    r"""The energy whose denoising score matching is a denoising autoencoder with tied weights.

    $$E(x) = -\frac{1}{noise\_scale^2}\Big(c^\top x - \tfrac12\Vert x\Vert^2
      + \sum_j\operatorname{softplus}(w_j^\top x + b_j)\Big)$$

    Its score is $(W^\top\operatorname{sigmoid}(Wx+b)+c-x)/noise\_scale^2$, so that
    `denoising_sm` at this noise scale equals
    $\frac{1}{2\,noise\_scale^4}\Vert W^\top\operatorname{sigmoid}(W\tilde x+b)+c-x\Vert^2$ for
    each example: the error with which the autoencoder gives the clean example back.

    Args:
        params: $W$ `(units, d)`, $b$ and $c$.
        x: points `(*B, d)`.
        noise_scale: standard deviation of the noise it will be trained with, positive; a scalar
            or `(*B,)`.

    Returns:
        Energies `(*B,)`.

    Raises:
        ValueError: `noise_scale` is not positive, or a shape is wrong.

    Example:
        >>> params = TiedAutoencoder(jnp.zeros((3, 2)), jnp.zeros(3), jnp.zeros(2))
        >>> energy = tied_dae_energy(params, jnp.array([[1.0, 1.0]]), noise_scale=0.5)
        >>> print(f"{energy[0]:.4f}")  # 4 (1 - 3 log 2)
        -4.3178

    References:
        Vincent 2011, *A connection between score matching and denoising autoencoders*.
    """
    x = rows.working("x", x, event_ndim=1)
    checks.positive("noise_scale", noise_scale)
    scale = rows.per_row("noise_scale", noise_scale, x)
    variance = (scale[..., 0] if scale.ndim else scale) ** 2
    weights, inner_bias, outer_bias = (jnp.asarray(part, x.dtype) for part in params)
    inner = jnp.tensordot(x, weights.T, axes=1)
    inner = inner + jnp.broadcast_to(inner_bias, inner.shape)
    linear = jnp.tensordot(x, outer_bias, axes=1)
    total = linear - 0.5 * rows.row_sum(x**2) + rows.row_sum(jax.nn.softplus(inner))
    return -total / variance
