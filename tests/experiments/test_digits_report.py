"""The digits report shows what was found, row by row."""

import numpy as np

from probjax.experiments import digits_report


def row(name, accuracy, **cost):
    return {
        "sampler": name, "two_sample_accuracy": accuracy, "two_sample_accuracy_se": 0.01,
        "kid": 0.00123, "kid_se": 0.0004, "class_counts": list(range(90, 100)),
        "nearest_median": 1.5, "nearest_below_1_percent": 0.004, "copies": 0, **cost,
    }  # fmt: skip


FOUND = {
    "rows": [
        row("DDIM", 0.66, num_evaluations=40.0, seconds=3.0, samples_per_second=500.0),
        row("Heun", 0.58, num_evaluations=35.0, seconds=4.0, samples_per_second=400.0),
        row("real digits", 0.49),
    ],
    "classifier_accuracy": 0.991,
    "gate": {
        "verdict": "fail",
        "checks": [{"check": "nothing is remembered", "passed": False, "why": "3 copies"}],
        "reasons": [],
    },
    "training": {"num_parameters": 1234, "seconds": 75.0, "loss": 33.0, "held_out_loss": 33.5},
    "config": {"seed": 0},
    "sha256": {"parameters": "a" * 64, "samples": "b" * 64},
    "environment": {
        "probjax": "0.1.0", "jax": "0.10", "python": "3.11", "device": "cpu",
        "devices": 2, "backend": "cpu", "processes": 1,
    },
}  # fmt: skip
LOG = [{"step": s, "loss": 60 / s, "held_out_loss": 61 / s} for s in (1, 2, 3)]


def test_the_best_sampler_leads_and_every_row_is_there():
    html = digits_report.render(FOUND, LOG, {"DDIM": np.zeros((120, 8, 8, 1))}, {})
    assert "Heun is hardest to tell from real digits" in html and "58%" in html
    assert "1 min 15 s" in html and "1,234 parameters" in html
    for part in (
        "0.660 ± 0.010",
        "1.23 ± 0.40",
        "90-99 of 945",
        "0.4%",
        "99.1%",
        "a" * 16,
        "Gate: fail",
        "3 copies",
    ):
        assert part in html
    assert html.count("<tr class=mark><td>Heun</td>") == 1


def test_the_loss_curve_has_both_losses():
    figure = digits_report.loss_curve(LOG)
    lines = figure.axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[60, 30, 20], [61, 30.5, 61 / 3]]
