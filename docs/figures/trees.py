"""The figures of `docs/diffeq/trees.md`: rooted trees, and regions of stability."""

import figure
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq import METHODS, rooted_trees
from probjax.diffeq.order_conditions import density, num_labellings, symmetry
from probjax.diffeq.stability import stability_function


def width(tree: tuple) -> int:
    """Leaves of a tree: the room it takes."""
    return max(1, sum(width(child) for child in tree))


def draw(axis: plt.Axes, tree: tuple, left: float, height: float) -> float:
    """Draw a tree upwards from its root; returns where the root stands."""
    places, start = [], left
    for child in tree:
        places.append(draw(axis, child, start, height + 1))
        start += width(child)
    root = float(np.mean(places)) if places else left + 0.5
    for place in places:
        axis.plot([root, place], [height, height + 1], color=figure.INK, linewidth=1.4, zorder=1)
    axis.plot(root, height, "o", color=figure.BLUE if height else figure.ORANGE, markersize=7)
    return root


def forest() -> None:
    """All trees with at most five nodes."""
    drawing, axes = plt.subplots(2, 1, figsize=(10.0, 5.4))
    rows = [[t for q in range(1, 5) for t in rooted_trees(q)], list(rooted_trees(5))]
    for axis, trees in zip(axes, rows, strict=True):
        left = 0.0
        for tree in trees:
            room = max(width(tree), 2)
            draw(axis, tree, left + (room - width(tree)) / 2, 0.0)
            label = rf"$\gamma={density(tree)}$" + "\n" + rf"$\sigma={symmetry(tree)}$"
            label += "\n" + rf"$\alpha={num_labellings(tree)}$"
            axis.text(left + room / 2, -0.5, label, ha="center", va="top", fontsize=9)
            left += room + 0.7
        axis.set_xlim(-0.3, 27.5)
        axis.set_ylim(-2.5, 4.3)
        axis.axis("off")
    figure.save(drawing, "trees")


def regions() -> None:
    """Where the factor of one step is at most 1."""
    drawing, axis = plt.subplots(figsize=(6.4, 5.0))
    x, y = np.meshgrid(np.linspace(-4.5, 1.5, 301), np.linspace(0.0, 4.2, 211))
    methods = ("euler", "heun", "kutta3", "rk4", "dormand_prince", "butcher6")
    colours = (figure.BLUE, figure.ORANGE, figure.GREEN, figure.RED, figure.INK, "#7a4fb5")
    for name, colour in zip(methods, colours, strict=True):
        size = np.abs(stability_function(METHODS[name], x + 1j * y))
        axis.contour(x, y, size, levels=[1.0], colors=[colour], linewidths=1.7)
        axis.plot([], [], color=colour, label=name)
    axis.set_aspect("equal")
    axis.set_xlabel(r"$\mathrm{Re}\,h\lambda$")
    axis.set_ylabel(r"$\mathrm{Im}\,h\lambda$")
    axis.legend(loc="upper left", fontsize=9)
    figure.save(drawing, "stability")


if __name__ == "__main__":
    forest()
    regions()
