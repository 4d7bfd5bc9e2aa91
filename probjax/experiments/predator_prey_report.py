"""The report on hares and lynxes: every optimum in a table, the best against the counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probjax.experiments import report
from probjax.experiments.predator_prey_quality import ANCHOR_RATES, ANCHOR_VALUE, PUBLISHED
from probjax.sharding.progress import clock

SHOWN = 5
"""Optima that are told of and drawn, lowest first."""

_BLUE, _ORANGE, _GREY = "#1f6fb4", "#c8590a", "#8a939c"


def render(found: Mapping[str, Any], drawn: Mapping[str, np.ndarray]) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.
        drawn: `years`, `counts`, and `curve_0`, ... of the optima, both populations finely sampled.

    Returns:
        HTML.
    """
    config, gate, environment = found["config"], found["gate"], found["environment"]
    head = (
        f"{config['num_starts']} starts, {config['num_iterations']} steps each, in "
        f"{clock(found['seconds'])} on {environment['devices']} {environment['backend']} "
        f"device(s), compilation included; {found['lost']} found no solution at all."
    )
    return report.page(
        f"Hares and lynxes: {gate['verdict']}",
        [
            report.verdict(gate),
            report.text(head),
            report.section("Optima", *_optima(found)),
            report.section("The fit", _drawing(drawn)),
            report.section("Checks", _checks(gate)),
            report.provenance(found, "fits"),
        ],
    )


def table_of(found: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Lay out the optima, and what is known from elsewhere.

    Args:
        found: what `metrics.json` holds.

    Returns:
        Header and rows; the last two rows are the known optimum and the published posterior.
    """
    header = [
        "negative log-likelihood", "starts", "birth", "predation", "death", "growth",
        "first hares", "first lynxes", "scatter of hares", "of lynxes", "period", "R² of hares",
        "of lynxes",
    ]  # fmt: skip
    rows = []
    for one in found["optima"]:
        period = "none" if one["period"] is None else f"{one['period']:.2f}"
        rows.append(
            [f"{one['value']:.3f}", one["starts"], *(f"{x:.4g}" for x in one["parameters"]),
             period, *(f"{x:.3f}" for x in one["r_squared"])]
        )  # fmt: skip
    known = [f"{ANCHOR_VALUE:.3f} (known)", "", *(f"{x:.4g}" for x in ANCHOR_RATES)]
    means = ["published means", "", *(f"{m:g} ± {s:g}" for m, s in PUBLISHED)]
    return header, [*rows, *(row + [""] * (len(header) - len(row)) for row in (known, means))]


def draw(drawn: Mapping[str, np.ndarray], *, ink: str = "black") -> Any:
    """Draw counts and best fit over the years, and all optima as orbits.

    Args:
        drawn: as for `render`.
        ink: colour of words and axes.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 4), layout="constrained", width_ratios=(1.7, 1)
    )  # fmt: skip
    years, counts = drawn["years"], drawn["counts"]
    curves = [drawn[name] for name in sorted(drawn) if name.startswith("curve_")]
    for k, (name, colour) in enumerate((("hares", _BLUE), ("lynxes", _ORANGE))):
        axes[0].plot(years, counts[:, k], "o", color=colour, ms=5, label=name)
        if curves:
            fine = np.linspace(years[0], years[-1], len(curves[0]))
            axes[0].plot(fine, curves[0][:, k], color=colour, lw=1.8)
    axes[0].set_ylabel("pelts in thousands", color=ink)
    axes[0].set_xticks(years[::4].astype(int))
    axes[0].legend(frameon=False, labelcolor=ink)
    for i, curve in list(enumerate(curves))[::-1]:
        colour, width = ((_GREY, 1.0), ("#2b8a4b", 2.0))[i == 0]
        style = ("-", "--", ":", "-.", (0, (1, 3)))[i % 5]
        axes[1].plot(*curve.T, color=colour, lw=width, ls=style, label=f"optimum {i + 1}")
    axes[1].plot(*counts.T, ".", color=ink, ms=5)
    axes[1].set(xscale="log", yscale="log", xlim=(3, 200), ylim=(2, 100))
    axes[1].set_xlabel("hares", color=ink)
    axes[1].set_ylabel("lynxes", color=ink)
    handles, labels = axes[1].get_legend_handles_labels()
    axes[1].legend(handles[::-1], labels[::-1], frameon=False, labelcolor=ink, fontsize=9)
    for axis in axes:
        axis.tick_params(colors=ink, which="both")
    return figure


def _drawing(drawn: Mapping[str, np.ndarray]) -> str:
    return report.drawing(
        draw(drawn),
        "Left: counts as dots and the best fit as lines. Right: the orbits of all optima through "
        "the same counts.",
    )


def _optima(found: Mapping[str, Any]) -> list[str]:
    more = found["num_optima"] - len(found["optima"])
    left = (
        f" {more} more, each higher, are left out: most are fits that were not done."
        if more
        else ""
    )
    return [
        report.table(*table_of(found), marked=[0] if found["optima"] else []),
        report.text(
            "Rates in 1/year (predation and growth for each thousand of the other), pelts in "
            "thousands, scatter and R² of logarithms, period in years. An optimum above the first "
            "is where a start of another corner ends: a likelihood with several hills is climbed "
            f"from many sides or not at all.{left}",
            soft=True,
        ),
    ]


def _checks(gate: Mapping[str, Any]) -> str:
    rows = [
        [name, "not finite" if one["value"] is None else f"{one['value']:.4g}",
         f"at most {one['limit']:.4g}", one["verdict"]]
        for name, one in gate["checks"].items()
    ]  # fmt: skip
    marked = [i for i, row in enumerate(rows) if row[-1] != "pass"]
    return report.table(["check", "value", "pass", "verdict"], rows, marked=marked)
