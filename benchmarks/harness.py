"""Measure the contenders of a case in one process, in turns, each with its accuracy.

A case is a piece of work that several contenders do: the library's own programs and their peers.
Each contender is prepared (built, compiled, its error found), warmed up, and then timed in rounds
A B C A B C ..., so that what disturbs the machine disturbs all of them. Ratios are taken within
each round. A contender whose error is unknown or too large is withheld: it has no speed.
"""

import contextlib
import importlib.util
import math
import signal
import statistics
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax


class Program(NamedTuple):
    """A contender that is ready to run."""

    once: Callable[[], Any]
    """Does `amount` units of work; returns when they are done."""
    amount: float
    """Units of work in one call."""
    errors: dict[str, float]
    """What the accuracy is about, and the error: relative, against float64 or the truth."""
    compile_seconds: float = 0.0
    """Tracing, lowering and compiling."""
    temporary_bytes: int | None = None
    """Peak temporary memory of one device; `None` where the contender cannot tell."""
    figures: Mapping[str, tuple[float, float, float]] = types.MappingProxyType({})
    """What else is told of it, more being better: smallest, median and largest over its keys."""


class Contender(NamedTuple):
    """One way of doing the work."""

    name: str
    """As printed."""
    prepare: Callable[[], Program]
    """Builds, compiles and checks."""
    peer: bool = False
    """Whether it is what the library is compared with."""
    in_reference: bool = True
    """Whether a peer may be the reference, which is the fastest of those that may."""
    requires: str | None = None
    """Import name of the package it needs."""
    limit_seconds: float | None = None
    """How long `prepare` may take."""


class Bar(NamedTuple):
    """What the best of the library's own contenders has to reach."""

    kind: str
    """`speed`: its speed over a peer's; `time`: its seconds over a peer's; or the name of a figure:
    its median over a peer's."""
    value: float
    """Largest allowed ratio of seconds, or smallest allowed ratio of anything else."""
    against: str | None = None
    """How the peers' names begin, of which the best counts; `None`: the reference."""


class Case(NamedTuple):
    """One comparison."""

    name: str
    """Module and variant."""
    description: str
    """What is done, at which size, and what the error is."""
    unit: str
    """Of the work, in the plural: `steps`, `samples`."""
    work: float
    """The units that the run seconds are told for."""
    contenders: tuple[Contender, ...]
    """The library's own and the peers, in the order of the rounds."""
    tolerance: float
    """Largest error of a contender that still counts as doing this work."""
    bars: tuple[Bar, ...] = ()
    """What is to be reached, if anything."""


class Effort(NamedTuple):
    """How long to measure."""

    rounds: int = 15
    """Rounds of timed repeats."""
    seconds: float = 1.0
    """A repeat calls `once` until this much time has passed."""
    budget: float = 90.0
    """Seconds after which a case starts no further round, once it has three."""
    name: str = "full"
    """`full`, what is committed, or `quick`, which also makes some cases smaller."""


FULL = Effort()
QUICK = Effort(rounds=5, seconds=0.1, budget=6.0, name="quick")


def pick(cpu: Any, accelerator: Any) -> Any:
    """Choose a size by the default backend."""
    return cpu if jax.default_backend() == "cpu" else accelerator


def compiled(fn: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float, int | None]:
    """Compile `fn` for `args`; give the executable, the seconds and the temporary bytes.

    Args:
        fn: a function, or one that is jitted already.
        *args: its arguments.
        **options: of `jax.jit`.
    """
    begun = time.perf_counter()
    fn = fn if hasattr(fn, "lower") else jax.jit(fn, **options)
    executable = fn.lower(*args).compile()
    seconds = time.perf_counter() - begun
    memory = executable.memory_analysis()
    return executable, seconds, None if memory is None else int(memory.temp_size_in_bytes)


def measure(case: Case, effort: Effort, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure a case.

    Args:
        case: what to compare.
        effort: how long.
        say: takes progress, a line each.

    Returns:
        The case's record, as `benchmarks.results` describes it.
    """
    ready: dict[str, tuple[Contender, Program]] = {}
    absent = []
    for contender in case.contenders:
        say(f"{case.name}: preparing {contender.name}")
        program, reason = _prepare(contender, case.tolerance)
        if program is None:
            say(f"{case.name}: {contender.name}: {reason}")
            absent.append({"name": contender.name, "reason": reason})
        else:
            ready[contender.name] = contender, program

    for _, program in ready.values():
        program.once()
    times: dict[str, list[float]] = {name: [] for name in ready}
    begun = time.perf_counter()
    for number in range(effort.rounds):
        if number >= 3 and time.perf_counter() - begun > effort.budget:
            break
        for name, (_, program) in ready.items():
            times[name].append(_repeat(program, effort.seconds) * case.work)
        say(f"{case.name}: round {number + 1} of {effort.rounds}")

    reference = _fastest(times, [n for n, (c, _) in ready.items() if c.peer and c.in_reference])
    ratio_of = "time" if any(bar.kind == "time" for bar in case.bars) else "speed"
    rows = []
    for name, (contender, program) in ready.items():
        quartiles = _quartiles(times[name])
        rows.append(
            {
                "name": name,
                "peer": contender.peer,
                "compile_seconds": _short(program.compile_seconds),
                "run_seconds": quartiles,
                "throughput": _short(case.work / quartiles[1]),
                "temporary_bytes": program.temporary_bytes,
                "errors": {what: _short(error) for what, error in program.errors.items()},
                "figures": {
                    what: [_short(value) for value in values]
                    for what, values in program.figures.items()
                },
                "ratio": _ratio(times[name], times[reference], ratio_of) if reference else None,
            }
        )
    return {
        "name": case.name,
        "description": case.description,
        "unit": case.unit,
        "work": case.work,
        "rounds": len(next(iter(times.values()), [])),
        "reference": reference,
        "ratio_of": ratio_of,
        "bars": [_judge(bar, rows, times, reference) for bar in case.bars],
        "contenders": rows,
        "absent": absent,
    }


def _prepare(contender: Contender, tolerance: float) -> tuple[Program | None, str]:
    """The program, or why there is none. Only a peer may fail."""
    package = contender.requires
    if package is not None and importlib.util.find_spec(package) is None:
        return None, f"not installed ({package})"
    begun = time.perf_counter()
    try:
        with _limit(contender.limit_seconds):
            program = contender.prepare()
    except Exception as error:
        if not contender.peer:
            raise
        limit = contender.limit_seconds
        if limit is not None and time.perf_counter() - begun >= limit:  # whatever it became
            return None, f"not ready within {limit:g} seconds"
        first = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {first[0][:120]}"
    if not program.errors or not all(math.isfinite(error) for error in program.errors.values()):
        return None, "withheld: its accuracy is not known"
    what, error = max(program.errors.items(), key=lambda pair: pair[1])
    if error > tolerance:
        return None, f"withheld: error of the {what} is {error:.1e}, above {tolerance:.0e}"
    return program, ""


@contextlib.contextmanager
def _limit(seconds: float | None) -> Iterator[None]:
    """Raise `TimeoutError` after so many seconds, where the platform can."""
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _repeat(program: Program, seconds: float) -> float:
    """Seconds for one unit, over calls that fill `seconds`."""
    calls, begun = 0, time.perf_counter()
    while True:
        program.once()
        calls += 1
        spent = time.perf_counter() - begun
        if spent >= seconds:
            return spent / (calls * program.amount)


def _fastest(times: dict[str, list[float]], names: list[str]) -> str | None:
    return min(names, key=lambda name: statistics.median(times[name]), default=None)


def _ratio(own: list[float], other: list[float], kind: str) -> list[float]:
    """Quartiles of the ratios within each round."""
    if kind == "time":
        return _quartiles([mine / theirs for mine, theirs in zip(own, other, strict=True)])
    return _quartiles([theirs / mine for mine, theirs in zip(own, other, strict=True)])


def _judge(
    bar: Bar, rows: list[dict[str, Any]], times: dict[str, list[float]], reference: str | None
) -> dict[str, Any]:
    """Hold the best of our own against the best of the peers that the bar names."""

    def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        if bar.kind in ("speed", "time"):
            name = _fastest(times, [row["name"] for row in rows])
            return next((row for row in rows if row["name"] == name), None)
        told = [row for row in rows if bar.kind in row["figures"]]
        return max(told, key=lambda row: row["figures"][bar.kind][1], default=None)

    own = best([row for row in rows if not row["peer"]])
    if bar.against is None:
        rivals = [row for row in rows if row["name"] == reference]
    else:
        rivals = [row for row in rows if row["peer"] and row["name"].startswith(bar.against)]
    rival = best(rivals)
    ratio = met = None
    if own is not None and rival is not None:
        if bar.kind in ("speed", "time"):
            ratio = _ratio(times[own["name"]], times[rival["name"]], bar.kind)
        else:
            ratio = [_short(own["figures"][bar.kind][1] / rival["figures"][bar.kind][1])] * 3
        met = ratio[1] <= bar.value if bar.kind == "time" else ratio[1] >= bar.value
    return {
        "kind": bar.kind,
        "value": bar.value,
        "against": rival["name"] if rival is not None else bar.against,
        "contender": own["name"] if own is not None else None,
        "ratio": ratio,
        "met": met,
    }


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return [_short(values[0])] * 3
    return [_short(value) for value in statistics.quantiles(values, n=4, method="inclusive")]


def _short(value: float) -> float:
    """Four significant digits: more is noise, and makes differences hard to read."""
    return float(f"{value:.4g}")
