"""The tabular-score experiment: what it refuses, its verdict, a run cut in two, the wines."""

import dataclasses
import json
import pathlib

import jax
import pytest

from probjax import cli, sharding
from probjax.experiments import tabular_score
from probjax.experiments.runs import UserError
from probjax.experiments.tabular_score import Config, FittingConfig, compare, verdict

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data"
SMALL = [
    "--config.datasets", "breast-cancer", "--config.num-splits=2", "--config.fitting.widths", "4",
    "--config.fitting.batch-size=8", "--config.fitting.check-every=2",
    "--config.fitting.max-checks=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def eight_devices():
    """Once JAX has its devices the command line leaves their number alone."""
    assert len(jax.devices()) == 8


def run(folder, *options):
    return cli.main(["run", "tabular-score", "--devices=2", "--out", str(folder), *SMALL, *options])


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


CANCER = Config(datasets=("breast-cancer",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"datasets": ("wine-rose",)}, "config.datasets has 'wine-rose'; there are: wine-red"),
        ({"datasets": ()}, "config.datasets must name one or more, each once"),
        ({"objectives": ("ism", "ism")}, "config.objectives must name one or more, each once"),
        ({"objectives": ("msm",)}, "config.objectives has 'msm'; there are: ism, ssm"),
        ({"num_splits": 1}, "config.num_splits must be at least 2, got 1"),
        ({"tile": 0}, "config.tile must be at least 1, got 0"),
        ({"noise_scale": 0.0}, "config.noise_scale must be positive, got 0.0"),
        ({"fitting": FittingConfig(widths=(8, 0))}, "config.fitting.widths must be at least 1"),
        ({"fitting": FittingConfig(fd_step=0.0)}, "config.fitting.fd_step must be positive"),
        (
            {"datasets": ("wine-red",), "data": "/no/such"},
            "config.data=/no/such: winequality-red.csv is not in /no/such nor in /no/such/uci",
        ),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        tabular_score.check(dataclasses.replace(CANCER, **fields), sharding.make_mesh(2))
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_one_line_and_leaves_nothing(capsys, tmp_path):
    words = ["run", "tabular-score", "--config.data", str(tmp_path), "--out", str(tmp_path / "a")]
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and f"config.data={tmp_path}: winequality-red.csv is not in" in lines[0]
    assert not (tmp_path / "a").exists()


def test_objectives_are_compared_on_the_same_split():
    """Splits differ by tens, objectives by one or nothing: only paired differences see it."""
    splits = [-10.0, -30.0, -20.0]
    near = [value + change for value, change in zip(splits, (0.1, -0.1, 0.2), strict=True)]
    far = [value + change for value, change in zip(splits, (1.0, 1.1, 0.9), strict=True)]
    rows = compare({"a": splits, "b": near, "c": far}, [-5.0, -5.0, -5.0])
    assert [row["is_worse"] for row in rows] == [False, False, True]
    assert rows[0]["mean"] == -20.0 and rows[0]["se"] == pytest.approx(10 / 3**0.5)
    assert rows[0]["gain"] == 15.0 and rows[2]["behind"] == pytest.approx(1.0)
    broken = compare({"a": splits, "b": [None, -1.0, -2.0]}, splits)[1]
    assert broken["is_worse"] and broken["mean"] is None


def judged(data="wine-red", *, finite=True, stopped=True, gain=5.0, gain_se=1.0, worse=False):
    cell = {"objective": "x", "is_finite": finite, "is_stopped": [True, stopped]}
    row = {"objective": "x", "gain": gain, "gain_se": gain_se, "is_worse": worse}
    return verdict([{"data": data, "cells": [cell], "comparison": [row]}])


def test_the_verdict():
    assert judged()["verdict"] == "pass" and judged()["least_gain_in_errors"] == 5.0
    assert judged(finite=False)["verdict"] == "fail"
    assert judged(gain=-1.0)["verdict"] == "fail" and judged(gain_se=2.0)["verdict"] == "review"
    assert judged("breast-cancer", gain=-1.0)["verdict"] == "pass", "asked of wines only"
    assert judged(stopped=False)["verdict"] == "review"
    worse = judged(worse=True)
    assert worse["verdict"] == "pass" and worse["worse"] == ["wine-red x"]


def made_up(config, context, key, splits, *, data, objective):
    """What a fit would tell, without one."""
    value = -float(len(objective))
    return {
        "data": data, "objective": objective, "test": [value, value - 1], "checks": [2, 3],
        "validation": [value, value], "curve": [[value, value]] * 3, "is_stopped": [True, True],
        "is_finite": True, "seconds_per_fit": 1.0, "milliseconds_per_step": 1.0,
        "compile_seconds": 0.5, "sha256": "ab" * 32,
    }  # fmt: skip


def test_a_run_is_cut_after_a_cell_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tabular_score, "fit_cell", made_up)
    monkeypatch.setattr(tabular_score.model, "flops_of_a_step", lambda name, *_: 1.0 + bool(name))
    monkeypatch.setattr(tabular_score.tabular_score_report, "render", lambda record: "a page")
    folder, options = tmp_path / "run", ["--config.objectives", "ssm-vr", "dsm"]
    assert run(folder, *options, "--deadline=0") == 1
    first = (folder / "log.jsonl").read_text()
    assert first.count("\n") == 1 and not (folder / "metrics.json").exists()
    assert cli.main(["resume", str(folder), "--devices=2"]) == 0
    assert "resumed after 1 of 2 fits" in capsys.readouterr().err
    assert (folder / "log.jsonl").read_text().startswith(first)
    found = metrics_of(folder)
    (result,) = found["results"]
    assert [cell["objective"] for cell in result["cells"]] == ["ssm-vr", "dsm"]
    assert [cell["backwards"] for cell in result["cells"]] == [2.0, 2.0]
    assert [row["is_worse"] for row in result["comparison"]] == [False, True]
    assert (result["num_train"], result["num_validation"], result["num_test"]) == (462, 51, 56)
    assert found["gate"]["verdict"] == "pass" and found["gate"]["worse"] == ["breast-cancer dsm"]
    assert (folder / "report.html").read_text() == "a page"


@pytest.mark.slow
def test_a_small_run_of_all_objectives(tmp_path):
    """Every objective in one run, with stops by the last look, costs in their order."""
    # In a network of four units the draws of noise would cost more than the derivatives.
    assert run(tmp_path / "run", "--config.fitting.widths", "64", "64") == 0
    found = metrics_of(tmp_path / "run")
    (result,) = found["results"]
    cells = {cell["objective"]: cell for cell in result["cells"]}
    assert list(cells) == ["ism", "ssm", "ssm-vr", "dsm", "deen", "fd-ssm"]
    assert all(cell["is_finite"] and cell["checks"] == [2, 2] for cell in cells.values())
    assert cells["dsm"]["backwards"] < cells["ssm"]["backwards"] < cells["ism"]["backwards"]
    assert found["gate"]["verdict"] == "review", "four steps do not do"
    html = (tmp_path / "run" / "report.html").read_text()
    assert "<title>Scores of tables: review</title>" in html and "http" not in html


@pytest.mark.slow
@pytest.mark.bits
def test_a_tiled_run_gives_the_same_bits_on_other_devices_and_when_cut(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ["--config.tile=1", "--config.objectives", "ssm", "deen"]
    assert run(whole, *options) == 0
    assert run(cut, *options, "--deadline=0") == 1
    assert cli.main(["resume", str(cut), "--devices=4"]) == 0
    one, two = metrics_of(whole), metrics_of(cut)
    assert one["sha256"] == two["sha256"]
    tests = [[cell["test"] for cell in found["results"][0]["cells"]] for found in (one, two)]
    assert tests[0] == tests[1]


@pytest.mark.slow
def test_red_wine_is_far_from_gaussian_and_the_objectives_agree(tmp_path):
    """The cheap objectives; the gate of the whole run asks the same of all."""
    if not (FOLDER / "uci").is_dir():
        pytest.skip(f"{FOLDER / 'uci'} is absent: no wine to fit")
    words = ["run", "tabular-score", "--out", str(tmp_path / "run"), "--config.data", str(FOLDER)]
    words += ["--config.datasets", "wine-red", "--config.objectives", "dsm", "ssm-vr"]
    assert cli.main([*words, "--config.fitting.max-checks=8"]) == 0
    rows = metrics_of(tmp_path / "run")["results"][0]["comparison"]
    for row in rows:
        assert row["gain"] > 3 * row["gain_se"] and row["gain"] > 8
