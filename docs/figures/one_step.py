"""The figure of `docs/diffeq/one_step.md`: global error against the step, four orders."""

import figure
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq import METHODS

SPAN = 5.0


def error(method: str, num_steps: int) -> float:
    """Error at the end of y' = y cos t, y(0) = 1, in plain floats."""
    tableau, y, h = METHODS[method], 1.0, SPAN / num_steps
    a, b, c = (
        [[float(x) for x in row] for row in tableau.a],
        *map(np.float64, (tableau.b, tableau.c)),
    )
    for k in range(num_steps):
        slopes: list[float] = []
        for row, time in zip(a, c, strict=True):
            inner = y + h * sum(x * s for x, s in zip(row, slopes, strict=True))
            slopes.append(inner * np.cos((k + time) * h))
        y += h * float(np.dot(b, slopes))
    return abs(y - np.exp(np.sin(SPAN)))


def main() -> None:
    """Draw the figure."""
    drawing, axis = plt.subplots(figsize=(7.0, 4.0))
    counts = np.array([10, 20, 40, 80, 160, 320, 640, 1280])
    for method, colour in zip(
        ("euler", "heun", "kutta3", "rk4"),
        (figure.BLUE, figure.ORANGE, figure.GREEN, figure.RED),
        strict=True,
    ):
        errors = np.array([error(method, n) for n in counts])
        order = METHODS[method].order
        axis.loglog(SPAN / counts, errors, "o-", color=colour, label=f"{method}, order {order}")
        line = errors[-1] * (counts[-1] / counts[2:]) ** order
        axis.loglog(SPAN / counts[2:], line, ":", color=colour, linewidth=1)
    axis.set_xlabel("step $h$")
    axis.set_ylabel("error at $t=5$")
    axis.legend()
    figure.save(drawing, "one_step")


if __name__ == "__main__":
    main()
