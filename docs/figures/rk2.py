"""The figure of `docs/diffeq/rk2.md`: error of the family of order two against alpha."""

import figure
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq.problems import PROBLEMS

NUM_STEPS = 400


def error(name: str, alpha: np.ndarray) -> np.ndarray:
    """Error at t = 5 for all alpha at once."""
    fields = {
        "A2": (lambda t, y: -(y**3) / 2),
        "A3": (lambda t, y: y * np.cos(t)),
        "A4": (lambda t, y: y / 4 * (1 - y / 20)),
    }
    field, h, y = fields[name], 5.0 / NUM_STEPS, np.ones_like(alpha)
    second = 1 / (2 * alpha)
    for k in range(NUM_STEPS):
        first = field(k * h, y)
        later = field(k * h + alpha * h, y + alpha * h * first)
        y = y + h * ((1 - second) * first + second * later)
    return np.abs(y - float(PROBLEMS[name].exact(5.0, None)))


def main() -> None:
    """Draw the figure."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8))
    alpha = np.linspace(0.3, 1.5, 241)
    left.plot(alpha, np.hypot(alpha / 4 - 1 / 6, 1 / 6), color=figure.BLUE)
    for at, name in ((1 / 2, "midpoint"), (2 / 3, "ralston"), (1.0, "heun")):
        value = np.hypot(at / 4 - 1 / 6, 1 / 6)
        left.plot(at, value, "o", color=figure.ORANGE)
        left.annotate(f"{name}\n{value:.4f}", (at, value), (0, 10), textcoords="offset points",
                      ha="center", fontsize=9)  # fmt: skip
    left.set_ylim(0.16, 0.235)
    left.set_title("principal error")
    colours = (figure.BLUE, figure.ORANGE, figure.GREEN)
    for name, colour in zip(("A2", "A3", "A4"), colours, strict=True):
        right.semilogy(alpha, error(name, alpha), color=colour, label=f"DETEST {name}")
    right.set_title(f"error at $t=5$, {NUM_STEPS} steps")
    right.legend()
    for axis in (left, right):
        axis.set_xlabel(r"$\alpha$")
    figure.save(drawing, "rk2")


if __name__ == "__main__":
    main()
