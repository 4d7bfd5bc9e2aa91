r"""From some solutions of $y'=A(t)\,y$ to all: the last column, and reduction of order.

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq.completion import complete_fundamental_matrix
>>> def A_fn(t):  # a rotation: (cos, sin) solves it, (-sin, cos) completes it
...     return jnp.array([[0.0, -1.0], [1.0, 0.0]])
>>> def X_fn(t):
...     return jnp.stack([jnp.cos(t), jnp.sin(t)])[:, None]
>>> @jax.jit
... def complete(times):
...     return complete_fundamental_matrix(A_fn, X_fn, 0.0, times, panels=2)
>>> found = complete(jnp.array([jnp.pi / 2]))
>>> print(bool(jnp.allclose(found.x, jnp.array([[-1.0, 0.0]]), atol=1e-6)))
True
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Inexact

from probjax.diffeq.linear_systems import fundamental_matrix
from probjax.diffeq.magnus import MatrixFunction
from probjax.diffeq.tableaus import Tableau
from probjax.diffeq.wronskians import gauss_rule, quadrature_panels, start_and_rows

ColumnFunction = Callable[[Array], Inexact[Array, "n m"]]
"""`X_fn(t) -> X`, known solutions as columns."""

_exact_products = jax.default_matmul_precision("highest")


class Completion(NamedTuple):
    """The solution that completes n-1 known ones."""

    x: Inexact[Array, "T n"]
    """The last column."""
    c: Inexact[Array, "T k"]
    """Its coordinates $c$ in the known solutions; zero at `t0`."""
    wronskian: Inexact[Array, "T"]
    r"""$W=\\det[X,x]$ as Liouville gives it; one at `t0`."""
    is_valid: Bool[Array, ""]
    """Whether the known solutions are independent; if not, all else is NaN."""


class Reduction(NamedTuple):
    """What m known solutions leave of a system: the others are $X(c+Cz_0)+NZz_0$."""

    N: Inexact[Array, "T n k"]
    """Orthonormal basis of what is orthogonal to the known solutions."""
    Z: Inexact[Array, "T k k"]
    """Fundamental matrix of the smaller system; the identity at `t0`."""
    C: Inexact[Array, "T m k"]
    """Coordinates in the known solutions; zero at `t0`."""


@_exact_products
def generalized_cross(X: Inexact[Array, "n k"]) -> Inexact[Array, "n"]:
    r"""Cross product of n-1 vectors: $\nu\cdot y=\det[X,y]$ for every $y$.

    $$\nu_i=(-1)^{i+n-1}\det X_{\setminus i}$$

    with $X$ without its row i, counted from 0. In three dimensions it is the usual one.

    Args:
        X: vectors as columns, `(n, n - 1)`.

    Returns:
        `(n,)`; zero where they are dependent. Complex vectors: bilinear, nothing is conjugated.

    Raises:
        ValueError: another shape.

    Example:
        >>> print(generalized_cross(jnp.array([[1.0, 0.0], [2.0, 1.0], [3.0, 1.0]])).round(3))
        [-1. -1.  1.]
    """
    if X.ndim != 2 or X.shape[0] != X.shape[1] + 1:
        raise ValueError(f"X must have shape (n, n - 1), got {X.shape}")
    n = X.shape[0]
    if n == 1:
        return jnp.ones_like(X, shape=(1,))
    rest = np.array([[j for j in range(n) if j != i] for i in range(n)])
    signs = jnp.asarray((-1.0) ** (np.arange(n) + n - 1), X.dtype)
    return signs * jnp.linalg.det(X[rest])


@_exact_products
def complete_fundamental_matrix(
    A_fn: MatrixFunction, X_fn: ColumnFunction, t0: ArrayLike, ts: ArrayLike, *, panels: int = 8
) -> Completion:
    r"""Find the n-th solution from n-1 by quadratures alone.

    With $\nu$ the generalized cross product of the known solutions and
    $W=\exp\int_{t_0}\mathrm{tr}A$,

    $$x_n=Xc+\frac{W}{|\nu|^2}\bar\nu,\qquad c'=X^+(A+A^*)\,\frac{W}{|\nu|^2}\bar\nu,
    \qquad\det[X,x_n]=W.$$

    The known columns are factorised, $X=QR$, at each node: $|\nu|$ is $|\det R|$, which is not
    zero as long as they are independent, however many minors of $X$ vanish on the way.

    Args:
        A_fn: `A_fn(t) -> (n, n)`, real or complex.
        X_fn: `X_fn(t) -> (n, n - 1)`, independent solutions as columns.
        t0: where $c=0$ and $W=1$.
        ts: times of the rows, `(T,)`, strictly monotone, the first at or beyond `t0`.
        panels: panels of eight Gauss-Legendre nodes from each time to the next.

    Returns:
        Last column, coordinates and Wronskian at the times; NaN and `is_valid=False` where the
        known columns are dependent at some node.

    Raises:
        ValueError: `X_fn(t)` does not have n-1 columns, `panels < 1`, times that are not monotone.

    Example:
        >>> found = jax.jit(lambda times: complete_fundamental_matrix(
        ...     lambda t: jnp.eye(2), lambda t: jnp.exp(t) * jnp.array([[3.0], [4.0]]),
        ...     0.0, times, panels=1))(jnp.array([1.0]))
        >>> print(found.wronskian.round(3))  # e^2
        [7.389]
    """
    t0, ts = start_and_rows(t0, ts)
    n = _size(A_fn, X_fn, t0, lambda n: range(n - 1, n))
    nodes, widths = quadrature_panels(t0, ts, panels)
    _, weights, up_to = gauss_rule()

    a = jax.vmap(A_fn)(nodes.reshape(-1)).reshape(*nodes.shape, n, n)
    widths = widths.astype(a.dtype)
    traces = jnp.trace(a, axis1=-2, axis2=-1)
    whole = widths * _dot(traces, weights)
    before = jnp.cumsum(whole.reshape(-1)).reshape(whole.shape) - whole
    inside = jnp.tensordot(traces, jnp.asarray(up_to.T, a.dtype), 1)
    logs = before[..., None] + widths[..., None] * inside

    q, r, normal, fine = jax.vmap(lambda t, log: _normal(X_fn(t), log))(
        nodes.reshape(-1), logs.reshape(-1)
    )
    moved = (a + _star(a)).reshape(-1, n, n) @ normal[..., None]
    rates = _solve(r, _star(q) @ moved)[..., 0].reshape(*nodes.shape, n - 1)
    sums = widths[..., None] * jnp.einsum("tpgk,g->tpk", rates, jnp.asarray(weights, a.dtype))
    c = jnp.cumsum(jnp.sum(sums, axis=1), axis=0)

    log = jnp.cumsum(jnp.sum(whole, axis=1))
    columns = jax.vmap(X_fn)(ts)
    _, _, normal, also = jax.vmap(_normal)(columns, log)
    x = (columns @ c[..., None])[..., 0] + normal
    is_valid = jnp.all(fine) & jnp.all(also)
    x, c, w = (jnp.where(is_valid, v, jnp.full_like(v, jnp.nan)) for v in (x, c, jnp.exp(log)))
    return Completion(x, c, w, is_valid)


def _size(
    A_fn: MatrixFunction, X_fn: ColumnFunction, t0: Array, allowed: Callable[[int], range]
) -> int:
    """The size n of the system, once the shapes fit."""
    shape, known = (jax.eval_shape(fn, t0).shape for fn in (A_fn, X_fn))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        raise ValueError(f"A_fn(t) must have shape (n, n) with n > 1, got {shape}")
    n = shape[0]
    counts = allowed(n)
    if len(known) != 2 or known[0] != n or known[1] not in counts:
        want = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        raise ValueError(f"X_fn(t) must have shape ({n}, m) with m = {want}, got {known}")
    return n


def _dot(values: Array, weights: np.ndarray) -> Array:
    return jnp.tensordot(values, jnp.asarray(weights, values.dtype), 1)


def _star(a: Array) -> Array:
    """Conjugate transpose of the last two axes."""
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _solve(r: Array, b: Array) -> Array:
    return jax.scipy.linalg.solve_triangular(r, b)


def _factors(x: Array) -> tuple[Array, Array, Array]:
    """Factors of the columns, and whether they are independent to rounding."""
    q, r = jnp.linalg.qr(x)
    lengths = jnp.sqrt(jnp.sum(jnp.abs(x) ** 2, axis=0))
    rounding = x.shape[0] * float(jnp.finfo(x.dtype).eps)
    return q, r, jnp.all(jnp.abs(jnp.diagonal(r)) > rounding * lengths)


def _normal(x: Array, log: Array) -> tuple[Array, Array, Array, Array]:
    r"""Factors of the columns, $\bar\nu W/|\nu|^2$, and whether they are independent."""
    q, r, fine = _factors(x)
    diagonal = jnp.diagonal(r)
    size = jnp.abs(diagonal)
    phase = jnp.prod(diagonal / size.astype(x.dtype))
    scale = jnp.exp(log - jnp.sum(jnp.log(size)).astype(log.dtype))
    return q, r, jnp.conj(generalized_cross(q) * phase) * scale, fine


@_exact_products
def reduce_order(
    A_fn: MatrixFunction,
    X_fn: ColumnFunction,
    t0: ArrayLike,
    ts: ArrayLike,
    *,
    method: str | Tableau = "magnus6",
    num_steps: int,
) -> Reduction:
    r"""Reduce a system by m known solutions to one of n-m equations.

    Every solution is $x=Xc+Nz$, where the columns of $N$ are an orthonormal basis of what is
    orthogonal to those of $X$, and

    $$N'=-XX^+A^*N,\qquad z'=N^*AN\,z,\qquad c'=X^+(A+A^*)Nz.$$

    Solved as two linear systems side by side: $N'=SN$ with the skew $S=(I-P)AP-PA^*(I-P)$,
    $P=XX^+$, and $(Nz)'=\bigl((I-P)A-PA^*\bigr)Nz$ together with $c$.

    Args:
        A_fn: as for `complete_fundamental_matrix`.
        X_fn: `X_fn(t) -> (n, m)`, `1 <= m < n` independent solutions as columns.
        t0: where $Z=I$ and $C=0$.
        ts: as for `complete_fundamental_matrix`.
        method: as for `linear_systems.fundamental_matrix`.
        num_steps: steps from each time to the next.

    Returns:
        $N$, $Z$, $C$ at the times. The solution through $X(t_0)c_0+N(t_0)z_0$ is
        $X(c_0+Cz_0)+NZz_0$. NaN where the known solutions are dependent.

    Raises:
        ValueError: `X_fn(t)` does not have 1 to n-1 columns, or as for `fundamental_matrix`.

    Example:
        >>> found = jax.jit(lambda times: reduce_order(  # the double eigenvalue 0
        ...     lambda t: jnp.array([[0.0, 1.0], [0.0, 0.0]]), lambda t: jnp.eye(2)[:, :1],
        ...     0.0, times, num_steps=2))(jnp.array([3.0]))
        >>> print(jnp.abs(found.N[0, :, 0]), jnp.abs(found.C[0, 0]))
        [0. 1.] [3.]
    """
    t0, ts = start_and_rows(t0, ts)
    n = _size(A_fn, X_fn, t0, lambda n: range(1, n))

    first = X_fn(t0)
    m = first.shape[1]

    def projected(t: Array) -> tuple[Array, Array]:
        """The projector on the known solutions, and their pseudoinverse."""
        q, r, fine = _factors(X_fn(t))
        q = jnp.where(fine, q, jnp.full_like(q, jnp.nan))
        return q @ _star(q), _solve(r, _star(q))

    def generator(t: Array) -> Array:
        """Of N, of Nz and of c, one below the other; c moves nothing."""
        a = A_fn(t)
        known, inverse = projected(t)
        both = a + _star(a)
        mixed = (a - known @ a) @ known
        turning = jnp.pad(mixed - _star(mixed), ((0, n + m), (0, 0)))
        moving = jnp.concatenate([jnp.zeros_like(a), a - known @ both, inverse @ both])
        return jnp.pad(jnp.concatenate([turning, moving], axis=1), ((0, 0), (0, m)))

    full = jnp.linalg.qr(jax.lax.stop_gradient(first), mode="complete")[0]
    start, _ = jnp.linalg.qr(full[:, m:] - projected(t0)[0] @ full[:, m:])
    phi = fundamental_matrix(generator, t0, ts, method=method, num_steps=num_steps)
    basis, moved, c = (
        phi[:, :n, :n] @ start,
        phi[:, n : 2 * n, n : 2 * n],
        phi[:, 2 * n :, n : 2 * n],
    )
    return Reduction(basis, _star(basis) @ (moved @ start), c @ start)
