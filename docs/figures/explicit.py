"""The figure of `docs/score/explicit.md`: a score, and what a border does to the parts."""

import figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import score, targets

LONGEST = 2.0


def field(axis: plt.Axes) -> None:
    """Level lines of a mixture's density and arrows of its score."""
    mixture = targets.gaussian_mixture(
        jnp.array([[-1.3, -0.8], [1.4, 0.9]]), jnp.array([0.6, 0.9]), jnp.array([0.35, 0.65])
    )
    fine = np.linspace(-3.6, 3.6, 121, dtype=np.float32)
    coarse = np.linspace(-3.3, 3.3, 15, dtype=np.float32)
    plane = np.stack(np.meshgrid(fine, fine), axis=-1)
    places = np.stack(np.meshgrid(coarse, coarse), axis=-1).reshape(-1, 2)
    height = np.asarray(mixture.log_density(jnp.asarray(plane)))
    arrows = np.asarray(mixture.score(jnp.asarray(places)))
    arrows = arrows * np.minimum(1.0, LONGEST / np.linalg.norm(arrows, axis=-1, keepdims=True))
    axis.contour(
        fine, fine, height, levels=height.max() - np.array([8.0, 6, 4, 3, 2, 1, 0.3]),
        colors=figure.BLUE, linewidths=0.9, linestyles="solid", alpha=0.75,
    )  # fmt: skip
    axis.quiver(
        *places.T, *arrows.T, color=figure.ORANGE, angles="xy", scale_units="xy", scale=4.6,
        width=0.006, headwidth=4,
    )  # fmt: skip
    axis.set_aspect("equal")
    axis.set_xticks([-2, 0, 2])
    axis.set_yticks([-2, 0, 2])
    axis.set_title(r"$\nabla\log p$ of two Gaussians")


def border(axis: plt.Axes) -> None:
    """Both objectives for p = exp(-x) on the half line, over constant models."""
    node, share = np.polynomial.laguerre.laggauss(20)
    x = jnp.asarray(node, jnp.float32)[:, None]
    share = jnp.asarray(share, jnp.float32)
    grid = np.linspace(-2.4, 1.4, 39)
    curves = {"explicit": [], "implicit": []}
    for a in grid:

        def model(v: jnp.ndarray, a: float = float(a)) -> jnp.ndarray:
            return a + 0 * v

        explicit = score.explicit_sm(model, x, -jnp.ones_like(x))
        curves["explicit"].append(float(jnp.sum(share * explicit)))
        curves["implicit"].append(float(jnp.sum(share * score.implicit_sm(model, x))))
    for (name, values), colour, best in zip(
        curves.items(), (figure.BLUE, figure.RED), (-1.0, 0.0), strict=True
    ):
        axis.plot(grid, values, color=colour, label=name)
        axis.plot(best, 0.0, "o", color=colour, markersize=7, clip_on=False, zorder=3)
    gap = np.subtract(curves["explicit"], curves["implicit"])
    axis.plot(
        grid, gap, "--", color=figure.INK, linewidth=1.2, label=r"difference, $a+\frac{1}{2}$"
    )
    axis.set_ylim(-1.2, 2.2)
    axis.set_xlabel(r"model $s=a$")
    axis.set_title(r"$p=e^{-x}$ on $x\geq 0$")
    axis.legend(loc="upper center")


def main() -> None:
    """Draw both panels."""
    drawing, axes = plt.subplots(1, 2, figsize=(9.4, 4.0))
    field(axes[0])
    border(axes[1])
    figure.save(drawing, "explicit_boundary")


if __name__ == "__main__":
    main()
