"""Means over seeds, the verdict, and the energy nearest to a field."""

import numpy as np
import pytest

from probjax.experiments import toy2d_quality as quality


def cell(values, label="ism", zero=8.0):
    return {
        "density": "eight_gaussians", "label": label, "values": values,
        "own": quality.over_seeds(values), "zero": {"mean": zero, "se": 0.1},
    }  # fmt: skip


def test_the_mean_over_seeds_has_its_error():
    values = np.random.default_rng(0).normal(size=7)
    found = quality.over_seeds(list(values))
    assert found["mean"] == pytest.approx(values.mean())
    assert found["se"] == pytest.approx(np.sqrt(np.sum((values - values.mean()) ** 2) / 6 / 7))


@pytest.mark.parametrize(
    ("values", "expected", "reason"),
    [
        ([0.10, 0.12], "pass", None),
        ([0.20, 0.21], "review", "above the anchor 0.125 by more than 2"),
        ([7.0, 9.5], "fail", "8.25 is not below 8, which a score of zero has"),
        ([0.1, float("nan")], "fail", "1 seeds are not finite"),
        ([0.1, float("inf")], "fail", "1 seeds are not finite"),
    ],
)
def test_the_verdict_is_that_of_the_worst_cell(values, expected, reason):
    anchors = {"eight_gaussians/ism": (0.125, 0.007)}
    gate = quality.verdict([cell([0.1, 0.1], "dsm 0.3"), cell(values)], anchors=anchors)
    assert gate["verdict"] == expected
    assert (not gate["reasons"]) if reason is None else any(reason in r for r in gate["reasons"])


def test_an_anchor_is_met_within_two_joint_errors():
    anchors = {"eight_gaussians/ism": (0.10, 0.01)}
    near = cell([0.12, 0.14])  # mean 0.13, error 0.01: joint error 0.0141
    limit = quality.verdict([near], anchors=anchors)["checks"]["eight_gaussians/ism: anchor"]
    assert limit["limit"] == pytest.approx(0.1 + 2 * np.hypot(0.01, 0.01))
    assert quality.verdict([near], anchors=anchors)["verdict"] == "review"


def test_the_energy_of_a_gradient_field_is_found_again():
    axis = np.linspace(-2, 2, 41)
    x, y = np.meshgrid(axis, axis)
    truth = x**2 / 2 + 2 * y**2 + x * y - x  # differences of a quadratic are exact
    field = -np.stack([x + y - 1, 4 * y + x], axis=-1)
    energy = quality.energy_from_field(field, axis[1] - axis[0])
    np.testing.assert_allclose(energy, truth - truth.min(), atol=1e-10)


def test_a_rotation_has_no_energy():
    axis = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(axis, axis)
    energy = quality.energy_from_field(np.stack([-y, x], axis=-1), 0.1)
    np.testing.assert_allclose(energy, energy.T[::-1, ::-1].T[::-1, ::-1], atol=1e-12)
    assert abs(energy - np.rot90(energy)).max() < 1e-10  # by symmetry, and the least squares say
    assert np.ptp(energy) < 0.2 * 2  # next to nothing of a field of length up to 1.4 over 2 units


def test_the_energy_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    field, spacing = rng.normal(size=(5, 7, 2)), 0.3
    energy = quality.energy_from_field(field, spacing)

    def squares(e):
        across = np.diff(e, axis=1) + spacing * (field[:, 1:, 0] + field[:, :-1, 0]) / 2
        up = np.diff(e, axis=0) + spacing * (field[1:, :, 1] + field[:-1, :, 1]) / 2
        return np.sum(across**2) + np.sum(up**2)

    for _ in range(20):
        assert squares(energy) < squares(energy + 0.01 * rng.normal(size=energy.shape))
