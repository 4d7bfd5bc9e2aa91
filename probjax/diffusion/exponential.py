r"""Exponential multistep samplers: one scan over a coefficient table, whatever the method.

`multistep` runs any table of `probjax.diffusion.tables`; the other functions are the tables that
have names. All call the denoiser once a step.

>>> import jax, jax.numpy as jnp
>>> from probjax import diffusion
>>> denoiser = diffusion.gaussian_denoiser(jnp.array([3.0]), jnp.array([[0.25]]))
>>> grid = diffusion.karras_noise_scales(12)
>>> start = 80.0 * jax.random.normal(jax.random.key(0), (4000, 1))
>>> result = diffusion.sample(jax.random.key(1), unipc(denoiser, grid), start, 12)
>>> print(f"{result.x.mean():.1f} {result.x.std():.1f} {result.num_evaluations}")
3.0 0.5 12
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.core.keys import RowKeys, row_normal
from probjax.diffusion.parameterization import Denoiser
from probjax.diffusion.schedules import NoiseSchedule
from probjax.diffusion.step_table import StepTable
from probjax.diffusion.tables import adams_table, dpmpp_3m_table, single_step_table
from probjax.diffusion.walk import SamplerState, StepInfo, call_denoiser, finish, init_fn


def multistep(denoiser: Denoiser, table: StepTable, *, event_ndim: int = 1) -> SamplingAlgorithm:
    r"""The sampler of a coefficient table.

    Step $n$ calls $D_n=denoiser(x_n,\sigma_n)$. With a corrector it first makes the step before
    again, with $D_n$ in it, which needs no earlier sample:

    $$x_n\leftarrow x_n+\alpha_n\Big[c_0D_n+\sum_{k\ge1}(c_k-p_{k-1})D_{n-k}\Big],\qquad
      x_{n+1}=decay_n\,x_n+\alpha_{n+1}\sum_kp_kD_{n-k}+spread_n\,z$$

    where $c$ is row $n-1$ of `corrector` and $p$ that of `predictor`, then row $n$.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise; the scale arrives as a scalar.
        table: the coefficients; given or traced, so a jitted function may take it as an argument.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `ddim`: one denoiser call a step, `table.num_steps` steps. The
        state carries the earlier estimates that the table uses, at most three.

    Raises:
        ValueError: the table's shapes do not fit each other.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = multistep(zero, adams_table(np.geomspace(8.0, 1.0, 4), order=3))
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.array([[4.0]])))
        >>> print(state.x, len(state.history))  # x / noise_scale stays
        [[2.]] 2

    References:
        Lu et al. 2022b; Zhao et al. 2023.
    """
    num_steps = table.num_steps
    for name, columns in (("noise_scales", ()), ("alphas", ()), ("predictor", (3,))):
        checks.shape(f"table.{name}", getattr(table, name), (num_steps, *columns))
    for name, columns in (("corrector", (4,)), ("spread", ())):
        if getattr(table, name) is not None:
            checks.shape(f"table.{name}", getattr(table, name), (num_steps, *columns))
    correction = _correction(table)
    num_kept = max(_num_used(table.predictor) - 1, _num_used(correction) - 1, 0)

    def step(key: RowKeys, state: SamplerState) -> tuple[SamplerState, StepInfo]:
        x, dtype = state.x, state.x.dtype
        row = jnp.minimum(state.i, num_steps - 1)

        def entry(values: Any) -> Float[Array, "..."]:
            return jnp.asarray(values, dtype)[row]

        clean = call_denoiser(denoiser, x, entry(table.noise_scales))
        estimates = (clean, *state.history)
        if correction is not None:
            x = x + _combine(entry(correction), estimates)
        moved = entry(table.decay) * x
        moved = moved + entry(table.alphas) * _combine(entry(table.predictor), estimates)
        if table.spread is not None:
            noise = row_normal(key, x, event_ndim=event_ndim)
            moved = moved + entry(table.spread) * noise
        return finish(state, moved, clean, 1, num_steps, event_ndim, estimates[:num_kept])

    return SamplingAlgorithm(init_fn(event_ndim, num_kept), step)


def dpmpp_2m(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""DPM-Solver++(2M): second order from the estimate before.

    $$x'=\frac{\sigma'}\sigma x+\alpha'(1-e^{-h})\Big[D_n+\frac{h}{2h_{n-1}}(D_n-D_{n-1})\Big]$$

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        final: `"denoise"`: N steps. `"keep"`: N - 1.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `multistep`.

    Raises:
        ValueError: as `adams_table`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> len(dpmpp_2m(zero, np.array([2.0, 1.0, 0.5])).init(jnp.ones((1, 1))).history)
        1

    References:
        Lu et al. 2022b, *DPM-Solver++*, algorithm 2.
    """
    table = adams_table(noise_scales, alphas=alphas, order=2, variant="half", final=final)
    return multistep(denoiser, table, event_ndim=event_ndim)


def dpmpp_3m(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    copied: bool = False,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    """The third-order multistep method, as it should be or as it is commonly copied.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: as for `dpmpp_2m`.
        copied: use `dpmpp_3m_table`, the formula in common use, whose order is two.
        final: as for `dpmpp_2m`.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `multistep`. Its first steps are of lower order, which caps the
        order of the whole at two; `adams_table(order=3, start="midpoint")` removes the cap.

    Raises:
        ValueError: as `adams_table`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> len(dpmpp_3m(zero, np.geomspace(8.0, 1.0, 4)).init(jnp.ones((1, 1))).history)
        2

    References:
        Lu et al. 2022b.
    """
    if copied:
        table = dpmpp_3m_table(noise_scales, alphas=alphas, final=final)
    else:
        table = adams_table(noise_scales, alphas=alphas, order=3, final=final)
    return multistep(denoiser, table, event_ndim=event_ndim)


def dpmpp_2s(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    schedule: NoiseSchedule | None = None,
    stochasticity: ArrayLike = 0.0,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    """DPM-Solver++(2S): second order from a call in the middle of each step.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: as for `dpmpp_2m`.
        schedule: the schedule of `alphas`, if these are given.
        stochasticity: how much noise to put in: 0 none, 1 the SDE form.
        final: `"denoise"`: 2 N - 1 steps, two for each interval. `"keep"`: 2 N - 2.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `multistep`.

    Raises:
        ValueError: as `single_step_table`.

    Example:
        >>> from probjax.diffusion.samplers import sample
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = dpmpp_2s(zero, np.array([4.0, 1.0]), final="keep")
        >>> print(sample(jax.random.key(0), algorithm, jnp.array([[4.0]]), 2).x)
        [[1.]]

    References:
        Lu et al. 2022b, *DPM-Solver++*, algorithm 1.
    """
    table = single_step_table(
        noise_scales, alphas=alphas, schedule=schedule, stochasticity=stochasticity, final=final
    )
    return multistep(denoiser, table, event_ndim=event_ndim)


def dpmpp_2m_sde(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    stochasticity: ArrayLike = 1.0,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    r"""SDE-DPM-Solver++(2M): the second-order multistep method on the reverse equation with noise.

    With $H=(1+\ell^2)h$, $\ell=stochasticity$:

    $$x'=\frac{\sigma'}\sigma e^{-\ell^2h}x
      +\alpha'(1-e^{-H})\Big[D_n+\frac{h}{2h_{n-1}}(D_n-D_{n-1})\Big]
      +\sigma'\sqrt{1-e^{-2\ell^2h}}\,z$$

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: as for `dpmpp_2m`.
        stochasticity: $\ell\ge0$; other codes have its square, called eta.
        final: as for `dpmpp_2m`.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `multistep`; a key for each row keeps rows apart.

    Raises:
        ValueError: as `adams_table`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> algorithm = dpmpp_2m_sde(zero, np.array([2.0, 1.0, 0.5]))
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones((3, 2))))
        >>> state.x.shape, int(info.num_evaluations)
        ((3, 2), 1)

    References:
        Lu et al. 2022b, *DPM-Solver++*, section 5.
    """
    table = adams_table(
        noise_scales,
        alphas=alphas,
        order=2,
        variant="half",
        stochasticity=stochasticity,
        final=final,
    )
    return multistep(denoiser, table, event_ndim=event_ndim)


def unipc(
    denoiser: Denoiser,
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    order: int = 2,
    final: str = "denoise",
    event_ndim: int = 1,
) -> SamplingAlgorithm:
    """UniPC of an order: predictor and corrector for one call a step.

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: as for `dpmpp_2m`.
        order: 1, 2 or 3, of the predictor; the corrected sample has one more.
        final: as for `dpmpp_2m`.
        event_ndim: how many trailing axes make one sample.

    Returns:
        `SamplingAlgorithm`, as `multistep`.

    Raises:
        ValueError: as `adams_table`.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> len(unipc(zero, np.array([2.0, 1.0, 0.5])).init(jnp.ones((1, 1))).history)
        2

    References:
        Zhao et al. 2023, *UniPC*, with B(h) = exp(h) - 1, the order falling at the end.
    """
    table = adams_table(
        noise_scales,
        alphas=alphas,
        order=order,
        corrector=True,
        variant="half",
        end="lower",
        final=final,
    )
    return multistep(denoiser, table, event_ndim=event_ndim)


def _correction(table: StepTable) -> Any:
    """What a step adds to the sample it is given; nothing in the first."""
    if table.corrector is None:
        return None
    given = (table.corrector, table.predictor, table.alphas)
    xp = jnp if any(isinstance(v, jax.Array) for v in given) else np
    predictor = xp.concatenate([xp.zeros_like(table.alphas)[:, None], table.predictor], axis=1)
    change = xp.asarray(table.alphas)[:, None] * (table.corrector - predictor)
    return xp.concatenate([xp.zeros_like(change[:1]), change[:-1]])


def _num_used(weights: Any) -> int:
    """How many estimates have a weight other than zero in some row; all where it is not known."""
    if weights is None:
        return 0
    if isinstance(weights, jax.core.Tracer):
        return weights.shape[1]
    used = np.flatnonzero(np.any(np.asarray(weights) != 0, axis=0))
    return int(used[-1]) + 1 if used.size else 0


def _combine(
    weights: Float[Array, "columns"], estimates: Sequence[Float[Array, "*rows"]]
) -> Float[Array, "*rows"]:
    """The weighted sum of the estimates; weights beyond them are zero."""
    total = weights[0] * estimates[0]
    for k, estimate in enumerate(estimates[1 : weights.shape[0]], start=1):
        total = total + weights[k] * estimate
    return total
