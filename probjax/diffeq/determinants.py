r"""What the determinant of a covariance says: pivots, Hadamard's inequality, total correlation.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.determinants import hadamard_ratio, total_correlation
>>> covariance = jnp.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.5]])
>>> ratio, information = hadamard_ratio(covariance), total_correlation(covariance)
>>> print(f"{ratio.value:.5f} {information.value:.5f}")
0.73933 0.15100

A result is `Flagged(value, is_valid)`: NaN and false where the matrix is not positive definite.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from probjax.core import checks
from probjax.diffeq.matrix_functions import Flagged


def _checked(h: Array) -> Array:
    if h.ndim != 2 or h.shape[0] != h.shape[1]:
        raise ValueError(f"H must have shape (n, n), got {h.shape}")
    h = h.astype(jnp.float32) if jnp.finfo(h.dtype).bits < 32 else h
    checks.positive("variance", jnp.real(jnp.diagonal(h)))
    return h


def schur_pivots(H: Inexact[Array, "n n"]) -> Flagged:
    r"""Pivots of $H=LDL^*$: what is left of each variable, given those before it.

    $$d_k=h_{kk}-h^*\tilde H^{-1}h,\qquad\det H=\prod_kd_k$$

    with $\tilde H$ the block before k and $h$ the column above it. Elimination column by column,
    without square roots.

    Args:
        H: symmetric or Hermitian, `(n, n)`.

    Returns:
        $d$, `(n,)`, real; NaN and `is_valid=False` where `H` is not positive definite (a pivot is
        not above `n` roundings of its $h_{kk}$), or not Hermitian (beyond the root of a rounding).

    Raises:
        ValueError: not square, or an entry of the diagonal is not positive (named by its index).

    Example:
        >>> print(schur_pivots(jnp.array([[4.0, 2.0], [2.0, 3.0]])).value)
        [4. 2.]
        >>> print(schur_pivots(jnp.array([[1.0, 2.0], [2.0, 1.0]])).is_valid)
        False
    """
    h = _checked(H)
    n, variances = h.shape[0], jnp.real(jnp.diagonal(h))
    eps = float(jnp.finfo(h.dtype).eps)

    def eliminate(rest: Array, k: Array) -> tuple[Array, Array]:
        column, pivot = rest[:, k], jnp.real(rest[k, k])
        safe = jnp.where(pivot > 0, pivot, jnp.ones_like(pivot)).astype(h.dtype)
        return rest - column[:, None] * (jnp.conj(column) / safe)[None], pivot

    _, pivots = jax.lax.scan(eliminate, h, jnp.arange(n))
    scale = jnp.sqrt(variances)
    skew = jnp.abs(h - jnp.conj(h.T)) <= eps**0.5 * scale[:, None] * scale[None]
    is_valid = jnp.all(pivots > n * eps * variances) & jnp.all(skew)
    return _flag(pivots, is_valid)


def _flag(value: Array, is_valid: Array) -> Flagged:
    return Flagged(jnp.where(is_valid, value, jnp.full_like(value, jnp.nan)), is_valid)


def _shares(h: Array) -> Flagged:
    """Pivots over variances: what is not explained."""
    pivots, is_valid = schur_pivots(h)
    return Flagged(pivots / jnp.real(jnp.diagonal(h)).astype(pivots.dtype), is_valid)


def hadamard_ratio(H: Inexact[Array, "n n"]) -> Flagged:
    r"""Determinant over the product of the diagonal, $\det H/\prod_kh_{kk}$.

    In $(0,1]$: the squared volume of the parallelepiped whose edges are unit vectors with the
    correlations as cosines. Exactly 1 for diagonal `H`, and for no other.

    Args:
        H: as for `schur_pivots`.

    Returns:
        The ratio, a scalar; NaN and `is_valid=False` where `H` is not positive definite.

    Raises:
        ValueError: as for `schur_pivots`.

    Example:
        >>> print(hadamard_ratio(jnp.diag(jnp.array([0.1, 3.0]))).value)
        1.0
    """
    shares, is_valid = _shares(H)
    return Flagged(jnp.prod(shares), is_valid)


def multiple_correlations(H: Inexact[Array, "n n"]) -> Flagged:
    r"""Share of each variance that the variables before it explain, $R_k^2=1-d_k/h_{kk}$.

    Args:
        H: as for `schur_pivots`.

    Returns:
        $R^2$, `(n,)`, in $[0,1)$, the first 0; NaN and `is_valid=False` where `H` is not positive
        definite.

    Raises:
        ValueError: as for `schur_pivots`.

    Example:
        >>> print(multiple_correlations(jnp.array([[4.0, 2.0], [2.0, 4.0]])).value)
        [0.   0.25]
    """
    shares, is_valid = _shares(H)
    return Flagged(1 - shares, is_valid)


def total_correlation(H: Inexact[Array, "n n"]) -> Flagged:
    r"""Information, in nats, that Gaussian variables carry about each other.

    $$-\tfrac12\log\det\mathrm{corr}=-\tfrac12\sum_k\log\frac{d_k}{h_{kk}}
    =\sum_kI(x_k;\,x_1,\dots,x_{k-1})$$

    Args:
        H: covariance, as for `schur_pivots`.

    Returns:
        A scalar, not negative; NaN and `is_valid=False` where `H` is not positive definite.

    Raises:
        ValueError: as for `schur_pivots`.

    Example:
        >>> print(f"{total_correlation(jnp.array([[1.0, 0.6], [0.6, 1.0]])).value:.4f}")
        0.2231
    """
    shares, is_valid = _shares(H)
    return Flagged(-0.5 * jnp.sum(jnp.log(shares)), is_valid)


def correlation(H: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    r"""Correlations of a covariance, $h_{ij}/\sqrt{h_{ii}h_{jj}}$, with a diagonal of ones.

    Args:
        H: covariance, `(n, n)`.

    Returns:
        `(n, n)`.

    Raises:
        ValueError: not square, or a variance is not positive (named by its index).

    Example:
        >>> correlation(jnp.array([[1.0, 0.0], [0.0, 0.0]]))
        Traceback (most recent call last):
        ValueError: variance[1] must be positive and finite, got 0.0
    """
    h = _checked(H)
    inverse = (1 / jnp.sqrt(jnp.real(jnp.diagonal(h)))).astype(h.dtype)
    scaled = h * inverse[:, None] * inverse[None]
    return jnp.where(jnp.eye(h.shape[0], dtype=bool), jnp.ones_like(h), scaled)
