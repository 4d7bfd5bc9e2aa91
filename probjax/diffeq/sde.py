r"""Stochastic differential equations as records: $dX = f(t,X)\,dt + G(t,X)\,dW$, in Ito's sense.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.sde import SDE, check_sde
>>> ornstein_uhlenbeck = SDE(lambda t, x: -x, lambda t, x: jnp.array(0.5), "additive")
>>> check_sde(ornstein_uhlenbeck, 0.0, jnp.zeros(3))
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows

NOISES = ("scalar", "diagonal", "additive", "general")
"""How a diffusion may act."""


class SDE(NamedTuple):
    """An Ito equation for one trajectory `x` of shape `(d,)`."""

    drift: Callable[[ArrayLike, Float[Array, "*d"]], Float[Array, "*d"]]
    """$f(t, x)$, of `x`'s shape."""
    diffusion: Callable[[ArrayLike, Float[Array, "*d"]], Float[Array, "..."]]
    """$G(t, x)$, in the shape that `noise` asks for."""
    noise: str
    """`"scalar"`: `(d,)`, times one Brownian motion. `"diagonal"`: `(d,)`, entry i depends on
    `x[i]` alone (`check_diagonal` looks) and multiplies its own motion. `"additive"`: does not
    depend on `x`; `()` or `(d,)` as a diagonal, or `(d, m)`. `"general"`: `(d, m)`, any."""


def check_sde(sde: SDE, t: ArrayLike, x: Float[Array, "*d"]) -> None:
    """Demand that drift and diffusion have the shapes and dtypes their noise asks for.

    Nothing is computed: the functions are traced only.

    Args:
        sde: the equation.
        t: a time.
        x: a state, `(d,)` (with scalar or diagonal `additive` noise any shape).

    Raises:
        ValueError: an unknown `noise`, or a shape that does not fit it.
        TypeError: `x` is not floating, or drift or diffusion have another dtype.

    Example:
        >>> check_sde(SDE(lambda t, x: -x, lambda t, x: x, "general"), 0.0, jnp.zeros(3))
        Traceback (most recent call last):
        ValueError: diffusion of general noise must have shape (3, m), got (3,)
    """
    checks.one_of("noise", sde.noise, NOISES)
    checks.floating("x", x)
    t = jnp.asarray(t, x.dtype)
    drift, diffusion = jax.eval_shape(lambda t, x: (sde.drift(t, x), sde.diffusion(t, x)), t, x)
    checks.same_shape("drift(t, x)", drift, "x", x)
    for name, value in (("drift", drift), ("diffusion", diffusion)):
        if value.dtype != x.dtype:
            raise TypeError(f"{name}(t, x) must have x's dtype {x.dtype}, got {value.dtype}")
    got = diffusion.shape
    matrix = len(got) == 2 and x.ndim == 1 and got[0] == x.shape[0]
    fits = {
        "scalar": got == x.shape,
        "diagonal": got == x.shape,
        "additive": got in ((), x.shape) or matrix,
        "general": matrix,
    }
    if not fits[sde.noise]:
        size = ", ".join(map(str, x.shape))
        want = {"additive": f"() or ({size}) or ({size}, m)", "general": f"({size}, m)"}
        raise ValueError(
            f"diffusion of {sde.noise} noise must have shape {want.get(sde.noise, x.shape)}, "
            f"got {got}"
        )


def check_diagonal(sde: SDE, t: ArrayLike, x: Float[Array, "*d"]) -> None:
    r"""Demand that `"diagonal"` noise keeps its promise at one point: $\partial_j b_i=0$, $j\ne i$.

    Two derivatives are computed, along the ones and along a direction $v$ of unequal entries: if
    the promise is kept, $\partial b\,v=(\partial b\,\mathbf 1)\,v$ entry by entry.

    Args:
        sde: the equation; other noises than the diagonal one promise nothing.
        t: a time.
        x: a state.

    Raises:
        ValueError: an entry of the diffusion depends on another entry of `x`. Where `t` or `x` is
            traced the check waits for `checkify`, as those of `core.checks` do.

    Example:
        >>> mixed = SDE(lambda t, x: -x, lambda t, x: x[::-1], "diagonal")
        >>> check_diagonal(mixed, 0.0, jnp.array([1.0, 2.0]))
        Traceback (most recent call last):
        ValueError: diffusion[0] of diagonal noise depends on other entries of x; call it 'general'
    """
    if sde.noise != "diagonal" or x.size < 2:
        return
    golden = 0.5 + (np.arange(x.size) * 0.6180339887498949) % 1
    direction = jnp.asarray(golden.reshape(x.shape), x.dtype)
    slope = lambda v: jax.jvp(lambda y: sde.diffusion(t, y), (x,), (v,))[1]  # noqa: E731
    found, want = slope(direction), slope(jnp.ones_like(x)) * direction
    size = jnp.maximum(jnp.abs(found), jnp.abs(want))
    gap = jnp.abs(found - want) > 1e3 * float(jnp.finfo(x.dtype).eps) * size  # NaN passes
    words = "of diagonal noise depends on other entries of x; call it 'general'"
    if isinstance(gap, jax.core.Tracer):
        checkify.debug_check(~jnp.any(gap), f"the diffusion {words}")
        return
    found_at = np.argwhere(np.asarray(gap))
    if len(found_at):
        raise ValueError(f"diffusion[{', '.join(map(str, found_at[0]))}] {words}")


def covariance_product(
    sde: SDE, t: ArrayLike, x: Float[Array, "*d"], v: Float[Array, "*d"]
) -> Float[Array, "*d"]:
    r"""Multiply a vector by the covariance rate of the noise: $G G^\top v$.

    Args:
        sde: the equation.
        t: time.
        x: state `(d,)`.
        v: vector `(d,)`.

    Returns:
        $G(t,x)G(t,x)^\top v$, `(d,)`.

    Example:
        >>> sde = SDE(lambda t, x: -x, lambda t, x: x, "scalar")
        >>> covariance_product(sde, 0.0, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0]))
        Array([3., 6.], dtype=float32)
    """
    root = sde.diffusion(t, x)
    if sde.noise == "scalar":
        return root * jnp.vdot(root, v)
    if sde.noise == "general" or (root.ndim == 2 and root.ndim > x.ndim):
        return root @ (root.T @ v)
    return root**2 * v


def covariance_divergence(sde: SDE, t: ArrayLike, x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    r"""Return the divergence of the covariance rate, $\sum_j\partial_j(GG^\top)_{ij}$.

    Zero for additive noise. `"diagonal"` noise relies on its promise that entry i depends on
    `x[i]` alone.

    Args:
        sde: the equation.
        t: time.
        x: state `(d,)`.

    Returns:
        The vector `(d,)`.

    Example:
        >>> sde = SDE(lambda t, x: -x, lambda t, x: 0.5 * x, "diagonal")  # d/dx of x^2 / 4
        >>> covariance_divergence(sde, 0.0, jnp.array([1.0, 2.0]))
        Array([0.5, 1. ], dtype=float32)
    """
    if sde.noise == "additive":
        return jnp.zeros_like(x)
    if sde.noise == "diagonal":
        root, slope = jax.jvp(lambda y: sde.diffusion(t, y), (x,), (jnp.ones_like(x),))
        return 2 * root * slope

    def column(j: Array) -> Float[Array, "*d"]:
        """The derivative along axis j of the j-th column."""
        axis = jnp.zeros_like(x).at[j].set(1)
        return jax.jvp(lambda y: covariance_product(sde, t, y, axis), (x,), (axis,))[1]

    return rows.row_sum(jax.vmap(column, out_axes=1)(jnp.arange(x.shape[0])), event_ndim=1)
