"""Integrate Lorenz's equations for very many parameters at once, and draw what they do.

Solves a large ensemble in fixed steps, compares a sample of it with SciPy in double precision, and
draws the maxima of `z` over a range of the parameter: the bifurcation picture.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probjax.diffeq.ensemble import solve_ensemble
from probjax.experiments import report
from probjax.experiments.runs import (
    Context,
    UserError,
    environment,
    sha256,
    write_json,
    write_text,
)


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """The bifurcation picture."""

    num_parameters: int = 2000
    """Values of rho."""
    lowest: float = 20.0
    """The least of them."""
    highest: float = 200.0
    """The largest."""
    step_size: float = 0.002
    """Of the fixed steps."""
    num_settling: int = 10000
    """Steps before anything is recorded."""
    num_recorded: int = 5000
    """Steps whose maxima are drawn, a multiple of 5."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    num_trajectories: int = 100_000
    """Size of the ensemble; rho is spread evenly over [0, 21]."""
    num_steps: int = 1000
    """Fixed steps of each."""
    method: str = "rk4"
    """A name of `diffeq.tableaus.METHODS`."""
    end_time: float = 1.0
    """Integrated from zero to here, from (1, 0, 0)."""
    num_checked: int = 32
    """Trajectories that are compared with SciPy."""
    tile: int = 512
    """Trajectories in a tile."""
    picture: PictureConfig = dataclasses.field(default_factory=PictureConfig)


LARGEST_RHO = 21.0
"""The parameters run from 0 to here."""
LARGEST_ERROR = 1e-5
"""Relative to the largest entry, over the checked trajectories."""
SAVE_EVERY = 5
"""Steps between the states of the picture."""


def lorenz(t: Any, y: jax.Array, rho: jax.Array) -> jax.Array:
    """Lorenz's equations with sigma 10 and beta 8/3.

    Args:
        t: not used.
        y: the state `(3,)`.
        rho: the parameter, a scalar.

    Returns:
        The slope.

    Example:
        >>> print(lorenz(0.0, jnp.array([1.0, 1.0, 3.0]), jnp.array(28.0)))
        [ 0. 24. -7.]
    """
    u, v, w = y
    return jnp.stack([10 * (v - u), u * (rho - w) - v, u * v - 8 / 3 * w])


def maxima(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the maxima along the last axis, by the parabola through three neighbours.

    Args:
        z: `(N, T)` values at equal distances.

    Returns:
        The row of each maximum, and its height.

    Example:
        >>> print(*maxima(np.array([[0.0, 3.0, 4.0, 3.0, 0.0], [4.0, 3.0, 2.0, 1.0, 0.0]])))
        [0] [4.]
    """
    before, here, after = z[:, :-2], z[:, 1:-1], z[:, 2:]
    rows, columns = np.nonzero((here > before) & (here >= after))
    a, b, c = before[rows, columns], here[rows, columns], after[rows, columns]
    return rows, b - (c - a) ** 2 / (8 * (a - 2 * b + c))


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a config that cannot be run, before anything is written.

    Args:
        config: the run's config.
        mesh: the devices; any number of them serves.

    Raises:
        UserError: a field is out of range; the message names it.

    Example:
        >>> from probjax import sharding
        >>> check(Config(tile=0), sharding.make_mesh(1))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.tile must be at least 1, got 0
    """
    del mesh
    from probjax.diffeq import tableaus

    for part, prefix in ((config, "config."), (config.picture, "config.picture.")):
        for name, value in vars(part).items():
            if isinstance(value, int) and value < 1:
                raise UserError(f"{prefix}{name} must be at least 1, got {value}")
            if isinstance(value, float) and not 0 < value < np.inf:
                raise UserError(f"{prefix}{name} must be positive, got {value}")
    if config.method not in tableaus.METHODS:
        raise UserError(
            f"config.method is {config.method!r}; there are: {', '.join(tableaus.METHODS)}"
        )
    if config.picture.num_recorded % SAVE_EVERY:
        raise UserError(
            f"config.picture.num_recorded must be a multiple of {SAVE_EVERY}, "
            f"got {config.picture.num_recorded}"
        )
    if not config.picture.lowest < config.picture.highest:
        raise UserError(
            f"config.picture.lowest must be below highest={config.picture.highest}, "
            f"got {config.picture.lowest}"
        )


def run(config: Config, context: Context) -> str:
    """Solve, compare, draw, and write the report.

    Args:
        config: what decides the numbers.
        context: folder, devices, progress.

    Returns:
        `finished`.
    """
    context.say(f"{config.num_trajectories:,} trajectories of {config.num_steps} steps")
    rho = jnp.linspace(0.0, LARGEST_RHO, config.num_trajectories, dtype=jnp.float32)
    solve = functools.partial(
        solve_ensemble, lorenz, jnp.array([1.0, 0.0, 0.0]), 0.0, config.end_time, args=rho,
        in_axes=(None, 0), method=config.method, num_steps=config.num_steps, mesh=context.mesh,
        tile=config.tile,
    )  # fmt: skip
    seconds = []
    for _ in range(2):  # the first call compiles
        begun = time.perf_counter()
        solution = jax.block_until_ready(solve())
        seconds.append(time.perf_counter() - begun)
    checked = np.unique(
        np.linspace(0, config.num_trajectories - 1, config.num_checked).round().astype(int)
    )
    ends = np.asarray(solution.y)
    error = relative_error(ends[checked], np.asarray(rho)[checked], config.end_time)
    context.say(f"{seconds[1]:.2f} s, relative error {error:.1e}; drawing")
    parameters, heights, drawing_seconds = _picture(config, context)
    failed = int(np.sum(np.asarray(solution.result) != 0))
    record = {
        "experiment": "ensemble",
        "config": dataclasses.asdict(config),
        "gate": verdict(error, failed, len(heights)),
        "seconds": {
            "first_call": seconds[0],
            "second_call": seconds[1],
            "picture": drawing_seconds,
        },
        "nanoseconds_of_a_step": 1e9 * seconds[1] / (config.num_trajectories * config.num_steps),
        "relative_error": error,
        "failed": failed,
        "num_maxima": len(heights),
        "sha256": {"ends": sha256(solution.y)},
        "environment": environment(context.mesh),
    }
    np.savez_compressed(
        context.folder / "samples.npz", rho=np.asarray(rho)[checked], ends=ends[checked],
        picture_rho=parameters.astype(np.float32), picture_maxima=heights.astype(np.float32),
    )  # fmt: skip
    write_json(context.folder / "metrics.json", record)
    write_text(context.folder / "report.html", render(record, parameters, heights))
    gate = record["gate"]
    context.say(f"verdict: {gate['verdict']}" + "".join(f"; {r}" for r in gate["reasons"]))
    return "finished"


def relative_error(ends: np.ndarray, rho: np.ndarray, end_time: float) -> float:
    """Compare ends with SciPy's DOP853 in double precision.

    Args:
        ends: `(n, 3)`.
        rho: `(n,)` parameters.
        end_time: where they were taken.

    Returns:
        The largest difference of an entry, over the largest entry of its trajectory.

    Example:
        >>> still = np.array([[np.exp(-10.0), 0.0, 0.0]])
        >>> print(round(relative_error(still, np.array([0.0]), 0.0), 3))  # it is (1, 0, 0)
        1.0
    """
    from scipy.integrate import solve_ivp

    def field(t: float, y: np.ndarray, rho: float) -> list[float]:
        u, v, w = y
        return [10 * (v - u), u * (rho - w) - v, u * v - 8 / 3 * w]

    worst = 0.0
    for end, parameter in zip(ends, rho.astype(float), strict=True):
        exact = np.array([1.0, 0.0, 0.0])
        if end_time > 0:
            exact = solve_ivp(
                field, (0, end_time), exact, "DOP853", args=(parameter,), rtol=1e-12, atol=1e-14
            ).y[:, -1]
        worst = max(worst, np.max(np.abs(end - exact)) / np.max(np.abs(exact)))
    return worst


def verdict(error: float, failed: int, num_maxima: int) -> dict[str, Any]:
    """Judge a run.

    Args:
        error: largest relative error of the sample.
        failed: trajectories that did not reach their end.
        num_maxima: maxima that were found for the picture.

    Returns:
        `verdict` (`pass`, `review` or `fail`) and `reasons`.

    Example:
        >>> verdict(1e-6, 0, 100)["verdict"], verdict(1e-3, 0, 100)["verdict"]
        ('pass', 'fail')
    """
    fails = []
    if not error <= LARGEST_ERROR:
        fails.append(f"relative error {error:.1e} is above {LARGEST_ERROR:.0e}")
    if failed:
        fails.append(f"{failed} trajectories are not finite")
    reviews = [] if num_maxima else ["no maximum was found: the picture is empty"]
    word = "fail" if fails else "review" if reviews else "pass"
    return {"verdict": word, "reasons": fails + reviews}


def _picture(config: Config, context: Context) -> tuple[np.ndarray, np.ndarray, float]:
    """Parameters and heights of the maxima of z."""
    picture = config.picture
    rho = jnp.linspace(picture.lowest, picture.highest, picture.num_parameters, dtype=jnp.float32)
    begun = time.perf_counter()
    common = {"args": rho, "method": "rk4", "mesh": context.mesh, "tile": config.tile}
    settled = solve_ensemble(
        lorenz, jnp.array([1.0, 0.0, 0.0]), 0.0, picture.num_settling * picture.step_size,
        in_axes=(None, 0), num_steps=picture.num_settling, **common,
    ).y  # fmt: skip
    rows = solve_ensemble(
        lorenz, settled, 0.0, picture.num_recorded * picture.step_size, in_axes=(0, 0),
        num_steps=picture.num_recorded, save_every=SAVE_EVERY, **common,
    ).y  # fmt: skip
    which, heights = maxima(np.asarray(rows)[:, :, 2])
    return np.asarray(rho)[which], heights, time.perf_counter() - begun


def render(record: dict[str, Any], parameters: np.ndarray, heights: np.ndarray) -> str:
    """Write the report.

    Args:
        record: what `metrics.json` holds.
        parameters: rho of each maximum.
        heights: their heights.

    Returns:
        HTML.
    """
    config, gate, machine = record["config"], record["gate"], record["environment"]
    seconds = record["seconds"]
    rows = [
        ["trajectories", f"{config['num_trajectories']:,}"],
        ["steps of each", f"{config['num_steps']:,} of {config['method']}"],
        ["seconds, compilation included", f"{seconds['first_call']:.2f}"],
        ["seconds, second call", f"{seconds['second_call']:.2f}"],
        ["nanoseconds for a step of a trajectory", f"{record['nanoseconds_of_a_step']:.2f}"],
        ["largest relative error of the sample", f"{record['relative_error']:.1e}"],
        ["seconds of the picture", f"{seconds['picture']:.1f}"],
    ]
    caption = (
        f"Maxima of z at {config['picture']['num_parameters']:,} values of rho: one line where the "
        "solution is periodic with one maximum, several lines for several, a cloud in chaos"
    )
    return report.page(
        f"Ensemble: {gate['verdict']}",
        [
            report.verdict(gate),
            report.text(
                f"On {machine['devices']} {machine['backend']} device(s); the sample is compared "
                "with SciPy's DOP853 in double precision."
            ),
            report.section("Numbers", report.table(["what", "value"], rows)),
            report.section(
                "Bifurcation picture", report.drawing(draw(parameters, heights), caption)
            ),
            report.provenance(record, "ends"),
        ],
    )


def draw(parameters: np.ndarray, heights: np.ndarray) -> Any:
    """Draw the maxima as an image of their number.

    Args:
        parameters: rho of each maximum.
        heights: their heights.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    if len(heights):
        counts, x, y = np.histogram2d(parameters, heights, bins=(500, 350))
        shade = np.log1p(counts.T)
        axes.imshow(
            np.ma.masked_equal(shade, 0), origin="lower", aspect="auto", cmap="viridis_r",
            extent=(x[0], x[-1], y[0], y[-1]), interpolation="nearest",
        )  # fmt: skip
    axes.set_xlabel("rho")
    axes.set_ylabel("maxima of z")
    return figure
