"""The figure of `docs/diffusion/exponential.md`: error against denoiser calls."""

import sys
from pathlib import Path

import figure
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.diffusion import work_precision

OURS = {
    "DDIM": (figure.INK, "o", "-"),
    "Heun": (figure.ORANGE, "s", "-"),
    "2M": (figure.GREEN, "^", "-"),
    "3M copied": (figure.RED, "v", "-"),
    "order 3": (figure.RED, "v", ":"),
    "UniPC-2": (figure.BLUE, "D", "-"),
    "UniPC-3": (figure.BLUE, "D", ":"),
    work_precision.LEAP: (figure.BLUE, "*", "--"),
}
THEIRS = {
    "diffrax Tsit5 in log noise": (figure.INK, "x"),
    "diffrax Bosh3 in log noise": (figure.ORANGE, "x"),
    "diffrax Tsit5 in the noise": (figure.GREEN, "x"),
}


def main() -> None:
    """Draw both families on logarithmic axes."""
    found = work_precision.measured()
    drawing, axis = plt.subplots(figsize=(7.6, 5.0))
    for name, (colour, marker, line) in OURS.items():
        rows = found["samplers"][name]
        axis.loglog(
            [row["calls"] for row in rows], [row["error"] for row in rows], line,
            color=colour, marker=marker, markersize=5, label=name,
        )  # fmt: skip
    for name, (colour, marker) in THEIRS.items():
        rows = found["diffrax"][name]
        axis.loglog(
            [row["calls"] for row in rows], [row["error"] for row in rows], "-.",
            color=colour, marker=marker, markersize=6, linewidth=1.0, label=name,
        )  # fmt: skip
    axis.axhline(work_precision.LEVEL, color=figure.INK, linewidth=0.8, alpha=0.5)
    axis.set_xlim(8, 330)
    axis.set_ylim(2e-5, 3)
    axis.set_xticks([10, 18, 35, 79, 150, 300], ["10", "18", "35", "79", "150", "300"])
    axis.minorticks_off()
    axis.set_xlabel("denoiser calls for each sample")
    axis.set_ylabel("root mean squared distance from the exact flow")
    axis.legend(fontsize=8, loc="lower left")
    figure.save(drawing, "work_precision")


if __name__ == "__main__":
    main()
