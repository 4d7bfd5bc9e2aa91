"""Learn to draw handwritten digits, and compare five samplers of one model.

Trains an EDM-preconditioned denoiser on scikit-learn's 8x8 digits by multi-noise denoising score
matching, draws samples with annealed Langevin dynamics, DDIM, Heun's method, the probability-flow
ODE and ancestral sampling, and measures each against held-out digits, beside a Gaussian and beside
real digits.
"""

import dataclasses
import functools
import hashlib
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import probjax
from probjax import datasets, diffusion, mcmc, metrics, networks, sharding
from probjax.core import item_keys, row_normal, stream
from probjax.diffusion.parameterization import Denoiser
from probjax.experiments import digits_report, training
from probjax.experiments.runs import Context, UserError, write_json, write_text

SIGMA_DATA = 0.5
"""Pooled standard deviation that the pixels are scaled to."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The denoising network."""

    width: int = 64
    """Channels of a token."""
    token_width: int = 32
    """Hidden units of the mixing across tokens."""
    channel_width: int = 128
    """Hidden units of the mixing across channels."""
    num_blocks: int = 4
    """Residual blocks."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Multi-noise denoising score matching."""

    num_steps: int = 2500
    """Optimiser steps."""
    batch_size: int = 128
    """Rows in a step."""
    learning_rate: float = 3e-3
    """Highest rate of Adam, decayed to zero by a cosine."""
    warmup_steps: int = 200
    """Steps of linear growth of the rate."""
    ema_decay: float = 0.999
    """Decay of the parameters' moving average."""
    log_noise_mean: float = -1.2
    """Mean of the log noise scale."""
    log_noise_std: float = 1.2
    """Standard deviation of the log noise scale."""
    chunk_size: int = 100
    """Steps between two looks of the host."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the five samplers are run."""

    num_samples: int = 1000
    """Samples of each."""
    chunk_size: int = 250
    """Samples drawn at once."""
    max_noise_scale: float = 20.0
    """Where the samplers start."""
    min_noise_scale: float = 0.002
    """The last noise scale before the final denoising."""
    ddim_steps: int = 80
    """Denoiser evaluations of DDIM."""
    heun_steps: int = 20
    """Levels of Heun's method; two evaluations each but the last."""
    ancestral_steps: int = 80
    """Denoiser evaluations of ancestral sampling."""
    flow_tolerance: float = 1e-3
    """Relative and absolute tolerance of the probability flow's adaptive steps."""
    langevin_levels: int = 40
    """Noise scales of annealed Langevin dynamics, geometric."""
    langevin_steps: int = 5
    """Steps at each of them."""
    langevin_min_noise_scale: float = 0.02
    """The last of them."""
    langevin_step: float = 1.0
    """Step size over the squared noise scale."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    seed: int = 0
    """Seed of every random stream."""
    tile: int | None = None
    """Rows and samples in a tile. Set it for equal bits on any number of devices."""
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()


class Scaling(NamedTuple):
    """The affine map between pixels in [0, 1] and what the network sees."""

    mean: float
    """Mean pixel of the training images."""
    scale: float
    """Factor to `SIGMA_DATA`."""

    def rows(self, pixels: Float[Array, "n height width channels"]) -> Float[Array, "n d"]:
        """Scale images to rows."""
        return ((pixels - self.mean) * self.scale).reshape(pixels.shape[0], -1)

    def images(self, rows: Float[Array, "n 64"], levels: int) -> Float[Array, "n 8 8 1"]:
        """Scale rows back to images and round them to grey levels."""
        return datasets.quantise(rows.reshape(-1, 8, 8, 1) / self.scale + self.mean, levels)


class Draws(NamedTuple):
    """The samples of one sampler, and what they cost."""

    images: np.ndarray
    """Quantised images `(n, 8, 8, 1)`."""
    num_evaluations: float
    """Mean denoiser evaluations for a sample."""
    seconds: float
    """Wall time, compilation included."""
    samples_per_second: float
    """Rate of the chunks after the first, compilation excluded."""


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
    scaling = _scaling(train)
    net = make_network(config)
    apply = functools.partial(_denoise, net)

    state, log, reason = _train(config, context, key, train, test, scaling, net)
    if reason != "finished":
        return reason

    draws = {}
    for name, (draw, check_vma) in samplers(config.sampling, apply).items():
        draws[name] = _draw(
            name, draw, check_vma, config, context, key, state.average, scaling, train
        )
    found = _measure(config, context, log, state, train, test, draws)
    np.savez_compressed(
        context.folder / "samples.npz", **{name: one.images for name, one in draws.items()}
    )
    write_json(context.folder / "metrics.json", found)
    images = {name: one.images for name, one in draws.items()}
    images["held-out digits"] = np.asarray(test.images)
    write_text(context.folder / "report.html", digits_report.render(found, log.records, images))
    return "finished"


def make_network(config: Config) -> Any:
    """Make the raw network that EDM preconditioning wraps.

    Args:
        config: the run's config.

    Returns:
        A flax module over rows `(*B, 64)`.

    Example:
        >>> type(make_network(Config())).__name__
        'DenoisingMixer'
    """
    return networks.DenoisingMixer(image_size=8, **dataclasses.asdict(config.network))


def samplers(
    config: SamplingConfig, apply: Callable[[Any], Denoiser]
) -> dict[str, tuple[Callable[..., tuple[Array, Array]], bool]]:
    """Make the five samplers, each a pure function of parameters and a key for each sample.

    All start from the same noise for the same key, so the three deterministic ones draw the same
    digit from it.

    Args:
        config: grids and steps.
        apply: parameters to denoiser.

    Returns:
        For each name, `draw(params, key) -> (x, num_evaluations)`, both over rows, and whether
        it passes `shard_map`'s VMA check (diffrax's loop does not).

    Example:
        >>> zero = lambda params: lambda x, noise_scale: 0.0 * x
        >>> sorted(samplers(SamplingConfig(), zero))
        ['DDIM', 'Heun', 'ancestral', 'annealed Langevin', 'probability flow']
    """
    high, low = config.max_noise_scale, config.min_noise_scale

    def start(key):
        return high * row_normal(stream(key, "init"), jnp.zeros((*key.shape, 64)))

    def scan(make: Callable[..., Any], num_steps: int):
        scales = diffusion.karras_noise_scales(num_steps, low, high)

        def draw(params, key):
            algorithm = make(apply(params), scales)
            out = diffusion.sample(stream(key, "noise"), algorithm, start(key), num_steps)
            return out.x, jnp.broadcast_to(out.num_evaluations, key.shape)

        return draw

    ladder = diffusion.geometric_noise_scales(
        config.langevin_levels, config.langevin_min_noise_scale, high
    )

    def langevin(params, key):
        x, info = mcmc.sample_annealed(
            stream(key, "noise"),
            diffusion.score_from_denoiser(apply(params)),
            start(key),
            ladder,
            num_steps_per_level=config.langevin_steps,
            epsilon=config.langevin_step * config.langevin_min_noise_scale**2,
        )
        return x, info.num_grad_evals

    def flow(params, key):
        solve = functools.partial(
            diffusion.sample_probability_flow,
            apply(params),
            start=high,
            stop=low,
            rtol=config.flow_tolerance,
            atol=config.flow_tolerance,
        )
        out = jax.vmap(lambda x: solve(x))(start(key))
        return out.x, out.num_evaluations

    return {
        "annealed Langevin": (langevin, True),
        "ancestral": (scan(diffusion.ancestral, config.ancestral_steps), True),
        "DDIM": (scan(diffusion.ddim, config.ddim_steps), True),
        "Heun": (scan(diffusion.heun, config.heun_steps), True),
        "probability flow": (flow, False),
    }


def _denoise(net: Any, params: Any) -> Denoiser:
    return diffusion.precondition(functools.partial(net.apply, params), SIGMA_DATA)


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
    multiple = mesh.size * (config.tile or 1)
    if config.tile is not None and config.tile < 1:
        raise UserError(f"config.tile must be at least 1, got {config.tile}")
    if config.training.batch_size % multiple:
        raise UserError(
            f"config.training.batch_size={config.training.batch_size} must be a multiple of "
            f"{multiple} ({mesh.size} devices times tile {config.tile or 1})"
        )
    for field in ("min_noise_scale", "langevin_min_noise_scale"):
        if getattr(config.sampling, field) >= config.sampling.max_noise_scale:
            raise UserError(
                f"config.sampling.{field}={getattr(config.sampling, field)} must be below "
                f"max_noise_scale={config.sampling.max_noise_scale}"
            )


def _scaling(train: datasets.Images) -> Scaling:
    spread = datasets.dequantise(jax.random.key(0), train.images, train.levels)
    return Scaling(float(jnp.mean(spread)), SIGMA_DATA / float(jnp.std(spread)))


def _train(config, context, key, train, test, scaling, net):
    """Fit the denoiser; also tell the loss on the held-out digits along the way."""
    options = config.training
    optimizer = training.adam(options.learning_rate, options.num_steps, options.warmup_steps)
    noise = functools.partial(
        diffusion.edm_loss,
        sigma_data=SIGMA_DATA,
        mean=options.log_noise_mean,
        std=options.log_noise_std,
    )

    def loss_fn(params, keys, rows):
        return noise(keys, _denoise(net, params), rows)

    def batch_fn(key, images):
        return scaling.rows(datasets.dequantise(key, images, train.levels))

    def held_out(params):
        fixed = jax.random.key(0)
        rows = batch_fn(fixed, test.images)
        return jnp.mean(loss_fn(params, item_keys(stream(fixed, "noise"), rows.shape[0]), rows))

    step = training.make_step(
        loss_fn, batch_fn, optimizer, context.mesh,
        batch_size=options.batch_size, ema_decay=options.ema_decay, tile=config.tile,
    )  # fmt: skip
    params = jax.jit(net.init)(stream(key, "init"), jnp.zeros(64), jnp.zeros(()))
    return training.fit(
        step,
        training.init_state(params, optimizer),
        options.num_steps,
        args=(key, train.images),
        context=context,
        config=dataclasses.asdict(config),
        held_out=held_out,
        chunk_size=options.chunk_size,
        checkpoint_every=options.checkpoint_every,
        same_bits=config.tile is not None,
    )


def _draw(name, draw, check_vma, config, context, key, params, scaling, train):
    """Draw in chunks, so that progress shows and memory stays bounded."""
    options = config.sampling
    mapped = sharding.map_rows(
        draw, context.mesh, tile=config.tile, in_axes=(None, 0), check_vma=check_vma
    )
    report = context.progress(name, unit="samples")
    rows, calls, times = [], [], []
    begun = time.monotonic()
    for first in range(0, options.num_samples, options.chunk_size):
        number = min(options.chunk_size, options.num_samples - first)
        before = time.monotonic()
        keys = item_keys(stream(key, "sample"), number, start=first)
        x, evaluations = jax.block_until_ready(mapped(params, keys))
        times.append((time.monotonic() - before) / number)
        rows.append(np.asarray(x))
        calls.append(np.asarray(evaluations))
        stop, seconds = first + number, time.monotonic() - begun
        report(
            sharding.Chunk(
                None, first, stop, options.num_samples, {}, seconds, stop == options.num_samples
            )
        )
    images = np.asarray(scaling.images(jnp.asarray(np.concatenate(rows)), train.levels))
    return Draws(
        images,
        float(np.mean(np.concatenate(calls))),
        time.monotonic() - begun,
        1 / float(np.median(times[1:] or times)),
    )


def _measure(config, context, log, state, train, test, draws) -> dict[str, Any]:
    """One row for each sampler, one for a Gaussian, one for real digits."""
    from sklearn.svm import SVC

    context.say("measuring")
    flat = np.asarray(train.images).reshape(len(train.images), -1)
    classify = SVC(C=10).fit(flat, train.labels)
    accuracy = classify.score(np.asarray(test.images).reshape(500, -1), test.labels)
    held_out_gaps = np.asarray(metrics.nearest_distances(test.images, train.images).distance)

    def row(name, images, **cost):
        images = jnp.asarray(images)
        separable = metrics.two_sample_accuracy(test.images, images)
        distance = metrics.kid(test.images, images)
        gaps = np.asarray(metrics.nearest_distances(images, train.images).distance)
        counts = np.bincount(
            classify.predict(np.asarray(images).reshape(len(images), -1)), minlength=10
        )
        return {
            "sampler": name,
            "two_sample_accuracy": float(separable.value),
            "two_sample_accuracy_se": float(separable.standard_error),
            "kid": float(distance.value),
            "kid_se": float(distance.standard_error),
            "class_counts": counts.tolist(),
            "nearest_median": float(np.median(gaps)),
            "nearest_below_1_percent": float(np.mean(gaps < np.quantile(held_out_gaps, 0.01))),
            "copies": int(np.sum(gaps == 0)),
            **cost,
        }

    found = [
        row(
            name, one.images, num_evaluations=one.num_evaluations, seconds=one.seconds,
            samples_per_second=one.samples_per_second,
        )
        for name, one in draws.items()
    ]  # fmt: skip
    size = config.sampling.num_samples
    generator = np.random.RandomState(config.seed)
    spread = np.asarray(datasets.dequantise(jax.random.key(0), train.images, train.levels))
    spread = spread.reshape(len(flat), -1)
    gaussian = generator.multivariate_normal(spread.mean(0), np.cov(spread.T), size)
    gaussian = datasets.quantise(jnp.asarray(gaussian, jnp.float32), train.levels)
    found.append(row("Gaussian baseline", gaussian.reshape(-1, 8, 8, 1)))
    real = row("real digits", train.images[:500])
    # Training digits are their own nearest neighbours; held-out ones tell what is usual.
    real["nearest_median"] = float(np.median(held_out_gaps))
    real["nearest_below_1_percent"], real["copies"] = 0.01, int(np.sum(held_out_gaps == 0))
    found.append(real)
    last = log.records[-1]
    return {
        "experiment": "digits",
        "config": dataclasses.asdict(config),
        "rows": found,
        "classifier_accuracy": float(accuracy),
        "training": {
            "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "seconds": last["seconds"],
            "loss": last["loss"],
            "held_out_loss": last["held_out_loss"],
        },
        "sha256": {
            "parameters": _sha256(state.average),
            "samples": _sha256({name: one.images for name, one in draws.items()}),
        },
        "environment": {
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": context.mesh.size,
            "processes": jax.process_count(),
            "jax": jax.__version__,
            "python": platform.python_version(),
            "probjax": probjax.__version__,
        },
    }


def _sha256(tree: Any) -> str:
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return total.hexdigest()
