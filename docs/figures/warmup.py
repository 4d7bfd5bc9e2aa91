"""The figure of `docs/mcmc/warmup.md`: step size and metric, pooled against chain by chain."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import mcmc

DIM, STEPS, POOLED, ALONE = 50, 200, 64, 6
SCALES = jnp.geomspace(0.1, 10.0, DIM)


def logdensity_fn(x: jax.Array) -> jax.Array:
    """A normal law whose standard deviations span two decades."""
    return -0.5 * jnp.sum((x / SCALES) ** 2)


def main() -> None:
    """Draw the step sizes of all steps, and the variances found against the true ones."""
    kernel = mcmc.hmc_kernel(logdensity_fn, 12)
    starts = jax.random.normal(jax.random.key(0), (POOLED, DIM))
    pooled = mcmc.pooled_warmup(jax.random.key(1), kernel, starts, STEPS)
    alone = mcmc.window_warmup(jax.random.key(1), kernel, starts[:ALONE], STEPS)
    drawing, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    for chain in range(ALONE):
        label = "one chain each" if chain == 0 else None
        style = {"color": figure.ORANGE, "alpha": 0.6, "linewidth": 0.8, "label": label}
        left.semilogy(alone.trace.step_size[chain], **style)
        ratio = alone.params.inverse_mass_matrix[chain] / SCALES**2
        style = {"color": figure.ORANGE, "alpha": 0.6, "markersize": 3, "label": label}
        right.loglog(SCALES, ratio, "o", linestyle="", **style)
    name = f"{POOLED} chains together"
    left.semilogy(pooled.trace.step_size, color=figure.BLUE, label=name)
    ratio = np.asarray(pooled.params.inverse_mass_matrix / SCALES**2)
    right.loglog(SCALES, ratio, "s", color=figure.BLUE, markersize=4, label=name)
    for end in (75, 150):
        left.axvline(end, color=figure.INK, linewidth=0.8, linestyle=":")
    left.axvline(100, color=figure.INK, linewidth=0.8, linestyle=":")
    left.set_xlabel("warm-up step")
    left.set_ylabel("step_size")
    left.legend(loc="lower right")
    right.axhline(1.0, color=figure.INK, linewidth=0.8)
    right.set_xlabel("standard deviation of the target")
    right.set_ylabel("variance found / true")
    figure.save(drawing, "warmup_windows")


if __name__ == "__main__":
    main()
