"""What it takes for one function to give the same bits in programs for 1, 2, 4 and 8 devices.

Tiles give each item the same operations on the same shapes. That is not yet enough on CPUs: XLA's
algebraic simplifier rewrites `a / b` to `a * (1 / b)`, or `a / sqrt(b)` to `a * rsqrt(b)`, where
its surroundings let it, and those differ between a program for one device and one for several.
So tiled programs are compiled without it (`same_bits_options`). And where a device has a single
tile, XLA would drop the loop around it and fuse what was in it with what was outside; so the loop
does not tell how often it runs (`map_tiles`).

>>> from probjax import sharding
>>> sharding.same_bits_options(sharding.make_mesh(2))
{'xla_disable_hlo_passes': 'algsimp'}
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from probjax.core.rows import varying_like


def same_bits_options(mesh: Mesh) -> dict[str, str]:
    """Give the compiler options under which tiles keep their bits.

    `map_items` and `map_rows` use them by themselves when they are given a tile; a program of your
    own around `value_and_grad(..., tile=...)` needs `jax.jit(fn, compiler_options=...)`, or
    `run_chunks(..., compiler_options=...)`.

    Args:
        mesh: the devices the program is for.

    Returns:
        Options for `jax.jit`; none where no rewriting between meshes has been seen.

    Example:
        >>> import jax
        >>> from probjax import sharding
        >>> options = same_bits_options(sharding.make_mesh(1))
        >>> float(jax.jit(lambda x: x / 3.0, compiler_options=options)(6.0))
        2.0
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_disable_hlo_passes": "algsimp"} if on_cpu else {}


def map_tiles(fn: Callable[[Any], Any], tiles: Any) -> Any:
    r"""Apply `fn` to one tile after the other, in a loop that the compiler cannot take apart.

    $$\text{map\_tiles}(fn)(tiles)_q = fn(tiles_q)$$

    The same values as `jax.lax.map`, but with a trip count that looks like data, so that one tile
    is compiled like thirty. In exchange it has no reverse-mode derivative.

    Args:
        fn: pure function of one tile.
        tiles: pytree of arrays with a common leading axis, which is not empty.

    Returns:
        The results with that leading axis.

    Example:
        >>> import jax.numpy as jnp
        >>> map_tiles(jnp.sum, jnp.arange(6.0).reshape(3, 2)).tolist()
        [1.0, 5.0, 9.0]
    """
    # Keys travel as their data: JAX's check of key reuse cannot see that each is taken once.
    data = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tiles)

    def tile(q):
        def entry(leaf, like):
            one = leaf[q]
            return (
                jax.random.wrap_key_data(one, impl=jax.random.key_impl(like))
                if _is_key(like)
                else one
            )

        return jax.tree.map(entry, data, tiles)

    shapes = jax.eval_shape(fn, tile(0))
    if any(_is_key(leaf) for leaf in jax.tree.leaves(shapes)):
        return jax.lax.map(fn, tiles)  # there are no keys of zero to begin with
    witness = jax.tree.leaves(data)[0]
    number = witness.shape[0]
    empty = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), shapes)
    some = (witness.reshape(-1)[0] > 0).astype(jnp.int32)
    trips = jnp.minimum(jnp.int32(number), number + some)  # always `number`

    def step(q, out):
        return jax.tree.map(lambda whole, one: whole.at[q].set(one), out, fn(tile(q)))

    return jax.lax.fori_loop(0, trips, step, varying_like(empty, shapes))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
