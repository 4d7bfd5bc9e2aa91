r"""Samplers with fresh noise: the reverse equation on a grid, and steps that correct in between.

Those of one denoiser call a step are tables, run by `probjax.diffusion.exponential.multistep`.

>>> import jax, jax.numpy as jnp
>>> from probjax import diffusion
>>> denoiser = diffusion.gaussian_denoiser(jnp.array([3.0]), jnp.array([[0.25]]))
>>> grid = diffusion.geometric_noise_scales(100, 0.01, 80.0)
>>> start = 80.0 * jax.random.normal(jax.random.key(0), (4000, 1))
>>> algorithm = reverse_diffusion(denoiser, grid)
>>> result = diffusion.sample(jax.random.key(1), algorithm, start, 100)
>>> print(f"{result.x.mean():.1f} {result.x.std():.1f}")
3.0 0.5
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key, row_normal, stream
from probjax.diffusion.exponential import multistep
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.schedules import NoiseSchedule
from probjax.diffusion.step_table import StepGrid, StepTable, newest_rows
from probjax.diffusion.walk import Levels, SamplerState, StepInfo, call_denoiser
from probjax.mcmc.driver import row_step_key


def reverse_diffusion(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    """The reverse equation, discretised as the forward chain is: `reverse_diffusion_table`, run.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: alpha at the same levels; ones if left out.
        final: `"denoise"`: N steps. `"keep"`: N - 1.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `ddim`: one denoiser call a step.

    Raises:
        ValueError: as `ddim`.

    Example:
        >>> import numpy as np
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = reverse_diffusion(zero, np.array([2.0, 1.0]))
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones((3, 1))))
        >>> state.x.shape, int(info.num_evaluations)
        ((3, 1), 1)

    References:
        Song et al. 2021, appendix E.
    """
    table = reverse_diffusion_table(noise_scales, alphas=alphas, final=final)
    return multistep(denoiser, table, event_ndim=event_ndim)


def euler_maruyama(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    times: ArrayLike,
    *,
    stochasticity: ArrayLike = 1.0,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    """Euler's rule on a schedule's reverse equation: `euler_maruyama_table`, run.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        schedule: the schedule.
        times: positive and strictly decreasing, `(N,)`.
        stochasticity: how much noise to put in: 0 is the flow, 1 Anderson's reversal.
        final: `"denoise"`: N steps. `"keep"`: N - 1.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `ddim`: one denoiser call a step.

    Raises:
        ValueError: as `euler_maruyama_table`.

    Example:
        >>> import numpy as np
        >>> from probjax.diffusion.schedules import edm
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = euler_maruyama(zero, edm(), np.array([2.0, 1.0]), stochasticity=0.0)
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones((1, 1))))
        >>> print(state.x)
        [[0.5]]

    References:
        Song et al. 2021.
    """
    table = euler_maruyama_table(schedule, times, stochasticity=stochasticity, final=final)
    return multistep(denoiser, table, event_ndim=event_ndim)


def predictor_corrector(
    predictor: Callable[..., SamplingAlgorithm],
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    num_correctors: int = 1,
    signal_to_noise: ArrayLike = 0.16,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""Langevin steps at each level, before the predictor goes on to the next.

    $$x\leftarrow x+\eta\,s+\sqrt{2\eta}\,z,\qquad
      \eta=2\Big(signal\_to\_noise\,\frac{\Vert z\Vert}{\Vert s\Vert}\Big)^2,\qquad
      s=\frac{\alpha D-x}{\sigma^2}$$

    The norms are each row's own, so that rows do not see each other. A row without a score stays
    where it is.

    Args:
        predictor: a constructor called as `predictor(denoiser, noise_scales, alphas=...,
            final=..., event_ndim=...)`: `reverse_diffusion`, `ancestral`, `ddim`. It must not
            keep earlier estimates.
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        num_correctors: Langevin steps at each level.
        signal_to_noise: $r$, positive; the published 0.16 is for images.
        final: as for `predictor`.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `predictor`'s, with `num_correctors` calls more a step.

    Raises:
        ValueError: as `predictor`; `num_correctors < 0`; `signal_to_noise` is not positive; the
            predictor keeps earlier estimates.

    Example:
        >>> import numpy as np
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = predictor_corrector(
        ...     reverse_diffusion, zero, np.array([2.0, 1.0]), num_correctors=2)
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones((3, 1))))
        >>> int(info.num_evaluations)
        3

    References:
        Song et al. 2021, appendix G. There the norms are means over the batch, and for `vp` the
        step is multiplied by the forward chain's own factor; here neither is done.
    """
    checks.at_least("num_correctors", num_correctors, 0)
    checks.positive("signal_to_noise", signal_to_noise)
    levels = Levels.make(noise_scales, alphas, final)
    base = predictor(denoiser, noise_scales, alphas=alphas, final=final, event_ndim=event_ndim)

    def init(position: Float[Array, "*rows"], rng_key: object = None) -> SamplerState:
        state = base.init(position, rng_key)
        if state.history:
            raise ValueError(
                "predictor must not keep earlier estimates: a Langevin step makes them stale"
            )
        return state

    def step(key: RowKeys, state: SamplerState) -> tuple[SamplerState, StepInfo]:
        key = as_key(key)
        alpha, sigma, _, _ = levels.at(state.i, state.x.dtype)
        live = state.i < levels.num_steps
        langevin_key = stream(key, "proposal")
        size = jnp.asarray(signal_to_noise, state.x.dtype)

        def correct(j: Array, x: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
            score = (alpha * call_denoiser(denoiser, x, sigma) - x) / sigma**2
            noise = row_normal(row_step_key(langevin_key, j), x, event_ndim=event_ndim)
            return langevin_corrector(x, score, noise, size, event_ndim=event_ndim)

        x = state.x
        if num_correctors:
            x = rows.varying_like(x, jax.eval_shape(correct, jnp.zeros((), jnp.int32), x))
            x = jax.lax.fori_loop(0, num_correctors, correct, x)
            x = jnp.where(live, x, state.x)
        after, info = base.step(key, state._replace(x=x))
        calls = info.num_evaluations + jnp.where(live, num_correctors, 0).astype(jnp.int32)
        return after, info._replace(num_evaluations=calls)

    return SamplingAlgorithm(init, step)


def langevin_corrector(
    x: Float[Array, "*rows"],
    score: Float[Array, "*rows"],
    noise: Float[Array, "*rows"],
    signal_to_noise: ArrayLike,
    *,
    event_ndim: int = 1,
) -> Float[Array, "*rows"]:
    r"""One Langevin step whose size follows from the norms of score and noise.

    $$x+\eta\,s+\sqrt{2\eta}\,z,\qquad
      \eta=2\Big(signal\_to\_noise\,\frac{\Vert z\Vert}{\Vert s\Vert}\Big)^2$$

    Args:
        x: rows `(*B, *event)`.
        score: $s$, of the same shape.
        noise: $z$, standard normal, of the same shape.
        signal_to_noise: length of the drift over that of the noise: $\Vert\eta s\Vert
            =signal\_to\_noise\sqrt{2\eta}\,\Vert z\Vert$.
        event_ndim: how many trailing axes make one row.

    Returns:
        Rows of the same shape; a row whose score is zero is returned as it is.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import numpy as np
        >>> x, score = jnp.zeros((2, 1)), jnp.array([[2.0], [0.0]])
        >>> print(langevin_corrector(x, score, jnp.ones((2, 1)), 0.5)[:, 0])  # eta 1/8, 0
        [0.75 0.  ]

    References:
        Song et al. 2021, algorithms 4 and 5.
    """
    checks.same_shape("score", score, "x", x)
    checks.same_shape("noise", noise, "x", x)
    shape = x.shape[: x.ndim - event_ndim] + (1,) * event_ndim
    score2 = rows.row_sum(score**2, event_ndim=event_ndim).reshape(shape)
    noise2 = rows.row_sum(noise**2, event_ndim=event_ndim).reshape(shape)
    moves = score2 != 0  # a NaN must show
    ratio = jnp.where(moves, noise2 / jnp.where(moves, score2, jnp.ones_like(score2)), 0)
    size = 2 * jnp.asarray(signal_to_noise, x.dtype) ** 2 * ratio
    return x + size * score + jnp.sqrt(2 * size) * noise


def ddim_table(
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    eta: ArrayLike = 0.0,
    final: str = "denoise",
) -> StepTable:
    r"""`ddim` as a table, of which `eta=1` is `ancestral`.

    Its noise is another one than that of `adams_table` with `order=1` between the ends: equal for
    `eta` of 0 and 1, where `stochasticity` is 0 and 1.

    Args:
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        eta: share of the noise put in, in [0, 1].
        final: `"denoise"` or `"keep"`.

    Returns:
        `StepTable`.

    Raises:
        ValueError: as `ddim`.

    Example:
        >>> import numpy as np
        >>> table = ddim_table(np.array([2.0, 1.0]), eta=1.0, final="keep")
        >>> print(table.decay, table.spread.round(3))  # 1 / 4, sqrt(3) / 2
        [0.25] [0.866]

    References:
        Song, Meng, Ermon 2021.
    """
    checks.non_negative("eta", eta)
    grid = StepGrid.make(noise_scales, alphas, final, eta)
    xp = grid.xp
    sigma, next_sigma = grid.noise_scales[:-1], grid.noise_scales[1:]
    eta = grid.stochasticity
    fresh = -xp.expm1(-2 * xp.diff(grid.log_snr))
    keep = next_sigma / sigma * xp.sqrt(1 - eta**2 * fresh)
    weight = 1 - grid.alphas[:-1] / grid.alphas[1:] * keep
    spread = eta * next_sigma * xp.sqrt(fresh) if grid.noisy else None
    return grid.table(newest_rows(weight, xp), None, decay=keep, spread=spread)


def reverse_diffusion_table(
    noise_scales: ArrayLike, *, alphas: ArrayLike | None = None, final: str = "denoise"
) -> StepTable:
    r"""The reverse equation, discretised as the forward chain is.

    With $a=\alpha_t/\alpha_s$ and $\sigma_{t|s}^2=\sigma_t^2-a^2\sigma_s^2$ the chain is
    $x_t=ax_s+\sigma_{t|s}z$, and the step back from $t$ to $s$

    $$x_s=(2-a)x_t+\sigma_{t|s}^2\,s(x_t)+\sigma_{t|s}z,\qquad
      s=\frac{\alpha_tD-x_t}{\sigma_t^2} .$$

    Args:
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        final: `"denoise"` or `"keep"`.

    Returns:
        `StepTable`.

    Raises:
        ValueError: as `ddim`.

    Example:
        >>> import numpy as np
        >>> table = reverse_diffusion_table(np.array([2.0, 1.0]), final="keep")
        >>> print(table.decay, table.predictor[0], table.spread.round(3))
        [0.25] [0.75 0.   0.  ] [1.732]

    References:
        Song et al. 2021, appendix E.
    """
    grid = StepGrid.make(noise_scales, alphas, final, 0.0)
    xp = grid.xp
    sigma, ratio = grid.noise_scales[:-1], grid.alphas[:-1] / grid.alphas[1:]
    # 1 - (a sigma_s / sigma_t)^2, which does not cancel in this form.
    fresh = -xp.expm1(-2 * grid.lengths)
    decay = 2 - ratio - fresh
    return grid.table(
        newest_rows(ratio * fresh, xp), None, decay=decay, spread=sigma * xp.sqrt(fresh)
    )


def euler_maruyama_table(
    schedule: NoiseSchedule,
    times: ArrayLike,
    *,
    stochasticity: ArrayLike = 1.0,
    final: str = "denoise",
) -> StepTable:
    r"""Euler's rule on a schedule's reverse equation, or with `stochasticity=0` on its flow.

    $$x'=x-\Big[f\,x-\tfrac{1+\ell^2}2g^2s\Big]\Delta t+\ell g\sqrt{\Delta t}\,z,\qquad
      s=\frac{\alpha D-x}{\sigma^2},\quad\ell=stochasticity$$

    Args:
        schedule: the schedule.
        times: positive and strictly decreasing, `(N,)`.
        stochasticity: $\ell\ge0$; 1 is Anderson's reversal.
        final: `"denoise"` or `"keep"`.

    Returns:
        `StepTable`.

    Raises:
        ValueError: `times` are not in order, `stochasticity` is negative.

    Example:
        >>> import numpy as np
        >>> from probjax.diffusion.schedules import edm
        >>> table = euler_maruyama_table(edm(), np.array([2.0, 1.0]), final="keep")
        >>> print(table.decay, table.spread)  # 1 - 2 / 2, sqrt(2 * 2)
        [0.] [2.]

    References:
        Song et al. 2021; Maruyama 1955.
    """
    checks.strictly_decreasing("times", times)
    checks.non_negative("stochasticity", stochasticity)
    times = jnp.asarray(times, jnp.result_type(float, jnp.result_type(times)))
    grid = StepGrid.make(schedule.noise_scale(times), schedule.alpha(times), final, stochasticity)
    here, steps = times[:-1], times[:-1] - times[1:]
    sigma, alpha = grid.noise_scales[:-1], grid.alphas[:-1]
    xp, level = grid.xp, grid.stochasticity
    drift, rate, steps = (
        xp.asarray(v, sigma.dtype) for v in (schedule.drift(here), schedule.diffusion2(here), steps)
    )
    pull = 0.5 * (1 + level**2) * rate * steps / sigma**2
    decay = 1 - drift * steps - pull
    weight = pull * alpha / grid.alphas[1:]
    spread = level * xp.sqrt(rate * steps) if grid.noisy else None
    return grid.table(newest_rows(weight, xp), None, decay=decay, spread=spread)
