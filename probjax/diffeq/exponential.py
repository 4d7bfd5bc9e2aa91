r"""Exponential integrators: the linear part exactly, the rest by stages.

For $y'=Ly+N(t,y)$, with `linear` $=L$ a diagonal `(n,)` or a matrix `(n, n)`:

>>> import jax.numpy as jnp
>>> from probjax.diffeq import solve_exponential
>>> fast = jnp.array([-1000.0, -1.0])
>>> force = lambda t, y: jnp.stack([1000.0 * jnp.cos(t), y[0]])
>>> solution = solve_exponential(fast, force, jnp.zeros(2), 0.0, 1.0, num_steps=20)
>>> print(jnp.round(solution.y, 3))  # an explicit method needs 360 steps to stay finite
[0.541 0.507]
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from probjax.core import checks
from probjax.diffeq.fixed_steps import march
from probjax.diffeq.solution import Solution, check_field, checked_state, time_dtype

NonlinearFn = Callable[[Any, Any], Any]
"""`nonlinear_fn(t, y)`, of the shape of `y`."""

ExponentialStep = Callable[[NonlinearFn, Any, Any], Any]
"""`step(nonlinear_fn, t, y) -> y` for one step size, with its coefficients computed."""

_TERMS = 20


def phi_functions(z: ArrayLike, k: int) -> tuple[Inexact[Array, "..."], ...]:
    r"""Compute the functions of which exponential integrators are made, $\varphi_0$ to $\varphi_k$.

    $$\varphi_0(z)=e^z,\qquad\varphi_{j+1}(z)=\frac{\varphi_j(z)-1/j!}z,\qquad
    \varphi_j(z)=\sum_{m\ge0}\frac{z^m}{(m+j)!}$$

    A square matrix is taken as a matrix: the first block row of
    $\exp\begin{pmatrix}Z&I&&\\&0&I&\\&&0&\ddots\\&&&\ddots\end{pmatrix}$ holds all of them.
    A number or a vector is taken entry by entry: by the series where $|z|\lt1$, where the recursion
    cancels, and by the recursion elsewhere, whose step to $j$ loses about a factor $j$ near 1.

    Args:
        z: a number `()`, a diagonal `(n,)`, or a matrix `(n, n)`.
        k: the last index, at least 0.

    Returns:
        `k + 1` arrays like `z`.

    Raises:
        TypeError: `k` is not a static integer, or `z` is not floating or complex.
        ValueError: `k` is negative, or `z` has another shape.

    Example:
        >>> for phi in phi_functions(jnp.array([1e-4, 1.0]), 2):
        ...     print(phi)
        [1.0001 2.7183]
        [1.00005 1.71828]
        [0.50002 0.71828]

    References:
        Hochbruck, Ostermann 2010, *Exponential integrators*; Cox, Matthews 2002.
    """
    k, z = checks.at_least("k", k, 0), jnp.asarray(z)
    if not jnp.issubdtype(z.dtype, jnp.inexact):
        raise TypeError(f"z must be floating or complex, got {z.dtype}")
    if z.ndim <= 1:
        return _phi_entries(z, k)
    if z.ndim != 2 or z.shape[0] != z.shape[1]:
        raise ValueError(f"z must be a number, a vector or a square matrix, got shape {z.shape}")
    n = z.shape[0]
    block = jnp.eye((k + 1) * n, k=n, dtype=z.dtype).at[:n, :n].set(z)
    row = jax.scipy.linalg.expm(block)[:n]
    return tuple(row[:, j * n : (j + 1) * n] for j in range(k + 1))


def _phi_entries(z: Array, k: int) -> tuple[Array, ...]:
    is_small = jnp.abs(z) < 1
    # Each branch sees a point where it is smooth, so that its derivative stays finite.
    near, far = jnp.where(is_small, z, jnp.zeros_like(z)), jnp.where(is_small, jnp.ones_like(z), z)
    found, value = [], jnp.exp(far)
    for j in range(k + 1):
        series = jnp.zeros_like(z)
        for m in reversed(range(_TERMS)):
            series = series * near + 1 / math.factorial(m + j)
        if j:
            value = (value - 1 / math.factorial(j - 1)) / far
        found.append(jnp.where(is_small, series, value))
    return tuple(found)


def exponential_euler(linear: ArrayLike, h: ArrayLike) -> ExponentialStep:
    r"""Hold the rest at its value at the start: order 1, exact for a constant rest.

    $$y_1=e^{hL}y+h\,\varphi_1(hL)\,N(t,y)$$

    Args:
        linear: L, a number, a diagonal `(n,)` or a matrix `(n, n)`.
        h: step size.

    Returns:
        `step(nonlinear_fn, t, y) -> y`, one evaluation.

    Example:
        >>> step = exponential_euler(jnp.array([-1.0]), 0.5)
        >>> print(step(lambda t, y: jnp.ones_like(y), 0.0, jnp.array([1.0])))  # at rest
        [1.]
    """
    full, phi1 = _coefficients(linear, h, 1)

    def step(nonlinear_fn: NonlinearFn, t: Any, y: Array) -> Array:
        return _apply(full, y) + _apply(phi1, nonlinear_fn(t, y))

    return step


def etd2rk(linear: ArrayLike, h: ArrayLike) -> ExponentialStep:
    r"""Let the rest run along a straight line: order 2.

    $$a=e^{hL}y+h\,\varphi_1N(t,y),\qquad y_1=a+h\,\varphi_2\bigl(N(t+h,a)-N(t,y)\bigr)$$

    Args:
        linear: as for `exponential_euler`.
        h: step size.

    Returns:
        `step(nonlinear_fn, t, y) -> y`, two evaluations.

    Example:
        >>> step = etd2rk(jnp.array([0.0]), 0.5)  # without L: Heun's method
        >>> print(step(lambda t, y: y, 0.0, jnp.array([1.0])))
        [1.625]

    References:
        Cox, Matthews 2002, *Exponential time differencing for stiff systems*, (22).
    """
    full, phi1, phi2 = _coefficients(linear, h, 2)

    def step(nonlinear_fn: NonlinearFn, t: Any, y: Array) -> Array:
        n0 = nonlinear_fn(t, y)
        a = _apply(full, y) + _apply(phi1, n0)
        return a + _apply(phi2, nonlinear_fn(t + h, a) - n0)

    return step


def etdrk4(linear: ArrayLike, h: ArrayLike) -> ExponentialStep:
    r"""Four stages: order 4 where $hL$ is not large, RK4 where $L=0$.

    $$a=e^{hL/2}y+\tfrac h2\psi N_0,\qquad b=e^{hL/2}y+\tfrac h2\psi N_a,\qquad
    c=e^{hL/2}a+\tfrac h2\psi(2N_b-N_0),$$
    $$y_1=e^{hL}y+h\bigl[(\varphi_1-3\varphi_2+4\varphi_3)N_0
    +(2\varphi_2-4\varphi_3)(N_a+N_b)+(4\varphi_3-\varphi_2)N_c\bigr]$$

    with $\psi=\varphi_1(hL/2)$ and all other $\varphi_j$ at $hL$.

    Args:
        linear: as for `exponential_euler`.
        h: step size.

    Returns:
        `step(nonlinear_fn, t, y) -> y`, four evaluations.

    Example:
        >>> step = etdrk4(jnp.array([0.0]), 1.0)  # without L: 1 + 1 + 1/2 + 1/6 + 1/24
        >>> print(step(lambda t, y: y, 0.0, jnp.array([1.0])))
        [2.7083335]

    References:
        Cox, Matthews 2002, *Exponential time differencing for stiff systems*, (26)-(29).
    """
    full, phi1, phi2, phi3 = _coefficients(linear, h, 3)
    half, psi = _coefficients(linear, 0.5 * h, 1)
    first, middle, last = phi1 - 3 * phi2 + 4 * phi3, 2 * phi2 - 4 * phi3, 4 * phi3 - phi2

    def step(nonlinear_fn: NonlinearFn, t: Any, y: Array) -> Array:
        n0, coasted = nonlinear_fn(t, y), _apply(half, y)
        a = coasted + _apply(psi, n0)
        na = nonlinear_fn(t + 0.5 * h, a)
        nb = nonlinear_fn(t + 0.5 * h, coasted + _apply(psi, na))
        nc = nonlinear_fn(t + h, _apply(half, a) + _apply(psi, 2 * nb - n0))
        return _apply(full, y) + _apply(first, n0) + _apply(middle, na + nb) + _apply(last, nc)

    return step


_METHODS: dict[str, tuple[Callable[..., ExponentialStep], int]] = {
    "exponential_euler": (exponential_euler, 1),
    "etd2rk": (etd2rk, 2),
    "etdrk4": (etdrk4, 4),
}


def solve_exponential(
    linear: ArrayLike,
    nonlinear_fn: NonlinearFn,
    y0: ArrayLike,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int,
    method: str = "etdrk4",
    save_every: int | None = None,
) -> Solution:
    r"""Integrate $y'=Ly+N(t,y)$ by `num_steps` equal steps.

    The functions of $hL$ are computed once, before the loop.

    Args:
        linear: L, a number, a diagonal `(n,)` or a matrix `(n, n)`.
        nonlinear_fn: `nonlinear_fn(t, y)`, like `y`.
        y0: the state at `t0`, `()` or `(n,)`.
        t0: where to begin.
        t1: where to end; earlier than `t0` goes backwards.
        num_steps: steps, at least 1.
        method: `exponential_euler`, `etd2rk` or `etdrk4`.
        save_every: keep every so many steps a row, the start included; it must divide
            `num_steps`. `None`: the end alone.

    Returns:
        The solution.

    Raises:
        TypeError: `y0` is not floating, `linear` is complex where `y0` is real, or
            `nonlinear_fn(t, y)` is not like `y`.
        ValueError: an unknown method, shapes that do not fit, `num_steps` below 1, or a
            `save_every` that does not fit.

    Example:
        >>> logistic = lambda t, y: -(y**2)
        >>> solution = solve_exponential(
        ...     jnp.ones(1), logistic, jnp.array([0.5]), 0.0, 2.0, num_steps=20, save_every=10
        ... )
        >>> print(jnp.round(solution.y[:, 0], 4))  # 1 / (1 + exp(-t))
        [0.5    0.7311 0.8808]
    """
    checks.one_of("method", method, _METHODS)
    y0 = checked_state(y0)
    linear = jnp.asarray(linear)
    if linear.shape not in (y0.shape, y0.shape * 2) or y0.ndim > 1:
        raise ValueError(
            f"linear must have shape (n,) or (n, n) for y0 of shape (n,), got {linear.shape} and "
            f"{y0.shape}"
        )
    if jnp.iscomplexobj(linear) and not jnp.iscomplexobj(y0):
        raise TypeError(f"y0 must be complex where linear is, got {y0.dtype} and {linear.dtype}")
    check_field(lambda t, y, _: nonlinear_fn(t, y), t0, y0, None)
    dtype = time_dtype(y0)
    make, evaluations = _METHODS[method]
    h = (jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype)) / checks.at_least(
        "num_steps", num_steps, 1
    )
    step = make(linear.astype(y0.dtype), h)
    return march(
        lambda t, y, _: step(nonlinear_fn, t, y),
        y0, t0, t1,
        num_steps=num_steps, save_every=save_every, evaluations_per_step=evaluations,
    )  # fmt: skip


def _coefficients(linear: ArrayLike, h: Any, k: int) -> list[Array]:
    """`exp(hL)`, and `h` times the other phi functions of `hL`."""
    linear = jnp.asarray(linear)
    h = jnp.asarray(h, linear.dtype)
    full, *others = phi_functions(h * linear, k)
    return [full, *(h * phi for phi in others)]


def _apply(function: Array, y: Array) -> Array:
    return jnp.matmul(function, y, precision="highest") if function.ndim == 2 else function * y
