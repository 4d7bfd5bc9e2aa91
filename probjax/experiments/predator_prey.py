"""Fit hares and lynxes: eight parameters of a differential equation from many random starts.

The pelts of hares and lynxes that the Hudson's Bay Company took in from 1900 to 1920, as the
solution of Lotka's and Volterra's equations with log-normal scatter. Derivatives go through the
solver, and all starts are one ensemble over the devices. The report shows every optimum that was
found, not only the best.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probjax import sharding
from probjax.core import item_keys
from probjax.experiments import predator_prey_model as model
from probjax.experiments import predator_prey_quality as quality
from probjax.experiments import predator_prey_report as report
from probjax.experiments.runs import (
    Context,
    UserError,
    environment,
    sha256,
    write_json,
    write_text,
)

_FINE = 40
_LONG = 60


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    num_starts: int = 256
    """Random starts, fitted side by side."""
    num_iterations: int = 150
    """Steps that each fit tries."""
    steps_per_year: int = 20
    """Runge-Kutta steps of a year."""
    seed: int = 0
    """Seed of the starts."""
    tile: int | None = None
    """Starts in a tile. Set it for equal bits on any number of devices."""


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices it is to run on; any number serves any number of starts.

    Raises:
        UserError: a field is out of range; the message names it.

    Example:
        >>> check(Config(num_starts=0), sharding.make_mesh(1))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.num_starts must be at least 1, got 0
    """
    del mesh
    for field, value in vars(config).items():
        least = {"seed": 0}.get(field, 1)
        if value is not None and value < least:
            raise UserError(f"config.{field} must be at least {least}, got {value}")


def run(config: Config, context: Context) -> str:
    """Fit all starts, gather the optima, judge and write the report.

    It is one piece: a run that was killed begins again, with the same numbers.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress; there is no border at which a deadline could cut.

    Returns:
        `finished`.
    """
    context.say(f"fitting {config.num_starts} starts")
    begun = time.monotonic()
    fits = jax.tree.map(np.asarray, fit_all(config, context.mesh))
    seconds = time.monotonic() - begun
    record, drawn = summarize(config, fits)
    record |= {
        "seconds": seconds,
        "sha256": {"fits": sha256(fits)},
        "environment": environment(context.mesh),
    }
    np.savez_compressed(context.folder / "samples.npz", **fits._asdict(), **drawn)
    write_json(context.folder / "metrics.json", record)
    write_text(context.folder / "report.html", report.render(record, drawn))
    gate = record["gate"]
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"]))
    return "finished"


def fit_all(config: Config, mesh: jax.sharding.Mesh) -> model.Fits:
    """Fit from every start, spread over the devices.

    Args:
        config: how many, and how.
        mesh: the devices.

    Returns:
        A row for each start.
    """
    fit = model.make_fit(config.num_iterations, config.steps_per_year)
    keys = item_keys(jax.random.key(config.seed), config.num_starts)
    return jax.block_until_ready(sharding.map_items(fit, mesh, tile=config.tile)(keys))


def summarize(config: Config, fits: model.Fits) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Turn fits into what the report tells and draws.

    Args:
        config: the run's config.
        fits: what `fit_all` gave, as NumPy arrays.

    Returns:
        The JSON-ready record, and arrays for the figure: `years`, `counts`, and for each optimum
        its curve.
    """
    years, counts = model.data()
    found = quality.optima(fits.end, fits.value)
    curves = [_curve(config, one) for one in found[: report.SHOWN]]
    for one, curve in zip(found, curves, strict=False):
        at_years = curve[: _FINE * (len(years) - 1) + 1 : _FINE]
        one["r_squared"] = quality.explained(np.log(counts), at_years)
        # Within the years of the data a slow optimum need not come round once.
        one["period"] = quality.period(curve, one["parameters"][:4], 1 / _FINE)
    best = int(np.argmin(fits.value))
    gradient, error = float("inf"), float("inf")
    if found:
        gradient = float(fits.gradient[best])
        fine = model.negative_log_likelihood(
            jnp.asarray(fits.end[best]), steps_per_year=2 * config.steps_per_year
        )
        error = abs(float(fine) - float(fits.value[best]))
    record = {
        "experiment": "predator-prey",
        "config": dataclasses.asdict(config),
        "gate": quality.verdict(
            found,
            num_starts=config.num_starts,
            gradient=gradient,
            solver_error=error,
            converged=float(np.mean(np.isfinite(fits.value) & (fits.gradient < 0.1))),
        ),
        "optima": [
            one | {"period": one["period"] if np.isfinite(one["period"]) else None}
            for one in found[: report.SHOWN]
        ],
        "num_optima": len(found),
        "lost": int(np.sum(~np.isfinite(fits.value))),
    }
    drawn = {"years": years, "counts": counts}
    within = [curve[: _FINE * (len(years) - 1) + 1] for curve in curves]
    return record, drawn | {f"curve_{i}": np.exp(curve) for i, curve in enumerate(within)}


def _curve(config: Config, optimum: dict[str, Any]) -> np.ndarray:
    """A long, finely sampled solution, logarithms of both populations."""
    v = jnp.log(jnp.asarray(optimum["parameters"], jnp.float32))
    steps = _FINE * -(-config.steps_per_year // _FINE)
    solve = jax.jit(
        lambda v: model.paths(v, num_years=_LONG, steps_per_year=steps, rows_per_year=_FINE)
    )
    return np.asarray(solve(v), np.float64)
