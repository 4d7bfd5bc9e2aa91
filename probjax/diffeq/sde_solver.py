r"""Stochastic equations integrated with fixed steps.

>>> import jax, jax.numpy as jnp
>>> from probjax.core import item_keys
>>> from probjax.diffeq.sde import SDE
>>> from probjax.diffeq.sde_solver import solve_sde
>>> decay = SDE(lambda t, x: -x, lambda t, x: jnp.asarray(0.1), "additive")
>>> def path(key, start):
...     return solve_sde(key, decay, start, 0.0, 1.0, num_steps=64).y
>>> ends = jax.jit(jax.vmap(path))(item_keys(jax.random.key(0), 1000), jnp.ones((1000, 1)))
>>> print(f"{float(ends.mean()):.2f}")  # exp(-1), less 0.003 for the steps
0.36
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, keys, rows
from probjax.diffeq.brownian import LAWS, increments
from probjax.diffeq.guards import guarded
from probjax.diffeq.sde import SDE, check_diagonal, check_sde
from probjax.diffeq.sde_steps import Method, Step, find_method, noise_like
from probjax.diffeq.solution import (
    NON_FINITE,
    REACHED,
    Solution,
    Stats,
    checked_state,
)

BLOCK = 32
"""Steps whose increments are drawn at once: enough to fill the machine, too few to fill memory."""


def solve_sde(
    key: keys.PRNGKey,
    sde: SDE,
    y0: Float[Array, "*d"],
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int,
    method: str | Step = "euler_maruyama",
    law: str = "normal",
    save_every: int | None = None,
) -> Solution:
    r"""Integrate one trajectory of an Ito equation with `num_steps` equal steps.

    $$h=(t_1-t_0)/num\_steps,\qquad y_{k+1}=method\big(t_0+kh,\;y_k,\;h,\;\Delta W_k\big)$$

    with $\Delta W_k$ from `fold_in(key, k)`. With $t_1<t_0$ the equation is Ito's in the time that
    runs backwards, as `reverse_sde` gives it. A step that gives something not finite is not taken:
    the trajectory stays where it was, is marked, and its gradient is zero.

    For several trajectories map over `core.item_keys(key, n)`. Where noise is diagonal or
    additive and the coefficients work entry by entry, a whole batch may be the state of *one*
    trajectory, with one key: half the random numbers' cost, but entry i no longer has a key of
    its own.

    Args:
        key: key of the trajectory.
        sde: the equation.
        y0: state at `t0`.
        t0: where to begin.
        t1: where to end, on either side of `t0`; the same as `t0` gives `y0` after 0 steps.
        num_steps: steps, at least 1.
        method: a name of `sde_steps.METHODS`, or a step of one's own.
        law: `"normal"`, or `"three_point"` for weak schemes.
        save_every: keep every so many steps a row, the start included; it must divide
            `num_steps`. `None`: the end alone.

    Returns:
        The solution.

    Raises:
        TypeError: `y0` is not real and floating, or drift or diffusion have another dtype.
        ValueError: `num_steps < 1`, `save_every` does not divide it, an unknown method, law or
            noise, shapes that do not fit the noise, or a noise that the method does not take.

    Example:
        >>> growth = SDE(lambda t, x: 0.5 * x, lambda t, x: 0.2 * x, "diagonal")
        >>> solution = solve_sde(
        ...     jax.random.key(0), growth, jnp.ones(1), 0.0, 1.0, num_steps=4, save_every=2
        ... )
        >>> print(solution.t, solution.y.shape, int(solution.result))
        [0.  0.5 1. ] (3, 1) 0

    References:
        Kloeden, Platen 1992; Higham 2001.
    """
    checks.one_of("law", law, LAWS)
    key, y0 = keys.as_key(key), _checked(sde, t0, y0)
    like = noise_like(sde, t0, y0)

    def draw(first: Array, count: int, h: Array) -> Array:
        return increments(key, count, h, like, start=first, law=law)

    marks = (y0, jax.random.key_data(key))
    return _solve(draw, marks, sde, y0, t0, t1, num_steps, find_method(method), save_every)


def solve_sde_path(
    sde: SDE,
    y0: Float[Array, "*d"],
    t0: ArrayLike,
    t1: ArrayLike,
    dw: Float[Array, "num_steps ..."],
    *,
    method: str | Step = "euler_maruyama",
    save_every: int | None = None,
) -> Solution:
    """Integrate along a Brownian path that is given by its increments.

    For what `solve_sde` does not do: one path with several steps (`brownian.coarsen`), variables
    of one's own, or a gradient with respect to the noise.

    Args:
        sde: as for `solve_sde`.
        y0: as for `solve_sde`.
        t0: as for `solve_sde`.
        t1: as for `solve_sde`.
        dw: increments of variance `abs(t1 - t0) / num_steps`, a row for each step, shaped as
            `sde_steps.noise_like` says.
        method: as for `solve_sde`.
        save_every: as for `solve_sde`.

    Returns:
        The solution.

    Raises:
        TypeError: as for `solve_sde`.
        ValueError: as for `solve_sde`, or rows of `dw` have another shape.

    Example:
        >>> motion = SDE(lambda t, x: 0.0 * x, lambda t, x: jnp.ones(()), "additive")
        >>> dw = jnp.array([[0.1], [0.2], [-0.5]])
        >>> print(solve_sde_path(motion, jnp.zeros(1), 0.0, 1.0, dw, save_every=1).y[:, 0])
        [ 0.   0.1  0.3 -0.2]
    """
    y0 = _checked(sde, t0, y0)
    checks.at_least("number of rows of dw", dw.shape[0], 1)
    checks.shape("dw", dw, (None, *noise_like(sde, t0, y0).shape))
    num_steps, dw = dw.shape[0], dw.astype(y0.dtype)
    padded = jnp.concatenate([dw, jnp.zeros((BLOCK, *dw.shape[1:]), dw.dtype)])

    def draw(first: Array, count: int, h: Array) -> Array:
        del h
        return jax.lax.dynamic_slice_in_dim(padded, first, count)

    marks = (y0, dw)
    return _solve(draw, marks, sde, y0, t0, t1, num_steps, find_method(method), save_every)


def _checked(sde: SDE, t0: ArrayLike, y0: Float[Array, "*d"]) -> Float[Array, "*d"]:
    y0 = checked_state(y0)
    check_sde(sde, t0, y0)
    check_diagonal(sde, jnp.asarray(t0, y0.dtype), y0)
    return y0


def _solve(
    draw: Callable[[Array, int, Array], Array],
    marks: Any,
    sde: SDE,
    y0: Float[Array, "*d"],
    t0: ArrayLike,
    t1: ArrayLike,
    num_steps: int,
    method: Method,
    save_every: int | None,
) -> Solution:
    """The loop: blocks of steps, each of which takes its increments at once from `draw`."""
    num_steps = checks.at_least("num_steps", num_steps, 1)
    every = num_steps if save_every is None else checks.at_least("save_every", save_every, 1)
    if num_steps % every:
        raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    dtype = y0.dtype
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    noise = jnp.zeros(noise_like(sde, t0, y0).shape, dtype)
    after = jax.eval_shape(lambda *at: method.step(sde, *at, t1 - t0, noise), t0, y0)
    # Marked here, once: under `shard_map` all that a step meets varies over the same axes.
    mark = lambda x: rows.varying_over(x, (marks, t0, t1, after))  # noqa: E731
    y0, t0, t1, noise = mark(y0), mark(t0), mark(t1), mark(noise)
    h = (t1 - t0) / num_steps

    def take(t: Any, state: Any, h: Any) -> Any:
        return {"y": method.step(sde, t, state["y"], h, state["dw"]), "dw": state["dw"]}

    step = guarded(take, t0, {"y": y0, "dw": noise}, h)

    def one(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, None]:
        (y, lost, taken), end = carry
        k, dw = inputs
        after = step(t0 + k.astype(dtype) * h, {"y": y, "dw": dw}, h)["y"]
        good = jnp.all(jnp.isfinite(after))
        inside = (k < end) & (h != 0)
        moves = inside & good & ~lost
        lost = lost | (inside & ~good)
        y, taken = jnp.where(moves, after, y), taken + moves.astype(jnp.int32)
        return ((y, lost, taken), end), None

    def block(first: Array, end: Array, state: Any) -> tuple[Any, Array]:
        """`many` rows of `size` steps, up to step `end`, with increments that are drawn at once."""
        counter = first + jnp.arange(many * size, dtype=jnp.int32)
        inputs = jax.tree.map(
            lambda x: x.reshape(many, size, *x.shape[1:]),
            (counter, mark(draw(first, many * size, h))),
        )

        def row(state: Any, inputs: Any) -> tuple[Any, Array]:
            (state, _), _ = jax.lax.scan(one, (state, end), inputs)
            return state, _blank(state[0], state[1])

        return jax.lax.scan(row, state, inputs)

    # Either a row takes several blocks, or a block makes several rows; the last may overshoot.
    num_rows = num_steps // every
    if every > BLOCK:
        many, per_row = 1, -(-every // BLOCK)
        size = -(-every // per_row)

        def outer(state: Any, first: Array) -> tuple[Any, Array]:
            inner = lambda s, k: (block(k, first + every, s)[0], None)  # noqa: E731
            starts = first + size * jnp.arange(per_row, dtype=jnp.int32)
            state, _ = jax.lax.scan(inner, state, starts)
            return state, _blank(state[0], state[1])[None]

    else:
        size, most = every, BLOCK // every
        many = -(-num_rows // -(-num_rows // most))

        def outer(state: Any, first: Array) -> tuple[Any, Array]:
            return block(first, jnp.full_like(first, num_steps), state)

    lost = ~jnp.all(jnp.isfinite(y0))
    state = mark((y0, lost, jnp.where(lost, 0, 0)))
    starts = jnp.arange(0, num_steps, max(every, many * size), dtype=jnp.int32)
    (y, lost, taken), kept = jax.lax.scan(outer, state, starts)
    tried = taken + (lost & (h != 0)).astype(jnp.int32)
    stats = Stats(tried, taken, tried - taken, method.num_evaluations * tried)
    result = jnp.where(lost, NON_FINITE, REACHED)
    forget = lambda y: jnp.where(lost, jax.lax.stop_gradient(y), y)  # noqa: E731
    if save_every is None:
        y = forget(y)
        return Solution(jnp.where(lost, t0 + taken.astype(dtype) * h, t1), y, stats, result)
    first = _blank(y0, ~jnp.all(jnp.isfinite(y0)))[None]
    y = jnp.concatenate([first, kept.reshape(-1, *y0.shape)[:num_rows]])
    times = t0 + h * jnp.arange(0, num_steps + 1, every, dtype=jnp.int32).astype(dtype)
    return Solution(times.at[-1].set(t1), forget(y), stats, result)


def _blank(y: Array, lost: Array) -> Array:
    return jnp.where(lost, jnp.full_like(y, jnp.nan), y)
