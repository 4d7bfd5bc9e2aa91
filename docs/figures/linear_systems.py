"""The figure of `docs/diffeq/linear_systems.md`: errors and determinants of Magnus and RK4."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffeq

jax.config.update("jax_enable_x64", True)
STILL = jnp.array([[0.1, -1.0, 0.3], [0.8, 0.2, 0.0], [-0.4, 0.5, -0.6]])
WAVE = jnp.array([[0.0, 0.7, 0.2], [-0.3, 0.4, 1.0], [0.5, 0.0, -0.2]])
COUNTS = (4, 8, 16, 32, 64, 128)
METHODS = {"magnus2": "Magnus 2", "magnus4": "Magnus 4", "magnus6": "Magnus 6", "rk4": "RK4"}


def matrix(t: jax.Array) -> jax.Array:
    """The system of the page."""
    return STILL + jnp.cos(2 * t) * WAVE + jnp.sin(t) * WAVE.T


def main() -> None:
    """Draw both panels."""
    ts = jnp.array([2.0])
    log = diffeq.trace_integral(matrix, 0.0, ts)
    exact = diffeq.fundamental_matrix(matrix, 0.0, ts, method="magnus6", num_steps=1024)
    drawing, axes = plt.subplots(1, 2, figsize=(8.4, 3.6))
    for method, label in METHODS.items():
        errors, defects = [], []
        for count in COUNTS:
            phi = diffeq.fundamental_matrix(matrix, 0.0, ts, method=method, num_steps=count)
            errors.append(float(jnp.abs(phi - exact).max()))
            defects.append(float(diffeq.liouville_defect(phi, log)[0]))
        for axis, values in zip(axes, (errors, defects), strict=True):
            values = np.array(values)
            values[values < 2e-14] = np.nan
            axis.loglog(COUNTS, values, "o-", markersize=4, label=label)
    for axis, title in zip(axes, ("error of $\\Phi$", "defect of $\\log\\det\\Phi$"), strict=True):
        axis.set_xlabel("steps")
        axis.set_title(title)
        axis.set_ylim(1e-14, 1)
    axes[0].legend()
    figure.save(drawing, "linear_systems")


if __name__ == "__main__":
    main()
