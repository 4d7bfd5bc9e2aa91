"""The main job: what it refuses, and (slow) its quality on real digits."""

import dataclasses
import json

import pytest

from probjax import cli, sharding
from probjax.experiments import digits
from probjax.experiments.digits_samplers import SamplingConfig
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


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("sampling", "samplers", ("huen",), "samplers must be among ddim, .* got 'huen'"),
        ("sampling", "samplers", (), "got none"),
        ("training", "label_dropout", 1.0, "label_dropout must be below 1"),
        ("likelihood", "num_exact", 1, "num_exact must be between 2 and"),
        ("inpainting", "num_digits", 501, "at most the 500 held out"),
        ("guidance", "weights", (), "weights must be positive"),
    ],
)
def test_what_cannot_be_drawn_is_refused(part, field, value, words):
    config = digits.Config()
    changed = dataclasses.replace(getattr(config, part), **{field: value})
    with pytest.raises(UserError, match=words):
        digits.check(dataclasses.replace(config, **{part: changed}), sharding.make_mesh(1))


@pytest.mark.slow
def test_the_demo_draws_digits_that_pass(tmp_path):
    """The bars of the main job, by the run that `make demo` starts."""
    assert cli.main(["run", "digits", "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = {row["sampler"]: row for row in found["rows"]}
    drawn = [row for row in found["rows"] if "num_evaluations" in row]
    assert len(drawn) == len(SamplingConfig().samplers) + 1
    assert min(row["two_sample_accuracy"] for row in drawn) <= 0.65
    assert rows["Gaussian baseline"]["two_sample_accuracy"] > 0.85
    assert rows["real digits"]["two_sample_accuracy"] < 0.55
    for row in drawn:
        assert row["copies"] == 0 and row["nearest_below_1_percent"] <= 0.02
        assert min(row["class_counts"]) >= 25 and sum(row["class_counts"]) == 500
    langevin, *others = found["gate"]["checks"]
    assert all(one["passed"] for one in others), others
    # Whether few evaluations are as good as a thousand is what the run is to find out.
    assert langevin["passed"] is not None, langevin
    bits = {(r["sampler"], r["digits"]): r for r in found["likelihood"]["rows"]}
    flow = bits["flow, Hutchinson", "held-out"]
    assert flow["bits_per_dim"] < bits["Gaussian baseline", "held-out"]["bits_per_dim"]
    gap = found["likelihood"]["hutchinson_minus_exact"]
    assert abs(gap) < 4 * found["likelihood"]["hutchinson_minus_exact_se"]
