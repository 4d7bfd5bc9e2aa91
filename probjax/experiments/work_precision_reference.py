"""Ends of the problems of the work-precision comparison, and how errors grow on the way there.

>>> reference("kepler").uncertainty
0.0
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax.diffeq import solve_fixed
from probjax.diffeq.problems import PROBLEMS as ALL_PROBLEMS
from probjax.diffeq.problems import Problem

EPS = float(np.finfo(np.float64).eps)
"""Spacing of doubles at one."""

GROWTH = {
    "pendulum": 3.854,
    "lotka_volterra": 85.5,
    "kepler": 465.0,
    "van_der_pol": 1.787,
    "pleiades": 6603.0,
}
"""What `growth` gives, which takes seconds to compile."""


Found = tuple[np.ndarray, int, bool]
"""End, evaluations, and whether it was reached."""


class Reference(NamedTuple):
    """The end as it should be."""

    end: np.ndarray
    """Laid out like the state."""
    uncertainty: float
    """What of it may be wrong, relative; zero for a closed form."""


@functools.cache
def reference(name: str) -> Reference:
    """Find the end of a problem: its closed form, or DOP853 with a relative tolerance of 1e-13.

    Without a closed form the tolerance 1e-12 is tried too: its error is ten times larger, so a
    ninth of the difference is what the tighter one may err by.

    Args:
        name: the problem.

    Returns:
        The end, and how far it can be trusted.

    Example:
        >>> found = reference("pendulum")
        >>> print(found.end.shape, found.uncertainty)
        (2,) 0.0
    """
    problem = ALL_PROBLEMS[name]
    if name == "pendulum":
        return Reference(_pendulum(problem), 0.0)
    with jax.enable_x64(True):
        if problem.exact is not None:
            exact = jax.jit(lambda: problem.exact(problem.span[1], problem.args))
            return Reference(np.asarray(exact()), 0.0)
        ends = [dop853(problem, rtol, 0.01 * rtol)[0] for rtol in (1e-12, 1e-13)]
    return Reference(ends[1], relative(ends[0], ends[1]) / 9)


def _pendulum(problem: Problem) -> np.ndarray:
    """`sin(angle / 2) = k sn(t + t0, k)`, with k from the energy."""
    from scipy.special import ellipj, ellipkinc

    angle, speed = problem.y0
    m = np.sin(angle / 2) ** 2 + (speed / 2) ** 2
    first = ellipkinc(np.arcsin(np.sin(angle / 2) / np.sqrt(m)), m)
    sn, cn, _, _ = ellipj(first + problem.span[1], m)
    return np.array([2 * np.arcsin(np.sqrt(m) * sn), 2 * np.sqrt(m) * cn])


def growth(name: str) -> float:
    r"""Tell how much an error of one tolerance, made at the worst time, has grown at the end.

    $$\max_s\lVert D(t_1)^{-1}\,\frac{\partial y(t_1)}{\partial y(s)}\,D(s)\rVert_\infty,
    \qquad D=\mathrm{diag}(1+|y|)$$

    Args:
        name: the problem.

    Returns:
        The largest over 64 times `s` and the end, at least 1.

    Example:
        >>> print(f"{growth('pendulum'):.3f}")
        3.854
    """
    problem = ALL_PROBLEMS[name]
    first, last = problem.span
    with jax.enable_x64(True):
        y0, args = start_of(problem)
        shape, length = y0.shape, (last - first) / 64

        def piece(t: Any, y: Any) -> Any:
            found = solve_fixed(
                problem.field, y.reshape(shape), t, t + length, num_steps=128, method="tsit5",
                args=args, checkpoint="none",
            )  # fmt: skip
            return found.y.reshape(-1)

        @jax.jit
        def pieces(y: jax.Array) -> Any:
            def one(y: Any, k: Any) -> Any:
                t = first + k * length
                return piece(t, y), (y, jax.jacfwd(piece, argnums=1)(t, y))

            end, (starts, slopes) = jax.lax.scan(one, y, jnp.arange(64.0))
            return end, starts, slopes

        end, starts, slopes = jax.device_get(pieces(y0.reshape(-1)))
    total, largest = np.diag(1 / (1 + np.abs(end))), 1.0
    for start, slope in zip(starts[::-1], slopes[::-1], strict=True):
        total = total @ slope
        largest = max(largest, float(np.max(np.abs(total) @ (1 + np.abs(start)))))
    return largest


def relative(end: np.ndarray, exact: np.ndarray) -> float:
    """Compare two ends.

    Args:
        end: what was found.
        exact: what it should be.

    Returns:
        Root mean square of the difference over that of `exact`; infinite for what is not finite.

    Example:
        >>> relative(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
        0.1
    """
    if not np.all(np.isfinite(end)):
        return float("inf")
    return float(np.sqrt(np.sum((end - exact) ** 2) / np.sum(exact**2)))


def start_of(problem: Problem) -> tuple[jax.Array, Any]:
    """Give start and arguments of a problem in double precision.

    Args:
        problem: the problem.

    Returns:
        JAX arrays.
    """
    with jax.enable_x64(True):
        as_double = functools.partial(jnp.asarray, dtype=jnp.float64)
        return as_double(problem.y0), jax.tree.map(as_double, problem.args)


@functools.cache
def _compiled_field(name: str) -> Callable[[Any, Any], Any]:
    problem = ALL_PROBLEMS[name]
    y0, args = start_of(problem)
    return jax.jit(lambda t, y: problem.field(t, y.reshape(y0.shape), args).reshape(-1))


def dop853(problem: Problem, rtol: float, atol: float) -> Found:
    """Solve by SciPy's method of order 8; the field is compiled by JAX.

    Args:
        problem: the problem.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Returns:
        The end, NaN where it was not reached, evaluations, and whether it was reached.
    """
    from scipy.integrate import solve_ivp

    field, start = _compiled_field(problem.name), np.asarray(problem.y0, np.float64)
    with jax.enable_x64(True):
        found = solve_ivp(
            lambda t, y: np.asarray(field(t, y)), problem.span, start.reshape(-1),
            method="DOP853", rtol=rtol, atol=atol, t_eval=problem.span[1:],
        )  # fmt: skip
    end = found.y[:, -1].reshape(start.shape) if found.success else np.full_like(start, np.nan)
    return end, int(found.nfev), bool(found.success)
