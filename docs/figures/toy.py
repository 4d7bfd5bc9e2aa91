"""The figures of `docs/score/toy.md`: the four densities exactly, and what a run learned of them.

The first needs nothing. The panels read `samples.npz` of a finished `probjax run toy2d`: the folder
given, or the newest under `runs/`; without one they stay as they are committed.
"""

import functools
import json
import sys
from pathlib import Path

import figure
import jax
import matplotlib.pyplot as plt
import numpy as np

from probjax import targets
from probjax.experiments import toy2d_model, toy2d_report

NOISE_SCALES = (0.1, 0.3)
LONGEST = 5.0


def exact() -> None:
    """Draw density and score of the four targets, noised lightly and more."""
    width = toy2d_model.HALF_WIDTH
    fine, coarse = (np.linspace(-width, width, n, dtype=np.float32) for n in (97, 17))
    plane = np.stack(np.meshgrid(fine, fine), axis=-1).reshape(-1, 2)
    places = np.stack(np.meshgrid(coarse, coarse), axis=-1).reshape(-1, 2)
    drawing, axes = plt.subplots(2, 4, figsize=(11, 5.6), sharex=True, sharey=True)
    for column, name in zip(axes.T, toy2d_model.DENSITIES, strict=True):
        target = targets.make(name)
        for axis, noise_scale in zip(column, NOISE_SCALES, strict=True):
            log_density = functools.partial(target.log_density, noise_scale=noise_scale)
            height = jax.jit(lambda x, f=log_density: jax.lax.map(f, x, batch_size=1024))(plane)
            height = np.asarray(height).reshape(len(fine), -1)
            score = functools.partial(target.score, noise_scale=noise_scale)
            arrows = np.asarray(jax.jit(score)(places))
            length = np.linalg.norm(arrows, axis=-1, keepdims=True)
            arrows = arrows * np.minimum(1.0, LONGEST / np.maximum(length, 1e-9))
            axis.imshow(
                np.exp(height),
                extent=(-width, width) * 2,
                origin="lower",
                cmap="Blues",
                interpolation="none",
            )
            axis.quiver(
                *places.T, *arrows.T, color=figure.ORANGE, angles="xy", scale_units="xy",
                scale=LONGEST / 0.45, width=0.005, rasterized=True,
            )  # fmt: skip
            axis.set(xticks=[-4, 0, 4], yticks=[-4, 0, 4])
            axis.grid(visible=False)
        column[0].set_title(name.replace("_", " "))
    for row, noise_scale in zip(axes, NOISE_SCALES, strict=True):
        row[0].set_ylabel(rf"$\sigma={noise_scale}$")

    figure.save(drawing, "toy_exact")


def learned(run: Path) -> None:
    """Draw the four panels of each density of a run."""
    names = json.loads((run / "config.json").read_text())["config"]["densities"]
    with np.load(run / "samples.npz") as arrays:
        for name in names:
            parts = {
                part: arrays[f"{name}_{part}"] for part in ("data", "langevin", "energy", "field")
            }
            drawing = toy2d_report.draw_panels(parts, ink=figure.INK)
            drawing.set_dpi(110)
            figure.save(drawing, f"toy_{name}")


def main() -> None:
    """Draw what can be drawn."""
    exact()
    found = sorted(Path("runs").glob("toy2d-*/samples.npz"), key=lambda path: path.stat().st_mtime)
    runs = [Path(sys.argv[1])] if len(sys.argv) > 1 else [path.parent for path in found]
    if runs:
        learned(runs[-1])
    else:
        print("docs/figures/toy.py: no finished run under runs/, no panels drawn")


if __name__ == "__main__":
    main()
