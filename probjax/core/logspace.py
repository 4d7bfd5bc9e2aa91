r"""Sums and differences of numbers that are stored as logarithms.

Zero is stored as $-\infty$. Values and gradients stay right there: the branch that would compute
$\infty-\infty$ is masked before the operation, so no `NaN` can flow back through it.

>>> import jax, jax.numpy as jnp
>>> from probjax.core import logspace
>>> nothing = jnp.array([-jnp.inf, -jnp.inf])
>>> print(jax.grad(lambda x: logspace.logsumexp(x))(nothing))
[0. 0.]
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def logsumexp(
    x: Float[Array, "*shape"],
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Logarithm of a sum of exponentials.

    $$\text{logsumexp}(x) = \log\sum_i e^{x_i}$$

    The gradient is the softmax, and zero where every summand is $e^{-\infty}$ (where
    `jax.scipy.special.logsumexp` and `jax.nn.logsumexp` give `NaN`).

    Args:
        x: logarithms; $-\infty$ stands for zero.
        axis: axis or axes summed over; `None` for all.
        where: mask broadcastable to `x`; entries where it is false do not count.

    Returns:
        `x` without `axis`; $-\infty$ for an empty sum.

    Example:
        >>> import jax.numpy as jnp
        >>> float(logsumexp(jnp.log(jnp.array([1.0, 2.0, 3.0]))))
        1.791759...
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(x - top), axis=axis, keepdims=True)
    empty = total == 0
    log_total = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)))
    return jnp.squeeze(log_total + top, axis=axis)


def logaddexp(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Logarithm of a sum of two exponentials.

    $$\text{logaddexp}(a, b) = \log(e^a + e^b)$$

    The gradient with respect to `a` is $e^{a-\text{logaddexp}(a,b)}$, and zero where both are
    $-\infty$.

    Args:
        a: logarithms.
        b: logarithms of the same shape.

    Returns:
        The logarithm of the sum, entry by entry.

    Example:
        >>> import jax.numpy as jnp
        >>> float(logaddexp(jnp.log(2.0), jnp.asarray(-jnp.inf)))
        0.693147...
    """
    both = jnp.isfinite(a) & jnp.isfinite(b)
    a_safe, b_safe = jnp.where(both, a, 0.0), jnp.where(both, b, 0.0)
    larger, smaller = jnp.maximum(a_safe, b_safe), jnp.minimum(a_safe, b_safe)
    soft = larger + jnp.log1p(jnp.exp(smaller - larger))
    one = jnp.maximum(a, b)
    return jnp.where(both, soft, jnp.where(jnp.isneginf(one), -jnp.inf, one))


def logmeanexp(
    x: Float[Array, "*shape"],
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Logarithm of a mean of exponentials.

    $$\text{logmeanexp}(x) = \log\frac1n\sum_{i=1}^n e^{x_i}$$

    Args:
        x: logarithms; $-\infty$ stands for zero.
        axis: axis or axes averaged over; `None` for all.
        where: mask broadcastable to `x`; $n$ counts the entries where it is true.

    Returns:
        `x` without `axis`; `NaN` for a mean over nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> float(logmeanexp(jnp.log(jnp.array([1.0, 2.0, 6.0]))))
        1.098612...
    """
    counted = jnp.ones_like(x) if where is None else jnp.broadcast_to(where, x.shape)
    number = jnp.sum(counted.astype(x.dtype), axis=axis)
    total = logsumexp(x, axis=axis, where=where)
    return jnp.where(number > 0, total - jnp.log(jnp.maximum(number, 1.0)), jnp.nan)


def log1mexp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Logarithm of one minus an exponential.

    $$\text{log1mexp}(x) = \log(1 - e^{x}), \qquad x \le 0$$

    Two forms meet at $x=-\log 2$, so that no digits cancel on either side.

    Args:
        x: logarithms of probabilities.

    Returns:
        Logarithms of the complements: $-\infty$ at 0, 0 at $-\infty$, `NaN` above 0.

    References:
        Mächler (2012), Accurately computing log(1 - exp(-|a|)).

    Example:
        >>> import jax.numpy as jnp
        >>> float(log1mexp(jnp.asarray(-1e-10)))
        -23.0258...
    """
    near = x > -jnp.log(jnp.asarray(2.0, x.dtype))
    inside = near & (x < 0)
    x_near = jnp.where(inside, x, -1.0)
    x_far = jnp.where(near, -1.0, x)
    close = jnp.log(-jnp.expm1(x_near))
    edge = jnp.where(x == 0, -jnp.inf, jnp.nan)
    return jnp.where(near, jnp.where(inside, close, edge), jnp.log1p(-jnp.exp(x_far)))
