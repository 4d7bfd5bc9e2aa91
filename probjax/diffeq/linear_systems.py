r"""Linear systems $y'=A(t)\,y$: fundamental matrices, forcing, the adjoint equation.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.linear_systems import fundamental_matrix
>>> from probjax.diffeq.wronskians import liouville, wronskian
>>> def A_fn(t):
...     return jnp.stack([jnp.stack([0 * t, 1 + t]), jnp.stack([-1 - t, t])])
>>> ts = jnp.array([0.5, 1.0])
>>> phi = fundamental_matrix(A_fn, 0.0, ts, num_steps=8)
>>> print(phi.shape, wronskian(phi).round(2), liouville(A_fn, 0.0, ts).round(2))  # e^(t^2 / 2)
(2, 2, 2) [1.13 1.65] [1.13 1.65]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from probjax.core import checks
from probjax.diffeq.magnus import MatrixFunction, magnus_step
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.tableaus import METHODS, Tableau, as_tableau
from probjax.diffeq.wronskians import start_and_rows

_MAGNUS = {"magnus2": 2, "magnus4": 4, "magnus6": 6}


def fundamental_matrix(
    A_fn: MatrixFunction,
    t0: ArrayLike,
    ts: ArrayLike,
    *,
    method: str | Tableau = "magnus4",
    num_steps: int,
) -> Inexact[Array, "T n n"]:
    r"""Solutions that start from the unit vectors: $\Phi'=A\Phi$, $\Phi(t_0)=I$.

    Args:
        A_fn: `A_fn(t) -> (n, n)`, real or complex.
        t0: where $\Phi$ is the identity.
        ts: times of the rows, `(T,)`, strictly monotone, the first at or beyond `t0`.
        method: `"magnus2"`, `"magnus4"`, `"magnus6"`, or a Runge-Kutta tableau or its name.
        num_steps: steps from each time to the next.

    Returns:
        $\Phi$ at the times, `(T, n, n)`.

    Raises:
        ValueError: unknown `method`, `num_steps < 1`, times that are not monotone.

    Example:
        >>> shear = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> print(fundamental_matrix(lambda t: shear, 0.0, jnp.array([2.0]), num_steps=1))
        [[[1. 2.]
          [0. 1.]]]
    """
    checks.at_least("num_steps", num_steps, 1)
    advance = _stepper(A_fn, method)
    t0, ts = start_and_rows(t0, ts)
    first = A_fn(t0)
    if first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise ValueError(f"A_fn(t) must have shape (n, n), got {first.shape}")

    def interval(phi: Array, edges: tuple[Array, Array]) -> tuple[Array, Array]:
        start, end = edges
        h = (end - start) / num_steps

        def step(phi: Array, k: Array) -> tuple[Array, None]:
            return advance(start + k.astype(h.dtype) * h, h, phi), None

        phi, _ = jax.lax.scan(step, phi, jnp.arange(num_steps, dtype=jnp.int32))
        return phi, phi

    # The carry varies with whatever A_fn and the times vary with.
    varying = jnp.zeros_like(first) + jnp.zeros_like(t0 + ts[0]).astype(first.dtype)
    phi = jnp.eye(first.shape[0], dtype=first.dtype) + varying
    return jax.lax.scan(interval, phi, (jnp.append(t0, ts[:-1]), ts))[1]


def _stepper(A_fn: MatrixFunction, method: str | Tableau) -> Callable[[Array, Array, Array], Array]:
    """One step of a method on a matrix of solutions."""
    if isinstance(method, str):
        checks.one_of("method", method, (*_MAGNUS, *METHODS))
        if method in _MAGNUS:
            order = _MAGNUS[method]
            return lambda t, h, phi: _product(magnus_step(A_fn, t, h, order=order), phi)
    tableau = as_tableau(method)

    def advance(t: Array, h: Array, phi: Array) -> Array:
        return rk_step(tableau, lambda t, y, _: _product(A_fn(t), y), t, phi, h, None)[0]

    return advance


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def propagator(
    A_fn: MatrixFunction,
    t: ArrayLike,
    s: ArrayLike,
    *,
    method: str | Tableau = "magnus4",
    num_steps: int,
) -> Inexact[Array, "n n"]:
    r"""What takes a state at time `s` to time `t`: $\Phi(t)\Phi(s)^{-1}$, without the inverse.

    Args:
        A_fn: as for `fundamental_matrix`.
        t: where to; may lie before `s`.
        s: where from.
        method: as for `fundamental_matrix`.
        num_steps: number of steps.

    Returns:
        `(n, n)`.

    Raises:
        ValueError: as for `fundamental_matrix`.

    Example:
        >>> shear = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> print(propagator(lambda t: t * shear, 1.0, 2.0, num_steps=1))
        [[ 1.  -1.5]
         [ 0.   1. ]]
    """
    return fundamental_matrix(
        A_fn,
        s,
        jnp.asarray(t, jnp.result_type(float, s, t))[None],
        method=method,
        num_steps=num_steps,
    )[0]


def variation_of_parameters(
    A_fn: MatrixFunction,
    b_fn: Callable[[Array], Inexact[Array, "n"]],
    t0: ArrayLike,
    ts: ArrayLike,
    y0: Inexact[Array, "n"],
    *,
    method: str | Tableau = "magnus4",
    num_steps: int,
) -> Inexact[Array, "T n"]:
    r"""Solve $y'=A(t)\,y+b(t)$.

    $$y(t)=\Phi(t)\Bigl(y_0+\int_{t_0}^t\Phi(s)^{-1}b(s)\,ds\Bigr)$$

    The integral times $\Phi$ is the last column of the fundamental matrix of
    $\begin{pmatrix}A&b\\0&0\end{pmatrix}$: no inverse, and exact for constant $A$ and $b$.

    Args:
        A_fn: as for `fundamental_matrix`.
        b_fn: `b_fn(t) -> (n,)`.
        t0: where `y0` holds.
        ts: times of the rows, `(T,)`.
        y0: `(n,)`.
        method: as for `fundamental_matrix`.
        num_steps: as for `fundamental_matrix`.

    Returns:
        `(T, n)`.

    Raises:
        ValueError: as for `fundamental_matrix`.

    Example:
        >>> print(variation_of_parameters(lambda t: -jnp.eye(1), lambda t: jnp.ones(1), 0.0,
        ...                               jnp.array([1.0]), jnp.zeros(1), num_steps=1).round(4))
        [[0.6321]]
    """

    def augmented(t: Array) -> Array:
        a, b = A_fn(t), b_fn(t)
        rows = jnp.concatenate([a, b[:, None]], axis=1)
        return jnp.concatenate([rows, jnp.zeros_like(rows[:1])])

    phi = fundamental_matrix(augmented, t0, ts, method=method, num_steps=num_steps)
    return _product(phi[:, :-1, :-1], y0) + phi[:, :-1, -1]


def adjoint_solution(
    A_fn: MatrixFunction,
    t0: ArrayLike,
    ts: ArrayLike,
    nu0: Inexact[Array, "n"],
    *,
    method: str | Tableau = "magnus4",
    num_steps: int,
) -> Inexact[Array, "T n"]:
    r"""Solve the adjoint equation $\nu'=-A^\top\nu$: along every solution $x$, $\nu\cdot x$ stays.

    Args:
        A_fn: as for `fundamental_matrix`.
        t0: where `nu0` holds.
        ts: times of the rows, `(T,)`.
        nu0: `(n,)`.
        method: as for `fundamental_matrix`.
        num_steps: as for `fundamental_matrix`.

    Returns:
        `(T, n)`.

    Raises:
        ValueError: as for `fundamental_matrix`.

    Example:
        >>> shear = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> print(adjoint_solution(lambda t: shear, 0.0, jnp.array([2.0]), jnp.ones(2),
        ...                        num_steps=1))
        [[ 1. -1.]]
    """
    phi = fundamental_matrix(lambda t: -A_fn(t).T, t0, ts, method=method, num_steps=num_steps)
    return _product(phi, nu0)
