"""Data-parallel loss and gradient, by one all-reduce or in tiles of fixed size.

>>> import jax.numpy as jnp
>>> from probjax import sharding
>>> def squares(weight, x):
...     return (weight - x) ** 2
>>> mesh = sharding.make_mesh(2)
>>> loss, gradient = sharding.value_and_grad(squares, mesh)(jnp.float32(1.0), jnp.arange(4.0))
>>> float(loss), float(gradient)
(1.5, -1.0)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from probjax.core import checks
from probjax.sharding.bits import map_tiles
from probjax.sharding.meshes import auto_mesh
from probjax.sharding.reduction import ordered_sum


def value_and_grad(
    loss_fn: Callable[..., Any], mesh: Mesh, *, tile: int | None = None
) -> Callable[..., tuple[Any, Any]]:
    r"""Mean of a loss over rows, and its gradient, with the rows shared among devices.

    $$L(params) = \frac1B\sum_{i=1}^{B}\text{loss\_fn}(params, rows)_i,\qquad
      \nabla_{params}L$$

    Without `tile` each device sums over its rows, and one all-reduce (one for each dtype among the
    parameters) adds up loss and gradient. With `tile=b` each tile of `b` rows gives its own sum,
    the sums of all devices are gathered, and they are added in the order of the rows: the same
    bits on any number of devices, at the price of gathering `B/b` gradients instead of reducing
    them.

    Args:
        loss_fn: `loss_fn(params, *rows) -> (B,)`, one loss for each row; no row may influence
            another's.
        mesh: devices; the rows go over all its axes.
        tile: rows in a tile; `B` must then be a multiple of `tile` times the number of devices.

    Returns:
        `fn(params, *rows) -> (mean_loss, gradient)`, to be called under `jit`.

    Raises:
        ValueError: `B` is not such a multiple, rows differ in number, or `loss_fn` does not give
            one loss for each row.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from probjax import sharding
        >>> loss_fn = lambda w, x, y: (x @ w - y) ** 2
        >>> rows = jnp.ones((8, 2)), jnp.zeros(8)
        >>> fn = jax.jit(value_and_grad(loss_fn, sharding.make_mesh(4), tile=2))
        >>> print(fn(jnp.ones(2), *rows)[1])
        [4. 4.]
    """
    if tile is not None:
        checks.at_least("tile", tile, 1)
    mesh = auto_mesh(mesh)
    axes = mesh.axis_names
    multiple = mesh.size * (tile or 1)

    def total_of(params, rows):
        def total(params):
            losses = loss_fn(params, *rows)
            checks.shape("loss_fn(params, *rows)", losses, (_num_rows(rows),))
            return jnp.sum(losses)

        return jax.value_and_grad(total)(params)

    def fn(params, *rows):
        num_rows = _num_rows(rows)
        _divides(num_rows, multiple)

        def on_one_device(params, *rows):
            # Without the cast the check would sum the gradient of a replicated parameter at once,
            # leaf by leaf and in an order of XLA's choosing.
            params = jax.lax.pcast(params, axes, to="varying")
            if tile is None:
                total = _sum_over_devices(total_of(params, rows), axes)
            else:
                blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, tile, *leaf.shape[1:]), rows)
                sums = map_tiles(lambda block: total_of(params, block), blocks)
                total = ordered_sum(jax.lax.all_gather(sums, axes, tiled=True, to="invarying"))
            return jax.tree.map(lambda leaf: leaf / num_rows, total)

        return jax.shard_map(
            on_one_device, mesh=mesh, in_specs=(P(), *(P(axes) for _ in rows)), out_specs=P()
        )(params, *rows)

    return fn


def _sum_over_devices(tree: Any, axes: tuple[str, ...]) -> Any:
    """One all-reduce for each dtype: on CPUs many small ones cost more than the copy."""
    leaves, structure = jax.tree.flatten(tree)
    summed = list(leaves)
    for dtype in {leaf.dtype for leaf in leaves}:
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        joined = jnp.concatenate([leaves[i].reshape(-1) for i in places])
        ends = np.cumsum([leaves[i].size for i in places])[:-1]
        parts = jnp.split(jax.lax.psum(joined, axes), ends)
        for i, part in zip(places, parts, strict=True):
            summed[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, summed)


def _num_rows(rows: tuple[Any, ...]) -> int:
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    if len(lengths) != 1:
        raise ValueError(f"all row arrays must have one leading length, got {sorted(lengths)}")
    return lengths.pop()


def _divides(num_rows: int, multiple: int) -> None:
    if num_rows == 0 or num_rows % multiple:
        raise ValueError(
            f"the number of rows must be a positive multiple of {multiple} "
            f"(devices times tile), got {num_rows}"
        )
