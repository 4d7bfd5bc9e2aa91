r"""One step size and one metric from many chains: what a warm-up keeps between its steps.

`init`, `update` and `final` see all chains of one device at once, and agree with the other devices
through sums over the mesh axes; they may be used in a `shard_map` of your own. Here the "sampler"
draws from the target, and its acceptance falls with the step size:

>>> import jax, jax.numpy as jnp
>>> from probjax.mcmc.adaptation import pooled_adaptation
>>> init, update, final = pooled_adaptation(0.8)
>>> x = jax.random.normal(jax.random.key(0), (300, 1000, 2)).at[..., 0].multiply(3.0)
>>> def body(state, t):
...     rates = jnp.full(1000, jnp.exp(-state.step_size))
...     flags = jnp.ones(1000, bool)
...     return update(state, x[t], flags, rates, (t > 50) & (t < 250), t == 249), None
>>> state = jax.jit(lambda: jax.lax.scan(body, init(x[0], 0.1), jnp.arange(300))[0])()
>>> params = final(state)
>>> print(jnp.round(jnp.exp(-params.step_size), 2), jnp.round(params.inverse_mass_matrix, 1))
0.8 [9. 1.]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import (
    DualAveragingAdaptationState,
    dual_averaging_adaptation,
)
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from probjax.core import checks, rows
from probjax.mcmc.kernels import HMCParams
from probjax.mcmc.welford import Welford, merger

METRICS = ("none", "diag", "dense")
"""The metrics there are: the identity, a diagonal, a matrix."""


class PooledState(NamedTuple):
    """What a pooled warm-up keeps: nothing of it enters the chains' states."""

    dual_averaging: DualAveragingAdaptationState
    """BlackJAX's, with arrays for its numbers; the same on all devices."""
    metric: Array
    """Inverse mass matrix in use, `(d,)` or `(d, d)`; the same on all devices."""
    moments: Welford
    """Moments of this device's chains since the window began."""
    acceptance_rate: Array
    """Mean acceptance at the last step, over all chains."""

    @property
    def step_size(self) -> Array:
        """Step size for the next step."""
        return jnp.exp(self.dual_averaging.log_step_size)


class PooledAdaptation(NamedTuple):
    """The three functions of an adaptation."""

    init: Callable[[Array, ArrayLike], PooledState]
    """`init(positions, step_size)`, positions `(n, d)`."""
    update: Callable[..., PooledState]
    """`update(state, positions, is_fine, acceptance_rate, is_slow, is_window_end)`."""
    final: Callable[[PooledState], HMCParams]
    """`final(state)`: what to sample with."""


def pooled_adaptation(
    target_acceptance: ArrayLike,
    *,
    metric: str = "diag",
    axis_name: str | tuple[str, ...] = (),
) -> PooledAdaptation:
    r"""Stan's adaptation, fed by all chains at once.

    Each step makes one update of dual averaging (BlackJAX's), by the mean over all `C` chains:

    $$\bar H\leftarrow\Bigl(1-\frac1{t+10}\Bigr)\bar H
        +\frac1{t+10}\Bigl(target\_acceptance-\frac1C\sum_c a_c\Bigr),\qquad
      \log\epsilon=\log(10\,\epsilon_0)-\frac{\sqrt t}{0.05}\bar H$$

    In a slow window positions enter running moments with `n` the number of draws; at its end

    $$M^{-1}=\frac n{n+5}\hat\Sigma+\frac5{n+5}\,10^{-3}I$$

    and dual averaging begins anew from the averaged step size.

    Args:
        target_acceptance: mean acceptance to be reached.
        metric: `"none"`, `"diag"` or `"dense"`.
        axis_name: mesh axes that the chains are spread over; none outside of `shard_map`.

    Returns:
        Its `init`, `update` and `final`.

    Raises:
        ValueError: an unknown `metric`.

    Example:
        >>> init, update, final = pooled_adaptation(0.8, metric="none")
        >>> state = init(jnp.zeros((3, 2)), 0.1)
        >>> flags, rates = jnp.ones(3, bool), jnp.array([1.0, jnp.nan, 0.5])
        >>> float(update(state, jnp.zeros((3, 2)), flags, rates, False, False).step_size)
        0.579...

    References:
        Hoffman, Gelman 2014, section 3.2; the Stan reference manual; BlackJAX, whose
        `window_adaptation` this is for one chain.
    """
    checks.one_of("metric", metric, METRICS)
    start, advance, averaged = dual_averaging_adaptation(target_acceptance)
    product = _outer if metric == "dense" else jnp.multiply

    def init(positions: Float[Array, "n d"], step_size: ArrayLike) -> PooledState:
        dtype, dim = positions.dtype, positions.shape[1]
        identity = jnp.eye(dim, dtype=dtype) if metric == "dense" else jnp.ones(dim, dtype)
        moments = jax.tree.map(jnp.zeros_like, _moments(positions, positions[:, 0] == 0, metric))
        nothing = jnp.zeros((), dtype)
        return PooledState(begun(jnp.asarray(step_size, dtype)), identity, moments, nothing)

    def begun(step_size: Array) -> DualAveragingAdaptationState:
        # Its counter and zeros become arrays of one type: a loop can carry them.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, step_size.dtype), start(step_size))

    def update(
        state: PooledState,
        positions: Float[Array, "n d"],
        is_fine: Bool[Array, " n"],
        acceptance_rate: Float[Array, " n"],
        is_slow: ArrayLike,
        is_window_end: ArrayLike,
    ) -> PooledState:
        rate = mean_acceptance(acceptance_rate, is_fine, axis_name).astype(positions.dtype)
        dual = advance(state.dual_averaging, rate)
        if metric == "none":
            moments, found = state.moments, state.metric
        else:
            batch = _moments(positions, is_fine, metric)
            merged = merger(product)(jax.tree.map(_pair, state.moments, batch))
            moments = _choose(is_slow, merged, state.moments)
            found = jax.lax.cond(
                is_window_end,
                lambda: _regularised(_pooled(moments, product, axis_name), state.metric),
                lambda: state.metric,
            )
            moments = _choose(is_window_end, jax.tree.map(jnp.zeros_like, moments), moments)
        dual = _choose(is_window_end, begun(averaged(dual)), dual)
        return PooledState(dual, found, moments, rate)

    def final(state: PooledState) -> HMCParams:
        return HMCParams(averaged(state.dual_averaging), state.metric)

    return PooledAdaptation(init, update, final)


def mean_acceptance(
    acceptance_rate: Float[Array, " n"],
    is_fine: Bool[Array, " n"],
    axis_name: str | tuple[str, ...] = (),
) -> Float[Array, ""]:
    """Mean acceptance over the chains of all devices; what is broken was not accepted.

    Args:
        acceptance_rate: of this device's chains; not finite counts as 0.
        is_fine: whether a chain's state is finite; one that is not counts as 0.
        axis_name: mesh axes that the chains are spread over.

    Returns:
        The mean, the same on all devices.

    Example:
        >>> float(mean_acceptance(jnp.array([1.0, jnp.nan, 0.5]), jnp.array([True, True, False])))
        0.333...
    """
    fine = is_fine & jnp.isfinite(acceptance_rate)
    rates = jnp.where(fine, acceptance_rate, jnp.zeros_like(acceptance_rate))
    return jax.lax.pmean(jnp.mean(rates), axis_name)


def _moments(positions: Array, flags: Array, metric: str) -> Welford:
    """Moments of the chains with a flag, at one step."""
    number = jnp.sum(flags.astype(positions.dtype))
    x = rows.select(flags, positions, jnp.zeros_like(positions))
    mean = jnp.sum(x / jnp.maximum(number, 1), axis=0)
    apart = rows.select(flags, positions - mean[None], jnp.zeros_like(positions))
    if metric == "dense":
        squares = jnp.matmul(apart.T, apart, precision="highest")
    else:
        squares = jnp.sum(apart**2, axis=0)
    excluded = jnp.sum((~flags).astype(positions.dtype))
    return Welford(jnp.zeros_like(mean), mean, squares, number, excluded)


def _pair(one: Array, other: Array) -> Array:
    return jnp.stack([one, other])


def _choose(flag: ArrayLike, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(flag, x, y), one, other)


def _pooled(moments: Welford, product: Any, axis_name: Any) -> Welford:
    """The formula of Chan and others, over devices."""
    number, excluded = jax.lax.psum((moments.count, moments.excluded), axis_name)
    share = moments.count / jnp.maximum(number, 1)
    mean = jax.lax.psum(moments.mean * share, axis_name)
    apart = (moments.mean - mean)[None]
    between = moments.count * product(apart, apart)[0]
    deviation = jax.lax.psum(moments.deviation + between, axis_name)
    return Welford(jnp.zeros_like(mean), mean, deviation, number, excluded)


def _regularised(moments: Welford, before: Array) -> Array:
    """Stan's shrinkage of the covariance; two draws at least, else the metric stays."""
    number = moments.count
    small = 5e-3 / (number + 5)
    prior = small * (jnp.eye(len(before), dtype=before.dtype) if before.ndim == 2 else 1)
    covariance = moments.deviation / jnp.maximum(number - 1, 1)
    if before.ndim == 2:
        # The products of two means are symmetric only in sum.
        covariance = 0.5 * (covariance + covariance.T)
    found = number / (number + 5) * covariance + prior
    return jnp.where((number > 1) & jnp.all(jnp.isfinite(found)), found, before)


def _outer(x: Array, y: Array) -> Array:
    return x[..., :, None] * y[..., None, :]
