"""The figure of `docs/score/denoising.md`: the score of a mixture and of its blurred versions."""

import figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import targets

NOISE_SCALES = (0.0, 0.5, 1.5)
LONGEST = 2.0


def main() -> None:
    """Draw level lines of the log density and arrows of the score at three noise scales."""
    mixture = targets.gaussian_mixture(
        jnp.array([[-1.6, -0.9], [1.2, 0.8]]), jnp.array([0.45, 0.8]), jnp.array([0.25, 0.75])
    )
    drawing, axes = plt.subplots(1, 3, figsize=(10.5, 3.7), sharex=True, sharey=True)
    fine = np.linspace(-3.6, 3.6, 121, dtype=np.float32)
    coarse = np.linspace(-3.3, 3.3, 15, dtype=np.float32)
    plane = np.stack(np.meshgrid(fine, fine), axis=-1)
    places = np.stack(np.meshgrid(coarse, coarse), axis=-1).reshape(-1, 2)
    for axis, noise_scale in zip(axes, NOISE_SCALES, strict=True):
        height = np.asarray(mixture.log_density(jnp.asarray(plane), noise_scale))
        arrows = np.asarray(mixture.score(jnp.asarray(places), noise_scale))
        length = np.linalg.norm(arrows, axis=-1, keepdims=True)
        arrows = arrows * np.minimum(1.0, LONGEST / length)
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
    axes[0].set_title(r"$\nabla\log p$")
    axes[1].set_title(r"$\nabla\log q_\sigma$, $\sigma=0.5$")
    axes[2].set_title(r"$\nabla\log q_\sigma$, $\sigma=1.5$")
    figure.save(drawing, "denoising_fields")


if __name__ == "__main__":
    main()
