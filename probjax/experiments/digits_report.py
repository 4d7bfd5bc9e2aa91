"""The digits report: what was drawn, how good it is, and what it cost."""

from typing import Any

import numpy as np

from probjax.experiments import digits_conditional_report, report
from probjax.sharding.progress import clock

_HEADER = (
    "sampler", "NFE", "two-sample accuracy", "KID x 1000", "classes, fewest-most",
    "nearest, median", "nearer than 1 %", "copies", "seconds", "samples/s",
)  # fmt: skip


def render(
    found: dict[str, Any],
    log: list[dict[str, Any]],
    images: dict[str, np.ndarray],
    sheets: dict[str, np.ndarray],
) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.
        log: the records of training.
        images: for each sampler and for the held-out digits, `(n, 8, 8, 1)` images in [0, 1].
        sheets: `completed` and, where there are any, `guided` images.

    Returns:
        HTML.
    """
    rows, environment, trained = found["rows"], found["environment"], found["training"]
    drawn = [row for row in rows if "num_evaluations" in row]
    best = min(drawn, key=lambda row: row["two_sample_accuracy"])
    head = (
        f"{best['sampler']} is hardest to tell from real digits: a classifier is right "
        f"{best['two_sample_accuracy']:.0%} of the time, where guessing gives 50 %. "
        f"Network of {trained['num_parameters']:,} parameters, trained for "
        f"{clock(trained['seconds'])} on {environment['devices']} {environment['backend']} "
        "device(s)."
    )
    grids = "".join(
        report.pixels(some[:100].reshape(-1, 8, 8), name) for name, some in images.items()
    )
    return report.page(
        "Digits: one model, many samplers",
        [
            report.text(head),
            *_gate(found["gate"]),
            report.section(
                "Samples",
                report.text(
                    "The first hundred of each, none picked. The samplers without noise of their "
                    "own (DDIM, Heun, UniPC, DPM-Solver++ 2M and 2S, the probability flow) start "
                    "from the same noise and follow the same path, so they agree digit by digit; "
                    "the others add noise on the way.",
                    soft=True,
                ),
                f"<div class=grids>{grids}</div>",
            ),
            report.section(
                "Quality and cost",
                report.table(_HEADER, [_row(row) for row in rows], marked=[rows.index(best)]),
                *_explained(found),
            ),
            report.section(
                "Digits of each class",
                report.text(
                    "Counted by a support vector machine trained on the training digits, "
                    f"{found['classifier_accuracy']:.1%} right on held-out ones.",
                    soft=True,
                ),
                report.table(
                    ["sampler", *map(str, range(10))],
                    [[row["sampler"], *row["class_counts"]] for row in rows],
                ),
            ),
            *digits_conditional_report.guidance(found, sheets),
            *digits_conditional_report.inpainting(found, sheets, images),
            *digits_conditional_report.likelihood(found),
            report.section(
                "Training", report.drawing(loss_curve(log), "Loss of a row against the step")
            ),
            report.provenance(found, "parameters", "samples"),
        ],
    )


def loss_curve(log: list[dict[str, Any]]) -> Any:
    """Draw training and held-out loss against the step.

    Args:
        log: the records of training.

    Returns:
        A Matplotlib figure.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2))
    steps = [record["step"] for record in log]
    axes.plot(steps, [record["loss"] for record in log], color="#1f6fb4", lw=1.2, label="training")
    held_out = [record["held_out_loss"] for record in log]
    axes.plot(steps, held_out, color="#c8590a", lw=1.8, label="held out, averaged parameters")
    axes.set(xlabel="step", ylabel="EDM loss of a row", ylim=(None, 1.15 * np.median(held_out)))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _gate(gate: dict[str, Any]) -> list[str]:
    words = {True: "passed", False: "failed", None: "left out"}
    rows = [[one["check"], words[one["passed"]], one["why"]] for one in gate["checks"]]
    return [
        report.text(f"Gate: {gate['verdict']}."),
        report.table(["check", "", "why"], rows),
    ]


def _row(row: dict[str, Any]) -> list[str]:
    drawn = "num_evaluations" in row
    counts = row["class_counts"]
    return [
        row["sampler"],
        f"{row['num_evaluations']:.0f}" if drawn else "",
        f"{row['two_sample_accuracy']:.3f} ± {row['two_sample_accuracy_se']:.3f}",
        f"{1000 * row['kid']:.2f} ± {1000 * row['kid_se']:.2f}",
        f"{min(counts)}-{max(counts)} of {sum(counts)}",
        f"{row['nearest_median']:.3f}",
        f"{row['nearest_below_1_percent']:.1%}",
        str(row["copies"]),
        f"{row['seconds']:.1f}" if drawn else "",
        f"{row['samples_per_second']:.0f}" if drawn else "",
    ]


def _explained(found: dict[str, Any]) -> list[str]:
    return [
        report.text(
            "Two-sample accuracy: how often a support vector machine (radial kernel, five folds) "
            "tells a sample from a held-out digit; 0.5 is perfect, and the row of real digits "
            "shows what 500 of each can tell at best. ± is one standard error. KID: squared "
            "maximum mean discrepancy over fixed random features; it is noisy at this size and is "
            "shown with its error for that reason. NFE: denoiser evaluations for a sample. Each "
            "sample is of a class drawn at random, ten equally likely, where the network takes a "
            "class; the row 'no class' uses the same network without one."
        ),
        report.text(
            "Memorisation: the distance to the nearest training digit, against the distance of "
            "held-out digits to theirs (the row of real digits). A model that copies has a smaller "
            "median, and more than 1 % of its samples nearer than all but 1 % of held-out digits."
        ),
        report.text(
            "Seconds include compilation; samples a second do not.",
            soft=True,
        ),
    ]
