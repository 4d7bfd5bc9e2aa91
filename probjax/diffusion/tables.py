r"""Coefficient tables: every method that is linear in the sample and in the denoiser's estimates.

Row $n$ of a table takes the sample from one level of noise to the next,

$$x_{n+1}=decay_n\,x_n+\alpha_{n+1}\sum_kpredictor_{nk}\,D_{n-k}+spread_n\,z,$$

with the newest estimates $D_n,D_{n-1},D_{n-2}$ (`StepTable`). A sampler is then one scan over the
rows (`probjax.diffusion.exponential.multistep`): lower orders at the start and the last step to no
noise are zeros in arrays, not control flow. With given levels the numbers are computed in double
precision; with traced ones in their own, so that another grid of the same length needs no new
program.

>>> import numpy as np
>>> table = adams_table(np.array([4.0, 2.0, 1.0]), order=2)
>>> print(table.decay, table.predictor[:, :2].round(3), sep="\n")
[0.5 0.5 0. ]
[[ 0.5    0.   ]
 [ 0.779 -0.279]
 [ 1.     0.   ]]
"""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from probjax.core import checks
from probjax.diffusion.moments import interpolation_weights, moments
from probjax.diffusion.schedules import NoiseSchedule
from probjax.diffusion.step_table import StepGrid, StepTable

VARIANTS = ("exact", "half")
"""How the first moment is written where two estimates are combined."""
STARTS = ("cold", "midpoint")
"""How the first step does without a history."""
ENDS = ("full", "lower")
"""Whether the order falls at the end."""


def adams_table(
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    order: int = 2,
    corrector: bool = False,
    variant: str = "exact",
    start: str = "cold",
    end: str = "full",
    stochasticity: ArrayLike = 0.0,
    schedule: NoiseSchedule | None = None,
    final: str = "denoise",
) -> StepTable:
    r"""The exponential Adams family: DDIM, DPM-Solver++ multistep, UniPC.

    With $\lambda=\log(\alpha/\sigma)$ the probability flow over a step of length $h$ is

    $$x(\lambda_1)=\frac{\sigma_1}{\sigma_0}x+\alpha_1\int_0^he^{-(h-u)}D(\lambda_0+u)\,du .$$

    $D$ is replaced by the polynomial through the newest `order` estimates, with `corrector` also
    through the one at the end of the step. Its weights solve $\sum_kw_kr_k^j=\mu_j$ for the node
    ratios $r_k=(\lambda_k-\lambda_0)/h$ and the moments of `moments`. With
    $\ell=stochasticity$ the same holds for the reverse equation with noise: $h$ becomes
    $(1+\ell^2)h$ in the moments, $decay=e^{-\ell^2h}\sigma_1/\sigma_0$ and
    $spread=\sigma_1\sqrt{1-e^{-2\ell^2h}}$.

    Args:
        noise_scales: $\sigma$, positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels, `(N,)`; ones if left out.
        order: 1, 2 or 3. The first steps have fewer estimates, and the order they allow.
        corrector: make each step again with the estimate at its end, which the next step needs
            anyhow: one order more for no further call.
        variant: `"half"` writes $\frac12\mu_0$ for $\mu_1$ where two estimates are combined, as
            DPM-Solver++(2M) and UniPC do; equal up to the order of the method.
        start: `"cold"` begins with order one, which caps the order of the whole at two (three
            with `corrector`). `"midpoint"` inserts a level in the middle of the first step, one
            call more, and keeps the order.
        end: `"full"` keeps the order to the end. `"lower"` lets it fall by one a step, to one in
            the step to no noise, as UniPC does.
        stochasticity: $\ell\ge0$, how much noise to put in: 0 is the probability flow, 1
            Anderson's reversal (ancestral sampling, at order one).
        schedule: the schedule of `alphas`, which `"midpoint"` asks for alpha in between.
        final: `"denoise"`: a last step that returns $D$. `"keep"`: end at the last noise scale.

    Returns:
        `StepTable` with N rows for `"denoise"`, N - 1 for `"keep"`, and one more with
        `start="midpoint"`.

    Raises:
        ValueError: the grid is not in order (the message names the index), `order` is not 1, 2 or
            3, an unknown name, or `"midpoint"` with `order=1`, one level, or `alphas` alone.

    Example:
        >>> table = adams_table(np.array([4.0, 1.0]), order=1, final="keep")
        >>> print(table.decay, table.predictor)  # DDIM: x / 4 + 3 / 4 D
        [0.25] [[0.75 0.   0.  ]]

    References:
        Lu et al. 2022b, *DPM-Solver++*; Zhao et al. 2023, *UniPC*, whose free function B(h)
        cancels here except in its short-cuts of one half; Hochbruck, Ostermann 2010, section 2.5.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    checks.one_of("variant", variant, VARIANTS)
    checks.one_of("start", start, STARTS)
    checks.one_of("end", end, ENDS)
    grid = StepGrid.make(noise_scales, alphas, final, stochasticity)
    warm = start == "midpoint"
    if warm:
        if order == 1:
            raise ValueError("start='midpoint' needs order 2 or 3, got order=1")
        grid = grid.with_middles(schedule, first_only=True)
    orders = _orders(grid, order, falls=end == "lower")
    predictor = _multistep_rows(grid, orders, variant, ahead=False)
    corrected = _multistep_rows(grid, orders, variant, ahead=True) if corrector else None
    if warm:
        predictor, corrected = _warm_rows(grid, order, variant, predictor, corrected)
    return grid.table(predictor, corrected)


def dpmpp_3m_table(
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    stochasticity: ArrayLike = 0.0,
    final: str = "denoise",
) -> StepTable:
    r"""The third-order multistep formula as it is commonly copied, which has order two.

    It gives the second divided difference the weight of a second derivative, that is, half of
    $\mu_2$. For comparison: `adams_table` with `order=3` is right. Below some fifty calls the copy
    is nevertheless often the better one, since its smaller last weight damps.

    Args:
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        stochasticity: as for `adams_table`.
        final: `"denoise"` or `"keep"`.

    Returns:
        `StepTable`.

    Raises:
        ValueError: as `adams_table`.

    Example:
        >>> grid = np.array([4.0, 2.0, 1.0, 0.5])
        >>> gap = dpmpp_3m_table(grid).predictor[2] - adams_table(grid, order=3).predictor[2]
        >>> print(gap.round(3))
        [-0.049  0.098 -0.049]

    References:
        Lu et al. 2022b, in the form of their code and of its descendants.
    """
    grid = StepGrid.make(noise_scales, alphas, final, stochasticity)
    return grid.table(_multistep_rows(grid, _orders(grid, 3), "copied", ahead=False), None)


def single_step_table(
    noise_scales: ArrayLike,
    *,
    alphas: ArrayLike | None = None,
    variant: str = "half",
    stochasticity: ArrayLike = 0.0,
    schedule: NoiseSchedule | None = None,
    final: str = "denoise",
) -> StepTable:
    r"""DPM-Solver++(2S): two calls a step, at its beginning and in its middle.

    Each step is two rows. The first goes to the middle in $\lambda$ with order one; the second goes
    on to the end, with weights that take back what the first did with the older estimate. No
    estimate is used across steps, so the order is two from the first step on.

    Args:
        noise_scales: positive and strictly decreasing, `(N,)`.
        alphas: $\alpha$ at the same levels; ones if left out.
        variant: `"half"` gives the middle the whole weight $\mu_0$, as DPM-Solver++ does;
            `"exact"` gives it $2\mu_1$ and the rest to the beginning.
        stochasticity: as for `adams_table`.
        schedule: the schedule of `alphas`, which is asked for alpha in the middle of the steps.
        final: `"denoise"`: 2 N - 1 rows. `"keep"`: 2 N - 2.

    Returns:
        `StepTable`.

    Raises:
        ValueError: as `adams_table`; `alphas` without `schedule`.

    Example:
        >>> table = single_step_table(np.array([4.0, 1.0]), final="keep")
        >>> print(table.noise_scales, table.predictor[:, :2])  # 3 / 4 D of the middle in all
        [4. 2.] [[ 0.5   0.  ]
         [ 0.75 -0.25]]

    References:
        Lu et al. 2022b, *DPM-Solver++*, algorithm 1.
    """
    checks.one_of("variant", variant, VARIANTS)
    grid = StepGrid.make(noise_scales, alphas, final, stochasticity)
    grid = grid.with_middles(schedule, first_only=False)
    xp, lengths = grid.xp, grid.lengths
    first, second = lengths[0::2], lengths[1::2]
    to_middle = moments(first)[0]
    whole = _two_stage(first, second, variant)
    zero = xp.zeros_like(first)
    rows = xp.stack(
        [
            xp.stack([to_middle, zero, zero], axis=-1),
            xp.stack([whole[0], whole[1] - xp.exp(-second) * to_middle, zero], axis=-1),
        ],
        axis=1,
    )
    return grid.table(rows.reshape((-1, 3)), None)


def _orders(grid: StepGrid, order: int, *, falls: bool = False) -> np.ndarray:
    """The order of each step: step n knows n + 1 estimates."""
    count = grid.noise_scales.shape[0] - 1
    orders = np.minimum(order, np.arange(count) + 1)
    if falls:
        orders = np.minimum(orders, np.arange(count, 0, -1) + 1)
    return orders


def _multistep_rows(grid: StepGrid, orders: np.ndarray, variant: str, *, ahead: bool) -> Any:
    """Weights of the newest estimates; with `ahead` that at the end of the step is the first."""
    xp, lengths = grid.xp, grid.lengths
    mu = moments(lengths)
    if variant == "copied":
        mu = (mu[0], mu[1], 0.5 * mu[2], mu[3])
    past = _past_ratios(grid)
    rows = xp.zeros_like(lengths, shape=(orders.shape[0], 3 + ahead))
    for k in range(1, 4):
        nodes = ([xp.ones_like(lengths)] if ahead else []) + past[: k - 1]
        halved = variant == "half" and len(nodes) == 1
        weights = interpolation_weights((mu[0], 0.5 * mu[0]) if halved else mu, nodes)
        newest, others = weights[0], weights[1:]
        ordered = [others[0], newest, *others[1:]] if ahead else [newest, *others]
        ordered += [xp.zeros_like(lengths)] * (3 + ahead - len(ordered))
        rows = xp.where((orders == k)[:, None], xp.stack(ordered, axis=-1), rows)
    return rows


def _past_ratios(grid: StepGrid) -> list[Any]:
    """Where the two estimates before the newest lie, in steps; far out where there is none."""
    xp, steps = grid.xp, grid.xp.diff(grid.log_snr)
    ones = xp.ones_like(steps)
    before = xp.concatenate([ones[:1], steps[:-1] / steps[1:]])
    earlier = xp.concatenate([ones[:2], (steps[:-2] / steps[2:])])[: steps.shape[0]]
    return [-before, -(before + earlier)]


def _two_stage(first: Any, second: Any, variant: str) -> list[Any]:
    """Weights of the middle and of the beginning over a step of the lengths `first + second`."""
    mu = moments(first + second)
    if variant == "half":
        mu = (mu[0], 0.5 * mu[0])
    beginning, middle = interpolation_weights(mu, [first / (first + second)])
    return [middle, beginning]


def _warm_rows(
    grid: StepGrid, order: int, variant: str, predictor: Any, corrector: Any
) -> tuple[Any, Any]:
    """The first rows after a level was inserted: they make the first step again from its start.

    A row can take back what earlier rows added, since all estimates it needs are in the history:
    going on over a length H multiplies their weights by exp(-H).
    """
    xp, lengths = grid.xp, grid.lengths
    first, second = lengths[0:1], lengths[1:2]
    zero = xp.zeros_like(first)

    def row(*weights: Any) -> Any:
        return xp.stack(weights, axis=-1)

    shrink, added = xp.exp(-second), predictor[0:1, 0]
    middle, beginning = _two_stage(first, second, variant)
    again = row(middle, beginning - shrink * added, zero)
    predictor = xp.concatenate([predictor[:1], again, predictor[2:]])
    if corrector is None:
        return predictor, None

    whole = first + second
    three = interpolation_weights(moments(whole), [xp.ones_like(whole), first / whole])
    rows = [
        row(zero, added, zero, zero),  # the inserted level is not corrected
        row(three[1], three[2], three[0] - shrink * added, zero),
    ]
    if order == 3 and lengths.shape[0] > 2:
        # The estimate in the middle is of second order only: here it leaves the formula.
        third = lengths[2:3]
        both, shrink = whole + third, xp.exp(-third)
        clean = interpolation_weights(moments(both), [xp.ones_like(both), whole / both])
        rows.append(
            row(
                clean[1],
                clean[2] - shrink * three[1],
                -shrink * three[2],
                clean[0] - shrink * three[0],
            )
        )
    if order == 3 and lengths.shape[0] > 3:
        third, fourth = lengths[2:3], lengths[3:4]
        nodes = [xp.ones_like(fourth), -third / fourth]
        quadratic = interpolation_weights(moments(fourth), nodes)
        rows.append(row(quadratic[1], quadratic[0], quadratic[2], zero))
    return predictor, xp.concatenate([*rows, corrector[len(rows) :]])
