r"""Positive numbers with an exponent of their own: no overflow, no underflow, no logarithm.

A long product of probabilities leaves float32's range after a few dozen factors. Its logarithm
does not, but pays twice: every sum costs exponentials and a logarithm, and a logarithm near
$-26\,000$ is stored to $2\cdot10^{-3}$ only, which is the *relative* error of the number it means.
Here a number is stored as

$$x=m\cdot2^e,\qquad 1\le m<2,$$

mantissa and exponent each a float. Sums and products of such numbers round like single floats, to
$6\cdot10^{-8}$, wherever they lie; zero is $m=0$. Aligning two exponents moves bits and calls no
function.

>>> import jax.numpy as jnp
>>> from probjax.sequence import wide
>>> tiny = wide.from_log(jnp.asarray(-26000.0))
>>> (a, b), exponent = wide.aligned(tiny, tiny)
>>> print(wide.to_log(wide.normalised(a + b, exponent)) - wide.to_log(tiny))
0.69...
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Wide(NamedTuple):
    """Numbers that are zero or positive, of any size."""

    mantissa: Float[Array, "*shape"]
    """In $[1, 2)$ once normalised; 0 for zero."""
    exponent: Float[Array, "*shape"]
    """An integer, stored as a float; the lowest one there is for zero."""


class _Layout(NamedTuple):
    """How a dtype stores its bits, and ln 2 in two parts."""

    integer: Any
    digits: int
    bias: int
    ln2_high: float
    ln2_low: float


# The high parts end in zero bits, so that their product with a moderate integer is exact.
_LAYOUTS = {
    jnp.dtype("float32"): _Layout(jnp.int32, 23, 127, 0.693359375, -2.12194440054690581e-04),
    jnp.dtype("float64"): _Layout(
        jnp.int64, 52, 1023, 0.6931471803691238, 1.90821492927058770002e-10
    ),
}


def lowest(dtype: Any) -> float:
    """Return the exponent that zero has: two of them still add up to a finite number.

    Args:
        dtype: float32 or float64.

    Returns:
        A negative number.

    Example:
        >>> lowest(jnp.float32) < -8e37
        True
    """
    return -float(jnp.finfo(dtype).max) / 4


def from_log(x: Float[Array, "*shape"]) -> Wide:
    r"""Return the numbers whose logarithms are `x`.

    $$e=\operatorname{round}(x/\ln2),\qquad m=\exp(x-e\ln2)$$

    Args:
        x: logarithms, below the square root of the largest float; $-\infty$ for zero.

    Returns:
        `Wide` numbers, mantissas in $[0.7, 1.42]$.

    Example:
        >>> print(from_log(jnp.asarray(-1000.0)).exponent)
        -1443.0
    """
    layout, low = _LAYOUTS[x.dtype], lowest(x.dtype)
    zero = jnp.isneginf(x)
    x = jnp.where(zero, 0.0, x)
    exponent = jnp.clip(jnp.round(x * (1 / math.log(2))), low, -low)
    rest = (x - exponent * layout.ln2_high) - exponent * layout.ln2_low
    # Beyond 2^24 the exponent itself is rounded and the rest means nothing.
    mantissa = jnp.exp(jnp.clip(rest, -0.35, 0.35))
    return Wide(jnp.where(zero, 0.0, mantissa), jnp.where(zero, low, exponent))


def to_log(x: Wide) -> Float[Array, "*shape"]:
    r"""Return logarithms, $-\infty$ for zero.

    Args:
        x: wide numbers.

    Returns:
        $\ln m+e\ln2$.

    Example:
        >>> to_log(from_log(jnp.array([-3.0, -jnp.inf])))
        Array([ -3., -inf], dtype=float32)
    """
    layout, zero = _LAYOUTS[x.mantissa.dtype], x.mantissa == 0
    log_mantissa = jnp.log(jnp.where(zero, 1.0, x.mantissa))
    low = x.exponent * layout.ln2_low + log_mantissa
    return jnp.where(zero, -jnp.inf, x.exponent * layout.ln2_high + low)


def aligned(*terms: Wide) -> tuple[list[Float[Array, "*shape"]], Float[Array, "*shape"]]:
    """Return the terms' mantissas over one exponent, the largest among them.

    Args:
        *terms: wide numbers of one shape.

    Returns:
        One mantissa for each term, to be added up, and the exponent they share. A term that is
        more than 126 binary digits smaller than the largest counts as zero.

    Example:
        >>> mantissas, exponent = aligned(*(from_log(jnp.log(jnp.asarray(v))) for v in (8.0, 1.0)))
        >>> [float(m) for m in mantissas], float(exponent)
        ([1.0, 0.125], 3.0)
    """
    exponent = functools.reduce(jnp.maximum, [term.exponent for term in terms])
    return [t.mantissa * _power_of_two(t.exponent - exponent) for t in terms], exponent


def normalised(mantissa: Float[Array, "*shape"], exponent: Float[Array, "*shape"]) -> Wide:
    r"""Return $m\cdot2^e$ with its mantissa in $[1,2)$.

    Args:
        mantissa: zero, or any positive number in the normal range.
        exponent: an integer, not below twice `lowest`.

    Returns:
        The same number.

    Example:
        >>> normalised(jnp.asarray(6.0), jnp.asarray(10.0))
        Wide(mantissa=Array(1.5, dtype=float32), exponent=Array(12., dtype=float32))
    """
    layout, low = _LAYOUTS[mantissa.dtype], lowest(mantissa.dtype)
    bits = jax.lax.bitcast_convert_type(mantissa, layout.integer)
    moved = ((bits >> layout.digits) - layout.bias).astype(mantissa.dtype)
    fraction = (bits & ((1 << layout.digits) - 1)) | (layout.bias << layout.digits)
    zero = mantissa == 0
    return Wide(
        jnp.where(zero, 0.0, jax.lax.bitcast_convert_type(fraction, mantissa.dtype)),
        jnp.where(zero, low, jnp.maximum(exponent + moved, low)),
    )


def _power_of_two(n: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Two to an integer not above zero, written into the bits; 0 below the normal range."""
    layout = _LAYOUTS[n.dtype]
    biased = jnp.maximum(n, -layout.bias).astype(layout.integer) + layout.bias
    return jax.lax.bitcast_convert_type(biased << layout.digits, n.dtype)
