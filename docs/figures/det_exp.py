"""The figure of `docs/diffeq/det_exp.md`: the logarithm's series, and two exponentials."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffeq

TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def series(axis: plt.Axes) -> None:
    """Error of partial sums for four radii."""
    terms = np.arange(1, 41)
    for radius in (0.5, 0.8, 1.0, 1.2):
        total, error = np.zeros((2, 2)), []
        exact = np.log1p(radius**2) / 2 * np.eye(2) + np.arctan(radius) * TURN
        for k in terms:
            total = total + (-1.0) ** (k + 1) / k * np.linalg.matrix_power(radius * TURN, k)
            error.append(np.abs(total - exact).max())
        axis.semilogy(terms, error, label=f"radius {radius}")
    axis.set_xlabel("terms")
    axis.set_title("error of the logarithm's series")
    axis.legend()


def exponentials(axis: plt.Axes) -> None:
    """Relative error in float32."""
    x = np.linspace(0.5, 40, 400, dtype=np.float32)
    blocks = -jnp.asarray(x)[:, None, None]
    exact = np.exp(-x.astype(np.float64))
    for fn, label in (
        (jax.scipy.linalg.expm, "jax.scipy.linalg.expm"),
        (jax.vmap(diffeq.expm), "diffeq.expm"),
    ):
        error = np.abs(np.asarray(fn(blocks), np.float64)[:, 0, 0] / exact - 1)
        axis.semilogy(x, np.maximum(error, 1e-8), label=label, linewidth=1.2)
    axis.set_xlabel("$x$")
    axis.set_title("relative error of $e^{-x}$, float32")
    axis.legend()


def main() -> None:
    """Draw both panels."""
    drawing, axes = plt.subplots(1, 2, figsize=(8.4, 3.6))
    series(axes[0])
    exponentials(axes[1])
    figure.save(drawing, "det_exp")


if __name__ == "__main__":
    main()
