"""The main job: what it refuses, and (slow) its quality on real digits."""

import dataclasses
import json

import pytest

from probjax import cli, sharding
from probjax.experiments import digits
from probjax.experiments.runs import UserError


def test_the_default_config_fits_one_to_eight_devices():
    for number in (1, 2, 4, 8):
        digits.check(digits.Config(), sharding.make_mesh(number))
        digits.check(digits.Config(tile=8), sharding.make_mesh(number))


def test_a_batch_that_does_not_divide_is_refused():
    training = dataclasses.replace(digits.Config().training, batch_size=36)
    with pytest.raises(
        UserError, match=r"batch_size=36 must be a multiple of 16 \(2 devices times"
    ):
        digits.check(digits.Config(tile=8, training=training), sharding.make_mesh(2))


@pytest.mark.slow
def test_the_demo_draws_digits_that_pass(tmp_path):
    """The bars of the main job, by the run that `make demo` starts."""
    assert cli.main(["run", "digits", "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = {row["sampler"]: row for row in found["rows"]}
    drawn = [row for row in found["rows"] if "num_evaluations" in row]
    assert len(drawn) == 5
    assert min(row["two_sample_accuracy"] for row in drawn) <= 0.65
    assert rows["Gaussian baseline"]["two_sample_accuracy"] > 0.85
    assert rows["real digits"]["two_sample_accuracy"] < 0.55
    for row in drawn:
        assert row["copies"] == 0 and row["nearest_below_1_percent"] <= 0.02
        assert min(row["class_counts"]) >= 50 and sum(row["class_counts"]) == 1000
