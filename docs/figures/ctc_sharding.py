"""The figure of `docs/sequence/sharding.md`: along which axis each array is cut."""

import itertools

import figure
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb

COLOURS = (figure.BLUE, figure.ORANGE, figure.GREEN, figure.RED)
FACES = (0.85, 0.6, 0.4)
"""How much of the colour the front, the top and the side have; the rest is white."""

ORDER = itertools.count(1)
"""What is drawn later lies in front."""


def slab(axis, corner, size, colour: str) -> None:
    """Draw a box seen from the front, from above and from the right."""
    (x, y, z), (width, height, depth) = corner, size
    x, y = x + 0.5 * z, y + 0.35 * z
    right, up = 0.5 * depth, 0.35 * depth
    front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    top = [front[3], front[2], (x + width + right, y + height + up), (x + right, y + height + up)]
    side = [front[1], (x + width + right, y + up), top[2], front[2]]
    for corners, share in zip((front, top, side), FACES, strict=True):
        face = share * np.array(to_rgb(colour)) + (1 - share)
        axis.fill(
            *zip(*corners, strict=True), facecolor=face, edgecolor=figure.INK, linewidth=0.7,
            zorder=next(ORDER),
        )  # fmt: skip


def box(axis, place, size, cut: int) -> None:
    """Draw a box in four slabs, cut across its width, its height or its depth."""
    order = range(4) if cut < 2 else range(3, -1, -1)
    for number in order:
        part = [length / 4 if i == cut else length for i, length in enumerate(size)]
        corner = [*place, 0.0]
        corner[cut] += number * part[cut]
        slab(axis, corner, part, COLOURS[number])


def arrow(axis, x: float, y: float, words: str) -> None:
    """Draw what happens between two arrays."""
    axis.annotate("", (x + 1.5, y), (x, y), arrowprops={"arrowstyle": "->", "color": figure.INK})
    axis.text(x + 0.75, y + 0.15, words, ha="center", va="bottom", fontsize=9)


def main() -> None:
    """Draw three layouts, one below the other."""
    width, height, depth = 0, 1, 2  # frames, sequences, classes
    rows = (
        ("by sequences", height, height, "nothing is sent"),
        ("by classes", depth, depth, "reduce-scatter"),
        ("by frames", width, width, "all-to-all"),
    )
    drawing, axes = plt.subplots(3, 1, figsize=(9.6, 7.2))
    for axis, (name, logits, scores, words) in zip(axes, rows, strict=True):
        box(axis, (0.0, 0.0), (2.2, 1.6, 2.4), logits)
        box(axis, (5.6, 0.0), (2.2, 1.6, 0.8), scores)
        box(axis, (10.4, 0.0), (2.2, 1.6, 0.8), height)
        box(axis, (15.2, 0.0), (0.3, 1.6, 0.3), height)
        arrow(axis, 3.7, 0.8, "pick labels")
        arrow(axis, 8.5, 0.8, words)
        arrow(axis, 13.3, 0.8, "lattice")
        axis.set_title(name, loc="left")
        for x, text in (
            (1.1, "logits $(B,T,V)$"),
            (6.7, "a summand each $(B,T,L+1)$" if scores == depth else "scores $(B,T,L+1)$"),
            (11.5, "scores $(B,T,L+1)$"),
            (15.4, "losses $(B)$"),
        ):
            axis.text(x, -0.2, text, ha="center", va="top", fontsize=9)
        axis.set_xlim(-0.2, 16.6)
        axis.set_ylim(-0.7, 2.6)
        axis.set_aspect("equal")
        axis.axis("off")
    figure.save(drawing, "ctc_sharding")


if __name__ == "__main__":
    main()
