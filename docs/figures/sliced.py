"""The figure of `docs/score/sliced.md`: cost against the dimension, spread against the law."""

import sys
from pathlib import Path

import figure
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.score import objectives

DIMS = (2, 4, 8, 16, 32, 64)
LINES = {
    "implicit": ("implicit, exact trace", figure.RED),
    "sliced energy": ("sliced, energy", figure.ORANGE),
    "sliced": ("sliced, score", figure.BLUE),
    "denoising": ("denoising", figure.GREEN),
}


def cost(axis: plt.Axes) -> None:
    """FLOPs of a parameter gradient in those of a regression."""
    units = [objectives.flops("regression", dim, batch_size=32) for dim in DIMS]
    for name, (label, colour) in LINES.items():
        counts = [objectives.flops(name, dim, batch_size=32) for dim in DIMS]
        axis.loglog(DIMS, np.divide(counts, units), "o-", color=colour, label=label, markersize=4)
    axis.set_xticks(DIMS, [str(dim) for dim in DIMS])
    axis.set_yticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axis.minorticks_off()
    axis.set_xlabel("dimension $d$")
    axis.set_title("plain backward passes for a gradient")
    axis.legend(loc="upper left")


def spread(axis: plt.Axes, dim: int = 8) -> None:
    """Standard deviation of one slice for A = -I + c (ones - I)."""
    mixing = np.linspace(0.0, 0.5, 60)
    off, square = dim * (dim - 1) * mixing**2, dim + dim * (dim - 1) * mixing**2
    laws = {
        "gaussian": (2 * square, figure.RED, "-"),
        "rademacher": (2 * off, figure.BLUE, "-"),
        "sphere": (2 * dim / (dim + 2) * (square - dim), figure.ORANGE, "--"),
    }
    for law, (variance, colour, style) in laws.items():
        axis.plot(mixing, np.sqrt(variance), style, color=colour, label=law)
    axis.set_xlabel("off-diagonal entries $c$")
    axis.set_title(r"standard deviation of $v^\top A\,v$")
    axis.legend(loc="upper left")


def main() -> None:
    """Draw both panels."""
    drawing, axes = plt.subplots(1, 2, figsize=(9.4, 3.9))
    cost(axes[0])
    spread(axes[1])
    figure.save(drawing, "sliced_cost")


if __name__ == "__main__":
    main()
