r"""The exponential multistep method as a diffrax solver, for its `SaveAt` and its adjoints.

Time is $\lambda=\log(\alpha/\sigma)$, which grows from noise to data, and the state is
$y=x/\alpha$. The term holds the denoiser, not the vector field $dy/d\lambda=D-y$: the linear part
is solved exactly.

>>> import diffrax, jax.numpy as jnp
>>> from probjax import diffusion
>>> denoiser = diffusion.gaussian_denoiser(jnp.zeros(1), jnp.eye(1))
>>> levels = -jnp.log(diffusion.geometric_noise_scales(21, 0.1, 2.0))
>>> solution = diffrax.diffeqsolve(
...     DenoiserTerm(denoiser), ExponentialMultistep(order=3), levels[0], levels[-1], None,
...     jnp.array([5.0**0.5]), stepsize_controller=diffrax.StepTo(levels),
...     saveat=diffrax.SaveAt(steps=True), max_steps=20)
>>> print(f"{solution.ys[-1, 0]:.2f}")  # sqrt(1 + 0.1^2)
1.0...
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffusion.moments import interpolation_weights, moments
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.schedules import NoiseSchedule
from probjax.diffusion.tables import VARIANTS


class DenoiserTerm(diffrax.ODETerm):
    r"""What `ExponentialMultistep` integrates: the denoiser in $\lambda$ and $y=x/\alpha$.

    $$D(\lambda,y)=denoiser(\alpha y,\sigma),\qquad\alpha,\sigma\;\text{at}\;\lambda$$

    Args:
        denoiser: `denoiser(x, noise_scale)`; it is called on the state and a scalar scale.
        schedule: tells alpha at $\lambda$; one if left out.

    Example:
        >>> term = DenoiserTerm(lambda x, noise_scale: x / (1 + noise_scale))
        >>> term.vf(jnp.array(0.0), jnp.array([4.0]), None)
        Array([2.], dtype=float32)
    """

    def __init__(self, denoiser: Denoiser, schedule: NoiseSchedule | None = None):
        def estimate(log_snr: Float[Array, ""], y: Float[Array, "*event"], args: Any) -> Any:
            del args
            log_snr = jnp.asarray(log_snr, y.dtype)
            alpha = jnp.ones_like(log_snr)
            if schedule is not None:
                alpha = schedule.alpha(schedule.t_of_log_snr(log_snr)).astype(y.dtype)
            clean = denoiser(alpha * y, alpha * jnp.exp(-log_snr))
            checks.same_shape("denoiser(x, noise_scale)", clean, "x", y)
            return clean

        super().__init__(estimate)


class ExponentialMultistep(diffrax.AbstractSolver):
    r"""`adams_table` without a corrector, one step at a time.

    Its steps are those of the step-size controller, so hand it `diffrax.StepTo` with the grid.
    Output between steps is linear: save at steps.

    Args:
        order: 1, 2 or 3.
        variant: `"exact"` or `"half"`, as for `adams_table`.

    Raises:
        ValueError: another `order`, an unknown `variant`.
        TypeError: used with another term than `DenoiserTerm`.

    Example:
        >>> ExponentialMultistep(order=2, variant="half").order(None)
        2

    References:
        Lu et al. 2022b; Kidger 2021, for diffrax.
    """

    num_estimates: int = eqx.field(static=True)
    """The order."""
    variant: str = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    """What diffrax checks its terms against."""
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation
    """What diffrax builds from a step."""

    def __init__(self, order: int = 2, variant: str = "exact"):
        if order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {order}")
        checks.one_of("variant", variant, VARIANTS)
        self.num_estimates, self.variant = order, variant

    def order(self, terms: Any) -> int:
        """Return the order that the method reaches with a long enough history.

        Args:
            terms: not used.
        """
        del terms
        return self.num_estimates

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Return an empty history.

        Args:
            terms: a `DenoiserTerm`.
            t0: start of the first step.
            t1: its end.
            y0: the state.
            args: not used.
        """
        del t1, args
        if not isinstance(getattr(terms, "term", terms), DenoiserTerm):
            raise TypeError(
                "terms must be a DenoiserTerm, since the solver treats the linear part of the "
                f"equation itself, got {type(getattr(terms, 'term', terms)).__name__}"
            )
        kept = self.num_estimates - 1
        times = tuple(jnp.asarray(t0, y0.dtype) for _ in range(kept))
        return jnp.zeros((), jnp.int32), times, tuple(jnp.zeros_like(y0) for _ in range(kept))

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """Make one step.

        Args:
            terms: a `DenoiserTerm`.
            t0: start of the step.
            t1: its end.
            y0: the state there.
            args: not used.
            solver_state: how many estimates are known, when they were made, and they.
            made_jump: whether the state is not the one that the last step ended with.
        """
        count, times, history = solver_state
        count = jnp.where(made_jump, 0, count)
        t0, t1 = jnp.asarray(t0, y0.dtype), jnp.asarray(t1, y0.dtype)
        # diffrax runs a backward integration forward in the negative of time.
        length = (t1 - t0) * jnp.asarray(getattr(terms, "direction", 1), y0.dtype)
        mu = moments(length)
        estimates = (terms.vf(t0, y0, args), *history)
        # Where there is no earlier estimate its node lies far out, and its weight is not used.
        known = [jnp.where(count > k, t, t0 - (k + 1) * (t1 - t0)) for k, t in enumerate(times)]
        ratios = [(t - t0) / (t1 - t0) for t in known]
        moved = jnp.exp(-length) * y0
        total = jnp.zeros_like(y0)
        for k in range(self.num_estimates):
            halved = self.variant == "half" and k == 1
            weights = interpolation_weights((mu[0], 0.5 * mu[0]) if halved else mu, ratios[:k])
            parts = [weight * estimates[j] for j, weight in enumerate(weights)]
            is_last = k == self.num_estimates - 1
            chosen = count >= k if is_last else count == k
            total = jnp.where(chosen, sum(parts[1:], parts[0]), total)
        y1 = moved + total
        kept = self.num_estimates - 1
        state = (count + 1, (t0, *times)[:kept], estimates[:kept])
        return y1, None, {"y0": y0, "y1": y1}, state, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """Return the vector field, of which the method itself has no need.

        Args:
            terms: a `DenoiserTerm`.
            t0: time.
            y0: state.
            args: not used.
        """
        return terms.vf(t0, y0, args) - y0
