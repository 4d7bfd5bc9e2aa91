"""The figure of `docs/diffusion/inpainting.md`: the bias of replacement, and correctors."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffusion

RHO, CHAINS = 0.9, 8000
PAIR = diffusion.gaussian_denoiser(jnp.zeros(2), jnp.array([[1.0, RHO], [RHO, 1.0]]))


def replacement(scales):
    """Mean and variance of the unknown entry by replacement alone, with ancestral steps, y = 1."""
    mean, variance = 0.0, scales[0] ** 2
    for here, there in zip(scales, [*scales[1:], 0.0], strict=True):
        total = np.array([[1.0, RHO], [RHO, 1.0]]) + here**2 * np.eye(2)
        known, unknown = np.array([RHO, 1.0]) @ np.linalg.inv(total)
        keep = there**2 / here**2
        slope, pull = keep + (1 - keep) * unknown, (1 - keep) * known
        mean = slope * mean + pull
        variance = slope**2 * variance + (pull * here) ** 2 + there**2 * (1 - keep)
    return mean, variance


def painted(num_steps, num_correctors):
    """The unknown entry of many chains."""
    scales = diffusion.karras_noise_scales(num_steps)
    algorithm = diffusion.inpaint(
        diffusion.ancestral(PAIR, scales), jnp.array([1.0, 0.0]), jnp.array([True, False]),
        noise_scales=scales, denoiser=PAIR, num_correctors=num_correctors, sigma_data=1.0,
    )  # fmt: skip
    start = 80.0 * jax.random.normal(jax.random.key(0), (CHAINS, 2))
    run = jax.jit(lambda x: diffusion.sample(jax.random.key(1), algorithm, x, num_steps).x[:, 1])
    return np.asarray(run(start), np.float64)


def main() -> None:
    """Left: mean against steps. Right: the laws at 200 steps."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.8))
    counts = np.unique(np.geomspace(10, 2000, 25).astype(int))
    grids = [np.asarray(diffusion.karras_noise_scales(int(n)), np.float64) for n in counts]
    left.plot(counts, [replacement(g)[0] for g in grids], color=figure.RED, label="0, exact")
    grid = np.linspace(-1.0, 2.5, 300)
    colours = (figure.RED, figure.ORANGE, figure.GREEN, figure.BLUE)
    steps = (20, 60, 200)
    for num, colour, marker in zip((0, 1, 4, 16), colours, "sv^o", strict=True):
        laws = [painted(n, num) for n in steps]
        means = [law.mean() for law in laws]
        left.errorbar(
            steps, means, [4 * law.std() / CHAINS**0.5 for law in laws], fmt=marker,
            color=colour, ms=5, capsize=2, label=str(num),
        )  # fmt: skip
        for n, law in zip(steps, laws, strict=True):
            print(f"{num} correctors, {n} steps: mean {law.mean():.3f}, variance {law.var():.3f}")
        # The law is normal: the recursion is linear.
        mean, variance = means[-1], laws[-1].var()
        density = np.exp(-0.5 * (grid - mean) ** 2 / variance) / (2 * np.pi * variance) ** 0.5
        right.plot(grid, density, color=colour)
    left.axhline(RHO, color=figure.INK, ls="--", lw=1.2)
    left.set_xscale("log")
    left.set_ylim(0.35, 1.0)
    left.set_xlabel("steps")
    left.set_title("mean of the unknown entry")
    left.legend(title="correctors", ncols=2, fontsize="small", loc="lower right")
    exact = np.exp(-0.5 * (grid - RHO) ** 2 / 0.19) / (2 * np.pi * 0.19) ** 0.5
    right.plot(grid, exact, color=figure.INK, ls="--", lw=1.2)
    right.set_xlabel("unknown entry")
    right.set_yticks([])
    right.set_title("its law after 200 steps")
    figure.save(drawing, "inpainting")


if __name__ == "__main__":
    main()
