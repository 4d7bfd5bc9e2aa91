"""Any pure one-example function becomes a mesh program by one call.

`map_items(fn, mesh)` is `jit(shard_map(vmap(fn)))`, compiled once for each `(fn, mesh, shapes)`:

>>> import jax, jax.numpy as jnp
>>> from probjax import sharding
>>> from probjax.core import item_keys
>>> def walk(key, start):
...     return start + jax.random.normal(key)
>>> keys, starts = item_keys(jax.random.key(0), 10), jnp.arange(10.0)
>>> on_four = sharding.map_items(walk, sharding.make_mesh(4), tile=1)(keys, starts)
>>> on_one = sharding.map_items(walk, sharding.make_mesh(1), tile=1)(keys, starts)
>>> on_four.tolist() == on_one.tolist()
True
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from probjax.core import checks, rows
from probjax.sharding.bits import map_tiles, same_bits_options
from probjax.sharding.meshes import auto_mesh, place

InAxes = int | None | tuple[int | None, ...]
"""As for `jax.vmap`, of whole arguments: 0 is mapped, `None` is shared."""


def map_items(
    fn: Callable[..., Any],
    mesh: Mesh,
    *,
    tile: int | None = None,
    in_axes: InAxes = 0,
    check_vma: bool = True,
) -> Callable[..., Any]:
    r"""Map a function of one item over the leading axis of its arguments, sharded over a mesh.

    $$\text{map\_items}(fn)(x)_i = fn(x_i), \qquad i = 0, \dots, N-1$$

    Each device runs its own items and no data crosses between devices. `N` need not divide by
    anything: it is padded with copies of the last item and cropped again. With `tile=B` every
    device works through tiles of exactly `B` items, one after the other, so each item meets the
    same program whatever the number of devices: the same bits on 1, 2, 4, 8 of them (inside
    another `jit`: if that one is compiled with `same_bits_options`). Without it the answers are
    equal up to rounding.

    Args:
        fn: pure function of one item. Where it draws, hand it `core.keys.item_keys`.
        mesh: devices; the items go over all its axes.
        tile: items in a tile; all of a device's items at once when `None`.
        in_axes: as in `jax.vmap`, 0 for an argument (a pytree) with a leading item axis, `None`
            for one that every item shares.
        check_vma: `shard_map`'s check of what varies over the mesh. Turn it off only for calls
            into libraries that do not pass it (diffrax, BlackJAX's NUTS).

    Returns:
        A function of the stacked arguments. Equal `(fn, mesh, tile, in_axes)` share one compiled
        program for each shape. No item gives an empty result.

    Raises:
        ValueError: `tile < 1`, other `in_axes` than 0 and `None`, or leaves whose leading axes
            differ (the message names the leaf).

    Example:
        >>> import jax.numpy as jnp
        >>> from probjax import sharding
        >>> scaled = map_items(lambda x, c: c * x, sharding.make_mesh(2), in_axes=(0, None))
        >>> print(scaled(jnp.arange(3.0), 2.0))
        [0. 2. 4.]
    """
    return _map(fn, mesh, tile, in_axes, check_vma, one_item=True)


def map_rows(
    fn: Callable[..., Any],
    mesh: Mesh,
    *,
    tile: int | None = None,
    in_axes: InAxes = 0,
    check_vma: bool = True,
) -> Callable[..., Any]:
    r"""Do what `map_items` does for a function that takes rows itself.

    $$\text{map\_rows}(fn)(x)_{b} = fn(x_{b}),\qquad b \text{ a device's block of rows, or a tile}$$

    For networks, whose matrix products want the whole block at once, and for samplers written over
    rows with a key for each.

    Args:
        fn: pure function of blocks of rows, `(b, ...) -> (b, ...)`, in which no row influences
            another.
        mesh: devices; the rows go over all its axes.
        tile: rows in a block; all of a device's rows when `None`.
        in_axes: as for `map_items`.
        check_vma: as for `map_items`.

    Returns:
        A function of all rows.

    Raises:
        ValueError: as for `map_items`.

    Example:
        >>> import jax.numpy as jnp
        >>> from probjax import sharding
        >>> matrix = jnp.array([[0.0, 1.0], [2.0, 0.0]])
        >>> product = map_rows(lambda x, m: x @ m, sharding.make_mesh(2), in_axes=(0, None))
        >>> print(product(jnp.eye(2), matrix))
        [[0. 1.]
         [2. 0.]]
    """
    return _map(fn, mesh, tile, in_axes, check_vma, one_item=False)


def pmap_items(
    fn: Callable[..., Any], mesh: Mesh, *, tile: int | None = None, in_axes: InAxes = 0
) -> Callable[..., Any]:
    """Do what `map_items` does through `jax.pmap`, which is in maintenance.

    The twin is kept so that tests can hold the two against each other. In a run of several
    processes use `map_items`.

    Args:
        fn: pure function of one item.
        mesh: devices; only their flat order counts.
        tile: items in a tile.
        in_axes: as for `map_items`.

    Returns:
        A function of the stacked arguments.

    Raises:
        ValueError: as for `map_items`.

    Example:
        >>> import jax.numpy as jnp
        >>> from probjax import sharding
        >>> print(pmap_items(lambda x: x**2, sharding.make_mesh(2))(jnp.arange(3.0)))
        [0. 1. 4.]
    """
    if tile is not None:
        checks.at_least("tile", tile, 1)
    multiple = mesh.size * (tile or 1)
    devices = list(mesh.devices.flat)

    def mapped(*args):
        axes = _axes(in_axes, len(args))
        num_items = _num_items(args, axes)
        if num_items == 0:
            return _plain_program(fn, axes, True)(*args)
        split = [
            jax.tree.map(
                lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]),
                _pad(arg, num_items, multiple),
            )
            if axis == 0
            else arg
            for arg, axis in zip(args, axes, strict=True)
        ]
        body = functools.partial(_tiles, _block(fn, axes, True), tile, axes, jax.lax.map)
        out = jax.pmap(body, in_axes=axes, devices=devices)(*split)
        out = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
        return _crop(out, num_items, multiple)

    return mapped


def _map(
    fn: Callable[..., Any],
    mesh: Mesh,
    tile: int | None,
    in_axes: InAxes,
    check_vma: bool,
    *,
    one_item: bool,
) -> Callable[..., Any]:
    if tile is not None:
        checks.at_least("tile", tile, 1)
    mesh = auto_mesh(mesh)
    multiple = mesh.size * (tile or 1)

    def mapped(*args):
        axes = _axes(in_axes, len(args))
        # Compiler options belong to the outermost program: within one they are the caller's.
        outermost = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        program = _mesh_program(fn, mesh, tile, in_axes, check_vma, one_item, outermost)
        num_items = _num_items(args, axes)
        if num_items == 0:
            return _plain_program(fn, axes, one_item)(*args)
        padded = [
            place(_pad(arg, num_items, multiple), mesh, P(mesh.axis_names))
            if axis == 0
            else place(arg, mesh, P())
            for arg, axis in zip(args, axes, strict=True)
        ]
        return _crop(program(*padded), num_items, multiple)

    return mapped


@functools.lru_cache(maxsize=256)
def _mesh_program(
    fn: Callable[..., Any],
    mesh: Mesh,
    tile: int | None,
    in_axes: InAxes,
    check_vma: bool,
    one_item: bool,
    outermost: bool,
) -> Callable[..., Any]:
    keep_bits = tile is not None and outermost
    # Within another program there may be a derivative to take, which `map_tiles` does not have.
    loop = map_tiles if keep_bits else jax.lax.map

    def program(*args):
        axes = _axes(in_axes, len(args))
        specs = tuple(P(mesh.axis_names) if axis == 0 else P() for axis in axes)
        return jax.shard_map(
            functools.partial(_tiles, _block(fn, axes, one_item), tile, axes, loop),
            mesh=mesh,
            in_specs=specs,
            out_specs=P(mesh.axis_names),
            check_vma=check_vma,
        )(*args)

    return jax.jit(program, compiler_options=same_bits_options(mesh) if keep_bits else None)


@functools.lru_cache(maxsize=256)
def _plain_program(
    fn: Callable[..., Any], axes: tuple[int | None, ...], one_item: bool
) -> Callable[..., Any]:
    return jax.jit(_block(fn, axes, one_item))


def _block(
    fn: Callable[..., Any], axes: tuple[int | None, ...], one_item: bool
) -> Callable[..., Any]:
    return jax.vmap(fn, in_axes=axes) if one_item else fn


def _tiles(
    block_fn: Callable[..., Any],
    tile: int | None,
    axes: tuple[int | None, ...],
    loop: Callable[..., Any],
    *args: Any,
) -> Any:
    """One device's items: all at once, or tile after tile."""
    # What all items share varies over the devices from here on, so that its derivative is summed
    # over them once, not in every turn of a loop.
    own = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]
    args = tuple(
        arg if axis == 0 else _varying(arg, own) for arg, axis in zip(args, axes, strict=True)
    )
    if tile is None:
        return block_fn(*args)
    mapped = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, tile, *leaf.shape[1:]), mapped)

    def run(block):
        block = iter(block)
        pairs = zip(args, axes, strict=True)
        return block_fn(*(next(block) if axis == 0 else arg for arg, axis in pairs))

    out = loop(run, split)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)


def _varying(tree: Any, own: Any) -> Any:
    def mark(leaf: Any) -> Any:
        kind = jnp.result_type(leaf)
        return rows.varying_over(leaf, own) if jnp.issubdtype(kind, jnp.inexact) else leaf

    return jax.tree.map(mark, tree)


def _axes(in_axes: InAxes, num_args: int) -> tuple[int | None, ...]:
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * num_args
    if len(axes) != num_args:
        raise ValueError(f"in_axes has {len(axes)} entries for {num_args} arguments")
    if any(axis not in (0, None) for axis in axes) or all(axis is None for axis in axes):
        raise ValueError(f"in_axes must hold 0 or None, and 0 at least once, got {in_axes}")
    return axes


def _num_items(args: tuple[Any, ...], axes: tuple[int | None, ...]) -> int:
    """The common leading length of the mapped leaves."""
    first, lengths = None, None
    for position, (arg, axis) in enumerate(zip(args, axes, strict=True)):
        if axis is None:
            continue
        for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
            name = f"argument {position}{jax.tree_util.keystr(path)}"
            if jnp.ndim(leaf) == 0:
                raise ValueError(f"{name} is mapped but has no leading axis")
            length = jnp.shape(leaf)[0]
            if lengths is not None and length != lengths:
                raise ValueError(f"{name} has {length} items but {first} has {lengths}")
            first, lengths = first or name, length if lengths is None else lengths
    if lengths is None:
        raise ValueError("no mapped argument holds an array")
    return lengths


def _pad(arg: Any, num_items: int, multiple: int) -> Any:
    """Repeat the last item until the length is a multiple of `multiple`."""
    total = -(-num_items // multiple) * multiple
    if total == num_items:
        return jax.tree.map(jnp.asarray, arg)
    # Leaf by leaf: they may come from different devices.
    return jax.tree.map(lambda leaf: _repeat_last(leaf, total), arg)


@functools.partial(jax.jit, static_argnums=1)
def _repeat_last(leaf: Any, total: int) -> Any:
    return leaf[jnp.minimum(jnp.arange(total), leaf.shape[0] - 1)]


def _crop(out: Any, num_items: int, multiple: int) -> Any:
    return out if num_items % multiple == 0 else _first(out, num_items)


@functools.partial(jax.jit, static_argnums=1)
def _first(out: Any, num_items: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:num_items], out)
