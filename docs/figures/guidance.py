"""The figure of `docs/diffusion/guidance.md`: what guided sampling samples."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffusion, targets

NARROW = 0.25


def normal(variance):
    """The denoiser of N(0, variance)."""
    return lambda x, noise_scale: variance / (variance + noise_scale**2) * x


def guided_variance(weight):
    """Variance at the end of the guided flow, which is linear."""
    guided = diffusion.classifier_free(normal(NARROW), normal(1.0), weight=weight)
    end = diffusion.decode(
        guided, jnp.full(1, 80.0), noise_scale_min=1e-3, noise_scale_max=80.0, num_steps=60
    )
    return end[0] ** 2


def main() -> None:
    """Left: variances of normals. Right: a class of a mixture at weight 3."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.8))
    weights = np.linspace(0, 4, 81)
    left.plot(weights, NARROW**weights, color=figure.BLUE, label="geometric")
    harmonic = 1 / (1 - weights + weights / NARROW)
    left.plot(weights, harmonic, color=figure.RED, ls="--", label="tilted density")
    some = np.arange(0, 4.01, 0.5)
    measured = [float(jax.jit(guided_variance)(jnp.float32(w))) for w in some]
    left.plot(some, measured, "o", color=figure.BLUE, ms=5, label="guided flow")
    left.set_yscale("log")
    left.set_xlabel("weight $w$")
    left.set_title("variance, normals with 1 and 1/4")
    left.legend()

    mine = targets.gaussian_mixture([[-0.5], [2.0]], [0.6, 0.6], [0.7, 0.3])
    both = targets.gaussian_mixture(
        [[-0.5], [2.0], [0.5], [-2.0]], [0.6] * 4, [0.35, 0.15, 0.35, 0.15]
    )
    weight = 3.0

    def of(target):
        return lambda x, noise_scale: x + noise_scale**2 * target.score(x, noise_scale)

    guided = diffusion.classifier_free(of(mine), of(both), weight=weight)
    start = 80.0 * jax.random.normal(jax.random.key(0), (100_000, 1))
    algorithm = diffusion.heun(guided, diffusion.karras_noise_scales(60))
    x = jax.jit(lambda start: diffusion.sample(jax.random.key(1), algorithm, start, 60).x)(start)
    grid = np.linspace(-4, 5, 901, dtype=np.float32)[:, None]
    conditional = np.exp(mine.log_density(jnp.asarray(grid)))
    log_tilt = weight * mine.log_density(jnp.asarray(grid))
    log_tilt = np.asarray(log_tilt + (1 - weight) * both.log_density(jnp.asarray(grid)))
    tilted = np.exp(log_tilt - log_tilt.max())
    tilted = tilted / (tilted.sum() * 0.01)
    right.hist(
        np.asarray(x)[:, 0], np.linspace(-4, 5, 121), density=True, color=figure.BLUE, alpha=0.45,
        label="guided flow",
    )  # fmt: skip
    right.plot(grid, conditional, color=figure.INK, lw=1.2, label="conditional, $w=1$")
    right.plot(grid, tilted, color=figure.RED, ls="--", label="tilted density")
    right.set_xlabel("$x$")
    right.set_title("a class of two modes, $w=3$")
    right.set_yticks([])
    right.legend(fontsize="small")
    upper = float((x > 0.9).mean()), float(tilted[grid[:, 0] > 0.9].sum() * 0.01)
    print(f"mass above 0.9: guided {upper[0]:.3f}, tilted {upper[1]:.3f}")
    print(" ".join(f"{w:g}:{v:.4f}" for w, v in zip(some, measured, strict=True)))
    figure.save(drawing, "guidance")


if __name__ == "__main__":
    main()
