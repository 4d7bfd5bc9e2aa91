r"""The whole time loop of an ensemble in one GPU kernel, a trajectory in the registers of a lane.

A scan starts a few kernels for each step, which read and write all states. Here a program takes 128
trajectories through all their steps and touches memory at the start and at the end:

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq.fused import solve_fused
>>> def lorenz(t, y, rho):
...     u, v, w = y
...     return jnp.stack([10 * (v - u), u * (rho - w) - v, u * v - 8 / 3 * w])
>>> def ends(rho):
...     return solve_fused(lorenz, jnp.ones(3), 0.0, 1.0, args=rho, in_axes=(None, 0),
...                        method="rk4", num_steps=1000).y
>>> traced = jax.jit(ends).trace(jax.ShapeDtypeStruct((1_000_000,), jnp.float32))
>>> traced.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton")
1

The vector field is any that has a componentwise form. On other platforms than CUDA the same
arguments run as `solve_ensemble(layout="components")`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array

from probjax.core import keys, rows
from probjax.diffeq import solution as records
from probjax.diffeq.componentwise import components, join_components, num_components
from probjax.diffeq.ensemble import run_ensemble
from probjax.diffeq.ensemble_job import InAxes, Job, em_step, prepare
from probjax.diffeq.kernel_noise import fold_in, normals
from probjax.diffeq.solution import Solution, Stats, VectorField
from probjax.diffeq.step_control import adaptive_init, adaptive_step, is_running
from probjax.diffeq.tableaus import Tableau, as_tableau

LANES = 128
"""Trajectories of a program."""
MOST_SCALARS = 64
"""Of state and `args` together: more do not stay in registers."""


def solve_fused(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    args: Any = None,
    in_axes: InAxes = (0, None),
    method: str | Tableau | None = None,
    num_steps: int | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    first_step: ArrayLike | None = None,
    max_steps: int = 4096,
    diffusion: VectorField | None = None,
    key: keys.PRNGKey | None = None,
    mesh: Mesh | None = None,
    tile: int | None = None,
    order_by: str | ArrayLike | None = None,
    interpret: bool = False,
) -> Solution:
    r"""Do what `solve_ensemble` does, the whole time loop in one kernel where there is CUDA.

    $$\dot y_i=f(t,y_i,args_i),\qquad i=1,\dots,N$$

    A program of the kernel takes 128 trajectories through all their steps. With tolerances it runs
    until the slowest of them is done, so neighbours should be alike: see `order_by`. The noise of
    `diffusion` is drawn inside, by the same integer arithmetic as `jax.random.normal`. Derivatives
    run through the scan over components.

    Args:
        vector_field: as for `solve_ensemble`, and so are all others.
        y0: starts.
        t0: where to begin.
        t1: where to end; only the state there is kept.
        args: what the field gets besides.
        in_axes: which of `y0` and `args` have a leading axis of trajectories.
        method: a tableau or its name.
        num_steps: how many fixed steps.
        rtol: relative tolerance.
        atol: absolute tolerance.
        first_step: first adaptive step.
        max_steps: adaptive steps that may be tried.
        diffusion: noise, with float32 states only.
        key: for the noise.
        mesh: devices.
        tile: trajectories in a tile; a multiple of 128 wastes none.
        order_by: a difficulty for each trajectory, or `"pilot"`.
        interpret: run the kernel in Pallas's interpreter on any platform, for tests.

    Returns:
        A `Solution` whose every field has the leading axis `N`.

    Raises:
        ValueError: more than 64 scalars of state and `args`; noise in another precision than
            float32 or from another generator than JAX's default; and as for `solve_ensemble`.
        TypeError: as for `solve_ensemble`.
        NotImplementedError: the field has no componentwise form.

    Example:
        >>> decay = lambda t, y, args: -args * y
        >>> y = solve_fused(decay, jnp.ones(3), 0.0, 1.0, args=2.0, num_steps=9, interpret=True).y
        >>> print(abs(y - jnp.exp(-2.0)) < 1e-6)
        [ True  True  True]
    """
    job, y0, leaves = prepare(
        vector_field, y0, t0, args, in_axes, method=method, num_steps=num_steps, save_every=None,
        rtol=rtol, atol=atol, max_steps=max_steps, diffusion=diffusion, key=key,
        layout="components",
    )  # fmt: skip
    sizes = [num_components(tree) for tree in (y0, *leaves)]
    count = jnp.shape(jax.tree.leaves(y0 if in_axes[0] == 0 else leaves[0])[0])[0]
    scalars = sizes[0] // (count if in_axes[0] == 0 else 1) + sizes[1] // max(count, 1) + sizes[2]
    if scalars > MOST_SCALARS:
        raise ValueError(
            f"y0 and args must have at most {MOST_SCALARS} scalars for each trajectory, got "
            f"{scalars}"
        )
    if diffusion is not None:
        if any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(y0)):
            raise ValueError(f"diffusion needs float32 states, got {records.time_dtype(y0)}")
        if jax.random.key_impl(keys.as_key(key)) != jax.random.key_impl(jax.random.key(0)):
            raise ValueError("key must be of JAX's default generator")
    options = (t0, t1, rtol, atol, first_step)
    # Pallas's interpreter does not pass `shard_map`'s check.
    fused = FusedJob(job, interpret)
    return run_ensemble(
        fused, y0, leaves, options, in_axes, key, mesh, tile, order_by, check_vma=not interpret
    )


class FusedJob(NamedTuple):
    """A `Job` whose forward pass is the kernel."""

    job: Job
    """The same solve as a scan."""
    interpret: bool
    """Whether Pallas interprets the kernel."""

    @property
    def num_steps(self) -> int | None:
        """How many fixed steps."""
        return self.job.num_steps

    def __call__(self, items: Any, shared: Any, options: Any) -> Solution:
        """Solve a block of trajectories."""
        start, mapped, key = items
        numbers = None if key is None else jax.random.key_data(key)
        impl = None if key is None else jax.random.key_impl(key)
        held = (start, mapped, shared)
        leaves, structure = jax.tree.flatten(held)
        smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
        moving = [leaf for leaf, flag in zip(leaves, smooth, strict=True) if flag]
        fixed = [leaf for leaf, flag in zip(leaves, smooth, strict=True) if not flag]

        def through(solve: Any, moving: Any, fixed: Any, numbers: Any, options: Any) -> Solution:
            moving, fixed = iter(moving), iter(fixed)
            joined = [next(moving) if flag else next(fixed) for flag in smooth]
            start, mapped, shared = jax.tree.unflatten(structure, joined)
            key = None if numbers is None else jax.random.wrap_key_data(numbers, impl=impl)
            return solve((start, mapped, key), shared, options)

        @jax.custom_vjp
        def run(moving: Any, fixed: Any, numbers: Any, options: Any) -> Solution:
            return through(self.choose, moving, fixed, numbers, options)

        def forwards(*arguments: Any) -> Any:
            return run(*arguments), arguments

        def backwards(arguments: Any, cotangent: Solution) -> Any:
            def scan(moving: Any) -> Any:
                return through(self.job, moving, *arguments[1:]).y

            return *jax.vjp(scan, arguments[0])[1](cotangent.y), None, None, None

        run.defvjp(forwards, backwards)
        return run(moving, fixed, numbers, options)

    def choose(self, items: Any, shared: Any, options: Any) -> Solution:
        """The kernel where there is CUDA, the scan elsewhere."""
        if self.interpret:
            return self.kernel(items, shared, options)
        start, mapped, key = items
        numbers = None if key is None else jax.random.key_data(key)
        impl = None if key is None else jax.random.key_impl(key)

        def on(solve: Any) -> Any:
            def call(start: Any, mapped: Any, numbers: Any, shared: Any, options: Any) -> Solution:
                key = None if numbers is None else jax.random.wrap_key_data(numbers, impl=impl)
                return solve((start, mapped, key), shared, options)

            return call

        arguments = (start, mapped, numbers, shared, options)
        return jax.lax.platform_dependent(*arguments, cuda=on(self.kernel), default=on(self.job))

    def kernel(self, items: Any, shared: Any, options: Any) -> Solution:
        """Call the kernel for a block of trajectories."""
        one, like = self.job.shapes(items, shared)
        y0, args = self.job.apart(items, shared)
        count = y0[0].shape[0]
        numbers = () if items[2] is None else tuple(jax.random.key_data(items[2]).T)
        total = -(-count // LANES) * LANES

        def lanes(part: Array) -> Array:
            return jnp.pad(jnp.broadcast_to(part, (count,)), (0, total - count), mode="edge")

        parts = [lanes(part) for part in (*y0, *args, *numbers)]
        dtype = records.time_dtype(one)
        given = [0.0 if option is None else option for option in options]
        given = jnp.stack([jnp.asarray(v, dtype) for v in (*given, *[0.0] * (8 - len(given)))])
        has_first = options[4] is not None
        # Inside `shard_map` everything varies over whatever anything varies over.
        inputs = rows.varying_over([given, *parts], parts)
        over = getattr(jax.typeof(inputs[1]), "manual_axis_type", None)
        adaptive = self.job.num_steps is None
        kinds = [part.dtype for part in y0] + (
            [dtype, dtype, jnp.int32, jnp.int32] if adaptive else [jnp.int32]
        )
        body = _Body(self.job, one, like, len(y0), len(args), has_first)
        whole = pallas.BlockSpec((8,), lambda program: (0,))
        block = pallas.BlockSpec((LANES,), lambda program: (program,))
        out = pallas.pallas_call(
            body,
            grid=(total // LANES,),
            in_specs=[whole, *[block] * len(parts)],
            out_specs=[block] * len(kinds),
            out_shape=[
                jax.ShapeDtypeStruct((total,), kind, manual_axis_type=over) for kind in kinds
            ],
            compiler_params=triton.CompilerParams(num_warps=LANES // 32, num_stages=1),
            interpret=self.interpret,
            name="solve_ensemble",
        )(*inputs)
        out = [part[:count] for part in out]
        y = join_components(out[: len(y0)], one)
        return (self._adaptive if adaptive else self._fixed)(y, out[len(y0) :], options)

    def _fixed(self, y: Any, out: Any, options: Any) -> Solution:
        (accepted,) = out
        done = accepted == self.job.num_steps
        tried = jnp.where(done, accepted, accepted + 1)
        stats = Stats(tried, accepted, jnp.zeros_like(tried), tried * self.job.evaluations())
        result = jnp.where(done, records.REACHED, records.NON_FINITE).astype(jnp.int32)
        t = rows.varying_over(jnp.broadcast_to(options[1], done.shape), done)
        return Solution(t, y, stats, result)

    def _adaptive(self, y: Any, out: Any, options: Any) -> Solution:
        t, step_size, tried, accepted = out
        tableau = as_tableau(self.job.method)
        failure = jnp.where(jnp.isnan(step_size), records.NON_FINITE, records.MAX_STEPS)
        failure = jnp.where(step_size == 0, records.STEP_TOO_SMALL, failure)
        result = jnp.where(t == options[1], records.REACHED, failure).astype(jnp.int32)
        probes = (1 if tableau.fsal else 0) + (2 - tableau.fsal) * (options[4] is None)
        evaluations = (tableau.num_stages - tableau.fsal) * tried + probes
        evaluations = jnp.where(tried > 0, evaluations, 0)
        return Solution(t, y, Stats(tried, accepted, tried - accepted, evaluations), result)


class _Body(NamedTuple):
    """The kernel: 128 trajectories from start to end."""

    job: Job
    one: Any
    like: Any
    num_states: int
    num_args: int
    has_first: bool

    def __call__(self, options: Any, *refs: Any) -> None:
        n, m = self.num_states, self.num_args
        y0 = tuple(ref[...] for ref in refs[:n])
        args = tuple(ref[...] for ref in refs[n : n + m])
        outputs = len(refs) - n - (4 if self.job.num_steps is None else 1)
        numbers = tuple(ref[...] for ref in refs[n + m : outputs])
        solve = self._adaptive if self.job.num_steps is None else self._fixed
        for ref, value in zip(refs[outputs:], solve(options, y0, args, numbers), strict=True):
            ref[...] = value

    def _fixed(self, options: Any, y0: Any, args: Any, numbers: Any) -> Any:
        num_steps = self.job.num_steps
        t0, h = options[0], (options[1] - options[0]) / num_steps
        step = self._step()

        def plain(k: Array, y: Any) -> Any:
            return step((t0, h, numbers), k, y, args)

        def careful(k: Array, carry: Any) -> Any:
            y, accepted = carry
            y1 = plain(k, y)
            good = (accepted == k) & _finite(y1)
            y = tuple(jnp.where(good, a, b) for a, b in zip(y1, y, strict=True))
            return y, accepted + good.astype(jnp.int32)

        end = jax.lax.fori_loop(0, num_steps, plain, y0)
        good = _finite(end)
        # The steps again, with a check after each: none of them if all trajectories have arrived.
        again = jnp.where(jnp.min(good.astype(jnp.int32)) > 0, 0, num_steps)
        none = jnp.zeros_like(good, jnp.int32)
        last, accepted = jax.lax.fori_loop(0, again, careful, (y0, none))
        picked = tuple(jnp.where(good, a, b) for a, b in zip(end, last, strict=True))
        return *picked, jnp.where(good, num_steps, accepted).astype(jnp.int32)

    def _step(self) -> Any:
        if self.job.diffusion is None:
            return self.job.component_step(self.one, self.like, None)
        dtype = records.time_dtype(self.one)
        field, noise = (
            components(fn, jnp.zeros((), dtype), self.one, self.like)
            for fn in (self.job.vector_field, self.job.diffusion)
        )

        def step(consts: Any, k: Array, y: Any, args: Any) -> Any:
            t0, h, numbers = consts
            z = normals(fold_in(numbers, k), self.num_states)
            return em_step(field, noise, t0 + k.astype(dtype) * h, y, h, args, z)

        return step

    def _adaptive(self, options: Any, y0: Any, args: Any, _: Any) -> Any:
        count = 5 if self.has_first else 4
        numbers = tuple(jnp.broadcast_to(options[k], (LANES,)) for k in range(count))
        dtype = records.time_dtype(self.one)
        field = components(self.job.vector_field, jnp.zeros((), dtype), self.one, self.like)
        method = self.job.method

        def init(y0: Any, args: Any, numbers: Any) -> Any:
            t0, t1, rtol, atol, *first = numbers
            return adaptive_init(
                field, y0, t0, t1, rtol=rtol, atol=atol, args=args, method=method,
                first_step=first[0] if first else None,
            )  # fmt: skip

        def step(state: Any, args: Any, numbers: Any) -> Any:
            _, t1, rtol, atol = numbers[:4]
            return adaptive_step(field, state, t1, rtol=rtol, atol=atol, args=args, method=method)[
                0
            ]

        # Written out on lanes: what Triton has no form of (barriers, scalars among lanes) is gone.
        given = jax.tree.map(lambda lane: jax.ShapeDtypeStruct((), lane.dtype), (args, numbers))
        begin = components(lambda _, y, rest: init(y, *rest), 0.0, _scalars(y0), given)
        like = jax.eval_shape(init, _scalars(y0), *given)
        structure = jax.tree.structure(like)
        move = components(lambda _, state, rest: step(state, *rest), 0.0, like, given)
        rest = (*args, *numbers)

        def goes_on(carry: Any) -> Any:
            state = jax.tree.unflatten(structure, carry[1])
            running = jax.vmap(is_running)(state, numbers[1])
            return (carry[0] < self.job.max_steps) & (jnp.max(running.astype(jnp.int32)) > 0)

        def body(carry: Any) -> Any:
            return carry[0] + 1, move(0.0, carry[1], rest)

        carry = (jnp.int32(0), begin(0.0, y0, rest))
        state = jax.tree.unflatten(structure, jax.lax.while_loop(goes_on, body, carry)[1])
        return *state.y, state.t, state.step_size, state.num_steps, state.num_accepted


def _scalars(parts: Any) -> Any:
    return tuple(jax.ShapeDtypeStruct((), part.dtype) for part in parts)


def _finite(y: Any) -> Any:
    good = jnp.abs(y[0]) < np.inf
    for part in y[1:]:
        good = good & (jnp.abs(part) < np.inf)
    return good
