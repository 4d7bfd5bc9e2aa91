r"""Kernels that are tuned by what many chains do together: dynamic and generalized HMC.

`chees_warmup` finds the parameters of the one, `meads_warmup` of the other; each chain then runs
by itself, so `run_chains` takes them like any kernel:

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> kernel = mcmc.dynamic_hmc_kernel(lambda x: -0.5 * jnp.sum(x**2))
>>> params = mcmc.DynamicHMCParams(0.5, jnp.ones(2), 4.0)
>>> states = mcmc.init_chains(kernel, jnp.zeros((64, 2)), params=params)
>>> run = mcmc.run_chains(jax.random.key(0), kernel, states, 8, params=params)
>>> print(run.states.random_generator_arg[:2])
[8 8]
"""

import functools
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from probjax.core import checks
from probjax.core.keys import as_key
from probjax.mcmc.kernels import Kernel, LogDensityFn


class DynamicHMCParams(NamedTuple):
    """Parameters of `dynamic_hmc_kernel`."""

    step_size: ArrayLike
    """Step of the leapfrog integrator, positive."""
    inverse_mass_matrix: Any
    """Estimate of the target's covariance: its diagonal `(d,)` or the matrix `(d, d)`."""
    num_steps: ArrayLike
    """Leapfrog steps of the longest trajectory, a real number."""


class GHMCParams(NamedTuple):
    """Parameters of `ghmc_kernel`."""

    step_size: ArrayLike
    """Step of the leapfrog integrator, positive."""
    momentum_inverse_scale: Any
    """Standard deviations of the target, a pytree like the position or `(d,)`."""
    alpha: ArrayLike
    """Share of the momentum that is drawn anew at each step, in `(0, 1]`."""
    delta: ArrayLike
    """How far the slice variable moves at each step."""


@functools.lru_cache(maxsize=256)
def dynamic_hmc_kernel(
    logdensity_fn: LogDensityFn,
    *,
    jitter_amount: float = 1.0,
    divergence_threshold: float = 1000.0,
) -> Kernel:
    r"""Hamiltonian Monte Carlo whose trajectories differ in length: BlackJAX's, parametric.

    $$L_t=\bigl\lceil\bigl(jitter\_amount\,h_t+1-jitter\_amount\bigr)\,num\_steps\bigr\rceil$$

    with $h_t$ the Halton sequence $\frac12,\frac14,\frac34,\frac18,\dots$, whose index $t$ is part
    of the state. Chains that began together make trajectories of one length, so none waits for
    another, and `run_chains` carries their index once: on targets of few operations a step then
    costs two thirds. It is the kernel that `chees_warmup` tunes.

    Args:
        logdensity_fn: log density of one position.
        jitter_amount: share of the length that varies, from 0 (all alike) to 1.
        divergence_threshold: energy error above which a proposal counts as divergent.

    Returns:
        Kernel that takes `DynamicHMCParams`; equal arguments give the same object.

    Raises:
        ValueError: `jitter_amount` outside 0 to 1, or a `divergence_threshold` not positive.

    Example:
        >>> kernel = dynamic_hmc_kernel(lambda x: -0.5 * jnp.sum(x**2))
        >>> params = DynamicHMCParams(0.3, jnp.ones(2), 8.0)
        >>> state = kernel.init(jnp.ones(2), params)
        >>> for t in range(4):
        ...     state, info = kernel.step(jax.random.key(t), state, params)
        ...     print(info.num_integration_steps, end=" ")
        4 2 6 1

    References:
        Hoffman, Radul, Sountsov 2021; BlackJAX's `dynamic_hmc`, number for number.
    """
    if not 0.0 <= jitter_amount <= 1.0:
        raise ValueError(f"jitter_amount must be from 0 to 1, got {jitter_amount!r}")
    checks.positive("divergence_threshold", divergence_threshold)

    def length(index: Array, num_steps: Array) -> Array:
        part = _halton(index).astype(num_steps.dtype) * jitter_amount + (1.0 - jitter_amount)
        return jnp.ceil(part * num_steps).astype(int)

    kernel = blackjax.dynamic_hmc.build_kernel(
        divergence_threshold=divergence_threshold,
        next_random_arg_fn=lambda index: index + 1,
        integration_steps_fn=length,
    )

    def init(position: Any, params: Any) -> Any:
        del params
        return blackjax.dynamic_hmc.init(position, logdensity_fn, jnp.zeros((), jnp.int32))

    def step(key: Any, state: Any, params: Any) -> tuple[Any, Any]:
        checks.positive("step_size", params.step_size)
        dtype = state.logdensity.dtype
        step_size, num_steps = (jnp.asarray(x, dtype) for x in (params.step_size, params.num_steps))
        metric = params.inverse_mass_matrix
        key = as_key(key)
        return kernel(key, state, logdensity_fn, step_size, metric, (num_steps,))

    return Kernel(init, step, lockstep=("random_generator_arg",))


def _halton(index: Array) -> Array:
    """Element `index` of the Halton sequence: `index + 1` with its 32 bits mirrored at the point.

    BlackJAX sums one fraction for each bit, at a tenth of the cost of a step on small targets.
    """
    bits = (index + 1).astype(jnp.uint32)
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        bits = ((bits >> shift) & mask) | ((bits & mask) << shift)
    return ((bits >> 16) | (bits << 16)).astype(float) * 2.0**-32


@functools.lru_cache(maxsize=256)
def ghmc_kernel(logdensity_fn: LogDensityFn, *, divergence_threshold: float = 1000.0) -> Kernel:
    r"""Hamiltonian Monte Carlo that keeps most of its momentum: BlackJAX's, parametric.

    $$p\leftarrow\sqrt{1-alpha}\,p+\sqrt{alpha}\,\xi$$

    then one leapfrog step, accepted with a slice variable that moves by `delta` (Neal 2020). One
    gradient for each step and no inner loop. It is the kernel that `meads_warmup` tunes.

    Args:
        logdensity_fn: log density of one position.
        divergence_threshold: energy error above which a step counts as divergent.

    Returns:
        Kernel that takes `GHMCParams`. Its `init` starts at rest; `meads_warmup` gives states on
        the move. A slice variable that is not finite (BlackJAX's may be after a proposal that is
        refused outright, and then the chain stands still for good) is not stored.

    Raises:
        ValueError: a `divergence_threshold` that is not positive.

    Example:
        >>> kernel = ghmc_kernel(lambda x: -0.5 * jnp.sum(x**2))
        >>> params = GHMCParams(0.5, jnp.ones(2), 0.3, 0.15)
        >>> _, info = kernel.step(jax.random.key(0), kernel.init(jnp.ones(2), params), params)
        >>> info.num_integration_steps
        1

    References:
        Neal 2020; Hoffman, Sountsov 2022; BlackJAX's `ghmc`.
    """
    checks.positive("divergence_threshold", divergence_threshold)
    kernel = blackjax.ghmc.build_kernel(divergence_threshold=divergence_threshold)

    def init(position: Any, params: Any) -> Any:
        del params
        value, gradient = jax.value_and_grad(logdensity_fn)(position)
        rest = jax.tree.map(jnp.zeros_like, position)
        slice_ = jnp.full_like(value, 0.5)
        return blackjax.mcmc.ghmc.GHMCState(position, rest, value, gradient, slice_)

    def step(key: Any, state: Any, params: Any) -> tuple[Any, Any]:
        checks.positive("step_size", params.step_size)
        dtype = state.logdensity.dtype
        step_size, alpha, delta = (
            jnp.asarray(x, dtype) for x in (params.step_size, params.alpha, params.delta)
        )
        scale = params.momentum_inverse_scale
        key = as_key(key)
        # BlackJAX multiplies a number by a flag, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            new, info = kernel(key, state, logdensity_fn, step_size, scale, alpha, delta)
        moved = (state.slice + 1.0 + delta) % 2.0 - 1.0
        return new._replace(slice=jnp.where(jnp.isfinite(new.slice), new.slice, moved)), info

    return Kernel(init, step)
