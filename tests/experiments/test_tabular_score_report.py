"""The tabular-score report shows verdict, differences, cost and what is wrong with the columns."""

from probjax.experiments import tabular_score_report

CELL = {
    "objective": "ssm", "test": [-20.5, -22.0, None], "checks": [3, 4, 5],
    "curve": [[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0], [-7.0, -8.0, -9.0], [-7.0, -9.0, -9.5]],
    "seconds_per_fit": 12.34, "compile_seconds": 5.6, "backwards": 2.04,
}  # fmt: skip
ROW = {
    "objective": "ssm", "mean": -21.25, "se": 0.75, "gain": 15.5, "gain_se": 0.5,
    "behind": 0.875, "behind_se": 0.125, "is_worse": True,
}  # fmt: skip
RESULT = {
    "data": "wine-red", "num_rows": 1599, "num_repeated": 240, "num_train": 1297,
    "num_validation": 143, "num_test": 159, "dim": 11, "floor": -550.0,
    "dropped": {"quality": "a grade"}, "gaussian": [-5.5, -5.75, -5.25],
    "columns": [{
        "column": "alcohol", "distinct": 65, "gap": 0.1, "gap_in_sd": 0.0939,
        "largest_share": 0.087, "rows_apart": 0.012,
    }],
    "cells": [CELL], "comparison": [ROW],
}  # fmt: skip
FOUND = {
    "config": {
        "objectives": ["ssm"], "datasets": ["wine-red"], "num_splits": 3,
        "fitting": {"check_every": 100},
    },
    "gate": {"verdict": "review", "reasons": ["ssm: a <reason>"], "worse": ["wine-red ssm"]},
    "results": [RESULT],
    "sha256": {"fits": "a" * 64},
    "environment": {
        "probjax": "0.1.0", "jax": "0.10", "python": "3.11", "device": "cpu", "devices": 2,
        "backend": "cpu",
    },
}  # fmt: skip


def test_everything_found_is_shown():
    broken = ROW | {"objective": "dsm", "mean": None, "se": None}
    result = RESULT | {"cells": [CELL, CELL | {"objective": "dsm"}], "comparison": [ROW, broken]}
    html = tabular_score_report.render(FOUND | {"results": [result]})
    for part in (
        "<title>Scores of tables: review</title>", "ssm: a &lt;reason&gt;", "-21.25 ± 0.75",
        "15.50 ± 0.50", "0.88 ± 0.12", "worse", "2.04", "12.3", "5.6", "240 repeat another",
        "-550", "quality, a grade", "wine-red: alcohol", "8.7%", "1.2%", "a" * 16,
        "<td>-5.50</td>", "<td>not finite</td>",
    ):  # fmt: skip
        assert part in html, part
    assert html.count("data:image/svg+xml") == 2 and "http" not in html


def test_splits_are_drawn_as_dots_and_lines_end_with_the_first_that_stopped():
    figure = tabular_score_report.draw([RESULT])
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["Gaussian", "SSM"]
    assert list(left.lines[1].get_xdata()) == [-20.5, -22.0], "what is not finite has no dot"
    assert right.patches[0].get_width() == 12.34
    (axis,) = tabular_score_report.curves([RESULT], 100).axes
    assert list(axis.lines[0].get_xdata()) == [100, 200, 300]
    assert list(axis.lines[0].get_ydata()) == [-2.0, -5.0, -8.0]
