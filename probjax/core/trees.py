"""Pytrees of arrays: one flag for all their entries, one precision, one layout.

A sampler's position may be any pytree. What it asks of one is here:

>>> import jax.numpy as jnp
>>> from probjax.core import trees
>>> position = trees.widened({"mean": jnp.ones(2, jnp.bfloat16), "count": 3})
>>> position["mean"].dtype.name, trees.all_finite(position)
('float32', Array(True, dtype=bool))
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from probjax.core import checks

Tree = TypeVar("Tree")


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Tell whether every floating entry of a pytree is finite.

    Args:
        tree: pytree of arrays; integers and flags are finite.

    Returns:
        One flag; true for a tree without leaves.

    Example:
        >>> all_finite({"a": jnp.ones(2), "n": jnp.array(3), "b": jnp.array([0.0, jnp.nan])})
        Array(False, dtype=bool)
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    return functools.reduce(jnp.logical_and, flags, jnp.asarray(True))


def widened(tree: Tree) -> Tree:
    """Return a pytree as arrays in the precision to compute in: float32 at least.

    Args:
        tree: an array or a pytree of arrays and numbers.

    Returns:
        The same tree; floating leaves narrower than float32 are widened, integers stay.

    Example:
        >>> widened({"a": 1.0, "n": jnp.ones(2, jnp.bfloat16)})["n"].dtype.name
        'float32'
    """

    def widen(leaf: Any) -> Array:
        dtype = jnp.result_type(leaf)
        narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return jnp.asarray(leaf, jnp.float32 if narrow else dtype)

    return jax.tree.map(widen, tree)


def same_layout(name: str, tree: Any, other_name: str, other: Tree) -> Tree:
    """Demand that `tree` has the structure, the shapes and the dtypes of `other`, and return it.

    Args:
        name: what `tree` is, for the messages.
        tree: pytree of arrays.
        other_name: what `other` is.
        other: pytree of arrays.

    Returns:
        `tree`, its leaves as arrays.

    Raises:
        ValueError: the structures or the shapes differ.
        TypeError: the dtypes differ.

    Example:
        >>> same_layout("propose(key, x)", jnp.zeros(3), "x", jnp.zeros(2))
        Traceback (most recent call last):
        ValueError: propose(key, x) must have the shape of x, (2,), got (3,)
    """
    ours, theirs = jax.tree.structure(tree), jax.tree.structure(other)
    if ours != theirs:
        raise ValueError(f"{name} must have the structure of {other_name}, {theirs}, got {ours}")

    def check(path: Any, leaf: Any, target: Array) -> Array:
        where = jax.tree_util.keystr(path)
        checks.same_shape(name + where, leaf, other_name + where, target)
        if jnp.result_type(leaf) != target.dtype:
            raise TypeError(
                f"{name}{where} must have the dtype of {other_name}{where}, {target.dtype}, "
                f"got {jnp.result_type(leaf)}"
            )
        return jnp.asarray(leaf, target.dtype)

    return jax.tree_util.tree_map_with_path(check, tree, other)
