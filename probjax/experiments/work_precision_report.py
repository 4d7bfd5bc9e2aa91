"""The report on work and precision: slopes in a table, errors in tolerances, curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from probjax.experiments import report
from probjax.experiments.work_precision_model import SOLVERS
from probjax.experiments.work_precision_quality import SMOOTH, bound
from probjax.sharding.progress import clock

_MEANING = {
    "pass": "The numbers are as they should be.",
    "review": "Something is not as it should be; read the reasons before using the numbers.",
    "fail": "A solver does not do what it claims.",
}
DRAWN = {
    "euler": ("#8a939c", "-"),
    "heun": ("#8a939c", "--"),
    "rk4": ("#1f6fb4", "-"),
    "butcher6": ("#1f6fb4", "--"),
    "abm4": ("#1f6fb4", ":"),
    "yoshida6": ("#7a4fa3", "-"),
    "adaptive_tsit5": ("#c8590a", "-"),
    "adaptive_bogacki_shampine": ("#c8590a", ":"),
    "diffrax_tsit5": ("#c8590a", "--"),
    "diffrax_dopri8": ("#2b8a4b", "-"),
    "diffrax_kvaerno5": ("#2b8a4b", ":"),
    "scipy_dop853": ("#2b8a4b", "--"),
}
"""Solvers that are drawn, where they were run, with colour and style."""


def render(found: Mapping[str, Any]) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.

    Returns:
        HTML.
    """
    gate, environment = found["gate"], found["environment"]
    slopes, factors = slope_table(found["cells"]), factor_table(found["cells"])
    return report.page(
        f"Work and precision: {gate['verdict']}",
        [
            report.verdict(gate, _MEANING),
            report.text(
                f"{len(found['cells'])} curves in {clock(found['seconds'])} on one "
                f"{environment['backend']} device, double precision, compilation included."
            ),
            report.section("Curves", _drawing(found)),
            report.section(
                "Slopes of fixed steps",
                report.table(*slopes) if slopes[1] else report.text("None."),
                report.text(
                    "Slope of the error against the number of steps, at the finest pair of runs "
                    "whose errors are above rounding and above what is known of the reference. "
                    "p: pre-asymptotic, the slope has not settled; r: no pair above rounding. "
                    f"Judged on {' and '.join(SMOOTH)}; the other problems are uneven.",
                    soft=True,
                ),
            ),
            report.section(
                "Errors of adaptive steps",
                report.table(*factors) if factors[1] else report.text("None."),
                report.text(
                    "Largest error at the end over all tolerances, in tolerances (1 + |y|), and "
                    "what it may be: 20 times the growth of an error within the problem.",
                    soft=True,
                ),
            ),
            report.section("Checks", _checks(gate)),
            report.provenance(found, "errors"),
        ],
    )


def slope_table(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Lay out slopes, a row for each solver with fixed steps.

    Args:
        cells: those of `metrics.json`.

    Returns:
        Header and rows.

    Example:
        >>> slope_table([{"problem": "kepler", "solver": "rk4", "slope": -4.01, "flag": None}])
        (['solver', 'order', 'kepler'], [['rk4', '4', '-4.01']])
    """

    def show(cell: Mapping[str, Any] | None) -> str:
        if cell is None:
            return ""
        slope = "none" if cell["slope"] is None else f"{cell['slope']:.2f}"
        return slope + (f" {cell['flag'][0]}" if cell["flag"] else "")

    return _table(cells, True, show, [])


def factor_table(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Lay out errors in tolerances, a row for each adaptive solver, and the bounds.

    Args:
        cells: those of `metrics.json`.

    Returns:
        Header and rows.

    Example:
        >>> factor_table([{"problem": "kepler", "solver": "adaptive_tsit5", "factor": 99.1}])[1]
        [['adaptive_tsit5', '5', '99'], ['at most', '', '9300']]
    """

    def show(cell: Mapping[str, Any] | None) -> str:
        if cell is None:
            return ""
        return "failed" if cell["factor"] is None else _digits(cell["factor"], 2)

    return _table(cells, False, show, ["at most", ""])


def _digits(x: float, digits: int) -> str:
    """A few digits, without an exponent."""
    return f"{float(f'{x:.{digits}g}'):.7g}"


def _table(
    cells: Sequence[Mapping[str, Any]], fixed: bool, show: Any, bounds: list[str]
) -> tuple[list[str], list[list[str]]]:
    kept = [cell for cell in cells if SOLVERS[cell["solver"]].steps_are_fixed == fixed]
    problems = list(dict.fromkeys(cell["problem"] for cell in kept))
    at = {(cell["problem"], cell["solver"]): cell for cell in kept}
    solvers = sorted(dict.fromkeys(cell["solver"] for cell in kept), key=list(SOLVERS).index)
    rows = [
        [solver, str(SOLVERS[solver].order), *(show(at.get((p, solver))) for p in problems)]
        for solver in solvers
    ]
    if rows and bounds:
        rows.append([*bounds, *(_digits(bound(p), 3) for p in problems)])
    return ["solver", "order", *problems], rows


def draw(cells: Sequence[Mapping[str, Any]], *, ink: str = "black") -> Any:
    """Draw errors against evaluations above, and against seconds below.

    Args:
        cells: those of `metrics.json`.
        ink: colour of words and axes.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    problems = list(dict.fromkeys(cell["problem"] for cell in cells))
    figure, axes = plt.subplots(
        2, len(problems), figsize=(2.9 * len(problems) + 0.8, 6.6), layout="constrained",
        sharey="col", squeeze=False,
    )  # fmt: skip
    lines: dict[str, Any] = {}
    for column, problem in enumerate(problems):
        for cell in cells:
            if cell["problem"] != problem or cell["solver"] not in DRAWN:
                continue
            colour, style = DRAWN[cell["solver"]]
            errors = [math.nan if e is None else min(e, 1e3) for e in cell["errors"]]
            for row, name in enumerate(("evaluations", "run_seconds")):
                lines[cell["solver"]] = axes[row, column].plot(
                    cell[name], errors, color=colour, ls=style, lw=1.4, marker=".", ms=3.5
                )[0]
        axes[0, column].set_title(problem.replace("_", " "), color=ink)
        axes[0, column].set_xlabel("evaluations", color=ink)
        axes[1, column].set_xlabel("seconds", color=ink)
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log", ylim=(1e-14, 10))
        axis.tick_params(colors=ink, which="both")
    for row in axes:
        row[0].set_ylabel("relative error at the end", color=ink)
    order = [name for name in DRAWN if name in lines]
    figure.legend(
        [lines[name] for name in order], [name.replace("_", " ") for name in order],
        loc="outside lower center", ncols=min(6, 2 * len(problems)), frameon=False,
        labelcolor=ink, fontsize=9,
    )  # fmt: skip
    return figure


def _drawing(found: Mapping[str, Any]) -> str:
    return report.drawing(
        draw(found["cells"]),
        "Relative error at the end against evaluations of the field (above) and seconds without "
        "compilation (below). Evaluations of the implicit solver are stages it solved for.",
    )


def _checks(gate: Mapping[str, Any]) -> str:
    rows = [
        [name, one["solver"], "none" if one["value"] is None else f"{one['value']:.3g}",
         f"at most {one['limit']:.4g}", one["verdict"]]
        for name, one in gate["checks"].items()
    ]  # fmt: skip
    marked = [i for i, row in enumerate(rows) if row[-1] != "pass"]
    return report.table(["check", "furthest out", "value", "pass", "verdict"], rows, marked=marked)
