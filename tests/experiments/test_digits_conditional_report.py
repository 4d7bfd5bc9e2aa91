"""The pictures lie as their captions say."""

import numpy as np

from probjax.experiments import digits_conditional_report as parts
from probjax.experiments.digits_conditional import known_half


def test_a_class_is_a_row():
    guided = np.arange(2 * 10 * 3, dtype=float)[:, None, None, None] * np.ones((1, 8, 8, 1))
    first, second = parts.guided_sheet(guided, 2, 2)
    assert first[:4, 0, 0].tolist() == [0, 1, 3, 4] and second[0, 0, 0] == 30


def test_given_then_completions_then_original():
    originals = np.full((3, 8, 8, 1), 0.7)
    sheet = parts.completed_sheet(np.zeros((6, 8, 8, 1)), originals, 3, 2)
    mask = np.asarray(known_half()).reshape(8, 8)
    assert sheet.shape == (8, 8, 8)
    assert (sheet[0][mask] == 0.7).all() and (sheet[0][~mask] == 0.25).all()
    assert (sheet[1:3] == 0).all() and (sheet[3] == 0.7).all()


def test_a_run_without_them_has_no_sections():
    assert parts.guidance({}, {}) == parts.inpainting({}, {}, {}) == parts.likelihood({}) == []
