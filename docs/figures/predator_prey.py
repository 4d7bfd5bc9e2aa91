"""The figure of `docs/experiments/predator_prey.md`: the best fit, and the orbits of all optima."""

import figure
import jax
import matplotlib.pyplot as plt
import numpy as np

from probjax import sharding
from probjax.experiments import predator_prey, predator_prey_report


def main() -> None:
    """Fit 64 starts and draw what the report draws."""
    config = predator_prey.Config(num_starts=64)
    fits = predator_prey.fit_all(config, sharding.make_mesh(1))
    _, drawn = predator_prey.summarize(config, jax.tree.map(np.asarray, fits))
    drawing = predator_prey_report.draw(drawn, ink=figure.INK)
    plt.figure(drawing)
    figure.save(drawing, "predator_prey")


if __name__ == "__main__":
    main()
