r"""Linear stability of explicit Runge-Kutta methods.

On $y'=\lambda y$ one step multiplies by a polynomial in $z=h\lambda$,

$$R(z)=1+\sum_{k\ge1}b^\top A^{k-1}\mathbf 1\,z^k .$$

Errors do not grow where $|R(z)|\le1$.

>>> from probjax.diffeq import tableaus
>>> print(*stability_polynomial(tableaus.rk4))
1 1 1/2 1/6 1/24
>>> print(f"{real_limit(tableaus.rk4):.4f} {imaginary_limit(tableaus.rk4):.4f}")
-2.7853 2.8284
"""

import math
from fractions import Fraction

import numpy as np

from probjax.diffeq.tableaus import Number, Tableau


def stability_polynomial(tableau: Tableau) -> tuple[Number, ...]:
    r"""Return the coefficients of $R(z)$, from $z^0$ on.

    Args:
        tableau: the method.

    Returns:
        One coefficient more than the degree: rationals where the tableau is exact.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> print(*stability_polynomial(tableaus.heun))
        1 1 1/2
    """
    one = Fraction(1) if tableau.exact else 1.0
    column: list[Number] = [one] * tableau.num_stages
    coefficients: list[Number] = [one]
    for _ in range(tableau.num_stages):
        coefficients.append(_dot(tableau.b, column, tableau.exact))
        column = [_dot(row, column, tableau.exact) for row in tableau.a]
    while coefficients[-1] == 0:
        coefficients.pop()
    return tuple(coefficients)


def stability_function(
    tableau: Tableau, z: np.ndarray | complex | float
) -> np.ndarray | complex | float:
    r"""Return $R(z)$ at complex points.

    Args:
        tableau: the method.
        z: points of any shape.

    Returns:
        The factors, of the shape of `z`.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> print(stability_function(tableaus.euler, -2.0))
        -1.0
    """
    coefficients = [float(x) for x in stability_polynomial(tableau)]
    return np.polynomial.polynomial.polyval(np.asarray(z), coefficients)


def real_limit(tableau: Tableau) -> float:
    r"""Return the left end of the interval of the real axis on which $|R|\le1$, from 0 on.

    Args:
        tableau: the method.

    Returns:
        A number that is not positive.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> print(f"{real_limit(tableaus.kutta3):.4f}")
        -2.5127
    """
    polynomial = [Fraction(x) for x in stability_polynomial(tableau)]
    return -_first_exit([(-1) ** k * x for k, x in enumerate(_square(polynomial))])


def imaginary_limit(tableau: Tableau) -> float:
    r"""Return the upper end of the interval of the imaginary axis on which $|R|\le1$, from 0 on.

    Args:
        tableau: the method.

    Returns:
        A number that is not negative: 0 for methods that amplify every oscillation a little.

    Example:
        >>> from probjax.diffeq import tableaus
        >>> print(f"{imaginary_limit(tableaus.kutta3) ** 2:.4f} {imaginary_limit(tableaus.heun)}")
        3.0000 0.0
    """
    polynomial = [Fraction(x) for x in stability_polynomial(tableau)]
    even = [x * (1, 0, -1, 0)[k % 4] for k, x in enumerate(polynomial)]
    odd = [x * (0, 1, 0, -1)[k % 4] for k, x in enumerate(polynomial)]
    squares = [x + y for x, y in zip(_square(even), _square(odd), strict=True)]
    if not tableau.exact:  # what the conditions cancel, decimals cancel only nearly
        squares = [x if abs(x) > 1e-13 else Fraction(0) for x in squares]
    return _first_exit(squares)


def _dot(weights: tuple[Number, ...], column: list[Number], exact: bool) -> Number:
    terms = [x * y for x, y in zip(weights, column, strict=False)]
    return sum(terms, Fraction(0)) if exact else math.fsum(terms)


def _square(polynomial: list[Fraction]) -> list[Fraction]:
    result = [Fraction(0)] * (2 * len(polynomial) - 1)
    for i, x in enumerate(polynomial):
        for j, y in enumerate(polynomial):
            result[i + j] += x * y
    return result


def _first_exit(squares: list[Fraction]) -> float:
    """Where |R|^2, a polynomial in the distance from 0, first comes above 1."""
    excess = [squares[0] - 1, *squares[1:]]
    while excess and excess[-1] == 0:
        excess.pop()
    first = next((k for k, x in enumerate(excess) if x != 0), None)
    if first is None:
        return math.inf
    if excess[first] > 0:
        return 0.0
    # A root where |R| only touches 1 does not end the interval.
    rest = np.array([float(x) for x in excess[first:]])
    roots = np.roots(rest[::-1])
    real = np.sort(roots[np.abs(roots.imag) <= 1e-9 * np.abs(roots)].real)
    for root in real[real > 0]:
        if np.polynomial.polynomial.polyval(root * (1 + 1e-6), rest) > 0:
            return float(root)
    return math.inf
