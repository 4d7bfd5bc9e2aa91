"""A wanted class and a missing half, measured on draws whose quality is known."""

import jax
import numpy as np
import pytest

from probjax import datasets
from probjax.experiments import digits_conditional as conditional
from probjax.experiments.digits_model import measure_scaling

TRAIN, TEST = (
    datasets.Images(one.images[:n], one.labels[:n], one.levels)
    for one, n in (
        (datasets.load_digits(split="train"), 500),
        (datasets.load_digits(split="test"), 150),
    )
)
LABELS = np.asarray(TEST.labels)
PLAN = conditional.GuidanceConfig((1.0, 3.0), 4)


def test_real_digits_are_of_their_class_and_copies_of_one_are_not_diverse():
    by_class = np.concatenate([np.flatnonzero(c == LABELS)[:4] for c in range(10)])
    one = np.repeat(by_class[::4], 4)
    wrong = np.roll(np.asarray(TEST.images)[one], 4, axis=0)  # the class before
    images = np.concatenate([np.asarray(TEST.images)[by_class], wrong])
    real, copied, *_, held_out = conditional.measure_guidance(images, PLAN, TRAIN, TEST)["rows"]
    assert held_out["class_accuracy"] > 0.9 and held_out["copies"] == 0
    assert abs(held_out["two_sample_accuracy"] - 0.5) < 4 * held_out["two_sample_accuracy_se"]
    assert real["class_accuracy"] > 0.9 and copied["class_accuracy"] < 0.1
    assert real["nearest_in_class"] > 0.5 and copied["nearest_in_class"] == 0.0
    assert real["spread_in_class"] > 1.0 and copied["spread_in_class"] == 0.0
    assert (real["weight"], copied["weight"]) == (1.0, 3.0)


@pytest.mark.parametrize("broken", [False, True])
def test_one_bit_of_the_known_half_is_seen(broken):
    config = conditional.InpaintingConfig(num_digits=20, num_completions=2)
    scaling = measure_scaling(TRAIN)
    spread = datasets.dequantise(jax.random.key(0), TEST.images[:20], TEST.levels)
    observed = np.repeat(np.asarray(scaling.rows(spread)), 2, axis=0)
    x = observed.copy()
    x[:, ~np.asarray(conditional.known_half())] = 0.0
    if broken:
        x[7, 3] = np.nextafter(x[7, 3], np.float32(9))
    found = conditional.measure_inpainting(x, observed, scaling, config, TRAIN, TEST)
    grey, gaussian, original = found["rows"]
    assert found["known_half_exact"] is not broken
    assert grey["spread"] == 0.0 < gaussian["spread"]
    assert grey["class_accuracy"] < original["class_accuracy"] > 0.9
