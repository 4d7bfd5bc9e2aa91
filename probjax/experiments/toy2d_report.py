"""The toy report: the table of exact errors, their cost, and four panels for each density."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from probjax.experiments import report
from probjax.experiments.toy2d_model import HALF_WIDTH, OBJECTIVES
from probjax.sharding.progress import clock

_TITLES = {
    "eight_gaussians": "eight Gaussians",
    "rings": "rings",
    "two_spirals": "two spirals",
    "checkerboard": "checkerboard",
}
_LONGEST = 6.0


def render(found: Mapping[str, Any], drawn: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.
        drawn: by density, `data`, `langevin`, `field`, `energy` and the exact `true_field`,
            `true_energy`.

    Returns:
        HTML.
    """
    config, gate, environment = found["config"], found["gate"], found["environment"]
    fit = config["fit"]
    head = (
        f"{len(found['cells'])} cells of {config['seeds']} seeds each in "
        f"{clock(found['seconds'])} on {environment['devices']} {environment['backend']} "
        f"device(s): {fit['num_steps']} steps of {fit['batch_size']} fresh draws, networks "
        f"{'-'.join(map(str, fit['widths']))}."
    )
    pictures = [
        report.drawing(
            draw_panels(parts),
            f"{_TITLES[density]}: data, Langevin samples, energy and score of the learned model",
        )
        for density, parts in drawn.items()
    ]
    return report.page(
        f"Toy densities: {gate['verdict']}",
        [
            report.verdict(gate),
            report.text(head),
            report.section("Exact Fisher divergence", *_divergences(found)),
            report.section("Against one common density", *_common(found)),
            report.section("Cost", *_cost(found)),
            report.section(
                "What was learned",
                report.text(
                    f"Models of {OBJECTIVES[_shown(config)].title}, first seed, on the square "
                    "[-4, 4] squared. The energy is the one whose slope is nearest to the learned "
                    "field; arrows are cut at a length, where no data are they mean little.",
                    soft=True,
                ),
                *pictures,
            ),
            report.section("Checks", _checks(gate)),
            report.provenance(
                found, "drawn", remark="Those of each cell's parameters are in metrics.json."
            ),
        ],
    )


def draw_panels(parts: Mapping[str, np.ndarray], *, ink: str = "black") -> Any:
    """Draw data, samples, energy and score of one density.

    Args:
        parts: `data` and `langevin` `(n, 2)`, `energy` `(g, g)` and `field` `(g, g, 2)`.
        ink: colour of words and axes.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.5), layout="constrained")
    for axis, name in zip(axes[:2], ("data", "langevin"), strict=True):
        axis.plot(*parts[name].T, ".", color="#1f6fb4", ms=1.6, alpha=0.6, rasterized=True)
    axis = np.linspace(-HALF_WIDTH, HALF_WIDTH, len(parts["energy"]))
    # Levels end where the data do: the energy far outside has never been seen.
    low = np.quantile(parts["energy"], 0.7)
    axes[2].contourf(
        axis, axis, np.minimum(parts["energy"], low), levels=14, cmap="viridis_r"
    ).set_rasterized(True)
    every = max(len(axis) // 20, 1)
    field = parts["field"][::every, ::every]
    length = np.linalg.norm(field, axis=-1, keepdims=True)
    field = field * np.minimum(1.0, _LONGEST / np.maximum(length, 1e-9))
    axes[3].quiver(
        axis[::every], axis[::every], field[..., 0], field[..., 1], color="#c8590a",
        angles="xy", scale_units="xy", scale=_LONGEST / 0.5, width=0.006,
    )  # fmt: skip
    for place, title in zip(axes, ("data", "Langevin samples", "energy", "score"), strict=True):
        place.set(xlim=(-HALF_WIDTH, HALF_WIDTH), ylim=(-HALF_WIDTH, HALF_WIDTH), aspect="equal")
        place.set_title(title, color=ink, fontsize=11)
        place.set_xticks([-4, 0, 4])
        place.set_yticks([-4, 0, 4])
        place.tick_params(labelsize=8, colors=ink)
        place.grid(visible=False)
    return figure


def table_of(found: Mapping[str, Any], part: str) -> tuple[list[str], list[list[str]]]:
    """Lay out the cells: a row for each objective, a column for each density.

    Args:
        found: what `metrics.json` holds.
        part: `own`, against the density that each row learns, or `common`.

    Returns:
        Header and rows; the last row is the model that is zero everywhere.
    """
    densities = found["config"]["densities"]
    labels = list(dict.fromkeys(cell["label"] for cell in found["cells"]))
    at = {(cell["label"], cell["density"]): cell for cell in found["cells"]}
    rows = [
        [label, *(_plus_minus(at[label, density][part]) for density in densities)]
        for label in labels
    ]
    zero = "zero" if part == "own" else "common_zero"
    first = {density: at[labels[0], density] for density in densities}
    rows.append(["a score of zero", *(_plus_minus(first[density][zero]) for density in densities)])
    return ["objective", *(_TITLES[density] for density in densities)], rows


def _plus_minus(one: Mapping[str, float]) -> str:
    """A number with two digits of its error."""
    if not np.isfinite([one["mean"], one["se"]]).all():
        return "not finite"
    digits = 4 if one["se"] <= 0 else max(0, min(6, 1 - int(np.floor(np.log10(one["se"])))))
    return f"{one['mean']:.{digits}f} ± {one['se']:.{digits}f}"


def _divergences(found: Mapping[str, Any]) -> list[str]:
    noises = {cell["density"]: cell["common_noise"] for cell in found["cells"]}
    noised = [f"{_TITLES[name]} by {noise:g}" for name, noise in noises.items() if noise]
    blurred = f" Data are noised: {', '.join(noised)}." if noised else ""
    return [
        report.table(*table_of(found, "own")),
        report.text(
            "Half the mean squared distance of the learned score from the exact one, under the "
            "density that the row learns: that of the data, or for dsm and deen that of the clean "
            f"data blurred by the noise that stands beside the name.{blurred} ± is one standard "
            "error over seeds; each has its own start, examples and test points. The zero row is "
            "that of the first row's density.",
            soft=True,
        ),
    ]


def _common(found: Mapping[str, Any]) -> list[str]:
    return [
        report.table(*table_of(found, "common")),
        report.text(
            "The same models under the density of the data, and against its score. A denoising "
            "objective pays here for its blur: its model is of another density.",
            soft=True,
        ),
    ]


def _cost(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, ratio in found["cost"].items():
        seconds = [cell["fit_seconds"] for cell in found["cells"] if cell["objective"] == name]
        rows.append(
            [OBJECTIVES[name].title, "energy" if OBJECTIVES[name].is_energy else "score",
             f"{ratio:.2f}", f"{np.median(seconds):.1f}"]
        )  # fmt: skip
    seeds = found["config"]["seeds"]
    return [
        report.table(["objective", "network", "plain backward passes", "seconds"], rows),
        report.text(
            "One gradient of the parameters in floating-point operations, as XLA counts them, in "
            "units of that of a regression with the score network; and the median seconds in which "
            f"{seeds} seeds were fitted together, the first time with compilation.",
            soft=True,
        ),
    ]


def _checks(gate: Mapping[str, Any]) -> str:
    rows = [
        [name, "not finite" if one["value"] is None else f"{one['value']:.4g}",
         f"below {one['limit']:.4g}", one["verdict"]]
        for name, one in gate["checks"].items()
    ]  # fmt: skip
    marked = [i for i, row in enumerate(rows) if row[-1] != "pass"]
    return report.table(["check", "value", "pass", "verdict"], rows, marked=marked)


def _shown(config: Mapping[str, Any]) -> str:
    wanted = config["draw"]["objective"]
    return wanted if wanted in config["objectives"] else config["objectives"][0]
