"""The digit-lines report: what was read, where it was found, and whether to believe it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probjax.datasets.digit_lines import DigitLines
from probjax.experiments import report
from probjax.experiments.digit_lines_model import COLUMNS_PER_FRAME, Reading
from probjax.sharding.progress import clock

_COLOURS = ("#1f6fb4", "#c8590a")


def render(
    found: Mapping[str, Any], log: list[dict[str, Any]], lines: DigitLines, reading: Reading
) -> str:
    """Write the report.

    Args:
        found: what `metrics.json` holds.
        log: the records of training.
        lines: held-out lines.
        reading: what the model made of them.

    Returns:
        HTML.
    """
    config, gate, environment = found["config"], found["gate"], found["environment"]
    held_out, trained, centres = found["held_out"], found["training"], found["centres"]
    low, high = held_out["label_error_rate_interval"]
    number = len(reading.lengths)
    head = (
        f"{held_out['label_error_rate']:.1%} of the digits on {number} lines of held-out digits "
        f"are read wrongly (95 % interval over lines {low:.1%} to {high:.1%}), and "
        f"{held_out['line_accuracy']:.0%} of the lines are read without a mistake. Trained by "
        f"{'CTC' if config['loss'] == 'ctc' else 'the transducer loss'}: "
        f"{trained['num_parameters']:,} parameters, "
        f"{config['training']['num_steps']} steps of {config['training']['batch_size']} lines, "
        f"{clock(trained['seconds'])} on {environment['devices']} {environment['backend']} "
        "device(s). Where the digits stand was never told."
    )
    shown = examples(lines, reading, 6)
    return report.page(
        f"Digit lines by {config['loss']}: {gate['verdict']}",
        [
            report.verdict(gate),
            report.text(head),
            report.section("Checks", _checks(gate)),
            report.section(
                "Lines, and where their digits were found",
                report.text(
                    "The first lines that were read wrongly, then the first that were not; "
                    "above each what was read. The bars below a line are the best alignment of its "
                    "true digits; the panel under them is the probability of each class at each "
                    "frame, given the true digits.",
                    soft=True,
                ),
                report.drawing(
                    draw_lines(lines, reading, shown), "Lines, alignments and occupancies"
                ),
                report.text(
                    f"{centres['share']:.1%} of the aligned digits have the middle of their frames "
                    f"in their own cell; the median offset is {centres['median_offset']:+.1f} "
                    "columns."
                ),
            ),
            report.section("Greedy and beam", *_decoders(found)),
            report.section("New digits and digits trained on", *_gap(found)),
            report.section(
                "What was taken for what",
                report.text(
                    "Rows are true digits, columns what was read. The last column counts digits "
                    "that were missed, the last row digits that are not there.",
                    soft=True,
                ),
                _confusion(found["confusion"]),
            ),
            report.section(
                "Training", report.drawing(loss_curve(log), "Loss of a line against the step")
            ),
            report.provenance(found, "parameters", "readings"),
        ],
    )


def examples(lines: DigitLines, reading: Reading, number: int) -> list[int]:
    """Choose lines to show: half of them read wrongly, where there are so many, none picked.

    Args:
        lines: the truth.
        reading: what was read.
        number: how many at most.

    Returns:
        Their numbers: the first wrong ones, then the first right ones.
    """
    wrong = [i for i in range(len(reading.lengths)) if _read(reading, i) != _true(lines, i)]
    right = sorted(set(range(len(reading.lengths))) - set(wrong))
    wrong = wrong[: number // 2]
    return wrong + right[: number - len(wrong)]


def draw_lines(
    lines: DigitLines, reading: Reading, shown: Sequence[int], *, ink: str = "black"
) -> Any:
    """Draw lines with the spans of their digits, and the occupancies below.

    Args:
        lines: the truth.
        reading: what was read and aligned.
        shown: which lines.
        ink: colour of words and axes.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    columns = 2 if len(shown) > 1 else 1
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        3 * rows, columns, figsize=(5.6 * columns, 2.6 * rows), squeeze=False,
        layout="constrained", gridspec_kw={"height_ratios": [5, 1.6, 6] * rows},
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for place, index in enumerate(shown):
        column, row = place % columns, 3 * (place // columns)
        picture, bars, heat = axes[row : row + 3, column]
        image = np.asarray(lines.images[index])
        width = image.shape[1]
        picture.imshow(image, cmap="gray_r", vmin=0, vmax=1, aspect="auto", extent=(0, width, 1, 0))
        read, true = _read(reading, index), _true(lines, index)
        words = "".join(map(str, read)) + ("" if read == true else f"  (is {_word(true)})")
        picture.set_title(words, fontsize=11, loc="left", color=ink, family="monospace")
        for k, digit in enumerate(true):
            left = reading.starts[index, k] * COLUMNS_PER_FRAME
            right = reading.ends[index, k] * COLUMNS_PER_FRAME
            bars.barh(0, right - left, left=left, height=1, color=_COLOURS[k % 2])
            bars.text((left + right) / 2, 1.5, str(digit), ha="center", va="center", fontsize=9,
                      color=ink)  # fmt: skip
        bars.set(xlim=(0, width), ylim=(2.4, -0.6))
        heat.set_axis_on()
        heat.imshow(
            np.asarray(reading.occupancy[index]).T, cmap="Blues", vmin=0, vmax=1, aspect="auto",
            extent=(0, width, 10.5, -0.5), interpolation="nearest",
        )  # fmt: skip
        heat.set_yticks([0, 5, 9, 10], ["0", "5", "9", "blank"], fontsize=7, color=ink)
        heat.tick_params(axis="x", labelsize=7, colors=ink)
    return figure


def loss_curve(log: list[dict[str, Any]]) -> Any:
    """Draw training and held-out loss against the step.

    Args:
        log: the records of training.

    Returns:
        A Matplotlib figure.
    """
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(8, 3.2))
    steps = [record["step"] for record in log]
    for name, label, colour in (
        ("loss", "training digits, as trained", _COLOURS[0]),
        ("held_out_loss", "held-out digits, averaged parameters", _COLOURS[1]),
    ):
        axes.plot(steps, [record[name] for record in log], color=colour, lw=1.6, label=label)
    axes.set(xlabel="step", ylabel="nats for a line", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _read(reading: Reading, index: int) -> list[int]:
    return reading.tokens[index][: reading.lengths[index]].tolist()


def _true(lines: DigitLines, index: int) -> list[int]:
    return np.asarray(lines.labels[index])[: int(lines.label_lengths[index])].tolist()


def _word(digits: Sequence[int]) -> str:
    return "".join(map(str, digits))


def _checks(gate: Mapping[str, Any]) -> str:
    rows = [
        [name.replace("_", " "), f"{one['value']:.4g}", _range(one["pass"]), _range(one["review"]),
         one["verdict"]]
        for name, one in gate["checks"].items()
    ]  # fmt: skip
    marked = [i for i, row in enumerate(rows) if row[-1] != "pass"]
    return report.table(["check", "value", "pass", "review", "verdict"], rows, marked=marked)


def _range(limits: Sequence[float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _rates(row: Mapping[str, Any]) -> list[str]:
    low, high = row["line_accuracy_interval"]
    return [
        f"{row['label_error_rate']:.2%} ± {row['label_error_rate_se']:.2%}",
        f"{row['line_accuracy']:.1%} ({low:.1%} to {high:.1%})",
    ]


def _decoders(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for row in found["decoders"]:
        beam = "difference" in row
        change = f"{row['difference']:+.2%} ± {row['difference_se']:.2%}" if beam else ""
        speed = f"{row['lines_per_second']:.0f}" if beam else ""
        rows.append([row["decoder"], *_rates(row), change, speed])
    header = ["decoder", "label error rate", "lines without a mistake", "against greedy", "lines/s"]
    return [
        report.table(header, rows),
        report.text(
            "± is one standard error over lines, in brackets a 95 % interval. Against greedy: on "
            "the same lines, so the error of the difference is smaller than that of either rate. "
            "Random digits leave a language model nothing to say, so beams can gain little.",
            soft=True,
        ),
    ]


def _gap(found: Mapping[str, Any]) -> list[str]:
    numbers = found["num_images"]
    rows = [
        [f"{label} ({numbers[split]} digits)", *_rates(found[name]), f"{found[name]['loss']:.3f}"]
        for label, name, split in (
            ("held-out", "held_out", "test"),
            ("training", "training_digits", "train"),
        )
    ]
    held = (
        "Held out are whole forms, so hands that were not trained on (but for one writer who "
        "filled in two forms, it is not known which)."
        if found["config"]["split"] == "form"
        else "Held out are random images; the same hands are on both sides."
    )
    return [
        report.table(
            ["lines composed from", "label error rate", "lines without a mistake", "loss"], rows
        ),
        report.text(
            f"{held} The lines themselves are new in both rows. For comparison: a support vector "
            "machine that is given each held-out digit cut out and in its place errs on "
            f"{found['isolated_error']:.1%}. The intervals are over lines; that the same few "
            "hundred held-out images stand on all of them is not in them.",
            soft=True,
        ),
    ]


def _confusion(counts: Sequence[Sequence[int]]) -> str:
    names = [*map(str, range(10)), "none"]
    rows = [[names[i], *(str(n) if n else "" for n in row)] for i, row in enumerate(counts)]
    return report.table(["", *names], rows)
