"""The command line."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import harness, results


def test_every_case_is_listed(capsys):
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "diffusion/samplers" in listed and "experiments/training" in listed
    assert "torch_digits" not in listed


def test_a_topic_is_a_package_or_a_module():
    assert command.choose(["diffusion"]) == ["diffusion/samplers", "diffusion/work_precision"]
    assert command.choose([]) == list(command.modules())
    assert command.choose(["experiments", "experiments/training"]) == ["experiments/training"]


def test_an_unknown_topic_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["nonsense"])
    assert stopped.value.code == 2
    assert "unknown topic 'nonsense'" in capsys.readouterr().err


def test_a_run_is_printed_and_written(monkeypatch, capsys, tmp_path):
    program = harness.Program(lambda: None, 1.0, {"result": 2e-8})
    case = harness.Case(
        "experiments/training: none", "Nothing.", "samples", 1.0,
        (harness.Contender("ours", lambda: program),), tolerance=1.0,
    )  # fmt: skip
    monkeypatch.setattr("benchmarks.experiments.training.cases", lambda: [case])
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    path = tmp_path / "experiments.json"
    arguments = ["experiments", "--rounds", "2", "--seconds", "0", "--json", str(tmp_path)]
    assert command.main(arguments) == 0
    told = capsys.readouterr().out
    assert "error (result)" in told and "2.0e-08" in told
    found = json.loads(path.read_text())
    assert [case["name"] for case in found["cases"]] == ["experiments/training: none"]

    assert found["effort"] == {"name": "quick", "rounds": 2, "seconds": 0.0, "budget": 6.0}

    path.write_text(json.dumps({**found, "schema": 0}))
    assert command.main(arguments) == 0, "an older record of the same machine is replaced"
    assert json.loads(path.read_text())["schema"] == results.SCHEMA

    monkeypatch.setattr("benchmarks.experiments.training.cases", None)  # refused before measuring
    found["machine"]["cpu"] = "another"
    for text, message in ((json.dumps(found), "another machine"), ("nonsense", "not a benchmark")):
        path.write_text(text)
        with pytest.raises(SystemExit) as stopped:
            command.main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        assert path.read_text() == text


def test_committed_results_take_full_effort(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["score", "--json"])
    assert stopped.value.code == 2 and "add --full" in capsys.readouterr().err


def test_without_a_folder_tables_and_numbers_are_written(monkeypatch, tmp_path):
    """Quick cases where a module has them, and the time that is left with each line."""
    program = harness.Program(lambda: None, 1.0, {"result": 2e-8})
    contender = harness.Contender("ours", lambda: program)
    case = harness.Case("mcmc/posteriors: quick", "", "draws", 1.0, (contender,), tolerance=1.0)
    monkeypatch.setattr("benchmarks.mcmc.posteriors.cases", None)
    monkeypatch.setattr("benchmarks.mcmc.posteriors.quick_cases", lambda: [case])
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    monkeypatch.setattr(command, "RUNS", tmp_path)
    assert command.main(["mcmc/posteriors", "--seconds", "0"]) == 0
    (written,) = tmp_path.glob("*/mcmc.json")
    assert results.load(written)["effort"]["rounds"] == harness.QUICK.rounds
    assert "| ours |" in written.with_suffix(".md").read_text()


def test_every_module_has_an_expected_time():
    assert set(command.EXPECTED) == set(command.modules())
    assert sum(quick for quick, _ in command.EXPECTED.values()) <= 15 * 60


def test_what_is_left_follows_the_pace(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(command.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(command, "EXPECTED", {"a/b": (60, 600), "a/c": (40, 400)})
    progress = command.Progress(["a/b", "a/c"], harness.QUICK)
    assert progress.left() == 100
    progress.begin("a/b", 2)
    progress.end()
    now[0] += 60.0  # twice as long as expected
    assert progress.left() == pytest.approx(2 * 70)
    progress("line")
    assert capsys.readouterr().err == "[1:00, about 2:20 left] line\n"
    assert command.Progress(["a/c"], harness.FULL).left() == 400
