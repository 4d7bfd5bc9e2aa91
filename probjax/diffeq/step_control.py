r"""The error of a step, and the size of the next: what adaptive integration is made of.

>>> import jax.numpy as jnp
>>> h = initial_step(lambda t, y, args: -1000 * y, 0.0, jnp.ones(()), 1.0, order=4,
...                  rtol=1e-6, atol=1e-9)
>>> print(f"{h:.4f}")
0.0010
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import rows
from probjax.diffeq import tableaus
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.solution import VectorField, checked_state, time_dtype

LEAST_REMEMBERED = 1e-4
"""Smaller errors are remembered as this one, so that a lucky step does not hold the next back."""


class Controller(NamedTuple):
    r"""How a step size follows from the errors $e_n$, scaled so that 1 is allowed.

    $$\frac{h_{n+1}}{h_n}=safety\cdot e_n^{-(p+i+d)/k}\,e_{n-1}^{(p+2d)/k}\,e_{n-2}^{-d/k}$$

    with $k$ one more than the order of the less accurate result. After a rejected step it is
    $safety\cdot e_n^{-1/k}$. The default is proportional and integral.
    """

    safety: float = 0.9
    """Factor below one: a step that would just pass may just fail."""
    min_factor: float = 0.2
    """A step shrinks to no less than this part of the one before."""
    max_factor: float = 10.0
    """And grows to no more."""
    p: float = 0.2
    """Weight of the change of the error."""
    i: float = 0.65
    """Weight of the error."""
    d: float = 0.0
    """Weight of the change of the change."""


class AdaptiveState(NamedTuple):
    """What `adaptive_step` carries.

    For `N` trajectories side by side numbers have shape `(1, N)` and leaves of the state `(d, N)`.
    """

    t: Float[Array, ""]
    """Time."""
    y: Any
    """State at `t`, the last accepted one."""
    slope: Any
    """Vector field at `(t, y)` where the method hands it on from step to step, else `None`."""
    step_size: Float[Array, ""]
    """Signed size of the next step; 0 for one below rounding, NaN where values are not finite."""
    log_errors: tuple[Float[Array, ""], ...]
    """Logarithms of the errors that the controller remembers, the newest first."""
    after_rejection: Bool[Array, ""]
    """Whether the last step was rejected."""
    num_steps: Int[Array, ""]
    """Steps tried."""
    num_accepted: Int[Array, ""]
    """Steps kept."""


class AdaptiveInfo(NamedTuple):
    """What happened in a step."""

    accepted: Bool[Array, ""]
    """Whether the step was kept."""
    step_size: Float[Array, ""]
    """Signed size that was tried."""
    error: Float[Array, ""]
    """Root mean square of the error over `atol + rtol max(|y|, |y1|)`; above 1 is rejected."""


def initial_step(
    vector_field: VectorField,
    t0: ArrayLike,
    y0: Any,
    t1: ArrayLike,
    *,
    order: int,
    rtol: ArrayLike,
    atol: ArrayLike,
    args: Any = None,
) -> Float[Array, ""]:
    r"""Guess a first step from the size of the state, its slope and its curvature.

    With norms over $atol+rtol\,|y_0|$, $d_0=\|y_0\|$, $d_1=\|f_0\|$, $h_0=0.01\,d_0/d_1$ and one
    Euler step, $d_2=\|f(t_0+h_0,y_0+h_0f_0)-f_0\|/h_0$:

    $$h_1=\Bigl(\frac{0.01}{\max(d_1,d_2)}\Bigr)^{1/(order+1)},\qquad
    h=\min(100h_0,\;h_1,\;|t_1-t_0|)$$

    Args:
        vector_field: `vector_field(t, y, args) -> dy`.
        t0: start.
        y0: state there.
        t1: end; it gives the sign and the largest size.
        order: order of the less accurate result of the pair.
        rtol: relative tolerance.
        atol: absolute tolerance.
        args: what the field gets besides.

    Returns:
        A signed step size.

    Example:
        >>> h = initial_step(lambda t, y, args: -1000 * y, 0.0, jnp.ones(()), 1.0, order=4,
        ...                  rtol=1e-6, atol=1e-9)
        >>> print(f"{h:.4f}")
        0.0010

    References:
        Hairer, Norsett, Wanner 1993, II.4.
    """
    dtype = time_dtype(y0)
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    return _first_size(
        vector_field, t0, y0, t1, vector_field(t0, y0, args), order, rtol, atol, args
    )


def adaptive_init(
    vector_field: VectorField,
    y0: Any,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    rtol: ArrayLike,
    atol: ArrayLike,
    args: Any = None,
    method: str | tableaus.Tableau = "tsit5",
    first_step: ArrayLike | None = None,
    controller: Controller = Controller(),  # noqa: B008 - immutable
) -> AdaptiveState:
    """Return the state before the first step.

    Args:
        vector_field: as for `solve_adaptive`, and so are the others.
        y0: start.
        t0: time of `y0`.
        t1: end.
        rtol: relative tolerance.
        atol: absolute tolerance.
        args: what the field gets besides.
        method: an embedded pair, or its name.
        first_step: signed size; `initial_step` chooses it if left out.
        controller: it decides how many errors are remembered.

    Returns:
        The state.

    Raises:
        ValueError: `method` has no embedded result.

    Example:
        >>> state = adaptive_init(lambda t, y, args: -y, jnp.ones(()), 0.0, 1.0, rtol=1e-3,
        ...                       atol=1e-6)
        >>> print(f"{state.step_size:.3f}", state.num_steps)
        0.100 0
    """
    tableau = embedded_pair(method)
    y0 = checked_state(y0)
    dtype = time_dtype(y0)
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    slope = vector_field(t0, y0, args)
    if first_step is None:
        order = _error_order(tableau) - 1
        size = _first_size(vector_field, t0, y0, t1, slope, order, rtol, atol, args)
    else:
        size = jnp.broadcast_to(jnp.asarray(first_step, dtype), t0.shape)
    sources = (t0, t1, y0, slope, size, jnp.asarray(rtol), jnp.asarray(atol))
    t0, y0, slope, size = rows.varying_over((t0, y0, slope, size), sources)
    count = jnp.zeros_like(size, jnp.int32)
    return AdaptiveState(
        t0,
        y0,
        slope if tableau.fsal else None,
        size,
        tuple(jnp.zeros_like(size) for _ in range(_memory(controller))),
        count > 0,
        count,
        count,
    )


def adaptive_step(
    vector_field: VectorField,
    state: AdaptiveState,
    t1: ArrayLike,
    *,
    rtol: ArrayLike,
    atol: ArrayLike,
    args: Any = None,
    method: str | tableaus.Tableau = "tsit5",
    controller: Controller = Controller(),  # noqa: B008 - immutable
) -> tuple[AdaptiveState, AdaptiveInfo]:
    """Try one step, which ends at `t1` at the latest.

    At `t1`, and after a failure, the state stays as it is. An error that is not a number is a
    rejection by `min_factor`; the step after a rejected one does not grow. Step sizes are constants
    to derivatives.

    Args:
        vector_field: as for `solve_adaptive`, and so are the others.
        state: of `adaptive_init`, or of the step before.
        t1: where the step must not go beyond.
        rtol: relative tolerance.
        atol: absolute tolerance.
        args: what the field gets besides.
        method: the pair that `state` was made for.
        controller: as `method`.

    Returns:
        The state after the step, and what happened.

    Example:
        >>> options = dict(rtol=1e-3, atol=1e-6)
        >>> state = adaptive_init(lambda t, y, args: -y, jnp.ones(()), 0.0, 1.0, **options)
        >>> state, info = adaptive_step(lambda t, y, args: -y, state, 1.0, **options)
        >>> print(info.accepted, f"{state.t:.3f} {state.y:.4f} {info.error < 1}")
        True 0.100 0.9048 True
    """
    tableau = embedded_pair(method)
    t, y, h = state.t, state.y, jax.lax.stop_gradient(state.step_size)
    dtype = h.dtype
    t1 = jnp.asarray(t1, dtype)
    remaining = jax.lax.stop_gradient(t1 - t)
    active = is_running(state, t1)
    last = 1.01 * jnp.abs(h) >= jnp.abs(remaining)  # rather than a crumb as the next step
    tried = jnp.where(last, remaining, h)
    # Every entry of the new state asks whether the step was kept, hence for all the others: the
    # barrier keeps XLA from computing the stages again for each. On CPU the root does so, which XLA
    # computes once for all that read it, as it does not with what is cheaper.
    y1, error, slope1 = jax.lax.optimization_barrier(
        rk_step(tableau, vector_field, t, y, tried, args, f0=state.slope)
    )
    error = jax.lax.stop_gradient(_root_mean_square(error, y, y1, rtol, atol, t.shape))
    finite = jnp.isfinite(error)
    accepted = active & finite & (error <= 1)

    log_error = jnp.log(jnp.maximum(error, math.sqrt(jnp.finfo(dtype).tiny)))
    ratio = _ratio(log_error, accepted, state, _error_order(tableau), controller)
    proposed = tried * jnp.where(finite, ratio, controller.min_factor)
    # A step cut short by `t1` says nothing against the longer one that had been planned.
    proposed = jnp.where(accepted & last & (jnp.abs(h) > jnp.abs(proposed)), h, proposed)
    tiny = jnp.finfo(dtype).eps
    too_small = jnp.abs(proposed) <= 10 * tiny * (jnp.abs(t) + tiny * jnp.abs(remaining))
    failure = jnp.where(finite, 0.0, jnp.nan).astype(dtype)
    proposed = jnp.where(~accepted & too_small, failure, proposed)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)

    remembered = (jnp.maximum(log_error, math.log(LEAST_REMEMBERED)), *state.log_errors)
    new = AdaptiveState(
        keep(jnp.where(last, t1, t + tried), t),
        keep(y1, y),
        keep(slope1, state.slope) if tableau.fsal else None,
        jnp.where(active, proposed, h),
        keep(remembered[: len(state.log_errors)], state.log_errors),
        jnp.where(active, ~accepted, state.after_rejection),
        state.num_steps + active.astype(jnp.int32),
        state.num_accepted + accepted.astype(jnp.int32),
    )
    return new, AdaptiveInfo(accepted, tried, error)


def is_running(state: AdaptiveState, t1: ArrayLike) -> Bool[Array, "..."]:
    """Tell whether a state has neither reached its end nor failed.

    Args:
        state: of `adaptive_init` or `adaptive_step`.
        t1: the end.

    Returns:
        A flag.

    Example:
        >>> state = adaptive_init(lambda t, y, args: -y, jnp.ones(()), 0.0, 1.0, rtol=1e-3,
        ...                       atol=1e-6)
        >>> print(is_running(state, 1.0), is_running(state, 0.0))
        True False
    """
    return (state.t != jnp.asarray(t1, state.t.dtype)) & (jnp.abs(state.step_size) > 0)


def embedded_pair(method: str | tableaus.Tableau) -> tableaus.Tableau:
    """Return a method that estimates its error.

    Args:
        method: a tableau, or its name.

    Returns:
        The tableau.

    Raises:
        ValueError: an unknown name, or a method without a second result.

    Example:
        >>> embedded_pair("rk4")
        Traceback (most recent call last):
        ValueError: method must have embedded weights, which 'rk4' has not
    """
    tableau = tableaus.as_tableau(method)
    if tableau.b_hat is None:
        raise ValueError(f"method must have embedded weights, which {tableau.name!r} has not")
    return tableau


def _error_order(tableau: tableaus.Tableau) -> int:
    """The power of `h` by which the estimated error falls."""
    return 1 + min(tableau.order, tableau.embedded_order or tableau.order)


def _memory(controller: Controller) -> int:
    if controller.d:
        return 2
    return 1 if controller.p else 0


def _ratio(
    log_error: Any, accepted: Any, state: AdaptiveState, order: int, controller: Controller
) -> Any:
    """New size over old size."""
    _, _, _, p, i, d = controller
    weights = (-(p + i + d), p + 2 * d, -d)
    logs = (log_error, *state.log_errors)
    regular = functools.reduce(
        lambda total, pair: total + pair[0] * pair[1],
        zip(weights[1:], logs[1:], strict=False),
        weights[0] * log_error,
    )
    power = jnp.where(accepted, regular, -log_error) * (1 / order)
    largest = jnp.where(accepted & ~state.after_rejection, controller.max_factor, 1.0)
    factor = controller.safety * jnp.exp(power)
    return jnp.clip(factor, controller.min_factor, largest.astype(factor.dtype))


def _root_mean_square(
    error: Any, y: Any, y1: Any, rtol: ArrayLike, atol: ArrayLike, shape: tuple[int, ...]
) -> Any:
    """Of the error over its allowance, over the entries of one trajectory; NaN where y or y1 is not
    finite. `shape` is that of the time: `()`, or `(1, N)` where trajectories lie side by side.
    """
    leaves = jax.tree.leaves(error)
    total = None

    def add(part: Any) -> Any:
        if not shape:
            return jnp.sum(part) if part.ndim else part
        # Row after row: XLA's CPU library for sums costs more than the rest of the step.
        return functools.reduce(jnp.add, [part[k : k + 1] for k in range(part.shape[0])])

    for e, a, b in zip(leaves, jax.tree.leaves(y), jax.tree.leaves(y1), strict=True):
        size = jnp.maximum(jnp.abs(a), jnp.abs(b))
        allowed = jnp.asarray(atol, size.dtype) + jnp.asarray(rtol, size.dtype) * size
        part = jnp.square(jnp.abs(e) / allowed) + 0 * size
        part = add(part).astype(time_dtype(y))
        total = part if total is None else total + part
    return jnp.sqrt(total / (sum(leaf.size for leaf in leaves) // math.prod(shape)))


def _first_size(
    field: VectorField, t0: Any, y0: Any, t1: Any, slope: Any, order: int, rtol: Any, atol: Any,
    args: Any,
) -> Any:  # fmt: skip
    def norm(tree: Any) -> Any:
        return _root_mean_square(tree, y0, y0, rtol, atol, t0.shape)

    def move(leaf: Any, change: Any, h: Any) -> Any:
        return leaf + h.astype(leaf.dtype) * change

    span = jnp.abs(t1 - t0)
    direction = jnp.where(t1 < t0, -1.0, 1.0).astype(span.dtype)
    d0, d1 = norm(y0), norm(slope)
    usable = (d0 >= 1e-5) & (d1 >= 1e-5)
    h0 = jnp.where(usable, 0.01 * d0 / jnp.where(usable, d1, 1.0), 1e-6)
    h0 = jnp.minimum(h0, span)
    signed = direction * h0
    ahead = jax.tree.map(lambda leaf, change: move(leaf, change, signed), y0, slope)
    change = jax.tree.map(jnp.subtract, field(t0 + signed, ahead, args), slope)
    d2 = norm(change) / jnp.where(h0 > 0, h0, 1.0)
    steepest = jnp.maximum(d1, d2)
    h1 = jnp.where(
        steepest <= 1e-15,
        jnp.maximum(1e-6, 1e-3 * h0),
        jnp.power(0.01 / jnp.where(steepest <= 1e-15, 1.0, steepest), 1 / (order + 1)),
    )
    h1 = jnp.where(jnp.isfinite(d2), h1, 1e-3 * h0)  # the probe went where the field is not
    size = jnp.minimum(jnp.minimum(100 * h0, h1), span)
    return jax.lax.stop_gradient(direction * size)
