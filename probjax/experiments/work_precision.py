"""Compare solvers of differential equations: error against evaluations and against seconds.

Five problems, every explicit method with fixed steps, Adams and symplectic methods, adaptive pairs,
and solvers of diffrax and SciPy as peers, all in double precision. The report tells whether every
slope is minus the order and whether every adaptive error goes with its tolerance.
"""

import concurrent.futures
import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from probjax import sharding
from probjax.experiments import work_precision_model as model
from probjax.experiments import work_precision_quality as quality
from probjax.experiments import work_precision_report as report
from probjax.experiments.runs import (
    Context,
    Log,
    UserError,
    environment,
    sha256,
    write_json,
    write_text,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    problems: tuple[str, ...] = model.PROBLEMS
    """Which problems."""
    solvers: tuple[str, ...] = tuple(model.SOLVERS)
    """Which solvers; symplectic ones run where they apply."""
    tolerances: tuple[float, ...] = tuple(10.0**-k for k in range(3, 11))
    """Relative and absolute tolerances of adaptive solvers, decreasing; solvers of low order stop
    before the last ones, and the implicit one at 1e-6."""
    most_evaluations: int = 2**20
    """Where steps stop doubling; at 65536 at the latest for Pleiades."""
    repeats: int = 3
    """How often a run is timed."""


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices; the first one is used.

    Raises:
        UserError: a field is out of range; the message names it.

    Example:
        >>> check(Config(problems=("brusselator",)), sharding.make_mesh(1))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.problems has 'brusselator'; there are: pendul...
    """
    del mesh
    for field, known in (("problems", model.PROBLEMS), ("solvers", tuple(model.SOLVERS))):
        chosen = getattr(config, field)
        if not chosen:
            raise UserError(f"config.{field} is empty")
        for name in chosen:
            if name not in known:
                raise UserError(f"config.{field} has {name!r}; there are: {', '.join(known)}")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"config.{field} names one twice")
    tolerances = config.tolerances
    if not tolerances or not all(1e-12 <= x < 1 for x in tolerances):
        raise UserError(f"config.tolerances must be in [1e-12, 1), got {tolerances}")
    if any(a <= b for a, b in itertools.pairwise(tolerances)):
        raise UserError(f"config.tolerances must decrease, got {tolerances}")
    for field, least in (("most_evaluations", 1024), ("repeats", 1)):
        value = getattr(config, field)
        if value < least:
            raise UserError(f"config.{field} must be at least {least}, got {value}")


def run(config: Config, context: Context) -> str:
    """Measure all curves that are not in the log yet, judge them and write the report.

    Args:
        config: what decides the numbers; seconds are the machine's.
        context: folder, devices, progress.

    Returns:
        `finished`, or the reason why it stopped before its end.
    """
    log, reason = _measure_all(config, context)
    if reason != "finished":
        return reason
    cells = [summarize(record) for record in log.records]
    gate = quality.verdict(cells)
    errors = [np.array(record["errors"], np.float64) for record in cells]
    record = {
        "experiment": "work-precision",
        "config": dataclasses.asdict(config),
        "gate": gate,
        "cells": cells,
        "seconds": log.records[-1]["seconds"],
        "sha256": {"errors": sha256(errors)},
        "environment": environment(context.mesh),
    }
    write_json(context.folder / "metrics.json", record)
    write_text(context.folder / "report.html", report.render(record))
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"][:3]))
    return "finished"


def measure(config: Config, cells: Sequence[model.Cell]) -> list[dict[str, Any]]:
    """Measure some curves: two are compiled and solved at a time, then each is timed alone.

    Args:
        config: the run's config.
        cells: which.

    Returns:
        JSON-ready records with lists `settings`, `errors`, `scaled` and `evaluations`, and `time`,
        a function that gives the list of seconds. Errors that are not finite are None.
    """

    def solve(cell: model.Cell) -> Any:
        return model.curve(
            cell, config.tolerances, most_evaluations=config.most_evaluations
        )  # fmt: skip

    # References first: two threads would compute them twice.
    for problem in dict.fromkeys(cell.problem for cell in cells):
        model.reference(problem)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        curves = list(pool.map(solve, cells))

    def finite(values: Sequence[float]) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values]

    return [
        {
            **cell._asdict(),
            "settings": [found.setting for found, _ in curve],
            "errors": finite([found.error for found, _ in curve]),
            "scaled": finite([found.scaled for found, _ in curve]),
            "evaluations": [found.evaluations for found, _ in curve],
            "time": lambda curve=curve: [model.timed(again, config.repeats) for _, again in curve],
        }
        for cell, curve in zip(cells, curves, strict=True)
    ]


def summarize(record: dict[str, Any]) -> dict[str, Any]:
    """Add a slope, or the largest error in tolerances, to a line of the log.

    Args:
        record: the line.

    Returns:
        The line with `slope`, `steps` and `flag`, or with `factor`, which is None if a run failed.
    """
    kept = {name: value for name, value in record.items() if name not in ("step", "seconds")}
    if model.SOLVERS[record["solver"]].steps_are_fixed:
        cell = model.Cell(record["problem"], record["solver"])
        errors = [math.inf if error is None else error for error in record["errors"]]
        floors = [model.floor(cell, count) for count in record["settings"]]
        return kept | quality.slope(record["settings"], errors, floors)
    scaled = record["scaled"]
    factors = [
        math.inf if error is None else error / tolerance
        for error, tolerance in zip(scaled, record["settings"], strict=True)
    ]
    largest = max(factors, default=math.inf)
    return kept | {"factor": largest if math.isfinite(largest) else None}


def _measure_all(config: Config, context: Context) -> tuple[Log, str]:
    """Measure problem by problem; what is done is in the log."""
    cells = model.cells_of(config.problems, config.solvers)
    log = Log(context.folder, before=len(cells))
    done = len(log.records)
    if done:
        context.say(f"resumed from curve {done} of {len(cells)}")
    before = log.records[-1]["seconds"] if log.records else 0.0
    show, begun = context.progress("solve", show=("worst",), unit="curves"), time.monotonic()
    for problem in config.problems:
        left = [cell for cell in cells[done:] if cell.problem == problem]
        for record in measure(config, left):
            record["run_seconds"] = record.pop("time")()
            seconds = time.monotonic() - begun
            done += 1
            log.append({"step": done, **record, "seconds": before + seconds})
            errors = [math.inf if error is None else error for error in record["errors"]]
            last = {"worst": np.asarray(errors[-1:])}
            ending = done == len(cells)
            show(sharding.Chunk(None, done - 1, done, len(cells), last, seconds, ending))
            if not ending and context.deadline is not None and seconds >= context.deadline:
                return log, "deadline"
    return log, "finished"
