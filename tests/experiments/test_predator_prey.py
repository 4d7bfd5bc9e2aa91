"""The experiment: what it refuses, a small run, and (slow) its whole claim."""

import json

import jax
import numpy as np
import pytest

from probjax import cli, sharding
from probjax.experiments import predator_prey
from probjax.experiments.runs import UserError


@pytest.fixture(autouse=True)
def eight_devices():
    """Once JAX has its devices the command line leaves their number alone."""
    assert len(jax.devices()) == 8


def run(folder, *options):
    return cli.main(["run", "predator-prey", "--devices=2", "--out", str(folder), *options])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_starts": 0}, "config.num_starts must be at least 1, got 0"),
        ({"num_iterations": 0}, "config.num_iterations must be at least 1, got 0"),
        ({"steps_per_year": 0}, "config.steps_per_year must be at least 1, got 0"),
        ({"seed": -1}, "config.seed must be at least 0, got -1"),
        ({"tile": 0}, "config.tile must be at least 1, got 0"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        predator_prey.check(predator_prey.Config(**fields), sharding.make_mesh(2))


def test_a_small_run_writes_its_report(tmp_path, capsys):
    """Five starts, two steps: nothing is found, and the verdict says so."""
    small = ["--config.num-starts=5", "--config.num-iterations=2", "--config.steps-per-year=4"]
    assert run(tmp_path / "run", *small) == 0
    found = json.loads((tmp_path / "run/metrics.json").read_text())
    assert found["gate"]["verdict"] == "fail"
    assert sum(one["starts"] for one in found["optima"]) <= 5
    assert "verdict: fail; the gradient at the best fit is" in capsys.readouterr().err
    with np.load(tmp_path / "run/samples.npz") as samples:
        assert samples["end"].shape == (5, 8) and samples["counts"].shape == (21, 2)
    html = (tmp_path / "run/report.html").read_text()
    assert "<title>Hares and lynxes: fail" in html and "http" not in html


@pytest.mark.slow
@pytest.mark.bits
def test_tiles_give_the_same_bits_on_any_number_of_devices():
    config = predator_prey.Config(num_starts=7, num_iterations=10, steps_per_year=8, tile=2)
    one, four = (predator_prey.fit_all(config, sharding.make_mesh(n)) for n in (1, 4))
    for a, b in zip(one, four, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_the_known_optimum_is_found_and_worse_ones_are_shown(tmp_path):
    assert run(tmp_path / "run", "--config.num-starts=64") == 0
    found = json.loads((tmp_path / "run/metrics.json").read_text())
    assert found["gate"]["verdict"] == "pass", found["gate"]["reasons"]
    best, *others = found["optima"]
    assert abs(best["value"] - 122.926) < 0.01 and best["starts"] >= 2
    np.testing.assert_allclose(best["parameters"][:4], [0.54, 0.02716, 0.7966, 0.0237], rtol=0.02)
    assert best["period"] == pytest.approx(10.29, abs=0.01)
    assert best["r_squared"] == pytest.approx([0.876, 0.915], abs=1e-3)
    assert any(abs(one["value"] - 166) < 1.5 for one in others)
