"""The figure of `docs/mcmc/mala.md`: variance with and without the accept step, and acceptance."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import mcmc

CHAINS, STEPS = 20_000, 100
SIZES = (0.2, 0.5, 0.8, 1.1, 1.4)


@jax.jit
def unadjusted(key: jax.Array, step_size: float) -> jax.Array:
    """The variance of plain Langevin chains on N(0, 1)."""
    kernel = mcmc.ula(lambda x: -x, step_size)
    start = kernel.init(jnp.zeros((CHAINS, 1)))
    return mcmc.scan_steps(key, kernel.step, start, STEPS)[0].position.var()


@jax.jit
def adjusted(key: jax.Array, step_size: float) -> tuple[jax.Array, jax.Array]:
    """The variance with the accept step, and the mean acceptance."""
    kernel = mcmc.mala(lambda x: -0.5 * jnp.sum(x**2), step_size)

    def chain(key):
        start = kernel.init(jnp.zeros(1))
        state, info, _ = mcmc.scan_steps(key, kernel.step, start, STEPS)
        return state.position[0], info.acceptance_rate / STEPS

    x, rate = jax.vmap(chain)(jax.random.split(key, CHAINS))
    return x.var(), rate.mean()


def main() -> None:
    """Draw both against the step size."""
    drawing, axis = plt.subplots(figsize=(6.4, 3.9))
    grid = np.linspace(0.02, 1.5, 100)
    axis.plot(grid, 1 / (1 - grid / 2), color=figure.RED)
    axis.axhline(1.0, color=figure.BLUE)
    for number, size in enumerate(SIZES):
        plain = float(unadjusted(jax.random.key(number), size))
        exact, rate = map(float, adjusted(jax.random.key(10 + number), size))
        for variance, colour, marker, label in (
            (plain, figure.RED, "s", "without accept step"),
            (exact, figure.BLUE, "o", "with accept step"),
        ):
            axis.errorbar(
                size, variance, 4 * variance * (2 / CHAINS) ** 0.5, color=colour, marker=marker,
                markersize=5, capsize=3, label=label if number == 0 else None,
            )  # fmt: skip
        axis.annotate(f"{rate:.2f}", (size, 0.8), ha="center", color=figure.BLUE)
    axis.set_ylim(0.6, 4.2)
    axis.set_xlabel(r"step_size $\eta$")
    axis.set_ylabel("variance of the chain")
    axis.legend(loc="upper left")
    figure.save(drawing, "mala_bias")


if __name__ == "__main__":
    main()
