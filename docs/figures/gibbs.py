"""The figures of `docs/mcmc/gibbs.md`: the zigzag of a sweep, and autocorrelation."""

import figure
import jax
import matplotlib.pyplot as plt
import numpy as np

from probjax import mcmc

RHOS = (0.0, 0.5, 0.9)


def pair(rho: float):
    """Return the Gibbs kernel of two standard normals with correlation `rho`."""

    def given(other):
        def kernel(key, value, rest):
            spread = (1 - rho**2) ** 0.5
            return rho * rest[other] + spread * jax.random.normal(key), None

        return kernel

    return mcmc.gibbs([mcmc.Block("x", given("y")), mcmc.Block("y", given("x"))])


def path(rho: float, num_steps: int):
    """Return the positions of one chain from (-2.5, 2.5)."""
    kernel = pair(rho)
    start = kernel.init({"x": -2.5, "y": 2.5})
    run = jax.jit(
        lambda key: mcmc.scan_steps(
            key, kernel.step, start, num_steps, trace_fn=lambda state, info: state.position
        )[2]
    )
    return jax.tree.map(np.asarray, run(jax.random.key(3)))


def zigzag() -> None:
    """Draw twenty sweeps as axis-parallel moves over contours of the target."""
    drawing, axes = plt.subplots(1, 3, figsize=(10, 3.7), sharex=True, sharey=True)
    grid = np.linspace(-3.2, 3.2, 161)
    x, y = np.meshgrid(grid, grid)
    for axis, rho in zip(axes, RHOS, strict=True):
        energy = (x**2 - 2 * rho * x * y + y**2) / (1 - rho**2)
        axis.contour(
            x, y, energy, levels=[0.6, 2.4, 6.0], colors=figure.INK, linewidths=0.8, alpha=0.5
        )
        sweeps = path(rho, 20)
        corners = [(-2.5, 2.5)]
        for new_x, new_y in zip(sweeps["x"], sweeps["y"], strict=True):
            corners += [(new_x, corners[-1][1]), (new_x, new_y)]
        axis.plot(*np.array(corners).T, color=figure.BLUE, linewidth=1.0)
        axis.plot(sweeps["x"], sweeps["y"], "o", color=figure.ORANGE, markersize=4)
        axis.set_title(rf"$\rho={rho:g}$")
        axis.set_xlabel("$x$")
        axis.set_aspect("equal")
    axes[0].set_ylabel("$y$")
    figure.save(drawing, "gibbs_zigzag")


def autocorrelation() -> None:
    """Draw the measured autocorrelation of one long run against the exact one."""
    drawing, axis = plt.subplots(figsize=(6.4, 3.8))
    lags, length = np.arange(21), 40_000
    colours = (figure.GREEN, figure.ORANGE, figure.BLUE)
    for rho, colour in zip(RHOS, colours, strict=True):
        z = path(rho, length)["x"][200:].astype(np.float64)
        z -= z.mean()
        measured = [np.mean(z[lag:] * z[: len(z) - lag]) / z.var() for lag in lags]
        time = (1 + rho**2) / (1 - rho**2)
        axis.plot(lags, rho ** (2.0 * lags), color=colour, linewidth=1.2)
        axis.plot(
            lags, measured, "o", color=colour, markersize=4,
            label=rf"$\rho={rho:g}$: $\tau={time:.2f}$",
        )  # fmt: skip
    axis.set_xlabel("lag, in sweeps")
    axis.set_ylabel("autocorrelation of $x$")
    axis.set_xticks(range(0, 21, 5))
    axis.legend()
    figure.save(drawing, "gibbs_autocorrelation")


if __name__ == "__main__":
    zigzag()
    autocorrelation()
