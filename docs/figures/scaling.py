"""The figure of `docs/benchmarks/scaling.md`: bytes counted, and the estimate for many."""

import sys
from pathlib import Path

import figure
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import render
from benchmarks.scaling.estimate import estimate

STYLES = {
    "annealed Langevin": (figure.INK, "o"),
    "pooled warm-up of HMC": (figure.INK, "s"),
    "denoising score matching": (figure.ORANGE, "D"),
    "ensemble": (figure.GREEN, "o"),
    "gradient of an ensemble": (figure.GREEN, "s"),
    "CTC, split by sequences": (figure.BLUE, "o"),
    "CTC, split by classes": (figure.BLUE, "^"),
    "CTC, split by frames": (figure.BLUE, "s"),
}
MANY = (8, 16, 32, 64, 128, 256, 512, 1024)
NONE = 1.0
"""Where no bytes are drawn on a logarithmic axis."""


def main() -> None:
    """Draw the counts on the left and the estimate on the right."""
    runs = render.committed()
    found = {name: run["scaling"] for name, run in runs.items() if "scaling" in run}
    programs = found[min(found)]["programs"]
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4))
    for program in programs:
        colour, marker = STYLES[program["name"]]
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.4}
        if program["name"] == "annealed Langevin":  # lies under the ensemble's
            style |= {"markersize": 10, "markerfacecolor": "none"}
        spread = [x for x in program["layouts"] if x["processes"] == 1]
        left.loglog(
            [x["devices"] for x in spread], [max(x["sent_bytes"], NONE) for x in spread], **style
        )
        shares = [100 * estimate(program, number).efficiency for number in MANY]
        right.semilogx(MANY, shares, label=program["name"], **style)
    left.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    left.set_yticks([NONE, 10, 1e3, 1e5], ["none", "10", "1,000", "100,000"])
    left.set_xlabel("devices")
    left.set_ylabel("bytes that a device sends in a step")
    left.set_title("counted", loc="left")
    ticks = (8, 32, 128, 1024)
    right.set_xticks(ticks, [f"{number:,}" for number in ticks])
    right.set_xlabel("accelerators")
    right.set_ylabel("computation, percent of a step")
    right.set_title("estimated", loc="left")
    right.set_ylim(0, 105)
    for axis in (left, right):
        axis.minorticks_off()
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.save(drawing, "scaling")


if __name__ == "__main__":
    main()
