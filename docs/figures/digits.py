"""The demo's picture: fifty samples of some samplers, guided ones, beside fifty held-out digits.

Reads `samples.npz` of a finished `probjax run digits`: the folder given, or the newest under
`runs/`. Without one it leaves the committed picture as it is.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from figure import ASSETS

from probjax import datasets
from probjax.experiments.report import grid

PAPER, TEXT = "#20262c", "#e6eaee"


def newest() -> Path | None:
    """Return the newest finished run, or None."""
    runs = sorted(Path("runs").glob("digits-*/samples.npz"), key=lambda path: path.stat().st_mtime)
    return runs[-1].parent if runs else None


def main() -> None:
    """Draw the picture from the run named on the command line, or from the newest."""
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    if run is None:
        print("docs/figures/digits.py: no finished run under runs/, nothing drawn")
        return
    drawn = np.load(run / "samples.npz")
    shown = ("UniPC, order 2", "Heun", "ancestral", "annealed Langevin")
    panels = {name: drawn[name] for name in shown}
    config = json.loads((run / "config.json").read_text())["config"]["guidance"]
    classes = drawn["guided"].reshape(len(config["weights"]), 10, -1, 8, 8)
    some = min(range(len(classes)), key=lambda i: abs(config["weights"][i] - 2))
    title = f"class by class, weight {config['weights'][some]:g}"
    panels[title] = classes[some, :, :5].swapaxes(0, 1).reshape(-1, 8, 8)
    panels["held-out digits"] = np.asarray(datasets.load_digits(split="test").images)
    figure, axes = plt.subplots(2, 3, figsize=(12, 4.6), facecolor=PAPER, layout="constrained")
    for axis, (name, images) in zip(axes.flat, panels.items(), strict=True):
        sheet = grid(images[:50].reshape(-1, 8, 8), 10)
        axis.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, color=TEXT, fontsize=13)
        axis.set_axis_off()
    figure.savefig(ASSETS / "digits.png", dpi=110, facecolor=PAPER, metadata={"Software": None})
    print(f"docs/assets/digits.png: {(ASSETS / 'digits.png').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
