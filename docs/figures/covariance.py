"""The figure of `docs/diffeq/covariance.md`: the parallelepiped of three variables."""

import figure
import matplotlib.pyplot as plt
import numpy as np

EXAMPLE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.5]])


def edges(rows: np.ndarray) -> list[np.ndarray]:
    """The twelve edges of the parallelepiped spanned by the rows."""
    found = []
    for i in range(3):
        j, k = (m for m in range(3) if m != i)
        for a in (0, 1):
            for b in (0, 1):
                corner = a * rows[j] + b * rows[k]
                found.append(np.stack([corner, corner + rows[i]]))
    return found


def solid(axis: plt.Axes, covariance: np.ndarray, title: str) -> None:
    """Unit vectors with the correlations as cosines, and the cube they would be without any."""
    scale = np.sqrt(np.diag(covariance))
    rows = np.linalg.cholesky(covariance / np.outer(scale, scale))
    for edge in edges(np.eye(3)):
        axis.plot(*edge.T, color=figure.INK, linewidth=0.7, linestyle=":")
    for edge in edges(rows):
        axis.plot(*edge.T, color=figure.BLUE, linewidth=1.1)
    for row, colour in zip(rows, (figure.ORANGE, figure.GREEN, figure.RED), strict=True):
        axis.plot(*np.stack([0 * row, row]).T, color=colour, linewidth=2.6)
    axis.set_title(f"{title}\nvolume$^2$ = {np.linalg.det(rows) ** 2:.3f}")
    axis.set_axis_off()
    axis.set_box_aspect((1, 1, 1), zoom=1.35)
    axis.view_init(elev=22, azim=-58)


def main() -> None:
    """Draw three covariances of growing dependence."""
    drawing = plt.figure(figsize=(8.4, 3.4))
    strong = np.array([[1.0, 0.8, 0.7], [0.8, 1.0, 0.75], [0.7, 0.75, 1.0]])
    for i, (covariance, title) in enumerate(
        ((np.diag([2.0, 1.0, 1.5]), "uncorrelated"), (EXAMPLE, "the example"), (strong, "strong"))
    ):
        solid(drawing.add_subplot(1, 3, i + 1, projection="3d"), covariance, title)
    figure.save(drawing, "covariance")


if __name__ == "__main__":
    main()
