"""The report on hares and lynxes, from made-up fits."""

import numpy as np

from probjax.experiments import predator_prey_report as report

OPTIMUM = {
    "value": 122.926, "starts": 90, "period": 10.29, "r_squared": [0.876, 0.915],
    "parameters": [0.54, 0.02716, 0.7966, 0.0237, 34.6, 5.84, 0.2184, 0.2201],
}  # fmt: skip
FOUND = {
    "config": {"num_starts": 100, "num_iterations": 5},
    "gate": {"verdict": "review", "reasons": ["a < b"], "checks": {
        "slope": {"value": None, "limit": 0.1, "verdict": "review"}}},
    "optima": [OPTIMUM, OPTIMUM | {"value": 167.2, "period": None}],
    "num_optima": 3, "lost": 1, "seconds": 3.0, "sha256": {"fits": "0" * 64},
    "environment": {"devices": 2, "backend": "cpu", "device": "cpu", "jax": "1", "python": "3",
                    "probjax": "0"},
}  # fmt: skip


def test_the_table_holds_every_optimum_and_what_is_known():
    header, rows = report.table_of(FOUND)
    assert all(len(row) == len(header) for row in rows)
    assert rows[0][0] == "122.926" and rows[1][0] == "167.200" and rows[1][10] == "none"
    assert rows[2][0] == "122.926 (known)" and rows[3][2] == "0.547 ± 0.063"


def test_the_page_tells_the_verdict_and_asks_no_other_host():
    years = np.arange(1900.0, 1905.0)
    drawn = {
        "years": years, "counts": np.full((5, 2), 10.0), "curve_0": np.full((9, 2), 11.0),
        "curve_1": np.full((9, 2), 12.0),
    }  # fmt: skip
    html = report.render(FOUND, drawn)
    assert "<title>Hares and lynxes: review</title>" in html and "a &lt; b" in html
    assert (
        "1 more, each higher, are left out" in html and "not finite" in html and "http" not in html
    )
