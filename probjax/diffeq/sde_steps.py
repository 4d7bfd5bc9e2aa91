r"""One step of a stochastic equation: Euler-Maruyama, Milstein, Heun, and Platen's of weak order 2.

A step is a function `step(sde, t, y, h, dw)`. The increment `dw` has variance $|h|$; `h` is
negative backwards in time, where the equation is Ito's in the time that runs backwards.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.sde import SDE
>>> from probjax.diffeq.sde_steps import euler_maruyama, milstein
>>> growth = SDE(lambda t, x: 0.5 * x, lambda t, x: 0.8 * x, "diagonal")
>>> y, dw = jnp.array([1.0]), jnp.array([0.3])
>>> print(euler_maruyama(growth, 0.0, y, 0.1, dw), milstein(growth, 0.0, y, 0.1, dw))
[1.29] [1.2868]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffeq.sde import SDE

Step = Callable[[SDE, Any, Array, Any, Array], Array]
"""`step(sde, t, y, h, dw) -> y`."""


class Method(NamedTuple):
    """A step and what there is to know of it."""

    step: Step
    """`step(sde, t, y, h, dw)`."""
    strong_order: float
    """Of single paths, for the noises that it is made for."""
    weak_order: float
    """Of expectations."""
    num_evaluations: int
    """Calls of the drift in a step."""


def noise_like(sde: SDE, t: ArrayLike, y: Float[Array, "*d"]) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of the increment that a step takes: one entry for each motion.

    Args:
        sde: the equation.
        t: a time.
        y: a state.

    Returns:
        `()` for scalar noise, `(m,)` where the diffusion is a matrix, else the shape of `y`.

    Example:
        >>> sde = SDE(lambda t, x: -x, lambda t, x: jnp.ones((3, 2)), "general")
        >>> noise_like(sde, 0.0, jnp.zeros(3)).shape
        (2,)
    """
    if sde.noise == "scalar":
        return jax.ShapeDtypeStruct((), y.dtype)
    root = jax.eval_shape(sde.diffusion, jnp.asarray(t, y.dtype), y)
    matrix = sde.noise == "general" or len(root.shape) > y.ndim
    return jax.ShapeDtypeStruct(root.shape[1:] if matrix else y.shape, y.dtype)


def stratonovich_correction(sde: SDE, t: ArrayLike, y: Float[Array, "*d"]) -> Float[Array, "*d"]:
    r"""Return what Ito's drift has more than Stratonovich's.

    $$\tfrac12\sum_k(b_k\cdot\nabla)\,b_k,\qquad b_k \text{ the columns of the diffusion}$$

    Args:
        sde: the equation.
        t: time.
        y: state.

    Returns:
        The vector, of `y`'s shape; zero for additive noise.

    Example:
        >>> sde = SDE(lambda t, x: -x, lambda t, x: x**2, "diagonal")
        >>> stratonovich_correction(sde, 0.0, jnp.array([2.0]))  # b b' / 2
        Array([8.], dtype=float32)
    """
    if sde.noise == "additive":
        return jnp.zeros_like(y)
    root = sde.diffusion(t, y)
    if sde.noise != "general":
        return 0.5 * _along(sde, t, y, root)

    def column(k: Array) -> Float[Array, "*d"]:
        return jax.jvp(lambda x: sde.diffusion(t, x)[:, k], (y,), (root[:, k],))[1]

    return 0.5 * jnp.sum(jax.vmap(column)(jnp.arange(root.shape[1])), axis=0)


def to_stratonovich(sde: SDE) -> SDE:
    r"""Return drift and diffusion of the same process in Stratonovich's sense.

    $$f_S = f - \tfrac12\sum_k(b_k\cdot\nabla)\,b_k,\qquad G_S=G$$

    For time that runs forwards; the steps of this module take Ito's equation and convert it
    themselves where they need to.

    Args:
        sde: the equation in Ito's sense.

    Returns:
        A record to be read in Stratonovich's sense, for instance by diffrax's Heun method.

    Example:
        >>> growth = SDE(lambda t, x: 0.5 * x, lambda t, x: 0.8 * x, "diagonal")
        >>> to_stratonovich(growth).drift(0.0, jnp.array([1.0]))  # 0.5 - 0.8^2 / 2
        Array([0.18], dtype=float32)
    """
    return sde._replace(drift=lambda t, x: sde.drift(t, x) - stratonovich_correction(sde, t, x))


def euler_maruyama(
    sde: SDE, t: ArrayLike, y: Float[Array, "*d"], h: ArrayLike, dw: Float[Array, "..."]
) -> Float[Array, "*d"]:
    r"""Step of strong order 1/2 (1 for additive noise) and weak order 1.

    $$y + f\,h + G\,dw$$

    Args:
        sde: the equation, any noise.
        t: time at the start of the step.
        y: state `(d,)`.
        h: step size, negative backwards in time.
        dw: increment of variance $|h|$, shaped as `noise_like` says.

    Returns:
        The state at `t + h`.

    Example:
        >>> decay = SDE(lambda t, x: -x, lambda t, x: jnp.ones(()), "additive")
        >>> print(euler_maruyama(decay, 0.0, jnp.array([1.0, 2.0]), 0.5, jnp.array([0.1, 0.2])))
        [0.6 1.2]

    References:
        Maruyama 1955; Kloeden, Platen 1992, 10.2.
    """
    return y + sde.drift(t, y) * h + _times(sde, sde.diffusion(t, y), dw, y)


def milstein(
    sde: SDE, t: ArrayLike, y: Float[Array, "*d"], h: ArrayLike, dw: Float[Array, "..."]
) -> Float[Array, "*d"]:
    r"""Step of strong order 1 and weak order 1, for all noises but the general one.

    $$y + f\,h + b\,dw + \tfrac12\,(b\cdot\nabla)b\;(dw^2-|h|)$$

    Args:
        sde: as for `euler_maruyama`; not general.
        t: as for `euler_maruyama`.
        y: as for `euler_maruyama`.
        h: as for `euler_maruyama`.
        dw: as for `euler_maruyama`.

    Returns:
        The state at `t + h`.

    Raises:
        ValueError: general noise, whose step needs Levy areas.

    Example:
        >>> growth = SDE(lambda t, x: 0.0 * x, lambda t, x: x, "diagonal")
        >>> print(milstein(growth, 0.0, jnp.array([1.0]), 0.01, jnp.array([0.3])))  # 1.3 + 0.08 / 2
        [1.34]

    References:
        Milstein 1974; Kloeden, Platen 1992, 10.3.
    """
    if sde.noise == "general":
        raise ValueError(
            "milstein takes scalar, diagonal or additive noise, got 'general', whose Levy areas "
            "it does not draw: see diffrax's SRK methods"
        )
    if sde.noise == "additive":
        return euler_maruyama(sde, t, y, h, dw)
    root = sde.diffusion(t, y)
    bend = 0.5 * _along(sde, t, y, root)
    return y + sde.drift(t, y) * h + root * dw + bend * (dw**2 - jnp.abs(h))


def stochastic_heun(
    sde: SDE, t: ArrayLike, y: Float[Array, "*d"], h: ArrayLike, dw: Float[Array, "..."]
) -> Float[Array, "*d"]:
    r"""Predict and correct on the Stratonovich form; no second derivatives, no `dw` squared.

    $$\bar y = y + f_S h + G\,dw,\qquad
      y + \tfrac12\big(f_S+\bar f_S\big)h + \tfrac12\big(G+\bar G\big)dw$$

    with $f_S$ of `to_stratonovich` and bars for values at $(t+h,\bar y)$. Strong order 1 for
    scalar, diagonal and additive noise, 1/2 for general noise; weak order 1.

    Args:
        sde: as for `euler_maruyama`, in Ito's sense.
        t: as for `euler_maruyama`.
        y: as for `euler_maruyama`.
        h: as for `euler_maruyama`.
        dw: as for `euler_maruyama`.

    Returns:
        The state at `t + h`.

    Example:
        >>> growth = SDE(lambda t, x: 0.5 * x, lambda t, x: x, "diagonal")  # f_S = 0
        >>> print(stochastic_heun(growth, 0.0, jnp.array([1.0]), 0.1, jnp.array([0.2])))
        [1.22]

    References:
        Rümelin 1982, *Numerical treatment of stochastic differential equations*.
    """

    def slope(t: ArrayLike, y: Float[Array, "*d"]) -> Float[Array, "*d"]:
        """Both terms of the Stratonovich form over the step."""
        correction = stratonovich_correction(sde, t, y) * jnp.abs(h)  # also where time runs back
        return sde.drift(t, y) * h - correction + _times(sde, sde.diffusion(t, y), dw, y)

    first = slope(t, y)
    return y + 0.5 * (first + slope(t + h, y + first))


def weak2_platen(
    sde: SDE, t: ArrayLike, y: Float[Array, "*d"], h: ArrayLike, dw: Float[Array, "..."]
) -> Float[Array, "*d"]:
    r"""Step of weak order 2 without derivatives, for scalar noise.

    $$y + \tfrac h2\big(f+f(\bar y)\big) + \tfrac14\big(b_++b_-+2b\big)dw
      + \tfrac14\big(b_+-b_-\big)\frac{dw^2-|h|}{\sqrt{|h|}}$$

    with $\bar y=y+f\,h+b\,dw$ and $b_\pm=b(t+h,\;y+f\,h\pm b\sqrt{|h|})$.

    Args:
        sde: the equation, of scalar noise.
        t: as for `euler_maruyama`.
        y: as for `euler_maruyama`.
        h: as for `euler_maruyama`.
        dw: one increment `()`; `three_point` variables do as well.

    Returns:
        The state at `t + h`.

    Raises:
        ValueError: noise that is not scalar.

    Example:
        >>> decay = SDE(lambda t, x: -x, lambda t, x: jnp.ones_like(x), "scalar")
        >>> print(weak2_platen(decay, 0.0, jnp.array([1.0]), 0.5, jnp.asarray(0.2)))
        [0.775]

    References:
        Kloeden, Platen 1992, 15.1.
    """
    if sde.noise != "scalar":
        raise ValueError(f"weak2_platen takes scalar noise, got {sde.noise!r}")
    drift, root = sde.drift(t, y), sde.diffusion(t, y)
    width = jnp.abs(h)
    # At h = 0 the last term is 0 / 0, and `dw` is zero as well.
    size = jnp.sqrt(jnp.where(width > 0, width, jnp.ones_like(width)))
    middle, late = y + drift * h, t + h
    above, below = (sde.diffusion(late, middle + sign * root * size) for sign in (1.0, -1.0))
    mean = 0.5 * h * (drift + sde.drift(late, middle + root * dw))
    noise = 0.25 * (above + below + 2 * root) * dw
    return y + mean + noise + 0.25 * (above - below) * ((dw**2 - width) / size)


METHODS = {
    "euler_maruyama": Method(euler_maruyama, 0.5, 1.0, 1),
    "milstein": Method(milstein, 1.0, 1.0, 1),
    "stochastic_heun": Method(stochastic_heun, 1.0, 1.0, 2),
    "weak2_platen": Method(weak2_platen, 0.5, 2.0, 2),
}
"""The steps by name."""


def find_method(method: str | Step) -> Method:
    """Return a method by its name, or a step of one's own as a method.

    Args:
        method: a name of `METHODS`, or a function `step(sde, t, y, h, dw)`.

    Returns:
        The record; of a step of one's own the orders are not known.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> find_method("milstein").strong_order
        1.0
    """
    if callable(method):
        return Method(method, float("nan"), float("nan"), 1)
    checks.one_of("method", method, METHODS)
    return METHODS[method]


def _along(sde: SDE, t: ArrayLike, y: Float[Array, "*d"], tangent: Array) -> Float[Array, "*d"]:
    """The derivative of the diffusion, scalar or diagonal, along a tangent."""
    return jax.jvp(lambda x: sde.diffusion(t, x), (y,), (tangent,))[1]


def _times(sde: SDE, root: Array, dw: Array, y: Array) -> Float[Array, "*d"]:
    """The diffusion times an increment."""
    matrix = sde.noise == "general" or (sde.noise == "additive" and root.ndim > y.ndim)
    return root @ dw if matrix else root * dw
