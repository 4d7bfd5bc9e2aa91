"""Running kernels: the loop inside your own program, and many chains on many devices.

The key of chain `c` at step `t` is `fold_in(fold_in(key, c), t)`, so a run cut in two gives the
numbers of one run, and so does a run on other devices:

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc, sharding
>>> algorithm = mcmc.ula(lambda x: -x, 0.1)
>>> key, states = jax.random.key(0), mcmc.init_chains(algorithm, jnp.zeros((8, 2)))
>>> whole = mcmc.run_chains(key, algorithm, states, 10)
>>> half = mcmc.run_chains(key, algorithm, states, 5)
>>> mesh = sharding.make_mesh(4)
>>> again = mcmc.run_chains(key, algorithm, states, 10, start=half, mesh=mesh)
>>> again.step, jnp.allclose(whole.states.position, jax.device_get(again.states.position))
(10, Array(True, dtype=bool))
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from probjax.core import checks, rows
from probjax.core.keys import PRNGKey, RowKeys, as_key, step_key, stream
from probjax.mcmc.kernels import Kernel
from probjax.mcmc.program import (
    Plan,
    accs_program,
    agreed,
    chain_keys,
    count_chains,
    gathered,
    init_program,
    layout,
    on_host,
    owned,
    pmap_program,
    reduce_program,
    sampling_program,
)
from probjax.mcmc.reducers import Reducer
from probjax.mcmc.runs import HostTrace, Run, check_start
from probjax.sharding import loops, make_mesh, place, same_bits_options

State = TypeVar("State")


def row_step_key(key: RowKeys, step: int | Int[Array, ""]) -> Key[Array, "*keys"]:
    """Return the key of step `step`, or one for each row where `key` holds one for each row.

    Args:
        key: one key, or keys of any shape.
        step: global step.

    Returns:
        Keys of the same shape.

    Example:
        >>> row_step_key(jax.random.split(jax.random.key(0), 3), 7).shape
        (3,)
    """
    key = as_key(key)
    fold = step_key
    for _ in range(key.ndim):
        fold = jax.vmap(fold, in_axes=(0, None))
    return fold(key, step)


def scan_steps(
    key: RowKeys,
    step_fn: Callable[[Any, State], tuple[State, Any]],
    state: State,
    num_steps: int,
    *,
    start: int | Int[Array, ""] = 0,
    trace_fn: Callable[[State, Any], Any] | None = None,
) -> tuple[State, Any, Any]:
    r"""Apply a kernel `num_steps` times in one `lax.scan`, adding up what it reports.

    $$(state_{t+1}, info_t) = step\_fn(\text{fold\_in}(key, t), state_t)$$

    Memory does not grow with `num_steps` unless `trace_fn` keeps something, and neither does
    the time to compile.

    Args:
        key: one key, or a key for each row.
        step_fn: a kernel's `step(key, state) -> (state, info)`.
        state: the state to start from.
        num_steps: how many steps, zero included.
        start: global index of the first step.
        trace_fn: what to keep of each step, from the state after it and its info.

    Returns:
        The last state; `info` summed over the steps, where flags are joined by "or"; and
        what `trace_fn` kept, with a leading axis of `num_steps`, or `None`.

    Raises:
        ValueError: `num_steps` is negative.

    Example:
        >>> step_fn = lambda key, state: (state + 1, state > 2)
        >>> scan_steps(jax.random.key(0), step_fn, jnp.array(0), 4)
        (Array(4, dtype=int32...), Array(True, dtype=bool), None)
    """
    checks.at_least("num_steps", num_steps, 0)

    def body(carry: tuple[State, Any], step: Int[Array, ""]) -> tuple[tuple[State, Any], Any]:
        before, totals = carry
        after, info = step_fn(row_step_key(key, step), before)
        kept = trace_fn(after, info) if trace_fn else None
        return (after, jax.tree.map(_add, totals, info)), kept

    steps = jnp.asarray(start, jnp.int32) + jnp.arange(num_steps, dtype=jnp.int32)
    shape_of = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.tree.map(jnp.asarray, state)
    after, info = jax.eval_shape(
        lambda step, before: step_fn(row_step_key(key, step), before), shape_of, state
    )
    totals = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
    carry = rows.varying_like((state, totals), (after, info))
    (state, totals), trace = jax.lax.scan(body, carry, steps)
    return state, totals, trace


def init_chains(
    algorithm: SamplingAlgorithm | Kernel,
    positions: Any,
    *,
    params: Any = None,
    params_axis: int | None = None,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
    key: PRNGKey | None = None,
) -> Any:
    """Make the states of many chains and put them on their devices.

    Args:
        algorithm: for one chain.
        positions: pytree with leaves `(C, ...)`.
        params: for a `Kernel`.
        params_axis: 0 where each chain has parameters of its own, with leaves `(C, ...)`.
        mesh: devices; as for `run_chains`.
        axis_name: the mesh axis that chains are spread over; all axes when `None`.
        key: for kernels whose `init` draws; chain `c` gets the `init` stream of its own key.

    Returns:
        States with leaves `(C, ...)`.

    Raises:
        ValueError: leaves of unequal length; chains that do not divide over the devices; a state
            that is not finite, such as that of a start outside the support (the message lists
            the chains).

    Example:
        >>> import blackjax
        >>> algorithm = blackjax.mala(lambda x: jnp.log(x[0]), 0.1)
        >>> init_chains(algorithm, jnp.array([[1.0], [-1.0], [2.0]]))
        Traceback (most recent call last):
        ValueError: states.logdensity is not finite in chains [1]
    """
    num_chains = count_chains("positions", positions)
    _check_params(algorithm, params, params_axis, num_chains)
    keys = None if key is None else stream(chain_keys(key, num_chains), "init")
    states = init_program(algorithm, params_axis)(positions, params, keys)
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            fine = np.isfinite(on_host(leaf)).reshape(num_chains, -1).all(axis=1)
            if not fine.all():
                bad = np.flatnonzero(~fine)
                more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
                where = f"states{jax.tree_util.keystr(path)}"
                raise ValueError(f"{where} is not finite in chains {bad[:10].tolist()}{more}")
    mesh, spec = layout(states, mesh, axis_name, num_chains, None)
    return place(states, mesh, spec)


def run_chains(
    key: PRNGKey,
    algorithm: SamplingAlgorithm | Kernel,
    states: Any,
    num_steps: int,
    *,
    params: Any = None,
    params_axis: int | None = None,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
    reducers: tuple[Reducer, ...] = (),
    trace_fn: Callable[[Any, Any], Any] | None = None,
    thin: int = 1,
    chunk_size: int | None = None,
    start: Run | None = None,
    on_chunk: Callable[[Run], bool | None] | None = None,
    deadline: float | None = None,
    tile: int | None = None,
    check_vma: bool | None = None,
) -> Run:
    r"""Run many chains, spread over devices that never wait for each other.

    $$(x_{c,t+1}, info) = step(\text{fold\_in}(\text{fold\_in}(key, c), t), x_{c,t}),
      \qquad c=0,\dots,C-1,\ t=0,\dots,num\_steps-1$$

    The program is `jit(shard_map(loop(vmap(step))))`. It holds no collective, is compiled once for
    an algorithm, its options and shapes, and serves last chunks and resumed runs too. Memory on
    the devices does not grow with `num_steps` if there is no `trace_fn`, or if there are chunks.

    Args:
        key: one key for all chains.
        algorithm: for one chain. A `SamplingAlgorithm`, or a `Kernel` with `params`.
        states: leaves `(C, ...)`, from `init_chains`; not used where there is a `start`.
        num_steps: steps of the whole run, those of `start` included.
        params: what the kernel's `step` takes; traced, so that other values compile nothing.
        params_axis: `None` where the chains share them, 0 for leaves `(C, ...)`.
        mesh: devices, a number of them that divides `C`. `None`: the device that `states` are on.
        axis_name: the mesh axis that chains are spread over; all axes when `None`.
        reducers: statistics to gather, of every step.
        trace_fn: what to keep of one chain's state and info. The trace of `start` is continued.
        thin: keep step `t` where `(t + 1) % thin == 0`.
        chunk_size: steps between two looks of the host, where traces move there; all at once
            when `None`.
        start: go on from this run.
        on_chunk: gets the run so far (its own copy) after each chunk; `True` ends the run there.
        deadline: wall seconds after which no further chunk is started.
        tile: chains in a block. Then all devices run blocks of just this shape, one after the
            other, and 1, 2, 4, 8 devices give the same bits. Without it, as a rule only kernels of
            plain arithmetic do, others agree up to rounding.
        check_vma: `shard_map`'s check; when `None`, on unless the kernel is marked.

    Returns:
        The run. An interrupt (Ctrl-C, SIGTERM) ends it at the border of the next chunk.

    Raises:
        ValueError: `C` does not divide by the devices (and tiles); leaves of unequal length;
            `num_steps` negative or before `start`; `thin` or `chunk_size` below 1; a `start` of
            another key, thinning or list of reducers.
        TypeError: `params` without a `Kernel`, or a `Kernel` without `params`.

    Example:
        >>> from probjax import mcmc
        >>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum(x**2), 5)
        >>> params = mcmc.HMCParams(0.3, jnp.ones(2))
        >>> states = init_chains(kernel, jnp.zeros((8, 2)), params=params)
        >>> run = run_chains(jax.random.key(0), kernel, states, 100, params=params,
        ...                  trace_fn=lambda state, info: state.position, thin=10)
        >>> run.trace.shape
        (8, 10, 2)
    """
    checks.at_least("num_steps", num_steps, 0)
    checks.at_least("thin", thin, 1)
    reducers, key = tuple(reducers), as_key(key)
    if start is not None:
        check_start(start, key, num_steps, reducers, thin)
        states = start.states
    step = first = 0 if start is None else int(start.step)
    chunk_size = max(num_steps - first, 1) if chunk_size is None else chunk_size
    checks.at_least("chunk_size", chunk_size, 1)
    num_chains = count_chains("states", states)
    _check_params(algorithm, params, params_axis, num_chains)
    mesh, spec = layout(states, mesh, axis_name, num_chains, tile)
    check = getattr(algorithm, "vma_clean", True) if check_vma is None else check_vma
    num_rows = (chunk_size + thin - 2) // thin + 1 if trace_fn else 0
    plan = Plan(
        algorithm, reducers, trace_fn, thin, num_rows, params_axis, mesh, spec, tile, check,
        agreed(algorithm, states),
    )  # fmt: skip

    given = states, params, chain_keys(key, num_chains), () if start is None else start.accs
    shared = P() if params_axis is None else spec
    states, params, keys, accs = place(given, mesh, (spec, shared, spec, spec))
    if start is None and reducers:
        accs = accs_program(reducers)(states)
    # Chunks donate their states to the next: what the caller holds is copied first.
    states, params, accs = owned((states, params, accs))
    program = sampling_program(tuple(sorted(same_bits_options(mesh).items())) if tile else ())
    trace = None if start is None else start.trace
    trace = HostTrace(trace, first, num_steps, thin) if trace_fn else None

    def run() -> Run:
        gather = functools.partial(gathered, mesh)
        reduced = reduce_program(reducers)(jax.tree.map(gather, accs)) if reducers else ()
        return Run(states, step, accs, reduced, trace and trace.so_far(step), key, thin)

    begun = time.monotonic()
    with loops.SignalFlag() as interrupted:
        while step < num_steps:
            stop = min(step + chunk_size, num_steps)
            with _hint(check):
                states, accs, kept = program(
                    plan, states, accs, keys, params, np.int32(step), np.int32(stop)
                )
            if trace:
                trace.take(kept, step, stop)
            jax.block_until_ready(states)
            step = stop
            late = deadline is not None and time.monotonic() - begun >= deadline
            ending = loops.agreed_reason("signal" if interrupted() else "deadline" if late else "")
            if on_chunk is not None:
                seen = run()
                if on_chunk(seen) is True or ending or step == num_steps:
                    return seen
                states, accs = owned((states, accs))
            elif ending:
                break
    if trace and step == first:
        empty = jax.eval_shape(
            functools.partial(sampling_program(), plan), states, accs, keys, params, step, step
        )[2]
        trace.take(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty), step, step)
    return run()


def pmap_chains(
    key: PRNGKey,
    algorithm: SamplingAlgorithm | Kernel,
    states: Any,
    num_steps: int,
    *,
    params: Any = None,
    params_axis: int | None = None,
    mesh: Mesh | None = None,
    reducers: tuple[Reducer, ...] = (),
    trace_fn: Callable[[Any, Any], Any] | None = None,
    thin: int = 1,
) -> Run:
    """Do what `run_chains` does, in one chunk, through `jax.pmap`, which is in maintenance.

    For code that lives under `pmap`, and for tests that hold the two against each other.

    Args:
        key: one key for all chains.
        algorithm: for one chain.
        states: leaves `(C, ...)`.
        num_steps: steps.
        params: as for `run_chains`.
        params_axis: as for `run_chains`.
        mesh: devices, of which only the flat order counts; all when `None`.
        reducers: as for `run_chains`.
        trace_fn: as for `run_chains`.
        thin: as for `run_chains`.

    Returns:
        The run.

    Raises:
        ValueError: as `run_chains`.

    Example:
        >>> from probjax import mcmc
        >>> algorithm = mcmc.ula(lambda x: -x, 0.1)
        >>> states = init_chains(algorithm, jnp.zeros((8, 1)))
        >>> pmap_chains(jax.random.key(0), algorithm, states, 3).states.position.shape
        (8, 1)
    """
    checks.at_least("num_steps", num_steps, 0)
    checks.at_least("thin", thin, 1)
    reducers, key, num_chains = tuple(reducers), as_key(key), count_chains("states", states)
    _check_params(algorithm, params, params_axis, num_chains)
    mesh, spec = layout(states, make_mesh() if mesh is None else mesh, None, num_chains, None)
    plan = Plan(
        algorithm, reducers, trace_fn, thin, num_steps // thin + 1 if trace_fn else 0,
        params_axis, mesh, spec, None, False, agreed(algorithm, states),
    )  # fmt: skip
    shape = mesh.size, num_chains // mesh.size

    def split(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)

    # `pmap` refuses what is committed to other devices.
    states = jax.tree.map(on_host, states)
    given = split((states, accs_program(reducers)(states), chain_keys(key, num_chains)))
    params = params if params_axis is None else split(params)
    steps = np.int32(0), np.int32(num_steps)
    states, accs, kept = pmap_program(plan)(*given, params, *steps)
    whole = lambda leaf: leaf.reshape(num_chains, *leaf.shape[2:])  # noqa: E731
    states, accs = jax.tree.map(whole, (states, accs))
    trace = None
    if trace_fn:
        trace = HostTrace(None, 0, num_steps, thin)
        kept = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, 1), kept)
        joined = lambda leaf: leaf.reshape(len(leaf), num_chains, *leaf.shape[3:])  # noqa: E731
        trace.take(jax.tree.map(joined, kept), 0, num_steps)
    return Run(
        states, num_steps, accs, reduce_program(reducers)(accs), trace and trace.so_far(num_steps),
        key, thin,
    )  # fmt: skip


def _check_params(algorithm: Any, params: Any, params_axis: int | None, num_chains: int) -> None:
    if isinstance(algorithm, Kernel) and params is None:
        raise TypeError("params must be given: algorithm is a Kernel, whose step takes them")
    if not isinstance(algorithm, Kernel) and params is not None:
        name = type(algorithm).__name__
        raise TypeError(f"params go with a Kernel, but algorithm is a {name}, which takes none")
    if params_axis not in (None, 0):
        raise ValueError(f"params_axis must be None or 0, got {params_axis!r}")
    if params_axis == 0 and (found := count_chains("params", params)) != num_chains:
        raise ValueError(f"params are for {found} chains but there are {num_chains}")
    named = params if isinstance(params, Mapping) else getattr(params, "_asdict", dict)()
    if "step_size" in named:
        checks.positive("params.step_size", named["step_size"])


@contextlib.contextmanager
def _hint(check_vma: bool) -> Iterator[None]:
    """Say what to do where a kernel does not pass `shard_map`'s check."""
    try:
        yield
    except Exception as error:
        if check_vma and "varying" in str(error):
            error.add_note("This kernel does not pass shard_map's check; pass check_vma=False.")
        raise


def _add(total: Array, value: ArrayLike) -> Array:
    """Numbers are summed, flags are joined; some infos hold plain numbers."""
    return total | value if total.dtype == jnp.bool_ else total + value
