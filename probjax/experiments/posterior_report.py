"""The posterior report: can the draws be trusted, what do they say, and what did they cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probjax.experiments import report
from probjax.experiments.posterior_quality import hardest
from probjax.sharding.progress import clock

_COLUMNS = ("mean", "sd", "q05", "q50", "q95", "rhat", "bulk_ess", "tail_ess", "mcse")
_HEADER = (
    "parameter", "mean", "sd", "5 %", "50 %", "95 %", "R-hat", "bulk ESS", "tail ESS", "MCSE",
)  # fmt: skip
_MEANING = {
    "pass": "The draws pass every check that could be made.",
    "review": "Something is not as it should be; read the reasons before using the draws.",
    "fail": "Do not use these draws.",
}


def render(found: Mapping[str, Any], draws: np.ndarray, info: Any) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.
        draws: draws of the parameters, `(C, N, k)`.
        info: what the kernel told of them, fields `(C, N)`.

    Returns:
        HTML.
    """
    config, size, gate = found["config"], found["size"], found["gate"]
    environment, rows = found["environment"], found["parameters"]
    names = [row["name"] for row in rows]
    shown = hardest(rows, 6)
    told = (
        f"Means are held against {found['truth_from']}."
        if found["truth_from"]
        else "The true means are not known here, so only the chains are held against each other."
    )
    head = (
        f"{found['about']} Sampled by {config['sampler']}: {size['num_chains']} chains, "
        f"{size['num_warmup']} steps of warm-up and {size['num_steps']} more, on "
        f"{environment['devices']} {environment['backend']} device(s), {config['precision']}."
    )
    return report.page(
        f"{found['posterior']}: {gate['verdict']}",
        [
            report.verdict(gate, _MEANING, told),
            report.text(head + _starts(found["warmup"]["starts"]), soft=True),
            report.section("Checks", _checks(gate)),
            report.section("Parameters", _parameters(rows, shown)),
            report.section("Cost and divergences", *_cost(found)),
            report.section(
                "Traces and ranks",
                report.text(
                    f"The {len(shown)} parameters with the smallest effective sample size. Left: "
                    "every chain in its own colour; they should overlap and not drift. Right: how "
                    "often each chain holds the lowest, ..., highest draws; lines should stay "
                    "around one.",
                    soft=True,
                ),
                report.drawing(
                    traces(names, draws, shown), "Traces of the chains, and their ranks"
                ),
            ),
            report.section(
                "Pairs",
                report.drawing(
                    pairs(names, draws, np.asarray(info.is_divergent), hardest(rows, 4)),
                    "Pairs of parameters; red crosses are divergent steps",
                ),
            ),
            report.provenance(found, "draws"),
        ],
    )


def traces(names: list[str], draws: np.ndarray, shown: list[int]) -> Any:
    """Draw each parameter's chains over time, and the ranks of their draws.

    Args:
        names: of all parameters.
        draws: `(C, N, k)`.
        shown: which of them.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    number = draws.shape[1]
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(9, 1.5 * len(shown) + 0.4), squeeze=False,
        gridspec_kw={"width_ratios": [2, 1]}, layout="constrained",
    )  # fmt: skip
    steps = np.unique(np.linspace(0, number - 1, 400).astype(int))
    for (left, right), index in zip(axes, shown, strict=True):
        for chain, heights in zip(draws[:16, :, index], ranks(draws[..., index]), strict=False):
            left.plot(steps, chain[steps], lw=0.6, alpha=0.8, rasterized=True)
            right.step(np.arange(len(heights)), heights, where="mid", lw=1.0)
        left.set_ylabel(names[index])
        right.set(ylim=(0, None), xticks=[])
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("kept draw")
    axes[-1, 1].set_xlabel("rank among all draws")
    return figure


def ranks(values: np.ndarray, num_bins: int = 20) -> np.ndarray:
    """Count how each chain's draws spread over the ranks of all.

    Args:
        values: one parameter's draws `(C, N)`.
        num_bins: groups of neighbouring ranks.

    Returns:
        `(C, num_bins)`, one where a chain holds its share.

    Example:
        >>> print(ranks(np.array([[0.0, 1.0], [2.0, 3.0]]), 2))
        [[2. 0.]
         [0. 2.]]
    """
    order = np.argsort(np.argsort(values, axis=None, kind="stable"))
    bins = (order * num_bins // order.size).reshape(values.shape)
    counts = np.stack([np.bincount(chain, minlength=num_bins) for chain in bins])
    return counts * num_bins / values.shape[1]


def pairs(names: list[str], draws: np.ndarray, divergent: np.ndarray, shown: list[int]) -> Any:
    """Draw every pair of some parameters, divergent steps on top.

    Args:
        names: of all parameters.
        draws: `(C, N, k)`.
        divergent: flags `(C, N)`.
        shown: which of them.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    flat, flags = draws.reshape(-1, draws.shape[-1]), divergent.reshape(-1)
    some = np.unique(np.linspace(0, len(flat) - 1, 2000).astype(int))
    side = len(shown)
    figure, axes = plt.subplots(
        side, side, figsize=(2.1 * side, 2.1 * side), squeeze=False, layout="constrained"
    )
    for i, row in enumerate(shown):
        for j, column in enumerate(shown):
            axis = axes[i, j]
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=7)
            if j > i:
                axis.set_axis_off()
            elif i == j:
                values = flat[np.isfinite(flat[:, row]), row]
                axis.hist(values, bins=40, color="#1f6fb4")
                axis.set_yticks([])
            else:
                axis.plot(
                    flat[some, column], flat[some, row], ".", ms=1.5, alpha=0.5, color="#1f6fb4",
                    rasterized=True,
                )  # fmt: skip
                axis.plot(
                    flat[flags, column][:500], flat[flags, row][:500], "x", ms=4, color="#d62728",
                    rasterized=True,
                )  # fmt: skip
            if i == side - 1:
                axis.set_xlabel(names[column], fontsize=9)
            if j == 0:
                axis.set_ylabel(names[row], fontsize=9)
    return figure


def _checks(gate: Mapping[str, Any]) -> str:
    rows = []
    for name, one in gate["checks"].items():
        value = _shown(one["value"]) if one["verdict"] else "not told by this sampler"
        limits = [_shown(one["pass"]), _shown(one["review"])]
        rows.append([name.replace("_", " "), value, *limits, one["verdict"] or ""])
    marked = [i for i, row in enumerate(rows) if row[-1] not in ("pass", "")]
    return report.table(["check", "value", "pass", "review", "verdict"], rows, marked=marked)


def _parameters(rows: list[dict[str, Any]], marked: list[int]) -> str:
    known = "truth" in rows[0]
    header = [*_HEADER, *(("known mean", "z") if known else ())]
    columns = [*_COLUMNS, *(("truth", "z") if known else ())]
    cells = [[row["name"], *(_shown(row[column]) for column in columns)] for row in rows]
    return report.table(header, cells, marked=marked)


def _starts(told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    return (
        f" Starts drawn by Pathfinder from the ends of {told['paths']} paths, Pareto k "
        f"{told['pareto_k']:.2f}."
    )


def _cost(found: Mapping[str, Any]) -> list[str]:
    cost, counts = found["cost"], found["counts"]
    gradients, seconds = cost["gradients"], cost["seconds"]
    divergent, steps = counts["divergent"], counts["steps"]
    return [
        report.text(
            f"{_shown(divergent)} of {steps:,.0f} steps diverged, "
            f"{_shown(counts['nonfinite'])} were not finite; mean acceptance "
            f"{_shown(counts['acceptance_rate'])} at step size "
            f"{_shown(found['warmup']['step_size'])}."
        ),
        report.table(
            ["", "warm-up", "sampling"],
            [
                ["gradients", _shown(gradients["warmup"]), _shown(gradients["sampling"])],
                ["time, compilation included", clock(seconds["warmup"]),
                 clock(seconds["sampling"])],
                ["time, compilation left out", "", clock(seconds["steady"])],
            ],
        ),
        report.text(
            f"The smallest effective sample size over x and x² is {_shown(cost['min_ess'])}:"
        ),
        report.table(
            ["effective draws", ""],
            [
                ["for a gradient", _shown(cost["ess_per_gradient"])],
                ["for a gradient, warm-up counted", _shown(cost["ess_per_gradient_with_warmup"])],
                ["for a second of sampling", _shown(cost["ess_per_second"])],
                ["for a second of all, compilation too",
                 _shown(cost["ess_per_second_with_warmup_and_compilation"])],
            ],
        ),
    ]  # fmt: skip


def _shown(value: float | None) -> str:
    """Four digits, and whole numbers in full."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
