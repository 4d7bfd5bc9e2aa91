r"""Many trajectories of one equation, on one device or several, each device stopping on its own.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.ensemble import solve_ensemble
>>> decay = lambda t, y, rate: -rate * y
>>> rates = jnp.array([1.0, 2.0, 3.0])
>>> solution = solve_ensemble(
...     decay, jnp.array(1.0), 0.0, 1.0, args=rates, in_axes=(None, 0), rtol=1e-6, atol=1e-9
... )
>>> print(solution.y.round(4), solution.stats.num_accepted.shape)
[0.3679 0.1353 0.0498] (3,)

No number crosses from one trajectory to another, so nothing crosses from one device to another:
each shard, and with `tile` each tile, runs until its own slowest trajectory is done. States of up
to 32 scalars are carried as separate `components`, which is faster than rows of a matrix.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probjax import sharding
from probjax.core import checks, keys, rows, trees
from probjax.diffeq import solution as records
from probjax.diffeq.adaptive import solve_adaptive
from probjax.diffeq.componentwise import (
    components,
    join_components,
    num_components,
    split_components,
)
from probjax.diffeq.runge_kutta import solve_fixed
from probjax.diffeq.solution import Solution, Stats, VectorField
from probjax.diffeq.tableaus import Tableau

LAYOUTS = ("auto", "components", "stacked")
MOST_COMPONENTS = 32
"""Up to so many scalars in a state, `layout="auto"` takes them apart."""
PILOT_TOLERANCE = 100.0
"""The pilot's tolerances over those of the solve."""

InAxes = tuple[int | None, Any]
"""For `y0` a number or `None`; for `args` the same, or a tree of them that begins like `args`."""


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
            states of up to 32 scalars whose field has a componentwise form.

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
    checks.at_least("tile", tile or 1, 1)
    mesh = sharding.make_mesh(1) if mesh is None else mesh
    dtype = records.time_dtype(y0)
    options = tuple(
        None if value is None else jnp.asarray(value, dtype)
        for value in (t0, t1, rtol, atol, first_step)
    )
    mapped, shared = leaves
    num_items = _num_items(y0 if in_axes[0] == 0 else None, mapped)
    item_keys = None if key is None else keys.item_keys(key, num_items)
    starts = y0 if in_axes[0] == 0 else None
    rest = y0 if in_axes[0] is None else None

    def run(job: _Job, items: Any, options: Any) -> Solution:
        program = sharding.map_items(job, mesh, tile=tile, in_axes=(0, None, None))
        return program(items, (rest, shared), options)

    items = (starts, mapped, item_keys)
    if order_by is None or num_items == 0:
        return run(job, items, options)
    if isinstance(order_by, str):
        checks.one_of("order_by", order_by, ("pilot",))
        if num_steps is not None:
            raise ValueError("order_by='pilot' needs adaptive steps: fixed steps take equal time")
        loose = tuple(
            value * PILOT_TOLERANCE if place in (2, 3) else value
            for place, value in enumerate(options)
        )
        order_by = run(job, jax.lax.stop_gradient(items), loose).stats.num_steps
    order_by = jax.lax.stop_gradient(jnp.asarray(order_by))
    checks.shape("order_by", order_by, (num_items,))
    dealt, back = deal(order_by, mesh.size, tile or 1)
    answers = run(job, jax.tree.map(lambda leaf: leaf[dealt], items), options)
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


class _Job(NamedTuple):
    """The solve of one trajectory. Equal jobs share a compiled program."""

    vector_field: VectorField
    diffusion: VectorField | None
    method: str | Tableau
    num_steps: int | None
    save_every: int | None
    max_steps: int
    structure: Any
    """Of `args`."""
    is_mapped: tuple[bool, ...]
    """Which of its leaves differ from trajectory to trajectory."""
    as_components: bool

    def __call__(self, item: Any, shared: Any, options: Any) -> Solution:
        start, mapped, key = item
        rest, common = shared
        y0 = rest if start is None else start
        # One place for all that every trajectory shares: a derivative is then summed over the
        # devices once, and not at every step.
        y0, common, options = rows.varying_over((y0, common, options), (start, mapped))
        args = self.args_of(mapped, common)
        solve = self._solve if self.num_steps is None else _guarded(self._solve)
        return solve(y0, args, key, options)

    def args_of(self, mapped: Sequence[Any], common: Sequence[Any]) -> Any:
        """Put `args` together again."""
        mapped, common = iter(mapped), iter(common)
        leaves = [next(mapped) if flag else next(common) for flag in self.is_mapped]
        return jax.tree.unflatten(self.structure, leaves)

    def _solve(self, y0: Any, args: Any, key: Any, options: Any) -> Solution:
        if not self.as_components:
            return self._integrate(self.vector_field, self.diffusion, y0, args, key, options)
        field = components(self.vector_field, options[0], y0, args)
        noise = None
        if self.diffusion is not None:
            noise = components(self.diffusion, options[0], y0, args)
        parts = split_components(y0, items=False), split_components(args, items=False)
        found = self._integrate(field, noise, *parts, key, options)
        return found._replace(y=join_components(found.y, y0))

    def _integrate(
        self, field: VectorField, noise: Any, y0: Any, args: Any, key: Any, options: Any
    ) -> Solution:
        t0, t1, rtol, atol, first_step = options
        if noise is not None:
            return euler_maruyama(
                field, noise, y0, t0, t1, args, key, self.num_steps, self.save_every
            )
        if self.num_steps is not None:
            return solve_fixed(
                field, y0, t0, t1, num_steps=self.num_steps, method=self.method, args=args,
                save_every=self.save_every,
            )  # fmt: skip
        return solve_adaptive(
            field, y0, t0, t1, rtol=rtol, atol=atol, args=args, method=self.method,
            first_step=first_step, max_steps=self.max_steps,
        )  # fmt: skip


def prepare(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    args: Any,
    in_axes: InAxes,
    *,
    method: str | Tableau | None,
    num_steps: int | None,
    save_every: int | None,
    rtol: ArrayLike | None,
    atol: ArrayLike | None,
    max_steps: int,
    diffusion: VectorField | None,
    key: Any,
    layout: str,
) -> tuple["_Job", Any, tuple[list[Array], list[Array]]]:
    """Check the arguments of an ensemble, and part what is shared from what is not.

    Args:
        vector_field: as for `solve_ensemble`, and so are the others.
        y0: starts.
        t0: where to begin.
        args: what the field gets besides.
        in_axes: which of them have a leading axis.
        method: the method.
        num_steps: how many fixed steps.
        save_every: which of them are kept.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: adaptive steps that may be tried.
        diffusion: noise.
        key: its key.
        layout: how the state is carried.

    Returns:
        The solve of one trajectory, the starts as arrays, and the leaves of `args`: those with
        and those without a leading axis.

    Raises:
        ValueError: as for `solve_ensemble`.

    Example:
        >>> options = dict(
        ...     method=None, num_steps=3, save_every=None, rtol=None, atol=None, max_steps=9,
        ...     diffusion=None, key=None, layout="auto",
        ... )
        >>> field = lambda t, y, rate: -rate * y
        >>> prepare(field, 1.0, 0.0, jnp.ones(5), (0, None), **options)
        Traceback (most recent call last):
        ValueError: y0 must have a leading axis of trajectories, got shape ()
    """
    checks.one_of("layout", layout, LAYOUTS)
    if num_steps is None and (rtol is None or atol is None):
        raise ValueError("either num_steps or both rtol and atol must be given")
    if num_steps is not None:
        checks.at_least("num_steps", num_steps, 1)
        if rtol is not None or atol is not None:
            raise ValueError("num_steps and tolerances must not be given together")
    elif save_every is not None:
        raise ValueError(f"save_every needs num_steps, got save_every={save_every}")
    else:
        records.check_tolerances(rtol, atol)
    if (diffusion is None) != (key is None):
        raise ValueError("diffusion and key must be given together")
    if diffusion is not None and (num_steps is None or method is not None):
        raise ValueError("diffusion needs num_steps, and its method is Euler-Maruyama's")
    y0 = records.checked_state(y0)
    axes = jax.tree.broadcast(in_axes[1], args, is_leaf=lambda axis: axis is None)
    axes = jax.tree.leaves(axes, is_leaf=lambda axis: axis is None)
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, args))
    for axis in (in_axes[0], *axes):
        if axis not in (0, None):
            raise ValueError(f"in_axes must hold 0 or None, got {axis}")
    is_mapped = tuple(axis == 0 for axis in axes[: len(leaves)])
    if in_axes[0] is None and not any(is_mapped):
        raise ValueError("in_axes must hold 0 at least once")
    for name, tree, flag in [("y0", y0, in_axes[0] == 0)] + [
        ("args", leaf, flag) for leaf, flag in zip(leaves, is_mapped, strict=True)
    ]:
        for leaf in jax.tree.leaves(tree):
            if flag and leaf.ndim == 0:
                raise ValueError(f"{name} must have a leading axis of trajectories, got shape ()")
    mapped = [leaf for leaf, flag in zip(leaves, is_mapped, strict=True) if flag]
    shared = [leaf for leaf, flag in zip(leaves, is_mapped, strict=True) if not flag]
    job = _Job(
        vector_field, diffusion, method or "tsit5", num_steps, save_every, max_steps, structure,
        is_mapped, False,
    )  # fmt: skip
    one = y0 if in_axes[0] is None else _first(y0)
    given = job.args_of(_first(mapped), [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shared])
    for field in (vector_field, diffusion):
        if field is not None:
            records.check_field(field, jnp.zeros(()), one, given)
    if layout == "components" or (layout == "auto" and num_components(one) <= MOST_COMPONENTS):
        try:
            for field in (vector_field, diffusion):
                if field is not None:
                    components(field, jnp.zeros((), records.time_dtype(one)), one, given)
            job = job._replace(as_components=True)
        except NotImplementedError:
            if layout == "components":
                raise
    return job, y0, (mapped, shared)


def euler_maruyama(
    drift: VectorField,
    diffusion: VectorField,
    y0: Any,
    t0: Array,
    t1: Array,
    args: Any,
    key: keys.PRNGKey,
    num_steps: int,
    save_every: int | None = None,
) -> Solution:
    r"""Integrate one trajectory with an own Brownian motion for each entry of the state.

    $$y_{k+1}=y_k+h\,f(t_k,y_k)+\sqrt{|h|}\,g(t_k,y_k)\,z_k$$

    Step k draws all its normals as one vector from `fold_in(key, k)`, the leaves one after the
    other.

    Args:
        drift: `drift(t, y, args)`.
        diffusion: `diffusion(t, y, args)`, like `y`.
        y0: start.
        t0: where to begin.
        t1: where to end.
        args: what both get besides.
        key: the trajectory's key.
        num_steps: how many steps.
        save_every: as for `solve_fixed`.

    Returns:
        The solution.

    Example:
        >>> zero, one = (lambda t, y, args: jnp.zeros_like(y)), (lambda t, y, args: jnp.ones_like(y))
        >>> key, ends = jax.random.key(0), (jnp.array(0.0), jnp.array(4.0))
        >>> end = euler_maruyama(zero, one, jnp.zeros(2), *ends, None, key, 1).y
        >>> print(end == 2 * jax.random.normal(jax.random.fold_in(key, 0), (2,)))
        [ True  True]
    """
    dtype = records.time_dtype(y0)
    step_size = (t1 - t0) / num_steps
    every = num_steps if save_every is None else checks.at_least("save_every", save_every, 1)
    if num_steps % every:
        raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    leaves, structure = jax.tree.flatten(y0)
    sizes = [leaf.size for leaf in leaves]

    def normals(k: Array) -> Any:
        z = jax.random.normal(jax.random.fold_in(key, k), (sum(sizes),), dtype)
        parts = [
            z[start - size : start].reshape(leaf.shape)
            for start, size, leaf in zip(_ends(sizes), sizes, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)

    @jax.checkpoint
    def body(carry: Any, k: Array) -> tuple[Any, None]:
        y, accepted = carry
        t = t0 + k.astype(dtype) * step_size
        moved = em_step(drift, diffusion, t, y, step_size, args, normals(k))
        good = (accepted == k) & trees.all_finite(moved)
        y = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, y)
        return (y, accepted + good.astype(jnp.int32)), None

    def block(carry: Any, start: Array) -> tuple[Any, Any]:
        carry = jax.lax.scan(body, carry, start + jnp.arange(every, dtype=jnp.int32))[0]
        return carry, carry

    carry = (y0, jnp.zeros((), jnp.int32))
    after = jax.eval_shape(body, carry, jnp.zeros((), jnp.int32))[0]
    carry = rows.varying_like(carry, after)
    starts = every * jnp.arange(num_steps // every, dtype=jnp.int32)
    (y, accepted), (kept, counts) = jax.lax.scan(block, carry, starts)
    done = accepted == num_steps
    tried = jnp.where(done, accepted, accepted + 1)
    stats = Stats(tried, accepted, jnp.zeros_like(tried), tried)
    result = jnp.where(done, records.REACHED, records.NON_FINITE).astype(jnp.int32)
    if save_every is None:
        return Solution(t1, y, stats, result)
    ks = jnp.arange(0, num_steps + 1, every, dtype=jnp.int32)
    reached = jnp.concatenate([counts[:1] >= 0, counts == ks[1:]])

    def with_start(first: Array, rest: Array) -> Array:
        flags = reached.reshape(-1, *(1,) * first.ndim)
        return jnp.where(flags, jnp.concatenate([first[None], rest]), jnp.nan)

    y = jax.tree.map(with_start, rows.varying_like(y0, y), kept)
    return Solution(t0 + ks.astype(dtype) * step_size, y, stats, result)


def em_step(
    drift: VectorField, diffusion: VectorField, t: Any, y: Any, h: Any, args: Any, z: Any
) -> Any:
    r"""Take one step of Euler and Maruyama: $y+h\,f+\sqrt{|h|}\,g\,z$.

    Args:
        drift: `drift(t, y, args)`.
        diffusion: `diffusion(t, y, args)`, like `y`.
        t: time.
        y: state.
        h: size of the step, with its sign.
        args: what both get besides.
        z: standard normals, like `y`.

    Returns:
        The state at `t + h`.

    Example:
        >>> ones = lambda t, y, args: jnp.ones_like(y)
        >>> print(em_step(ones, ones, 0.0, jnp.zeros(()), jnp.array(0.25), None, jnp.array(2.0)))
        1.25
    """
    f, g = drift(t, y, args), diffusion(t, y, args)
    root = jnp.sqrt(jnp.abs(h))
    return jax.tree.map(lambda y, f, g, z: y + h * f + root * (g * z), y, f, g, z)


def _guarded(solve: Callable[..., Solution]) -> Callable[..., Solution]:
    """Give a solve a zero derivative where it fails."""

    def wrapped(y0: Any, args: Any, key: Any, options: Any) -> Solution:
        leaves, structure = jax.tree.flatten((y0, args, options))
        smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

        def run(moving: Any, fixed: Any, key: Any) -> Solution:
            moving, fixed = iter(moving), iter(fixed)
            joined = [next(moving) if flag else next(fixed) for flag in smooth]
            y0, args, options = jax.tree.unflatten(structure, joined)
            return solve(y0, args, key, options)

        guarded = jax.custom_jvp(run)

        @guarded.defjvp
        def rule(primals: Any, tangents: Any) -> Any:
            moving, fixed, key = primals
            solution, push = jax.linearize(lambda moving: run(moving, fixed, key), moving)
            good = solution.result == records.REACHED

            def gate(tree: Any) -> Any:
                return jax.tree.map(lambda x: jnp.where(good, x, jnp.zeros_like(x)), tree)

            pushed = push(gate(tangents[0]))
            return solution, pushed._replace(t=gate(pushed.t), y=gate(pushed.y))

        moving = [leaf for leaf, flag in zip(leaves, smooth, strict=True) if flag]
        fixed = [leaf for leaf, flag in zip(leaves, smooth, strict=True) if not flag]
        return guarded(moving, fixed, key)

    return wrapped


def _ends(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[: k + 1]) for k in range(len(sizes))]


def _first(tree: Any) -> Any:
    """Shapes of one trajectory."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def _num_items(starts: Any, mapped: Sequence[Array]) -> int:
    counts = {leaf.shape[0] for leaf in jax.tree.leaves((starts, mapped))}
    if len(counts) != 1:
        raise ValueError(f"y0 and args must have one leading length, got {sorted(counts)}")
    return counts.pop()
