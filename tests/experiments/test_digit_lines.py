"""The digit-lines experiment: what it refuses, a tiny run cut in two, and (slow) its quality."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from probjax import cli, sharding
from probjax.experiments import digit_lines
from probjax.experiments.runs import UserError

SMALL = [
    "--config.network.widths", "4", "4", "8", "--config.network.joint-width=8",
    "--config.training.num-steps=4", "--config.training.batch-size=8",
    "--config.training.chunk-size=2", "--config.training.checkpoint-every=2",
    "--config.reading.num-lines=16", "--config.reading.chunk-size=16",
]  # fmt: skip
NO_BEAM = ["--config.reading.beam-widths"]


@pytest.fixture(autouse=True)
def eight_devices():
    """Once JAX has its devices the command line leaves their number alone."""
    assert len(jax.devices()) == 8


def run(folder, *options):
    return cli.main(["run", "digit-lines", "--devices=2", "--out", str(folder), *SMALL, *options])


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_default_config_fits_one_to_eight_devices():
    for number in (1, 2, 4, 8):
        digit_lines.check(digit_lines.Config(), sharding.make_mesh(number))
        digit_lines.check(digit_lines.Config(tile=4), sharding.make_mesh(number))


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (None, {"tile": 0}, "config.tile must be at least 1, got 0"),
        (None, {"tile": 12}, r"batch_size=32 must be a multiple of 24 \(2 devices times tile 12"),
        ("network", {"widths": (8, 0, 8)}, "config.network.widths must be at least 1, got 0"),
        ("network", {"kernel_size": 4}, "config.network.kernel_size must be odd, got 4"),
        ("training", {"learning_rate": 0.0}, "config.training.learning_rate must be positive"),
        ("training", {"batch_size": 9}, "config.training.batch_size=9 must be a multiple of 2"),
        ("reading", {"num_lines": 1}, "config.reading.num_lines must be at least 2, got 1"),
        ("reading", {"beam_widths": (4, 0)}, "config.reading.beam_widths must be at least 1"),
    ],
)
def test_bad_configs_are_refused(part, fields, message):
    config = digit_lines.Config()
    if part is not None:
        fields = {part: dataclasses.replace(getattr(config, part), **fields)}
    with pytest.raises(UserError, match=message) as caught:
        digit_lines.check(dataclasses.replace(config, **fields), sharding.make_mesh(2))
    assert "\n" not in str(caught.value)


def test_a_tiny_run_is_judged(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(folder, *NO_BEAM) == 0
    told = capsys.readouterr().err
    assert "train  4/4  100%" in told and "verdict: fail" in told
    found = metrics_of(folder)
    assert found["gate"]["checks"]["images_on_both_sides"]["value"] == 0
    assert found["num_images"] == {"train": 1287, "test": 510}
    assert [row["decoder"] for row in found["decoders"]] == ["greedy"]
    with np.load(folder / "samples.npz") as samples:
        assert samples["images"].shape == (16, 10, 100)
        assert samples["read_occupancy"].shape == (16, 50, 11)
    html = (folder / "report.html").read_text()
    assert "<title>Digit lines by ctc: fail</title>" in html and "http" not in html


@pytest.mark.slow
@pytest.mark.bits
@pytest.mark.parametrize("loss", ["ctc", "transducer"])
def test_a_stopped_run_goes_on_to_the_same_bits_on_other_devices(tmp_path, capsys, loss):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ["--config.tile=2", f"--config.loss={loss}"]
    assert run(whole, *options) == 0
    assert run(cut, *options, "--deadline=0") == 1
    assert cli.main(["resume", str(cut), "--devices=4"]) == 0
    assert "resumed from step 2 of 4" in capsys.readouterr().err
    one, two = metrics_of(whole), metrics_of(cut)
    assert one["sha256"] == two["sha256"] and one["gate"] == two["gate"]
    assert [row["decoder"] for row in one["decoders"]] == ["greedy", "beam of 4", "beam of 16"]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["image", "form"])
def test_lines_of_held_out_digits_are_read(tmp_path, split):
    """The gate of the whole run, and what a leak or a mistake would turn round."""
    words = ["run", "digit-lines", "--out", str(tmp_path / "run")]
    assert cli.main([*words, f"--config.split={split}"]) == 0
    found = metrics_of(tmp_path / "run")
    assert found["gate"]["verdict"] == "pass", found["gate"]["reasons"]
    held_out, known = found["held_out"], found["training_digits"]
    assert known["label_error_rate"] < held_out["label_error_rate"]
    assert known["loss"] < held_out["loss"]
    counts = np.array(found["confusion"])
    assert np.trace(counts) / counts[:10].sum() > 0.9
    for row in found["decoders"][1:]:
        assert row["difference"] < 4 * row["difference_se"] and row["overflows"] == 0
