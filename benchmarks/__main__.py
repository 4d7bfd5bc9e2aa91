"""`python -m benchmarks [topic ...] [--json [FOLDER]] [--list]`.

A topic is a package (`diffusion`) or one of its modules (`diffusion/samplers`).
"""

import argparse
import ast
import importlib
import pathlib
import sys
import time
from typing import Any

import jax

from benchmarks import harness, machine, results, table

FOLDER = pathlib.Path(__file__).parent


def modules() -> dict[str, str]:
    """Each benchmark's `topic/module` and the first line of what it says of itself."""
    found = {}
    for path in sorted(FOLDER.glob("*/*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "cases" for node in tree.body):
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


def run(names: list[str], effort: harness.Effort, say: Any = print) -> dict[str, Any]:
    """Measure the cases of the named modules."""
    conditions = machine.conditions()
    cases = []
    for name in names:
        module = importlib.import_module(f"benchmarks.{name.replace('/', '.')}")
        cases += [harness.measure(case, effort, say) for case in module.cases()]
    return results.check(
        {
            "schema": results.SCHEMA,
            "machine": machine.describe(),
            "conditions": conditions,
            "cases": cases,
        }
    )


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 when measured, 2 for a wrong call."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic")
    parser.add_argument(
        "--json",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="write FOLDER/<package>.json, a file for each package that is measured; without "
        "FOLDER in benchmarks/results/<machine>",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    default = harness.Effort()
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="of one repeat")
    parser.add_argument("--budget", type=float, default=default.budget, help="seconds of a case")
    options = parser.parse_args(arguments)
    if options.list:
        for name, first in modules().items():
            print(f"{name:24} {first}")
        return 0
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    try:
        names = choose(options.topics)
    except ValueError as error:
        parser.error(str(error))

    jax.config.update("jax_num_cpu_devices", min(machine.cores(), 8))
    packages = {name.partition("/")[0]: [] for name in names}
    for name in names:
        packages[name.partition("/")[0]].append(name)
    here, paths = machine.describe(), {}
    if options.json is not None:
        folder = pathlib.Path(options.json or results.FOLDER / machine.slug(here))
        paths = {package: folder / f"{package}.json" for package in packages}
    try:  # before the measurement, not after it
        for path in paths.values():
            results.check_path(path, here)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    print(
        f"{here['cpu']}, {here['cores']} cores; {here['backend']}: {here['devices']} x "
        f"{here['device_kind']}"
    )
    begun = time.perf_counter()
    effort = harness.Effort(options.rounds, options.seconds, options.budget)
    for package, chosen in packages.items():
        found = run(chosen, effort, lambda line: print(line, file=sys.stderr, flush=True))
        versions = found["conditions"]["versions"].items()
        print(f"load before {package}: {found['conditions']['load_before']}")
        print(", ".join(f"{name} {value}" for name, value in versions))
        for case in found["cases"]:
            print(f"\n{table.text(case)}")
        if package in paths:
            try:
                results.write(found, paths[package])
            except (OSError, ValueError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            print(f"wrote {paths[package]}")
    print(f"\n{time.perf_counter() - begun:.0f} seconds in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
