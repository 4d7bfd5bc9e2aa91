"""Random streams by global index.

No loop carries a key that it splits. The key of item `i` at step `t` is
`fold_in(fold_in(key, i), t)` with the global `i`, so adding items, removing devices, changing
a chunk size or resuming at step `t` changes nobody else's numbers:

>>> import jax
>>> from probjax.core import keys
>>> key = jax.random.key(7)
>>> five, three = keys.item_keys(key, 5), keys.item_keys(key, 3)
>>> bool((jax.random.key_data(five[:3]) == jax.random.key_data(three)).all())
True
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Key, UInt32

from probjax.core import checks

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]
"""One key, typed or old-style."""

RowKeys = Key[Array, "*keys"] | UInt32[Array, "2"]
"""One key, or one typed key for each row."""

STREAMS = {
    "init": 0,
    "data": 1,
    "noise": 2,
    "probe": 3,
    "level": 4,
    "sample": 5,
    "accept": 6,
    "proposal": 7,
    "metric": 8,
    "dequantise": 9,
    "augment": 10,
    "dropout": 11,
}
"""The purposes that draw from one key, each with its own stream. Append; never renumber."""


def as_key(key: Array) -> Key[Array, "*keys"]:
    """Return `key` as a typed key; an old-style `uint32[2]` key is wrapped.

    Args:
        key: typed key or keys, or one old-style key `(2,)`.

    Returns:
        The same random stream as typed key(s).

    Raises:
        TypeError: `key` is neither.

    Example:
        >>> import jax
        >>> as_key(jax.random.PRNGKey(0)) == jax.random.key(0)
        Array(True, dtype=bool)
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if key.dtype == jnp.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(key)
    raise TypeError(
        "key must be jax.random.key(seed) or an old-style uint32[2] key, "
        f"got {key.dtype}{key.shape}"
    )


def raw_key(key: RowKeys) -> Array:
    """Return a key as old-style `uint32` numbers, for libraries that mean to use one key twice.

    JAX's checker of key reuse sees typed keys only, and some of BlackJAX's kernels select among
    keys that they have used.

    Args:
        key: typed key or keys, or one old-style key `(2,)`.

    Returns:
        The same random stream as numbers; a key of another implementation than JAX's default one
        stays typed, because numbers would not say which it is.

    Example:
        >>> import jax
        >>> print(raw_key(jax.random.key(7)))
        [0 7]
    """
    key = as_key(key)
    default = jax.eval_shape(jax.random.key, 0).dtype
    return jax.random.key_data(key) if key.dtype == default else key


def stream(key: RowKeys, purpose: str) -> Key[Array, "*keys"]:
    r"""Return the stream of `key` that belongs to `purpose`.

    $$\text{stream}(key, purpose) = \text{fold\_in}(key, STREAMS[purpose])$$

    Args:
        key: one key, or an array of keys (each is folded).
        purpose: a name in `STREAMS`.

    Returns:
        Keys of the same shape.

    Raises:
        ValueError: `purpose` is not in `STREAMS`.

    Example:
        >>> import jax
        >>> key = jax.random.key(0)
        >>> bool(stream(key, "noise") == stream(key, "level"))
        False
    """
    checks.one_of("purpose", purpose, STREAMS)
    key = as_key(key)
    fold = jax.random.fold_in
    for _ in range(key.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    return fold(key, STREAMS[purpose])


def item_key(key: PRNGKey, item: int | Array) -> Key[Array, ""]:
    """Return the key of the item (example, chain, trajectory) with global index `item`.

    Args:
        key: one key.
        item: global index, a non-negative integer, traced or not.

    Returns:
        One typed key.

    Example:
        >>> import jax
        >>> bool(item_key(jax.random.key(0), 3) == item_keys(jax.random.key(0), 4)[3])
        True
    """
    return jax.random.fold_in(as_key(key), item)


def step_key(key: PRNGKey, step: int | Array) -> Key[Array, ""]:
    """Return the key of step `step` for an item whose key is `key`.

    Args:
        key: the item's key.
        step: global step, a non-negative integer, traced or not.

    Returns:
        One typed key.

    Example:
        >>> import jax
        >>> chain = item_key(jax.random.key(0), 3)
        >>> float(jax.random.normal(step_key(chain, 10)))
        -0.494...
    """
    return jax.random.fold_in(as_key(key), step)


def item_keys(key: PRNGKey, num_items: int, *, start: int | Array = 0) -> Key[Array, "items"]:
    """Return the keys of the items `start, ..., start + num_items - 1`.

    Args:
        key: one key.
        num_items: how many, zero included.
        start: global index of the first.

    Returns:
        Typed keys `(num_items,)`.

    Raises:
        ValueError: `num_items` is negative.

    Example:
        >>> import jax
        >>> item_keys(jax.random.key(0), 4).shape
        (4,)
    """
    checks.at_least("num_items", num_items, 0)
    key = as_key(key)
    items = jnp.arange(num_items, dtype=jnp.uint32) + jnp.asarray(start, jnp.uint32)
    return jax.vmap(lambda item: jax.random.fold_in(key, item))(items)


def row_normal(
    key: RowKeys, like: Inexact[Array, "*shape"], *, event_ndim: int = 1
) -> Float[Array, "*shape"]:
    """Draw standard normals shaped as `like`, from one key or from a key for each row.

    With a key for each row a row's numbers do not depend on the other rows, on their order or
    on how many devices share them.

    Args:
        key: one key, or keys of shape `like.shape[:-event_ndim]`.
        like: array `(*B, *event)` that gives shape and dtype.
        event_ndim: how many trailing axes make one row.

    Returns:
        Standard normals with `like`'s shape and dtype.

    Raises:
        ValueError: the keys' shape is neither `()` nor that of the rows.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key = jax.random.key(0)
        >>> three = row_normal(item_keys(key, 3), jnp.zeros((3, 2)))
        >>> last_two = row_normal(item_keys(key, 2, start=1), jnp.zeros((2, 2)))
        >>> bool((three[1:] == last_two).all())
        True
    """
    key = as_key(key)
    if key.ndim == 0:
        return jax.random.normal(key, like.shape, like.dtype)
    batch = like.shape[: like.ndim - event_ndim]
    if key.shape != batch:
        raise ValueError(
            f"key must be one key or keys of shape {batch}, one for each row, got {key.shape}"
        )
    event = like.shape[like.ndim - event_ndim :]
    draws = jax.vmap(lambda row: jax.random.normal(row, event, like.dtype))(
        key.reshape(math.prod(batch))
    )
    return draws.reshape(like.shape)
