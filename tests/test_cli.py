"""The command line: one line for each mistake, the right exit code, and nothing lost."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from probjax import cli
from probjax.sharding import checkpoints

SMALL = [
    "--config.network.width=8", "--config.network.num-blocks=1", "--config.tile=8",
    "--config.training.num-steps=12", "--config.training.chunk-size=1",
    "--config.training.batch-size=64", "--config.training.checkpoint-every=2",
    "--config.sampling.num-samples=64", "--config.sampling.chunk-size=32",
    "--config.sampling.langevin-levels=3", "--config.sampling.langevin-steps=5",
    "--config.sampling.heun-steps=3", "--config.sampling.few-evaluations=4",
    "--config.sampling.flow-tolerance=0.1", "--config.guidance.num-per-class=2",
    "--config.inpainting.num-digits=8", "--config.inpainting.num-steps=3",
    "--config.likelihood.num-digits=16", "--config.likelihood.num-exact=8",
    "--config.likelihood.num-steps=1", "--config.sampling.samplers",
    "heun", "dpmpp_2m_sde", "annealed_langevin", "probability_flow",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def eight_devices():
    """The backend stands before the command line can ask for fewer devices."""
    assert len(jax.devices()) == 8


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def complains(capsys, words, *parts, code=2):
    got, out, err = run(capsys, *words)
    assert got == code, (out, err)
    lines = err.strip().splitlines()
    assert lines[-1].startswith("probjax: error: "), err
    for part in parts:
        assert part in lines[-1], lines[-1]
    return lines


def test_list_help_and_version(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and out.startswith("digit-lines  ")
    names = json.loads(run(capsys, "list", "--json")[1])
    assert sorted(names) == [
        "digit-lines",
        "digits",
        "ensemble",
        "posterior",
        "predator-prey",
        "tabular-score",
        "toy2d",
        "work-precision",
    ]
    assert run(capsys, "--help")[:2] == (0, cli.USAGE + "\n")
    assert run(capsys)[0] == 2
    assert run(capsys, "--version")[1].startswith("probjax 0.")


def test_help_of_a_run_lists_its_config(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "digits", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for part in ("--config.training.num-steps", "--config.tile", "--devices", "--deadline"):
        assert part in text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["frob"], ["unknown command 'frob'"]),
        (["run"], ["needs the name of an experiment", "digits"]),
        (["run", "digitz"], ["unknown experiment 'digitz'"]),
        (["run", "digits", "--config.sead", "3"], ["--config.sead", "--config.seed"]),
        (["run", "digits", "--config.seed", "x"], ["--config.seed", "'x'"]),
        (["run", "digits", "--devices", "0"], ["--devices must be at least 1, got 0"]),
        (["run", "digits", "--devices", "99"], ["num_devices=99"]),
        (["resume"], ["needs the folder of a run"]),
        (["resume", "no/such/run"], ["no/such/run is not a run folder"]),
        (["doctor", "--frob"], ["--frob"]),
    ],
)
def test_mistakes_are_one_line(capsys, words, parts):
    assert len(complains(capsys, words, *parts)) == 1


BOX = """\
╭─ Unrecognized options ─────────────────╮
│ Unrecognized options: --sead, 1        │
│ ────────────────────────────────────── │
│ Perhaps you meant:                     │
│     --seed INT                         │
╰────────────────────────────────────────╯
"""
PLAIN = BOX.translate(str.maketrans("│╭╰╮╯", "     ")).replace("─ Unr", " Unr").replace("─", "-")


@pytest.mark.parametrize("box", [BOX, PLAIN.replace(" options -", " options\n-")])
def test_the_message_is_found_in_both_kinds_of_box(box):
    line = "Unrecognized options: --sead, 1 (did you mean --seed?)"
    assert cli._one_line(box) == line
    short = "\n".join(box.splitlines()[: 3 if "╭" in box else 4])
    assert cli._one_line(short) == "Unrecognized options: --sead, 1"


@pytest.mark.parametrize("text", ["", "no box at all"])
def test_a_message_without_a_box_is_told_as_it_is(text):
    assert cli._one_line(text) == text


@pytest.mark.slow
def test_a_plain_terminal_gets_the_same_line():
    """Where the terminal knows no box drawing, tyro draws its box in ASCII."""
    words = ["run", "digits", "--config.sead", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "probjax.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "probjax: error: Unrecognized options: --config.sead, 1 (did you mean --config.seed?)\n"
    )


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("--config.training.num-steps=0", "config.training.num_steps must be positive, got 0"),
        ("--config.training.batch-size=30", "config.training.batch_size=30 must be a multiple"),
        ("--config.sampling.langevin-step=-1", "config.sampling.langevin_step must be positive"),
        ("--config.sampling.min-noise-scale=30", "min_noise_scale"),
        ("--config.tile=0", "config.tile must be at least 1"),
    ],
)
def test_bad_configs_leave_no_folder_behind(capsys, tmp_path, option, part):
    folder = tmp_path / "run"
    complains(capsys, ["run", "digits", "--devices=2", "--out", folder, *SMALL, option], part)
    assert not folder.exists()


def test_folders_that_cannot_be_used(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    complains(capsys, ["run", "digits", "--out", tmp_path / "file" / "run"], "cannot write")
    complains(capsys, ["run", "digits", "--out", tmp_path], "is not empty")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "config.json").write_text('{"experiment": "digits"')
    complains(capsys, ["resume", tmp_path], "config.json is damaged")
    (tmp_path / "config.json").write_text('{"experiment": "digits", "config": {"seed": 1}}')
    complains(capsys, ["resume", tmp_path], "config.tile is missing")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_run_resumes_on_other_devices_and_gives_the_same_bits(capsys, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, _, err = run(capsys, "run", "digits", "--devices=2", "--out", whole, *SMALL)
    assert code == 0, err
    assert "train  12/12  100%" in err and "report: " in err
    for name in ("report.html", "metrics.json", "samples.npz", "config.json", "log.jsonl"):
        assert (whole / name).stat().st_size > 0

    kill_in_mid_training(cut)
    assert 0 < checkpoints.steps(cut / "checkpoints")[-1] < 12
    code, out, err = run(capsys, "resume", cut, "--devices=4", "--deadline=0", "--json")
    assert code == 1 and "stopped by deadline; go on with: probjax resume" in err, err
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1] == {"event": "end", "reason": "deadline", "folder": str(cut)}
    code, _, err = run(capsys, "resume", cut, "--devices=8")
    assert code == 0 and "resumed from step" in err, err

    one, two = (json.loads((f / "metrics.json").read_text()) for f in (whole, cut))
    assert one["sha256"] == two["sha256"]
    logs = [
        [json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()]
        for f in (whole, cut)
    ]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]] == list(range(1, 13))
    assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]
    reports_are_self_contained(whole / "report.html")
    damaged_and_foreign_checkpoints(capsys, cut)


def kill_in_mid_training(folder: pathlib.Path):
    """Start the run in a process of its own and send it SIGKILL after step 4."""
    words = ["run", "digits", "--devices=2", "--out", str(folder), *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "probjax.cli", *words], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any(
        step >= 4 for step in checkpoints.steps(folder / "checkpoints")
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def reports_are_self_contained(path: pathlib.Path):
    text = path.read_text()
    for part in (
        "Heun",
        "DPM-Solver++ 2M SDE",
        "annealed Langevin",
        "A wanted class",
        "A missing half",
        "Bits for a digit",
        "Gate:",
        "Gaussian baseline",
        "real digits",
        "data:image/svg+xml",
        "KID",
    ):
        assert part in text
    assert 'src="http' not in text and "<script" not in text and "<link" not in text


def damaged_and_foreign_checkpoints(capsys, folder: pathlib.Path):
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 500:
            path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    complains(capsys, ["resume", folder, "--devices=2"], "damaged")
    foreign = {"x": jnp.ones(2)}
    checkpoints.save(folder / "checkpoints", 99, foreign, config={"other": 1})
    complains(capsys, ["resume", folder, "--devices=2"], "another config")
    assert (folder / "report.html").exists()
