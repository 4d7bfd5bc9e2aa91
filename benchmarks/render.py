"""Write the site's benchmark pages from the committed results: `python -m benchmarks.render`.

With `--check` nothing is written; the exit code tells whether the pages are up to date.
"""

import argparse
import pathlib
import sys
from typing import Any, NamedTuple

from benchmarks import results, summary, table
from benchmarks.scaling import page as scaling

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks"

Runs = dict[str, dict[str, dict[str, Any]]]
"""By machine and package."""


class Area(NamedTuple):
    """A page of one package."""

    title: str
    """Its heading, and the package's name in tables."""
    introduction: str
    """What is compared with what."""
    figure: str = ""
    """Markdown above the tables."""


AREAS = {
    "score": Area(
        "Score matching",
        "What the gradient of each objective costs in passes through the network, beside a plain "
        "regression and beside code that differentiates in reverse only. The objectives: "
        "[sliced](../score/sliced.md), [explicit and implicit](../score/explicit.md), "
        "[denoising](../score/denoising.md).",
    ),
    "diffusion": Area(
        "Diffusion",
        "What the loops of the [samplers](../diffusion/samplers.md) add to the evaluations of the "
        "network that they make, and how many evaluations an error takes.",
        summary.figure(
            "work_precision",
            "Error against denoiser calls on logarithmic axes. UniPC-2 is under 0.02 at 18 calls "
            "and, on the leaping grid, at 9; diffrax's adaptive solvers need 45 calls and more "
            "before their errors fall.",
            "Work and precision of the samplers with an exact denoiser; "
            "[what is measured](../diffusion/exponential.md#the-figure).",
        ),
    ),
    "mcmc": Area(
        "Samplers",
        "Effective draws per second and per gradient, with the warm-up counted, and what the "
        "driver of [many chains](../mcmc/driver.md) costs beside a loop by hand. The methods: "
        "[warm-up](../mcmc/warmup.md), [HMC](../mcmc/hamiltonian.md), [NUTS](../mcmc/nuts.md).",
    ),
    "diffeq": Area(
        "Differential equations",
        "[Ensembles](../diffeq/ensembles.md) of small equations, "
        "[diffrax with unrolled stages](../diffeq/diffrax_bridge.md) and "
        "[stochastic equations](../diffeq/orders.md), beside diffrax and SciPy.",
        summary.figure(
            "work_precision_ode",
            "Ten panels: for each of five problems, error against evaluations above and against "
            "seconds below, twelve solvers each. Euler falls slowest, order 8 fastest.",
            "Work and precision of twelve solvers on five problems; "
            "[what is measured](../experiments/work_precision.md).",
        ),
    ),
    "sequence": Area(
        "Sequences",
        "Loss and gradient of [CTC](../sequence/ctc.md) beside optax and PyTorch, and of the "
        "[transducer](../sequence/transducer.md) beside automatic differentiation.",
    ),
    "experiments": Area(
        "Experiments",
        "A whole training step of the [digits](../experiments/digits.md), beside the same in "
        "PyTorch.",
    ),
}

ORIGIN = (
    "This page is written by `python -m benchmarks.render` from the files in\n"
    "`benchmarks/results`; edit those, not it."
)
EMPTY = "No results are committed yet.\n"


def pages(runs: Runs) -> dict[str, str]:
    """All pages, by the names of their files."""
    found = {"index.md": summary.page(runs, {name: area.title for name, area in AREAS.items()})}
    for package in AREAS:
        found[f"{package}.md"] = area_page(package, runs)
    told = {name: run["scaling"] for name, run in runs.items() if "scaling" in run}
    found["scaling.md"] = scaling.page(told)
    return found


def area_page(package: str, runs: Runs) -> str:
    """The page of one package: a section for each machine."""
    area = AREAS[package]
    words = f"{area.title} beside peers, with the seconds, memory and errors that were measured."
    parts = [summary.front(words), f"# {area.title}, measured", ORIGIN, area.introduction]
    parts += [
        "How it is measured, and a summary of everything: [Benchmarks](index.md).",
        *([area.figure.rstrip()] if area.figure else []),
    ]
    told = [runs[name][package] for name in sorted(runs) if package in runs[name]]
    for run in told:
        name = summary.machine_name(run["machine"])
        parts += [f"## {name} {{: #{summary.anchor(run['machine'], package)} }}", tables(run)]
    if not told:
        parts.append(EMPTY)
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def tables(run: dict[str, Any]) -> str:
    """One run in Markdown: what it depends on, and a table for each case or program."""
    parts = [summary.circumstances(run)]
    if "programs" in run:
        return "\n\n".join([*parts, scaling.tables(run)]) + "\n"
    for case in run["cases"]:
        parts.append(f"### {case['name']} {{: #{summary.anchor(run['machine'], case['name'])} }}")
        parts += [case["description"], f"{table.heading(case)}."]
        parts.append(summary.grid(table.headings(case), table.rows(case)))
        parts += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in table.verdicts(case)]
    return "\n\n".join(parts) + "\n"


def text(run: dict[str, Any]) -> str:
    """One run for a terminal."""
    if "programs" in run:
        return tables(run)
    return "\n\n".join([summary.circumstances(run), *(table.text(case) for case in run["cases"])])


def committed(folder: pathlib.Path = results.FOLDER) -> Runs:
    """The committed runs by machine and package."""
    found: Runs = {}
    for path in sorted(folder.glob("*/*.json")):
        runs = found.setdefault(path.parent.name, {})
        runs[path.stem] = results.load(path)
        if len({str(run["machine"]) for run in runs.values()}) > 1:
            raise ValueError(f"{path} is of another machine than its neighbours")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser("python -m benchmarks.render", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="only tell whether they are as they should"
    )
    options = parser.parse_args(arguments)
    written = {FOLDER / name: text for name, text in pages(committed()).items()}
    if options.check:
        fine = all(path.exists() and path.read_text() == text for path, text in written.items())
        return 0 if fine else 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, content in written.items():
        path.write_text(content)
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
