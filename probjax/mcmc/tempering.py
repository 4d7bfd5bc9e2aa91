r"""Parallel tempering: replicas of a chain at several temperatures that exchange their positions.

A hot replica sees a flattened density and wanders where a cold one is caught; exchanges carry what
it finds down to the target, and the accept ratio of the exchanges keeps every level exact. One
chain of this kernel is one *ladder* of replicas, so `run_chains` spreads ladders over devices, and
a ladder stays on one device.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc, targets
>>> two_modes = targets.two_modes()  # weight 0.8 at (5, 5), 0.2 at (-5, -5)
>>> ladder = mcmc.parallel_tempering(
...     two_modes.log_density,
...     lambda logdensity_fn, level: mcmc.mala(logdensity_fn, 0.5 / level.inverse_temperature),
...     mcmc.geometric_ladder(5, 0.02))
>>> states = mcmc.init_chains(ladder, jnp.full((64, 2), -5.0))
>>> run = mcmc.run_chains(jax.random.key(0), ladder, states, 500)
>>> print(bool(abs((run.states.position[:, 0] > 0).mean() - 0.8) < 4 * (0.16 / 64) ** 0.5))
True
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, trees
from probjax.core.keys import PRNGKey, as_key, item_keys, stream
from probjax.mcmc.driver import scan_steps
from probjax.mcmc.kernels import info_view

SWAPS = ("even_odd", "random")
"""Rules by which `parallel_tempering` chooses the pairs that may exchange."""

LogDensityFn = Callable[[Any], Array]
"""Log density of one position, up to a constant: a scalar."""


class Level(NamedTuple):
    """What `make_kernel` may build a level's kernel from; both are traced numbers."""

    index: Int[Array, ""]
    """0 for the coldest level, up to K - 1: look up what was tuned for each level."""
    inverse_temperature: Float[Array, ""]
    """The level's inverse temperature."""


class TemperingState(NamedTuple):
    """State of `parallel_tempering`: a ladder of K replicas."""

    position: Any
    """Position of the coldest replica, whose law is the target: that is `replicas[0]`."""
    replicas: Any
    """Positions of all replicas by level, coldest first, leaves `(K, ...)`."""
    logdensities: Float[Array, "levels"]
    """The tempered part of the log density at each replica's position, not multiplied by the
    inverse temperature; -inf where it is no number."""
    index: Int[Array, "levels"]
    """Which replica is at a level: the level at which it began."""
    trip: Int[Array, "levels"]
    """Where the replica at a level is on its round trip: 0 before it was first at the coldest
    level, 1 on the way up, 2 on the way down from the hottest."""
    round_trips: Int[Array, ""]
    """How often a replica came back to the coldest level from the hottest, having left the coldest
    before."""
    parity: Int[Array, ""]
    """0 if the pairs (0, 1), (2, 3), ... are next to exchange, 1 for (1, 2), (3, 4), ..."""


class TemperingInfo(NamedTuple):
    """What a step reports."""

    acceptance_rate: Float[Array, ""]
    """Mean acceptance probability of the local moves of the coldest replica."""
    is_accepted: Bool[Array, ""]
    """Whether one of them was accepted."""
    is_divergent: Bool[Array, ""]
    """Whether one of them diverged."""
    is_nonfinite: Bool[Array, ""]
    """Whether anything was not finite at ANY level: an exchange might have brought it down."""
    num_grad_evals: Float[Array, ""]
    """Gradient evaluations of all replicas together; NaN where the kernel does not tell."""
    acceptance_rates: Float[Array, "levels"]
    """Mean acceptance probability of the local moves at each level."""
    swap_acceptance: Float[Array, "pairs"]
    """Probability with which the neighbours (j, j + 1) would exchange, for ALL pairs, also for
    those that had no turn: `1 - swap_acceptance` estimates the rejection rates."""
    swapped: Bool[Array, "pairs"]
    """Which pairs did exchange."""


def parallel_tempering(
    logdensity_fn: LogDensityFn,
    make_kernel: Callable[[LogDensityFn, Level], SamplingAlgorithm],
    inverse_temperatures: Float[ArrayLike, "levels"] | Sequence[Any],
    *,
    log_prior_fn: LogDensityFn | None = None,
    num_local_steps: int = 1,
    swap: str = "even_odd",
) -> SamplingAlgorithm:
    r"""Replica exchange: local moves at every temperature, then exchanges of neighbours.

    $$\pi_k(x)\propto\pi_0(x)\,e^{\beta_k\,\ell(x)},\qquad
      1=\beta_0>\beta_1>\dots>\beta_{K-1}\ge0$$

    with $\ell=logdensity\_fn$ and $\log\pi_0=log\_prior\_fn$ (zero without one). The ladder's law
    is the product of the $\pi_k$. Neighbours $j$ and $j+1$ exchange their positions with
    probability

    $$\min\Bigl\{1,\exp\bigl[(\beta_j-\beta_{j+1})(\ell(x_{j+1})-\ell(x_j))\bigr]\Bigr\}$$

    and each rule for who may exchange leaves the product invariant: `"even_odd"` lets the even and
    the odd pairs take turns, so that a replica whose exchanges are accepted keeps its direction;
    `"random"` draws the parity anew at each step: such exchanges are reversible, and replicas
    wander.

    A log density that is no number, or infinitely large, counts as a density of zero in the
    exchanges and is flagged.

    Args:
        logdensity_fn: what is tempered: $\log\pi$ of one position up to a constant or, with
            `log_prior_fn`, the log likelihood.
        make_kernel: `make_kernel(tempered_logdensity_fn, level)`, the local kernel of a level, one
            that leaves the density it is given invariant. It is traced once for all levels.
        inverse_temperatures: the $\beta_k$, `(K,)`, strictly decreasing from 1. The last may be 0
            if there is a `log_prior_fn`.
        log_prior_fn: the part that is not tempered.
        num_local_steps: local moves before each exchange.
        swap: one of `SWAPS`.

    Returns:
        `SamplingAlgorithm` with `init(position) -> TemperingState`, which begins all replicas at
        one position, and `step(key, state) -> (TemperingState, TemperingInfo)`. A step costs, for
        each level, `num_local_steps` local moves, one `init` of the local kernel, whose cached
        density an exchange has outdated, and one evaluation of `logdensity_fn`.

    Raises:
        ValueError: fewer than two temperatures, a first that is not 1, an order that is not
            decreasing, a last of 0 without `log_prior_fn`, `num_local_steps < 1`, an unknown
            `swap`, a log density that is not a scalar.

    Example:
        >>> from probjax import mcmc
        >>> kernel = parallel_tempering(
        ...     lambda x: -0.5 * jnp.sum(x**2), lambda f, level: mcmc.mala(f, 0.5), [1.0, 0.4, 0.2])
        >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(2)))
        >>> state.position.shape, state.replicas.shape, info.swap_acceptance.shape
        ((2,), (3, 2), (2,))

    References:
        Geyer 1991, *Markov chain Monte Carlo maximum likelihood*; Syed, Bouchard-Côté,
        Deligiannidis, Doucet 2022, *Non-reversible parallel tempering* (`"even_odd"`).
    """
    betas = _ladder(inverse_temperatures, log_prior_fn is not None)
    checks.at_least("num_local_steps", num_local_steps, 1)
    checks.one_of("swap", swap, SWAPS)
    num_levels = len(betas)

    def tempered(beta: Array) -> LogDensityFn:
        def tempered_logdensity_fn(x: Any) -> Array:
            if log_prior_fn is None:
                return beta * logdensity_fn(x)
            # At beta = 0 the other density plays no part: not in the value, where it may be 0 times
            # infinity, nor in the gradient, which the selection of its argument cuts off.
            used = beta > 0
            seen = jax.tree.map(lambda leaf: jnp.where(used, leaf, jax.lax.stop_gradient(leaf)), x)
            return log_prior_fn(x) + jnp.where(used, beta * logdensity_fn(seen), 0.0)

        return tempered_logdensity_fn

    def value(x: Any) -> Array:
        found = jnp.asarray(logdensity_fn(x))
        checks.shape("logdensity_fn(x)", found, ())
        checks.floating("logdensity_fn(x)", found)
        return found

    def sound(values: Array) -> tuple[Array, Array]:
        """Log densities with -inf for what none can be, and which those are."""
        broken = jnp.isnan(values) | jnp.isposinf(values)
        return jnp.where(broken, -jnp.inf, values), broken

    def init(position: Any, rng_key: Any = None) -> Any:
        del rng_key
        position = trees.widened(position)
        replicas = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_levels), position)
        values = jnp.stack([sound(value(position))[0]] * num_levels)
        # Not a constant: inside `shard_map` a state must vary as its position does.
        index = jnp.arange(num_levels, dtype=jnp.int32) + 0 * jnp.isfinite(values).astype(jnp.int32)
        trip = (index == 0).astype(jnp.int32)
        zero = index[0]
        return TemperingState(position, replicas, values, index, trip, zero, zero)

    def local(key: Any, x: Any, beta: Array, number: Array) -> tuple[Any, Array, Any, Array]:
        """Local moves at one level."""
        kernel = make_kernel(tempered(beta), Level(number, beta))
        before = kernel.init(x, stream(key, "init"))
        # The density of a start is the one gradient that the moves do not count.
        start_grads = 1.0 if hasattr(before, "logdensity_grad") else 0.0

        def step_fn(key: Any, state: Any) -> tuple[Any, Any]:
            state, info = kernel.step(key, state)
            return state, info_view(info)

        after, view, _ = scan_steps(key, step_fn, before, num_local_steps)
        view = view._replace(
            acceptance_rate=view.acceptance_rate / num_local_steps,
            num_grad_evals=view.num_grad_evals + start_grads,
        )
        found, broken = sound(value(after.position))
        return after.position, found, view, broken | view.is_nonfinite

    def step(key: PRNGKey, state: Any) -> tuple[Any, Any]:
        key = as_key(key)
        level_keys = item_keys(stream(key, "proposal"), num_levels)
        given = jnp.asarray(betas, state.logdensities.dtype)
        numbers = jnp.arange(num_levels, dtype=jnp.int32)
        replicas, values, view, broken = jax.vmap(local)(level_keys, state.replicas, given, numbers)

        rates, log_ratio = _swap_rates(given, values)
        parity = state.parity
        if swap == "random":
            drawn = jax.random.bernoulli(stream(key, "level"))
            parity = drawn.astype(parity.dtype) + 0 * parity
        turn = numbers[:-1] % 2 == parity
        draws = jax.random.exponential(stream(key, "accept"), log_ratio.shape, log_ratio.dtype)
        swapped = turn & (-draws <= log_ratio)
        order = _order(swapped)
        replicas, values, index, trip = jax.tree.map(
            lambda leaf: leaf[order], (replicas, values, state.index, state.trip)
        )
        trip, finished = _travelled(trip)
        coldest = jax.tree.map(lambda leaf: leaf[0], (replicas, view))
        new_state = TemperingState(
            coldest[0], replicas, values, index, trip, state.round_trips + finished, 1 - parity
        )
        return new_state, TemperingInfo(
            coldest[1].acceptance_rate,
            coldest[1].is_accepted,
            coldest[1].is_divergent,
            jnp.any(broken),
            jnp.sum(view.num_grad_evals),
            view.acceptance_rate,
            rates,
            swapped,
        )

    return SamplingAlgorithm(init, step)


def geometric_ladder(num_levels: int, minimum: float) -> Float[Array, "levels"]:
    r"""Inverse temperatures in geometric progression.

    $$\beta_k=minimum^{\,k/(K-1)},\qquad k=0,\dots,K-1$$

    For a Gaussian all pairs then exchange equally often; for other targets it is a place to begin.

    Args:
        num_levels: K, at least 2.
        minimum: the last inverse temperature, between 0 and 1.

    Returns:
        `(K,)`, from 1 down to `minimum`.

    Raises:
        ValueError: `num_levels < 2`, or `minimum` outside the open interval.

    Example:
        >>> print(geometric_ladder(3, 0.01))
        [1.   0.1  0.01]
    """
    checks.at_least("num_levels", num_levels, 2)
    checks.positive("minimum", minimum)
    if minimum >= 1:
        raise ValueError(f"minimum must be below 1, got {minimum}")
    return jnp.asarray(float(minimum) ** np.linspace(0.0, 1.0, num_levels))


def communication_barrier(
    rejection_rates: Float[ArrayLike, "pairs"] | Sequence[Any],
) -> Float[Array, ""]:
    r"""Global communication barrier, estimated by the sum of the neighbours' rejection rates.

    $$\Lambda\approx\sum_{j=0}^{K-2}r_j,\qquad r_j=1-\mathbb E[swap\_acceptance_j]$$

    In the limit of many levels the sum no longer depends on where they are. With $r_j$ all equal,
    a ladder of `"even_odd"` exchanges makes about $1/(2+2\sum_jr_j/(1-r_j))$ round trips a step,
    which stays below $1/(2+2\Lambda)$ for any number of levels.

    Args:
        rejection_rates: the $r_j$, `(K - 1,)`.

    Returns:
        The barrier.

    Raises:
        ValueError: a rate that is negative or above 1.

    Example:
        >>> float(communication_barrier(jnp.array([0.3, 0.5])))
        0.8

    References:
        Syed, Bouchard-Côté, Deligiannidis, Doucet 2022.
    """
    return jnp.sum(_rates(rejection_rates))


def equalised_ladder(
    inverse_temperatures: Float[ArrayLike, "levels"] | Sequence[Any],
    rejection_rates: Float[ArrayLike, "pairs"] | Sequence[Any],
    *,
    num_levels: int | None = None,
) -> Float[Array, "new_levels"]:
    r"""Place levels so that every pair of neighbours is refused equally often.

    With the barrier up to level $k$, $\Lambda_k=\sum_{j<k}r_j$, the new levels are where it takes
    the values $\Lambda_{K-1}\,i/(K'-1)$, interpolated between the old ones: linearly in $\log\beta$
    and, in an interval that ends at 0, in $\beta$.

    Estimate, place, run again: two or three rounds suffice, each begun with the replicas of
    the last.

    Args:
        inverse_temperatures: the $\beta_k$ in use, `(K,)`.
        rejection_rates: the $r_j$ found with them, `(K - 1,)`, means over a run.
        num_levels: $K'$; as many as before when `None`.

    Returns:
        The new $\beta$, `(K',)`, with the ends of the old.

    Raises:
        ValueError: shapes, `num_levels < 2`, a rate that is negative or above 1, or none above 0.

    Example:
        The second pair is refused too often, so its levels draw together:

        >>> print(equalised_ladder(jnp.array([1.0, 0.1, 0.01]), jnp.array([0.2, 0.6])))
        [1.      0.0464 0.01  ]

    References:
        Syed, Bouchard-Côté, Deligiannidis, Doucet 2022, who interpolate by a monotone cubic.
    """
    betas, rates = jnp.asarray(inverse_temperatures), _rates(rejection_rates)
    checks.shape("inverse_temperatures", betas, (rates.shape[0] + 1,))
    new = checks.at_least("num_levels", len(betas) if num_levels is None else num_levels, 2)
    if not isinstance(rates, jax.core.Tracer) and not np.any(np.asarray(rates) > 0):
        raise ValueError("rejection_rates must have a positive entry: nothing tells levels apart")
    rates = rates.astype(betas.dtype)
    barrier = jnp.concatenate([jnp.zeros_like(rates[:1]), jnp.cumsum(rates)])
    wanted = barrier[-1] * jnp.linspace(0.0, 1.0, new, dtype=betas.dtype)[1:-1]
    left = jnp.clip(jnp.searchsorted(barrier, wanted, side="right") - 1, 0, len(rates) - 1)
    step = rates[left]
    share = jnp.clip((wanted - barrier[left]) / jnp.where(step > 0, step, 1.0), 0.0, 1.0)
    high, low = betas[left], betas[left + 1]
    above = jnp.where(low > 0, low, 1.0)
    inner = jnp.where(low > 0, high * (above / high) ** share, high + share * (low - high))
    return jnp.concatenate([betas[:1], inner, betas[-1:]])


def _ladder(inverse_temperatures: Any, may_end_at_zero: bool) -> Any:
    """The inverse temperatures, checked."""
    name = "inverse_temperatures"
    traced = isinstance(inverse_temperatures, jax.core.Tracer)
    betas = inverse_temperatures if traced else np.asarray(inverse_temperatures, np.float64)
    if betas.ndim != 1 or betas.shape[0] < 2:
        raise ValueError(f"{name} must be a vector of at least 2, got shape {betas.shape}")
    if traced:
        return betas
    # A float32 power of exactly 1 may miss it by a bit; 1 itself is demanded.
    if betas[0] != 1:
        raise ValueError(f"{name}[0] must be 1, the target itself, got {betas[0]}")
    if betas[-1] == 0:
        if not may_end_at_zero:
            raise ValueError(
                f"{name}[{len(betas) - 1}] is 0, which needs a log_prior_fn to sample there"
            )
        checks.strictly_decreasing(name, betas[:-1])
    else:
        checks.strictly_decreasing(name, betas)
    return betas


def _rates(rejection_rates: Any) -> Float[Array, "pairs"]:
    rates = jnp.asarray(rejection_rates)
    checks.shape("rejection_rates", rates, (None,))
    checks.non_negative("rejection_rates", rates)
    if not isinstance(rates, jax.core.Tracer) and np.any(np.asarray(rates) > 1):
        raise ValueError(f"rejection_rates must not be above 1, got {np.asarray(rates).max()}")
    return rates


def _swap_rates(
    betas: Float[Array, "levels"], values: Float[Array, "levels"]
) -> tuple[Float[Array, "pairs"], Float[Array, "pairs"]]:
    """Probability and logarithm of the ratio for the exchange of each pair of neighbours.

    `values` are finite or -inf. A colder replica of density zero takes any of positive density.
    """
    cold, hot = values[:-1], values[1:]
    possible, needed = jnp.isfinite(hot), ~jnp.isfinite(cold)
    gain = jnp.where(possible & ~needed, hot, 0.0) - jnp.where(possible & ~needed, cold, 0.0)
    log_ratio = jnp.where(possible, (betas[:-1] - betas[1:]) * gain, -jnp.inf)
    return jnp.exp(jnp.minimum(log_ratio, 0.0)), log_ratio


def _order(swapped: Bool[Array, "pairs"]) -> Int[Array, "levels"]:
    """Where each level's new replica comes from, for exchanges of disjoint pairs."""
    up, none = swapped.astype(jnp.int32), jnp.zeros_like(swapped[:1], jnp.int32)
    levels = jnp.arange(swapped.shape[0] + 1, dtype=jnp.int32)
    return levels + jnp.concatenate([up, none]) - jnp.concatenate([none, up])


def _travelled(trip: Int[Array, "levels"]) -> tuple[Int[Array, "levels"], Int[Array, ""]]:
    """The round trips after an exchange, and whether one was finished."""
    finished = (trip[0] == 2).astype(trip.dtype)
    top = jnp.where(trip[-1] == 1, 2, trip[-1])
    return trip.at[0].set(1).at[-1].set(top), finished
