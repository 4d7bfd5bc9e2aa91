r"""What all samplers of noise scales share: their state, their report, the levels they walk.

>>> import jax.numpy as jnp
>>> levels = Levels.make(jnp.array([2.0, 1.0]), None, "denoise")
>>> levels.num_steps, [float(v) for v in levels.at(jnp.array(1), jnp.float32)]
(2, [1.0, 1.0, 1.0, 0.0])
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, rows
from probjax.diffusion.parameterization import Denoiser

FINALS = ("denoise", "keep")
"""What a sampler does at the end of its grid."""


class SamplerState(NamedTuple):
    """Where a sampler is."""

    x: Float[Array, "*rows"]
    """The samples, `(*B, *event)`, at the noise scale of index `i`."""
    i: Int[Array, ""]
    """How many steps have been made."""
    history: tuple[Float[Array, "*rows"], ...] = ()
    """Earlier estimates of the denoiser, the newest first; none for one-step methods."""


class StepInfo(NamedTuple):
    """What a step reports."""

    denoised: Float[Array, "*rows"]
    """The denoiser's estimate from which the step started."""
    num_evaluations: Int[Array, ""]
    """Denoiser calls; 0 past the end of the grid."""
    is_nonfinite: Bool[Array, "*batch"]
    """Whether a row is not finite after the step. It stays so, and harms no other row."""


class Levels(NamedTuple):
    """The grid a sampler walks, with the level after the last."""

    noise_scales: ArrayLike
    r"""$\sigma$, `(N,)`."""
    alphas: ArrayLike | None
    r"""$\alpha$ at the same levels; `None` for ones."""
    num_steps: int
    """N with a last step to no noise, N - 1 without."""

    @classmethod
    def make(cls, noise_scales: ArrayLike, alphas: ArrayLike | None, final: str) -> "Levels":
        """Check a grid and return it.

        Args:
            noise_scales: positive and strictly decreasing, `(N,)`.
            alphas: positive, `(N,)`; ones if left out. The ratio must decrease strictly too.
            final: `"denoise"` or `"keep"`.

        Returns:
            The levels.

        Raises:
            ValueError: the grid is not in order (the message names the index), shapes differ,
                unknown `final`, or one level only and `final="keep"`.

        Example:
            >>> Levels.make(jnp.array([2.0, 1.0]), None, "keep").num_steps
            1
        """
        checks.one_of("final", final, FINALS)
        checks.strictly_decreasing("noise_scales", noise_scales)
        num_levels = jnp.shape(noise_scales)[0]
        if alphas is not None:
            checks.shape("alphas", alphas, (num_levels,))
            checks.positive("alphas", alphas)
            traced = isinstance(noise_scales, jax.core.Tracer) or isinstance(
                alphas, jax.core.Tracer
            )
            if not traced:
                ratio = np.asarray(noise_scales, np.float64) / np.asarray(alphas, np.float64)
                checks.strictly_decreasing("noise_scales / alphas", ratio)
        if final == "keep" and num_levels < 2:
            raise ValueError("noise_scales must have two entries at least for final='keep', got 1")
        return cls(noise_scales, alphas, num_levels - (final == "keep"))

    def at(self, i: Int[Array, ""], dtype: Any) -> tuple[Array, Array, Array, Array]:
        """Return alpha and noise scale before step `i`, and after it.

        Args:
            i: the step; past the end it means the last.
            dtype: of the numbers.

        Returns:
            Four scalars; the last step of a grid with a step to no noise ends at 1 and 0.

        Example:
            >>> levels = Levels.make(jnp.array([2.0, 1.0]), None, "keep")
            >>> [float(v) for v in levels.at(jnp.array(0), jnp.float32)]
            [1.0, 2.0, 1.0, 1.0]
        """
        sigma = jnp.asarray(self.noise_scales, dtype)
        alpha = jnp.ones_like(sigma) if self.alphas is None else jnp.asarray(self.alphas, dtype)
        sigma = jnp.concatenate([sigma, jnp.zeros((1,), dtype)])
        alpha = jnp.concatenate([alpha, jnp.ones((1,), dtype)])
        i = jnp.minimum(i, self.num_steps - 1)
        return alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]


def init_fn(event_ndim: int, num_kept: int = 0) -> Callable[..., SamplerState]:
    """Return a sampler's `init(x)`.

    Args:
        event_ndim: how many trailing axes make one sample.
        num_kept: how many earlier estimates the state carries.

    Returns:
        `init(position) -> SamplerState`, at step 0, the estimates zero.

    Example:
        >>> state = init_fn(1, 2)(jnp.ones((3, 2)))
        >>> int(state.i), len(state.history)
        (0, 2)
    """

    def init(position: Float[Array, "*rows"], rng_key: Any = None) -> SamplerState:
        del rng_key
        x = rows.working("x", position, event_ndim=event_ndim)
        history = tuple(jnp.zeros_like(x) for _ in range(num_kept))
        return SamplerState(x, jnp.zeros((), jnp.int32), history)

    return init


def call_denoiser(
    denoiser: Denoiser, x: Float[Array, "*rows"], noise_scale: Float[Array, ""]
) -> Float[Array, "*rows"]:
    """Call a denoiser and check the shape of what it returns.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        x: rows `(*B, *event)`.
        noise_scale: a scalar.

    Returns:
        The estimate, of `x`'s shape.

    Raises:
        ValueError: it has another shape.

    Example:
        >>> call_denoiser(lambda x, c: x / (1 + c), jnp.ones(2), jnp.array(1.0))
        Array([0.5, 0.5], dtype=float32)
    """
    clean = denoiser(x, noise_scale)
    checks.same_shape("denoiser(x, noise_scale)", clean, "x", x)
    return clean


def finish(
    state: SamplerState,
    moved: Float[Array, "*rows"],
    clean: Float[Array, "*rows"],
    num_evaluations: int | Int[Array, ""],
    num_steps: int,
    event_ndim: int,
    history: tuple[Float[Array, "*rows"], ...] = (),
) -> tuple[SamplerState, StepInfo]:
    """Take the step, or hold past the end of the grid.

    Args:
        state: the state before the step.
        moved: the samples after it.
        clean: the estimate it started from.
        num_evaluations: denoiser calls it made.
        num_steps: how many steps the grid has.
        event_ndim: how many trailing axes make one sample.
        history: the estimates to carry on.

    Returns:
        The state after the step and its report.

    Example:
        >>> state = init_fn(1)(jnp.ones(2))
        >>> state, info = finish(state, 2 * state.x, state.x, 1, 0, 1)
        >>> state.x, int(info.num_evaluations)  # no step is left
        (Array([1., 1.], dtype=float32), 0)
    """
    live = state.i < num_steps
    x = jnp.where(live, moved, state.x)
    calls = jnp.where(live, jnp.asarray(num_evaluations, jnp.int32), 0)
    info = StepInfo(clean, calls, ~rows.row_finite(x, event_ndim=event_ndim))
    return SamplerState(x, state.i + 1, history), info
