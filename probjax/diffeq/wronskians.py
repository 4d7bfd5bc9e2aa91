r"""Determinants of solutions: Liouville's formula, and the quadratures it needs.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.wronskians import liouville
>>> print(liouville(lambda t: t * jnp.eye(2), 0.0, jnp.array([1.0, 2.0])).round(2))  # exp(t^2)
[ 2.72 54.6 ]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from probjax.core import checks
from probjax.diffeq.magnus import MatrixFunction
from probjax.diffeq.solution import check_times

_NODES = 8


def start_and_rows(t0: ArrayLike, ts: ArrayLike) -> tuple[Float[Array, ""], Float[Array, "T"]]:
    """Check the times of a solve and give them one dtype: that of `ts`, or JAX's default.

    Args:
        t0: where the solve begins.
        ts: times of the rows, `(T,)`, strictly monotone, the first at or beyond `t0`.

    Returns:
        Both as floating-point arrays.

    Raises:
        ValueError: as `solution.check_times`.

    Example:
        >>> start_and_rows(0, jnp.array([1, 2]))[1].dtype.name
        'float32'
    """
    check_times("ts", ts, t0=t0)
    ts = jnp.asarray(ts)
    if not jnp.issubdtype(ts.dtype, jnp.floating):
        ts = ts.astype(jnp.result_type(float))
    return jnp.asarray(t0).astype(ts.dtype), ts


def wronskian(phi: Inexact[Array, "*T n n"]) -> Inexact[Array, "*T"]:
    r"""Determinant of n solutions side by side, $W=\det\Phi$.

    Args:
        phi: solutions as columns, `(*T, n, n)`.

    Returns:
        `(*T,)`.

    Example:
        >>> print(wronskian(jnp.array([[1.0, 2.0], [3.0, 4.0]])))
        -2.0
    """
    return jnp.linalg.det(phi)


def gauss_rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight Gauss-Legendre nodes on the unit interval, their weights, and integrals up to each.

    Returns:
        Nodes `(8,)`, weights `(8,)`, and the matrix `(8, 8)` whose row i integrates the
        interpolant from 0 to node i.

    Example:
        >>> nodes, weights, up_to = gauss_rule()
        >>> print(bool(np.allclose(up_to @ nodes**3, nodes**4 / 4)))
        True
    """
    roots, weights = np.polynomial.legendre.leggauss(_NODES)
    powers = np.arange(_NODES)
    values = np.polynomial.legendre.legvander(roots, _NODES)
    # The integral of P_k is (P_(k+1) - P_(k-1)) / (2k + 1); coefficients by discrete projection.
    before = np.concatenate([-np.ones((_NODES, 1)), values[:, :-2]], axis=1)
    integrals = (values[:, 1:] - before) / (2 * powers + 1)
    project = values[:, :-1].T * weights * (2 * powers[:, None] + 1) / 2
    return 0.5 + 0.5 * roots, 0.5 * weights, 0.5 * integrals @ project


def quadrature_panels(
    t0: Float[Array, ""], ts: Float[Array, "T"], panels: int
) -> tuple[Float[Array, "T P G"], Float[Array, "T P"]]:
    """Gauss-Legendre nodes of equal panels between the times, and the panels' widths.

    Args:
        t0: where the first panel begins.
        ts: times, `(T,)`.
        panels: panels between one time and the next.

    Returns:
        Nodes `(T, panels, 8)` and widths `(T, panels)`.

    Raises:
        ValueError: `panels < 1`.

    Example:
        >>> nodes, widths = quadrature_panels(jnp.array(0.0), jnp.array([1.0, 3.0]), 2)
        >>> print(nodes.shape, widths[:, 0])
        (2, 2, 8) [0.5 1. ]
    """
    checks.at_least("panels", panels, 1)
    starts = jnp.append(t0, ts[:-1])
    widths = jnp.broadcast_to(((ts - starts) / panels)[:, None], (ts.shape[0], panels))
    left = starts[:, None] + widths * jnp.arange(panels).astype(ts.dtype)[None]
    places = jnp.asarray(gauss_rule()[0], ts.dtype)
    return left[..., None] + widths[..., None] * places[None, None], widths


def trace_integral(
    A_fn: MatrixFunction, t0: ArrayLike, ts: ArrayLike, *, panels: int = 8
) -> Inexact[Array, "T"]:
    r"""Integrals $\int_{t_0}^{t}\mathrm{tr}\,A$, by eight Gauss-Legendre nodes a panel.

    Args:
        A_fn: `A_fn(t) -> (n, n)`, real or complex.
        t0: where the integrals begin.
        ts: where they end, `(T,)`, strictly monotone.
        panels: panels between one time and the next.

    Returns:
        `(T,)`.

    Raises:
        ValueError: `panels < 1`, times that are not monotone.

    Example:
        >>> print(trace_integral(lambda t: t * jnp.eye(2), 0.0, jnp.array([1.0, 2.0])))
        [1. 4.]
    """
    t0, ts = start_and_rows(t0, ts)
    nodes, widths = quadrature_panels(t0, ts, panels)
    traces = jax.vmap(lambda t: jnp.trace(A_fn(t)))(nodes.reshape(-1)).reshape(nodes.shape)
    weights = jnp.asarray(gauss_rule()[1], traces.dtype)
    sums = jnp.sum(traces * weights[None, None], axis=-1) * widths.astype(traces.dtype)
    return jnp.cumsum(jnp.sum(sums, axis=-1))


def liouville(
    A_fn: MatrixFunction, t0: ArrayLike, ts: ArrayLike, *, panels: int = 8
) -> Inexact[Array, "T"]:
    r"""Wronskian of the fundamental matrix by Liouville's formula, $e^{\int_{t_0}^t\mathrm{tr}A}$.

    Args:
        A_fn: `A_fn(t) -> (n, n)`, real or complex.
        t0: where the Wronskian is 1.
        ts: times `(T,)`.
        panels: as for `trace_integral`.

    Returns:
        `(T,)`: never zero.

    Raises:
        ValueError: as for `trace_integral`.

    Example:
        >>> print(liouville(lambda t: -t * jnp.eye(2), 0.0, jnp.array([1.0])).round(4))
        [0.3679]
    """
    return jnp.exp(trace_integral(A_fn, t0, ts, panels=panels))


def liouville_defect(
    phi: Inexact[Array, "*T n n"], trace_integral: Inexact[Array, "*T"]
) -> Float[Array, "*T"]:
    r"""How far a computed fundamental matrix is from Liouville's formula.

    $$\Bigl|\log\det\Phi-\int\mathrm{tr}\,A\Bigr|$$

    with the angle of the logarithm taken within $(-\pi,\pi]$.

    Args:
        phi: $\Phi$, `(*T, n, n)`.
        trace_integral: the integrals of the trace, `(*T,)`.

    Returns:
        `(*T,)`, real: zero for the exact matrix.

    Example:
        >>> print(liouville_defect(2 * jnp.eye(2), 2 * jnp.log(jnp.array(2.0))))
        0.0
    """
    sign, size = jnp.linalg.slogdet(phi)
    gap = size - jnp.real(trace_integral)
    turns = (jnp.angle(sign) - jnp.imag(trace_integral)) / (2 * np.pi)
    return jnp.hypot(gap, 2 * np.pi * (turns - jnp.round(turns)))


def adjoint_invariant(
    nu: Inexact[Array, "*T n"], x: Inexact[Array, "*T n"], trace_integral: Inexact[Array, "*T"]
) -> Inexact[Array, "*T"]:
    r"""Return $\nu\cdot x\;e^{-\int\mathrm{tr}A}$, which no solution changes.

    Where $\nu$ is the generalized cross product of n-1 solutions, $\nu\cdot x$ is their Wronskian
    with a solution $x$, and grows as Liouville's formula says.

    Args:
        nu: `(*T, n)`.
        x: a solution, `(*T, n)`.
        trace_integral: `(*T,)`.

    Returns:
        `(*T,)`; bilinear also where complex.

    Example:
        >>> print(adjoint_invariant(jnp.ones(2), jnp.array([1.0, 2.0]), jnp.array(0.0)))
        3.0
    """
    return jnp.sum(nu * x, axis=-1) * jnp.exp(-trace_integral)
