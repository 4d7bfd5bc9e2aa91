"""The ensemble experiment: what it refuses, its parts, and (slow) a small run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from probjax import cli, sharding
from probjax.experiments import ensemble
from probjax.experiments.runs import UserError


@pytest.fixture(autouse=True)
def eight_devices():
    """Once JAX has its devices the command line leaves their number alone."""
    assert len(jax.devices()) == 8


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (None, {"num_trajectories": 0}, "config.num_trajectories must be at least 1, got 0"),
        (None, {"end_time": -1.0}, "config.end_time must be positive, got -1.0"),
        (None, {"method": "rk5"}, "config.method is 'rk5'; there are: "),
        ("picture", {"step_size": 0.0}, "config.picture.step_size must be positive, got 0.0"),
        ("picture", {"num_recorded": 7}, "config.picture.num_recorded must be a multiple of 5"),
        ("picture", {"lowest": 300.0}, "config.picture.lowest must be below highest=200.0"),
    ],
)
def test_bad_configs_are_refused(part, fields, message):
    config = ensemble.Config()
    if part is not None:
        fields = {part: dataclasses.replace(getattr(config, part), **fields)}
    with pytest.raises(UserError, match=message):
        ensemble.check(dataclasses.replace(config, **fields), sharding.make_mesh(2))


def test_the_default_config_is_accepted():
    ensemble.check(ensemble.Config(), sharding.make_mesh(3))


def test_maxima_are_those_of_a_wave():
    """One for each period, at its height, though no sample hits it."""
    t = np.arange(400) * 0.1
    z = np.stack([3 * np.sin(t + 0.03), 2 * np.cos(2 * t + 0.5)])
    rows, heights = ensemble.maxima(z)
    np.testing.assert_allclose(heights, np.where(rows == 0, 3, 2), rtol=1e-4)
    # sin(t + 0.03) peaks at 1.54 + 2 pi k, cos(2 t + 0.5) at 2.89 + pi k, both up to 39.8
    assert (rows == 0).sum() == 7 and (rows == 1).sum() == 12


@pytest.mark.slow
def test_a_small_run(tmp_path):
    options = [
        "--config.num-trajectories=37", "--config.num-steps=200", "--config.tile=8",
        "--config.num-checked=5", "--config.picture.num-parameters=11",
        "--config.picture.num-settling=300", "--config.picture.num-recorded=600",
    ]  # fmt: skip
    folder = tmp_path / "run"
    assert cli.main(["run", "ensemble", "--devices=2", "--out", str(folder), *options]) == 0
    found = json.loads((folder / "metrics.json").read_text())
    assert found["gate"]["verdict"] == "pass", found["gate"]["reasons"]
    assert found["failed"] == 0 and found["num_maxima"] > 11
    with np.load(folder / "samples.npz") as samples:
        assert samples["ends"].shape == (5, 3)
        assert samples["picture_rho"].shape == samples["picture_maxima"].shape
    html = (folder / "report.html").read_text()
    assert "<title>Ensemble: pass" in html and "http:" not in html.replace("http://www.w3.org", "")
