r"""JAX's normal numbers in arithmetic that a kernel can do: unsigned integers and a polynomial.

Pallas has no `jax.random` in kernels for GPUs. These are the same bits, for keys as pairs of
`uint32` numbers, one pair in each lane:

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq import kernel_noise
>>> pair = tuple(jax.random.key_data(jax.random.key(7))[:, None])
>>> z = jax.jit(lambda pair: kernel_noise.normals(kernel_noise.fold_in(pair, 5), 1))(pair)
>>> float(z[0][0]) == float(jax.random.normal(jax.random.fold_in(jax.random.key(7), 5), (1,))[0])
True
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32


def fold_in(
    key: tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]], number: Any
) -> tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]]:
    """Do what `jax.random.fold_in` does, on keys as pairs of numbers.

    Args:
        key: the two halves of keys.
        number: what to fold in, a non-negative integer.

    Returns:
        The two halves of the new keys.

    Example:
        >>> pair = fold_in((jnp.zeros(1, jnp.uint32), jnp.full(1, 7, jnp.uint32)), 3)
        >>> jnp.stack(pair)[:, 0] == jax.random.key_data(jax.random.fold_in(jax.random.key(7), 3))
        Array([ True,  True], dtype=bool)
    """
    number = jnp.full_like(key[0], 0) + jnp.asarray(number).astype(jnp.uint32)
    return _threefry(key, (jnp.zeros_like(key[0]), number))


def normals(
    key: tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]], count: int
) -> tuple[Float[Array, "*n"], ...]:
    r"""Do what `jax.random.normal(key, (count,))` does, in float32.

    $$z_j=\sqrt2\,\mathrm{erf}^{-1}(u_j),\qquad u_j\in(-1,1)$$

    Args:
        key: the two halves of keys.
        count: how many numbers for each key.

    Returns:
        `count` arrays, one entry for each key.

    Example:
        >>> pair = (jnp.zeros(1, jnp.uint32), jnp.full(1, 7, jnp.uint32))
        >>> z = jnp.concatenate(jax.jit(lambda pair: normals(pair, 2))(pair))
        >>> jax.jit(lambda key: jax.random.normal(key, (2,)))(jax.random.key(7)) == z
        Array([ True,  True], dtype=bool)
    """
    low = np.nextafter(np.float32(-1), np.float32(0))
    out = []
    for j in range(count):
        zero = jnp.zeros_like(key[0])
        high_bits, low_bits = _threefry(key, (zero, zero + np.uint32(j)))
        bits = ((high_bits ^ low_bits) >> np.uint32(9)) | np.uint32(0x3F800000)
        unit = jax.lax.bitcast_convert_type(bits, jnp.float32) - np.float32(1)
        uniform = jnp.maximum(low, unit * (np.float32(1) - low) + low)
        out.append(np.float32(np.sqrt(2)) * erf_inv(uniform))
    return tuple(out)


_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
    -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
    0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def erf_inv(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Inverse of the error function in float32, by the polynomials that XLA uses.

    Args:
        x: numbers between -1 and 1.

    Returns:
        Their inverses; infinite at -1 and 1.

    Example:
        >>> float(jax.scipy.special.erf(erf_inv(jnp.array(0.5))))
        0.5

    References:
        Giles 2012, *Approximating the erfinv function*.
    """
    w = -jnp.log1p(-x * x)
    is_centre = w < 5
    w = jnp.where(is_centre, w - np.float32(2.5), jnp.sqrt(w) - np.float32(3))
    p = jnp.where(is_centre, np.float32(_CENTRE[0]), np.float32(_TAIL[0]))
    for centre, tail in zip(_CENTRE[1:], _TAIL[1:], strict=True):
        p = jnp.where(is_centre, np.float32(centre), np.float32(tail)) + p * w
    return jnp.where(jnp.abs(x) == 1, x * np.float32(np.inf), p * x)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds."""
    schedule = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    a, b = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return a, b
