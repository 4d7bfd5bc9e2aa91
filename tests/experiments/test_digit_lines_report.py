"""The digit-lines report shows verdict, rates, spans where they are, and wrong lines first."""

import numpy as np
import pytest

from probjax.datasets.digit_lines import DigitLines
from probjax.experiments import digit_lines_report
from probjax.experiments.digit_lines_model import Reading

RATES = {
    "label_error_rate": 0.0412, "label_error_rate_se": 0.0051,
    "label_error_rate_interval": [0.0312, 0.0512], "line_accuracy": 0.775,
    "line_accuracy_interval": [0.736, 0.809], "loss": 1.2345,
}  # fmt: skip
FOUND = {
    "config": {"loss": "ctc", "split": "form", "training": {"num_steps": 700, "batch_size": 32}},
    "gate": {
        "verdict": "review", "reasons": ["label_error_rate is 0.0812, outside 0.02 to 0.07"],
        "checks": {
            "label_error_rate": {
                "value": 0.0812, "pass": (0.02, 0.07), "review": (0.015, 0.1), "verdict": "review",
            },
        },
    },
    "held_out": RATES, "training_digits": {**RATES, "loss": 0.4321},
    "centres": {"share": 0.987, "median_offset": -0.5},
    "decoders": [
        {"decoder": "greedy", **RATES},
        {"decoder": "beam of 16", **RATES, "difference": -0.0012, "difference_se": 0.0004,
         "lines_per_second": 321.0, "overflows": 0},
    ],
    "confusion": (np.eye(11, dtype=int) * 77).tolist(),
    "isolated_error": 0.0314, "num_images": {"train": 1287, "test": 510},
    "training": {"num_parameters": 98765, "seconds": 75.0, "loss": 0.4, "held_out_loss": 1.2},
    "sha256": {"parameters": "a" * 64, "readings": "b" * 64},
    "environment": {
        "probjax": "0.1.0", "jax": "0.10", "python": "3.11", "device": "cpu", "devices": 2,
        "backend": "cpu", "processes": 1,
    },
}  # fmt: skip
LOG = [{"step": s, "loss": 60 / s, "held_out_loss": 61 / s} for s in (1, 2, 3)]


@pytest.fixture
def lines():
    labels = np.array([[3, 5, -1], [7, 7, 1], [0, 2, -1]])
    starts = np.array([[4, 12, -1], [1, 9, 20], [0, 8, -1]])
    ends = np.where(labels < 0, -1, starts + 8)
    images = np.random.default_rng(0).uniform(size=(3, 10, 40)).astype(np.float32)
    return DigitLines(images, labels, np.array([2, 3, 2]), starts, ends)


@pytest.fixture
def reading():
    tokens = np.array([[3, 5, -1, -1], [7, 1, -1, -1], [0, 2, -1, -1]])
    starts = np.array([[2, 7, -1], [1, 5, 12], [1, 6, -1]])
    ends = np.where(starts < 0, -1, starts + 2)
    occupancy = np.full((3, 20, 11), 1 / 11)
    return Reading(
        tokens, np.array([2, 2, 2]), np.ones(3), starts, ends, np.zeros((3, 3)), occupancy
    )


def test_everything_found_is_shown(lines, reading):
    html = digit_lines_report.render(FOUND, LOG, lines, reading)
    for part in (
        "<title>Digit lines by ctc: review</title>", "outside 0.02 to 0.07", "98,765 parameters",
        "1 min 15 s", "4.12% ± 0.51%", "77.5% (73.6% to 80.9%)", "-0.12% ± 0.04%", "321",
        "98.7% of the aligned", "-0.5 columns", "held-out (510 digits)", "0.432", "3.1%", "<td>77",
        "a" * 16,
    ):  # fmt: skip
        assert part in html, part
    assert html.count("data:image/svg+xml") == 2 and "http" not in html


def test_wrong_lines_come_first_and_none_twice(lines, reading):
    assert digit_lines_report.examples(lines, reading, 2) == [1, 0]
    assert digit_lines_report.examples(lines, reading, 6) == [1, 0, 2]


def test_spans_are_drawn_in_columns_of_the_image(lines, reading):
    figure = digit_lines_report.draw_lines(lines, reading, [1])
    picture, bars, heat = figure.axes
    assert picture.get_title(loc="left") == "71  (is 771)"
    spans = [(bar.get_x(), bar.get_width()) for bar in bars.patches]
    assert spans == [(2, 4), (10, 4), (24, 4)]
    assert [text.get_text() for text in bars.texts] == ["7", "7", "1"]
    assert heat.images[0].get_extent()[:2] == [0, 40] and heat.images[0].get_size() == (11, 20)
