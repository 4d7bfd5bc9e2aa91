r"""Score matching of energies by finite differences: values of the energy, and nothing else.

A derivative along one direction is a difference of energies on a line, so an objective that looks
along slices needs no differentiation with respect to `x`. The error is of second order in the
step:

>>> import jax, jax.numpy as jnp
>>> from probjax.score.finite_difference import fd_ssm
>>> from probjax.score.sliced import sliced_sm_energy
>>> energy_fn = lambda y: jnp.sum(jnp.cosh(y), axis=-1)
>>> x, key = jnp.array([[0.5, -1.0]]), jax.random.key(0)
>>> exact = sliced_sm_energy(key, energy_fn, x)
>>> for epsilon in (0.4, 0.2):
...     near = fd_ssm(jax.random.clone(key), energy_fn, x, epsilon=epsilon)
...     print(f"{(near - exact)[0]:.3f}")
-0.024
-0.006
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, row_normal, stream
from probjax.score.energies import EnergyFn
from probjax.score.sliced import draw_slices


def fd_ssm(
    key: RowKeys,
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    *,
    epsilon: ArrayLike = 0.1,
    num_slices: int = 1,
    law: str = "rademacher",
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Sliced score matching of an energy by finite differences, one value per example.

    $$\frac{1}{epsilon^2}\Big[2E - E_+ - E_- + \tfrac18(E_+-E_-)^2\Big],\qquad
      E_\pm = energy\_fn(x\pm epsilon\cdot v)$$

    averaged over the slices. It tends to `sliced_sm_energy` like $epsilon^2$. Rounding of the
    energies enters as about $10^{-7}|E|/epsilon^2$ in float32: do not take the step too small.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: examples `(*B, *event)`.
        epsilon: the step along the slice, positive, in the unit of `x`; a scalar or `(*B,)`.
        num_slices: directions for each row; one more costs two evaluations.
        law: `rademacher`, `gaussian` or `sphere`, all with $E[vv^\top]=I$.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `epsilon` is not positive, `num_slices < 1`, an unknown `law`, or `energy_fn`
            gives another shape than one number a row.

    Example:
        >>> x = jnp.array([[1.0, -2.0], [0.0, 3.0]])
        >>> fd_ssm(jax.random.key(0), lambda y: 0.5 * jnp.sum(y**2, axis=-1), x).shape
        (2,)

    References:
        Pang, Xu, Li, Song, Ermon, Zhu 2020, *Efficient learning of generative models via
        finite-difference score matching*; their slices have another norm, which rescales the
        step.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    slices = draw_slices(key, x, num_slices=num_slices, law=law, event_ndim=event_ndim)
    return fd_ssm_from_slices(energy_fn, x, slices, epsilon=epsilon, event_ndim=event_ndim)


def fd_ssm_from_slices(
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    slices: Float[Array, "slices ..."],
    *,
    epsilon: ArrayLike = 0.1,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`fd_ssm` at given slices.

    $$\frac1k\sum_{j=1}^k\frac{1}{epsilon^2}\Big[2E - E_{j+} - E_{j-}
      + \tfrac18(E_{j+}-E_{j-})^2\Big]$$

    Args:
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: examples `(*B, *event)`.
        slices: directions `(k, *B, *event)`, `k >= 1`.
        epsilon: as for `fd_ssm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: a shape is wrong, or `epsilon` is not positive.

    Example:
        >>> x, v = jnp.array([[1.0, 2.0]]), jnp.array([[[1.0, -1.0]]])
        >>> value = fd_ssm_from_slices(lambda y: 0.5 * jnp.sum(y**2, axis=-1), x, v)
        >>> print(f"{value[0]:.3f}")  # exact for a quadratic energy
        -1.500
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    upper, lower, step = _on_both_sides(energy_fn, x, slices, epsilon, event_ndim)
    middle = energy_fn(x)[None]
    bracket = (middle - upper) + (middle - lower) + (upper - lower) ** 2 / 8
    return jnp.mean(bracket / step**2, axis=0)


def fd_dsm(
    key: RowKeys,
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    *,
    noise_scale: ArrayLike,
    epsilon: ArrayLike = 0.1,
    num_slices: int = 1,
    law: str = "rademacher",
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Denoising score matching of an energy by finite differences, one value per example.

    $$\tfrac12\Big[\frac{E_- - E_+}{2\,epsilon}
      + \frac{v^\top(\tilde x-x)}{noise\_scale^2}\Big]^2,\qquad
      E_\pm = energy\_fn(\tilde x\pm epsilon\cdot v),\quad \tilde x = x + noise\_scale\cdot z$$

    averaged over the slices. Its mean over $v$ tends to `denoising_sm` like $epsilon^2$.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: clean data `(*B, *event)`.
        noise_scale: standard deviation of the noise, positive; a scalar or `(*B,)`.
        epsilon: the step along the slice, positive, small beside `noise_scale`; a scalar or
            `(*B,)`.
        num_slices: directions for each row, two evaluations each.
        law: as for `fd_ssm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `noise_scale` or `epsilon` is not positive, `num_slices < 1`, an unknown
            `law`, or a wrong shape.

    Example:
        >>> x = jnp.array([[1.0, -2.0], [0.0, 3.0]])
        >>> energy_fn = lambda y: 0.5 * jnp.sum(y**2, axis=-1)
        >>> fd_dsm(jax.random.key(0), energy_fn, x, noise_scale=0.5).shape
        (2,)

    References:
        Pang, Xu, Li, Song, Ermon, Zhu 2020, *Efficient learning of generative models via
        finite-difference score matching*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    noise = row_normal(stream(key, "noise"), x, event_ndim=event_ndim)
    slices = draw_slices(
        stream(key, "probe"), x, num_slices=num_slices, law=law, event_ndim=event_ndim
    )
    return fd_dsm_from_noise(
        energy_fn,
        x,
        noise,
        slices,
        noise_scale=noise_scale,
        epsilon=epsilon,
        event_ndim=event_ndim,
    )


def fd_dsm_from_noise(
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    slices: Float[Array, "slices ..."],
    *,
    noise_scale: ArrayLike,
    epsilon: ArrayLike = 0.1,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`fd_dsm` at given noise and slices.

    $$\frac1k\sum_{j=1}^k\tfrac12\Big[\frac{E_{j-}-E_{j+}}{2\,epsilon}
      + \frac{v_j^\top noise}{noise\_scale}\Big]^2$$

    Args:
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: clean data `(*B, *event)`.
        noise: standard normal numbers of `x`'s shape.
        slices: directions `(k, *B, *event)`, `k >= 1`.
        noise_scale: as for `fd_dsm`.
        epsilon: as for `fd_dsm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: a shape is wrong, or `noise_scale` or `epsilon` is not positive.

    Example:
        >>> x, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> energy_fn, v = lambda y: 0.5 * jnp.sum(y**2, axis=-1), jnp.array([[[1.0, -1.0]]])
        >>> value = fd_dsm_from_noise(energy_fn, x, noise, v, noise_scale=0.5)
        >>> print(f"{value[0]:.3f}")  # (0.5 - 1 - 2)^2 / 2
        3.125
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.same_shape("noise", noise, "x", x)
    checks.positive("noise_scale", noise_scale)
    noise = noise.astype(x.dtype)
    scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
    upper, lower, step = _on_both_sides(energy_fn, x + scale * noise, slices, epsilon, event_ndim)
    pull = rows.row_sum(slices.astype(x.dtype) * (noise / scale)[None], event_ndim=event_ndim)
    return 0.5 * jnp.mean(((lower - upper) / (2 * step) + pull) ** 2, axis=0)


def _on_both_sides(
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    slices: Float[Array, "slices ..."],
    epsilon: ArrayLike,
    event_ndim: int,
) -> tuple[Float[Array, "slices ..."], Float[Array, "slices ..."], Float[Array, "..."]]:
    """Energies `(k, *B)` a step up and a step down each slice, and the step that fits them."""
    checks.floating("slices", slices)
    checks.shape("slices", slices, (None, *x.shape))
    checks.at_least("number of slices", slices.shape[0], 1)
    checks.positive("epsilon", epsilon)
    step = rows.per_row("epsilon", epsilon, x, event_ndim=event_ndim)
    batch = x.shape[: x.ndim - event_ndim]

    def energy(at: Float[Array, "*rows"]) -> Float[Array, "*batch"]:
        value = energy_fn(at)
        checks.shape("energy_fn(x)", value, batch)
        return value

    away = slices.astype(x.dtype) * (step if step.ndim == 0 else step[None])
    upper, lower = jax.vmap(energy)(x[None] + away), jax.vmap(energy)(x[None] - away)
    return upper, lower, step.reshape(1, *batch) if step.ndim else step
