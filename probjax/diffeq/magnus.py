r"""Magnus integrators of $y'=A(t)\,y$: each step is the exponential of one matrix.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.magnus import magnus_step
>>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
>>> step = magnus_step(lambda t: t * turn, 0.0, 1.0, order=4)  # by the angle 1/2
>>> print(jnp.round(step @ jnp.array([1.0, 0.0]), 4), f"{jnp.cos(0.5):.4f}")
[0.8776 0.4794] 0.8776

What the matrices $A(t)$ conserve, so does every step: skew $A$ gives rotations, traceless $A$
volume.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from probjax.core import checks
from probjax.diffeq.matrix_functions import commutator, expm
from probjax.diffeq.solution import NON_FINITE, REACHED, Solution, Stats, checked_state, time_dtype

ORDERS = (2, 4, 6)
"""Orders there are; a step of order p evaluates $A$ p/2 times."""

MatrixFunction = Callable[[Array], Inexact[Array, "n n"]]
"""`A_fn(t) -> A`, of shape `(n, n)`."""


def magnus_exponent(
    A_fn: MatrixFunction, t: ArrayLike, h: ArrayLike, *, order: int = 4
) -> Inexact[Array, "n n"]:
    r"""Exponent of a step, $\Omega$ with $y(t+h)\approx e^\Omega y(t)$.

    With $A_i$ at the Gauss-Legendre nodes of the step, in the order of time:

    $$\Omega_2=hA_1,\qquad\Omega_4=\tfrac h2(A_1+A_2)-\tfrac{\sqrt3}{12}h^2[A_1,A_2],$$

    $$\Omega_6=a_1+\tfrac1{12}a_3+\tfrac1{240}[-20a_1-a_3+C_1,\;a_2+C_2]$$

    where $a_1=hA_2$, $a_2=\frac{\sqrt{15}}3h(A_3-A_1)$, $a_3=\frac{10}3h(A_3-2A_2+A_1)$,
    $C_1=[a_1,a_2]$, $C_2=-\frac1{60}[a_1,2a_3+C_1]$.

    Args:
        A_fn: `A_fn(t) -> (n, n)`, real or complex.
        t: where the step begins, a real scalar.
        h: its size, of either sign.
        order: 2, 4 or 6.

    Returns:
        $\Omega$, `(n, n)`. Its trace is the quadrature of the trace of $A$: commutators have none.

    Raises:
        ValueError: another `order`, or a matrix that is not square.

    Example:
        >>> print(magnus_exponent(lambda t: jnp.eye(2) * t, 0.0, 2.0, order=2))
        [[2. 0.]
         [0. 2.]]

    References:
        Blanes, Casas, Oteo and Ros 2009.
    """
    checks.one_of("order", str(order), map(str, ORDERS))
    t, h = (jnp.asarray(v, jnp.result_type(t, h, float)) for v in (t, h))
    shape = jax.eval_shape(A_fn, t).shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"A_fn(t) must have shape (n, n), got {shape}")
    nodes = 0.5 + 0.5 * np.polynomial.legendre.leggauss(order // 2)[0]
    parts = jax.vmap(lambda c: A_fn(t + c * h))(jnp.asarray(nodes, t.dtype))
    parts = h.astype(parts.dtype) * parts
    if order == 2:
        return parts[0]
    if order == 4:
        return 0.5 * (parts[0] + parts[1]) - 3**0.5 / 12 * commutator(parts[0], parts[1])
    before, middle, after = parts
    slope = 15**0.5 / 3 * (after - before)
    bend = 10 / 3 * (after - 2 * middle + before)
    once = commutator(middle, slope)
    twice = -1 / 60 * commutator(middle, 2 * bend + once)
    return middle + bend / 12 + commutator(-20 * middle - bend + once, slope + twice) / 240


def magnus_step(
    A_fn: MatrixFunction, t: ArrayLike, h: ArrayLike, *, order: int = 4, max_squarings: int = 8
) -> Inexact[Array, "n n"]:
    r"""Matrix of one step, $e^\Omega$ with $\Omega$ from `magnus_exponent`.

    Exact if all $A(t)$ of the step commute and the quadrature is. Steps do not depend on the
    state, so that `jax.vmap` computes many at once.

    Args:
        A_fn: as for `magnus_exponent`.
        t: as for `magnus_exponent`.
        h: as for `magnus_exponent`.
        order: 2, 4 or 6.
        max_squarings: of the exponential; eight serve up to a norm of 1000, and where they do
            not suffice the step is NaN.

    Returns:
        The propagator from `t` to `t + h`, `(n, n)`.

    Raises:
        ValueError: as for `magnus_exponent`.

    Example:
        >>> step = magnus_step(lambda t: jnp.array([[0.0, 1.0], [0.0, 0.0]]), 0.0, 3.0)
        >>> print(step)
        [[1. 3.]
         [0. 1.]]

    References:
        Blanes, Casas, Oteo and Ros 2009.
    """
    return expm(magnus_exponent(A_fn, t, h, order=order), max_squarings=max_squarings)


def solve_magnus(
    A_fn: MatrixFunction,
    y0: Inexact[Array, "n *m"],
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int,
    order: int = 4,
    save_every: int | None = None,
) -> Solution:
    r"""Integrate $y'=A(t)\,y$ from `t0` to `t1` in equal steps.

    Args:
        A_fn: `A_fn(t) -> (n, n)`, in the dtype of `y0`.
        y0: state at `t0`: `(n,)`, or `(n, m)` for m states together.
        t0: where the solve begins.
        t1: where it ends; before `t0` it runs backwards.
        num_steps: number of steps, at least 1.
        order: 2, 4 or 6.
        save_every: `None` keeps the end alone; k, a divisor of `num_steps`, keeps the start and
            every k-th step.

    Returns:
        The solution, with rows `(num_steps // k + 1, n, ...)` where they are kept. A trajectory
        that is no longer finite keeps its last finite state, and NaN in later rows.

    Raises:
        ValueError: `num_steps < 1`, `save_every` does not divide it, `A_fn(t)` has another shape
            than `(n, n)`, or as for `magnus_exponent`.

    Example:
        >>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> found = solve_magnus(lambda t: t * turn, jnp.array([1.0, 0.0]), 0.0, 2.0, num_steps=4)
        >>> print(found.y.round(3), found.stats.num_evaluations, found.result)
        [-0.416  0.909] 8 0
    """
    checks.at_least("num_steps", num_steps, 1)
    rows = num_steps if save_every is None else checks.at_least("save_every", save_every, 1)
    if num_steps % rows:
        raise ValueError(f"save_every must divide num_steps={num_steps}, got {save_every}")
    y0 = checked_state(y0)
    real = time_dtype(y0)
    t0, t1 = jnp.asarray(t0, real), jnp.asarray(t1, real)
    checks.shape("A_fn(t)", jax.eval_shape(A_fn, t0), (y0.shape[0], y0.shape[0]))
    h = (t1 - t0) / num_steps

    def step(carry: tuple, k: Array) -> tuple[tuple, None]:
        y, good, taken = carry
        matrix = magnus_step(A_fn, t0 + k.astype(real) * h, h, order=order)
        new = jnp.matmul(matrix, y, precision=jax.lax.Precision.HIGHEST)
        good = good & jnp.all(jnp.isfinite(new))
        return (jnp.where(good, new, y), good, taken + good.astype(jnp.int32)), None

    def row(carry: tuple, k: Array) -> tuple[tuple, Array]:
        carry, _ = jax.lax.scan(step, carry, k)
        y, good, _ = carry
        return carry, jnp.where(good, y, jnp.full_like(y, jnp.nan))

    # The carry varies with whatever A_fn, the state and the times vary with.
    y0 = y0 + jnp.zeros_like(A_fn(t0 + h)[0, 0]) * jnp.zeros_like(t0 + t1).astype(y0.dtype)
    good = jnp.all(jnp.isfinite(y0))
    carry = y0, good, jnp.zeros_like(good, jnp.int32)
    counted = jnp.arange(num_steps, dtype=jnp.int32).reshape(-1, rows)
    (y, good, taken), kept = jax.lax.scan(row, carry, counted)
    steps = jnp.full_like(taken, num_steps)
    stats = Stats(steps, taken, jnp.zeros_like(taken), steps * (order // 2))
    result = jnp.where(good, REACHED, NON_FINITE).astype(jnp.int32)
    if save_every is None:
        return Solution(t1, y, stats, result)
    times = t0 + h * jnp.arange(0, num_steps + 1, rows).astype(real)
    return Solution(times, jnp.concatenate([y0[None], kept]), stats, result)
