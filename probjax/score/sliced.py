r"""Sliced score matching: the trace of the implicit objective, seen along random directions.

For directions $v$ with $E[vv^\top]=I$ the number $v^\top\partial s\,v$ has the trace as its mean
and costs one forward derivative, whatever the dimension:

>>> import jax, jax.numpy as jnp
>>> from probjax.score.explicit import implicit_sm
>>> from probjax.score.sliced import sliced_sm
>>> x = jax.random.normal(jax.random.key(0), (4096, 3))
>>> score_fn = lambda y: -y - 0.3 * jnp.roll(y, 1, axis=-1)
>>> gap = sliced_sm(jax.random.key(1), score_fn, x) - implicit_sm(score_fn, x)
>>> bool(abs(gap.mean()) < 4 * gap.std() / 64)
True
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key
from probjax.core.traces import divergence_hutchinson, probes
from probjax.score.denoising import ScoreFn
from probjax.score.energies import EnergyFn, energy_second


def draw_slices(
    key: RowKeys,
    x: Float[Array, "*rows"],
    *,
    num_slices: int = 1,
    law: str = "rademacher",
    event_ndim: int = 1,
) -> Float[Array, "slices ..."]:
    r"""Draw directions for each row, with $E[vv^\top]=I$ over one whole example.

    $$v\in\mathbb R^d,\qquad E[v]=0,\qquad E[vv^\top]=I,\qquad d=\text{entries of one example}$$

    Args:
        key: one key, or a key for each row, `(*B,)`.
        x: rows `(*B, *event)` that give shape and dtype.
        num_slices: directions for each row.
        law: `rademacher` (signs), `gaussian`, or `sphere` (of radius $\sqrt d$, not 1).
        event_ndim: how many trailing axes make one example.

    Returns:
        Slices `(num_slices, *B, *event)`.

    Raises:
        ValueError: `num_slices < 1`, an unknown `law`, or keys of a wrong shape.

    Example:
        >>> v = draw_slices(jax.random.key(0), jnp.zeros((5, 3)), num_slices=2, law="sphere")
        >>> v.shape, bool(jnp.allclose((v**2).sum(-1), 3.0))
        ((2, 5, 3), True)
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.at_least("num_slices", num_slices, 1)
    key = as_key(key)
    batch, event = x.shape[: x.ndim - event_ndim], x.shape[x.ndim - event_ndim :]
    dim = math.prod(event)
    if key.ndim == 0:
        flat = probes(key, (num_slices, *batch, dim), law, dtype=x.dtype)
        return flat.reshape(num_slices, *x.shape)
    if key.shape != batch:
        raise ValueError(
            f"key must be one key or keys of shape {batch}, one for each row, got {key.shape}"
        )
    draw = jax.vmap(lambda row: probes(row, (num_slices, dim), law, dtype=x.dtype), out_axes=1)
    return draw(key.reshape(math.prod(batch))).reshape(num_slices, *x.shape)


def sliced_sm(
    key: RowKeys,
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    num_slices: int = 1,
    law: str = "rademacher",
    variance_reduced: bool = True,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Sliced score matching of a score model, one value per example.

    $$v^\top\frac{\partial\,score\_fn}{\partial x}(x)\,v + \tfrac12\Vert score\_fn(x)\Vert^2
      \qquad\text{or}\qquad \dots + \tfrac12(v^\top score\_fn(x))^2$$

    averaged over `num_slices` directions of each row. The left form (`variance_reduced`) has the
    mean over $v$ of the second term in closed form; both have `implicit_sm` as their mean.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        score_fn: the model, row-wise over `(*B, *event)`.
        x: examples `(*B, *event)`.
        num_slices: directions for each row.
        law: `rademacher`, `gaussian` or `sphere`; see `draw_slices`.
        variance_reduced: take $\frac12\Vert s\Vert^2$ in place of $\frac12(v^\top s)^2$.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `num_slices < 1`, an unknown `law`, or `score_fn` changes the shape.

    Example:
        >>> x = jnp.array([[1.0, -2.0], [0.0, 3.0]])
        >>> print(sliced_sm(jax.random.key(0), lambda y: -y, x))  # for -y any signs do
        [0.5 2.5]

    References:
        Song, Garg, Shi, Ermon 2019, *Sliced score matching*. Code with unit-norm slices has the
        trace divided by `d`.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    slices = draw_slices(key, x, num_slices=num_slices, law=law, event_ndim=event_ndim)
    return sliced_sm_from_slices(
        score_fn, x, slices, variance_reduced=variance_reduced, event_ndim=event_ndim
    )


def sliced_sm_from_slices(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    slices: Float[Array, "slices ..."],
    *,
    variance_reduced: bool = True,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`sliced_sm` at given slices.

    $$\frac1k\sum_{j=1}^k v_j^\top\,\partial score\_fn(x)\,v_j
      + \tfrac12\Vert score\_fn(x)\Vert^2, \qquad v_j = slices[j]$$

    Args:
        score_fn: the model, row-wise over `(*B, *event)`.
        x: examples `(*B, *event)`.
        slices: directions `(k, *B, *event)`, `k >= 1`.
        variance_reduced: as for `sliced_sm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: a shape is wrong, or there is no slice.

    Example:
        >>> x, v = jnp.array([[1.0, 2.0]]), jnp.array([[[1.0, -1.0]]])
        >>> print(sliced_sm_from_slices(lambda y: -y, x, v, variance_reduced=False))
        [-1.5]
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.floating("slices", slices)
    slices = slices.astype(x.dtype)
    score, divergence = divergence_hutchinson(score_fn, x, slices, event_ndim=event_ndim)
    if variance_reduced:
        return divergence + 0.5 * rows.row_sum(score**2, event_ndim=event_ndim)
    along = rows.row_sum(slices * score[None], event_ndim=event_ndim)
    return divergence + 0.5 * jnp.mean(along**2, axis=0)


def sliced_sm_energy(
    key: RowKeys,
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    *,
    num_slices: int = 1,
    law: str = "rademacher",
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Sliced score matching of an energy, without any gradient with respect to `x`.

    $$-v^\top\nabla^2E(x)\,v + \tfrac12(v^\top\nabla E(x))^2$$

    averaged over the slices: two forward derivatives along `v`, by `energy_second`. The
    variance-reduced form needs $\Vert\nabla E\Vert^2$, hence the gradient: for it use
    `sliced_sm(key, score_from_energy(energy_fn), x)`.

    Args:
        key: one key, or a key for each row, `(*B,)`.
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: examples `(*B, *event)`.
        num_slices: directions for each row.
        law: as for `sliced_sm`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `num_slices < 1`, an unknown `law`, or `energy_fn` gives another shape than
            one number a row.

    Example:
        >>> x = jnp.array([[1.0, -2.0], [0.0, 3.0]])
        >>> energy_fn = lambda y: 0.5 * jnp.sum(y**2, axis=-1)
        >>> sliced_sm_energy(jax.random.key(0), energy_fn, x).shape
        (2,)

    References:
        Song, Garg, Shi, Ermon 2019, *Sliced score matching*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    slices = draw_slices(key, x, num_slices=num_slices, law=law, event_ndim=event_ndim)
    return sliced_sm_energy_from_slices(energy_fn, x, slices, event_ndim=event_ndim)


def sliced_sm_energy_from_slices(
    energy_fn: EnergyFn,
    x: Float[Array, "*rows"],
    slices: Float[Array, "slices ..."],
    *,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""`sliced_sm_energy` at given slices.

    $$\frac1k\sum_{j=1}^k\Big(-v_j^\top\nabla^2E(x)\,v_j + \tfrac12(v_j^\top\nabla E(x))^2\Big)$$

    Args:
        energy_fn: $E$, row-wise, `(*B, *event)` to `(*B,)`.
        x: examples `(*B, *event)`.
        slices: directions `(k, *B, *event)`, `k >= 1`.
        event_ndim: how many trailing axes make one example.

    Returns:
        Values `(*B,)`.

    Raises:
        ValueError: a shape is wrong, or there is no slice.

    Example:
        >>> x, v = jnp.array([[1.0, 2.0]]), jnp.array([[[1.0, -1.0]]])
        >>> print(sliced_sm_energy_from_slices(lambda y: 0.5 * jnp.sum(y**2, axis=-1), x, v))
        [-1.5]
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.floating("slices", slices)
    checks.shape("slices", slices, (None, *x.shape))
    checks.at_least("number of slices", slices.shape[0], 1)

    def value(v: Float[Array, "*rows"]) -> Float[Array, "*batch"]:
        second = energy_second(energy_fn, x, v)
        checks.shape("energy_fn(x)", second.value, x.shape[: x.ndim - event_ndim])
        return 0.5 * second.first**2 - second.second

    slices = slices.astype(x.dtype)
    if slices.shape[0] == 1:
        return value(slices[0])
    return jnp.mean(jax.vmap(value)(slices), axis=0)
