"""Read lines of handwritten digits without being told where the digits are.

Composes lines from scikit-learn's digits, trains a small convolutional reader by connectionist
temporal classification or as a transducer, and measures it on lines of held-out digits: label
error rate, line accuracy, greedy against beam search, and where on the line it found each digit.
"""

import dataclasses
import functools
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from probjax import sharding
from probjax.datasets import Images
from probjax.datasets.digit_lines import DigitLines, load_glyphs
from probjax.experiments import digit_lines_quality as quality
from probjax.experiments import digit_lines_report, training
from probjax.experiments.digit_lines_model import (
    COLUMNS_PER_FRAME,
    LOSSES,
    Model,
    NetworkConfig,
    Reading,
    TrainingConfig,
    fresh_lines,
    make_objective,
)
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


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """How the trained model is judged."""

    num_lines: int = 500
    """Lines of held-out digits, and as many of training digits."""
    chunk_size: int = 100
    """Lines read at once."""
    beam_widths: tuple[int, ...] = (4, 16)
    """Widths of the beam search; none for no beam search."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    loss: Literal["ctc", "transducer"] = "ctc"
    """What the reader is trained by."""
    split: Literal["form", "image"] = "form"
    """What is held out: whole forms, so other hands; or random images, of the same hands."""
    seed: int = 0
    """Seed of every random stream. Lines to judge by are the same for every seed."""
    tile: int | None = None
    """Lines in a tile. Set it for equal bits on any number of devices."""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    reading: ReadingConfig = dataclasses.field(default_factory=ReadingConfig)


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
    for part in ("network", "training", "reading"):
        for field, value in dataclasses.asdict(getattr(config, part)).items():
            least = {"warmup_steps": 0, "num_lines": 2}.get(field, 1)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and number < least:
                    raise UserError(f"config.{part}.{field} must be at least {least}, got {number}")
                if isinstance(number, float) and not number > 0:
                    raise UserError(f"config.{part}.{field} must be positive, got {number}")
    if config.network.kernel_size % 2 == 0:
        raise UserError(f"config.network.kernel_size must be odd, got {config.network.kernel_size}")
    check_divides("training.batch_size", config.training.batch_size, mesh, config.tile)


def run(config: Config, context: Context) -> str:
    """Train or go on training, read, judge, and write the report.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress.

    Returns:
        `finished`, or the reason why training stopped before its end.
    """
    sides = {split: load_glyphs(split=split, by=config.split) for split in ("train", "test")}
    num_lines = config.reading.num_lines
    lines = {split: fresh_lines(glyphs, num_lines) for split, glyphs in sides.items()}
    model = LOSSES[config.loss](config.network)
    state, log, reason = _train(config, context, model, sides["train"], lines["test"])
    if reason != "finished":
        return reason
    params = state.average
    readings, seconds = {}, {}
    for split, label in (("test", "held-out lines"), ("train", "training digits")):
        readings[split], seconds[split] = _read(config, context, model, params, lines[split], label)
    decoders = _decoders(config, context, model, params, lines["test"], readings["test"])
    context.say("judging")
    record = {
        "experiment": "digit-lines",
        "config": dataclasses.asdict(config),
        **_judged(config, sides, lines, readings),
        "decoders": decoders,
        "training": {
            "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            **log.records[-1],
        },
        "sha256": {
            "parameters": sha256(params),
            "readings": sha256((readings["test"].tokens, readings["test"].starts)),
        },
        "environment": environment(context.mesh),
    }
    held_out = lines["test"]._asdict() | {
        f"read_{name}": value for name, value in readings["test"]._asdict().items()
    }
    np.savez_compressed(context.folder / "samples.npz", **held_out)
    write_json(context.folder / "metrics.json", record)
    page = digit_lines_report.render(record, log.records, lines["test"], readings["test"])
    write_text(context.folder / "report.html", page)
    gate = record["gate"]
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"][:3]))
    return "finished"


def _train(
    config: Config, context: Context, model: Model, glyphs: Images, test: DigitLines
) -> tuple[training.TrainState, Log, str]:
    """Fit the reader; also tell the loss on lines of held-out digits along the way."""
    key, options = jax.random.key(config.seed), config.training
    objective = make_objective(key, options, model, glyphs)
    some = jax.tree.map(lambda leaf: leaf[:200], test)
    step = training.make_step(
        objective.loss_fn, objective.batch_fn, objective.optimizer, context.mesh,
        batch_size=options.batch_size, ema_decay=options.ema_decay, tile=config.tile,
    )  # fmt: skip
    return training.fit(
        step,
        training.init_state(objective.params, objective.optimizer),
        options.num_steps,
        args=(key, objective.numbers),
        context=context,
        config=dataclasses.asdict(config),
        held_out=lambda params: jnp.mean(model.loss_fn(params, some)),
        chunk_size=options.chunk_size,
        checkpoint_every=options.checkpoint_every,
        same_bits=config.tile is not None,
    )


def _in_chunks(
    config: Config, context: Context, read: Any, params: Any, rows: Any, label: str
) -> tuple[Any, float]:
    """Read lines chunk by chunk, so that progress shows; and the seconds of one, steady."""
    mapped = sharding.map_rows(read, context.mesh, tile=config.tile, in_axes=(None, 0))
    size, total = config.reading.chunk_size, jax.tree.leaves(rows)[0].shape[0]
    report = context.progress(label, unit="lines")
    found, times, begun = [], [], time.monotonic()
    for start in range(0, total, size):
        stop, before = min(start + size, total), time.monotonic()
        some = jax.tree.map(lambda leaf, rows=slice(start, stop): leaf[rows], rows)
        found.append(jax.tree.map(np.asarray, mapped(params, some)))
        times.append((time.monotonic() - before) / (stop - start))
        seconds = time.monotonic() - begun
        report(sharding.Chunk(None, start, stop, total, {}, seconds, stop == total))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return joined, float(np.median(times[1:] or times))


def _read(
    config: Config, context: Context, model: Model, params: Any, lines: DigitLines, label: str
) -> tuple[Reading, float]:
    return _in_chunks(config, context, model.read, params, lines, label)


def _decoders(
    config: Config, context: Context, model: Model, params: Any, lines: DigitLines, best: Reading
) -> list[dict[str, Any]]:
    """A row for each way of reading the held-out lines: greedily, and by beams."""
    greedy = quality.reading_quality(best.tokens, best.lengths, lines)
    num_labels = int(np.sum(lines.label_lengths))
    rows = [{"decoder": "greedy", **greedy}]
    for width in config.reading.beam_widths:
        found, seconds = _in_chunks(
            config,
            context,
            functools.partial(model.search, width=width),
            params,
            lines.images,
            f"beam of {width}",
        )
        one = quality.reading_quality(found.tokens, found.lengths, lines)
        change = quality.difference(one["distances"], greedy["distances"], num_labels)
        rows.append(
            {"decoder": f"beam of {width}", **one, **change, "lines_per_second": 1 / seconds,
             "overflows": int(found.is_overflow.sum())}
        )  # fmt: skip
    for row in rows:
        del row["distances"]
    return rows


def _judged(config: Config, sides: Any, lines: Any, readings: Any) -> dict[str, Any]:
    """Everything that is measured of the readings, and the verdict."""
    found = {}
    for split, reading in readings.items():
        found[split] = quality.reading_quality(reading.tokens, reading.lengths, lines[split])
        found[split]["loss"] = float(np.mean(reading.loss))
        del found[split]["distances"]
    best = readings["test"]
    centres = quality.centres_inside(best.starts, best.ends, lines["test"], COLUMNS_PER_FRAME)
    shared = quality.images_on_both_sides(sides["train"], sides["test"])
    judged = {
        "label_error_rate": found["test"]["label_error_rate"],
        "images_on_both_sides": shared,
    }
    if config.loss == "ctc":  # a transducer may wait with a label for as long as it sees the digit
        judged["span_centres_inside"] = centres["share"]
    return {
        "gate": quality.verdict(judged),
        "held_out": found["test"],
        "training_digits": found["train"],
        "centres": centres,
        "confusion": quality.confusion(best.tokens, best.lengths, lines["test"]).tolist(),
        "isolated_error": quality.isolated_error(sides["train"], sides["test"]),
        "num_images": {split: len(glyphs.labels) for split, glyphs in sides.items()},
    }
