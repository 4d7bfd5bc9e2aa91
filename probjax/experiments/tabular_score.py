"""Fit scores to tables of real measurements by seven objectives, on the same splits.

Two sets of wines and one of tumours, made continuous, whitened by their training rows and slightly
noised. Every objective is stopped by the same rule and tested by the same number, the implicit
objective with the exact trace: what differs between them is mostly what they cost.
"""

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probjax import sharding
from probjax.datasets import DatasetError
from probjax.experiments import tabular_score_data as tables
from probjax.experiments import tabular_score_model as model
from probjax.experiments import tabular_score_report
from probjax.experiments.runs import (
    Context,
    Log,
    UserError,
    environment,
    sha256,
    write_json,
    write_text,
)
from probjax.experiments.tabular_score_data import Splits
from probjax.experiments.tabular_score_model import FittingConfig

STRAY = 3.0
"""Standard errors beyond which a difference is believed."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    datasets: tuple[str, ...] = ("wine-red", "wine-white", "breast-cancer")
    """Tables: wine-red, wine-white, breast-cancer, parkinsons (its measures of voice)."""
    objectives: tuple[str, ...] = tuple(model.OBJECTIVES)
    """What to fit by, besides the Gaussian."""
    data: str | None = None
    """Folder of the UCI files, `winequality-red.csv` and so on; the one named by PROBJAX_DATA when
    None. Nothing is downloaded; breast-cancer comes with scikit-learn."""
    seed: int = 0
    """Seed of every random stream."""
    num_splits: int = 5
    """Random splits of each table."""
    noise_scale: float = 0.1
    """Standard deviation of the noise on all rows, in the whitened unit."""
    fresh_noise: bool = True
    """Draw the noise of the training rows at every step; else once."""
    unique_rows: bool = False
    """Keep one of equal rows."""
    tile: int | None = None
    """Splits in a tile. Set it for equal bits on any number of devices."""
    fitting: FittingConfig = dataclasses.field(default_factory=FittingConfig)


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices it is to run on.

    Raises:
        UserError: a field is out of range, or a table cannot be read; the message names the field.

    Example:
        >>> check(Config(datasets=("breast-cancer",), num_splits=1), sharding.make_mesh(1))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.num_splits must be at least 2, got 1
    """
    del mesh  # splits are padded to its size
    for field, known in (("datasets", tables.DATASETS), ("objectives", tuple(model.OBJECTIVES))):
        names = getattr(config, field)
        for name in names:
            if name not in known:
                raise UserError(f"config.{field} has {name!r}; there are: {', '.join(known)}")
        if not names or len(set(names)) < len(names):
            raise UserError(f"config.{field} must name one or more, each once, got {names}")
    if config.num_splits < 2:
        raise UserError(f"config.num_splits must be at least 2, got {config.num_splits}")
    if config.tile is not None and config.tile < 1:
        raise UserError(f"config.tile must be at least 1, got {config.tile}")
    if not config.noise_scale > 0:
        raise UserError(f"config.noise_scale must be positive, got {config.noise_scale}")
    for field, value in dataclasses.asdict(config.fitting).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number < 1:
                raise UserError(f"config.fitting.{field} must be at least 1, got {number}")
            if isinstance(number, float) and not number > 0:
                raise UserError(f"config.fitting.{field} must be positive, got {number}")
    for name in config.datasets:
        _load(config, name)


def _load(config: Config, name: str) -> tables.Tabular:
    try:
        return tables.load(name, config.data)
    except DatasetError as error:
        given = f"={config.data}" if config.data is not None else ""
        raise UserError(f"config.data{given}: {error}") from error


def run(config: Config, context: Context) -> str:
    """Fit or go on fitting, test, judge, and write the report.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress.

    Returns:
        `finished`, or the reason why it stopped before its end.

    Raises:
        CheckpointError: never; a cell that was cut is fitted again from its start.
    """
    cells = list(itertools.product(config.datasets, config.objectives))
    log = Log(context.folder, before=len(cells))
    done = len(log.records)
    if done:
        context.say(f"resumed after {done} of {len(cells)} fits")
    loaded = {name: _load(config, name) for name in config.datasets}
    key, begun, sets = jax.random.key(config.seed), time.monotonic(), {}
    for number, (data, objective) in enumerate(cells):
        if data not in sets:
            # Each table has its own stream, whatever other tables are asked for.
            own = jax.random.fold_in(key, tables.DATASETS.index(data))
            splits = tables.make_splits(
                own, loaded[data], num_splits=config.num_splits, noise_scale=config.noise_scale,
                unique_rows=config.unique_rows,
            )  # fmt: skip
            sets[data] = (own, splits)
        if number < done:
            continue
        found = fit_cell(config, context, *sets[data], data=data, objective=objective)
        if found is None:
            return "signal"
        log.append({"step": number + 1, **found})
        context.say(
            f"{data} {objective}: {_with_error(found['test'])}, "
            f"{found['seconds_per_fit']:.1f} s a fit"
        )
        late = context.deadline is not None and time.monotonic() - begun >= context.deadline
        if late and number + 1 < len(cells):
            return "deadline"
    context.say("judging")
    record = _record(config, context, loaded, {name: one for name, (_, one) in sets.items()}, log)
    write_json(context.folder / "metrics.json", record)
    write_text(context.folder / "report.html", tabular_score_report.render(record))
    gate = record["gate"]
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"][:3]))
    return "finished"


def fit_cell(
    config: Config, context: Context, key: jax.Array, splits: Splits, *, data: str, objective: str
) -> dict[str, Any] | None:
    """Fit all splits of a table by one objective, in one program.

    Args:
        config: the run's config.
        context: devices and progress.
        key: the table's key.
        splits: its splits.
        data: its name.
        objective: a name in `OBJECTIVES`.

    Returns:
        JSON-ready: the `test` values of the splits, the validation values they were chosen by, how
        many `checks` each took, seconds; none if a signal cut it short.
    """
    options, chosen = config.fitting, model.OBJECTIVES[objective]
    noise_scale = config.noise_scale if config.fresh_noise or chosen.adds_noise else 0.0
    train = splits.train if noise_scale else splits.noised
    problem = model.make_problem(chosen, options, noise_scale)
    keys, mesh, tile = model.split_keys(key, config.num_splits), context.mesh, config.tile
    start = sharding.map_items(problem.start, mesh, tile=tile, in_axes=(0, None))
    block = sharding.map_items(problem.block, mesh, tile=tile, in_axes=(0, 0, 0, 0, None))
    test = sharding.map_items(problem.test, mesh, tile=tile)
    show = context.progress(f"{data} {objective}", show=("validation",), unit="checks")
    curve, times = [], [0.0]

    def step(fit: model.Fit, t: jax.Array, keys: jax.Array, train: jax.Array, rows: jax.Array):
        return block(keys, fit, train, rows, t)

    def on_chunk(chunk: sharding.Chunk) -> bool:
        curve.append(chunk.metrics)
        times.append(chunk.seconds)
        over = bool(np.all(chunk.state.is_stopped))
        show(chunk._replace(ending=chunk.ending or over))
        return over

    result = sharding.run_chunks(
        step,
        start(keys, jnp.zeros(train.shape[-1])),
        options.max_checks,
        args=(keys, train, splits.validation),
        chunk_size=1,
        on_chunk=on_chunk,
        compiler_options=sharding.same_bits_options(mesh) if tile is not None else None,
    )
    if result.reason == "signal":
        return None
    fit = result.state
    values = np.asarray(test(fit.best_params, splits.test))
    spent = np.diff(times)
    steady = float(np.median(spent[1:] if len(spent) > 1 else spent))
    validation = np.concatenate([one["validation"] for one in curve])
    return {
        "data": data,
        "objective": objective,
        "test": _numbers(values),
        "validation": _numbers(fit.best),
        "checks": np.asarray(fit.checks).tolist(),
        "is_stopped": np.asarray(fit.is_stopped).tolist(),
        "curve": [_numbers(one) for one in validation],
        "is_finite": bool(np.isfinite(values).all() and np.isfinite(validation).all()),
        "seconds_per_fit": steady * len(spent) / config.num_splits,
        "milliseconds_per_step": 1e3 * steady / options.check_every / config.num_splits,
        "compile_seconds": max(float(spent[0]) - steady, 0.0),
        "sha256": sha256(fit.best_params),
    }


def _record(
    config: Config,
    context: Context,
    loaded: Mapping[str, tables.Tabular],
    sets: Mapping[str, Splits],
    log: Log,
) -> dict[str, Any]:
    """Everything that `metrics.json` holds."""
    results = []
    for data, splits in sets.items():
        table, dim = loaded[data], splits.train.shape[-1]
        unit = model.flops_of_a_step(None, config.fitting, dim)
        distinct = len(np.unique(table.values, axis=0))
        cells = [cell for cell in log.records if cell["data"] == data]
        for cell in cells:
            cell["backwards"] = model.flops_of_a_step(cell["objective"], config.fitting, dim) / unit
        gaussian = _numbers(model.gaussian_test(splits))
        results.append(
            {
                "data": data,
                "num_rows": len(table.values),
                "num_repeated": len(table.values) - distinct,
                "num_train": splits.train.shape[1],
                "num_validation": splits.validation.shape[1],
                "num_test": splits.test.shape[1],
                "dim": dim,
                "floor": -dim / (2 * config.noise_scale**2),
                "dropped": table.dropped,
                "columns": tables.describe(table),
                "gaussian": gaussian,
                "cells": cells,
                "comparison": compare({c["objective"]: c["test"] for c in cells}, gaussian),
            }
        )
    return {
        "experiment": "tabular-score",
        "config": dataclasses.asdict(config),
        "gate": verdict(results),
        "results": results,
        "sha256": {"fits": sha256([np.frombuffer(bytes.fromhex(c["sha256"]), np.uint8)
                                   for c in log.records])},
        "environment": environment(context.mesh),
    }  # fmt: skip


def compare(
    tests: Mapping[str, Sequence[float | None]], gaussian: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Set every objective against the Gaussian and against the best, split by split.

    Args:
        tests: values on the test rows of each split, by objective; lower is better.
        gaussian: those of the Gaussian on the same rows.

    Returns:
        One row for each objective: `mean` and `se` over splits; `gain` over the Gaussian and its
        `gain_se`, `behind` the best and its `behind_se`, both of differences on the same split;
        `is_worse`, whether it is further behind than three standard errors.

    Example:
        >>> rows = compare({"a": [-9.0, -8.0, -10.0], "b": [-3.1, -2.0, -4.0]}, [-1.0, 0.1, -2.0])
        >>> [(row["objective"], round(row["gain"], 2), row["is_worse"]) for row in rows]
        [('a', 8.03, False), ('b', 2.07, True)]
    """
    values = {name: _floats(one) for name, one in tests.items()}
    best = min(values.values(), key=lambda one: np.nan_to_num(one, nan=np.inf).mean())
    rows = []
    for name, one in values.items():
        mean, se = _mean(one)
        gain, gain_se = _mean(_floats(gaussian) - one)
        behind, behind_se = _mean(one - best)
        is_worse = bool(not behind <= STRAY * behind_se)
        rows.append(
            {
                "objective": name, "mean": mean, "se": se, "gain": gain, "gain_se": gain_se,
                "behind": behind, "behind_se": behind_se, "is_worse": is_worse,
            }
        )  # fmt: skip
    return [{k: _none_if_nan(v) for k, v in row.items()} for row in rows]


def verdict(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Judge a run.

    Args:
        results: one for each table, with `data`, `cells`, `comparison`.

    Returns:
        `verdict`, `reasons`, the numbers behind them, and `worse`, the objectives that are more
        than three standard errors behind the best on their table: named, not failed. It fails
        where a value is not finite, or an objective is no better than the Gaussian on a table of
        wines; less than three standard errors better, or a fit that ran out of steps, is for
        review.

    Example:
        >>> row = {"objective": "ssm", "gain": 1.0, "gain_se": 0.5, "is_worse": False}
        >>> cell = {"objective": "ssm", "is_finite": True, "is_stopped": [True]}
        >>> gate = verdict([{"data": "wine-red", "cells": [cell], "comparison": [row]}])
        >>> gate["verdict"], gate["reasons"]
        ('review', ['wine-red ssm: 2.0 standard errors better than the Gaussian, fewer than 3'])
    """
    reasons, worse, gains, failed = [], [], [], False
    for one in results:
        for cell, row in zip(one["cells"], one["comparison"], strict=True):
            name = f"{one['data']} {cell['objective']}"
            if row["is_worse"]:
                worse.append(name)
            if not cell["is_finite"]:
                failed = True
                reasons.append(f"{name}: a value is not finite")
                continue
            if not all(cell["is_stopped"]):
                reasons.append(f"{name}: a split was still improving at the last step")
            if one["data"] not in tables.WINES:
                continue
            errors = row["gain"] / row["gain_se"] if row["gain_se"] else np.inf
            gains.append(errors)
            if row["gain"] <= 0:
                failed = True
                reasons.append(f"{name}: no better than the Gaussian")
            elif errors < STRAY:
                words = f"{errors:.1f} standard errors better than the Gaussian, fewer than 3"
                reasons.append(f"{name}: {words}")
    return {
        "verdict": "fail" if failed else "review" if reasons else "pass",
        "reasons": reasons,
        "worse": worse,
        "least_gain_in_errors": min(gains) if gains else None,
    }


def _numbers(values: Any) -> list[float | None]:
    return [_none_if_nan(float(value)) for value in np.asarray(values)]


def _none_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _with_error(values: Sequence[float | None]) -> str:
    mean, se = _mean(_floats(values))
    return f"{mean:.2f} ± {se:.2f}"
