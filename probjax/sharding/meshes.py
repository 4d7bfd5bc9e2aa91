"""One mesh axis over the devices at hand.

>>> from probjax import sharding
>>> sharding.make_mesh(4).size
4
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from probjax.core import checks


def make_mesh(
    num_devices: int | None = None,
    *,
    axis: str = "items",
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Make a one-axis mesh of Auto axis type.

    JAX's own default, `AxisType.Explicit`, breaks BlackJAX, diffrax, gathers, sorts and scans.

    Args:
        num_devices: how many of the devices, from the first; all of them when `None`. In a run of
            several processes they must all take part, so leave it `None` there.
        axis: name of the axis.
        devices: the devices to choose from; `jax.devices()` when `None`.

    Returns:
        The mesh.

    Raises:
        ValueError: fewer devices are there than asked for.

    Example:
        >>> make_mesh(2, axis="chains").axis_names
        ('chains',)
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices) if num_devices is None else checks.at_least("num_devices", num_devices, 1)
    if count > len(devices):
        raise ValueError(
            f"num_devices={count} but only {len(devices)} {devices[0].platform} devices are there"
        )
    return Mesh(np.asarray(devices[:count]), (axis,), axis_types=(AxisType.Auto,))


def auto_mesh(mesh: Mesh) -> Mesh:
    """Return `mesh` with every axis of Auto type, whatever it was made with.

    Args:
        mesh: any mesh.

    Returns:
        The same devices and names.

    Example:
        >>> import jax
        >>> auto_mesh(jax.make_mesh((2,), ("items",))).axis_types
        (Auto,)
    """
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def place(tree: Any, mesh: Mesh, spec: Any) -> Any:
    """Put a pytree on a mesh, whichever devices it is on now.

    In a run of several processes each must hold the same whole value (or an array that spans
    them already); `jax.device_put` alone refuses local arrays there.

    Args:
        tree: pytree of arrays, typed keys or numbers.
        mesh: devices, possibly those of other processes too.
        spec: how each leaf is split; or a tree of specs, one for each branch, which costs no more
            than one.

    Returns:
        The tree with every leaf sharded so.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> placed, whole = place((jnp.arange(4.0), 2.0), make_mesh(2), (P("items"), P()))
        >>> len(placed.addressable_shards)
        2
    """
    shardings = jax.tree.map(lambda each: NamedSharding(mesh, each), spec)
    if all(each.is_fully_addressable for each in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def one(leaf, sharding):
        if isinstance(leaf, jax.core.Tracer):
            return jax.device_put(leaf, sharding)
        leaf = jnp.asarray(leaf)
        if not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(one, tree, jax.tree.broadcast(shardings, tree))
