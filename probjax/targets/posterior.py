r"""The record of a posterior: a log density on all of $\mathbb R^d$, and the way to its parameters.

A model's parameters $\theta$ are often bounded: positive, ordered, probabilities. Samplers move in
an unconstrained vector $u$ with $\theta = T(u)$, whose density is

$$\log p(u\mid y) = \log p(T(u)\mid y) + \log\lvert\det T'(u)\rvert + \text{const}.$$

>>> import jax, jax.numpy as jnp
>>> from probjax import targets
>>> posterior = targets.eight_schools()
>>> posterior.dim, posterior.names[-2:]
(10, ('mu', 'tau'))
>>> print(posterior.constrain(jnp.zeros(10))[-1])  # tau = exp(u[9])
1.0
>>> print(jax.grad(posterior.logdensity_fn)(jnp.zeros(10)).shape)
(10,)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks, keys
from probjax.targets.record import Numbers, working_dtype


class Posterior(NamedTuple):
    """A posterior density without bounds, known up to a constant."""

    name: str
    """What it is called."""
    dim: int
    """Number of unconstrained coordinates $d$."""
    names: tuple[str, ...]
    """Names of the $k$ parameters that `constrain` gives, in its order."""
    logdensity_fn: Callable[[Array], Array]
    """`(d,)` to `()`: log density of one `u`, log-Jacobian included, up to a constant."""
    constrain: Callable[[Array], Array]
    """`(d,)` to `(k,)`: the parameters at one `u`."""
    unconstrain: Callable[[Array], Array]
    """`(k,)` to `(d,)`: its inverse."""
    initial: Callable[..., Array]
    """`initial(key, num_chains)` to `(num_chains, d)`: scattered starts; row i depends on i."""


def make_posterior(
    name: str,
    names: Sequence[str],
    logdensity_fn: Callable[[Array], Array],
    constrain: Callable[[Array], Array],
    unconstrain: Callable[[Array], Array],
    *,
    center: Numbers,
    radius: Numbers = 2.0,
) -> Posterior:
    r"""Put a model's functions into a record, with their arguments checked.

    A vector narrower than float32 is computed in float32. Chains start uniformly in

    $$u_i\in(\text{center}_i-\text{radius}_i,\ \text{center}_i+\text{radius}_i).$$

    Args:
        name: what the posterior is called.
        names: of the parameters.
        logdensity_fn: `(d,)` to `()`.
        constrain: `(d,)` to `(k,)`.
        unconstrain: `(k,)` to `(d,)`.
        center: middle of the starts, `(d,)`; its length is the number of coordinates.
        radius: half the width of the starts, one number or `(d,)`.

    Returns:
        The record.

    Raises:
        ValueError: `center` is no vector, or `radius` does not fit or is not positive.

    Example:
        >>> half_line = make_posterior(
        ...     "exponential", ["x"], lambda u: jnp.sum(u - jnp.exp(u)), jnp.exp, jnp.log,
        ...     center=[0.0])
        >>> print(jax.grad(half_line.logdensity_fn)(jnp.zeros(1)))
        [0.]
        >>> half_line.logdensity_fn(jnp.zeros(2))
        Traceback (most recent call last):
        ValueError: u must have shape (1,), got (2,)
    """
    middle, widths = np.asarray(center, np.float64), np.asarray(radius, np.float64)
    checks.shape("center", middle, (None,))
    checks.positive("radius", widths)
    dim = len(middle)
    if widths.shape not in ((), (dim,)):
        raise ValueError(f"radius must be one number or have shape ({dim},), got {widths.shape}")
    names = tuple(names)

    def checked(function: Callable[[Array], Array], called: str, length: int) -> Callable:
        @functools.wraps(function)
        def call(vector: Float[Array, " length"]) -> Array:
            checks.floating(called, vector)
            checks.shape(called, vector, (length,))
            return function(vector.astype(working_dtype(vector)))

        return call

    def initial(key: keys.PRNGKey, num_chains: int) -> Float[Array, "num_chains dim"]:
        dtype = jnp.dtype(jax.dtypes.canonicalize_dtype(float))
        chains = keys.stream(keys.item_keys(key, num_chains), "init")
        draw = functools.partial(
            jax.random.uniform, shape=(dim,), dtype=dtype, minval=-1.0, maxval=1.0
        )
        scale = jnp.broadcast_to(jnp.asarray(widths, dtype), (dim,))
        return jnp.asarray(middle, dtype)[None] + scale[None] * jax.vmap(draw)(chains)

    return Posterior(
        name, dim, names,
        checked(logdensity_fn, "u", dim),
        checked(constrain, "u", dim),
        checked(unconstrain, "parameters", len(names)),
        initial,
    )  # fmt: skip


def observations(
    name: str,
    values: Numbers,
    *,
    length: int | None = None,
    positive: bool = False,
    integers: Sequence[int] | None = None,
) -> Float[np.ndarray, " n"]:
    """Check a vector of data, and return it in double precision.

    Args:
        name: the argument's name, for messages.
        values: the numbers.
        length: how many there must be; any number but none when `None`.
        positive: whether each must be positive.
        integers: the values that may occur; any when `None`.

    Returns:
        The vector.

    Raises:
        ValueError: it is no vector of finite numbers, empty, of another length, or holds a value
            that must not occur; the message names it.

    Example:
        >>> observations("y", [1, 2], length=3)
        Traceback (most recent call last):
        ValueError: y must have shape (3,), got (2,)
        >>> observations("y", [0, 2], integers=(0, 1))
        Traceback (most recent call last):
        ValueError: y[1] must be one of 0, 1, got 2.0
    """
    array = numbers(name, values)
    checks.shape(name, array, (length,))
    if not array.size:
        raise ValueError(f"{name} must not be empty")
    if positive:
        checks.positive(name, array)
    if integers is not None:
        bad = np.flatnonzero(~np.isin(array, integers))
        if bad.size:
            allowed = ", ".join(map(str, integers))
            raise ValueError(f"{name}[{bad[0]}] must be one of {allowed}, got {array[bad[0]]}")
    return array


def numbers(name: str, values: Any) -> Float[np.ndarray, "..."]:
    """Check an array of data of any shape, and return it in double precision.

    Args:
        name: the argument's name, for messages.
        values: the numbers.

    Returns:
        The array.

    Raises:
        ValueError: it holds something else than finite numbers, or its rows differ in length.

    Example:
        >>> numbers("x", [[1.0, 2.0], [float("nan"), 4.0]])
        Traceback (most recent call last):
        ValueError: x[1, 0] must be finite, got nan
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {values!r:.60}") from error
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name}[{', '.join(map(str, index))}] must be finite, got {array[index]}")
    return array


def indexed(name: str, number: int) -> list[str]:
    """Name the entries of a vector as Stan does, counted from one.

    Args:
        name: of the vector.
        number: of entries.

    Returns:
        `name[1]`, `name[2]` and so on.

    Example:
        >>> indexed("mu", 2)
        ['mu[1]', 'mu[2]']
    """
    return [f"{name}[{i + 1}]" for i in range(number)]


def log_normal_pdf(x: Array, mean: Array | float = 0.0, scale: float = 1.0) -> Array:
    r"""Log density of $N(\text{mean}, \text{scale}^2)$ up to a constant, for a fixed scale.

    Args:
        x: where, of any shape.
        mean: a number or of the shape of `x`.
        scale: standard deviation.

    Returns:
        Of the shape of `x`.

    Example:
        >>> float(log_normal_pdf(jnp.array(3.0), 1.0, 2.0))
        -0.5
    """
    return -0.5 * ((x - mean) / scale) ** 2


def log_normal_residuals(residuals: Array, log_scale: Array) -> Array:
    r"""Log density of residuals from $N(0, e^{2\,log\_scale})$, summed, up to a constant.

    Args:
        residuals: any shape.
        log_scale: log standard deviation, a scalar or of that shape.

    Returns:
        A scalar.

    Example:
        >>> float(log_normal_residuals(jnp.array([3.0, 1.0]), jnp.zeros(())))
        -5.0
    """
    scaled = residuals * jnp.exp(-log_scale)
    return -0.5 * jnp.sum(scaled**2) - jnp.sum(jnp.broadcast_to(log_scale, residuals.shape))


def log_half_cauchy(log_x: Array, scale: float) -> Array:
    r"""Log density of a half-Cauchy at $e^{log\_x}$, up to a constant.

    $$-\log\bigl(1+(x/\text{scale})^2\bigr),$$ which does not overflow where $x^2$ would.

    Args:
        log_x: logarithm of where, any shape.
        scale: the median.

    Returns:
        Of the shape of `log_x`.

    Example:
        >>> float(jnp.exp(log_half_cauchy(jnp.log(5.0), 5.0)))
        0.5000
    """
    return -jax.nn.softplus(2 * (log_x - float(np.log(scale))))
