"""The tabular-score report: what each objective reached, what it cost, whether to believe it."""

from collections.abc import Mapping, Sequence
from typing import Any

from probjax.experiments import report

_COLOURS = ("#1f6fb4", "#c8590a", "#2b8a4b", "#b3304a")


def render(found: Mapping[str, Any]) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.

    Returns:
        HTML.
    """
    gate, config = found["gate"], found["config"]
    worse = ", ".join(gate["worse"]) or "none"
    blocks = [
        report.verdict(gate),
        report.text(
            f"{len(config['objectives'])} objectives and the Gaussian on "
            f"{len(config['datasets'])} tables, {config['num_splits']} splits each. More than "
            f"three standard errors behind the best of their table: {worse}."
        ),
        report.section(
            "Objectives against each other",
            report.drawing(
                draw(found["results"]),
                "Left, the implicit objective on test rows, lower is better, with standard errors "
                "over splits and each split as a dot; right, seconds of a fit.",
            ),
            report.text(
                "Splits differ more than objectives do; comparisons are therefore made on the "
                "same split.",
                soft=True,
            ),
        ),
    ]
    blocks += [report.section(one["data"], *_table(one)) for one in found["results"]]
    blocks += [
        report.section(
            "Validation along the fits",
            report.drawing(
                curves(found["results"], config["fitting"]["check_every"]),
                "The implicit objective on validation rows against the step, mean over splits.",
            ),
        ),
        report.section(
            "How discrete the columns are",
            *(block for one in found["results"] for block in _columns(one)),
            report.text(
                "Rounded columns have no density, and the implicit objective of them no lower "
                "bound. Uniform noise of plus or minus the median gap between neighbouring values "
                "joins most values to a neighbour; the normal noise on all rows bounds the "
                "objective for every model by the floor given above.",
                soft=True,
            ),
        ),
        report.provenance(found, "fits"),
    ]
    return report.page(f"Scores of tables: {gate['verdict']}", blocks)


def draw(results: Sequence[Mapping[str, Any]], *, ink: str = "black") -> Any:
    """Draw test values and seconds of every objective on every table.

    Args:
        results: one for each table, as in `metrics.json`.
        ink: colour of words.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    figure, axes = plt.subplots(
        len(results), 2, figsize=(9.5, 0.6 + 2.1 * len(results)), squeeze=False,
        sharey="row", layout="constrained", gridspec_kw={"width_ratios": [3, 2]},
    )  # fmt: skip
    for (left, right), one in zip(axes, results, strict=True):
        names = ["Gaussian", *(cell["objective"].upper() for cell in one["cells"])]
        values = [one["gaussian"], *(cell["test"] for cell in one["cells"])]
        for place, splits in enumerate(values):
            shown = [value for value in splits if value is not None]
            colour = ink if place == 0 else _COLOURS[0]
            left.plot(shown, [place] * len(shown), "o", ms=3, color=colour, alpha=0.35)
        for place, row in enumerate(one["comparison"], start=1):
            if row["mean"] is not None:
                left.errorbar(row["mean"], place, xerr=row["se"], fmt="o", color=_COLOURS[0])
        left.set_yticks(range(len(names)), names, color=ink)
        left.invert_yaxis()
        left.set_title(f"{one['data']}, {one['dim']} dimensions", loc="left", color=ink)
        seconds = [cell["seconds_per_fit"] for cell in one["cells"]]
        right.barh(range(1, len(names)), seconds, height=0.6, color=_COLOURS[1])
        right.tick_params(labelleft=False)
    axes[-1, 0].set_xlabel("implicit objective on test rows", color=ink)
    axes[-1, 1].set_xlabel("seconds of a fit", color=ink)
    return figure


def curves(results: Sequence[Mapping[str, Any]], check_every: int) -> Any:
    """Draw the validation values of all objectives, averaged over splits.

    Args:
        results: as for `draw`.
        check_every: steps between two values.

    Returns:
        A Matplotlib figure. A split that has stopped keeps its program's later, unused values
        out of the picture: a line ends with its first stopped split.
    """
    plt = report.pyplot()
    figure, axes = plt.subplots(
        1, len(results), figsize=(4.2 * len(results), 3.2), squeeze=False, layout="constrained"
    )
    for axis, one in zip(axes[0], results, strict=True):
        for cell in one["cells"]:
            length = min(cell["checks"])
            rows = [row for row in cell["curve"][:length] if None not in row]
            steps = [check_every * (i + 1) for i in range(len(rows))]
            axis.plot(steps, [sum(row) / len(row) for row in rows], lw=1.4, label=cell["objective"])
        axis.set(title=one["data"], xlabel="step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _table(one: Mapping[str, Any]) -> list[str]:
    gaussian = [value for value in one["gaussian"] if value is not None]
    mean = sum(gaussian) / max(len(gaussian), 1)
    rows = [["Gaussian", f"{mean:.2f}", *[""] * 7]]
    for cell, row in zip(one["cells"], one["comparison"], strict=True):
        steps = sum(cell["checks"]) / len(cell["checks"])
        rows.append(
            [
                cell["objective"], _pair(row["mean"], row["se"]),
                _pair(row["gain"], row["gain_se"]), _pair(row["behind"], row["behind_se"]),
                "worse" if row["is_worse"] else "", f"{cell['backwards']:.2f}",
                f"{steps:.0f}", f"{cell['seconds_per_fit']:.1f}", f"{cell['compile_seconds']:.1f}",
            ]
        )  # fmt: skip
    header = [
        "objective", "test", "better than Gaussian by", "behind the best by", "",
        "backwards a step", "checks a fit", "seconds a fit", "seconds to compile",
    ]  # fmt: skip
    marked = [i for i, row in enumerate(rows) if row[4] == "worse"]
    dropped = "; ".join(f"{name}, {reason}" for name, reason in one["dropped"].items())
    return [
        report.table(header, rows, marked=marked),
        report.text(
            f"{one['num_rows']} rows ({one['num_repeated']} repeat another), "
            f"{one['num_train']} for training, {one['num_validation']} for validation, "
            f"{one['num_test']} for testing, {one['dim']} dimensions. No model can be below "
            f"{one['floor']:.0f} in expectation under this noise. Seconds are without "
            "compilation, all splits of an objective being fitted together."
            + (f" Left out: {dropped}." if dropped else ""),
            soft=True,
        ),
    ]


def _columns(one: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{one['data']}: {c['column']}", c["distinct"], f"{c['gap']:.3g}",
            f"{c['gap_in_sd']:.4f}", f"{c['largest_share']:.1%}", f"{c['rows_apart']:.1%}",
        ]
        for c in one["columns"]
    ]  # fmt: skip
    header = [
        "column", "distinct values", "median gap", "in standard deviations", "most frequent value",
        "rows apart by over two gaps",
    ]  # fmt: skip
    return [report.table(header, rows)]


def _pair(value: float | None, error: float | None) -> str:
    return "not finite" if value is None or error is None else f"{value:.2f} ± {error:.2f}"
