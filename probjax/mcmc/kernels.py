r"""Kernels whose tuning is an argument, and one view on what kernels report.

A `SamplingAlgorithm` has its step size inside its closures: another step size is another closure,
and another compilation. A `Kernel` takes its parameters as an argument of `step`, so what a
warm-up has found flows into one compiled program:

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum(x**2), 5)
>>> state = kernel.init(jnp.ones(2), None)
>>> for step_size in (0.1, 2.5):
...     params = mcmc.HMCParams(step_size, jnp.ones(2))
...     new, info = kernel.step(jax.random.key(0), state, params)
...     print(bool(info.acceptance_rate > 0.5))
True
False
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import blackjax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from probjax.core import checks
from probjax.core.keys import raw_key

LogDensityFn = Callable[[Any], Array]
"""Log density of one position, up to a constant: a scalar."""

# Gradients of one step, where BlackJAX's info does not tell.
_GRADIENTS = {
    blackjax.mcmc.mala.MALAInfo: 1,
    blackjax.mcmc.barker.BarkerInfo: 1,
    blackjax.mcmc.random_walk.RWInfo: 0,
    blackjax.mcmc.elliptical_slice.EllipSliceInfo: 0,
}


class Kernel(NamedTuple):
    """A transition kernel in parametric form, for one chain."""

    init: Callable[[Any, Any], Any]
    """`init(position, params) -> state`."""
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    """`step(key, state, params) -> (state, info)`."""
    vma_clean: bool = True
    """Whether it passes `jax.shard_map`'s check of what varies over the mesh."""
    lockstep: tuple[str, ...] = ()
    """Fields of the state that stay equal in chains where they are: `run_chains` carries them once,
    so that a loop whose length they tell runs without a mask for each chain."""


class HMCParams(NamedTuple):
    """Parameters of `hmc_kernel` and `nuts_kernel`; a mapping with these names does as well."""

    step_size: ArrayLike
    """Step of the leapfrog integrator, positive."""
    inverse_mass_matrix: Any
    """Estimate of the target's covariance: its diagonal `(d,)` or the matrix `(d, d)`."""


class InfoView(NamedTuple):
    """What a step reports, under one set of names."""

    acceptance_rate: Float[Array, "*batch"]
    """Probability with which the proposal was taken; NaN where it is not told."""
    is_accepted: Bool[Array, "*batch"]
    """Whether it was; false where it is not told (NUTS)."""
    is_divergent: Bool[Array, "*batch"]
    """Whether the integrator diverged; false where it is not told."""
    is_nonfinite: Bool[Array, "*batch"]
    """Whether something was not finite; where it is not told, whether `energy` is not."""
    num_grad_evals: Float[Array, "*batch"]
    """Gradients of the log density; NaN where it is not told."""
    energy: Float[Array, "*batch"]
    """Energy of the proposal; NaN where there is none."""


def bind(kernel: Kernel, params: Any) -> SamplingAlgorithm:
    """Fix the parameters of a kernel.

    Args:
        kernel: the kernel.
        params: what its `step` takes.

    Returns:
        `SamplingAlgorithm` with `init(position)` and `step(key, state)`.

    Raises:
        TypeError: `kernel` is not a `Kernel`.

    Example:
        >>> import jax
        >>> kernel = nuts_kernel(lambda x: -0.5 * jnp.sum(x**2))
        >>> algorithm = bind(kernel, {"step_size": 0.5, "inverse_mass_matrix": jnp.ones(2)})
        >>> state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2)))
        >>> state.position.shape
        (2,)
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a Kernel, got {type(kernel).__name__}")

    def init(position: Any, rng_key: Any = None) -> Any:
        del rng_key
        return kernel.init(position, params)

    return SamplingAlgorithm(init, lambda key, state: kernel.step(key, state, params))


@functools.lru_cache(maxsize=256)
def hmc_kernel(
    logdensity_fn: LogDensityFn, num_steps: int, *, divergence_threshold: float = 1000.0
) -> Kernel:
    r"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps: BlackJAX's, parametric.

    $$p\sim N(0,M),\quad (x^*,p^*)=\text{leapfrog}^{num\_steps}(x,p),\quad
      A=\min\bigl(1,e^{H(x,p)-H(x^*,p^*)}\bigr)$$

    with $H=-logdensity\_fn(x)+\frac12p^\top M^{-1}p$.

    Args:
        logdensity_fn: log density of one position.
        num_steps: leapfrog steps, each one gradient.
        divergence_threshold: energy error above which a proposal counts as divergent.

    Returns:
        Kernel that takes `HMCParams`. Equal arguments give the same object, so that programs
        compiled for it are found again.

    Raises:
        ValueError: `num_steps < 1`, or a `divergence_threshold` that is not positive.

    Example:
        >>> import jax
        >>> kernel = hmc_kernel(lambda x: -0.5 * jnp.sum(x**2), 3)
        >>> params = HMCParams(0.3, jnp.ones(2))
        >>> _, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(2), params), params)
        >>> info.num_integration_steps
        3

    References:
        Neal 2011; BlackJAX's `hmc.build_kernel`, number for number.
    """
    checks.at_least("num_steps", num_steps, 1)
    checks.positive("divergence_threshold", divergence_threshold)
    step = blackjax.hmc.build_kernel(divergence_threshold=divergence_threshold)
    return _hamiltonian(logdensity_fn, step, num_steps, vma_clean=True)


@functools.lru_cache(maxsize=256)
def nuts_kernel(
    logdensity_fn: LogDensityFn,
    *,
    max_num_doublings: int = 10,
    divergence_threshold: float = 1000.0,
) -> Kernel:
    r"""The no-U-turn sampler: BlackJAX's, parametric.

    The trajectory doubles until it turns back on itself, at most `max_num_doublings` times, and
    the next state is drawn from it with weights $e^{-H}$. Chains under one `vmap` wait for the
    longest tree among them; devices do not wait for each other in `run_chains`.

    Args:
        logdensity_fn: log density of one position.
        max_num_doublings: a trajectory has at most `2**max_num_doublings - 1` steps.
        divergence_threshold: energy error above which a trajectory counts as divergent.

    Returns:
        Kernel that takes `HMCParams`, marked as not passing `shard_map`'s check.

    Raises:
        ValueError: `max_num_doublings < 1`, or a `divergence_threshold` that is not positive.

    Example:
        >>> import jax
        >>> kernel = nuts_kernel(lambda x: -0.5 * jnp.sum(x**2))
        >>> params = HMCParams(0.3, jnp.ones(2))
        >>> _, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(2), params), params)
        >>> bool(info.is_turning), kernel.vma_clean
        (True, False)

    References:
        Hoffman, Gelman 2014; Betancourt 2017; BlackJAX's `nuts.build_kernel`, number for number.
    """
    checks.at_least("max_num_doublings", max_num_doublings, 1)
    checks.positive("divergence_threshold", divergence_threshold)
    step = blackjax.nuts.build_kernel(divergence_threshold=divergence_threshold)
    return _hamiltonian(logdensity_fn, step, max_num_doublings, vma_clean=False)


def info_view(info: Any) -> InfoView:
    """Read a kernel's info under the common names.

    Args:
        info: ours or BlackJAX's, of one chain or of many.

    Returns:
        The common fields; what the info does not tell is NaN or false.

    Example:
        >>> import jax
        >>> algorithm = blackjax.mala(lambda x: -0.5 * jnp.sum(x**2), 0.1)
        >>> _, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2)))
        >>> view = info_view(info)
        >>> print(view.is_accepted, view.is_divergent, view.num_grad_evals, view.energy)
        True False 1.0 nan
    """
    told = [leaf for name in InfoView._fields if (leaf := getattr(info, name, None)) is not None]
    shape = jnp.shape(told[0]) if told else ()

    def number(value: Any) -> Array:
        value = jnp.nan if value is None else value
        floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
        dtype = jnp.result_type(value) if floating else jnp.float32
        return jnp.broadcast_to(jnp.asarray(value, dtype), shape)

    def flag(value: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(False if value is None else value), shape)

    def of(name: str) -> Any:
        return getattr(info, name, None)

    gradients = of("num_grad_evals")
    if gradients is None:
        gradients = of("num_integration_steps")
    if gradients is None:
        gradients = _GRADIENTS.get(type(info))
    energy, nonfinite = of("energy"), of("is_nonfinite")
    if nonfinite is None and energy is not None:
        nonfinite = ~jnp.isfinite(energy)
    return InfoView(
        number(of("acceptance_rate")),
        flag(of("is_accepted")),
        flag(of("is_divergent")),
        flag(nonfinite),
        number(gradients),
        number(energy),
    )


def _hamiltonian(logdensity_fn: Any, kernel: Any, length: int, *, vma_clean: bool) -> Kernel:
    def init(position: Any, params: Any) -> Any:
        del params
        return blackjax.hmc.init(position, logdensity_fn)

    def step(key: Any, state: Any, params: Any) -> tuple[Any, Any]:
        if isinstance(params, Mapping):
            params = HMCParams(params["step_size"], params["inverse_mass_matrix"])
        checks.positive("step_size", params.step_size)
        step_size = jnp.asarray(params.step_size, state.logdensity.dtype)
        metric = params.inverse_mass_matrix
        return kernel(raw_key(key), state, logdensity_fn, step_size, metric, length)

    return Kernel(init, step, vma_clean)
