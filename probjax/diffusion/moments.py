r"""The moments of an exponential integrator, and the weights that polynomials get from them.

Both take NumPy and JAX arrays, and answer in kind.

>>> import numpy as np
>>> mu = moments(np.array([0.5]))
>>> newest, older = interpolation_weights(mu, [np.array([-1.0])])
>>> print((newest + older - mu[0])[0], (-older - mu[1])[0])  # exact on 1 and on u
0.0 0.0
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NUM_MOMENTS = 4
"""As many as a polynomial of degree 3 needs."""


def moments(
    length: Float[Array | np.ndarray, "*steps"],
) -> tuple[Float[Array | np.ndarray, "*steps"], ...]:
    r"""The moments of the exponential kernel over a step, the zeroth to the third.

    $$\mu_j=\int_0^he^{-(h-u)}\Big(\frac uh\Big)^jdu,\qquad\mu_0=1-e^{-h},\quad
      \mu_j=1-\frac jh\,\mu_{j-1}$$

    For $h<1$ the recursion cancels, and the series
    $\mu_j=h\sum_n(-h)^n\frac{j!}{(j+n+1)!}$ stands for it.

    Args:
        length: $h>0$, any shape.

    Returns:
        $\mu_0,\dots,\mu_3$, of `length`'s shape and dtype.

    Example:
        >>> print([round(float(v[0]), 4) for v in moments(np.array([2.0]))])
        [0.8647, 0.5677, 0.4323, 0.3515]

    References:
        Hochbruck, Ostermann 2010, where $\mu_j=h\,j!\,\varphi_{j+1}(-h)$.
    """
    xp = jnp if isinstance(length, jax.Array) else np
    short = length < 1
    # Each branch sees only lengths it is made for, in derivatives too.
    small = xp.where(short, length, xp.ones_like(length))
    large = xp.where(short, xp.ones_like(length), length)
    # h < 1 leaves less than one part in 1e17 after 19 terms.
    found = [-xp.expm1(-length)]
    recursion = -xp.expm1(-large)
    for j in range(1, NUM_MOMENTS):
        recursion = 1 - j / large * recursion
        series = xp.zeros_like(length)
        for n in reversed(range(19)):
            series = series * -small + math.factorial(j) / math.factorial(j + n + 1)
        found.append(xp.where(short, small * series, recursion))
    return tuple(found)


def interpolation_weights(
    mu: Sequence[Float[Array | np.ndarray, "*steps"]],
    nodes: Sequence[Float[Array | np.ndarray, "*steps"]],
) -> list[Any]:
    r"""Weights of a function's values at 0 and at `nodes` in the integral of their polynomial.

    They solve $\sum_kw_kr_k^j=\mu_j$ for $j=0,\dots,K$ with the ratios $r_0=0,r_1,\dots,r_K$:
    Lagrange's polynomials, multiplied out, with $\mu_j$ for the powers.

    Args:
        mu: the moments, K + 1 at least, of the shape of the nodes.
        nodes: $r_1,\dots,r_K$, distinct and not zero, all of one shape.

    Returns:
        $w_0,w_1,\dots,w_K$.

    Example:
        >>> one = np.array([1.0])
        >>> print(interpolation_weights([one, one / 2, one / 3], [one / 2, one]))  # Simpson's rule
        [array([0.167]), array([0.667]), array([0.167])]
    """
    weights = []
    for k, node in enumerate(nodes):
        others = [other for place, other in enumerate(nodes) if place != k]
        # The polynomial r * prod(r - others), the lowest power first.
        powers = [0.0, 1.0]
        scale = node
        for other in others:
            powers = [
                low - other * high for low, high in zip([0.0, *powers], [*powers, 0.0], strict=True)
            ]
            scale = scale * (node - other)
        weights.append(sum(c * m for c, m in zip(powers[1:], mu[1:], strict=False)) / scale)
    return [mu[0] - sum(weights), *weights]
