"""The figure of `docs/sequence/transducer.md`: where alignments go, and the pruning band."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from probjax.sequence import transducer, transducer_pruned

FRAMES, LABELS, WIDTH = 40, 11, 4


def posteriors(sharpness: float):
    """Return arc posteriors of a model that knows the labels' times up to `sharpness`."""
    places = np.sort(np.random.default_rng(3).uniform(2, FRAMES - 2, size=LABELS))
    frame = np.arange(FRAMES)[:, None]
    late = 1 / (1 + np.exp(-sharpness * (frame - places[None])))  # the label is due by now
    label = np.log(0.02 + 0.96 * late)
    blank = np.log(np.concatenate([1 - np.exp(label), np.full((FRAMES, 1), 0.98)], axis=1))
    arcs = (jnp.asarray(x, jnp.float32) for x in (blank, label))
    return jax.jit(transducer.rnnt_arc_posteriors)(*arcs)


def main() -> None:
    """Draw the probability of each node and the band, for a blurred and for a sharp model."""
    shades = LinearSegmentedColormap.from_list("blue", [figure.BLUE + "00", figure.BLUE])
    drawing, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for axis, sharpness, title in zip(axes, (0.3, 3.0), ("blurred", "sharp"), strict=True):
        arcs = posteriors(sharpness)
        starts = np.asarray(transducer_pruned.pruning_ranges(arcs, WIDTH))
        visited = np.asarray(arcs.blank) + np.pad(np.asarray(arcs.label), ((0, 0), (0, 1)))
        frame, lane = np.nonzero(visited > 0.004)
        weight = np.minimum(visited[frame, lane], 1.0)
        axis.scatter(frame, lane, c=weight, cmap=shades, vmin=0, vmax=1, marker="s", s=26)
        edges = np.arange(FRAMES + 1) - 0.5
        axis.stairs(starts + WIDTH - 0.5, edges, baseline=starts - 0.5, color=figure.ORANGE)
        band = starts[:, None] + np.arange(WIDTH)
        kept = np.take_along_axis(visited, np.minimum(band, LABELS), axis=1).sum() / visited.sum()
        axis.set_title(f"{title}: the band holds {100 * kept:.1f}%")
        axis.set_xlabel("frame $t$")
        axis.grid(visible=False)
    axes[0].set_ylabel("labels out $u$")
    figure.save(drawing, "transducer_lattice")


if __name__ == "__main__":
    main()
