r"""Equations of higher order as systems of first order.

>>> import jax.numpy as jnp
>>> from probjax.diffeq import as_first_order
>>> pendulum = as_first_order(lambda t, y, args: -jnp.sin(y[0]), 2)
>>> angle, rate = pendulum(0.0, (jnp.array(0.5), jnp.array(2.0)), None)
>>> print(f"{angle:.4f} {rate:.4f}")
2.0000 -0.4794
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from probjax.core import checks
from probjax.diffeq.solution import VectorField


def as_first_order(f: Callable[[Any, Any, Any], Any], order: int) -> VectorField:
    r"""Turn an equation of order n into n equations of order 1.

    $$y^{(n)}=f\bigl(t,(y,y',\dots,y^{(n-1)}),args\bigr)\quad\longrightarrow\quad
    z=(y,y',\dots,y^{(n-1)}),\qquad z'=\bigl(z_1,\dots,z_{n-1},f(t,z,args)\bigr)$$

    Args:
        f: `f(t, z, args)`, the highest derivative, laid out like `y`; `z` is the tuple of `y` and
            its derivatives below it.
        order: n, at least 1.

    Returns:
        `vector_field(t, z, args) -> z'` on tuples of length `order`; `y` may be any pytree.

    Raises:
        TypeError: `order` is not a static integer.
        ValueError: `order` is below 1, or a state has another length.

    Example:
        >>> circuit = as_first_order(lambda t, q, args: (1.0 - 0.5 * q[1] - 4.0 * q[0]), 2)
        >>> circuit(0.0, (0.25, 1.0), None)
        (1.0, -0.5)
        >>> circuit(0.0, (0.25,), None)
        Traceback (most recent call last):
        ValueError: y must hold 2 parts, the unknown and its derivatives below order 2, got 1
    """
    order = checks.at_least("order", order, 1)

    def vector_field(t: Any, y: Any, args: Any) -> Any:
        if len(y) != order:
            raise ValueError(
                f"y must hold {order} parts, the unknown and its derivatives below order {order}, "
                f"got {len(y)}"
            )
        y = tuple(y)
        return (*y[1:], f(t, y, args))

    return vector_field


def companion_matrix(coefficients: ArrayLike) -> Array:
    r"""Return the matrix of a linear equation with the coefficients $a_0,\dots,a_{n-1}$.

    $$y^{(n)}+a_{n-1}y^{(n-1)}+\dots+a_0y=0\quad\Longleftrightarrow\quad z'=Az,\qquad
    A=\begin{pmatrix}0&1&&\\&\ddots&\ddots&\\&&0&1\\-a_0&-a_1&\cdots&-a_{n-1}\end{pmatrix}$$

    Its characteristic polynomial is $\lambda^n+a_{n-1}\lambda^{n-1}+\dots+a_0$, its trace
    $-a_{n-1}$. `jax.scipy.linalg.companion` takes the coefficients from the highest power down
    and puts them in the first row: another matrix, with the same eigenvalues.

    Args:
        coefficients: `(n,)`, from $a_0$ up, without the leading 1.

    Returns:
        `(n, n)`.

    Raises:
        TypeError: the coefficients are not floating or complex.
        ValueError: they are no vector, or empty.

    Example:
        >>> print(companion_matrix(jnp.array([4.0, 0.5])))
        [[ 0.   1. ]
         [-4.  -0.5]]
    """
    a = jnp.asarray(coefficients)
    if a.ndim != 1 or a.shape[0] == 0:
        raise ValueError(f"coefficients must be a non-empty vector, got shape {a.shape}")
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        raise TypeError(f"coefficients must be floating or complex, got {a.dtype}")
    return jnp.eye(a.shape[0], k=1, dtype=a.dtype).at[-1].set(-a)
