"""The measures of quality tell copies, noise and real digits apart."""

import numpy as np
import pytest

from probjax import datasets
from probjax.experiments import digits_quality

TRAIN, TEST = datasets.load_digits(split="train"), datasets.load_digits(split="test")


@pytest.fixture(scope="module")
def rows():
    half = np.asarray(TRAIN.images[500:1000])
    noise = np.random.default_rng(0).integers(0, 17, (500, 8, 8, 1)) / 16
    sets = {"copies": half, "noise": noise.astype(np.float32), "shifted": np.roll(half, 1, axis=2)}
    draws = {name: digits_quality.Draws(images, 40.0, 1.0, 500.0) for name, images in sets.items()}
    found = digits_quality.measure(draws, TRAIN, TEST, seed=0)
    assert found["classifier_accuracy"] > 0.97
    return {row["sampler"]: row for row in found["rows"]}


@pytest.mark.slow
def test_copies_are_seen_as_copies_and_as_real(rows):
    assert rows["copies"]["copies"] == 500
    assert rows["copies"]["nearest_below_1_percent"] == 1.0
    assert rows["copies"]["two_sample_accuracy"] < 0.55
    labels = np.bincount(np.asarray(TRAIN.labels[500:1000]), minlength=10)
    assert np.abs(np.array(rows["copies"]["class_counts"]) - labels).max() <= 5


def test_noise_is_told_apart_and_copies_nothing(rows):
    assert rows["noise"]["two_sample_accuracy"] > 0.99
    assert rows["noise"]["copies"] == 0 and rows["noise"]["nearest_below_1_percent"] == 0.0
    assert rows["noise"]["kid"] > 10 * rows["noise"]["kid_se"]


def test_real_digits_are_the_best_row_and_a_gaussian_is_not(rows):
    real, gaussian = rows["real digits"], rows["Gaussian baseline"]
    assert abs(real["two_sample_accuracy"] - 0.5) < 4 * real["two_sample_accuracy_se"]
    assert abs(real["kid"]) < 4 * real["kid_se"]
    assert gaussian["two_sample_accuracy"] > 0.85 > real["two_sample_accuracy"]
    assert rows["shifted"]["two_sample_accuracy"] > 0.8
    assert real["nearest_median"] > 0 and real["copies"] == 0


def test_the_gaussian_has_the_training_moments():
    draws = digits_quality.gaussian_baseline(TRAIN, 4000, seed=1)
    mean = np.asarray(TRAIN.images).mean(0)
    inside = (mean > 0.2) & (mean < 0.8)  # elsewhere rounding to [0, 1] cuts the tails
    error = np.asarray(TRAIN.images).std(0) / np.sqrt(4000)
    assert (np.abs(draws.mean(0) - mean)[inside] < 5 * error[inside] + 0.03).all()
    assert set(np.unique(draws * 16)) <= set(range(17))
