"""`python -m benchmarks [topic ...] [--full] [--json [FOLDER]] [--list]`.

A topic is a package (`diffusion`) or one of its modules (`diffusion/samplers`). Without `--full`
rounds are few and some cases smaller, so that all of it ends within 15 minutes on two cores. The
tables are printed, and written beside the numbers in `runs/benchmarks/<machine>`.
"""

import argparse
import ast
import importlib
import os
import pathlib
import sys
import time
from typing import Any

import jax

from benchmarks import harness, machine, render, results

FOLDER = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs") / "benchmarks"

EXPECTED = {
    "diffeq/bridge": (13, 40),
    "diffeq/ensemble": (85, 450),
    "diffeq/stochastic": (20, 100),
    "diffusion/samplers": (45, 260),
    "diffusion/work_precision": (47, 180),
    "experiments/training": (60, 130),
    "mcmc/driver": (15, 80),
    "mcmc/posteriors": (200, 2200),
    "scaling/devices": (110, 260),
    "score/objectives": (50, 600),
    "sequence/ctc": (53, 600),
    "sequence/transducer": (13, 90),
}
"""About the seconds of each module on two cores, quick and full: they tell how much is left."""


class Progress:
    """Prints lines, each with the time that has passed and about how much is left."""

    def __init__(self, names: list[str], effort: harness.Effort) -> None:
        """All of `names` are ahead."""
        self.begun = time.perf_counter()
        self.ahead = {name: EXPECTED[name][effort.name == "full"] for name in names}
        self.whole = float(sum(self.ahead.values()))
        self.behind, self.part = 0.0, 0.0

    def begin(self, name: str, parts: int) -> None:
        """The module `name` comes next, in so many parts of equal length."""
        self.part = self.ahead.pop(name) / max(parts, 1)

    def end(self) -> None:
        """A part is done."""
        self.behind += self.part

    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun

    def left(self) -> float:
        """Seconds that the rest will take at the pace so far."""
        pace = self.passed() / self.behind if self.behind > 0.05 * self.whole else 1.0
        return max(self.whole - self.behind, 0.0) * pace

    def __call__(self, line: str) -> None:
        """Print a line."""
        told = f"[{_clock(self.passed())}, about {_clock(self.left())} left]"
        print(f"{told} {line}", file=sys.stderr, flush=True)


def modules() -> dict[str, str]:
    """Each benchmark's `topic/module` and the first line of what it says of itself."""
    found = {}
    for path in sorted(FOLDER.glob("*/*.py")):
        tree = ast.parse(path.read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if names & {"cases", "programs"}:
            first = (ast.get_docstring(tree) or "").partition("\n")[0]
            found[path.relative_to(FOLDER).with_suffix("").as_posix()] = first
    return found


def choose(topics: list[str]) -> list[str]:
    """The modules that `topics` name; all for none."""
    known = modules()
    chosen = []
    for topic in topics or list(known):
        matching = [name for name in known if topic in (name, name.partition("/")[0])]
        if not matching:
            raise ValueError(f"unknown topic {topic!r}; there are {', '.join(known)}")
        chosen += [name for name in matching if name not in chosen]
    return chosen


def run(names: list[str], effort: harness.Effort, progress: Progress) -> dict[str, Any]:
    """Measure the cases, or the programs, of the named modules of one package."""
    head = {
        "schema": results.SCHEMA,
        "machine": machine.describe(),
        "conditions": machine.conditions(),
        "effort": effort._asdict(),
    }
    found: dict[str, list[Any]] = {}
    for name in names:
        module, before = importlib.import_module(f"benchmarks.{name.replace('/', '.')}"), _spent()
        if hasattr(module, "programs"):
            progress.begin(name, 1)
            found.setdefault("programs", []).extend(module.programs(effort, progress))
            progress.end()
        else:
            quick = effort.name == "quick" and getattr(module, "quick_cases", None)
            cases = (quick or module.cases)()
            progress.begin(name, len(cases))
            for case in cases:
                begun = _spent()
                found.setdefault("cases", []).append(harness.measure(case, effort, progress))
                progress.end()
                progress(f"{case.name}: {_since(begun)}")
        progress(f"{name}: {_since(before)}")
    return results.check(head | found)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 when measured, 2 for a wrong call."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic")
    parser.add_argument("--full", action="store_true", help="the effort of committed results")
    parser.add_argument(
        "--json",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="write FOLDER/<package>.json, a file for each package that is measured; without "
        "FOLDER in benchmarks/results/<machine>, which takes --full",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one repeat")
    parser.add_argument("--budget", type=float, help="seconds of a case")
    options = parser.parse_args(arguments)
    if options.list:
        for name, first in modules().items():
            print(f"{name:24} {first}")
        return 0
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.json == "" and not options.full:
        parser.error("committed results are of full effort: add --full, or name a FOLDER")
    given = {name: getattr(options, name) for name in ("rounds", "seconds", "budget")}
    effort = harness.FULL if options.full else harness.QUICK
    effort = effort._replace(**{name: value for name, value in given.items() if value is not None})
    try:
        names = choose(options.topics)
    except ValueError as error:
        parser.error(str(error))

    jax.config.update("jax_num_cpu_devices", min(machine.cores(), 8))
    packages: dict[str, list[str]] = {}
    for name in names:
        packages.setdefault(name.partition("/")[0], []).append(name)
    here = machine.describe()
    folder = RUNS / machine.slug(here) if options.json is None else pathlib.Path(options.json)
    folder = results.FOLDER / machine.slug(here) if options.json == "" else folder
    paths = {package: folder / f"{package}.json" for package in packages}
    try:  # before the measurement, not after it
        for path in paths.values():
            results.check_path(path, here)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    print(
        f"{here['cpu']}, {here['cores']} cores; {here['backend']}: {here['devices']} x "
        f"{here['device_kind']}; effort: {effort.name}"
    )
    progress, begun = Progress(names, effort), _spent()
    for package, chosen in packages.items():
        found = run(chosen, effort, progress)
        print(render.text(found))
        try:
            results.write(found, paths[package])
            if options.json is None:
                paths[package].with_suffix(".md").write_text(
                    f"# {package}\n\n{render.tables(found)}"
                )
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(f"wrote {paths[package]}")
    print(f"\n{_since(begun)} in all")
    return 0


def _spent() -> tuple[float, float]:
    """Seconds of the clock, and of processors with those of ended children."""
    return time.perf_counter(), sum(os.times()[:4])


def _since(before: tuple[float, float]) -> str:
    wall, processors = (now - then for now, then in zip(_spent(), before, strict=True))
    return f"{wall:.0f} seconds, {processors:.0f} of processors"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


if __name__ == "__main__":
    sys.exit(main())
