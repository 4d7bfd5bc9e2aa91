"""The figure of `docs/mcmc/tempering.md`: paths of replicas, and what the cold one finds."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import mcmc, targets

LEVELS, STEPS, LADDERS = 10, 150, 32
TARGET = targets.two_modes()
BETAS = mcmc.geometric_ladder(LEVELS, 0.02)


def ladder(swap: str):
    """The tempered kernel."""
    return mcmc.parallel_tempering(
        TARGET.log_density,
        lambda logdensity_fn, level: mcmc.mala(logdensity_fn, 0.5 / level.inverse_temperature),
        BETAS,
        swap=swap,
    )


def run(kernel, num_steps: int, keep):
    """A trace of `LADDERS` chains begun in the lesser mode."""
    states = mcmc.init_chains(kernel, jnp.full((LADDERS, 2), -5.0))
    return mcmc.run_chains(jax.random.key(1), kernel, states, num_steps, trace_fn=keep).trace


def main() -> None:
    """Draw paths under both rules, and the share of the larger mode."""
    drawing, axes = plt.subplots(
        1, 3, figsize=(10.4, 3.7), gridspec_kw={"width_ratios": [1, 1, 1.15]}
    )
    styles = ((0, figure.BLUE), (4, figure.ORANGE), (9, figure.GREEN))
    for axis, swap, title in zip(
        axes[:2], ("even_odd", "random"), ("in turns", "at random"), strict=True
    ):
        index = run(ladder(swap), STEPS, lambda state, info: state.index)[0]
        for replica, colour in styles:
            axis.plot(np.argmax(index == replica, axis=1), color=colour, linewidth=1.4)
        axis.set_title(f"exchanges {title}")
        axis.set_xlabel("step")
        axis.set_yticks([0, LEVELS - 1], ["cold", "hot"])
        axis.set_ylim(-0.4, LEVELS - 0.6)
    for kernel, colour, label in (
        (ladder("even_odd"), figure.BLUE, "parallel tempering"),
        (mcmc.mala(TARGET.log_density, 0.5), figure.RED, "MALA alone"),
    ):
        right = run(kernel, 1000, lambda state, info: state.position[0] > 0).mean(axis=0)
        axes[2].plot(np.convolve(right, np.ones(50) / 50, "valid"), color=colour, label=label)
    axes[2].axhline(0.8, color=figure.INK, linestyle="--", linewidth=1.2, label="truth")
    axes[2].set_title("draws in the larger mode")
    axes[2].set_xlabel("step")
    axes[2].set_ylim(-0.03, 1)
    axes[2].legend(loc="center right", bbox_to_anchor=(1.0, 0.4))
    figure.save(drawing, "tempering_paths")


if __name__ == "__main__":
    main()
