"""The report on work and precision, from made-up curves."""

from probjax.experiments import work_precision_report as report

CURVE = {
    "problem": "kepler", "settings": [64, 128], "errors": [None, 1e-3], "scaled": [None, 1e-3],
    "evaluations": [256, 512], "run_seconds": [1e-3, 2e-3],
}  # fmt: skip
CELLS = [
    CURVE | {"solver": "rk4", "slope": None, "steps": None, "flag": "pre-asymptotic"},
    CURVE | {"solver": "euler", "slope": -1.02, "steps": [64, 128], "flag": None},
    CURVE | {"solver": "adaptive_tsit5", "factor": None},
    CURVE | {"solver": "scipy_dop853", "factor": 1234.5},
]
FOUND = {
    "config": {"repeats": 1}, "cells": CELLS, "seconds": 3.0, "sha256": {"errors": "0" * 64},
    "gate": {"verdict": "review", "reasons": ["a < b"], "checks": {
        "kepler": {"value": None, "limit": 0.2, "solver": "rk4", "verdict": "review"}}},
    "environment": {"devices": 1, "backend": "cpu", "device": "cpu", "jax": "1", "python": "3",
                    "probjax": "0"},
}  # fmt: skip


def test_tables_keep_the_order_of_solvers_and_say_what_failed():
    assert report.slope_table(CELLS)[1] == [["euler", "1", "-1.02"], ["rk4", "4", "none p"]]
    assert report.factor_table(CELLS)[1] == [
        ["adaptive_tsit5", "5", "failed"], ["scipy_dop853", "8", "1200"], ["at most", "", "9300"],
    ]  # fmt: skip


def test_the_page_tells_the_verdict_and_asks_no_other_host():
    html = report.render(FOUND)
    assert "<title>Work and precision: review</title>" in html and "a &lt; b" in html
    assert "none" in html and "http" not in html.replace("http://www.w3.org", "")
