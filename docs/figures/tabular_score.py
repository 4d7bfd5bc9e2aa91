"""The picture of the scores-of-tables page: test values and seconds of every objective.

Reads `metrics.json` of a finished `probjax run tabular-score`: the folder given, or the newest
under `runs/`. Without one it leaves the committed picture as it is.
"""

import json
import sys
from pathlib import Path

from figure import INK, save

from probjax.experiments import tabular_score_report


def newest() -> Path | None:
    """Return the newest finished run, or None."""
    found = Path("runs").glob("tabular-score-*/metrics.json")
    runs = sorted(found, key=lambda path: path.stat().st_mtime)
    return runs[-1].parent if runs else None


def main() -> None:
    """Draw the picture from the run named on the command line, or from the newest."""
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    if run is None:
        print("docs/figures/tabular_score.py: no finished run under runs/, nothing drawn")
        return
    results = json.loads((run / "metrics.json").read_text())["results"]
    save(tabular_score_report.draw(results, ink=INK), "tabular_score")


if __name__ == "__main__":
    main()
