r"""Many trajectories of one equation, on one device or several, each device stopping on its own.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.ensemble import solve_ensemble
>>> decay = lambda t, y, rate: -rate * y
>>> rates = jnp.array([1.0, 2.0, 3.0])
>>> solution = solve_ensemble(
...     decay, jnp.array(1.0), 0.0, 1.0, args=rates, in_axes=(None, 0), rtol=1e-6, atol=1e-9
... )
>>> print(jnp.exp(-rates) - solution.y < 1e-5, solution.stats.num_accepted.shape)
[ True  True  True] (3,)

No number crosses from one trajectory to another, so nothing crosses from one device to another:
each shard, and with `tile` each tile, runs until its own slowest trajectory is done. Fields of
states of up to 32 scalars are written out as `components`, which is faster than rows.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probjax import sharding
from probjax.core import checks, keys
from probjax.diffeq import solution as records
from probjax.diffeq.ensemble_job import InAxes, prepare
from probjax.diffeq.solution import Solution, VectorField
from probjax.diffeq.tableaus import Tableau

PILOT_TOLERANCE = 100.0
"""The pilot's tolerances over those of the solve."""


def solve_ensemble(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    args: Any = None,
    in_axes: InAxes = (0, None),
    method: str | Tableau | None = None,
    num_steps: int | None = None,
    save_every: int | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    first_step: ArrayLike | None = None,
    max_steps: int = 4096,
    diffusion: VectorField | None = None,
    key: keys.PRNGKey | None = None,
    mesh: Mesh | None = None,
    tile: int | None = None,
    order_by: str | ArrayLike | None = None,
    layout: str = "auto",
) -> Solution:
    r"""Integrate `N` trajectories, in fixed steps or each in its own adaptive ones.

    $$\dot y_i=f(t,y_i,args_i),\qquad i=1,\dots,N$$

    With `diffusion` $g$ the equation is $dy=f\,dt+g\,dW$ with an own Brownian motion for each entry
    of `y`, and the step is Euler-Maruyama's: trajectory i at step k draws from
    `fold_in(fold_in(key, i), k)`, wherever it runs.

    Args:
        vector_field: `vector_field(t, y, args) -> dy` of one trajectory.
        y0: starts, a pytree.
        t0: where to begin.
        t1: where to end.
        args: what the field gets besides, a pytree.
        in_axes: which of `y0` and `args` have a leading axis of trajectories: 0 or `None` for each,
            for `args` also a tree of them. By default `y0` has one and `args` are shared.
        method: a tableau or its name; `"tsit5"` if left out.
        num_steps: how many fixed steps. Either this or the tolerances.
        save_every: as for `solve_fixed`; with fixed steps only.
        rtol: relative tolerance of adaptive steps.
        atol: absolute tolerance.
        first_step: as for `solve_adaptive`.
        max_steps: adaptive steps that may be tried.
        diffusion: `diffusion(t, y, args)`, like `y`; fixed steps only, and then no `method`.
        key: for the noise.
        mesh: devices; the default device alone when `None`.
        tile: trajectories in a tile. Tiles run one after the other: the same bits on any number of
            devices, less waiting for the slowest, and less memory traffic.
        order_by: a difficulty for each trajectory `(N,)`, or `"pilot"`: the steps that a loose run
            takes. Neighbours in difficulty then share a tile, and tiles are dealt to the devices in
            turns. The answers come in the original order.
        layout: `"components"`, `"stacked"` (a `vmap` of the field), or `"auto"`: components for
            states of up to 32 scalars whose field has such a form; else stacked.

    Returns:
        A `Solution` whose every field has the leading axis `N`. A trajectory that fails keeps its
        last finite state and has a zero derivative; all others keep their numbers.

    Raises:
        ValueError: neither or both of `num_steps` and tolerances; a bad `layout`, `order_by` or
            `tile`; and as for `solve_fixed` and `solve_adaptive`.
        TypeError: as for these.
        NotImplementedError: `layout="components"` for a field that has no such form.

    Example:
        >>> spring = lambda t, y, args: jnp.stack([y[1], -args * y[0]])
        >>> y0 = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> ends = solve_ensemble(spring, y0, 0.0, jnp.pi, args=1.0, method="rk4", num_steps=30).y
        >>> print(ends.round(3))
        [[-1. -0.]
         [ 0. -1.]]
    """
    job, y0, leaves = prepare(
        vector_field, y0, t0, args, in_axes, method=method, num_steps=num_steps,
        save_every=save_every, rtol=rtol, atol=atol, max_steps=max_steps, diffusion=diffusion,
        key=key, layout=layout,
    )  # fmt: skip
    options = (t0, t1, rtol, atol, first_step)
    return run_ensemble(job, y0, leaves, options, in_axes, key, mesh, tile, order_by)


def run_ensemble(
    job: Any,
    y0: Any,
    leaves: tuple[list[Array], list[Array]],
    options: Sequence[Any],
    in_axes: InAxes,
    key: Any,
    mesh: Mesh | None,
    tile: int | None,
    order_by: Any,
    *,
    check_vma: bool = True,
) -> Any:
    """Map the solve of a block of trajectories over devices and tiles.

    Args:
        job: `job(items, shared, options)`, the solve of a block; it has `num_steps`.
        y0: starts.
        leaves: those of `args`, of shapes `(N, ...)` and without that axis.
        options: `t0, t1, rtol, atol, first_step`.
        in_axes: as for `solve_ensemble`, and so are the others.
        key: for the noise.
        mesh: devices.
        tile: trajectories in a tile.
        order_by: difficulties.
        check_vma: as for `sharding.map_rows`.

    Returns:
        The solution of all trajectories, in their order.

    Raises:
        ValueError: lengths that differ, or a bad `tile` or `order_by`.

    Example:
        >>> job = lambda items, shared, options: Solution(items[0], items[0] + 1, None, items[0])
        >>> ends = (0.0, 1.0, None, None, None)
        >>> y0 = jnp.arange(3.0)
        >>> print(run_ensemble(job, y0, ([], []), ends, (0, None), None, None, None, None).y)
        [1. 2. 3.]
    """
    checks.at_least("tile", tile or 1, 1)
    mesh = sharding.make_mesh(1) if mesh is None else mesh
    dtype = records.time_dtype(y0)
    options = tuple(None if value is None else jnp.asarray(value, dtype) for value in options)
    mapped, shared = leaves
    starts, rest = (y0, None) if in_axes[0] == 0 else (None, y0)
    counts = {leaf.shape[0] for leaf in jax.tree.leaves((starts, mapped))}
    if len(counts) != 1:
        raise ValueError(f"y0 and args must have one leading length, got {sorted(counts)}")
    num_items = counts.pop()

    def run(items: Any, options: Any) -> Any:
        program = sharding.map_rows(
            job, mesh, tile=tile, in_axes=(0, None, None), check_vma=check_vma
        )
        return program(items, (rest, shared), options)

    items = (starts, mapped, None if key is None else keys.item_keys(key, num_items))
    if num_items == 0:
        # Shapes of the answer to one; a record cannot be referred to weakly, as a trace wants.
        one = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), items
        )
        found = jax.eval_shape(lambda *given: job(*given), one, (rest, shared), options)
        return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape[1:]), leaf.dtype), found)
    if order_by is None:
        return run(items, options)
    if isinstance(order_by, str):
        checks.one_of("order_by", order_by, ("pilot",))
        if job.num_steps is not None:
            raise ValueError("order_by='pilot' needs adaptive steps: fixed steps take equal time")
        loose = [option * PILOT_TOLERANCE for option in options[2:4]]
        pilot = run(jax.lax.stop_gradient(items), (*options[:2], *loose, options[4]))
        order_by = pilot.stats.num_steps
    order_by = jax.lax.stop_gradient(jnp.asarray(order_by))
    checks.shape("order_by", order_by, (num_items,))
    dealt, back = deal(order_by, mesh.size, tile or 1)
    answers = run(jax.tree.map(lambda leaf: leaf[dealt], items), options)
    return jax.tree.map(lambda leaf: leaf[back], answers)


def deal(
    difficulty: Int[Array, "n"] | Float[Array, "n"], num_shards: int, tile: int
) -> tuple[Int[Array, "m"], Int[Array, "n"]]:
    """Sort items, the hardest first, and deal tiles of neighbours to shards in turns.

    Args:
        difficulty: a number for each item.
        num_shards: how many shards, each of which gets as many items.
        tile: items in a tile.

    Returns:
        The items' indices `(m,)` shard after shard, `m` a multiple of `num_shards * tile` (the
        easiest item fills up); and the place `(n,)` of each item in that order.

    Example:
        >>> dealt, back = deal(jnp.array([1, 9, 5, 3]), num_shards=2, tile=1)
        >>> print(dealt, back, dealt[back])
        [1 3 2 0] [3 0 2 1] [0 1 2 3]
    """
    num_items = difficulty.shape[0]
    rounds = -(-num_items // (num_shards * tile))
    order = jnp.argsort(-difficulty, stable=True)
    total = rounds * num_shards * tile
    padded = order[jnp.minimum(jnp.arange(total), num_items - 1)]
    places = jnp.arange(total).reshape(rounds, num_shards, tile).transpose(1, 0, 2).reshape(-1)
    # Where the k-th of the sorted items stands, and so where item order[k] stands.
    stands = jnp.zeros_like(places).at[places].set(jnp.arange(total))
    back = jnp.zeros_like(order).at[order].set(stands[:num_items])
    return padded[places], back
