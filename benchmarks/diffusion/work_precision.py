"""Error against denoiser calls: every fast sampler beside diffrax, with the exact denoiser.

`python -m benchmarks.diffusion.work_precision` prints the tables; `docs/figures/work_precision.py`
draws them.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Bar, Case, Contender, Program, compiled
from probjax import diffusion

DESCRIPTION = (
    "The flow from noise scale 80 to 0.002 and a last denoising, eight Gaussians of pooled "
    "standard deviation 1/2 with their exact denoiser, float64, 512 points. The error is the "
    "root of the mean squared distance from Dopri8 at tolerance 1e-11; each contender makes the "
    "fewest calls that bring it under {level}, on its grid or at the loosest tolerance that does. "
    "diffrax's calls are the mean over the points, each of which takes its own steps."
)
NUM_POINTS = 512
CALLS = (10, 18, 35, 79)
LEVEL = 0.02
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
LOWEST, HIGHEST = 0.002, 80.0


class Measured(NamedTuple):
    """One solver at one setting."""

    calls: float
    """Denoiser calls for each point, the last denoising included; their mean where it varies."""
    most: int
    """The most that any point takes."""
    error: float
    """Root of the mean squared distance from the reference."""


@functools.cache
def problem() -> tuple[Any, np.ndarray, np.ndarray]:
    """The denoiser, the starting points and where the flow takes them; call it under x64."""
    angle = np.arange(8) * np.pi / 4
    spread = 0.5 / (4**2 / 2 + 0.5**2) ** 0.5  # what brings the pooled deviation to one half
    means = 4 * spread * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    denoiser = diffusion.gmm_denoiser(jnp.asarray(means), jnp.full(8, 0.5 * spread), jnp.ones(8))
    x = HIGHEST * jax.random.normal(jax.random.key(0), (NUM_POINTS, 2))
    solution = adaptive(denoiser, diffrax.Dopri8(), 1e-11, log=True)(x)
    return denoiser, np.asarray(x), np.asarray(solution[0])


def adaptive(denoiser: Any, solver: Any, tolerance: Any, *, log: bool) -> Callable[[Any], Any]:
    """Diffrax's adaptive integration, in the logarithm of the noise scale or in it.

    Gives the denoised points and the calls that each took.
    """

    def field(t: Any, y: Any, args: Any) -> Any:
        scale = jnp.exp(-t) if log else -t
        slope = denoiser(y, scale) - y
        return slope if log else slope / scale

    ends = (-np.log(HIGHEST), -np.log(LOWEST)) if log else (-HIGHEST, -LOWEST)

    def one(x: Any) -> tuple[Any, Any]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), solver, *ends, (ends[1] - ends[0]) / 50, x,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=100_000,
        )  # fmt: skip
        stages = solver.tableau.num_stages
        fresh = stages - 1 if solver.tableau.fsal else stages
        calls = fresh * solution.stats["num_steps"] + (1 if solver.tableau.fsal else 0) + 1
        return denoiser(solution.ys[0], LOWEST), calls

    return jax.vmap(one)


def tables() -> dict[str, Callable[[np.ndarray], diffusion.StepTable]]:
    """The samplers that are tables, by name: made from a grid."""

    def adams(**options: Any) -> Callable[[np.ndarray], diffusion.StepTable]:
        return lambda grid: diffusion.adams_table(grid, **options)

    unipc = {"corrector": True, "variant": "half", "end": "lower"}
    return {
        "DDIM": adams(order=1),
        "2S": diffusion.single_step_table,
        "2M": adams(order=2, variant="half"),
        "3M copied": diffusion.dpmpp_3m_table,
        "order 3": adams(order=3),
        "1+C": adams(order=1, corrector=True),
        "2+C": adams(order=2, corrector=True),
        "3+C": adams(order=3, corrector=True),
        "UniPC-2": adams(order=2, **unipc),
        "UniPC-3": adams(order=3, **unipc),
    }


LEAP = "UniPC-2, leap"
"""UniPC-2 on `leap_noise_scales`; all others walk Karras's."""

NAMES = ("DDIM", "Heun", *list(tables())[1:], LEAP)


def table_of(name: str, calls: int) -> diffusion.StepTable:
    """A sampler's table for a number of calls."""
    num_scales = (calls + 1) // 2 if name == "2S" else calls
    make = diffusion.leap_noise_scales if name == LEAP else diffusion.karras_noise_scales
    grid = np.asarray(make(num_scales, LOWEST, HIGHEST))
    return tables()["UniPC-2" if name == LEAP else name](grid)


def padded(table: diffusion.StepTable, num_steps: int) -> diffusion.StepTable:
    """The same sampler with idle steps at its end: one program runs all of them."""
    idle = num_steps - table.num_steps
    predictor = np.concatenate([table.predictor, np.zeros((idle, 3))])
    corrector = np.concatenate([np.zeros((num_steps, 1)), predictor], axis=1)
    if table.corrector is not None:
        corrector[: table.num_steps - 1] = table.corrector[:-1]
    return diffusion.StepTable(
        np.append(table.noise_scales, np.full(idle, LOWEST)),
        np.append(table.alphas, np.ones(idle)),
        np.append(table.decay, np.ones(idle)),
        predictor,
        corrector,
    )


@functools.cache
def _runner() -> Callable[[Any, Any], Any]:
    denoiser = problem()[0]

    def run(table: diffusion.StepTable, x: Any) -> Any:
        algorithm = diffusion.multistep(denoiser, table)
        return diffusion.sample(jax.random.key(0), algorithm, x, table.num_steps).x

    return jax.jit(run)


def sampler_error(name: str, calls: int) -> Measured:
    """The error of a sampler at the number of calls it can make below `calls`."""
    denoiser, x, truth = problem()
    if name == "Heun":
        grid = diffusion.karras_noise_scales((calls + 1) // 2, LOWEST, HIGHEST)
        found = jax.jit(lambda x: heun_points(denoiser, grid, x))(jnp.asarray(x))
        made = 2 * len(grid) - 1
    else:
        table = table_of(name, calls)
        made = table.num_steps
        found = _runner()(padded(table, max(CALLS)), jnp.asarray(x))
    return Measured(made, made, distance(np.asarray(found), truth))


def heun_points(denoiser: Any, grid: Any, x: Any) -> Any:
    """Heun's samples on a grid."""
    algorithm = diffusion.heun(denoiser, grid)
    return diffusion.sample(jax.random.key(0), algorithm, x, len(grid)).x


@functools.cache
def _adaptive_runner(name: str) -> Callable[[Any, Any], Any]:
    solver, log = SETUPS[name]
    denoiser = problem()[0]
    return jax.jit(lambda x, tolerance: adaptive(denoiser, solver, tolerance, log=log)(x))


def diffrax_error(name: str, tolerance: float) -> Measured:
    """The error of an adaptive solver at a tolerance, and its calls."""
    _, x, truth = problem()
    found, calls = _adaptive_runner(name)(jnp.asarray(x), jnp.asarray(tolerance))
    calls = np.asarray(calls)
    return Measured(float(calls.mean()), int(calls.max()), distance(np.asarray(found), truth))


SETUPS = {
    "diffrax Tsit5 in log noise": (diffrax.Tsit5(), True),
    "diffrax Dopri5 in log noise": (diffrax.Dopri5(), True),
    "diffrax Bosh3 in log noise": (diffrax.Bosh3(), True),
    "diffrax Dopri8 in log noise": (diffrax.Dopri8(), True),
    "diffrax Tsit5 in the noise": (diffrax.Tsit5(), False),
}


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared distance of rows."""
    return float(np.sqrt(np.mean(np.sum((found - truth) ** 2, axis=-1))))


def cases() -> list[Case]:
    """The fewest calls under an error of 0.02, which diffrax needs four times as many for."""
    contenders = [
        Contender(f"probjax {name}", functools.partial(_prepare_sampler, name))
        for name in (LEAP, "UniPC-2", "2+C", "2M")
    ]
    contenders += [
        Contender(name, functools.partial(_prepare_diffrax, name), peer=True) for name in SETUPS
    ]
    return [
        Case(
            "diffusion/work_precision: error 0.02", DESCRIPTION.format(level=LEVEL), "samples",
            NUM_POINTS, tuple(contenders), tolerance=LEVEL,
            bars=(Bar("samples per 1000 calls", 4.0, "diffrax"),),
        )
    ]  # fmt: skip


def fewest_calls(name: str, level: float = LEVEL, most: int = max(CALLS)) -> Measured:
    """The first number of calls at which a sampler is under an error, counting up."""
    for calls in range(4, most):
        found = sampler_error(name, calls)
        if found.calls == calls and found.error < level:
            return found
    raise ValueError(f"{name} needs more than {most} calls")


def loosest(name: str, level: float = LEVEL) -> tuple[float, Measured]:
    """The loosest tolerance of a setup that is under an error, by halves."""
    for number in range(40):
        tolerance = 0.5**number
        found = diffrax_error(name, tolerance)
        if found.error < level:
            return tolerance, found
    raise ValueError(f"{name} does not reach {level}")


def _figure(calls: float) -> dict[str, tuple[float, float, float]]:
    per_thousand = 1000 / calls
    return {"samples per 1000 calls": (per_thousand,) * 3}


def _prepare_sampler(name: str) -> Program:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        found = fewest_calls(name)
        denoiser, x, _ = problem()
        algorithm = diffusion.multistep(denoiser, table_of(name, int(found.calls)))
        steps = int(found.calls)
        program, seconds, temporary = compiled(
            lambda x: diffusion.sample(jax.random.key(0), algorithm, x, steps).x, jnp.asarray(x)
        )
    return _program(program, x, found, seconds, temporary)


def _prepare_diffrax(name: str) -> Program:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        tolerance, found = loosest(name)
        denoiser, x, _ = problem()
        solver, log = SETUPS[name]
        program, seconds, temporary = compiled(
            lambda x: adaptive(denoiser, solver, tolerance, log=log)(x)[0], jnp.asarray(x)
        )
    return _program(program, x, found, seconds, temporary)


def _program(
    program: Any, x: np.ndarray, found: Measured, seconds: float, temporary: int | None
) -> Program:
    def once() -> Any:
        with jax.enable_x64(True):
            return jax.block_until_ready(program(x))

    return Program(
        once, NUM_POINTS, {"distance": found.error}, seconds, temporary, _figure(found.calls)
    )


def measured() -> dict[str, Any]:
    """All tables: samplers at `CALLS`, diffrax by tolerance, the fewest calls under `LEVEL`."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return {
            "samplers": {
                name: [sampler_error(name, calls)._asdict() for calls in CALLS] for name in NAMES
            },
            "diffrax": {
                name: [diffrax_error(name, tolerance)._asdict() for tolerance in TOLERANCES]
                for name in SETUPS
            },
            "under": {
                **{n: fewest_calls(n)._asdict() for n in (LEAP, "UniPC-2", "2+C", "1+C", "2M")},
                **{name: loosest(name)[1]._asdict() for name in SETUPS},
            },
        }


def main() -> None:
    """Print the tables."""
    begun = time.perf_counter()
    found = measured()
    print("| calls | " + " | ".join(str(calls) for calls in CALLS) + " |")
    for name, row in found["samplers"].items():
        print(f"| {name} | " + " | ".join(f"{cell['error']:.2g}" for cell in row) + " |")
    for name, row in found["diffrax"].items():
        cells = (f"{c['calls']:.0f}/{c['most']}: {c['error']:.2g}" for c in row)
        print(f"{name}: " + ", ".join(cells))
    for name, cell in found["under"].items():
        print(f"under {LEVEL}: {name}: {cell['calls']:.0f} calls, {cell['error']:.3g}")
    print(f"{time.perf_counter() - begun:.0f} seconds")


if __name__ == "__main__":
    main()
