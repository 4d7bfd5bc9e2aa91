r"""Problems and solvers of the work-precision comparison: each pair gives one curve of runs.

>>> cells = cells_of(("pendulum", "pleiades"), ("rk4", "yoshida4"))
>>> print(*(f"{cell.problem}/{cell.solver}" for cell in cells))
pendulum/rk4 pendulum/yoshida4 pleiades/rk4

Everything here runs in double precision.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax.diffeq import (
    REACHED,
    solve_adaptive,
    solve_fixed,
    solve_hamiltonian,
    solve_multistep,
    tableaus,
)
from probjax.diffeq.problems import PROBLEMS as ALL_PROBLEMS
from probjax.diffeq.problems import Problem
from probjax.experiments.work_precision_reference import (
    EPS,
    GROWTH,
    Found,
    dop853,
    reference,
    relative,
    start_of,
)

PROBLEMS = ("pendulum", "lotka_volterra", "kepler", "van_der_pol", "pleiades")
"""Keys of `diffeq.problems.PROBLEMS`."""

BLOCK = 64
"""Steps of one call of a fixed-step solver; how many calls there are is the bound of a loop, so
that one program serves every number of steps."""


class Cell(NamedTuple):
    """One curve."""

    problem: str
    """One of `PROBLEMS`."""
    solver: str
    """One of `SOLVERS`."""


class Solver(NamedTuple):
    """What is known of a solver before it is run."""

    family: str
    """`fixed`, `adams`, `symplectic`, `adaptive`, `diffrax` or `scipy`."""
    order: int
    """Order of the result."""
    method: str
    """Its name within the family."""

    @property
    def steps_are_fixed(self) -> bool:
        """Whether its work is set by a number of steps, not by a tolerance."""
        return self.family in ("fixed", "adams", "symplectic")


class Run(NamedTuple):
    """One point of a curve."""

    setting: float
    """Number of steps, or tolerance."""
    error: float
    """Root mean square at the end, relative to that of the reference; infinite if it failed."""
    scaled: float
    """Largest entry of `|error| / (1 + |reference|)`."""
    evaluations: int
    """Of the field; for an implicit solver, stages that were solved for."""
    seconds: float | None
    """Median of the repetitions, when it is timed."""


def _solvers() -> dict[str, Solver]:
    methods = tableaus.METHODS
    pairs = [name for name, tableau in methods.items() if tableau.b_hat is not None]
    return {
        **{name: Solver("fixed", tableau.order, name) for name, tableau in methods.items()},
        "ab4": Solver("adams", 4, "ab"),
        "abm4": Solver("adams", 4, "abm"),
        "yoshida4": Solver("symplectic", 4, "yoshida4"),
        "yoshida6": Solver("symplectic", 6, "yoshida6"),
        **{f"adaptive_{name}": Solver("adaptive", methods[name].order, name) for name in pairs},
        "diffrax_tsit5": Solver("diffrax", 5, "Tsit5"),
        "diffrax_dopri8": Solver("diffrax", 8, "Dopri8"),
        "diffrax_kvaerno5": Solver("diffrax", 5, "Kvaerno5"),
        "scipy_dop853": Solver("scipy", 8, "DOP853"),
    }


SOLVERS: dict[str, Solver] = _solvers()
"""All solvers by name."""

_FORCES: dict[str, Callable[[Any, Any], Any]] = {
    "pendulum": lambda t, q: -jnp.sin(q),
    "kepler": lambda t, q: -q / jnp.sum(q**2) ** 1.5,
}
_MOST_EVALUATIONS = {"pleiades": 2**16}
_ADAMS_STEPS = {
    "pendulum": 1024,
    "lotka_volterra": 2048,
    "kepler": 4096,
    "van_der_pol": 8192,
    "pleiades": 4096,
}
_ADAMS_COUNTS = 3
_MOST_STEPS = 300_000
_LONG = 0.1


def cells_of(problems: Sequence[str], solvers: Sequence[str]) -> list[Cell]:
    """List the curves there are, problem by problem.

    Args:
        problems: names of `PROBLEMS`.
        solvers: names of `SOLVERS`; symplectic ones appear at pendulum and Kepler only.

    Returns:
        The cells.

    Example:
        >>> len(cells_of(("pleiades",), tuple(SOLVERS)))
        29
    """
    return [
        Cell(problem, solver)
        for problem in problems
        for solver in solvers
        if SOLVERS[solver].family != "symplectic" or problem in _FORCES
    ]


def floor(cell: Cell, num_steps: float | int) -> float:
    """Tell which relative errors are large enough for a slope.

    What is not the method's own must be a twentieth at most, so that it moves a slope by 0.15 at
    most: the reference's error, and the rounding of all steps, which adds up as the square root
    of their number and grows like any error. 1000 times the machine epsilon is the least.

    Args:
        cell: problem and solver.
        num_steps: steps of the run.

    Returns:
        The floor.

    Example:
        >>> floor(Cell("pendulum", "rk4"), 64) == 1e3 * EPS
        True
    """
    rounding = EPS * num_steps**0.5 * GROWTH[cell.problem]
    return max(1e3 * EPS, 20 * reference(cell.problem).uncertainty, 20 * rounding)


def curve(
    cell: Cell, tolerances: Sequence[float], *, most_evaluations: int
) -> list[tuple[Run, Callable[[], Any]]]:
    """Run a solver on a problem with ever more work, without timing.

    Fixed steps double until the error is rounding or the work is `most_evaluations`; tolerances
    are taken in order.

    Args:
        cell: problem and solver.
        tolerances: relative tolerances, which are the absolute ones as well.
        most_evaluations: where doubling ends; 65536 is the most for Pleiades.

    Returns:
        The runs, least work first, each with a function that repeats it.

    Example:
        >>> runs = curve(Cell("pendulum", "rk4"), (), most_evaluations=1024)
        >>> print(*((int(run.setting), run.evaluations) for run, _ in runs))
        (64, 256) (128, 512) (256, 1024)
    """
    problem, solver = ALL_PROBLEMS[cell.problem], SOLVERS[cell.solver]
    exact = reference(cell.problem).end
    most = min(most_evaluations, _MOST_EVALUATIONS.get(cell.problem, most_evaluations))
    runs: list[tuple[Run, Callable[[], Any]]] = []
    for setting, solve in _settings(problem, solver, tuple(tolerances)):
        end, evaluations, reached = solve()
        end = end if reached else np.full_like(exact, np.nan)
        scaled = float(np.max(np.abs(end - exact) / (1 + np.abs(exact))))
        scaled = scaled if np.isfinite(scaled) else float("inf")
        error = relative(end, exact)
        runs.append((Run(float(setting), error, scaled, evaluations, None), solve))
        doubling = solver.family in ("fixed", "symplectic")
        if doubling and (error < floor(cell, setting) or 2 * evaluations > most):
            break
    return runs


def timed(solve: Callable[[], Any], repeats: int) -> float:
    """Time a run that has been compiled.

    Args:
        solve: what `curve` gave.
        repeats: how often; a run of more than a tenth of a second is timed once.

    Returns:
        The median, in seconds.

    Example:
        >>> timed(lambda: None, 3) < 0.1
        True
    """
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        solve()
        seconds.append(time.perf_counter() - begun)
        if seconds[0] > _LONG:
            break
    return statistics.median(seconds)


def _settings(
    problem: Problem, solver: Solver, tolerances: tuple[float, ...]
) -> Iterator[tuple[float | int, Callable[[], Found]]]:
    """Each setting with a function that solves; the program is compiled where it can be shared."""
    if solver.family == "adams":
        for i in range(_ADAMS_COUNTS):
            count = _ADAMS_STEPS[problem.name] * 2**i
            yield count, functools.partial(_call, _adams(problem, solver.method, count))
        return
    if solver.steps_are_fixed:
        program = _in_blocks(problem, solver)
        for i in range(32):
            yield BLOCK * 2**i, functools.partial(_call, program, 2**i)
    make = {"adaptive": _adaptive, "diffrax": _diffrax, "scipy": lambda *_: None}[solver.family]
    program = make(problem, solver.method)
    for rtol in tolerances:
        # Low orders would need a million steps for the last tolerances, implicit steps minutes.
        if rtol < 10.0 ** (-2 * solver.order - 2) or (solver.method == "Kvaerno5" and rtol < 1e-6):
            return
        if solver.family == "scipy":
            yield rtol, functools.partial(dop853, problem, rtol, rtol)
        else:
            yield rtol, functools.partial(_call, program, rtol)


def _call(program: Callable[..., Any], *inputs: Any) -> Found:
    with jax.enable_x64(True):
        end, evaluations, ok = jax.device_get(program(*inputs))
    return np.asarray(end), int(evaluations), bool(ok)


def _in_blocks(problem: Problem, solver: Solver) -> Callable[[int], Any]:
    """One program for every number of steps: a loop over calls of `BLOCK` steps."""
    y0, args = start_of(problem)
    start = y0
    if solver.family == "symplectic":
        half = y0.shape[0] // 2
        start = (y0[:half], y0[half:])

    def block(y: Any, t0: Any, t1: Any) -> Any:
        if solver.family == "symplectic":
            force = _FORCES[problem.name]
            return solve_hamiltonian(force, y, t0, t1, num_steps=BLOCK, method=solver.method)
        return solve_fixed(
            problem.field, y, t0, t1, num_steps=BLOCK, method=solver.method, args=args,
            checkpoint="none",
        )  # fmt: skip

    @jax.jit
    def run(blocks: jax.Array) -> Any:
        first, last = problem.span
        length = (last - first) / blocks

        def body(i: Any, carry: Any) -> Any:
            y, evaluations, ok = carry
            found = block(y, first + i * length, first + (i + 1) * length)
            return found.y, evaluations + found.stats.num_evaluations, ok & (found.result == 0)

        zero = jnp.zeros((), jnp.int32)
        y, evaluations, ok = jax.lax.fori_loop(0, blocks, body, (start, zero, jnp.array(True)))
        end = jnp.concatenate(y) if solver.family == "symplectic" else y
        return end, evaluations, ok

    return run


def _adams(problem: Problem, kind: str, num_steps: int) -> Callable[[], Any]:
    y0, args = start_of(problem)

    @jax.jit
    def run(y: jax.Array) -> Any:
        found = solve_multistep(
            problem.field, y, *problem.span, num_steps=num_steps, kind=kind, steps=4, args=args
        )
        return found.y, found.stats.num_evaluations, found.result == REACHED

    return functools.partial(run, y0)


def _adaptive(problem: Problem, method: str) -> Callable[[float], Any]:
    y0, args = start_of(problem)

    @jax.jit
    def run(rtol: jax.Array) -> Any:
        found = solve_adaptive(
            problem.field, y0, *problem.span, rtol=rtol, atol=rtol, args=args, method=method,
            max_steps=_MOST_STEPS,
        )  # fmt: skip
        return found.y, found.stats.num_evaluations, found.result == REACHED

    return run


def _diffrax(problem: Problem, method: str) -> Callable[[float], Any]:
    import diffrax

    y0, args = start_of(problem)
    solver = getattr(diffrax, method)()
    stages = solver.tableau.num_stages
    new = stages - 1 if solver.tableau.fsal else stages
    if method == "Kvaerno5":
        new = stages - 1  # the first stage is the field at the start, known from the last step

    @jax.jit
    def run(rtol: jax.Array) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(problem.field), solver, *problem.span, None, y0, args,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
            max_steps=_MOST_STEPS, throw=False,
        )  # fmt: skip
        ok = diffrax.is_successful(found.result)
        return found.ys[0], 1 + new * found.stats["num_steps"], ok

    def promoting(rtol: float) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return run(rtol)

    return promoting
