"""Run folders: nothing is overwritten, configs come back exactly, logs are cut where runs were."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from probjax import sharding
from probjax.experiments import runs


@dataclasses.dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    tile: int | None = None
    inner: Inner = Inner()


def test_a_config_survives_json(tmp_path):
    config = Config(seed=3, tile=8, inner=Inner((4, 5, 6)))
    folder = runs.create(tmp_path / "run", "toy", config)
    name, values = runs.open_run(folder)
    assert (name, runs.config_from_dict(Config, values)) == ("toy", config)


def test_fields_that_do_not_match_are_named():
    good = dataclasses.asdict(Config())
    with pytest.raises(runs.UserError, match=r"config\.inner\.widths is missing"):
        runs.config_from_dict(Config, {**good, "inner": {}})
    with pytest.raises(runs.UserError, match=r"config\.more is unknown"):
        runs.config_from_dict(Config, {**good, "more": 1})


def test_new_runs_get_the_next_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs.create(None, "toy", Config()) == pathlib.Path("runs/toy-0001")
    assert runs.create(None, "toy", Config()) == pathlib.Path("runs/toy-0002")


def test_what_is_there_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(runs.UserError, match="is not empty"):
        runs.create(tmp_path, "toy", Config())
    with pytest.raises(runs.UserError, match="cannot write"):
        runs.create(tmp_path / "thesis.txt", "toy", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_log_is_cut_back_to_the_checkpoint_and_survives_a_torn_line(tmp_path):
    log = runs.Log(tmp_path, before=0)
    for step in (10, 20, 30):
        log.append({"step": step})
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4')
    again = runs.Log(tmp_path, before=20)
    assert again.records == [{"step": 10}, {"step": 20}]
    again.append({"step": 30})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]


def test_writing_replaces_whole_files(tmp_path):
    path = tmp_path / "a.json"
    for value in ({"a": 1}, {"a": [2, 3]}):
        runs.write_json(path, value)
        assert json.loads(path.read_text()) == value
    assert list(tmp_path.iterdir()) == [path]


def test_hashes_see_one_bit_and_environments_tell_the_mesh():
    x = jnp.arange(4.0)
    assert runs.sha256(x) != runs.sha256(x.at[2].add(jnp.float32(1e-6)))
    found = runs.environment(sharding.make_mesh(4))
    assert found["devices"] == 4 and found["backend"] == "cpu" and found["jax"] == jax.__version__
