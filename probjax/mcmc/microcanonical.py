r"""Microcanonical samplers: constant speed, direction steered by the score; BlackJAX's, parametric.

`mclmc_kernel` is microcanonical Langevin Monte Carlo: a step is never refused, and the step size
leaves a bias. `mams_kernel` is its adjusted form, whose trajectories are accepted or refused:

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> logdensity_fn = lambda x: -0.5 * jnp.sum(x**2)
>>> kernel = mcmc.mams_kernel(logdensity_fn)
>>> params = mcmc.MicrocanonicalParams(4.0, 2.0, jnp.ones(10))
>>> states = mcmc.init_chains(kernel, jnp.ones((16, 10)), params=params)
>>> run = mcmc.run_chains(jax.random.key(1), kernel, states, 50, params=params,
...                       reducers=(mcmc.counts(),))
>>> print(bool(run.reduced[0].acceptance_rate > 0.8))
True
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import adjusted_mclmc, adjusted_mclmc_dynamic, mclmc
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, trees
from probjax.core.keys import PRNGKey, as_key, item_keys, raw_key, stream
from probjax.mcmc.kernels import Kernel, LogDensityFn
from probjax.mcmc.program import count_chains, layout, on_host
from probjax.mcmc.warmup import Warmup
from probjax.sharding import place

GRADIENTS_PER_STEP = 2
"""Of the minimal-norm integrator, BlackJAX's default."""


class MicrocanonicalParams(NamedTuple):
    """Parameters of both kernels; a mapping with these names does as well."""

    L: ArrayLike
    """For `mclmc_kernel` the length over which the direction is forgotten, for `mams_kernel` the
    mean length of a trajectory; positive, in the metric's units."""
    step_size: ArrayLike
    """Length of an integration step, positive."""
    inverse_mass_matrix: Any
    """Estimate of the target's variances, `(d,)`, or a scalar."""


class MCLMCInfo(NamedTuple):
    """What a step of `mclmc_kernel` reports."""

    acceptance_rate: Float[Array, ""]
    """NaN: nothing is accepted or refused."""
    is_accepted: Bool[Array, ""]
    """Whether the step was made, that is, was finite."""
    is_divergent: Bool[Array, ""]
    """The same as `is_nonfinite`."""
    is_nonfinite: Bool[Array, ""]
    """Whether the step was not finite; the position then stays, the direction is drawn anew."""
    num_grad_evals: Int[Array, ""]
    """Gradient evaluations: two."""
    energy_change: Float[Array, ""]
    """Error of the energy in this step, of which the bias is a function; 0 where not finite."""


class MAMSInfo(NamedTuple):
    """What a step of `mams_kernel` reports."""

    acceptance_rate: Float[Array, ""]
    """Probability with which the end of the trajectory was to be taken."""
    is_accepted: Bool[Array, ""]
    """Whether it was."""
    is_divergent: Bool[Array, ""]
    """Whether the energy error was above the threshold, or no number."""
    is_nonfinite: Bool[Array, ""]
    """Whether the end of the trajectory was not finite (other than by a density of zero)."""
    num_grad_evals: Int[Array, ""]
    """Gradient evaluations: two for each integration step."""
    energy: Float[Array, ""]
    """Potential energy at the end of the trajectory; the kinetic energy is constant."""
    num_integration_steps: Int[Array, ""]
    """Steps of the trajectory."""


class MicrocanonicalTrace(NamedTuple):
    """What each chain of a warm-up found by itself."""

    L: Float[Array, " C"]
    """Its length."""
    step_size: Float[Array, " C"]
    """Its step size."""
    num_grad_evals: Float[Array, " C"]
    """Gradients that its tuning took."""
    is_nonfinite: Bool[Array, " C"]
    """Whether its state or what it found is not finite; it then has no vote."""


@functools.lru_cache(maxsize=256)
def mclmc_kernel(logdensity_fn: LogDensityFn) -> Kernel:
    r"""Microcanonical Langevin Monte Carlo, UNADJUSTED: BlackJAX's, parametric.

    $$dx=u\,dt,\qquad du=(I-uu^\top)\Bigl(\frac{\nabla\log\pi(x)}{d-1}\,dt+\eta\,dW\Bigr),
      \qquad |u|=1$$

    A chain moves at constant speed and bends towards higher density; noise makes it forget its
    direction over the length $L$. Followed exactly, $x$ is distributed as $\pi$. In steps of a
    finite size it is not: the bias falls as the energy error per dimension, $\sim step\_size^4$.

    Args:
        logdensity_fn: log density of one position with at least two numbers.

    Returns:
        Kernel that takes `MicrocanonicalParams`; equal arguments give the same object.
        `init(position, params)` points the direction along the score, and
        `init(position, params, key)` draws it, as BlackJAX does.

    Raises:
        ValueError: `init`: a position of one number; `step`: a parameter that is not positive.

    Example:
        >>> kernel = mclmc_kernel(lambda x: -0.5 * jnp.sum(x**2))
        >>> params = MicrocanonicalParams(2.0, 0.5, jnp.ones(3))
        >>> state = jax.jit(kernel.init)(jnp.ones(3), params)
        >>> state, info = jax.jit(kernel.step)(jax.random.key(0), state, params)
        >>> speed = jnp.linalg.norm(state.momentum)
        >>> print(info.acceptance_rate, info.num_grad_evals, f"{speed:.3f}")
        nan 2 1.000

    References:
        Robnik, De Luca, Silverstein, Seljak 2023, *Microcanonical Hamiltonian Monte Carlo*;
        BlackJAX's `mclmc.build_kernel`, number for number.
    """
    kernel = mclmc.build_kernel()

    def init(position: Any, params: Any, rng_key: Any = None) -> Any:
        del params
        position = trees.widened(position)
        if rng_key is not None:
            return mclmc.init(position, logdensity_fn, as_key(rng_key))
        # BlackJAX checks the dimension; its draw of a direction is replaced.
        state = mclmc.init(position, logdensity_fn, jax.random.key(0))
        return state._replace(momentum=_direction(state.logdensity_grad))

    def step(key: Any, state: Any, params: Any) -> tuple[Any, Any]:
        length, step_size, metric = _numbers(params, state.logdensity.dtype)
        state, info = kernel(as_key(key), state, logdensity_fn, metric, length, step_size)
        fine = jnp.asarray(info.nonans)
        return state, MCLMCInfo(
            jnp.full_like(state.logdensity, jnp.nan),
            fine,
            ~fine,
            ~fine,
            jnp.full_like(fine, GRADIENTS_PER_STEP, jnp.int32),
            info.energy_change,
        )

    return Kernel(init, step, vma_clean=False)


@functools.lru_cache(maxsize=256)
def mams_kernel(logdensity_fn: LogDensityFn, *, divergence_threshold: float = 1000.0) -> Kernel:
    r"""The Metropolis-adjusted microcanonical sampler (MAMS): BlackJAX's, parametric.

    A direction is drawn, the microcanonical dynamics of `mclmc_kernel` without its noise are
    followed for $n$ steps, and the end is accepted with probability

    $$\min(1,e^{-\Delta E}),\qquad \Delta E=\log\pi(x_0)-\log\pi(x_n)+\sum_{i\lt n}\Delta K_i,$$

    where $\Delta K_i$ is the logarithm of the change of volume in step $i$. The number of steps
    is drawn anew each time, uniformly from $1$ to about $2L/step\_size-1$, with the mean
    $L/step\_size$ (at least 1). The target is invariant for any step size.

    Args:
        logdensity_fn: log density of one position with at least two numbers.
        divergence_threshold: energy error above which a trajectory counts as divergent.

    Returns:
        Kernel that takes `MicrocanonicalParams`; equal arguments give the same object.

    Raises:
        ValueError: `divergence_threshold` not positive; otherwise as for `mclmc_kernel`.

    Example:
        >>> kernel = mams_kernel(lambda x: -0.5 * jnp.sum(x**2))
        >>> params = MicrocanonicalParams(2.0, 0.5, jnp.ones(3))
        >>> state = jax.jit(kernel.init)(jnp.ones(3), params)
        >>> _, info = jax.jit(kernel.step)(jax.random.key(0), state, params)
        >>> bool(info.num_grad_evals == 2 * info.num_integration_steps)
        True

    References:
        Robnik, Cohn-Gordon, Seljak 2025, *Metropolis adjusted microcanonical Hamiltonian Monte
        Carlo*. BlackJAX's `adjusted_mclmc_dynamic`, number for number where it is given the keys
        `stream(key, "level")` for the length and `stream(key, "proposal")` for the rest; that
        one carries the first in its state.
    """
    checks.positive("divergence_threshold", divergence_threshold)
    propose = _mams_step(divergence_threshold)

    def init(position: Any, params: Any, rng_key: Any = None) -> Any:
        del params, rng_key
        position = trees.widened(position)
        _at_least_two(position)
        return adjusted_mclmc.init(position, logdensity_fn)

    def step(key: Any, state: Any, params: Any) -> tuple[Any, Any]:
        length, step_size, metric = _numbers(params, state.logdensity.dtype)
        state, info = propose(key, state, logdensity_fn, step_size, metric, (length / step_size,))
        broken = jnp.isnan(info.energy) | jnp.isneginf(info.energy)
        broken |= ~trees.all_finite(info.proposal.position)
        return state, MAMSInfo(
            info.acceptance_rate,
            info.is_accepted,
            info.is_divergent,
            broken,
            GRADIENTS_PER_STEP * info.num_integration_steps,
            info.energy,
            info.num_integration_steps,
        )

    return Kernel(init, step, vma_clean=False)


def mclmc_warmup(
    key: PRNGKey,
    logdensity_fn: LogDensityFn,
    positions: Any,
    num_steps: int,
    *,
    energy_variance: float = 5e-4,
    metric: str = "diag",
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Warmup:
    r"""Find $L$, step size and metric for `mclmc_kernel`: BlackJAX's tuner, on every chain.

    The step size is such that the energy error has the variance $energy\_variance\cdot d$, and
    $L$ is $0.4$ autocorrelation lengths. Every chain tunes by itself; the median over chains is
    taken of each number. So there is one set of parameters, chains agree on what a step is, the
    noise of one short tuning averages out, and a chain that broke or got stuck has no say.

    Args:
        key: one key for all chains.
        logdensity_fn: log density of one position.
        positions: pytree with leaves `(C, ...)`.
        num_steps: steps of the tuning altogether, at least 20, two gradients each.
        energy_variance: variance of the energy error of a step, per dimension.
        metric: `"diag"`, or `"none"` to keep the identity.
        mesh: devices, a number of them that divides `C`. `None`: the device of `positions`.
        axis_name: the mesh axis that chains are spread over; all axes when `None`.

    Returns:
        States, `MicrocanonicalParams` for all chains, and a `MicrocanonicalTrace`.

    Raises:
        ValueError: `num_steps < 20`, an `energy_variance` that is not positive, an unknown
            `metric`, chains that do not divide over the devices, or all of them not finite.

    Example:
        >>> states, params, trace = mclmc_warmup(
        ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.ones((8, 5)), 200)
        >>> params.inverse_mass_matrix.shape, trace.L.shape, bool(params.step_size > 0.5)
        ((5,), (8,), True)

    References:
        Robnik, De Luca, Silverstein, Seljak 2023; BlackJAX's `mclmc_find_L_and_step_size`.
    """
    checks.positive("energy_variance", energy_variance)
    options = ("mclmc", float(energy_variance))
    return _warmup(key, logdensity_fn, positions, num_steps, metric, options, mesh, axis_name)


def mams_warmup(
    key: PRNGKey,
    logdensity_fn: LogDensityFn,
    positions: Any,
    num_steps: int,
    *,
    target_acceptance: float = 0.9,
    mean_integration_steps: float = 2.0,
    metric: str = "diag",
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Warmup:
    r"""Find step size, $L$ and metric for `mams_kernel`: BlackJAX's tuner, on every chain.

    Dual averaging on the acceptance, at a fixed mean number of integration steps: the result has
    $L=mean\_integration\_steps\cdot step\_size$. Every chain tunes by itself, the median over
    chains is taken; see `mclmc_warmup`.

    Args:
        key: one key for all chains.
        logdensity_fn: log density of one position.
        positions: pytree with leaves `(C, ...)`.
        num_steps: trajectories of the tuning altogether, at least 20.
        target_acceptance: mean acceptance to be reached, between 0 and 1.
        mean_integration_steps: mean length of a trajectory in steps, at least 1.2.
        metric: `"diag"`, or `"none"` to keep the identity.
        mesh: as for `mclmc_warmup`.
        axis_name: as for `mclmc_warmup`.

    Returns:
        States, `MicrocanonicalParams` for all chains, and a `MicrocanonicalTrace`.

    Raises:
        ValueError: as `mclmc_warmup`; `target_acceptance`, `mean_integration_steps` out of range.

    Example:
        >>> states, params, trace = mams_warmup(
        ...     jax.random.key(0), lambda x: -0.5 * jnp.sum(x**2), jnp.ones((8, 5)), 200)
        >>> print(f"{params.L / params.step_size:.1f}", states.position.shape)
        2.0 (8, 5)

    References:
        Robnik, Cohn-Gordon, Seljak 2025; BlackJAX's `adjusted_mclmc_find_L_and_step_size`.
    """
    if not 0.0 < target_acceptance < 1.0:
        raise ValueError(f"target_acceptance must lie between 0 and 1, got {target_acceptance}")
    if not mean_integration_steps >= 1.2:
        raise ValueError(
            f"mean_integration_steps must be at least 1.2, got {mean_integration_steps}"
        )
    options = ("mams", float(target_acceptance), float(mean_integration_steps))
    return _warmup(key, logdensity_fn, positions, num_steps, metric, options, mesh, axis_name)


@functools.lru_cache(maxsize=64)
def _program(
    logdensity_fn: Any, num_steps: int, metric: str, options: tuple, mesh: Mesh, spec: P
) -> Callable[..., Any]:
    """The program that tunes every chain: from keys and positions to states and what it found."""
    diagonal = metric == "diag"

    def tune_mclmc(key: Any, position: Any) -> Any:
        # A fifth of the second phase's steps is added to it for the metric.
        share = 0.3 if diagonal else 1 / 3
        return blackjax.mclmc_find_L_and_step_size(
            mclmc.build_kernel(),
            num_steps,
            mclmc.init(position, logdensity_fn, stream(key, "init")),
            # As BlackJAX's NUTS, its tuner selects among keys that it has used.
            raw_key(stream(key, "sample")),
            logdensity_fn=logdensity_fn,
            frac_tune1=share,
            frac_tune2=share,
            frac_tune3=share,
            desired_energy_var=options[1],
            diagonal_preconditioning=diagonal,
        )

    def tune_mams(key: Any, position: Any) -> Any:
        # The first third is run twice, before and after the metric is known.
        return blackjax.adjusted_mclmc_find_L_and_step_size(
            _mams_step(1000.0),
            logdensity_fn,
            num_steps,
            adjusted_mclmc.init(position, logdensity_fn),
            stream(key, "sample"),
            options[1],
            frac_tune1=1 / 3,
            frac_tune2=1 / 3,
            diagonal_preconditioning=diagonal,
            target_num_integration_steps=options[2],
        )

    def chain(key: Any, position: Any) -> Any:
        # BlackJAX multiplies numbers by flags and by counts: not under strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            tune = tune_mclmc if options[0] == "mclmc" else tune_mams
            state, found, spent = tune(key, position)
        found = MicrocanonicalParams(found.L, found.step_size, found.inverse_mass_matrix)
        dtype = state.logdensity.dtype
        found = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), found)
        spent = jnp.asarray(GRADIENTS_PER_STEP * spent, dtype)
        return state, found, spent, ~trees.all_finite((state, found))

    specs = {"in_specs": (spec, spec), "out_specs": spec}
    return jax.jit(jax.shard_map(jax.vmap(chain), mesh=mesh, check_vma=False, **specs))


def _warmup(
    key: Any, logdensity_fn: Any, positions: Any, num_steps: int, metric: str, options: tuple,
    mesh: Mesh | None, axis_name: str | None,
) -> Warmup:  # fmt: skip
    checks.at_least("num_steps", num_steps, 20)
    checks.one_of("metric", metric, ("none", "diag"))
    num_chains = count_chains("positions", positions)
    positions = trees.widened(positions)
    _at_least_two(jax.tree.map(lambda leaf: leaf[0], positions))
    mesh, spec = layout(positions, mesh, axis_name, num_chains, None)
    keys = item_keys(stream(as_key(key), "init"), num_chains)
    program = _program(logdensity_fn, num_steps, metric, options, mesh, spec)
    states, found, spent, broken = program(*place((keys, positions), mesh, spec))
    fine = ~on_host(broken)
    if not fine.any():
        raise ValueError("positions: no chain came to a finite state and finite parameters")

    def median(leaf: Array) -> Array:
        return jnp.asarray(np.median(on_host(leaf)[fine], axis=0), leaf.dtype)

    params = place(jax.tree.map(median, found), mesh, P())
    trace = MicrocanonicalTrace(found.L, found.step_size, spent, jnp.asarray(~fine))
    return Warmup(states, params, trace)


def _mams_step(divergence_threshold: float) -> Callable[..., Any]:
    """A trajectory of random length, with the signature that BlackJAX's tuner calls."""
    kernel = adjusted_mclmc.build_kernel(divergence_threshold=divergence_threshold)
    draw_length = adjusted_mclmc_dynamic.make_random_trajectory_length_fn(True)

    def step(
        rng_key, state, logdensity_fn, step_size, inverse_mass_matrix, integration_steps_params
    ):
        with jax.numpy_dtype_promotion("standard"):
            mean_length = jnp.maximum(integration_steps_params[0], 1.0)
            count = draw_length(stream(rng_key, "level"), mean_length)
            given = state, logdensity_fn, step_size, (count,), inverse_mass_matrix
            return kernel(stream(rng_key, "proposal"), *given)

    return step


def _numbers(params: Any, dtype: Any) -> tuple[Array, Array, Any]:
    if isinstance(params, Mapping):
        params = MicrocanonicalParams(**params)
    checks.positive("L", params.L)
    checks.positive("step_size", params.step_size)
    numbers = (jnp.asarray(value, dtype) for value in params[:2])
    return *numbers, jnp.asarray(params.inverse_mass_matrix, dtype)


def _direction(grad: Any) -> Any:
    """The unit vector along a gradient; along the first axis where there is none."""
    flat, unravel = ravel_pytree(grad)
    size = jnp.linalg.norm(flat)
    good = jnp.isfinite(size) & (size > 0)
    first = jnp.zeros_like(flat).at[0].set(1.0)
    return unravel(jnp.where(good, flat / jnp.where(good, size, 1.0), first))


def _at_least_two(position: Any) -> None:
    if (size := sum(np.size(leaf) for leaf in jax.tree.leaves(position))) < 2:
        raise ValueError(f"position must hold at least 2 numbers: on a line there is only {size}")
