"""Learn to draw handwritten digits, and compare the samplers of one model.

Trains one class-conditional EDM-preconditioned denoiser on scikit-learn's 8x8 digits by multi-noise
denoising score matching. Draws samples with every sampler of the library and measures each against
held-out digits, beside a Gaussian and beside real digits; draws digits of a wanted class by
guidance, fills in missing halves, and tells how many bits a held-out digit costs.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from probjax import datasets, sharding
from probjax.core import item_key, item_keys, stream
from probjax.experiments import (
    digits_conditional,
    digits_likelihood,
    digits_quality,
    digits_report,
    digits_samplers,
    training,
)
from probjax.experiments.digits_conditional import GuidanceConfig, InpaintingConfig
from probjax.experiments.digits_likelihood import LikelihoodConfig
from probjax.experiments.digits_model import (
    NUM_CLASSES,
    NetworkConfig,
    TrainingConfig,
    denoiser,
    draw_classes,
    make_network,
    make_objective,
    measure_scaling,
)
from probjax.experiments.digits_samplers import NAMES, SamplingConfig
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
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    inpainting: InpaintingConfig = dataclasses.field(default_factory=InpaintingConfig)
    likelihood: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)


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
    rows = _Rows(config, context, key, state.average, measure_scaling(train))
    draws = _draw(config, rows, train)
    guided = _guide(config, rows, train)
    completed = _inpaint(config, rows, train, test)
    log_prob = _log_prob(config, rows, train, test)
    context.say("measuring")
    found = digits_quality.measure(draws, train, test, seed=config.seed)
    if guided is not None:
        found["guidance"] = digits_conditional.measure_guidance(
            guided, config.guidance, train, test
        )
    found["inpainting"] = digits_conditional.measure_inpainting(
        *completed, rows.scaling, config.inpainting, train, test
    )
    found["likelihood"] = digits_likelihood.measure(
        *log_prob, config.likelihood, rows.scaling, train
    )
    found["gate"] = digits_quality.verdict(found)
    images = {name: one.images for name, one in draws.items()}
    sheets = {"completed": np.asarray(rows.scaling.images(jnp.asarray(completed[0]), train.levels))}
    if guided is not None:
        sheets["guided"] = guided
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
            "guided": sha256(guided),
            "completed": sha256(completed[0]),
            "log_prob": sha256(log_prob[0]),
        },
        "environment": environment(context.mesh),
    }
    np.savez_compressed(context.folder / "samples.npz", **images, **sheets)
    write_json(context.folder / "metrics.json", record)
    images["held-out digits"] = np.asarray(test.images)
    page = digits_report.render(record, log.records, images, sheets)
    write_text(context.folder / "report.html", page)
    gate = found["gate"]
    context.say(f"gate: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"][:3]))
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
    for part, zero in {
        "training": ("warmup_steps", "label_dropout"),
        "sampling": ("churn",),
        "inpainting": ("num_correctors",),
        "guidance": (),
        "likelihood": (),
    }.items():
        for field, value in dataclasses.asdict(getattr(config, part)).items():
            if field == "log_noise_mean" or (value == 0 and field in zero):
                continue
            if isinstance(value, int | float) and value <= 0:
                raise UserError(f"config.{part}.{field} must be positive, got {value}")
    if config.training.label_dropout >= 1:
        raise UserError(
            f"config.training.label_dropout must be below 1, got {config.training.label_dropout}"
        )
    try:
        digits_samplers.chosen(config.sampling)
    except ValueError as error:
        raise UserError(f"config.sampling.{error}") from error
    for part in ("inpainting", "likelihood"):
        value = getattr(config, part).num_digits
        if value > 500:
            raise UserError(
                f"config.{part}.num_digits must be at most the 500 held out, got {value}"
            )
    if not 2 <= config.likelihood.num_exact <= config.likelihood.num_digits:
        raise UserError(
            "config.likelihood.num_exact must be between 2 and num_digits="
            f"{config.likelihood.num_digits}, got {config.likelihood.num_exact}"
        )
    if not config.guidance.weights or min(config.guidance.weights) < 0:
        raise UserError(f"config.guidance.weights must be positive, got {config.guidance.weights}")
    check_divides("training.batch_size", config.training.batch_size, mesh, config.tile)
    for field in ("min_noise_scale", "few_min_noise_scale", "langevin_min_noise_scale"):
        if getattr(config.sampling, field) >= config.sampling.max_noise_scale:
            raise UserError(
                f"config.sampling.{field}={getattr(config.sampling, field)} must be below "
                f"max_noise_scale={config.sampling.max_noise_scale}"
            )


def _train(config, context, key, train, test):
    """Fit the denoiser; also tell the loss on the held-out digits along the way."""
    options = config.training
    decides = dataclasses.asdict(config)
    decides = {name: decides[name] for name in ("seed", "tile", "network", "training")}
    objective = make_objective(key, options, make_network(config.network), train)
    fixed = jax.random.key(0)

    def held_out(params):
        """Loss without a class, on the same noise each time."""
        label = jnp.full_like(test.labels, NUM_CLASSES)
        rows = objective.batch_fn(fixed, (test.images, label))
        keys = item_keys(stream(fixed, "noise"), len(test.images))
        return jnp.mean(objective.loss_fn(params, keys, rows))

    step = training.make_step(
        objective.loss_fn, objective.batch_fn, objective.optimizer, context.mesh,
        batch_size=options.batch_size, ema_decay=options.ema_decay, tile=config.tile,
    )  # fmt: skip
    return training.fit(
        step,
        training.init_state(objective.params, objective.optimizer),
        options.num_steps,
        args=(key, (train.images, train.labels)),
        context=context,
        config=decides,
        held_out=held_out,
        chunk_size=options.chunk_size,
        checkpoint_every=options.checkpoint_every,
        same_bits=config.tile is not None,
    )


class _Rows:
    """Runs functions of rows in chunks over the mesh: progress shows and memory stays bounded."""

    def __init__(self, config, context, key, params, scaling):
        self.config, self.context, self.key, self.params = config, context, key, params
        self.scaling = scaling
        self.net = make_network(config.network)

    def apply(self, params, label=None):
        """Parameters, and classes or none, to denoiser."""
        return denoiser(self.net, params, label)

    def keys(self, items):
        """A key for each item, of the stream of samples."""
        return jax.vmap(lambda i: item_key(stream(self.key, "sample"), i))(jnp.asarray(items))

    def run(self, name, fn, items, *arrays, check_vma=True):
        """Give `fn(params, key, *arrays)` over all items, the seconds, and items per second."""
        options, number = self.config.sampling, len(items)
        mapped = sharding.map_rows(
            fn,
            self.context.mesh,
            tile=self.config.tile,
            in_axes=(None, *(0 for _ in range(1 + len(arrays)))),
            check_vma=check_vma,
        )
        report = self.context.progress(name, unit="samples")
        parts, times, begun = [], [], time.monotonic()
        for start in range(0, number, options.chunk_size):
            stop = min(start + options.chunk_size, number)
            before = time.monotonic()
            rows = (array[start:stop] for array in arrays)
            out = jax.block_until_ready(mapped(self.params, self.keys(items[start:stop]), *rows))
            times.append((time.monotonic() - before) / (stop - start))
            parts.append(jax.tree.map(np.asarray, out))
            seconds = time.monotonic() - begun
            report(sharding.Chunk(None, start, stop, number, {}, seconds, stop == number))
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return whole, time.monotonic() - begun, 1 / float(np.median(times[1:] or times))


def _draw(config, rows, train):
    """Draw with each sampler: of a random class each, and once more with no class told."""
    options, conditional = config.sampling, config.network.conditional
    plans = [("", options, conditional)]
    if conditional:
        plans.append((", no class", dataclasses.replace(options, samplers=("heun",)), False))
    items, draws = np.arange(options.num_samples), {}
    for suffix, some, told in plans:

        def apply(params, key, told=told):
            return rows.apply(params, draw_classes(key) if told else None)

        for name, sampler in digits_samplers.samplers(some, apply).items():
            label = NAMES[name] + suffix
            (x, calls), seconds, rate = rows.run(
                label, sampler.draw, items, check_vma=sampler.check_vma
            )
            images = rows.scaling.images(jnp.asarray(x), train.levels)
            draws[label] = digits_quality.Draws(
                np.asarray(images), float(np.mean(calls)), seconds, rate
            )
    return draws


def _guide(config, rows, train):
    """Draw each class at each weight."""
    if not config.network.conditional:
        return None
    label, weight, items = digits_conditional.guidance_plan(config.guidance)
    draw = digits_conditional.guided_draw(rows.apply, config.sampling)
    x, _, _ = rows.run("guidance", draw, items, label, weight)
    return np.asarray(rows.scaling.images(jnp.asarray(x), train.levels))


def _inpaint(config, rows, train, test):
    """Complete left halves of held-out digits, some times each, told the class they suggest."""
    options = config.inpainting
    observed = jnp.repeat(
        _dequantised(rows, test)[: options.num_digits], options.num_completions, axis=0
    )
    draw = digits_conditional.inpainting_draw(rows.apply, options, config.sampling)
    told = ()
    if config.network.conditional:
        told = (digits_conditional.guess_classes(observed, rows.scaling, train),)
    x, _, _ = rows.run("inpainting", draw, np.arange(len(observed)), observed, *told)
    return x, np.asarray(observed)


def _log_prob(config, rows, train, test):
    """Log densities of held-out and of training digits."""
    options = config.likelihood
    some = {
        "held-out": _dequantised(rows, test)[: options.num_digits],
        "training": _dequantised(rows, train)[: options.num_digits],
    }
    plans = {
        "held-out, exact": (some["held-out"][: options.num_exact], True),
        "held-out": (some["held-out"], False),
        "training": (some["training"], False),
    }
    highest = config.sampling.max_noise_scale
    fns = {
        exact: digits_likelihood.log_prob_fn(
            rows.apply, options, noise_scale_max=highest, exact=exact
        )
        for exact in (True, False)
    }
    found = {
        name: rows.run(f"likelihood, {name}", fns[exact], np.arange(len(x)), x)[0]
        for name, (x, exact) in plans.items()
    }
    return found, {name: np.asarray(x) for name, x in some.items()}


def _dequantised(rows, images):
    """Dequantised, scaled rows; always the same draws."""
    spread = datasets.dequantise(jax.random.key(1), images.images, images.levels)
    return rows.scaling.rows(spread)
