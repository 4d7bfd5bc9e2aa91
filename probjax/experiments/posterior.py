"""Sample a posterior with many chains, and say whether the draws can be trusted.

Starts scattered chains, tunes the sampler for all of them together, runs them over the devices,
and writes a report: verdict with reasons, a table of the parameters, divergences, cost, and plots.
"""

import dataclasses
import json
import time
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from probjax import mcmc, sharding
from probjax.core import stream
from probjax.experiments import posterior_problems, posterior_quality, posterior_report
from probjax.experiments.posterior_samplers import SAMPLERS, Sampler, Size, warm_up
from probjax.experiments.runs import (
    Context,
    Log,
    UserError,
    check_divides,
    environment,
    sha256,
    write_json,
    write_text,
)
from probjax.sharding import checkpoints


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    target: str = "eight_schools"
    """What to sample: eight_schools, eight_schools_centered, breast_cancer, banana, funnel,
    ill_conditioned, ill_conditioned_rotated, lotka_volterra, gp_regr, or the path of a posteriordb
    file that ends in .json."""
    sampler: Literal["nuts", "hmc", "mala", "chees"] = "nuts"
    """How to sample it."""
    seed: int = 0
    """Seed of every random stream."""
    start: Literal["scattered", "pathfinder"] = "scattered"
    """Where chains begin: far apart; or, drawn from what Pathfinder finds from there, near the mass
    of the target, out of regions that hold next to nothing of it."""
    num_chains: int | None = None
    """Chains, a multiple of the devices; what suits the sampler when None, as below."""
    num_warmup: int | None = None
    """Steps of warm-up, at least 20."""
    num_steps: int | None = None
    """Steps after it."""
    thin: int | None = None
    """Every so many of them are kept."""
    target_acceptance: float | None = None
    """Acceptance that the step size is tuned to."""
    metric: Literal["none", "diag", "dense"] = "diag"
    """What the warm-up learns of the covariance."""
    num_leapfrog: int = 10
    """Leapfrog steps of the sampler hmc; the others find their own."""
    precision: Literal["float32", "float64"] = "float64"
    """In which everything is computed; float32 is for accelerators and well-scaled densities."""
    tile: int | None = None
    """Chains in a block. Set it for equal bits of the sampling on any number of devices."""
    num_chunks: int = 10
    """Parts of the run, with progress and a checkpoint after each."""


def size_of(config: Config) -> Size:
    """Fill in what the config leaves to the sampler.

    Args:
        config: the run's config.

    Returns:
        Chains, steps and thinning.

    Example:
        >>> size_of(Config(sampler="chees", num_steps=300))[:4]
        (64, 500, 300, 1)
    """
    given = {name: getattr(config, name) for name in Size._fields}
    known = {name: value for name, value in given.items() if value is not None}
    return SAMPLERS[config.sampler].size._replace(**known)


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices it is to run on.

    Raises:
        UserError: a field is out of range, the chains do not divide among the devices, or the
            target cannot be loaded; the message names the field.

    Example:
        >>> check(Config(num_chains=9), sharding.make_mesh(2))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.num_chains=9 must be a multiple of 2 (2 dev...
    """
    sampler, size = SAMPLERS[config.sampler], size_of(config)
    lowest = {"num_chains": 1, "num_warmup": 20, "num_steps": 1, "thin": 1}
    for field, least in lowest.items():
        if getattr(size, field) < least:
            raise UserError(f"config.{field} must be at least {least}, got {getattr(size, field)}")
    for field in ("num_leapfrog", "num_chunks"):
        if getattr(config, field) is not None and getattr(config, field) < 1:
            raise UserError(f"config.{field} must be at least 1, got {getattr(config, field)}")
    if not 0 < size.target_acceptance < 1:
        raise UserError(
            f"config.target_acceptance must lie between 0 and 1, got {size.target_acceptance}"
        )
    if size.num_steps // size.thin < 4:
        raise UserError(
            f"config.num_steps={size.num_steps} with config.thin={size.thin} keeps "
            f"{size.num_steps // size.thin} draws of a chain; at least 4 are needed"
        )
    if config.metric not in sampler.metrics:
        raise UserError(
            f"config.metric={config.metric} is nothing that {config.sampler} can learn; "
            f"there are: {', '.join(sampler.metrics)}"
        )
    check_divides("num_chains", size.num_chains, mesh, config.tile)
    posterior_problems.load(config.target)


def run(config: Config, context: Context) -> str:
    """Warm up, sample or go on sampling, judge, and write the report.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress.

    Returns:
        `finished`, or the reason why sampling stopped before its end.
    """
    with jax.enable_x64(config.precision == "float64"):
        return _run(config, context, posterior_problems.load(config.target))


def _run(config: Config, context: Context, problem: posterior_problems.Problem) -> str:
    sampler, size, posterior = SAMPLERS[config.sampler], size_of(config), problem.posterior
    kernel = sampler.kernel(posterior.logdensity_fn, config.num_leapfrog)
    kernel = kernel._replace(vma_clean=kernel.vma_clean and problem.vma_clean)
    sampled = _sample(config, context, sampler, size, kernel, posterior)
    ended, warmup, log, reason = sampled
    if reason != "finished":
        return reason
    context.say("judging")
    constrain = jax.jit(jax.vmap(jax.vmap(posterior.constrain)))
    draws = np.asarray(constrain(ended.trace.position))
    info, counts = ended.trace.info, ended.reduced[0]
    truth = problem.truth
    gate = posterior_quality.verdict(draws, info, truth)
    first = [record["first"] for record in log.records]
    steady = [r["chunk_seconds"] / r["chunk_steps"] for r in log.records if not r["first"]]
    steady = steady or [r["chunk_seconds"] / r["chunk_steps"] for r in log.records]
    seconds = {
        "warmup": warmup["seconds"],
        "sampling": log.records[-1]["seconds"],
        "steady": float(np.median(steady)) * size.num_steps,
    }
    gradients = {"warmup": warmup["num_grad_evals"], "sampling": float(counts.num_grad_evals)}
    record = {
        "experiment": "posterior",
        "config": dataclasses.asdict(config),
        "posterior": posterior.name,
        "about": problem.about,
        "truth_from": problem.truth_from,
        "size": size._asdict(),
        "gate": gate,
        "parameters": posterior_quality.table(posterior.names, draws, truth),
        "counts": {
            name: value if np.isfinite(value) else None
            for name, value in zip(counts._fields, map(float, counts), strict=True)
        },
        "warmup": warmup,
        "cost": posterior_quality.cost(gate, gradients=gradients, seconds=seconds),
        "chunks": len(first),
        "sha256": {"draws": sha256(draws)},
        "environment": environment(context.mesh),
    }
    np.savez_compressed(
        context.folder / "samples.npz", draws=draws, position=ended.trace.position,
        **info._asdict(),
    )  # fmt: skip
    write_json(context.folder / "metrics.json", record)
    write_text(context.folder / "report.html", posterior_report.render(record, draws, info))
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"][:3]))
    return "finished"


def _sample(
    config: Config,
    context: Context,
    sampler: Sampler,
    size: Size,
    kernel: mcmc.Kernel,
    posterior: Any,
) -> tuple[mcmc.Run | None, dict[str, Any], Log, str]:
    """Make the run, from its last checkpoint where there is one."""
    key, mesh, folder = jax.random.key(config.seed), context.mesh, context.folder
    exact, saved = dataclasses.asdict(config), folder / "checkpoints" / "chains"
    positions = posterior.initial(stream(key, "data"), size.num_chains)
    reducers = (mcmc.counts(),)

    def go(states: Any, num_steps: int, params: Any, **options: Any) -> mcmc.Run:
        return mcmc.run_chains(
            stream(key, "sample"), kernel, states, num_steps, params=params, mesh=mesh,
            reducers=reducers, trace_fn=mcmc.trace_all, thin=size.thin, tile=config.tile, **options,
        )  # fmt: skip

    if checkpoints.steps(saved):
        params = sharding.place(sampler.params(positions[0], config.metric == "dense"), mesh, P())
        params, _ = checkpoints.restore(folder / "checkpoints" / "params", params, config=exact)
        warmup = json.loads((folder / "warmup.json").read_text())
        states = mcmc.init_chains(kernel, positions, params=params, mesh=mesh)
        start = mcmc.restore_run(saved, go(states, 0, params), config=exact)
        context.say(f"resumed from step {start.step} of {size.num_steps}")
    else:
        begun, told = time.monotonic(), {}
        if config.start == "pathfinder":
            context.say(f"looking for starts along {size.num_chains} paths")
            starts = mcmc.pathfinder_starts(stream(key, "init"), posterior.logdensity_fn, positions)
            positions = starts.positions
            told = {"paths": len(set(starts.path.tolist())), "pareto_k": float(starts.pareto_k)}
            context.say(f"starts from {told['paths']} paths, pareto k {told['pareto_k']:.2f}")
        context.say(f"warming up {size.num_chains} chains for {size.num_warmup} steps")
        states, params, trace = jax.block_until_ready(
            warm_up(
                config.sampler, stream(key, "proposal"), kernel, posterior.logdensity_fn, positions,
                size.num_warmup, target_acceptance=size.target_acceptance, metric=config.metric,
                mesh=mesh,
            )
        )  # fmt: skip
        warmup = {
            "seconds": time.monotonic() - begun,
            "num_grad_evals": float(np.nansum(trace.num_grad_evals)),
            "step_size": float(params.step_size),
            "broken_chains": np.flatnonzero(trace.is_nonfinite).tolist(),
            "starts": told,
        }
        start = go(states, 0, params)
        write_json(folder / "warmup.json", warmup)
        checkpoints.save(folder / "checkpoints" / "params", 0, params, config=exact)
        mcmc.save_run(saved, start, config=exact)
    log = Log(folder, before=start.step)
    chunk_size = -(-size.num_steps // config.num_chunks)
    show = context.progress("sampling", show=("acceptance", "divergent"))
    before = log.records[-1]["seconds"] if log.records else 0.0
    begun = last = time.monotonic()
    at = start.step

    def on_chunk(now: mcmc.Run) -> None:
        nonlocal at, last
        jax.block_until_ready(now.states)
        clock, counts = time.monotonic(), now.reduced[0]
        log.append(
            {
                "step": now.step,
                "acceptance": float(counts.acceptance_rate),
                "divergent": float(counts.divergent),
                "chunk_steps": now.step - at,
                "chunk_seconds": clock - last,
                "first": at == start.step,
                "seconds": before + clock - begun,
            }
        )
        metrics = {"acceptance": counts.acceptance_rate, "divergent": counts.divergent}
        metrics = {name: np.asarray(value) for name, value in metrics.items()}
        ending = now.step >= size.num_steps
        show(sharding.Chunk(None, at, now.step, size.num_steps, metrics, clock - begun, ending))
        mcmc.save_run(saved, now, config=exact)
        at, last = now.step, time.monotonic()

    ended = go(
        start.states, size.num_steps, params, start=start, chunk_size=chunk_size,
        on_chunk=on_chunk, deadline=context.deadline,
    )  # fmt: skip
    if ended.step < size.num_steps:
        late = context.deadline is not None and time.monotonic() - begun >= context.deadline
        return None, warmup, log, "deadline" if late else "signal"
    return ended, warmup, log, "finished"
