r"""The funnel: a variable that sets the width of all others.

$$v\sim\mathcal N(0, 3^2), \qquad x_i\mid v\sim\mathcal N(0, e^{v}),\quad i = 1,\dots,d-1$$

A row is $(v, x_1, \dots, x_{d-1})$. No single step size suits both neck and mouth.

>>> import jax.numpy as jnp
>>> from probjax import targets
>>> print(targets.funnel(3).score(jnp.array([0.0, 1.0, 2.0])))
[ 1.5 -1.  -2. ]
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks, logspace
from probjax.targets.quadrature import integrate
from probjax.targets.record import Target, is_noiseless, prepare, sampler

_LOG_TWO_PI = float(np.log(2 * np.pi))


def funnel(dim: int = 10, *, scale: float = 3.0) -> Target:
    r"""Return Neal's funnel.

    With $a$ the scale of $v$, $A = a^2 + s^2$ and $n = d - 1$, noising leaves one integral over a
    standard normal $u$, in which $c$ is the clean $v$ given the noised one:

    $$p_s(v, x) = \mathcal N(v;\,0,\,A)\int\mathcal N(u;\,0,\,1)\prod_{i=1}^{n}
    \mathcal N\big(x_i;\,0,\,e^{c} + s^2\big)\,du, \qquad
    c = \tfrac{a^2}{A}v + \tfrac{a s}{\sqrt A}u .$$

    With $q = e^c + s^2$ and $E$ over $u\mid v, x$ the score is

    $$\partial_v\log p_s = -\tfrac vA + \tfrac{a^2}{A}\,
    E\Big[\tfrac{e^c}{2q}\big(\tfrac{\Vert x\Vert^2}{q} - n\big)\Big], \qquad
    \partial_{x}\log p_s = -x\,E\big[\tfrac1q\big].$$

    Args:
        dim: number of coordinates, $v$ included, at least 2.
        scale: $a$, the standard deviation of $v$.

    Returns:
        The target. With a Python `noise_scale=0.0` it is closed. Deep in the neck the numbers
        themselves leave float32: at $v=-100$, $x=1$ the score is $-e^{100}$, which is returned
        as $-\infty$.

    Raises:
        ValueError: `dim` is below 2 or `scale` is not positive.

    References:
        Neal (2003), Slice sampling, section 8.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, score = jnp.array([0.0, 1.0]), jax.jit(funnel(2).score)
        >>> print(score(x), score(x, 0.5))
        [ 0. -1.] [-0.068... -0.852...]
    """
    dim = checks.at_least("dim", dim, 2)
    checks.positive("scale", scale)
    spread, number = scale * scale, dim - 1

    def posterior(x: Array, variance: Array) -> tuple[Array, Array, Array, Array]:
        """Log integral, `e^c / q` and `log q` at the nodes, weights."""
        total = spread + variance
        mean, deviation = x[..., 0] * spread / total, jnp.sqrt(spread * variance / total)
        squares = jnp.sum(x[..., 1:] ** 2, axis=-1)
        noisy = variance > 0
        log_variance = jnp.where(noisy, jnp.log(jnp.where(noisy, variance, 1)), -jnp.inf)

        def log_widths(u: Array) -> tuple[Array, Array]:
            clean = mean[..., None] + deviation[..., None] * u
            floor = jnp.broadcast_to(log_variance[..., None], u.shape)
            return clean, logspace.logaddexp(clean, floor)

        def log_integrand(u: Array) -> Array:
            log_q = log_widths(u)[1]
            return -0.5 * (u**2 + number * log_q + _ratio(squares[..., None], log_q))

        # Down: the others pull v down with slope at most n/2, and not below their own best
        # width. Up: they pull v to that width, with slope at most |x|^2 / 2q.
        excess = squares / number - variance
        best = jnp.where(excess > 0, jnp.log(_or_one(excess)), -jnp.inf)
        slope = 0.5 * _ratio(squares, logspace.logaddexp(mean, log_variance))
        safe = jnp.maximum(deviation, 1e-6)
        down = jnp.minimum(deviation * number / 2, jnp.maximum(mean - best, 0) / safe)
        # The cap keeps zero deviation times infinite slope at zero.
        up = jnp.minimum(deviation * jnp.minimum(slope, 1e30), jnp.maximum(best - mean, 0) / safe)
        log_mass, u, weights = integrate(log_integrand, -down - 10, up + 10)
        clean, log_q = log_widths(u)
        log_mass = log_mass - 0.5 * (number + 1) * _LOG_TWO_PI
        return log_mass, jnp.exp(clean - log_q), log_q, weights

    def log_density(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch"]:
        x, variance = prepare(x, noise_scale, dim)
        total = spread + variance
        first = -0.5 * (x[..., 0] ** 2 / total + jnp.log(total) + _LOG_TWO_PI)
        if is_noiseless(noise_scale):
            v = x[..., 0]
            scaled = x[..., 1:] * jnp.exp(-0.5 * v)[..., None]
            return first - 0.5 * (jnp.sum(scaled**2, axis=-1) + number * (v + _LOG_TWO_PI))
        return first + posterior(x, variance)[0]

    def score(
        x: Float[Array, "*batch dim"], noise_scale: ArrayLike = 0.0
    ) -> Float[Array, "*batch dim"]:
        dtype = x.dtype
        x, variance = prepare(x, noise_scale, dim)
        total = spread + variance
        if is_noiseless(noise_scale):
            root = jnp.exp(-0.5 * x[..., 0])[..., None]
            scaled = x[..., 1:] * root
            pull = 0.5 * (jnp.sum(scaled**2, axis=-1) - number)
            others = -scaled * root
        else:
            _, share, log_q, weights = posterior(x, variance)
            squares = jnp.sum(x[..., 1:] ** 2, axis=-1)[..., None]
            slopes = 0.5 * share * (_ratio(squares, log_q) - number)
            pull = spread / total * _mean(weights, slopes)
            inverse = _mean(weights, jnp.exp(-log_q))[..., None]
            overflow = jnp.isinf(inverse) & (x[..., 1:] == 0)
            others = -x[..., 1:] * jnp.where(overflow, 1, inverse)
        along = -x[..., 0] / total + pull
        return jnp.concatenate([along[..., None], others], axis=-1).astype(dtype)

    def draw(key: Array, dtype: jnp.dtype) -> Float[Array, " dim"]:
        z = jax.random.normal(key, (dim,), dtype)
        v = scale * z[0]
        return jnp.concatenate([v[None], jnp.exp(0.5 * v) * z[1:]])

    return Target(dim, log_density, score, sampler(draw, dim))


def _or_one(values: Array) -> Array:
    """Positive entries, and one in place of the others: safe under a logarithm."""
    return jnp.where(values > 0, values, 1)


def _ratio(squares: Array, log_q: Array) -> Array:
    """`squares / q`, and zero where zero meets an overflowing `1 / q`."""
    overflow = log_q < -np.log(float(jnp.finfo(log_q.dtype).max))
    return squares * jnp.exp(-jnp.where(overflow & (squares == 0), 0, log_q))


def _mean(weights: Array, values: Array) -> Array:
    """Mean over the nodes; a node without weight may hold infinity."""
    return jnp.sum(weights * jnp.where(weights > 0, values, 0), axis=-1)
