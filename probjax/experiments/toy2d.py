"""Learn the scores of four toy densities by every objective, and measure the exact error of each.

Fits a small network for each objective, density and seed, compares the learned score with the
exact one of the density that the objective learns, and writes a table with standard errors over
seeds, the cost of a gradient, and four panels for each density.
"""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax import sharding, targets
from probjax.core import item_keys, stream
from probjax.experiments import toy2d_model as model
from probjax.experiments import toy2d_quality as quality
from probjax.experiments import toy2d_report
from probjax.experiments.runs import (
    Context,
    Log,
    UserError,
    environment,
    sha256,
    write_json,
    write_text,
)
from probjax.experiments.toy2d_model import DENSITIES, OBJECTIVES, WITHOUT_SCORE, FitConfig


@dataclasses.dataclass(frozen=True)
class DrawConfig:
    """What is drawn of each density."""

    objective: str = "fd_ssm"
    """Whose model is drawn, at its first noise scale; the run's first objective if not in it."""
    num_chains: int = 2000
    """Chains of Langevin dynamics, started uniformly on [-4, 4]^2."""
    num_steps: int = 1000
    """Steps of each."""
    step_size: float = 0.005
    """In x + step_size * score + sqrt(2 step_size) * noise."""
    num_points: int = 81
    """Points of the grid along each side."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    densities: tuple[str, ...] = DENSITIES
    """Which densities: eight_gaussians, rings, two_spirals, checkerboard."""
    objectives: tuple[str, ...] = ("ism", "ssm", "ssm_vr", "fd_ssm", "dsm", "deen")
    """Which objectives; besides these there is explicit, which is given the exact score."""
    noise_scales: tuple[float, ...] = (0.3, 0.1)
    """Noise that the denoising objectives add, a row of the table for each."""
    data_noise: float | None = None
    """Noise on the data of all others, and of the density on which all are compared. None: no
    noise, but 0.1 for the checkerboard, which has no score without."""
    seeds: int = 5
    """Fits of each cell, at least two."""
    seed: int = 0
    """Seed of every random stream."""
    num_test: int = 10000
    """Fresh draws of a seed at which scores are compared."""
    tile: int | None = None
    """Seeds in a tile. Set it to 1 for equal bits on any number of devices."""
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    draw: DrawConfig = dataclasses.field(default_factory=DrawConfig)


ANCHORS = {
    "eight_gaussians/ism": (0.125, 0.007),
    "eight_gaussians/ssm_vr": (0.130, 0.006),
    "eight_gaussians/ssm": (0.156, 0.007),
    "eight_gaussians/dsm 0.3": (0.041, 0.001),
    "eight_gaussians/dsm 0.1": (0.27, 0.02),
}
"""Fisher divergence of earlier fits of this size (3000 steps, batch 256, 128-128, three seeds)."""


class Cell(NamedTuple):
    """One objective on one density: what is fitted in one go, with all seeds."""

    density: str
    """A name of `DENSITIES`."""
    objective: str
    """A name of `OBJECTIVES`."""
    noise_scale: float | None
    """Noise that a denoising objective adds; None for the others."""


def data_noise_of(config: Config, density: str) -> float:
    """Tell how much noise the data of a density carry.

    Args:
        config: the run's config.
        density: its name.

    Returns:
        A standard deviation, zero for none.

    Example:
        >>> [data_noise_of(Config(), name) for name in DENSITIES]
        [0.0, 0.0, 0.0, 0.1]
    """
    if config.data_noise is not None:
        return config.data_noise
    return 0.1 if density in WITHOUT_SCORE else 0.0


def cells_of(config: Config) -> list[Cell]:
    """List the cells of a run, in the order in which they are fitted.

    Args:
        config: the run's config.

    Returns:
        The cells, density by density.

    Example:
        >>> [cell.noise_scale for cell in cells_of(Config(densities=("rings",)))]
        [None, None, None, None, 0.3, 0.1, 0.3, 0.1]
    """
    return [
        Cell(density, objective, noise_scale)
        for density in config.densities
        for objective in config.objectives
        for noise_scale in (config.noise_scales if OBJECTIVES[objective].is_denoising else (None,))
    ]


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices it is to run on; any number serves any number of seeds.

    Raises:
        UserError: a field is out of range; the message names it.

    Example:
        >>> check(Config(densities=("moons",)), sharding.make_mesh(1))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.densities has 'moons'; there are: eight_gauss...
    """
    del mesh
    for field, known in (("densities", DENSITIES), ("objectives", tuple(OBJECTIVES))):
        names = getattr(config, field)
        if not names or len(set(names)) < len(names):
            raise UserError(f"config.{field} must be names, each once, got {names}")
        for name in names:
            if name not in known:
                raise UserError(f"config.{field} has {name!r}; there are: {', '.join(known)}")
    if config.draw.objective not in OBJECTIVES:
        raise UserError(
            f"config.draw.objective is {config.draw.objective!r}; there are: "
            f"{', '.join(OBJECTIVES)}"
        )
    if not config.noise_scales or len(set(config.noise_scales)) < len(config.noise_scales):
        raise UserError(
            f"config.noise_scales must be numbers, each once, got {config.noise_scales}"
        )
    for part in (config, config.fit, config.draw):
        prefix = "config." + {FitConfig: "fit.", DrawConfig: "draw."}.get(type(part), "")
        for field, value in vars(part).items():
            least = {"seeds": 2, "seed": 0, "num_test": 2, "num_points": 3}.get(field, 1)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and number < least:
                    raise UserError(f"{prefix}{field} must be at least {least}, got {number}")
                if isinstance(number, float) and field != "data_noise" and not number > 0:
                    raise UserError(f"{prefix}{field} must be positive, got {number}")
    if config.data_noise is not None and not config.data_noise >= 0:
        raise UserError(f"config.data_noise must not be negative, got {config.data_noise}")
    for density in config.densities:
        if density in WITHOUT_SCORE and data_noise_of(config, density) == 0:
            raise UserError(f"config.data_noise must be positive: {density} has no score without")


def run(config: Config, context: Context) -> str:
    """Fit all cells that are not fitted yet, measure, and write the report.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress.

    Returns:
        `finished`, or the reason why fitting stopped before its end.
    """
    log, reason = _fit_all(config, context)
    if reason != "finished":
        return reason
    context.say("counting operations and drawing")
    unit = model.gradient_flops("regression", config.fit)
    cost = {name: model.gradient_flops(name, config.fit) / unit for name in config.objectives}
    cells = [_summary(record) for record in log.records]
    same = all(getattr(config.fit, k) == v for k, v in quality.ANCHOR_CONFIG.items())
    comparable = same and config.data_noise in (None, 0.0)
    drawn = {density: _draw(config, context, density) for density in config.densities}
    record = {
        "experiment": "toy2d",
        "config": dataclasses.asdict(config),
        "gate": quality.verdict(cells, anchors=ANCHORS if comparable else {}),
        "half": True,
        "cells": cells,
        "cost": cost,
        "flops_of_a_plain_backward": unit,
        "seconds": log.records[-1]["seconds"],
        "sha256": {
            "parameters": {_name(record): record["sha256"] for record in log.records},
            "drawn": sha256(drawn),
        },
        "environment": environment(context.mesh),
    }
    flat = {f"{d}_{part}": value for d, parts in drawn.items() for part, value in parts.items()}
    np.savez_compressed(context.folder / "samples.npz", **flat)
    write_json(context.folder / "metrics.json", record)
    write_text(context.folder / "report.html", toy2d_report.render(record, drawn))
    gate = record["gate"]
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"][:3]))
    return "finished"


def _name(record: dict[str, Any]) -> str:
    return f"{record['density']}/{record['label']}"


def _file(context: Context, number: int) -> Any:
    return context.folder / "cells" / f"{number:03d}.npz"


def _fit_all(config: Config, context: Context) -> tuple[Log, str]:
    """Fit cell after cell; what is done is in the log and in the folder `cells`."""
    cells = cells_of(config)
    (context.folder / "cells").mkdir(exist_ok=True)
    done = 0
    while done < len(cells) and _file(context, done + 1).exists():
        done += 1
    log = Log(context.folder, before=done)
    done = len(log.records)
    if done:
        context.say(f"resumed from cell {done} of {len(cells)}")
    before = log.records[-1]["seconds"] if log.records else 0.0
    report, begun = context.progress("fit", show=("fisher",), unit="cells"), time.monotonic()
    data = _Data(config, context.mesh)
    for number in range(done + 1, len(cells) + 1):
        cell = cells[number - 1]
        params, record = _fit(config, context.mesh, data, cell)
        leaves = jax.tree.leaves(params)
        _save(_file(context, number), {f"{i:02d}": np.asarray(x) for i, x in enumerate(leaves)})
        seconds = time.monotonic() - begun
        log.append({"step": number, **record, "seconds": before + seconds})
        fisher = {"fisher": np.asarray(record["own_values"])}
        ending = number == len(cells)
        report(sharding.Chunk(None, number - 1, number, len(cells), fisher, seconds, ending))
        if not ending and context.deadline is not None and seconds >= context.deadline:
            return log, "deadline"
    return log, "finished"


class _Data:
    """Examples, and exact scores at test points, of the density that is being fitted."""

    def __init__(self, config: Config, mesh: jax.sharding.Mesh) -> None:
        self._config, self._mesh, self._held = config, mesh, {}
        self._density: str | None = None

    def _once(self, density: str, what: tuple[Any, ...], fn: Any, *args: Any) -> Any:
        if density != self._density:  # what belongs to the density before is let go
            self._density, self._held = density, {}
        if what not in self._held:
            mapped = sharding.map_items(fn, self._mesh, tile=self._config.tile)
            self._held[what] = jax.block_until_ready(mapped(*args))
        return self._held[what]

    def keys(self, density: str) -> jax.Array:
        """A key for each seed, of this density."""
        key = jax.random.key(self._config.seed)
        return item_keys(jax.random.fold_in(key, DENSITIES.index(density)), self._config.seeds)

    def train(self, density: str, noise: float) -> jax.Array:
        """Examples `(seeds, num_steps, batch_size, 2)`."""
        shape = (self._config.fit.num_steps, self._config.fit.batch_size, 2)
        target = targets.make(density)

        def draw(key: jax.Array) -> jax.Array:
            rows = target.sample(stream(key, "data"), shape[0] * shape[1], noise)
            return rows.reshape(shape)

        return self._once(density, ("train", noise), draw, self.keys(density))

    def truth(self, density: str, noise: float) -> jax.Array:
        """Exact scores at the examples."""
        target = targets.make(density)

        def score(x: jax.Array) -> jax.Array:
            return model.exact_score(target, x.reshape(-1, 2), noise).reshape(x.shape)

        return self._once(density, ("truth", noise), score, self.train(density, noise))

    def test(self, density: str, noise: float) -> tuple[jax.Array, jax.Array]:
        """Fresh draws `(seeds, num_test, 2)` of the noised density, and exact scores there."""
        target = targets.make(density)

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = target.sample(stream(key, "metric"), self._config.num_test, noise)
            return x, model.exact_score(target, x, noise)

        return self._once(density, ("test", noise), draw, self.keys(density))


def _fit(
    config: Config, mesh: jax.sharding.Mesh, data: _Data, cell: Cell
) -> tuple[Any, dict[str, Any]]:
    """Fit all seeds of a cell and measure them."""
    density, objective, noise_scale = cell
    common = data_noise_of(config, density)
    learned = common if noise_scale is None else noise_scale
    keys = data.keys(density)
    x = data.train(density, common if noise_scale is None else 0.0)
    truth = data.truth(density, common) if objective == "explicit" else jnp.zeros_like(x)
    start = sharding.map_items(model.make_init(objective, config.fit), mesh, tile=config.tile)(keys)
    fit = sharding.map_items(
        model.make_fit(objective, config.fit), mesh, tile=config.tile, in_axes=(0, 0, 0, 0, None)
    )
    begun = time.monotonic()
    noise = jnp.float32(1.0 if noise_scale is None else noise_scale)
    params, losses = jax.block_until_ready(fit(keys, start, x, truth, noise))
    seconds = time.monotonic() - begun
    error = sharding.map_items(
        model.make_error(objective, config.fit.widths), mesh, tile=config.tile
    )
    record: dict[str, Any] = {
        "density": density, "objective": objective, "noise_scale": noise_scale,
        "label": model.label(objective, noise_scale), "learned_noise": learned,
        "common_noise": common, "fit_seconds": seconds,
    }  # fmt: skip
    for name, level in (("own", learned), ("common", common)):
        points, scores = data.test(density, level)
        found = error(params, points, scores)
        zero = 0.5 * jnp.mean(jnp.sum(scores**2, axis=-1), axis=-1)
        record[f"{name}_values"] = np.asarray(found.value).tolist()
        record[f"{name}_draw_se"] = np.asarray(found.standard_error).tolist()
        record[f"{name}_zero"] = np.asarray(zero).tolist()
    last = losses[:, -max(config.fit.num_steps // 10, 1) :]
    record["loss_values"] = np.asarray(jnp.mean(last, axis=1)).tolist()
    return params, record | {"sha256": sha256(params)}


def _save(path: Any, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays so that the file is there whole or not at all."""
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as stream_:
        np.savez(stream_, **arrays)
    temporary.replace(path)


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    """One row of the table out of one line of the log."""
    kept = ("density", "objective", "noise_scale", "label", "learned_noise", "common_noise")
    return {
        **{name: record[name] for name in kept},
        "values": record["own_values"],
        "own": quality.over_seeds(record["own_values"]),
        "common": quality.over_seeds(record["common_values"]),
        "zero": quality.over_seeds(record["own_zero"]),
        "common_zero": quality.over_seeds(record["common_zero"]),
        "draw_se": float(np.mean(record["own_draw_se"])),
        "loss": quality.over_seeds(record["loss_values"]),
        "fit_seconds": record["fit_seconds"],
    }


def _draw(config: Config, context: Context, density: str) -> dict[str, np.ndarray]:
    """What the four panels of a density show, from the first seed of one cell."""
    cells = cells_of(config)
    wanted = config.draw.objective
    wanted = wanted if wanted in config.objectives else config.objectives[0]
    number, cell = next(
        (n, c) for n, c in enumerate(cells, 1) if c.density == density and c.objective == wanted
    )
    shape = jax.eval_shape(model.make_init(wanted, config.fit), jax.random.key(0))
    with np.load(_file(context, number)) as saved:
        leaves = [jnp.asarray(saved[name][0]) for name in sorted(saved.files)]
    params = jax.tree.unflatten(jax.tree.structure(shape), leaves)
    noise = data_noise_of(config, density) if cell.noise_scale is None else cell.noise_scale
    key = _Data(config, context.mesh).keys(density)[0]
    field, draw, target = (
        model.make_field(wanted, config.fit.widths),
        config.draw,
        targets.make(density),
    )

    @jax.jit
    def panels(key: jax.Array, params: Any, grid: jax.Array) -> dict[str, jax.Array]:
        shape = (draw.num_chains, 2)
        width = model.HALF_WIDTH
        start = jax.random.uniform(stream(key, "init"), shape, minval=-width, maxval=width)
        ends = model.langevin(
            stream(key, "proposal"), lambda x: field(params, x), start, num_steps=draw.num_steps,
            step_size=draw.step_size,
        )  # fmt: skip
        rows = grid.reshape(-1, 2)
        data = target.sample(stream(key, "augment"), draw.num_chains, noise)
        return {
            "data": data, "langevin": ends, "field": field(params, rows).reshape(grid.shape),
            "true_field": model.exact_score(target, rows, noise).reshape(grid.shape),
        }  # fmt: skip

    axis = np.linspace(-model.HALF_WIDTH, model.HALF_WIDTH, draw.num_points, dtype=np.float32)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1))
    found = {name: np.asarray(value) for name, value in panels(key, params, grid).items()}
    spacing = 2 * model.HALF_WIDTH / (draw.num_points - 1)
    for name in ("field", "true_field"):
        energy = quality.energy_from_field(found[name].astype(np.float64), spacing)
        found[name.replace("field", "energy")] = energy.astype(np.float32)
    return found
