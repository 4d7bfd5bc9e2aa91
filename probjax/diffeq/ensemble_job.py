"""The solve of an ensemble's block of trajectories: what `solve_ensemble` maps over devices.

>>> import jax.numpy as jnp
>>> ones = lambda t, y, args: jnp.ones_like(y)
>>> print(em_step(ones, ones, 0.0, jnp.zeros(()), jnp.array(0.25), None, jnp.array(2.0)))
1.25
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from probjax.core import checks, rows
from probjax.diffeq import solution as records
from probjax.diffeq.adaptive import solve_adaptive
from probjax.diffeq.component_loops import fixed_steps
from probjax.diffeq.componentwise import (
    components,
    join_components,
    num_components,
    split_components,
)
from probjax.diffeq.runge_kutta import rk_step, solve_fixed
from probjax.diffeq.solution import Solution, Stats, VectorField
from probjax.diffeq.tableaus import Tableau, as_tableau

LAYOUTS = ("auto", "components", "stacked")
"""What `solve_ensemble` takes as `layout`."""
MOST_COMPONENTS = 32
"""Up to so many scalars in a state, `layout="auto"` takes them apart."""

InAxes = tuple[int | None, Any]
"""For `y0` a number or `None`; for `args` the same, or a tree of them that begins like `args`."""


class Job(NamedTuple):
    """The solve of one trajectory. Equal jobs share a compiled program."""

    vector_field: VectorField
    """`vector_field(t, y, args)`."""
    diffusion: VectorField | None
    """Of a stochastic equation, likewise; `None` for an ordinary one."""
    method: str | Tableau
    """What `solve_ensemble` got."""
    num_steps: int | None
    """Fixed steps; `None` for adaptive ones."""
    save_every: int | None
    """Steps between states kept; `None` keeps the last."""
    max_steps: int
    """Bound of adaptive steps."""
    structure: Any
    """Of `args`."""
    is_mapped: tuple[bool, ...]
    """Which of its leaves differ from trajectory to trajectory."""
    as_components: bool
    """Whether a state is taken apart into scalars."""

    def __call__(self, items: Any, shared: Any, options: Any) -> Solution:
        """Solve a block of trajectories, `items = (starts, mapped, keys)`."""
        if self.as_components:
            solve = self._adaptive if self.num_steps is None else self._loop
            return solve(items, shared, options)

        def one(item: Any) -> Solution:
            start, mapped, _ = item
            rest, common = shared
            y0, args = rest if start is None else start, self.args_of(mapped, common)
            return self._solve(y0, args, options)

        return jax.vmap(one)(items)

    def _loop(self, items: Any, shared: Any, options: Any) -> Solution:
        """Fixed steps, with a state of components."""
        key = items[2]
        t0, t1 = options[:2]
        step_size = (t1 - t0) / self.num_steps
        one, like = self.shapes(items, shared)
        y0, args = self.apart(items, shared)
        numbers = None if key is None else jax.random.key_data(key)
        step = self.component_step(one, like, None if key is None else jax.random.key_impl(key))
        end, accepted, kept = fixed_steps(
            step, y0, args, (t0, step_size, numbers), num_steps=self.num_steps,
            save_every=self.save_every,
        )  # fmt: skip
        done = accepted == self.num_steps
        tried = jnp.where(done, accepted, accepted + 1)
        stats = Stats(tried, accepted, jnp.zeros_like(tried), tried * self.evaluations())
        result = jnp.where(done, records.REACHED, records.NON_FINITE).astype(jnp.int32)
        times = t1
        if kept is not None:
            end = tuple(part.T for part in kept)
            ks = jnp.arange(0, self.num_steps + 1, self.save_every).astype(t0.dtype)
            times = t0 + ks * step_size
        t = rows.varying_over(jnp.broadcast_to(times, (*done.shape, *times.shape)), end)
        return Solution(t, join_components(end, one), stats, result)

    def _adaptive(self, items: Any, shared: Any, options: Any) -> Solution:
        """Adaptive steps of trajectories side by side: a leaf of `d` entries is `(d, N)`. To stack
        the components of each slope makes XLA compute it once, as it would not the components.
        """
        t0, t1, rtol, atol, first_step = options
        one, like = self.shapes(items, shared)
        sizes = [size for leaf in jax.tree.leaves(one) if (size := math.prod(leaf.shape))]
        by_component = components(self.vector_field, jnp.zeros((), t0.dtype), one, like)

        def stacked(parts: Sequence[Array]) -> tuple[Array, ...]:
            parts = iter(parts)
            return tuple(jnp.stack([next(parts) for _ in range(size)]) for size in sizes)

        def field(t: Array, y: Any, args: Any) -> tuple[Array, ...]:
            parts = [leaf[k] for leaf in y for k in range(leaf.shape[0])]
            return stacked(by_component(t[0], parts, [arg[0] for arg in args]))

        parts, args = self.apart(items, shared)
        count = parts[0].shape[0]
        # Own arguments for each, so that the derivative can leave out a trajectory that fails.
        args = tuple(jnp.broadcast_to(arg, (1, count)) for arg in args)
        found = solve_adaptive(
            field, stacked(parts), jnp.broadcast_to(t0, (1, count)), t1, rtol=rtol, atol=atol,
            args=args, method=self.method, first_step=first_step, max_steps=self.max_steps,
        )  # fmt: skip
        end = tuple(leaf[k] for leaf in found.y for k in range(leaf.shape[0]))
        t, stats, result = jax.tree.map(lambda leaf: leaf[0], (found.t, found.stats, found.result))
        return Solution(t, join_components(end, one), stats, result)

    def shapes(self, items: Any, shared: Any) -> tuple[Any, Any]:
        """Start and `args` of one trajectory, their shapes and dtypes."""
        start, mapped, _ = items
        rest, common = shared
        one = jax.tree.map(_shape, rest) if start is None else first_of(start)
        return one, self.args_of(first_of(mapped), [_shape(leaf) for leaf in common])

    def apart(self, items: Any, shared: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Components of the starts, each `(N,)`, and of `args`, `(N,)` or `()`."""
        start, mapped, _ = items
        rest, common = shared
        own, others = iter(mapped), iter(common)
        args: tuple[Array, ...] = ()
        for flag in self.is_mapped:
            args += split_components(next(own)) if flag else ()
            args += () if flag else split_components(next(others), items=False)
        if start is not None:
            return split_components(start), args
        count = jax.tree.leaves(items)[0].shape[0]
        parts = split_components(rest, items=False)
        return tuple(jnp.broadcast_to(part, (count,)) for part in parts), args

    def component_step(self, one: Any, args: Any, impl: Any) -> Any:
        """One step on components, as `fixed_steps` takes it."""
        dtype = records.time_dtype(one)
        field = components(self.vector_field, jnp.zeros((), dtype), one, args)
        if self.diffusion is None:
            tableau = as_tableau(self.method)._replace(b_hat=None, embedded_order=None)

            def step(consts: Any, k: Array, y: Any, args: Any) -> Any:
                t0, h, _ = consts
                return rk_step(tableau, field, t0 + k.astype(dtype) * h, y, h, args)[0]

            return step
        noise = components(self.diffusion, jnp.zeros((), dtype), one, args)
        size = num_components(one)

        def noisy_step(consts: Any, k: Array, y: Any, args: Any) -> Any:
            t0, h, numbers = consts

            def draw(data: Array) -> Array:
                key = jax.random.wrap_key_data(data, impl=impl)
                return jax.random.normal(jax.random.fold_in(key, k), (size,), dtype)

            z = split_components(jax.vmap(draw)(numbers))
            return em_step(field, noise, t0 + k.astype(dtype) * h, y, h, args, z)

        return noisy_step

    def evaluations(self) -> int:
        """Calls of the field in one fixed step."""
        if self.diffusion is not None:
            return 1
        tableau = as_tableau(self.method)
        return tableau.num_stages - tableau.fsal

    def args_of(self, mapped: Sequence[Any], common: Sequence[Any]) -> Any:
        """Put `args` together again."""
        mapped, common = iter(mapped), iter(common)
        leaves = [next(mapped) if flag else next(common) for flag in self.is_mapped]
        return jax.tree.unflatten(self.structure, leaves)

    def _fixed(self, y0: Any, args: Any, options: Any) -> Solution:
        t0, t1 = jax.lax.stop_gradient(options[:2])
        return solve_fixed(
            self.vector_field, y0, t0, t1, num_steps=self.num_steps, method=self.method, args=args,
            save_every=self.save_every,
        )  # fmt: skip

    def _solve(self, y0: Any, args: Any, options: Any) -> Solution:
        """One trajectory, for a `vmap`."""
        t0, t1, rtol, atol, first_step = options
        if self.num_steps is not None:
            return self._fixed(y0, args, options)
        return solve_adaptive(
            self.vector_field, y0, t0, t1, rtol=rtol, atol=atol, args=args, method=self.method,
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
) -> tuple[Job, Any, tuple[list[Array], list[Array]]]:
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
        if save_every is not None and num_steps % checks.at_least("save_every", save_every, 1):
            raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    elif save_every is not None:
        raise ValueError(f"save_every needs num_steps, got save_every={save_every}")
    else:
        records.check_tolerances(rtol, atol)
    if (diffusion is None) != (key is None):
        raise ValueError("diffusion and key must be given together")
    if diffusion is not None and (num_steps is None or method is not None):
        raise ValueError("diffusion needs num_steps, and its method is Euler-Maruyama's")
    if diffusion is not None and layout == "stacked":
        raise ValueError("diffusion needs the layout of components, got layout='stacked'")
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
    job = Job(
        vector_field, diffusion, method or "tsit5", num_steps, save_every, max_steps, structure,
        is_mapped, False,
    )  # fmt: skip
    one = y0 if in_axes[0] is None else first_of(y0)
    given = job.args_of(first_of(mapped), [_shape(leaf) for leaf in shared])
    for field in (vector_field, diffusion):
        if field is not None:
            records.check_field(field, jnp.zeros(()), one, given)
    small = num_components(one) <= MOST_COMPONENTS
    if layout == "components" or diffusion is not None or (layout == "auto" and small):
        try:
            for field in (vector_field, diffusion):
                if field is not None:
                    components(field, jnp.zeros((), records.time_dtype(one)), one, given)
            job = job._replace(as_components=True)
        except NotImplementedError:
            if layout == "components" or diffusion is not None:
                raise
    return job, y0, (mapped, shared)


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


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def first_of(tree: Any) -> Any:
    """Drop the first axis of each leaf.

    Args:
        tree: leaves `(N, ...)`.

    Returns:
        Shapes and dtypes of one trajectory.
    """
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
