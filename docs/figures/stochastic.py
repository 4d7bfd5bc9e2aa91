"""The figure of `docs/diffusion/stochastic.md`: one law at each level, two ways to walk it."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffusion

MEANS, SCALES, WEIGHTS = jnp.array([[-2.0], [2.0]]), jnp.array([0.4, 0.4]), jnp.array([0.3, 0.7])
STEPS, SHOWN, COUNTED = 200, 14, 4000


def main() -> None:
    """Draw paths of the reverse equation and of the flow from the same starts."""
    denoiser = diffusion.gmm_denoiser(MEANS, SCALES, WEIGHTS)
    grid = diffusion.geometric_noise_scales(STEPS, 0.02, 20.0)
    start = 20.0 * jax.random.normal(jax.random.key(0), (COUNTED, 1))
    drawing, axes = plt.subplots(1, 3, figsize=(8.6, 3.7), sharey=True, width_ratios=(4, 4, 1.3))
    ends = []
    for axis, make, title in (
        (axes[0], diffusion.reverse_diffusion, "reverse equation"),
        (axes[1], diffusion.ddim, "probability flow"),
    ):
        run = jax.jit(
            lambda x, make=make: (
                diffusion.sample(
                    jax.random.key(1),
                    make(denoiser, grid, final="keep"),
                    x,
                    STEPS - 1,
                    trajectory=True,
                ).trajectory
            )
        )
        paths = np.concatenate([np.asarray(start)[None], np.asarray(run(start))])[..., 0]
        ends.append(paths[-1])
        levels = np.asarray(grid)
        paths = paths / np.sqrt(1 + levels[:, None] ** 2)
        axis.plot(levels, paths[:, :SHOWN], color=figure.BLUE, linewidth=0.8)
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_xlabel(r"noise scale $\sigma$")
        axis.set_title(title)
    axes[0].set_ylim(-3.8, 3.8)
    axes[0].set_ylabel(r"$x/\sqrt{1+\sigma^2}$")
    at = np.linspace(-3.8, 3.8, 300)
    truth = sum(
        float(w) * np.exp(-0.5 * ((at - float(m[0])) / float(s)) ** 2) / float(s)
        for w, m, s in zip(WEIGHTS, MEANS, SCALES, strict=True)
    ) / np.sqrt(2 * np.pi)
    axes[2].plot(truth, at, color=figure.INK, linewidth=1.2)
    for values, colour in zip(ends, (figure.ORANGE, figure.GREEN), strict=True):
        axes[2].hist(
            values, bins=60, range=(-3.8, 3.8), density=True, orientation="horizontal",
            histtype="step", color=colour,
        )  # fmt: skip
    axes[2].set_title("ends")
    axes[2].set_xticks([])
    figure.save(drawing, "reverse_paths")


if __name__ == "__main__":
    main()
