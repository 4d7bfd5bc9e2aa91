"""The samplers of the posterior experiment: their kernels, warm-ups and sizes.

>>> from probjax.experiments import posterior_samplers
>>> sorted(posterior_samplers.SAMPLERS)
['chees', 'hmc', 'mala', 'nuts']
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from probjax import mcmc
from probjax.core.keys import PRNGKey

LogDensityFn = Callable[[Array], Array]
"""Log density up to a constant, of one position `(d,)`."""


class Size(NamedTuple):
    """How long and with how many chains to run, where the config does not say."""

    num_chains: int
    """Chains."""
    num_warmup: int
    """Steps of warm-up."""
    num_steps: int
    """Steps after it."""
    thin: int
    """Every so many of them are kept."""
    target_acceptance: float
    """Acceptance that the step size is tuned to."""


class Sampler(NamedTuple):
    """One way to sample."""

    size: Size
    """What suits it."""
    metrics: tuple[str, ...]
    """Metrics that its warm-up can learn."""
    kernel: Callable[[LogDensityFn, int], mcmc.Kernel]
    """`kernel(logdensity_fn, num_leapfrog)`."""
    params: Callable[[Float[Array, " d"], bool], Any]
    """`params(position, dense)`: parameters of the right shapes, to read saved ones into."""


def _hmc_params(position: Array, dense: bool) -> mcmc.HMCParams:
    one = jnp.ones((), position.dtype)
    return mcmc.HMCParams(one, jnp.ones(position.shape * (1 + dense), position.dtype))


def _chees_params(position: Array, dense: bool) -> mcmc.DynamicHMCParams:
    del dense
    one = jnp.ones((), position.dtype)
    return mcmc.DynamicHMCParams(one, jnp.ones(position.shape, position.dtype), one)


ALL = ("none", "diag", "dense")
"""Kinds of metric."""
ALONE_LEAPFROG = 8
"""Leapfrog steps of the chains that tune themselves before ChEES."""

SAMPLERS = {
    "nuts": Sampler(
        Size(8, 500, 1000, 1, 0.8), ALL, lambda fn, length: mcmc.nuts_kernel(fn), _hmc_params
    ),
    "hmc": Sampler(Size(8, 500, 1000, 1, 0.8), ALL, mcmc.hmc_kernel, _hmc_params),
    "mala": Sampler(
        Size(16, 2000, 20_000, 20, 0.574), ALL, lambda fn, length: mcmc.hmc_kernel(fn, 1),
        _hmc_params,
    ),
    "chees": Sampler(
        Size(64, 500, 500, 1, 0.651), ALL[:2], lambda fn, length: mcmc.dynamic_hmc_kernel(fn),
        _chees_params,
    ),
}  # fmt: skip
"""Samplers by name. MALA is Hamiltonian Monte Carlo with one leapfrog step."""


def warm_up(
    name: str,
    key: PRNGKey,
    kernel: mcmc.Kernel,
    logdensity_fn: LogDensityFn,
    positions: Float[Array, "chains d"],
    num_steps: int,
    *,
    target_acceptance: float,
    metric: str,
    mesh: Mesh,
) -> mcmc.Warmup:
    """Tune a sampler of the table.

    For `chees` a fifth of the steps are made by each chain alone, with Hamiltonian Monte Carlo of
    eight leapfrog steps tuned for that chain.

    Args:
        name: of the sampler.
        key: one key for all chains.
        kernel: its kernel.
        logdensity_fn: the log density.
        positions: where the chains start.
        num_steps: steps of warm-up.
        target_acceptance: acceptance to be reached.
        metric: one of the sampler's `metrics`.
        mesh: the devices.

    Returns:
        States, parameters and trace of the warm-up.

    Raises:
        ValueError: as the warm-up's.
    """
    options = {"target_acceptance": target_acceptance, "metric": metric, "mesh": mesh}
    if name != "chees":
        return mcmc.pooled_warmup(key, kernel, positions, num_steps, **options)
    # ChEES averages acceptance over the chains that do not diverge, so one that starts where the
    # common step size diverges would stay there: first each finds its way with a step of its own.
    alone = max(20, num_steps // 5)
    short = mcmc.hmc_kernel(logdensity_fn, ALONE_LEAPFROG)
    first = mcmc.window_warmup(jax.random.fold_in(key, 1), short, positions, alone, mesh=mesh)
    together = max(20, num_steps - alone)
    second = mcmc.chees_warmup(key, logdensity_fn, first.states.position, together, **options)
    spent = jnp.concatenate([first.trace.num_grad_evals.sum(0), second.trace.num_grad_evals])
    return second._replace(trace=second.trace._replace(num_grad_evals=spent))
