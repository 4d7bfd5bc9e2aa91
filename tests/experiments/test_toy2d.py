"""The toy laboratory: what it refuses, which cells it has, and (slow) a run cut in two."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from probjax import cli, sharding
from probjax.experiments import toy2d
from probjax.experiments.runs import UserError

SMALL = [
    "--config.densities", "eight_gaussians", "checkerboard", "--config.objectives", "ism", "deen",
    "--config.noise-scales", "0.5", "--config.seeds=3", "--config.num-test=50", "--config.tile=1",
    "--config.fit.num-steps=4", "--config.fit.batch-size=8", "--config.fit.widths", "8",
    "--config.draw.num-chains=20", "--config.draw.num-steps=3", "--config.draw.num-points=7",
]  # fmt: skip


@pytest.fixture(autouse=True)
def eight_devices():
    """Once JAX has its devices the command line leaves their number alone."""
    assert len(jax.devices()) == 8


def run(folder, *options):
    return cli.main(["run", "toy2d", "--devices=2", "--out", str(folder), *SMALL, *options])


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_default_config_fits_any_number_of_devices():
    for number in (1, 2, 3, 8):
        toy2d.check(toy2d.Config(), sharding.make_mesh(number))


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (None, {"densities": ("moons",)}, "config.densities has 'moons'; there are: eight_gauss"),
        (None, {"densities": ()}, "config.densities must be names, each once"),
        (None, {"objectives": ("ism", "ism")}, "config.objectives must be names, each once"),
        (None, {"objectives": ("sm",)}, "config.objectives has 'sm'; there are: explicit, ism"),
        (None, {"noise_scales": (0.3, 0.0)}, "config.noise_scales must be positive, got 0.0"),
        (None, {"noise_scales": (0.3, 0.3)}, "config.noise_scales must be numbers, each once"),
        (None, {"seeds": 1}, "config.seeds must be at least 2, got 1"),
        (None, {"tile": 0}, "config.tile must be at least 1, got 0"),
        (None, {"data_noise": -0.1}, "config.data_noise must not be negative, got -0.1"),
        (None, {"data_noise": 0.0}, "must be positive: checkerboard has no score without"),
        ("fit", {"widths": (8, 0)}, "config.fit.widths must be at least 1, got 0"),
        ("fit", {"learning_rate": 0.0}, "config.fit.learning_rate must be positive"),
        ("draw", {"num_points": 2}, "config.draw.num_points must be at least 3, got 2"),
        ("draw", {"objective": "sm"}, "config.draw.objective is 'sm'; there are: explicit"),
    ],
)
def test_bad_configs_are_refused(part, fields, message):
    config = toy2d.Config()
    if part is not None:
        fields = {part: dataclasses.replace(getattr(config, part), **fields)}
    with pytest.raises(UserError, match=message) as caught:
        toy2d.check(dataclasses.replace(config, **fields), sharding.make_mesh(2))
    assert "\n" not in str(caught.value)


def test_each_density_is_learned_where_it_has_a_score():
    cells = toy2d.cells_of(toy2d.Config())
    assert len(cells) == 4 * (4 + 2 * 2) and len(set(cells)) == len(cells)
    assert {cell.noise_scale for cell in cells if cell.objective == "deen"} == {0.3, 0.1}
    assert toy2d.data_noise_of(toy2d.Config(), "rings") == 0
    assert toy2d.data_noise_of(toy2d.Config(), "checkerboard") == 0.1
    assert toy2d.data_noise_of(toy2d.Config(data_noise=0.2), "rings") == 0.2


def test_the_anchors_name_cells_of_the_default_run():
    names = {
        f"{cell.density}/{toy2d.model.label(cell.objective, cell.noise_scale)}"
        for cell in toy2d.cells_of(toy2d.Config())
    }
    assert set(toy2d.ANCHORS) <= names


@pytest.mark.slow
@pytest.mark.bits
def test_a_stopped_run_goes_on_to_the_same_bits_on_other_devices(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole) == 0
    assert run(cut, "--deadline=0") == 1
    assert cli.main(["resume", str(cut), "--devices=4"]) == 0
    assert "resumed from cell 1 of 4" in capsys.readouterr().err
    one, two = metrics_of(whole), metrics_of(cut)
    assert one["sha256"] == two["sha256"] and one["gate"] == two["gate"]
    for first, second in zip(one["cells"], two["cells"], strict=True):
        assert first | {"fit_seconds": 0} == second | {"fit_seconds": 0}
    assert [cell["label"] for cell in one["cells"]] == ["ism", "deen 0.5"] * 2
    board = one["cells"][2:]
    assert [cell["learned_noise"] for cell in board] == [0.1, 0.5]
    assert all(cell["common_noise"] == 0.1 for cell in board)
    assert 2 < one["cost"]["ism"] < 3.5
    with np.load(whole / "samples.npz") as samples:
        assert samples["checkerboard_langevin"].shape == (20, 2)
        assert samples["eight_gaussians_energy"].shape == (7, 7)
    html = (whole / "report.html").read_text()
    assert "<title>Toy densities: " in html and "http" not in html


@pytest.mark.slow
def test_a_short_run_learns(tmp_path):
    """After 400 steps each objective has taken much of the way, and a slip of sign none of it."""
    options = [
        "--config.densities", "eight_gaussians", "--config.objectives", "explicit", "ism", "ssm",
        "ssm_vr", "fd_ssm", "dsm", "deen", "--config.seeds=2", "--config.fit.num-steps=400",
        "--config.fit.batch-size=128", "--config.fit.widths", "64", "64",
        "--config.num-test=2000",
    ]  # fmt: skip
    assert run(tmp_path / "run", *options) == 0
    found = metrics_of(tmp_path / "run")
    assert found["gate"]["verdict"] == "pass", found["gate"]["reasons"]
    for cell in found["cells"]:
        assert cell["own"]["mean"] < 0.6 * cell["zero"]["mean"], cell["label"]
