"""The posterior experiment: what it refuses, a run cut in two, and (slow) the references."""

import json
import pathlib

import jax
import pytest

from probjax import cli, sharding
from probjax.experiments import posterior
from probjax.experiments.posterior_samplers import SAMPLERS
from probjax.experiments.runs import UserError

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data" / "posteriordb"

SMALL = [
    "--config.target=banana", "--config.sampler=hmc", "--config.num-leapfrog=3",
    "--config.num-chains=8", "--config.num-warmup=20", "--config.num-steps=12",
    "--config.num-chunks=3", "--config.tile=2",
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sizes_of_every_sampler_fit_one_to_eight_devices(sampler):
    for number in (1, 2, 4, 8):
        posterior.check(posterior.Config(sampler=sampler), sharding.make_mesh(number))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_chains": 3}, r"num_chains=3 must be a multiple of 2 \(2 devices times tile 1\)"),
        ({"num_chains": 6, "tile": 2}, "num_chains=6 must be a multiple of 4"),
        ({"num_warmup": 19}, "num_warmup must be at least 20, got 19"),
        ({"num_steps": 10, "thin": 3}, "keeps 3 draws of a chain; at least 4 are needed"),
        ({"tile": 0}, "tile must be at least 1"),
        ({"num_chunks": 0}, "num_chunks must be at least 1"),
        ({"target_acceptance": 1.0}, "target_acceptance must lie between 0 and 1"),
        ({"sampler": "chees", "metric": "dense"}, "metric=dense is nothing that chees can learn"),
        ({"target": "nine"}, "target='nine' is neither a file .* nor one of eight_schools"),
        ({"target": "no/such.json"}, "config.target: no/such.json cannot be read"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        posterior.check(posterior.Config(**fields), sharding.make_mesh(2))
    assert "\n" not in str(caught.value)


def test_mistakes_on_the_command_line_are_one_line(capsys, tmp_path):
    for option, part in (
        ("--config.target=nine", "config.target='nine'"),
        ("--config.sampler=nutz", "--config.sampler"),
    ):
        words = ["run", "posterior", "--out", str(tmp_path / "run"), option]
        assert cli.main(words) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and part in lines[0], lines
    assert not (tmp_path / "run").exists()


def run(folder, *options):
    return cli.main(["run", "posterior", "--devices=2", "--out", str(folder), *SMALL, *options])


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(tmp_path, capsys):
    """Also on another number of devices, since it is tiled."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert len(jax.devices()) == 8 and run(whole) == 0
    for name in ("report.html", "metrics.json", "samples.npz", "log.jsonl"):
        assert (whole / name).stat().st_size > 0
    assert run(cut, "--deadline=0") == 1
    assert "stopped by deadline" in capsys.readouterr().err
    assert cli.main(["resume", str(cut), "--devices=4"]) == 0
    assert "resumed from step 4 of 12" in capsys.readouterr().err
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, cut))
    assert one["sha256"] == two["sha256"] and one["counts"] == two["counts"]
    assert one["gate"] == two["gate"] and one["gate"]["verdict"] == "fail", "12 steps do not do"
    log = (cut / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [4, 8, 12]
    assert cli.main(["resume", str(cut), "--devices=2"]) == 0, "a finished run is judged again"
    html = (cut / "report.html").read_text()
    assert "<title>banana: fail</title>" in html and "http" not in html


NEAR = ["--config.start=pathfinder"]
"""For posteriors with regions of next to no mass, where a scattered chain may end."""
FEWER = [*NEAR, "--config.num-chains=16", "--config.num-steps=1000"]
OPTIONS = {
    ("bball_drive_event_0-hmm_drive_0", "chees"): FEWER,
    ("hudson_lynx_hare-lotka_volterra", "chees"): FEWER,
    ("hudson_lynx_hare-lotka_volterra", "nuts"): NEAR,
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["nuts", "chees"])
@pytest.mark.parametrize("file", [path.stem for path in sorted(FOLDER.glob("*.json"))])
def test_the_references_are_met(file, sampler, tmp_path):
    """The gate passes, largest |z| of x and x^2 included; below Šidák's bound at 1e-3 for sure."""
    path = FOLDER / f"{file}.json"
    if not path.is_file():
        pytest.skip(f"{FOLDER} is absent: no reference to compare with")
    words = [f"--config.target={path}", f"--config.sampler={sampler}", "--config.precision=float64"]
    words += ["--config.target-acceptance=0.9", *OPTIONS.get((file, sampler), [])]
    assert cli.main(["run", "posterior", "--devices=2", "--out", str(tmp_path / "a"), *words]) == 0
    gate = json.loads((tmp_path / "a" / "metrics.json").read_text())["gate"]
    checks = gate["checks"]
    assert all(one["verdict"] != "fail" for one in checks.values()), gate["reasons"]
    number = 2 * gate["num_entries"]
    assert checks["max_abs_z"]["value"] < sidak(number, 1e-3), gate["reasons"]
    assert checks["rank_rhat"]["verdict"] == "pass", gate["reasons"]
    assert min(checks[name]["value"] for name in ("bulk_ess", "tail_ess")) >= 400


def sidak(number, level):
    """Below it lies the largest of so many independent |z|, but for `level` of all runs."""
    from scipy import stats

    return stats.norm.ppf((1 + (1 - level) ** (1 / number)) / 2)
