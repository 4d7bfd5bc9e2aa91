"""Learn to draw handwritten digits, and compare five samplers of one model.

Trains an EDM-preconditioned denoiser on scikit-learn's 8x8 digits by multi-noise denoising score
matching, draws samples with annealed Langevin dynamics, DDIM, Heun's method, the probability-flow
ODE and ancestral sampling, and measures each against held-out digits, beside a Gaussian and beside
real digits.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from probjax import datasets, sharding
from probjax.core import item_keys, stream
from probjax.experiments import digits_quality, digits_report, training
from probjax.experiments.digits_model import (
    NetworkConfig,
    SamplingConfig,
    TrainingConfig,
    denoiser,
    make_network,
    make_objective,
    measure_scaling,
    samplers,
)
from probjax.experiments.runs import (
    Context,
    UserError,
    check_divides,
    environment,
    sha256,
    write_json,
    write_text,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    seed: int = 0
    """Seed of every random stream."""
    tile: int | None = None
    """Rows and samples in a tile. Set it for equal bits on any number of devices."""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)


def run(config: Config, context: Context) -> str:
    """Train or go on training, draw, measure, and write the report.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress.

    Returns:
        `finished`, or the reason why training stopped before its end.
    """
    key = jax.random.key(config.seed)
    train, test = datasets.load_digits(split="train"), datasets.load_digits(split="test")
    state, log, reason = _train(config, context, key, train, test)
    if reason != "finished":
        return reason
    draws = _draw(config, context, key, state.average, train)
    context.say("measuring")
    found = digits_quality.measure(draws, train, test, seed=config.seed)
    images = {name: one.images for name, one in draws.items()}
    record = {
        "experiment": "digits",
        "config": dataclasses.asdict(config),
        **found,
        "training": {
            "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            **log.records[-1],
        },
        "sha256": {
            "parameters": sha256(state.average),
            "samples": sha256(images),
        },
        "environment": environment(context.mesh),
    }
    np.savez_compressed(context.folder / "samples.npz", **images)
    write_json(context.folder / "metrics.json", record)
    images["held-out digits"] = np.asarray(test.images)
    write_text(context.folder / "report.html", digits_report.render(record, log.records, images))
    return "finished"


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices it is to run on.

    Raises:
        UserError: a field is out of range, or the batch does not divide among the devices; the
            message names the field.

    Example:
        >>> check(Config(tile=0), sharding.make_mesh(1))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.tile must be at least 1, got 0
    """
    for field, value in dataclasses.asdict(config.training).items():
        if isinstance(value, int) and value < (0 if field == "warmup_steps" else 1):
            raise UserError(f"config.training.{field} must be positive, got {value}")
    for field, value in dataclasses.asdict(config.sampling).items():
        if value <= 0:
            raise UserError(f"config.sampling.{field} must be positive, got {value}")
    check_divides("training.batch_size", config.training.batch_size, mesh, config.tile)
    for field in ("min_noise_scale", "langevin_min_noise_scale"):
        if getattr(config.sampling, field) >= config.sampling.max_noise_scale:
            raise UserError(
                f"config.sampling.{field}={getattr(config.sampling, field)} must be below "
                f"max_noise_scale={config.sampling.max_noise_scale}"
            )


def _train(config, context, key, train, test):
    """Fit the denoiser; also tell the loss on the held-out digits along the way."""
    options = config.training
    objective = make_objective(key, options, make_network(config.network), train)
    fixed = jax.random.key(0)

    def held_out(params):
        rows = objective.batch_fn(fixed, test.images)
        keys = item_keys(stream(fixed, "noise"), rows.shape[0])
        return jnp.mean(objective.loss_fn(params, keys, rows))

    step = training.make_step(
        objective.loss_fn, objective.batch_fn, objective.optimizer, context.mesh,
        batch_size=options.batch_size, ema_decay=options.ema_decay, tile=config.tile,
    )  # fmt: skip
    return training.fit(
        step,
        training.init_state(objective.params, objective.optimizer),
        options.num_steps,
        args=(key, train.images),
        context=context,
        config=dataclasses.asdict(config),
        held_out=held_out,
        chunk_size=options.chunk_size,
        checkpoint_every=options.checkpoint_every,
        same_bits=config.tile is not None,
    )


def _draw(config, context, key, params, train):
    """Draw in chunks, so that progress shows and memory stays bounded."""
    options, scaling = config.sampling, measure_scaling(train)
    apply = functools.partial(denoiser, make_network(config.network))
    draws = {}
    for name, (draw, check_vma) in samplers(options, apply).items():
        mapped = sharding.map_rows(
            draw, context.mesh, tile=config.tile, in_axes=(None, 0), check_vma=check_vma
        )
        report = context.progress(name, unit="samples")
        rows, calls, times = [], [], []
        begun = time.monotonic()
        for start in range(0, options.num_samples, options.chunk_size):
            stop = min(start + options.chunk_size, options.num_samples)
            before = time.monotonic()
            keys = item_keys(stream(key, "sample"), stop - start, start=start)
            x, evaluations = jax.block_until_ready(mapped(params, keys))
            times.append((time.monotonic() - before) / (stop - start))
            rows.append(np.asarray(x))
            calls.append(np.asarray(evaluations))
            seconds, ending = time.monotonic() - begun, stop == options.num_samples
            report(sharding.Chunk(None, start, stop, options.num_samples, {}, seconds, ending))
        images = scaling.images(jnp.asarray(np.concatenate(rows)), train.levels)
        draws[name] = digits_quality.Draws(
            np.asarray(images),
            float(np.mean(np.concatenate(calls))),
            time.monotonic() - begun,
            1 / float(np.median(times[1:] or times)),
        )
    return draws
