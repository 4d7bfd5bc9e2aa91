r"""The density of a sample under a denoiser, by the probability flow.

The flow carries data to noise along a smooth, invertible path, and the change of its log density on
the way is an integral of the denoiser's divergence:

>>> import jax.numpy as jnp
>>> from probjax.diffusion.exact import gaussian_denoiser
>>> from probjax.diffusion.likelihood import pf_ode_log_prob
>>> denoiser = gaussian_denoiser(jnp.array([0.0]), jnp.array([[0.25]]))
>>> result = pf_ode_log_prob(
...     denoiser, jnp.array([[0.5]]), noise_scale_min=0.001, noise_scale_max=80.0)
>>> exact = -0.5 - 0.5 * jnp.log(2 * jnp.pi * 0.25)  # one standard deviation from the mean
>>> print(f"{result.log_prob[0]:.3f} {exact:.3f} {result.num_evaluations}")
-0.726 -0.726 120
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probjax.core import checks, rows, traces
from probjax.core.keys import RowKeys, as_key, stream
from probjax.diffeq import Tableau, as_tableau, rk_step
from probjax.diffusion.parameterization import Denoiser

LogDensity = Callable[[Float[Array, "*rows"]], Float[Array, "*batch"]]
"""Row-wise log density: rows `(*B, *event)` to `(*B,)`."""

# Keeps a draw off the borders of its level by more than float32 rounds numbers up to 1024.
_MARGIN = 2.0**-12


class FlowLogProb(NamedTuple):
    """What `pf_ode_log_prob` returns."""

    log_prob: Float[Array, "*batch"]
    """Log density in nats of the data noised at `noise_scale_min`; float32 at least."""
    latent: Float[Array, "*rows"]
    """Where the flow carried `x`, at `noise_scale_max`; in `x`'s dtype."""
    num_evaluations: Int[Array, ""]
    """Denoiser calls (NFE), each for the whole batch and with its derivative."""


def pf_ode_log_prob(
    denoiser: Denoiser,
    x: Float[Array, "*rows"],
    *,
    noise_scale_min: ArrayLike,
    noise_scale_max: ArrayLike,
    num_steps: int = 20,
    tableau: str | Tableau = "dormand_prince",
    probes: Float[Array, "k ..."] | None = None,
    prior: LogDensity | None = None,
    chunk: int | None = None,
    event_ndim: int = 1,
) -> FlowLogProb:
    r"""Log density of each row, by the probability flow in the logarithm of the noise scale.

    $$\log p(x)=\log prior(x_T)+\int_{\log\sigma_{\min}}^{\log\sigma_{\max}}
      \Big(d-\operatorname{tr}\frac{\partial D}{\partial x}\Big)\,d\ell,\qquad
      \frac{dx}{d\ell}=x-D(x,e^\ell)$$

    with $\ell=\log\sigma$ and $D$ the `denoiser`. The steps are uniform in $\ell$ and their number
    is fixed, so the whole is one `lax.scan` that stays on the device.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise, for $x=x_0+\sigma\varepsilon$; the scale
            arrives as a scalar.
        x: where to take the density, `(*B, *event)`.
        noise_scale_min: $\sigma_{\min}$; the density is that of the data with this noise on it.
        noise_scale_max: $\sigma_{\max}$, above it.
        num_steps: Runge-Kutta steps.
        tableau: the method of a step, a key of `diffeq.tableaus.METHODS` or a tableau: `"heun"`
            (order 2, 2 calls a step), `"rk4"` (4, 4), `"dormand_prince"` (5, 6), ...
        probes: directions `(k, *B, *event)` with identity covariance, from `core.traces.probes`,
            for Hutchinson's estimate of the trace. The same ones serve the whole path, so that one
            smooth equation is solved; the result is unbiased for that of the exact trace on the
            same steps. If left out the trace is exact, for $d$ derivatives in each call.
        prior: log density at `noise_scale_max`, `(*B, *event)` to `(*B,)`;
            $N(0,\sigma_{\max}^2I)$ if left out, which for data of mean $m$ is off by about
            $m^\top z/\sigma_{\max}$ nats with $z$ standard normal: centre the data.
        chunk: how many of the exact trace's derivatives go through at once, for accelerators; one
            if left out.
        event_ndim: how many trailing axes make one row.

    Returns:
        `FlowLogProb`. It is the density of the flow that the steps make, which is not normalised
        exactly; more steps tell by how much.

    Raises:
        ValueError: the scales are not positive or not in order, `num_steps < 1`, unknown
            `tableau`, a shape is wrong, or `chunk` is given with `probes`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)  # all data at 0
        >>> result = pf_ode_log_prob(
        ...     zero, jnp.array([0.0]), noise_scale_min=1.0, noise_scale_max=8.0)
        >>> print(f"{result.log_prob:.4f}")  # N(0, noise_scale_min^2): -log(2 pi) / 2
        -0.9189

    References:
        Chen, Rubanova, Bettencourt, Duvenaud 2018, *Neural ordinary differential equations*;
        Grathwohl et al. 2019, *FFJORD*; Song et al. 2021. Implementations that draw new probes in
        each call give a solver with error control noise to chase.
    """
    given = x.dtype
    x = rows.working("x", x, event_ndim=event_ndim)
    if probes is not None:
        checks.shape("probes", probes, (None, *x.shape))
        checks.at_least("number of probes", probes.shape[0], 1)
        probes = probes.astype(x.dtype)
        if chunk is not None:
            raise ValueError(f"chunk must be None with probes, which need no chunks, got {chunk}")

    def derivative(
        state: tuple[Float[Array, "*rows"], Float[Array, "*batch"]], noise_scale: Float[Array, ""]
    ) -> tuple[Float[Array, "*rows"], Float[Array, "*batch"]]:
        def field(y: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
            return _field(denoiser, y, noise_scale)

        if probes is None:
            return traces.divergence_exact(field, state[0], event_ndim=event_ndim, chunk=chunk)
        return traces.divergence_hutchinson(field, state[0], probes, event_ndim=event_ndim)

    start = (x, jnp.zeros_like(rows.row_sum(x, event_ndim=event_ndim)))
    (latent, gain), calls = _integrate(
        derivative, start, noise_scale_min, noise_scale_max, num_steps, tableau, x.dtype
    )
    if prior is None:
        dim = math.prod(x.shape[x.ndim - event_ndim :])
        scale = jnp.asarray(noise_scale_max, x.dtype)
        squares = rows.row_sum((latent / scale) ** 2, event_ndim=event_ndim)
        log_prior = -0.5 * squares - dim * (jnp.log(scale) + 0.5 * math.log(2 * math.pi))
    else:
        log_prior = prior(latent)
        checks.shape("prior(x)", log_prior, gain.shape)
    return FlowLogProb(log_prior + gain, latent.astype(given), calls)


def encode(
    denoiser: Denoiser,
    x: Float[Array, "*rows"],
    *,
    noise_scale_min: ArrayLike,
    noise_scale_max: ArrayLike,
    num_steps: int = 20,
    tableau: str | Tableau = "dormand_prince",
) -> Float[Array, "*rows"]:
    r"""Carry data up the probability flow to its noise.

    $$\frac{dx}{d\ell}=x-D(x,e^\ell),\qquad
      \ell:\ \log\sigma_{\min}\to\log\sigma_{\max}$$

    Args:
        denoiser: as for `pf_ode_log_prob`.
        x: data `(*B, *event)`, noised at `noise_scale_min`.
        noise_scale_min: where the path begins.
        noise_scale_max: where it ends, above.
        num_steps: Runge-Kutta steps, uniform in the logarithm.
        tableau: as for `pf_ode_log_prob`.

    Returns:
        The latent of each row, at `noise_scale_max`.

    Raises:
        ValueError: as `pf_ode_log_prob`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> print(f"{encode(zero, jnp.ones(1), noise_scale_min=1.0, noise_scale_max=8.0)[0]:.3f}")
        8.000
    """
    return _carry(denoiser, x, noise_scale_min, noise_scale_max, num_steps, tableau, up=True)


def decode(
    denoiser: Denoiser,
    latent: Float[Array, "*rows"],
    *,
    noise_scale_min: ArrayLike,
    noise_scale_max: ArrayLike,
    num_steps: int = 20,
    tableau: str | Tableau = "dormand_prince",
) -> Float[Array, "*rows"]:
    r"""Carry noise down the probability flow to data: `encode` backwards.

    $$\frac{dx}{d\ell}=x-D(x,e^\ell),\qquad
      \ell:\ \log\sigma_{\max}\to\log\sigma_{\min}$$

    Args:
        denoiser: as for `pf_ode_log_prob`.
        latent: noise `(*B, *event)` of the scale `noise_scale_max`.
        noise_scale_min: where the path ends.
        noise_scale_max: where it begins, above.
        num_steps: Runge-Kutta steps, uniform in the logarithm.
        tableau: as for `pf_ode_log_prob`.

    Returns:
        Data noised at `noise_scale_min`, equal to what was encoded up to the error of the steps.

    Raises:
        ValueError: as `pf_ode_log_prob`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> x = decode(zero, jnp.full(1, 8.0), noise_scale_min=1.0, noise_scale_max=8.0)
        >>> print(f"{x[0]:.3f}")
        1.000
    """
    return _carry(denoiser, latent, noise_scale_min, noise_scale_max, num_steps, tableau, up=False)


def dequantise(
    key: RowKeys, x_int: Int[Array, "*rows"], *, levels: int, event_ndim: int = 1
) -> Float[Array, "*rows"]:
    r"""Spread integers over the unit interval, so that a density exists.

    $$x=\frac{x\_int+u}{levels},\qquad u\sim U(0,1)$$

    By Jensen's inequality the log probability of the integers is at least the mean over $u$ of
    $\log p(x)-d\log levels$.

    Args:
        key: one key, or a key for each row.
        x_int: integers from 0 to `levels - 1`, `(*B, *event)`.
        levels: how many levels there are, 2 to 1024.
        event_ndim: how many trailing axes make one row.

    Returns:
        Numbers in (0, 1), whose `floor(levels * x)` is `x_int`; NaN for a traced integer out of
        range.

    Raises:
        ValueError: `levels` or an integer is out of range.

    Example:
        >>> x = dequantise(jax.random.key(0), jnp.array([[0, 1, 2]]), levels=3)
        >>> print(jnp.floor(3 * x))
        [[0. 1. 2.]]

    References:
        Theis, van den Oord, Bethge 2016, *A note on the evaluation of generative models*.
    """
    if checks.at_least("levels", levels, 2) > 1024:
        raise ValueError(f"levels must be at most 1024, got {levels}")
    checks.non_negative("x_int", x_int)
    checks.positive("levels - x_int", levels - x_int)
    key = stream(as_key(key), "dequantise")
    dtype = jnp.result_type(float)
    batch, event = x_int.shape[: x_int.ndim - event_ndim], x_int.shape[x_int.ndim - event_ndim :]
    if key.ndim == 0:
        draws = jax.random.uniform(key, x_int.shape, dtype)
    else:
        checks.shape("key", key, batch)
        each = jax.vmap(lambda row: jax.random.uniform(row, event, dtype))
        draws = each(key.reshape(math.prod(batch))).reshape(x_int.shape)
    values = (x_int.astype(dtype) + jnp.clip(draws, _MARGIN, 1 - _MARGIN)) / levels
    return jnp.where((x_int >= 0) & (x_int < levels), values, jnp.nan)


def bits_per_dim(
    log_prob: Float[Array, "*batch"], *, dim: int, log_scale: ArrayLike
) -> Float[Array, "*batch"]:
    r"""Code length of integers in bits per dimension, from the log density of their rescaling.

    $$-\frac{log\_prob+dim\cdot log\_scale}{dim\,\log2}$$

    Args:
        log_prob: log density in nats of $x=e^{log\_scale}\,(x\_int+u)+shift$, `(*B,)`; the shift
            does not matter.
        dim: how many numbers make one row.
        log_scale: the logarithm of the factor that turns one level into units of `x`:
            $-\log levels$ after `dequantise`, and $-\log(levels\cdot s)$ if the result
            was divided by $s$ after that.

    Returns:
        Bits per dimension, `(*B,)`: an upper bound of the code length of the integers, on average
        over the dequantising noise. The uniform law over the levels has `log2(levels)`.

    Raises:
        ValueError: `dim < 1`.

    Example:
        >>> uniform = jnp.zeros(1)  # log density of U(0, 1)^d, the dequantised uniform integers
        >>> print(bits_per_dim(uniform, dim=64, log_scale=-jnp.log(16.0)))
        [4.]

    References:
        Theis, van den Oord, Bethge 2016.
    """
    checks.at_least("dim", dim, 1)
    scale = jnp.asarray(log_scale, log_prob.dtype)
    checks.shape("log_scale", scale, ())
    return -(log_prob + dim * scale) / (dim * math.log(2.0))


def _field(
    denoiser: Denoiser, x: Float[Array, "*rows"], noise_scale: Float[Array, ""]
) -> Float[Array, "*rows"]:
    """The flow's velocity in the logarithm of the noise scale."""
    clean = denoiser(x, noise_scale)
    checks.same_shape("denoiser(x, noise_scale)", clean, "x", x)
    return x - clean


def _carry(
    denoiser: Denoiser,
    x: Float[Array, "*rows"],
    noise_scale_min: ArrayLike,
    noise_scale_max: ArrayLike,
    num_steps: int,
    tableau: str | Tableau,
    *,
    up: bool,
) -> Float[Array, "*rows"]:
    """Carry rows along the flow, up to the noise or down to the data."""
    given = x.dtype
    x = rows.working("x", x, event_ndim=0)

    def derivative(state: Any, noise_scale: Float[Array, ""]) -> Any:
        return (_field(denoiser, state[0], noise_scale),)

    (x,), _ = _integrate(
        derivative, (x,), noise_scale_min, noise_scale_max, num_steps, tableau, x.dtype, up=up
    )
    return x.astype(given)


def _integrate(
    derivative: Callable[[Any, Float[Array, ""]], Any],
    state: Any,
    noise_scale_min: ArrayLike,
    noise_scale_max: ArrayLike,
    num_steps: int,
    tableau: str | Tableau,
    dtype: Any,
    *,
    up: bool = True,
) -> tuple[Any, Int[Array, ""]]:
    """Runge-Kutta steps, uniform in the logarithm of the noise scale; also the evaluations made."""
    checks.at_least("num_steps", num_steps, 1)
    tableau = as_tableau(tableau, name="tableau")._replace(b_hat=None)
    lo, hi = noise_scale_min, noise_scale_max
    checks.positive("noise_scale_min", lo)
    checks.positive("noise_scale_max", hi)
    if not any(isinstance(end, jax.core.Tracer) for end in (lo, hi)) and not np.all(
        np.asarray(lo) < np.asarray(hi)
    ):
        raise ValueError(f"noise_scale_min must be below noise_scale_max, got {lo} and {hi}")
    ends = jnp.log(jnp.asarray(lo, dtype)), jnp.log(jnp.asarray(hi, dtype))
    first, last = ends if up else ends[::-1]
    length = (last - first) / num_steps

    def field(place: Array, state: Any, args: None) -> Any:
        return derivative(state, jnp.exp(place))

    def body(state: Any, i: Int[Array, ""]) -> tuple[Any, None]:
        place = first + i.astype(dtype) * length
        return rk_step(tableau, field, place, state, length, None)[0], None

    steps = jnp.arange(num_steps)
    after, _ = jax.eval_shape(body, state, jax.ShapeDtypeStruct((), steps.dtype))
    state, _ = jax.lax.scan(body, rows.varying_like(state, after), steps)
    return state, jnp.asarray(num_steps * sum(tableau.needed(tableau.b)), jnp.int32)
