r"""Langevin dynamics from a score alone: plain (ULA) and annealed over noise scales.

Two conventions for the size of a step are in use; every function says which is its own:

* `"blackjax"`: $x + step\_size\cdot s(x) + \sqrt{2\,step\_size}\;z$
* `"song"`: $x + \tfrac12 step\_size\cdot s(x) + \sqrt{step\_size}\;z$

so a `step_size` of the second kind is twice one of the first. The noise must follow the step:
with the drift of one size and the noise of another the chain has another stationary law.

>>> import jax, jax.numpy as jnp
>>> from probjax.mcmc.driver import scan_steps
>>> kernel = ula(lambda x: -x, 0.1)
>>> start = kernel.init(jnp.zeros((4000, 1)))
>>> state, info, _ = scan_steps(jax.random.key(0), kernel.step, start, 100)
>>> print(f"{state.position.var():.1f}")  # 1 / (1 - 0.1 / 2) = 1.05
1.1
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key, row_normal, stream
from probjax.mcmc.driver import scan_steps

ScoreFn = Callable[[Float[Array, "*rows"]], Float[Array, "*rows"]]
"""Row-wise score: rows `(*B, *event)` to rows of the same shape."""

NoiseScoreFn = Callable[[Float[Array, "*rows"], Float[Array, ""]], Float[Array, "*rows"]]
"""Row-wise score of the data noised at a scale."""


class LangevinState(NamedTuple):
    """State of `ula`."""

    position: Float[Array, "*rows"]
    """Where the chains are, `(*B, *event)`; always finite if it began so."""
    score: Float[Array, "*rows"]
    """The score there."""


class AnnealedState(NamedTuple):
    """State of `annealed_langevin`."""

    position: Float[Array, "*rows"]
    """Where the chains are, `(*B, *event)`."""
    step: Int[Array, ""]
    """How many steps of the schedule have been made."""


class LangevinInfo(NamedTuple):
    """What a step, or a whole run, reports, one entry for each row."""

    acceptance_rate: Float[Array, "*batch"]
    """1 where the proposal was taken, 0 where it was refused; over a run, the mean."""
    is_accepted: Bool[Array, "*batch"]
    """Whether the proposal was taken; over a run, whether every one was."""
    is_divergent: Bool[Array, "*batch"]
    """Whether the chain left the numbers; here the same as `is_nonfinite`."""
    is_nonfinite: Bool[Array, "*batch"]
    """Whether the proposal, or the score there, was not finite; over a run, whether any was."""
    num_grad_evals: Int[Array, "*batch"]
    """Score evaluations that the result rests on; over a run, their sum."""


def ula(
    score_fn: ScoreFn,
    step_size: ArrayLike,
    *,
    convention: str = "blackjax",
    preconditioner: Float[ArrayLike, "..."] | None = None,
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""The unadjusted Langevin algorithm: one Euler-Maruyama step of $dX=s\,dt+\sqrt2\,dW$.

    $$x' = x + h\,M s(x) + \sqrt{2h}\,M^{1/2}z, \qquad z\sim N(0,I)$$

    with $h=step\_size$ in the `"blackjax"` convention, $h=step\_size/2$ in `"song"`. There is no
    accept step: on $N(0,\sigma^2)$ the chain's variance is $\sigma^2/(1-h/(2\sigma^2))$.

    A proposal that is not finite, or whose score is not, is refused and flagged: the row stays.

    Args:
        score_fn: $s=\nabla\log\pi$, row-wise over `(*B, *event)`.
        step_size: positive, in the units of `convention`.
        convention: `"blackjax"` or `"song"`.
        preconditioner: $M$, positive: of the event's shape (diagonal) or `(d, d)` symmetric.
        event_ndim: how many trailing axes make one chain's position.

    Returns:
        `SamplingAlgorithm` with `init(position) -> LangevinState` (one score evaluation) and
        `step(key, state) -> (LangevinState, LangevinInfo)` (one more). `key` is one key or one
        for each row.

    Raises:
        ValueError: `step_size` or `preconditioner` is not positive; unknown `convention`.

    Example:
        >>> kernel = ula(lambda x: -x, 0.8, convention="song")
        >>> start = kernel.init(jnp.array([[1.0], [jnp.inf]]))
        >>> state, info = kernel.step(jax.random.key(0), start)
        >>> info.is_accepted, info.is_nonfinite
        (Array([ True, False], dtype=bool), Array([False,  True], dtype=bool))

    References:
        Roberts, Tweedie 1996, *Exponential convergence of Langevin distributions and their
        discrete approximations*. With identity `preconditioner` and equal keys the chain is
        `blackjax.sgld`'s, number for number; that one reports nothing and stores NaN.
    """
    checks.positive("step_size", step_size)
    checks.one_of("convention", convention, ("blackjax", "song"))
    drift_fn, noise_fn = _preconditioned(preconditioner, event_ndim)

    def init(position: Float[Array, "*rows"], rng_key: Any = None) -> LangevinState:
        del rng_key
        position = rows.working("position", position, event_ndim=event_ndim)
        return LangevinState(position, _call(score_fn(position), position))

    def step(key: RowKeys, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        position, score = state
        half = 0.5 if convention == "song" else 1.0
        h = jnp.asarray(step_size, position.dtype) * half
        noise = row_normal(key, position, event_ndim=event_ndim)
        proposal = position + h * drift_fn(score) + jnp.sqrt(2 * h) * noise_fn(noise)
        finite = rows.row_finite(proposal, event_ndim=event_ndim)
        proposal = rows.select(finite, proposal, position)
        new_score = _call(score_fn(proposal), proposal)
        finite &= rows.row_finite(new_score, event_ndim=event_ndim)
        state = LangevinState(
            rows.select(finite, proposal, position), rows.select(finite, new_score, score)
        )
        return state, _info(finite, ~finite, position.dtype, 1)

    return SamplingAlgorithm(init, step)


def annealed_langevin(
    score_fn: NoiseScoreFn,
    noise_scales: ArrayLike,
    *,
    num_steps_per_level: int,
    epsilon: ArrayLike,
    denoise_last: bool = True,
    inpaint: tuple[ArrayLike, ArrayLike] | None = None,
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""Annealed Langevin dynamics down a ladder of noise scales, in the `"song"` convention.

    $$x' = x + \tfrac{a_i}2\,s(x,\sigma_i) + \sqrt{a_i}\,z, \qquad
      a_i = epsilon\,\frac{\sigma_i^2}{\sigma_L^2}$$

    `num_steps_per_level` times for each $\sigma_i$ of `noise_scales`, then, with `denoise_last`,
    once $x+\sigma_L^2s(x,\sigma_L)$ without noise. Both the drift and the noise follow $a_i$.
    The schedule has `L * num_steps_per_level + denoise_last` steps; later ones hold the position.
    Each level is unstable for $epsilon\ge4\sigma_L^2$, which is an error.

    Args:
        score_fn: `score_fn(x, noise_scale)`, the score of the data noised at that scale,
            row-wise; the scale arrives as a scalar.
        noise_scales: $\sigma_1>\dots>\sigma_L>0$, `(L,)`.
        num_steps_per_level: steps at each level.
        epsilon: step size at the last level.
        denoise_last: end with the Tweedie step.
        inpaint: `(mask, y)`: entries where `mask` is true are known to be `y`. Each step sets
            them to $y+\sigma_iz$ before it moves the others; the Tweedie step writes `y`. Both
            of a shape that broadcasts to the position's.
        event_ndim: how many trailing axes make one chain's position.

    Returns:
        `SamplingAlgorithm` with `init(position) -> AnnealedState` and
        `step(key, state) -> (AnnealedState, LangevinInfo)`, one score evaluation a step.
        A row whose proposal is not finite stays and is flagged.

    Raises:
        ValueError: the levels are not in order (the message names the index), `epsilon` is not
            positive or too large, `num_steps_per_level < 1`.
        TypeError: `inpaint`'s mask is not boolean.

    Example:
        >>> score_fn = lambda x, noise_scale: -x / (1 + noise_scale**2)
        >>> kernel = annealed_langevin(
        ...     score_fn, jnp.array([1.0, 0.1]), num_steps_per_level=5, epsilon=0.002)
        >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros((3, 2))))
        >>> state.step, info.is_accepted
        (Array(1, dtype=int32), Array([ True,  True,  True], dtype=bool))

    References:
        Song, Ermon 2019, *Generative modeling by estimating gradients of the data
        distribution*; 2020, *Improved techniques for training score-based generative models*
        (the last denoising step).
    """
    checks.strictly_decreasing("noise_scales", noise_scales)
    checks.at_least("num_steps_per_level", num_steps_per_level, 1)
    checks.positive("epsilon", epsilon)
    _check_stable(epsilon, noise_scales)
    if inpaint is not None and jnp.result_type(inpaint[0]) != jnp.bool_:
        raise TypeError(f"inpaint's mask must be boolean, got {jnp.result_type(inpaint[0])}")
    num_levels = jnp.shape(noise_scales)[0]
    num_noisy = num_levels * num_steps_per_level

    def init(position: Float[Array, "*rows"], rng_key: Any = None) -> AnnealedState:
        del rng_key
        position = rows.working("position", position, event_ndim=event_ndim)
        return AnnealedState(position, jnp.zeros((), jnp.int32))

    def step(key: RowKeys, state: AnnealedState) -> tuple[AnnealedState, LangevinInfo]:
        position, index = state
        scales = jnp.asarray(noise_scales, position.dtype)
        noise_scale = scales[jnp.minimum(index // num_steps_per_level, num_levels - 1)]
        step_size = jnp.asarray(epsilon, position.dtype) * (noise_scale / scales[-1]) ** 2
        denoises = index >= num_noisy
        drift = jnp.where(denoises, scales[-1] ** 2, 0.5 * step_size)
        spread = jnp.where(denoises, jnp.zeros_like(step_size), jnp.sqrt(step_size))

        key = as_key(key)
        noise = row_normal(key, position, event_ndim=event_ndim)
        here = position
        if inpaint is not None:
            mask = jnp.broadcast_to(inpaint[0], position.shape)
            known = jnp.broadcast_to(jnp.asarray(inpaint[1], position.dtype), position.shape)
            known = jnp.where(mask, known, jnp.zeros_like(known))
            known_noise = row_normal(stream(key, "data"), position, event_ndim=event_ndim)
            here = jnp.where(mask, known + noise_scale * known_noise, position)
        proposal = here + drift * _call(score_fn(here, noise_scale), here) + spread * noise
        if inpaint is not None:
            proposal = jnp.where(mask, jnp.where(denoises, known, here), proposal)

        finite = rows.row_finite(proposal, event_ndim=event_ndim)
        live = index < num_noisy + denoise_last
        moved = rows.select(finite & live, proposal, position)
        info = _info(finite & live, ~finite & live, position.dtype, live.astype(jnp.int32))
        return AnnealedState(moved, index + 1), info

    return SamplingAlgorithm(init, step)


def sample_annealed(
    key: RowKeys,
    score_fn: NoiseScoreFn,
    x: Float[Array, "*rows"],
    noise_scales: ArrayLike,
    *,
    num_steps_per_level: int,
    epsilon: ArrayLike,
    denoise_last: bool = True,
    inpaint: tuple[ArrayLike, ArrayLike] | None = None,
    event_ndim: int = 1,
) -> tuple[Float[Array, "*rows"], LangevinInfo]:
    r"""Run the whole schedule of `annealed_langevin` from `x`, as one `lax.scan`.

    On Gaussian data of variance $s^2$ the variance follows
    $v\leftarrow(1-\frac{a_i}{2(s^2+\sigma_i^2)})^2v+a_i$, and the Tweedie step multiplies it by
    $(s^2/(s^2+\sigma_L^2))^2$: the samples are a little narrower than the data.

    Args:
        key: one key, or a key for each row; step $t$ draws from `fold_in(key, t)`.
        score_fn: `score_fn(x, noise_scale)`, row-wise.
        x: where the chains start, `(*B, *event)`; usually noise of scale `noise_scales[0]`.
        noise_scales: positive and strictly decreasing, `(L,)`.
        num_steps_per_level: steps at each level.
        epsilon: step size at the last level, below `4 * noise_scales[-1]**2`.
        denoise_last: end with the Tweedie step.
        inpaint: `(mask, y)`, as in `annealed_langevin`.
        event_ndim: how many trailing axes make one chain's position.

    Returns:
        Samples in `x`'s shape and dtype, and a `LangevinInfo` over the whole run.

    Raises:
        ValueError: as `annealed_langevin`.

    Example:
        >>> score_fn = lambda x, noise_scale: (2.0 - x) / (1 + noise_scale**2)  # data N(2, 1)
        >>> x, info = sample_annealed(
        ...     jax.random.key(0), score_fn, jnp.zeros((2000, 1)), jnp.array([3.0, 1.0, 0.3]),
        ...     num_steps_per_level=50, epsilon=0.02)
        >>> print(f"{x.mean():.1f}", info.num_grad_evals[0])
        2.0 151

    References:
        Song, Ermon 2019, *Generative modeling by estimating gradients of the data distribution*.
    """
    kernel = annealed_langevin(
        score_fn,
        noise_scales,
        num_steps_per_level=num_steps_per_level,
        epsilon=epsilon,
        denoise_last=denoise_last,
        inpaint=inpaint,
        event_ndim=event_ndim,
    )
    num_steps = jnp.shape(noise_scales)[0] * num_steps_per_level + denoise_last
    state, totals, _ = scan_steps(key, kernel.step, kernel.init(x), num_steps)
    info = totals._replace(
        acceptance_rate=totals.acceptance_rate / num_steps,
        is_accepted=totals.acceptance_rate == num_steps,
    )
    return state.position.astype(x.dtype), info


def _call(score: Float[Array, "..."], position: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The score, with its shape checked."""
    checks.same_shape("score_fn(x)", score, "x", position)
    return score


def _info(
    accepted: Bool[Array, "*batch"],
    nonfinite: Bool[Array, "*batch"],
    dtype: Any,
    num_grad_evals: int | Int[Array, ""],
) -> LangevinInfo:
    count = jnp.broadcast_to(jnp.asarray(num_grad_evals, jnp.int32), accepted.shape)
    return LangevinInfo(accepted.astype(dtype), accepted, nonfinite, nonfinite, count)


def _check_stable(epsilon: ArrayLike, noise_scales: ArrayLike) -> None:
    """Refuse a last step so long that it throws every chain away."""
    if isinstance(epsilon, jax.core.Tracer) or isinstance(noise_scales, jax.core.Tracer):
        return
    bound = 4 * float(np.asarray(noise_scales)[-1]) ** 2
    if not float(np.asarray(epsilon)) < bound:
        raise ValueError(
            f"epsilon must be below 4 * noise_scales[-1]**2 = {bound:.6g}, got {epsilon}"
        )


def _preconditioned(
    preconditioner: ArrayLike | None, event_ndim: int
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """How a preconditioner acts on the score, and its square root on the noise."""
    if preconditioner is None:
        return lambda score: score, lambda noise: noise
    if jnp.ndim(preconditioner) == event_ndim:
        checks.positive("preconditioner", preconditioner)

        def scaled(x: Array, power: float) -> Array:
            checks.shape("preconditioner", preconditioner, x.shape[x.ndim - event_ndim :])
            factor = jnp.asarray(preconditioner, x.dtype) ** power
            return jnp.broadcast_to(factor, x.shape) * x

        return lambda score: scaled(score, 1.0), lambda noise: scaled(noise, 0.5)
    if jnp.ndim(preconditioner) != 2 or event_ndim != 1:
        raise ValueError(
            "preconditioner must have the event's shape or be a matrix (d, d), "
            f"got shape {jnp.shape(preconditioner)} with event_ndim={event_ndim}"
        )
    if not isinstance(preconditioner, jax.core.Tracer):
        matrix = np.asarray(preconditioner, np.float64)
        if matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T):
            raise ValueError(f"preconditioner must be a symmetric matrix, got shape {matrix.shape}")
        if not np.linalg.eigvalsh(matrix)[0] > 0:
            raise ValueError("preconditioner must be positive definite")

    def multiplied(x: Array, root: bool) -> Array:
        checks.shape("preconditioner", preconditioner, (x.shape[-1], x.shape[-1]))
        matrix = jnp.asarray(preconditioner, x.dtype)
        factor = jnp.linalg.cholesky(matrix) if root else matrix
        return jnp.tensordot(x, factor.T, axes=1)

    return lambda score: multiplied(score, False), lambda noise: multiplied(noise, True)
