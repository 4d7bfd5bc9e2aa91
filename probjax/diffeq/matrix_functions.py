r"""Exponential, logarithm, sine and cosine of a matrix; their ties to trace and determinant.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.matrix_functions import expm, logm
>>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
>>> found = logm(expm(turn))
>>> print(bool(found.is_valid), bool(jnp.allclose(found.value, turn, atol=1e-5)))
True True

All functions take one matrix and use products, solves and inverses only, so that they run on an
accelerator; `jax.vmap` takes them over many.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Inexact

from probjax.core import checks

# Largest norms at which the Pade approximant of degree 13 (7) is exact to rounding in float64
# (float32); Higham 2005, and its numerators' coefficients.
_DOUBLE = (
    5.371920351148152,
    (64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0)
    + (129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0)
    + (40840800.0, 960960.0, 16380.0, 182.0, 1.0),
)
_SINGLE = (
    3.925724783138660,
    (17297280.0, 8648640.0, 1995840.0, 277200.0, 25200.0, 1512.0, 56.0, 1.0),
)
_ROOT_STEPS = 24

# An accelerator rounds the factors of float32 products to ten bits unless it is told not to.
_exact_products = jax.default_matmul_precision("highest")


class Flagged(NamedTuple):
    """A result, and whether there is one."""

    value: Inexact[Array, "..."]
    """The result; NaN where it does not exist."""
    is_valid: Bool[Array, ""]
    """Whether it exists."""


def _checked(name: str, a: Array) -> Array:
    """The matrix in single precision at least; an error where it is not square."""
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"{name} must have shape (n, n), got {a.shape}")
    return a.astype(jnp.float32) if jnp.finfo(a.dtype).bits < 32 else a


def _norm(a: Array) -> Array:
    """Largest absolute column sum."""
    return jnp.max(jnp.sum(jnp.abs(a), axis=0))


def _eye(a: Array) -> Array:
    return jnp.eye(a.shape[0], dtype=a.dtype)


@_exact_products
def expm(a: Inexact[Array, "n n"], *, max_squarings: int = 16) -> Inexact[Array, "n n"]:
    r"""Exponential of a matrix by scaling and squaring.

    $$e^A=\bigl(r(A/2^s)\bigr)^{2^s},\qquad s=\lceil\log_2(\lVert A\rVert_1/\theta)\rceil$$

    with the diagonal Pade approximant $r$ of degree 13, or 7 in float32. `jax.scipy.linalg.expm`
    rounds $s$ down instead (JAX 0.10), which leaves norms up to $2\theta$ and an error up to 1e-2
    in float32 and 1e-7 in float64.

    Args:
        a: `(n, n)`, real or complex.
        max_squarings: the most squarings there may be; a bound of the norm known beforehand
            saves the rest of a loop that vectorised calls run to its end.

    Returns:
        `(n, n)`; NaN where `max_squarings` do not suffice.

    Raises:
        ValueError: `a` is not square, or `max_squarings` is negative.

    Example:
        >>> print(expm(jnp.array([[0.0, 1.0], [0.0, 0.0]])))
        [[1. 1.]
         [0. 1.]]

    References:
        Higham 2005.
    """
    a = _checked("a", a)
    checks.at_least("max_squarings", max_squarings, 0)
    real = jnp.finfo(a.dtype).dtype
    limit, coefficients = _DOUBLE if real == np.float64 else _SINGLE
    ratio = jax.lax.stop_gradient(_norm(a)) / limit
    needed = jnp.ceil(jnp.log2(jnp.maximum(ratio, jnp.ones_like(ratio))))
    count = jnp.where(jnp.isfinite(needed), needed, 0.0).astype(jnp.int32)
    scaled = a * jnp.ldexp(jnp.ones_like(ratio), -count).astype(a.dtype)

    square = scaled @ scaled
    fourth = square @ square
    powers = (_eye(scaled), square, fourth, fourth @ square)

    def polynomial(parity: int) -> Array:
        """The even or the odd powers of the numerator, the latter without a factor `scaled`."""
        low = sum(c * p for c, p in zip(coefficients[parity:8:2], powers, strict=True))
        high = coefficients[8 + parity :: 2]
        if not high:
            return low
        return low + powers[3] @ sum(c * p for c, p in zip(high, powers[1:], strict=True))

    even, odd = polynomial(0), scaled @ polynomial(1)
    # (even + odd) / (even - odd), so written that the exponential of zero is the identity
    root = _eye(scaled) + jnp.linalg.solve(even - odd, 2 * odd)

    def double(x: Array, i: Array) -> tuple[Array, None]:
        return jax.lax.cond(i < count, lambda y: y @ y, lambda y: y, x), None

    if max_squarings:
        root, _ = jax.lax.scan(double, root, jnp.arange(max_squarings, dtype=jnp.int32))
    enough = (count <= max_squarings) & jnp.isfinite(ratio)
    return jnp.where(enough, root, jnp.full_like(root, jnp.nan))


@_exact_products
def sqrtm(a: Inexact[Array, "n n"]) -> Flagged:
    r"""Principal square root: the one whose eigenvalues have positive real parts.

    Denman and Beavers' iteration in product form, $X,M\leftarrow A$, then

    $$X\leftarrow\tfrac12\mu X(I+\mu^{-2}M^{-1}),\qquad
    M\leftarrow\tfrac12I+\tfrac14(\mu^2M+\mu^{-2}M^{-1})$$

    until $M=I$, with $\mu=|\det M|^{-1/2n}$ while $M$ is far from it.

    Args:
        a: `(n, n)`, real or complex.

    Returns:
        The root, `(n, n)`; NaN and `is_valid=False` where an eigenvalue lies on $(-\infty,0]$, or
        so close to it (an angle of 1e-6) that 24 steps do not separate the two roots. One that is
        zero only up to rounding is not told from a small one.

    Raises:
        ValueError: `a` is not square.

    Example:
        >>> print(sqrtm(4 * jnp.eye(2)).value)
        [[2. 0.]
         [0. 2.]]
        >>> print(sqrtm(-jnp.eye(2)).is_valid)
        False

    References:
        Higham 2008.
    """
    a = _checked("a", a)
    one, size = _eye(a), a.shape[0]
    close = float(np.sqrt(jnp.finfo(a.dtype).eps))

    def improve(state: tuple) -> tuple:
        root, ratio, calm = state
        distance = _norm(ratio - one)
        logdet = jnp.linalg.slogdet(ratio)[1]
        scale = jnp.where(distance > 0.01, jnp.exp(-logdet / (2 * size)), jnp.ones_like(logdet))
        scale = jax.lax.stop_gradient(scale).astype(a.dtype)  # the limit does not depend on it
        inverse = jnp.linalg.inv(ratio) / scale**2
        root = 0.5 * scale * (root @ (one + inverse))
        ratio = 0.5 * one + 0.25 * (scale**2 * ratio + inverse)
        return root, ratio, calm + (distance <= close).astype(jnp.int32)

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        # A step after the last that counts: derivatives converge one step behind the values.
        return jax.lax.cond(state[2] < 2, improve, lambda s: s, state), None

    calm = jnp.zeros_like(jnp.abs(a[0, 0]), jnp.int32)
    (root, _, calm), _ = jax.lax.scan(step, (a, a, calm), None, length=_ROOT_STEPS)
    return _flag(root, (calm > 0) & jnp.all(jnp.isfinite(root)))


@_exact_products
def logm(a: Inexact[Array, "n n"], *, max_roots: int = 16) -> Flagged:
    r"""Principal logarithm: the one whose eigenvalues have imaginary parts within $(-\pi,\pi)$.

    Square roots are taken until $\lVert X-I\rVert_1\le\frac14$, for $X=A^{1/2^k}$, then

    $$\log A=2^k\int_0^1(X-I)\bigl(I+s(X-I)\bigr)^{-1}ds$$

    by eight Gauss-Legendre nodes. Derivatives of both directions pass through.

    Args:
        a: `(n, n)`, real or complex.
        max_roots: the most roots there may be.

    Returns:
        The logarithm, `(n, n)`; NaN and `is_valid=False` where an eigenvalue lies on
        $(-\infty,0]$ (see `sqrtm`), or `max_roots` do not suffice.

    Raises:
        ValueError: `a` is not square, or `max_roots` is negative.

    Example:
        >>> print(logm(jnp.array([[1.0, 1.0], [0.0, 1.0]])).value)
        [[0. 1.]
         [0. 0.]]
        >>> print(logm(jnp.diag(jnp.array([1.0, -1.0]))).is_valid)
        False

    References:
        Higham 2008.
    """
    a = _checked("a", a)
    checks.at_least("max_roots", max_roots, 0)
    one = _eye(a)

    def is_near(x: Array) -> Array:
        return _norm(x - one) <= 0.25

    def halve(state: tuple) -> tuple:
        x, count, good = state
        root, is_valid = sqrtm(x)
        return root, count + 1, good & is_valid

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        x, _, good = state
        return jax.lax.cond(is_near(x) | ~good, lambda s: s, halve, state), None

    count = jnp.zeros_like(jnp.abs(a[0, 0]), jnp.int32)
    state, _ = jax.lax.scan(step, (a, count, count == 0), None, length=max_roots)
    root, count, good = state
    away = root - one
    nodes, weights = (0.5 * v for v in np.polynomial.legendre.leggauss(8))

    def integrand(s: Array, weight: Array) -> Array:
        return weight * jnp.linalg.solve(one + s * away, away)

    parts = jax.vmap(integrand)(jnp.asarray(nodes + 0.5, a.dtype), jnp.asarray(weights, a.dtype))
    scale = jnp.ldexp(jnp.ones_like(jnp.abs(a[0, 0])), count)
    return _flag(scale.astype(a.dtype) * jnp.sum(parts, axis=0), good & is_near(root))


def _flag(value: Array, is_valid: Array) -> Flagged:
    return Flagged(jnp.where(is_valid, value, jnp.full_like(value, jnp.nan)), is_valid)


@_exact_products
def series_logm(a: Inexact[Array, "n n"], *, terms: int) -> Inexact[Array, "n n"]:
    r"""Power series of the logarithm about the identity.

    $$\sum_{k=1}^{terms}\frac{(-1)^{k+1}}{k}(A-I)^k$$

    It converges where every eigenvalue of $A-I$ is inside the unit disc and grows without bound
    where one is outside: for the page's sake, not for use (`logm`).

    Args:
        a: `(n, n)`, real or complex.
        terms: how many.

    Returns:
        The partial sum, `(n, n)`.

    Raises:
        ValueError: `a` is not square, or `terms < 1`.

    Example:
        >>> print(series_logm(jnp.array([[1.0, 0.5], [0.0, 1.0]]), terms=3))
        [[0.  0.5]
         [0.  0. ]]
    """
    a = _checked("a", a)
    checks.at_least("terms", terms, 1)
    away, one = a - _eye(a), _eye(a)
    total = jnp.zeros_like(a)
    for k in reversed(range(1, terms + 1)):
        total = away @ ((-1.0) ** (k + 1) / k * one + total)
    return total


def cosm(a: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    r"""Cosine of a matrix, $\frac12(e^{iA}+e^{-iA})$.

    Args:
        a: `(n, n)`, real or complex.

    Returns:
        `(n, n)`, of `a`'s dtype.

    Raises:
        ValueError: `a` is not square.

    Example:
        >>> print(cosm(jnp.zeros((2, 2))))
        [[1. 0.]
         [0. 1.]]
    """
    return _circular(a)[0]


def sinm(a: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    r"""Sine of a matrix, $\frac1{2i}(e^{iA}-e^{-iA})$.

    Args:
        a: `(n, n)`, real or complex.

    Returns:
        `(n, n)`, of `a`'s dtype.

    Raises:
        ValueError: `a` is not square.

    Example:
        >>> print(sinm(jnp.array([[0.0, 1.0], [0.0, 0.0]])))
        [[0. 1.]
         [0. 0.]]
    """
    return _circular(a)[1]


def _circular(a: Array) -> tuple[Array, Array]:
    """Cosine and sine."""
    a = _checked("a", a)
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        forward, back = expm(1j * a), expm(-1j * a)
        return 0.5 * (forward + back), -0.5j * (forward - back)
    both = expm(jax.lax.complex(jnp.zeros_like(a), a))
    return both.real, both.imag


@_exact_products
def commutator(a: Inexact[Array, "n n"], b: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    r"""What two matrices lack to commute, $[A,B]=AB-BA$. Its trace is zero.

    Args:
        a: `(n, n)`.
        b: `(n, n)`.

    Returns:
        `(n, n)`.

    Example:
        >>> up = jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> print(commutator(up, up.T))
        [[ 1.  0.]
         [ 0. -1.]]
    """
    return a @ b - b @ a


def frechet(
    fn: Callable[[Array], Array], a: Inexact[Array, "n n"], direction: Inexact[Array, "n n"]
) -> Inexact[Array, "n n"]:
    r"""Derivative of a matrix function in a direction, read from a block.

    $$f\begin{pmatrix}A&E\\0&A\end{pmatrix}=\begin{pmatrix}f(A)&Df(A)[E]\\0&f(A)\end{pmatrix}$$

    for `fn` given by a power series, or by analytic continuation of one. `jax.jvp(fn, (a,),
    (direction,))` gives the same at less cost; that both agree is a check of either.

    Args:
        fn: function of a square matrix of any size.
        a: `(n, n)`.
        direction: $E$, `(n, n)`.

    Returns:
        The derivative, `(n, n)`.

    Example:
        >>> one = jnp.eye(2)
        >>> print(frechet(lambda x: x @ x, 3 * one, one))
        [[6. 0.]
         [0. 6.]]

    References:
        Higham 2008.
    """
    n = a.shape[0]
    block = jnp.block([[a, direction], [jnp.zeros_like(a), a]])
    return fn(block)[:n, n:]


def jacobi_formula(
    a: Inexact[Array, "n n"], direction: Inexact[Array, "n n"]
) -> Inexact[Array, ""]:
    r"""Derivative of the determinant, $\mathrm{tr}(\mathrm{adj}(A)\,E)$, also at singular $A$.

    The adjugate comes from minors, so that nothing is divided by.

    Args:
        a: `(n, n)`.
        direction: $E$, `(n, n)`.

    Returns:
        The derivative, a scalar.

    Raises:
        ValueError: `a` is not square.

    Example:
        >>> print(jacobi_formula(jnp.diag(jnp.array([0.0, 2.0])), jnp.eye(2)))
        2.0
    """
    a = _checked("a", a)
    n = a.shape[0]
    if n == 1:
        return direction[0, 0]
    rest = np.array([[j for j in range(n) if j != i] for i in range(n)])

    def cofactor(i: Array, rows: Array, j: Array, columns: Array) -> Array:
        sign = (1 - 2 * ((i + j) % 2)).astype(a.dtype)
        return sign * jnp.linalg.det(a[rows][:, columns])

    along = jax.vmap(cofactor, in_axes=(None, None, 0, 0))
    index, rest = jnp.arange(n), jnp.asarray(rest)
    cofactors = jax.vmap(along, in_axes=(0, 0, None, None))(index, rest, index, rest)
    return jnp.sum(cofactors * direction)


def log_det_exp(a: Inexact[Array, "n n"]) -> Inexact[Array, ""]:
    r"""Return $\log|\det e^A|$, by the exponential and its factors. It equals $\mathrm{tr}\,A$.

    Args:
        a: `(n, n)`.

    Returns:
        A real scalar (of complex `a`: the real part of the trace).

    Raises:
        ValueError: `a` is not square.

    Example:
        >>> print(f"{log_det_exp(jnp.array([[1.0, 5.0], [0.0, -3.0]])):.4f}")
        -2.0000
    """
    return jnp.linalg.slogdet(expm(a))[1]
