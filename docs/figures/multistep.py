"""The figure of `docs/diffeq/multistep.md`: where Adams methods are stable."""

import figure
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffeq

COLOURS = (figure.INK, figure.BLUE, figure.GREEN, figure.ORANGE, figure.RED)


def growth(kind: str, steps: int, z: np.ndarray) -> np.ndarray:
    """Largest root in modulus of the recursion on y' = lambda y, as eigenvalues."""
    explicit = np.array(diffeq.adams_bashforth(steps), float)
    implicit = np.array(diffeq.adams_moulton(steps), float)
    flat = z.reshape(-1, 1)
    past = np.zeros((flat.shape[0], steps), complex)  # weights of y_n, y_{n-1}, ...
    past[:, 0] = 1.0
    predicted = past + flat * explicit
    if kind == "abm":
        corrected = past.copy()
        corrected[:, : steps - 1] += flat * implicit[1:]
        past = corrected + flat * implicit[0] * predicted
    else:
        past = predicted
    companion = np.zeros((flat.shape[0], steps, steps), complex)
    companion[:, 0] = past
    companion[:, np.arange(1, steps), np.arange(steps - 1)] = 1.0
    return np.abs(np.linalg.eigvals(companion)).max(-1).reshape(z.shape)


def main() -> None:
    """Draw the borders of both families."""
    drawing, axes = plt.subplots(1, 2, figsize=(9.4, 4.2), sharey=True)
    x, y = np.linspace(-2.6, 0.6, 241), np.linspace(-1.6, 1.6, 241)
    z = x + 1j * y[:, None]
    for axis, kind in zip(axes, ("ab", "abm"), strict=True):
        for steps, colour in zip(range(1, 6), COLOURS, strict=True):
            axis.contour(x, y, growth(kind, steps, z), levels=[1.0], colors=colour, linewidths=1.6)
            axis.plot([], [], color=colour, label=f"$k={steps}$")
        axis.set_aspect("equal")
        axis.set_xlabel(r"real part of $h\lambda$")
        axis.set_title(kind)
    axes[0].set_ylabel("imaginary part")
    axes[0].legend(loc="upper left", fontsize="small")
    figure.save(drawing, "multistep_stability")


if __name__ == "__main__":
    main()
