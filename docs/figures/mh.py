"""The figure of `docs/mcmc/mh.md`: rejection sampling as areas."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np


def density(x):
    """Return the density of Beta(3, 2)."""
    return 12 * x**2 * (1 - x)


def main() -> None:
    """Draw the points under the bound, and what is kept under a right and a wrong bound."""
    grid = np.linspace(0, 1, 201)
    bound, low = 16 / 9, 1.2
    drawing, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True)

    few = np.asarray(jax.random.uniform(jax.random.key(0), (2, 700), dtype=jnp.float32))
    x, height = few[0], bound * few[1]
    kept = height <= density(x)
    axes[0].scatter(x[kept], height[kept], s=6, color=figure.BLUE, alpha=0.7, linewidths=0)
    axes[0].scatter(x[~kept], height[~kept], s=6, color="#8a9099", alpha=0.7, linewidths=0)
    axes[0].set_title(f"{kept.mean():.2f} of 700 kept")

    many = np.asarray(jax.random.uniform(jax.random.key(1), (2, 200_000), dtype=jnp.float32))
    for axis, top, title in ((axes[1], bound, "right bound"), (axes[2], low, "bound too low")):
        x = many[0][top * many[1] <= density(many[0])]
        axis.hist(x, bins=50, range=(0, 1), density=True, color=figure.BLUE, alpha=0.35)
        axis.set_title(title)
    cut = np.minimum(density(grid), low)
    axes[2].plot(
        grid, cut / np.trapezoid(cut, grid), color=figure.BLUE, label=r"$\min(p,Mq)$, scaled"
    )
    for axis, top in zip(axes, (bound, bound, low), strict=True):
        axis.plot(grid, density(grid), color=figure.INK, label="$p$")
        axis.axhline(top, color=figure.ORANGE, label="$Mq$")
        axis.set_xlabel("$x$")
        axis.set_ylim(0, 2.15)
    axes[0].set_ylabel("density")
    axes[2].legend(loc="upper left", fontsize=9)
    figure.save(drawing, "mh_rejection")


if __name__ == "__main__":
    main()
