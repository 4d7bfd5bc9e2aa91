"""What `run_chains` compiles, and how chains lie on devices.

There is one sampling program, `sampling_program()`, with a `Plan` as its static argument. Steps are
counted by a loop whose ends are data, so that a last chunk, a resumed run and other parameters
find the program compiled:

>>> from probjax.mcmc import program
>>> program.sampling_program() is program.sampling_program()
True
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from probjax.core import checks, rows
from probjax.core.keys import PRNGKey, as_key, item_keys, step_key
from probjax.mcmc.kernels import Kernel
from probjax.mcmc.reducers import Reducer
from probjax.sharding import auto_mesh, make_mesh, map_tiles


class Plan(NamedTuple):
    """All that is static in a sampling program."""

    algorithm: Any
    """A `SamplingAlgorithm` or a `Kernel`, for one chain."""
    reducers: tuple[Reducer, ...]
    """Statistics, updated at every step."""
    trace_fn: Callable[[Any, Any], Any] | None
    """What to keep."""
    thin: int
    """Of how many steps one is kept."""
    num_rows: int
    """Rows of a chunk's trace."""
    params_axis: int | None
    """0 where each chain has its own parameters."""
    mesh: Mesh
    """The devices."""
    spec: P
    """How a leading chain axis lies on them."""
    tile: int | None
    """Chains in a block."""
    check_vma: bool
    """Whether `shard_map` checks."""
    lockstep: tuple[str, ...] = ()
    """Fields of the state in which all chains agree."""


@functools.lru_cache(maxsize=8)
def sampling_program(
    compiler_options: tuple[tuple[str, str], ...] = (),
) -> Callable[..., Any]:
    """Give the jitted program that makes the steps `start, ..., stop - 1` of all chains.

    Args:
        compiler_options: pairs of name and value.

    Returns:
        `program(plan, states, accs, keys, params, start, stop)` to `(states, accs, rows)`, the
        same object for equal options; `rows` have leaves `(num_rows, C, ...)`. It donates `states`
        and `accs`.
    """

    def sample(plan, states, accs, keys, params, start, stop):
        shared = P() if plan.params_axis is None else plan.spec
        return jax.shard_map(
            functools.partial(_tiles, plan),
            mesh=plan.mesh,
            in_specs=(plan.spec, plan.spec, plan.spec, shared, P(), P()),
            out_specs=(plan.spec, plan.spec, P(None, *plan.spec)),
            check_vma=plan.check_vma,
        )(states, accs, keys, params, start, stop)

    return jax.jit(
        sample, static_argnums=0, donate_argnums=(1, 2), compiler_options=dict(compiler_options)
    )


@functools.lru_cache(maxsize=64)
def pmap_program(plan: Plan) -> Callable[..., Any]:
    """Give the twin under `jax.pmap`.

    Args:
        plan: what is static.

    Returns:
        `program(states, accs, keys, params, start, stop)`, whose leaves have a leading axis of
        devices, then one of a device's chains.
    """
    return jax.pmap(
        functools.partial(_block, plan),
        in_axes=(0, 0, 0, plan.params_axis, None, None),
        devices=list(plan.mesh.devices.flat),
    )


def _tiles(plan: Plan, states, accs, keys, params, start, stop):
    """One device's chains: all at once, or tile after tile."""
    if plan.tile is None:
        return _block(plan, states, accs, keys, params, start, stop)
    own = (states, accs, keys) if plan.params_axis is None else (states, accs, keys, params)
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, plan.tile, *leaf.shape[1:]), own)

    def tile(block):
        block = block if plan.params_axis is not None else (*block, params)
        return _block(plan, *block, start, stop)

    states, accs, kept = map_tiles(tile, split)
    whole = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])  # noqa: E731
    kept = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), kept)
    kept = jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1, *leaf.shape[3:]), kept)
    return *jax.tree.map(whole, (states, accs)), kept


def _block(plan: Plan, states, accs, keys, params, start, stop):
    """Steps `start` to `stop - 1` of a block of chains, and the rows of their trace."""

    def one(key, step, state, accs, params):
        given = (params,) if isinstance(plan.algorithm, Kernel) else ()
        with checks.only_concrete():
            state, info = plan.algorithm.step(step_key(key, step), state, *given)
        pairs = zip(plan.reducers, accs, strict=True)
        accs = tuple(reducer.update(acc, state, info, step) for reducer, acc in pairs)
        return state, accs, plan.trace_fn(state, info) if plan.trace_fn else None

    axes, length = 0, len(keys)
    if plan.lockstep:
        axes = type(states)(*(None if name in plan.lockstep else 0 for name in states._fields))
        states = _in_lockstep(plan, states, lambda leaf: leaf[0])
    many = jax.vmap(one, in_axes=(0, None, axes, 0, plan.params_axis), out_axes=(axes, 0, 0))
    shapes = jax.eval_shape(many, keys, start, states, accs, params)[2]
    trace = jax.tree.map(lambda leaf: jnp.zeros((plan.num_rows, *leaf.shape), leaf.dtype), shapes)

    def body(step, carry):
        states, accs, trace = carry
        states, accs, kept = many(keys, step, states, accs, params)
        # All steps of a thinning group go to one row, so the last of them stays.
        row = step // plan.thin - start // plan.thin
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=row, axis=0)
        return states, accs, jax.tree.map(lambda rows, new: put(rows, new), trace, kept)

    carry = states, accs, rows.varying_like(trace, shapes)
    states, accs, trace = jax.lax.fori_loop(start, stop, body, carry)
    spread = lambda leaf: jnp.broadcast_to(leaf, (length, *leaf.shape))  # noqa: E731
    return _in_lockstep(plan, states, spread), accs, trace


def _in_lockstep(plan: Plan, states: Any, fn: Callable[[Array], Array]) -> Any:
    """Apply `fn` to the fields in which all chains agree."""
    if not plan.lockstep:
        return states
    fields = {name: jax.tree.map(fn, getattr(states, name)) for name in plan.lockstep}
    return states._replace(**fields)


@functools.lru_cache(maxsize=64)
def init_program(algorithm: Any, params_axis: int | None) -> Callable[..., Any]:
    """Give the program that makes the states of all chains.

    Args:
        algorithm: for one chain.
        params_axis: 0 where each chain has its own parameters.

    Returns:
        `program(positions, params, keys) -> states`.
    """

    def one(position, params, key):
        if isinstance(algorithm, Kernel):
            return algorithm.init(position, params)
        return algorithm.init(position) if key is None else algorithm.init(position, key)

    return jax.jit(
        lambda positions, params, keys: jax.vmap(
            one, in_axes=(0, params_axis, None if keys is None else 0)
        )(positions, params, keys)
    )


@functools.lru_cache(maxsize=64)
def accs_program(reducers: tuple[Reducer, ...]) -> Callable[..., Any]:
    """Give the program that begins the accumulators of all chains.

    Args:
        reducers: the statistics.

    Returns:
        `program(states) -> accs`.
    """
    return jax.jit(lambda states: tuple(jax.vmap(each.init)(states) for each in reducers))


@functools.lru_cache(maxsize=64)
def reduce_program(reducers: tuple[Reducer, ...]) -> Callable[..., Any]:
    """Give the program that merges chains: by itself, on one device, when a loop is over.

    Args:
        reducers: the statistics.

    Returns:
        `program(accs) -> reduced`.
    """
    return jax.jit(
        lambda accs: tuple(
            each.finalize(each.merge(acc)) for each, acc in zip(reducers, accs, strict=True)
        )
    )


def agreed(algorithm: Any, states: Any) -> tuple[str, ...]:
    """Tell which of a kernel's `lockstep` fields are equal in all chains.

    Args:
        algorithm: the kernel.
        states: leaves `(C, ...)`.

    Returns:
        Their names.
    """

    def equal(name: str) -> bool:
        leaves = map(on_host, jax.tree.leaves(getattr(states, name)))
        return all(bool(np.all(leaf == leaf[:1])) for leaf in leaves)

    return tuple(name for name in getattr(algorithm, "lockstep", ()) if equal(name))


def chain_keys(key: PRNGKey, num_chains: int) -> Key[Array, " C"]:
    """Give the keys of the chains.

    Args:
        key: one key.
        num_chains: `C`.

    Returns:
        `item_keys(key, C)`, from a compiled program: a call at a time costs milliseconds.
    """
    return _item_keys(as_key(key), num_chains)


_item_keys = jax.jit(item_keys, static_argnums=1)


def gathered(mesh: Mesh, leaf: Array) -> Array:
    """Bring an array to the first device of a mesh, or of this process.

    Args:
        mesh: where it is.
        leaf: sharded array of any shape.

    Returns:
        The same array in one place.
    """
    if leaf.is_fully_addressable:
        return jax.device_put(leaf, mesh.devices.flat[0])
    return jnp.asarray(on_host(leaf))


def on_host(leaf: Any) -> np.ndarray:
    """Bring a whole array to the host, from all processes if need be.

    Args:
        leaf: array.

    Returns:
        NumPy array.
    """
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


@jax.jit
def owned(tree: Any) -> Any:
    """Copy arrays, so that they may be donated, with strong types, so that nothing recompiles.

    Args:
        tree: pytree of arrays.

    Returns:
        The copies.
    """

    def copy(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.copy(leaf)
        return jnp.array(leaf, dtype=leaf.dtype, copy=True)

    return jax.tree.map(copy, tree)


def count_chains(name: str, tree: Any) -> int:
    """Give the common leading length of all leaves.

    Args:
        name: the argument's name, for the messages.
        tree: pytree with leaves `(C, ...)`.

    Returns:
        `C`.

    Raises:
        ValueError: leaves of unequal length (the message names one), or none at all.

    Example:
        >>> count_chains("states", {"a": jnp.ones(3), "b": jnp.ones(4)})
        Traceback (most recent call last):
        ValueError: states['b'] has 4 chains but states['a'] has 3
    """
    first, length = "", None
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"{where} has no chain axis: its shape must be (C, ...), got ()")
        if length is not None and jnp.shape(leaf)[0] != length:
            raise ValueError(f"{where} has {jnp.shape(leaf)[0]} chains but {first} has {length}")
        first, length = first or where, jnp.shape(leaf)[0]
    if not length:
        raise ValueError(f"{name} must hold at least one chain")
    return length


def layout(
    states: Any, mesh: Mesh | None, axis_name: str | None, num_chains: int, tile: int | None
) -> tuple[Mesh, P]:
    """Decide how chains lie on devices.

    Args:
        states: pytree with leaves `(C, ...)`, whose device counts where there is no `mesh`.
        mesh: devices.
        axis_name: the axis that chains are spread over; all when `None`.
        num_chains: `C`.
        tile: chains in a block.

    Returns:
        The mesh, with axes of Auto type, and the spec of a leading chain axis.

    Raises:
        ValueError: chains that do not divide over devices and tiles, an unknown axis, or states
            on several devices without a `mesh`.
    """
    if mesh is None:
        devices = {
            device
            for leaf in jax.tree.leaves(states)
            if isinstance(leaf, jax.Array)
            for device in leaf.devices()
        }
        if len(devices) > 1:
            raise ValueError(f"states lie on {len(devices)} devices: mesh must be given")
        mesh = make_mesh(1, axis=axis_name or "chains", devices=list(devices) or None)
    if axis_name is not None and axis_name not in mesh.axis_names:
        raise ValueError(f"axis_name must be one of {mesh.axis_names}, got {axis_name!r}")
    size = mesh.size if axis_name is None else mesh.shape[axis_name]
    if tile is not None:
        checks.at_least("tile", tile, 1)
    if num_chains % (size * (tile or 1)):
        tiles = f" in tiles of {tile}" if tile else ""
        raise ValueError(
            f"{num_chains} chains do not divide over {size} devices{tiles}: "
            f"their number must be a multiple of {size * (tile or 1)}"
        )
    return auto_mesh(mesh), P(mesh.axis_names if axis_name is None else axis_name)
