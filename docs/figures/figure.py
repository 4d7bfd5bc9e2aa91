"""How every figure of the site is drawn: dark ink on nothing, the same file at each run.

The dark scheme of the site turns the lightness of a figure and keeps its hues, so figures are
drawn once, in dark ink, without a background. Text becomes outlines: no font is needed to view it.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

ASSETS = Path(__file__).resolve().parents[1] / "assets"
INK = "#24292f"
BLUE, ORANGE, GREEN, RED = "#1f6fb4", "#c8590a", "#2b8a4b", "#b3304a"

plt.rcParams.update(
    {
        "axes.edgecolor": INK,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED]),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "grid.alpha": 0.25,
        "grid.color": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "savefig.transparent": True,
        "svg.fonttype": "path",
        "svg.hashsalt": "probjax",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def save(drawing: Figure, name: str) -> None:
    """Write `drawing` as `docs/assets/<name>.svg`, without a date, and close it."""
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    path = ASSETS / f"{name}.svg"
    drawing.savefig(path, metadata=metadata)
    plt.close(drawing)
    text = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in text) + "\n")
    print(f"{path.relative_to(ASSETS.parents[1])}: {path.stat().st_size / 1024:.0f} KiB")
