"""The experiment: what it refuses, a small run that goes on, and (slow) its whole claim."""

import json

import jax
import numpy as np
import pytest

from probjax import cli, sharding
from probjax.experiments import work_precision
from probjax.experiments.runs import UserError


@pytest.fixture(autouse=True)
def eight_devices():
    """Once JAX has its devices the command line leaves their number alone."""
    assert len(jax.devices()) == 8


def run(folder, *options):
    return cli.main(["run", "work-precision", "--devices=1", "--out", str(folder), *options])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problems": ("brusselator",)}, "config.problems has 'brusselator'; there are: pendulum"),
        ({"problems": ()}, "config.problems is empty"),
        ({"solvers": ("rk5",)}, "config.solvers has 'rk5'"),
        ({"solvers": ("rk4", "rk4")}, "config.solvers names one twice"),
        ({"tolerances": (1e-6, 1e-3)}, "config.tolerances must decrease"),
        ({"tolerances": (0.0,)}, "config.tolerances must be in"),
        ({"most_evaluations": 10}, "config.most_evaluations must be at least 1024, got 10"),
        ({"repeats": 0}, "config.repeats must be at least 1, got 0"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        work_precision.check(work_precision.Config(**fields), sharding.make_mesh(1))


def test_a_small_run_is_cut_and_goes_on_with_the_same_numbers(tmp_path, capsys):
    small = [
        "--config.problems", "pendulum", "--config.solvers", "rk4", "adaptive_heun_euler",
        "--config.tolerances", "1e-3", "1e-5", "--config.most-evaluations=2048",
        "--config.repeats=1",
    ]  # fmt: skip
    folder = tmp_path / "run"
    assert run(folder, *small, "--deadline=0") == 1
    log = (folder / "log.jsonl").read_text()
    assert len(log.splitlines()) == 1 and not (folder / "metrics.json").exists()
    assert cli.main(["resume", str(folder), "--devices=1"]) == 0
    assert "resumed from curve 1 of 2" in capsys.readouterr().err
    assert (folder / "log.jsonl").read_text().startswith(log)
    found = json.loads((folder / "metrics.json").read_text())
    assert found["gate"]["verdict"] == "pass", found["gate"]["reasons"]
    fixed, adaptive = found["cells"]
    assert fixed["settings"] == [64, 128, 256, 512]
    assert fixed["evaluations"] == [256, 512, 1024, 2048]
    assert abs(fixed["slope"] + 4) < 0.2 and len(fixed["run_seconds"]) == 4
    assert adaptive["errors"][1] < adaptive["errors"][0] / 30
    html = (folder / "report.html").read_text()
    assert "<title>Work and precision: pass" in html and "http" not in html


def test_a_failed_run_has_no_factor():
    record = {
        "step": 1, "problem": "pendulum", "solver": "adaptive_tsit5", "settings": [1e-3, 1e-4],
        "errors": [None, 1e-4], "scaled": [None, 1e-4], "evaluations": [7, 9], "seconds": 1.0,
    }  # fmt: skip
    found = work_precision.summarize(record)
    assert found["factor"] is None and "step" not in found
    record |= {"errors": [2e-3, 1e-4], "scaled": [2e-3, 1e-4]}
    assert np.isclose(work_precision.summarize(record)["factor"], 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["pendulum", "kepler"])
def test_every_slope_is_minus_the_order(tmp_path, problem):
    """Every solver of the project."""
    solvers = [
        name for name, solver in work_precision.model.SOLVERS.items()
        if solver.family not in ("diffrax", "scipy")
    ]  # fmt: skip
    options = ["--config.problems", problem, "--config.solvers", *solvers]
    assert run(tmp_path / "run", *options, "--config.repeats=1") == 0
    found = json.loads((tmp_path / "run/metrics.json").read_text())
    assert found["gate"]["verdict"] == "pass", found["gate"]["reasons"]
    slopes = [cell for cell in found["cells"] if "slope" in cell]
    assert len(slopes) == 21
    for cell in slopes:
        order = work_precision.model.SOLVERS[cell["solver"]].order
        assert abs(cell["slope"] + order) <= 0.2, cell
