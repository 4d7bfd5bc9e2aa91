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
