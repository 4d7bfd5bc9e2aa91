"""The picture of the digit-lines page: held-out lines, where their digits were found, occupancies.

Reads `samples.npz` of a finished `probjax run digit-lines`: the folder given, or the newest under
`runs/`. Without one it leaves the committed picture as it is.
"""

import sys
from pathlib import Path

import numpy as np
from figure import INK, save

from probjax.datasets.digit_lines import DigitLines
from probjax.experiments import digit_lines_report
from probjax.experiments.digit_lines_model import Reading


def newest() -> Path | None:
    """Return the newest finished run, or None."""
    found = Path("runs").glob("digit-lines-*/samples.npz")
    runs = sorted(found, key=lambda path: path.stat().st_mtime)
    return runs[-1].parent if runs else None


def main() -> None:
    """Draw the picture from the run named on the command line, or from the newest."""
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    if run is None:
        print("docs/figures/digit_lines.py: no finished run under runs/, nothing drawn")
        return
    arrays = np.load(run / "samples.npz")
    lines = DigitLines(*(arrays[name] for name in DigitLines._fields))
    reading = Reading(*(arrays[f"read_{name}"] for name in Reading._fields))
    shown = digit_lines_report.examples(lines, reading, 4)
    save(digit_lines_report.draw_lines(lines, reading, shown, ink=INK), "digit_lines")


if __name__ == "__main__":
    main()
