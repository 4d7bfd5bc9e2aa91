r"""Sampling by the probability-flow equation with adaptive steps, through diffrax.

The equation is built by `diffeq.reverse_time.probability_flow` from the schedule's own drift and
diffusion, and integrated in $\lambda=\log(\alpha/\sigma)$, in which it is smooth; for `edm` that is
minus the logarithm of the noise scale.

>>> import jax, jax.numpy as jnp
>>> from probjax.diffusion.exact import gaussian_denoiser
>>> from probjax.diffusion.probability_flow import sample_probability_flow
>>> denoiser = gaussian_denoiser(jnp.array([3.0]), jnp.array([[0.25]]))
>>> solution = sample_probability_flow(denoiser, jnp.array([80.0]))
>>> print(f"{solution.x[0]:.2f} {solution.is_success}")  # one standard deviation: 3 + 0.48
3.48 True
"""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks
from probjax.diffeq.reverse_time import probability_flow
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.schedules import NoiseSchedule, edm, to_sde


class FlowSolution(NamedTuple):
    """What `sample_probability_flow` returns."""

    x: Float[Array, "*event"]
    """The sample; NaN where the solver failed."""
    num_evaluations: Int[Array, ""]
    """Denoiser calls (NFE), rejected steps and the last denoising included."""
    num_steps: Int[Array, ""]
    """Steps tried."""
    is_success: Bool[Array, ""]
    """Whether the end was reached with finite numbers."""


def sample_probability_flow(
    denoiser: Denoiser,
    x: Float[Array, "*event"],
    *,
    schedule: NoiseSchedule | None = None,
    start: ArrayLike = 80.0,
    stop: ArrayLike = 0.002,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    final: str = "denoise",
    max_steps: int = 4096,
) -> FlowSolution:
    r"""Carry ONE sample from the time `start` to `stop` along the probability flow.

    $$\frac{dx}{d\lambda}=\Big[f\,x-\tfrac12g^2s\Big]\frac{dt}{d\lambda},\qquad
      s=\frac{\alpha D(x,\sigma)-x}{\sigma^2}$$

    Steps are chosen for this sample alone (Tsit5 with a step-size controller), so map it over
    samples: `jax.vmap` on one device, where all wait for the one with most steps, or
    `sharding.map_items(..., check_vma=False)`, where each device waits for its own only;
    diffrax's loop does not pass `shard_map`'s VMA check.

    Args:
        denoiser: `denoiser(x, noise_scale)`; it is called on one sample and a scalar scale.
        x: noise of the scale at `start`, of one sample's shape.
        schedule: the noise schedule; `edm()` if left out, whose time is the noise scale.
        start: the noisiest time.
        stop: the least noisy time, positive, below `start`.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        final: `"denoise"` ends with the denoiser's estimate at `stop`, `"keep"` does not.
        max_steps: give up after so many.

    Returns:
        `FlowSolution`.

    Raises:
        ValueError: the times or tolerances are not positive or not in order; unknown `final`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> solution = sample_probability_flow(
        ...     zero, jnp.array([4.0]), start=2.0, stop=1.0, final="keep")
        >>> print(f"{solution.x[0]:.3f}")  # x / noise_scale stays
        2.000

    References:
        Song et al. 2021, *Score-based generative modeling through stochastic differential
        equations*; Tsitouras 2011 (the method); diffrax, Kidger 2021.
    """
    checks.one_of("final", final, ("denoise", "keep"))
    for name, value in (("start", start), ("stop", stop), ("rtol", rtol), ("atol", atol)):
        checks.positive(name, value)
    traced = isinstance(start, jax.core.Tracer) or isinstance(stop, jax.core.Tracer)
    if not traced and not float(stop) < float(start):
        raise ValueError(f"stop must be below start, got stop={stop} and start={start}")
    checks.at_least("max_steps", max_steps, 1)
    checks.floating("x", x)
    given = x.dtype
    x = x.astype(jnp.float32) if jnp.finfo(given).bits < 32 else x
    schedule = edm() if schedule is None else schedule

    def score_fn(t: Float[Array, ""], x: Float[Array, "*event"]) -> Float[Array, "*event"]:
        sigma = schedule.noise_scale(t).astype(x.dtype)
        clean = denoiser(x, sigma)
        checks.same_shape("denoiser(x, noise_scale)", clean, "x", x)
        return (schedule.alpha(t).astype(x.dtype) * clean - x) / sigma**2

    field = probability_flow(to_sde(schedule), score_fn)

    def vector_field(log_snr: Float[Array, ""], x: Array, args: Any) -> Array:
        t, rate = jax.jvp(schedule.t_of_log_snr, (log_snr,), (jnp.ones_like(log_snr),))
        return rate.astype(x.dtype) * field(t, x, args)

    start, stop = jnp.asarray(start, x.dtype), jnp.asarray(stop, x.dtype)
    first, last = schedule.log_snr(start), schedule.log_snr(stop)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        diffrax.Tsit5(),
        first,
        last,
        # An explicit first step: diffrax's own guess is a constant that knows nothing of the span.
        (last - first) / 50,
        x,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    x = solution.ys[0]
    num_steps = solution.stats["num_steps"].astype(jnp.int32)
    # Tsit5 has seven stages, the first of which is the last of the step before.
    calls = 6 * num_steps + 1
    if final == "denoise":
        x = denoiser(x, schedule.noise_scale(stop).astype(x.dtype))
        calls = calls + 1
    success = (solution.result == diffrax.RESULTS.successful) & jnp.all(jnp.isfinite(x))
    x = jnp.where(success, x, jnp.full_like(x, jnp.nan))
    return FlowSolution(x.astype(given), calls, num_steps, success)
