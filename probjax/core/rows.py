"""Rows: the leading axes of an array `(*B, *event)`, each one example or chain of its own.

A function over rows lets the whole batch through one matrix product and still keeps the rows
apart: what it adds up, tests or scales runs over the trailing `event_ndim` axes only.

>>> import jax.numpy as jnp
>>> from probjax.core import rows
>>> x = jnp.array([[3.0, 4.0], [jnp.nan, 0.0]])
>>> rows.row_sum(x), rows.row_finite(x)
(Array([ 7., nan], dtype=float32), Array([ True, False], dtype=bool))
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from probjax.core import checks

Tree = TypeVar("Tree")


def working(name: str, x: Float[Array, "*shape"], *, event_ndim: int) -> Float[Array, "*shape"]:
    """Return `x` in the precision to compute in: float32 at least.

    Args:
        name: the argument's name, for the messages.
        x: rows `(*B, *event)`.
        event_ndim: how many trailing axes make one row.

    Returns:
        `x`, as float32 if it came in a narrower type.

    Raises:
        TypeError: `x` is not floating.
        ValueError: `x` has fewer axes than one row.

    Example:
        >>> working("x", jnp.zeros((3, 2), jnp.bfloat16), event_ndim=1).dtype.name
        'float32'
    """
    checks.floating(name, x)
    if x.ndim < checks.at_least("event_ndim", event_ndim, 0):
        raise ValueError(f"{name} must have at least event_ndim={event_ndim} axes, got {x.shape}")
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def per_row(
    name: str, value: ArrayLike, x: Float[Array, "*shape"], *, event_ndim: int = 1
) -> Float[Array, "*ones"]:
    """Shape a number, or a number for each row, so that it multiplies `x`.

    Args:
        name: the argument's name, for the message.
        value: a scalar, or an array of shape `B`.
        x: rows `(*B, *event)`.
        event_ndim: how many trailing axes make one row.

    Returns:
        `value` in `x`'s dtype, a scalar or of shape `(*B, 1, ..., 1)`.

    Raises:
        ValueError: `value` has another shape.

    Example:
        >>> per_row("noise_scale", jnp.ones(3), jnp.zeros((3, 2))).shape
        (3, 1)
    """
    value = jnp.asarray(value, x.dtype)
    batch = x.shape[: x.ndim - event_ndim]
    if value.ndim == 0:
        return value
    if value.shape != batch:
        raise ValueError(
            f"{name} must be a scalar or have shape {batch}, one for each row, got {value.shape}"
        )
    return value.reshape(batch + (1,) * event_ndim)


def row_sum(x: Float[Array, "*shape"], *, event_ndim: int = 1) -> Float[Array, "*batch"]:
    """Sum over the axes of each row.

    Args:
        x: rows `(*B, *event)`.
        event_ndim: how many trailing axes make one row.

    Returns:
        Sums `(*B,)`.

    Example:
        >>> row_sum(jnp.ones((2, 3, 3)), event_ndim=2)
        Array([9., 9.], dtype=float32)
    """
    return jnp.sum(x, axis=tuple(range(x.ndim - event_ndim, x.ndim)))


def row_finite(x: Float[Array, "*shape"], *, event_ndim: int = 1) -> Bool[Array, "*batch"]:
    """Tell for each row whether all its entries are finite.

    Args:
        x: rows `(*B, *event)`.
        event_ndim: how many trailing axes make one row.

    Returns:
        Flags `(*B,)`.

    Example:
        >>> row_finite(jnp.array([[1.0, jnp.inf], [0.0, 1.0]]))
        Array([False,  True], dtype=bool)
    """
    return jnp.all(jnp.isfinite(x), axis=tuple(range(x.ndim - event_ndim, x.ndim)))


def select(
    flags: Bool[Array, "*batch"], x: Float[Array, "*shape"], other: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Take a row of `x` where its flag is true, of `other` where it is not.

    Args:
        flags: one for each row, `(*B,)`.
        x: rows `(*B, *event)`.
        other: rows of the same shape.

    Returns:
        Rows `(*B, *event)`.

    Example:
        >>> select(jnp.array([True, False]), jnp.ones((2, 2)), jnp.zeros((2, 2)))
        Array([[1., 1.],
               [0., 0.]], dtype=float32)
    """
    return jnp.where(flags.reshape(flags.shape + (1,) * (x.ndim - flags.ndim)), x, other)


def varying_like(tree: Tree, like: Any) -> Tree:
    """Mark the leaves of `tree` as varying over the mesh axes that those of `like` vary over.

    Inside `jax.shard_map` a loop's carry must enter with the type with which it leaves: a chain
    that starts at the same constant on every device and is moved by a device's own key needs
    this mark. Anywhere else the function returns what it is given.

    Args:
        tree: pytree of arrays, the carry before the loop.
        like: pytree of the same structure, of arrays or of `jax.eval_shape`'s answers.

    Returns:
        `tree`, value for value.

    Example:
        >>> varying_like(jnp.ones(2), jnp.zeros(2))
        Array([1., 1.], dtype=float32)
    """

    def mark(leaf: Any, target: Any) -> Any:
        axes = tuple(sorted(_varying(target) - _varying(jax.typeof(leaf))))
        return jax.lax.pcast(leaf, axes, to="varying") if axes else leaf

    return jax.tree.map(mark, tree, like)


def varying_over(tree: Tree, sources: Any) -> Tree:
    """Mark `tree` as varying over every mesh axis that any of `sources` varies over.

    Inside `jax.shard_map` the carry of a loop has to enter as it leaves: varying with all that
    the loop reads.

    Args:
        tree: pytree of arrays, the carry before the loop.
        sources: pytree of arrays that the loop reads.

    Returns:
        `tree`, value for value.

    Example:
        >>> print(varying_over(jnp.ones(2), [jnp.zeros(3)]))
        [1. 1.]
    """
    for source in jax.tree.leaves(sources):
        tree = varying_like(tree, jax.tree.map(lambda _, to=source: to, tree))
    return tree


def _varying(value: Any) -> frozenset[str]:
    """The mesh axes over which an abstract or a concrete array varies."""
    kind = getattr(value, "manual_axis_type", None)
    if kind is None and isinstance(value, jax.Array):
        kind = getattr(jax.typeof(value), "manual_axis_type", None)
    return frozenset(kind.varying) if kind is not None else frozenset()
