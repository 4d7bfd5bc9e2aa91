r"""Warm-up of many chains: states past the transient, and the parameters to go on with.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> scales = jnp.geomspace(1.0, 10.0, 20)
>>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum((x / scales) ** 2), 2)
>>> key, starts = jax.random.key(0), jnp.ones((64, 20))
>>> states, params, trace = mcmc.pooled_warmup(key, kernel, starts, 300)
>>> run = mcmc.run_chains(jax.random.key(1), kernel, states, 100, params=params,
...                       reducers=(mcmc.counts(),))
>>> print(bool(abs(run.reduced[0].acceptance_rate - 0.8) < 0.05))
True

What is adapted is an argument of the sampling program, never part of a chain's state: adaptation
ends where sampling begins, and other values compile nothing.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from probjax.core import checks
from probjax.core.keys import PRNGKey, as_key
from probjax.core.trees import widened
from probjax.mcmc.adaptation import METRICS
from probjax.mcmc.kernels import Kernel, LogDensityFn
from probjax.mcmc.program import count_chains, layout, on_host
from probjax.mcmc.warmup_programs import (
    Plan,
    chees_program,
    meads_program,
    pooled_program,
    window_program,
)
from probjax.sharding import place


class WarmupTrace(NamedTuple):
    """What happened in a warm-up of `N` steps: numbers, no positions."""

    step_size: Float[Array, "*chains N"]
    """Step size of each step; `(C, N)` where each chain has its own."""
    acceptance_rate: Float[Array, "*chains N"]
    """Acceptance of each step, the mean over chains where they share parameters."""
    num_grad_evals: Float[Array, "*chains N"]
    """Gradients of each step, over all chains where they share parameters."""
    is_nonfinite: Bool[Array, " C"]
    """Chains whose state is not finite at the end. They count as never accepted, and their
    positions enter no metric."""
    trajectory_length: Float[Array, " N"] | None = None
    """Length of the longest trajectory, of `chees_warmup` only."""


class Warmup(NamedTuple):
    """A finished warm-up."""

    states: Any
    """States of the chains, leaves `(C, ...)`, on their devices: ready for `run_chains`."""
    params: Any
    """What to sample with: `params` of `run_chains`, on the devices too."""
    trace: Any
    """How it went: a `WarmupTrace`, or what the warm-up in question says."""


def pooled_warmup(
    key: PRNGKey,
    kernel: Kernel,
    positions: Any,
    num_steps: int,
    *,
    target_acceptance: ArrayLike = 0.8,
    metric: str = "diag",
    initial_step_size: ArrayLike = 0.1,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Warmup:
    r"""Find one step size and one metric for all chains on all devices.

    Stan's windows: a fast one, slow ones that double, a fast one. At each step dual averaging is
    updated once, with the mean acceptance

    $$\bar a_t=\frac1C\sum_{c=0}^{C-1}a_{c,t}\qquad(a_{c,t}=0\text{ where it is not finite});$$

    at the end of a slow window the metric is the shrunk covariance of all positions of all chains
    in it. Chain `c` uses at step `t` the key `fold_in(fold_in(stream(key, "init"), c), t)`.

    Args:
        key: one key for all chains; `run_chains` may have the same one.
        kernel: whose parameters are `HMCParams`, as `hmc_kernel` and `nuts_kernel` give it.
        positions: pytree with leaves `(C, ...)`.
        num_steps: steps, at least 20. From 150 on the last 50 settle the step size under the final
            metric, below that a tenth of them: 20 steps leave two, which settle nothing.
        target_acceptance: mean acceptance to be reached, between 0 and 1.
        metric: `"diag"` for `(d,)`, `"dense"` for `(d, d)`, `"none"` to keep the identity.
        initial_step_size: where dual averaging begins.
        mesh: devices, a number of them that divides `C`. `None`: the device of `positions`.
        axis_name: the mesh axis that chains are spread over; all axes when `None`.

    Returns:
        States, `HMCParams` with leaves `()` and `(d,)` or `(d, d)`, and the trace. 1, 2, 4 and 8
        devices agree up to rounding, not to the bit: sums are grouped by device.

    Raises:
        TypeError: `kernel` is not a `Kernel`.
        ValueError: `num_steps < 20`; `target_acceptance` outside 0 to 1; an `initial_step_size`
            that is not positive; an unknown `metric`; chains that do not divide over the devices;
            a log density that is finite in no chain.

    Example:
        >>> import jax.numpy as jnp
        >>> from probjax import mcmc
        >>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum(x**2), 5)
        >>> warmup = pooled_warmup(jax.random.key(0), kernel, jnp.zeros((16, 3)), 100)
        >>> warmup.params.inverse_mass_matrix.shape, warmup.trace.step_size.shape
        ((3,), (100,))

    References:
        Hoffman, Gelman 2014; the Stan reference manual. BlackJAX's `staged_adaptation` with
        `n_chains` pools its metric for one automatic recipe only, on one device.
    """
    numbers = target_acceptance, initial_step_size
    plan, given = _plan(
        key, kernel, positions, num_steps, METRICS, metric, mesh, axis_name, numbers
    )
    return _finished(*pooled_program(plan)(*given))


def window_warmup(
    key: PRNGKey,
    kernel: Kernel,
    positions: Any,
    num_steps: int,
    *,
    target_acceptance: ArrayLike = 0.8,
    metric: str = "diag",
    initial_step_size: ArrayLike = 0.1,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Warmup:
    r"""Find a step size and a metric for each chain by itself: BlackJAX's `window_adaptation`.

    For comparison, and for few chains that start in different regions. It takes what
    `pooled_warmup` takes, a kernel rather than BlackJAX's pair of algorithm and log density, so
    that one name in a call tells the two apart.

    Args:
        key: one key; chain `c` gets `fold_in(stream(key, "init"), c)`, which BlackJAX splits.
        kernel: as for `pooled_warmup`.
        positions: pytree with leaves `(C, ...)`.
        num_steps: steps, at least 20.
        target_acceptance: acceptance to be reached, between 0 and 1.
        metric: `"diag"` or `"dense"`.
        initial_step_size: where dual averaging begins.
        mesh: as for `pooled_warmup`.
        axis_name: as for `pooled_warmup`.

    Returns:
        States; `HMCParams` with leaves `(C,)` and `(C, d)` or `(C, d, d)`, for `params_axis=0`;
        the trace with leaves `(C, N)`.

    Raises:
        TypeError: as `pooled_warmup`.
        ValueError: as `pooled_warmup`.

    Example:
        >>> import jax.numpy as jnp
        >>> from probjax import mcmc
        >>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum(x**2), 5)
        >>> warmup = window_warmup(jax.random.key(0), kernel, jnp.zeros((4, 3)), 100)
        >>> warmup.params.step_size.shape, warmup.params.inverse_mass_matrix.shape
        ((4,), (4, 3))

    References:
        BlackJAX's `window_adaptation`, number for number.
    """
    numbers = target_acceptance, initial_step_size
    plan, given = _plan(
        key, kernel, positions, num_steps, METRICS[1:], metric, mesh, axis_name, numbers
    )
    return _finished(*window_program(plan)(*given))


def chees_warmup(
    key: PRNGKey,
    logdensity_fn: LogDensityFn,
    positions: Any,
    num_steps: int,
    *,
    target_acceptance: ArrayLike = 0.651,
    metric: str = "none",
    initial_step_size: ArrayLike = 0.1,
    learning_rate: ArrayLike = 0.05,
    jitter_amount: float = 1.0,
    max_leapfrog_steps: int = 1000,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Warmup:
    r"""Find step size and trajectory length for all chains: BlackJAX's `chees_adaptation`.

    The length $\tau$ climbs, by Adam on $\log\tau$, the change that a trajectory makes to the
    squared distance from the centre,

    $$\mathrm{ChEES}(\tau)=\tfrac14E\bigl[(\|x'-E x'\|^2-\|x-E x\|^2)^2\bigr].$$

    Args:
        key: one key for all chains.
        logdensity_fn: log density of one position.
        positions: pytree with leaves `(C, ...)`; the criterion is an average over chains, so
            there should be dozens at least.
        num_steps: steps, at least 20.
        target_acceptance: harmonic mean of the acceptance to be reached.
        metric: `"none"`, or `"diag"` for variances from the second half of the warm-up.
        initial_step_size: where step size and trajectory length begin.
        learning_rate: of Adam.
        jitter_amount: as for `dynamic_hmc_kernel`.
        max_leapfrog_steps: of one trajectory.
        mesh: as for `pooled_warmup`.
        axis_name: as for `pooled_warmup`.

    Returns:
        States and `DynamicHMCParams` for `dynamic_hmc_kernel(logdensity_fn,
        jitter_amount=jitter_amount)`, and the trace. It runs as one program over sharded arrays,
        in which devices meet at each leapfrog step; the sampling after it holds no collective.

    Raises:
        ValueError: as `pooled_warmup`; `max_leapfrog_steps < 1`.

    Example:
        >>> import jax.numpy as jnp
        >>> starts = jax.random.normal(jax.random.key(0), (64, 3))
        >>> logdensity_fn = lambda x: -0.5 * jnp.sum(x**2)
        >>> warmup = chees_warmup(jax.random.key(1), logdensity_fn, starts, 100)
        >>> print(bool(warmup.params.step_size > 0.3), warmup.trace.trajectory_length.shape)
        True (100,)

    References:
        Hoffman, Radul, Sountsov 2021.
    """
    checks.at_least("max_leapfrog_steps", max_leapfrog_steps, 1)
    if not 0.0 <= jitter_amount <= 1.0:
        raise ValueError(f"jitter_amount must be from 0 to 1, got {jitter_amount!r}")
    checks.positive("learning_rate", learning_rate)
    plan, given = _plan(
        key, logdensity_fn, positions, num_steps, METRICS[:2], metric, mesh, axis_name,
        (target_acceptance, initial_step_size, learning_rate), (jitter_amount, max_leapfrog_steps),
    )  # fmt: skip
    return _finished(*chees_program(plan)(*given))


def meads_warmup(
    key: PRNGKey,
    logdensity_fn: LogDensityFn,
    positions: Any,
    num_steps: int,
    *,
    num_folds: int = 4,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Warmup:
    r"""Find all parameters of generalized HMC: BlackJAX's `meads_adaptation`.

    Step size, scale and damping of one fold of the chains follow from the spread of positions and
    gradients in another, so nothing is climbed and no acceptance is aimed at.

    Args:
        key: one key for all chains.
        logdensity_fn: log density of one position.
        positions: pytree with leaves `(C, ...)`, which must differ; chains change places as it
            runs.
        num_steps: steps, at least 20, one gradient each.
        num_folds: groups of chains, a number that divides `C`.
        mesh: as for `pooled_warmup`.
        axis_name: as for `pooled_warmup`.

    Returns:
        States and `GHMCParams` for `ghmc_kernel(logdensity_fn)`, and the trace.

    Raises:
        ValueError: `num_steps < 20`; `num_folds` that do not divide `C`, or leave a fold of less
            than two; parameters that are not finite, such as from a chain outside the support.

    Example:
        >>> import jax.numpy as jnp
        >>> starts = jax.random.normal(jax.random.key(0), (64, 3))
        >>> warmup = meads_warmup(jax.random.key(1), lambda x: -0.5 * jnp.sum(x**2), starts, 100)
        >>> print(bool(warmup.params.step_size > 0.1), warmup.states.momentum.shape)
        True (64, 3)

    References:
        Hoffman, Sountsov 2022.
    """
    checks.at_least("num_folds", num_folds, 1)
    plan, given = _plan(
        key, logdensity_fn, positions, num_steps, METRICS, "diag", mesh, axis_name, (), (num_folds,)
    )
    if plan.num_chains % num_folds or plan.num_chains < 2 * num_folds:
        raise ValueError(
            f"{plan.num_chains} chains do not make num_folds={num_folds} groups of two or more"
        )
    return _finished(*meads_program(plan)(*given))


def _plan(
    key: PRNGKey,
    subject: Any,
    positions: Any,
    num_steps: int,
    metrics: tuple[str, ...],
    metric: str,
    mesh: Mesh | None,
    axis_name: str | None,
    numbers: tuple[ArrayLike, ...],
    options: tuple | None = None,
) -> tuple[Plan, tuple[Any, ...]]:
    """Check what was given, and put key, positions and numbers on their devices, in one go.

    `numbers` begin with target acceptance and step size, if any. Kernels have no `options`.
    """
    if options is None and not isinstance(subject, Kernel):
        raise TypeError(f"kernel must be a Kernel, got {type(subject).__name__}")
    checks.at_least("num_steps", num_steps, 20)
    checks.one_of("metric", metric, metrics)
    if numbers:
        target_acceptance, initial_step_size, *_ = numbers
        checks.positive("initial_step_size", initial_step_size)
        if not 0.0 < float(target_acceptance) < 1.0:
            raise ValueError(f"target_acceptance must lie between 0 and 1, got {target_acceptance}")
    num_chains = count_chains("positions", positions)
    positions = widened(positions)
    for path, leaf in jax.tree_util.tree_leaves_with_path(positions):
        checks.floating(f"positions{jax.tree_util.keystr(path)}", leaf)
    mesh, spec = layout(positions, mesh, axis_name, num_chains, None)
    dtype = jax.tree.leaves(positions)[0].dtype
    given = as_key(key), positions, *(np.asarray(value, dtype) for value in numbers)
    given = place(given, mesh, (P(), spec, *(P() for _ in numbers)))
    return Plan(subject, num_steps, metric, mesh, spec, num_chains, options or ()), given


def _finished(states: Any, params: Any, trace: tuple[Array, ...]) -> Warmup:
    """Demand a result that can be sampled with."""
    trace = WarmupTrace(*trace)
    if on_host(trace.is_nonfinite).all():
        raise ValueError("positions: the log density or its gradient is finite in no chain")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        fine = np.isfinite(on_host(leaf))
        if not fine.all():
            raise ValueError(
                f"the warm-up found no finite params{jax.tree_util.keystr(path)}: "
                f"{fine.size - fine.sum()} of its {fine.size} numbers are not; chains that are "
                f"not finite: {np.flatnonzero(on_host(trace.is_nonfinite)).tolist()[:10]}"
            )
    return Warmup(states, params, trace)
