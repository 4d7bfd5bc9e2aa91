"""Write the site's benchmark page from the committed results: `python -m benchmarks.render`.

With `--check` nothing is written; the exit code tells whether the page is up to date.
"""

import argparse
import pathlib
import sys
from typing import Any

from benchmarks import results, table

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

This page is written by `python -m benchmarks.render` from the files in `benchmarks/results`; edit
those, not it.

## How we measure

`make bench` runs every case on the machine at hand and prints a table; `python -m benchmarks
diffusion --json` runs one package and keeps the numbers in
`benchmarks/results/<machine>/diffusion.json`.

* **In turns.** All contenders of a case live in one process and are timed in rounds, A B C A B C
  and so on, after one call each to warm up. What disturbs the machine disturbs them all.
* **Run seconds** are the median over the rounds, with the quartiles in brackets. A clock stops
  only when the result is there (`block_until_ready`).
* **Compile seconds** are tracing, lowering and compiling together, with no cache on disk. A
  program that is not compiled has 0.
* **Temporary memory** is what the compiled program needs on one device besides its inputs and
  outputs. Where a contender cannot tell, the table says so.
* **No speed without its accuracy.** Each contender's result is compared with a float64
  computation of the same function. A contender whose error is unknown or above the case's
  tolerance is withheld, and the table says why.
* **The ratio** is taken within each round against the reference, which is the fastest peer that
  qualifies, and its median and quartiles are told. A peer that is not installed is named as
  absent.
* **Figures** in further columns are not of time (effective draws for each gradient, say): the
  median over several keys, with the smallest and the largest in brackets.
* **What is asked** stands below a table: the best of ours against the reference, or against the
  peer that is named.
* **One package, one run.** A file of results comes from one process on one machine; packages may
  be of different days and commits, and say so. On an accelerator the same command takes larger
  batches.

On a CPU the harness gives JAX one virtual device for each core, up to eight. PyTorch is measured
with one thread and with all; the faster is the reference. `torch.compile` is told beside it, and
is absent where it was not ready in 60 seconds.
"""


def page(runs: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The whole page, from the runs by machine and package."""
    parts = [INTRODUCTION]
    if not runs:
        parts.append("## Results\n\nNo results are committed yet.\n")
    for name in sorted(runs):
        parts.append(_machine(runs[name]))
    return "\n".join(parts)


def committed(folder: pathlib.Path = results.FOLDER) -> dict[str, dict[str, dict[str, Any]]]:
    """The committed runs by machine and package."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*.json")):
        runs = found.setdefault(path.parent.name, {})
        runs[path.stem] = results.load(path)
        if len({str(run["machine"]) for run in runs.values()}) > 1:
            raise ValueError(f"{path} is of another machine than its neighbours")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser("python -m benchmarks.render", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell whether it is up to date")
    options = parser.parse_args(arguments)
    text = page(committed())
    if options.check:
        return 0 if PAGE.exists() and PAGE.read_text() == text else 1
    PAGE.write_text(text)
    print(f"wrote {PAGE}")
    return 0


def _machine(runs: dict[str, dict[str, Any]]) -> str:
    machine = next(iter(runs.values()))["machine"]
    kind = "CPU" if machine["backend"] == "cpu" else machine["device_kind"]
    lines = [
        f"## {kind}: {machine['cpu']}, {machine['cores']} cores",
        "",
        f"{machine['system']}, JAX backend `{machine['backend']}` with {machine['devices']} "
        f"device{'s' * (machine['devices'] > 1)} of kind `{machine['device_kind']}`.",
        "",
    ]
    for package in sorted(runs):
        lines += _package(package, runs[package])
    return "\n".join(lines)


def _package(package: str, run: dict[str, Any]) -> list[str]:
    machine, conditions = run["machine"], run["conditions"]
    versions = ", ".join(f"{name} {value}" for name, value in conditions["versions"].items())
    lines = [
        f"### `{package}` {{: #{_anchor(machine, package)} }}",
        "",
        f"Measured on {conditions['date']} at commit {conditions['commit'] or 'unknown'}; "
        f"load before the run: {_load(conditions['load_before'])}. Versions: {versions}.",
        "",
    ]
    for case in run["cases"]:
        lines += [
            f"#### {case['name']} {{: #{_anchor(machine, case['name'])} }}",
            "",
            case["description"],
            "",
        ]
        lines += [f"{table.heading(case)}.", "", _line(table.headings(case))]
        lines.append(_line(("---", *["---:"] * (len(table.headings(case)) - 1))))
        lines += [_line(row) for row in table.rows(case)]
        lines.append("")
        for sentence in table.verdicts(case):
            lines += [f"{sentence[0].upper()}{sentence[1:]}.", ""]
    return lines


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _load(value: float | None) -> str:
    return "not told" if value is None else f"{value:g}"


def _anchor(machine: dict[str, Any], name: str) -> str:
    words = f"{machine['backend']} {machine['device_kind']} {machine['cores']} {name}"
    kept = "".join(letter if letter.isalnum() else "-" for letter in words.lower())
    return "-".join(part for part in kept.split("-") if part)


if __name__ == "__main__":
    sys.exit(main())
