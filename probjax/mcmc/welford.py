"""Running means and squared deviations of one chain, and their merging over chains.

>>> import jax, jax.numpy as jnp
>>> from probjax.mcmc import welford
>>> init, update = welford.recursion(lambda state: state, jnp.multiply)
>>> accs = jax.vmap(init)(jnp.zeros(2))
>>> for x in ([1.0, 5.0], [3.0, 7.0]):
...     accs = jax.vmap(lambda acc, x: update(acc, x, None, 0))(accs, jnp.array(x))
>>> merged = welford.merger(jnp.multiply)(accs)
>>> print(merged.mean, merged.deviation, merged.count)
4.0 20.0 4.0
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probjax.core import trees

Product = Callable[[Array, Array], Array]
"""What stands for the square: `jnp.multiply`, or the outer product."""


class Welford(NamedTuple):
    """Running mean and sum of squared deviations, of one chain or of many."""

    origin: Any
    """Where the chain began: values are gathered relative to it."""
    mean: Any
    """Mean of the values, relative to `origin`."""
    deviation: Any
    """Sum of squared deviations from the mean; for `covariance` the matrix of products."""
    count: Array
    """Draws taken in."""
    excluded: Array
    """Draws left out because some number of theirs is not finite."""


def recursion(fn: Callable[[Any], Any], product: Product) -> tuple[Any, Any]:
    r"""Welford's recursion over the states of a chain.

    $$m_n=m_{n-1}+\frac{x_n-m_{n-1}}n,\qquad S_n=S_{n-1}+product(x_n-m_{n-1},\,x_n-m_n)$$

    Args:
        fn: from the state to numbers, an array or a pytree.
        product: what stands for the square.

    Returns:
        `init(state) -> Welford` and `update(acc, state, info, step) -> Welford`.
    """

    def init(state: Any) -> Welford:
        value = jax.tree.map(working, fn(state))
        origin = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)), value)
        zeros = jax.tree.map(jnp.zeros_like, value)
        squares = jax.tree.map(lambda x: jnp.zeros_like(product(x, x)), value)
        nothing = jnp.zeros((), jnp.int32)
        return Welford(origin, zeros, squares, nothing, nothing)

    def update(acc: Welford, state: Any, info: Any, step: Any) -> Welford:
        del info, step
        value = jax.tree.map(working, fn(state))
        good = trees.all_finite(value)
        count = acc.count + good.astype(jnp.int32)

        def advance(x: Array, origin: Array, mean: Array, square: Array) -> tuple[Array, Array]:
            # Masked before the arithmetic: a draw that is left out enters as the mean itself.
            from_origin = jnp.where(good, x - origin, mean)
            before = from_origin - mean
            mean = mean + before / jnp.maximum(count, 1).astype(x.dtype)
            return mean, square + product(before, from_origin - mean)

        mean, square = unzipped(advance, 2, value, acc.origin, acc.mean, acc.deviation)
        excluded = acc.excluded + (~good).astype(jnp.int32)
        return Welford(acc.origin, mean, square, count, excluded)

    return init, update


def merger(product: Product) -> Callable[[Welford], Welford]:
    r"""The formula of Chan and others, over a leading chain axis.

    $$S=\sum_cS_c+\sum_cn_c\,product(m_c-m,\,m_c-m)$$

    Args:
        product: as for `recursion`.

    Returns:
        `merge(accs) -> Welford`, whose counts are floats.
    """

    def merge(accs: Welford) -> Welford:
        number = total(accs.count)

        def leaf(o: Array, m: Array, s: Array) -> tuple[Array, Array, Array]:
            weights = accs.count.astype(m.dtype)
            means = o - o[:1] + m
            share = aligned(weights, means) / jnp.maximum(number, 1).astype(m.dtype)
            mean = jnp.sum(means * share, axis=0)
            apart = means - mean[None]
            between = aligned(weights, s) * product(apart, apart)
            return o[0], mean, jnp.sum(s + between, axis=0)

        fields = unzipped(leaf, 3, accs.origin, accs.mean, accs.deviation)
        return Welford(*fields, number, total(accs.excluded))

    return merge


def total(leaf: Array) -> Array:
    """Sum over chains; whole numbers as a float, which does not wrap around.

    Args:
        leaf: `(C, ...)`.

    Returns:
        The sum.
    """
    dtype = jnp.result_type(float) if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf.dtype
    return jnp.sum(leaf.astype(dtype), axis=0)


def aligned(flags: Array, like: Array) -> Array:
    """Give `flags` trailing axes, so that it multiplies `like`.

    Args:
        flags: `(C,)`, or of more leading axes.
        like: `(C, ...)`.

    Returns:
        `flags` with as many axes as `like`.
    """
    return flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))


def working(value: Any) -> Array:
    """Give numbers, counts and flags among them, as floating point of 32 bits at least.

    Args:
        value: numbers.

    Returns:
        The same.
    """
    value = trees.widened(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


def unzipped(fn: Callable[..., tuple], number: int, *trees: Any) -> list[Any]:
    """Map `fn`, which gives `number` values, over leaves.

    Args:
        fn: of one leaf of each tree.
        number: how many values it gives.
        *trees: of one structure.

    Returns:
        A tree for each value.
    """
    leaves, structure = jax.tree.flatten(trees[0])
    rest = [structure.flatten_up_to(tree) for tree in trees[1:]]
    columns = zip(*(fn(*each) for each in zip(leaves, *rest, strict=True)), strict=True)
    return [jax.tree.unflatten(structure, column) for column in list(columns)[:number]]
