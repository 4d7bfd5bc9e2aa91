"""The figure of `docs/experiments/work_precision.md`: error against evaluations and seconds."""

import json
import sys
from pathlib import Path

import figure
import matplotlib.pyplot as plt

from probjax.experiments import work_precision, work_precision_report


def main() -> None:
    """Draw what the report draws: of the run whose folder is named, or of a new measurement."""
    if len(sys.argv) > 1:
        cells = json.loads((Path(sys.argv[1]) / "metrics.json").read_text())["cells"]
    else:
        config = work_precision.Config(solvers=tuple(work_precision_report.DRAWN))
        todo = work_precision.model.cells_of(config.problems, config.solvers)
        cells = [
            record | {"run_seconds": record["time"]()}
            for record in work_precision.measure(config, todo)
        ]
    drawing = work_precision_report.draw(cells, ink=figure.INK)
    plt.figure(drawing)
    figure.save(drawing, "work_precision_ode")


if __name__ == "__main__":
    main()
