"""What the warm-ups compile: one program each, which ends in BlackJAX's adaptation.

All that is static is in a `Plan`; keys, positions and targets are data, so that another warm-up of
the same kernel and shapes compiles nothing:

>>> from probjax import mcmc, sharding
>>> from jax.sharding import PartitionSpec as P
>>> from probjax.mcmc import warmup_programs
>>> kernel = mcmc.hmc_kernel(lambda x: -0.5 * (x**2).sum(), 3)
>>> plan = warmup_programs.Plan(kernel, 50, "diag", sharding.make_mesh(1), P("items"), 4)
>>> warmup_programs.pooled_program(plan) is warmup_programs.pooled_program(plan)
True
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import optax
from blackjax.adaptation.window_adaptation import build_schedule
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from probjax.core import checks
from probjax.core.keys import item_keys, step_key, stream
from probjax.core.trees import all_finite
from probjax.mcmc.adaptation import mean_acceptance, pooled_adaptation
from probjax.mcmc.ensemble_kernels import DynamicHMCParams, GHMCParams
from probjax.mcmc.kernels import HMCParams, info_view


class Plan(NamedTuple):
    """All that is static in a warm-up program."""

    subject: Any
    """The kernel, or the log density."""
    num_steps: int
    """Steps."""
    metric: str
    """Name of the metric."""
    mesh: Mesh
    """The devices."""
    spec: P
    """How a leading chain axis lies on them."""
    num_chains: int
    """`C`."""
    options: tuple = ()
    """What else a program needs to know."""


@functools.lru_cache(maxsize=64)
def pooled_program(plan: Plan) -> Callable[..., Any]:
    """Give the one program of `pooled_warmup`.

    Args:
        plan: what is static.

    Returns:
        `program(key, positions, target_acceptance, step_size)` to states, parameters and the
        fields of the trace, the same object for an equal plan.
    """
    kernel, axes = plan.subject, plan.spec[0]

    def block(keys, positions, target, step_size):
        init, update, final = pooled_adaptation(target, metric=plan.metric, axis_name=axes)

        def body(carry, now):
            states, adapted = carry
            t, is_slow, is_window_end = now
            params = HMCParams(adapted.step_size, adapted.metric)

            def chain(key, state):
                with checks.only_concrete():
                    return kernel.step(step_key(key, t), state, params)

            states, info = jax.vmap(chain)(keys, states)
            view, fine, flat = info_view(info), jax.vmap(all_finite)(states), _flat(states.position)
            new = update(adapted, flat, fine, view.acceptance_rate, is_slow, is_window_end)
            spent = jax.lax.psum(jnp.sum(view.num_grad_evals), axes)
            return (states, new), (adapted.step_size, new.acceptance_rate, spent)

        adapted = init(_flat(positions), step_size)
        params = HMCParams(adapted.step_size, adapted.metric)
        states = jax.vmap(lambda position: kernel.init(position, params))(positions)
        # BlackJAX makes its table of whole numbers and flags: not under strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            labels, ends = build_schedule(plan.num_steps).T
        steps = jnp.arange(plan.num_steps, dtype=jnp.int32), labels == 1, ends == 1
        (states, adapted), kept = jax.lax.scan(body, (states, adapted), steps)
        return states, final(adapted), (*kept, _lost(states))

    return _spread(plan, block, shared=True, check_vma=kernel.vma_clean)


@functools.lru_cache(maxsize=64)
def window_program(plan: Plan) -> Callable[..., Any]:
    """Give the one program of `window_warmup`.

    Args:
        plan: what is static.

    Returns:
        As `pooled_program`, with a chain axis on parameters and trace.
    """
    kernel = plan.subject

    class Algorithm:
        """The kernel as BlackJAX's adaptation wants it."""

        @staticmethod
        def init(position, logdensity_fn):
            return kernel.init(position, None)

        @staticmethod
        def build_kernel():
            def step(key, state, logdensity_fn, step_size, inverse_mass_matrix):
                dtype = state.logdensity.dtype
                params = step_size.astype(dtype), inverse_mass_matrix.astype(dtype)
                return kernel.step(key, state, HMCParams(*params))

            return step

    def keep(state, info, adapted):
        view = info_view(info)
        return adapted.step_size, view.acceptance_rate, view.num_grad_evals

    def chain(key, position, target, step_size):
        target, step_size = _wide((target, step_size))
        adaptation = blackjax.window_adaptation(
            Algorithm,
            None,
            is_mass_matrix_diagonal=plan.metric == "diag",
            initial_step_size=step_size,
            target_acceptance_rate=target,
            adaptation_info_fn=keep,
        )
        # BlackJAX counts steps in whole numbers and divides by them: not under strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            (state, found), kept = adaptation.run(key, _wide(position), plan.num_steps)
        sizes = jnp.concatenate([step_size[None], kept[0][:-1]])
        params = HMCParams(found["step_size"], found["inverse_mass_matrix"])
        trace = sizes, *kept[1:], ~all_finite(state)
        return _cast((state, params, trace), _dtype(position))

    block = jax.vmap(chain, in_axes=(0, 0, None, None))
    return _spread(plan, block, shared=False, check_vma=False)


@functools.lru_cache(maxsize=64)
def chees_program(plan: Plan) -> Callable[..., Any]:
    """Give the one program of `chees_warmup`.

    Args:
        plan: what is static; `options` are `jitter_amount` and `max_leapfrog_steps`.

    Returns:
        `program(key, positions, target_acceptance, step_size, learning_rate)`, as `pooled_program`.
    """
    jitter_amount, max_leapfrog_steps = plan.options

    def keep(states, info, adapted):
        return _Step(adapted.step_size, *_totals(info), adapted.trajectory_length)

    def run(key, positions, target, step_size, learning_rate):
        target, step_size, learning_rate = _wide((target, step_size, learning_rate))
        # BlackJAX's criterion wants one axis for a position.
        _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], _wide(positions)))
        adaptation = blackjax.chees_adaptation(
            lambda flat: plan.subject(unravel(flat)),
            plan.num_chains,
            jitter_amount=jitter_amount,
            target_acceptance_rate=target,
            max_leapfrog_steps=max_leapfrog_steps,
            mass_matrix_estimation="diagonal" if plan.metric == "diag" else None,
            adaptation_info_fn=keep,
        )
        # BlackJAX multiplies whole and real numbers: not under strict promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            (states, found), kept = adaptation.run(
                stream(key, "init"), _flat(_wide(positions)), step_size,
                optax.adam(learning_rate), plan.num_steps,
            )  # fmt: skip
        # BlackJAX tells what each step found; what it used is what the step before found.
        sizes, lengths = (
            jnp.concatenate([step_size[None], each[:-1]])
            for each in (kept.step_size, kept.trajectory_length)
        )
        params = DynamicHMCParams(
            found["step_size"], found["inverse_mass_matrix"], *found["integration_steps_params"]
        )
        shaped = jax.vmap(unravel)
        states = states._replace(
            position=shaped(states.position), logdensity_grad=shaped(states.logdensity_grad)
        )
        trace = sizes, kept.rate, kept.spent, _lost(states), lengths
        return _cast((states, params, trace), _dtype(positions))

    return jax.jit(run, out_shardings=_laid_out(plan))


@functools.lru_cache(maxsize=64)
def meads_program(plan: Plan) -> Callable[..., Any]:
    """Give the one program of `meads_warmup`.

    Args:
        plan: what is static; `options` is the number of folds.

    Returns:
        `program(key, positions)`, as `pooled_program`.
    """

    def keep(states, info, adapted):
        return jnp.mean(adapted.step_size), *_totals(info)

    def run(key, positions):
        adaptation = blackjax.meads_adaptation(
            plan.subject, plan.num_chains, *plan.options, adaptation_info_fn=keep
        )
        # BlackJAX multiplies numbers by flags, rows by matrices: not under strict promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            (states, found), kept = adaptation.run(
                stream(key, "init"), _wide(positions), plan.num_steps
            )
        # A slice variable that has overflowed would stop its chain for good.
        fresh = jax.random.uniform(stream(key, "accept"), states.slice.shape, minval=-1.0)
        kept_slice = jnp.where(jnp.isfinite(states.slice), states.slice, fresh)
        states = states._replace(slice=kept_slice)
        trace = *kept, _lost(states)
        return _cast((states, GHMCParams(**found), trace), _dtype(positions))

    return jax.jit(run, out_shardings=_laid_out(plan))


class _Step(NamedTuple):
    """What is kept of a step of ChEES: BlackJAX hands it on by its fields' names only."""

    step_size: Array
    rate: Array
    spent: Array
    trajectory_length: Array


def _spread(plan: Plan, block: Callable[..., Any], *, shared: bool, check_vma: bool) -> Any:
    """Run `block` on each device's chains; their parameters are `shared` or their own."""
    own = P() if shared else plan.spec
    mapped = jax.shard_map(
        block,
        mesh=plan.mesh,
        in_specs=(plan.spec, plan.spec, P(), P()),
        out_specs=(plan.spec, own, (own, own, own, plan.spec)),
        check_vma=check_vma,
    )

    def run(key, positions, target, step_size):
        keys = item_keys(stream(key, "init"), plan.num_chains)
        return mapped(keys, positions, target, step_size)

    return jax.jit(run)


def _laid_out(plan: Plan) -> Any:
    """States as `run_chains` lays them out, parameters everywhere, the trace anywhere."""
    return NamedSharding(plan.mesh, plan.spec), NamedSharding(plan.mesh, P()), None


def _totals(info: Any) -> tuple[Array, Array]:
    """Mean acceptance and gradients of all chains at one step."""
    view = info_view(info)
    fine = jnp.isfinite(view.acceptance_rate)
    return mean_acceptance(view.acceptance_rate, fine), jnp.sum(view.num_grad_evals)


def _lost(states: Any) -> Array:
    """The chains whose state is not finite."""
    return ~jax.vmap(all_finite)(states)


def _flat(positions: Any) -> Array:
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)


def _dtype(positions: Any) -> Any:
    return jax.tree.leaves(positions)[0].dtype


def _wide(positions: Any) -> Any:
    """In JAX's default precision, in which BlackJAX's adaptation makes its zeros and ones."""
    return _cast(positions, jnp.result_type(float))


def _cast(tree: Any, dtype: Any) -> Any:
    def one(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)
