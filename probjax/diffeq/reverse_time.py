r"""Time reversal of a diffusion, and the ordinary equation with the same marginals.

Let $p_t$ be the density of $dX=f\,dt+G\,dW$ and $s=\nabla\log p_t$. For every $\ell\ge0$ the
equation

$$dX = \Big[f-\tfrac{1+\ell^2}2\big(\nabla\cdot GG^\top+GG^\top s\big)\Big]dt+\ell\,G\,d\bar W$$

run **backwards** in time from $p_T$ passes through the same $p_t$. $\ell=1$ is Anderson's reversal,
$\ell=0$ the probability-flow ordinary equation.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.reverse_time import probability_flow
>>> from probjax.diffeq.sde import SDE
>>> heat = SDE(lambda t, x: jnp.zeros_like(x), lambda t, x: jnp.array(2.0**0.5), "additive")
>>> score_fn = lambda t, x: -x / (1 + 2 * t)  # start N(0, 1): variance 1 + 2 t
>>> probability_flow(heat, score_fn)(0.5, jnp.array([2.0]), None)  # x / (1 + 2 t)
Array([1.], dtype=float32)
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffeq.sde import NOISES, SDE, covariance_divergence, covariance_product

TimeScoreFn = Callable[[ArrayLike, Float[Array, "*d"]], Float[Array, "*d"]]
"""`score_fn(t, x)`: the score of the density at time `t`."""

VectorField = Callable[[ArrayLike, Float[Array, "*d"], Any], Float[Array, "*d"]]
"""`vector_field(t, x, args) -> dx/dt`."""


def reverse_sde(sde: SDE, score_fn: TimeScoreFn, *, stochasticity: ArrayLike = 1.0) -> SDE:
    r"""Return the equation that, run backwards in time, keeps the densities of `sde`.

    $$\text{drift} = f-\tfrac12(1+stochasticity^2)\big(\nabla\cdot GG^\top+GG^\top score\_fn\big),
      \qquad \text{diffusion} = stochasticity\cdot G$$

    The time is that of `sde`: integrate from `t1` down to `t0` with negative steps, the noise of a
    step of length $|h|$ having variance $|h|$.

    Args:
        sde: the forward equation.
        score_fn: $\nabla\log p_t(x)$, as `score_fn(t, x)`.
        stochasticity: $\ell\ge0$, how much noise to put in; 1 is Anderson's reversal.

    Returns:
        The backward equation, with `sde`'s kind of noise.

    Raises:
        ValueError: unknown noise, or a negative `stochasticity`.

    Example:
        >>> heat = SDE(lambda t, x: jnp.zeros_like(x), lambda t, x: jnp.array(2.0), "additive")
        >>> back = reverse_sde(heat, lambda t, x: -x / 3)  # drift -(4)(-x / 3)
        >>> back.drift(0.0, jnp.array([3.0])), back.diffusion(0.0, jnp.array([3.0]))
        (Array([4.], dtype=float32), Array(2., dtype=float32))

    References:
        Anderson 1982, *Reverse-time diffusion equation models*; Song et al. 2021, *Score-based
        generative modeling through stochastic differential equations*.
    """
    checks.one_of("noise", sde.noise, NOISES)
    checks.non_negative("stochasticity", stochasticity)

    def drift(t: ArrayLike, x: Float[Array, "*d"]) -> Float[Array, "*d"]:
        score = score_fn(t, x)
        checks.same_shape("score_fn(t, x)", score, "x", x)
        flow = covariance_product(sde, t, x, score)
        if sde.noise != "additive":
            flow = flow + covariance_divergence(sde, t, x)
        factor = 0.5 * (1 + jnp.asarray(stochasticity, x.dtype) ** 2)
        return sde.drift(t, x) - factor * flow

    def diffusion(t: ArrayLike, x: Float[Array, "*d"]) -> Float[Array, "..."]:
        return jnp.asarray(stochasticity, x.dtype) * sde.diffusion(t, x)

    return SDE(drift, diffusion, sde.noise)


def probability_flow(sde: SDE, score_fn: TimeScoreFn) -> VectorField:
    r"""Return the vector field whose flow has the marginal densities of `sde`.

    $$\frac{dx}{dt} = f-\tfrac12\big(\nabla\cdot GG^\top+GG^\top score\_fn\big)$$

    Args:
        sde: the equation.
        score_fn: $\nabla\log p_t(x)$, as `score_fn(t, x)`.

    Returns:
        `vector_field(t, x, args)`, as diffrax's `ODETerm` takes it; `args` is not used.

    Raises:
        ValueError: unknown noise.

    Example:
        >>> heat = SDE(lambda t, x: jnp.zeros_like(x), lambda t, x: jnp.array(2.0), "additive")
        >>> probability_flow(heat, lambda t, x: -x / 3)(0.0, jnp.array([3.0]), None)
        Array([2.], dtype=float32)

    References:
        Song et al. 2021, *Score-based generative modeling through stochastic differential
        equations*, section 4.3; Maoutsa, Reich, Opper 2020, *Interacting particle solutions of
        Fokker-Planck equations through gradient-log-density estimation*.
    """
    drift = reverse_sde(sde, score_fn, stochasticity=0.0).drift

    def vector_field(t: ArrayLike, x: Float[Array, "*d"], args: Any = None) -> Float[Array, "*d"]:
        del args
        return drift(t, x)

    return vector_field
