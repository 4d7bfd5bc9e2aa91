"""Files of posteriordb: what is read, and one line for each mistake."""

import json
import pathlib

import numpy as np
import pytest

from probjax.datasets import DatasetError, load_posterior
from probjax.datasets.posteriordb import STATISTICS, parse_posterior

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data" / "posteriordb"


def content(**changes):
    reference = {"names": ["a", "b"], "n_draws": 100}
    reference |= {name: [1.0, i] for i, name in enumerate(STATISTICS)}
    record = {"posterior": "p-m", "model": "m", "data": {"N": 2}, "reference": reference}
    return json.dumps(record | changes).encode()


def changed(**changes):
    record = json.loads(content())["reference"]
    return content(reference=record | changes)


def test_all_fields_come_back():
    problem = parse_posterior(content())
    assert (problem.posterior, problem.model, problem.data) == ("p-m", "m", {"N": 2})
    assert problem.reference.names == ("a", "b") and problem.reference.n_draws == 100
    assert [problem.reference[i + 2][1] for i in range(7)] == list(range(7))


def test_a_reference_is_optional():
    assert parse_posterior(content(reference=None)).reference is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"{", "f.json is no JSON: Expecting property name"),
        (b"\xff", "f.json is no JSON"),
        (b"[]", "f.json must hold a JSON object, got list"),
        (content(model=3), "f.json must hold a string as model, got 3"),
        (content(data=[1]), "f.json must hold an object as data"),
        (changed(names=3), "the reference in f.json must hold a list as names"),
        (changed(n_draws=True), "must hold a whole number as n_draws, got True"),
        (changed(n_draws=0), "must hold n_draws of 1 at least"),
        (changed(sd=[1.0]), "must hold 2 finite numbers as sd"),
        (changed(q05=[1.0, "x"]), "must hold 2 finite numbers as q05"),
    ],
)
def test_damaged_files(given, message):
    with pytest.raises(DatasetError, match=message) as caught:
        parse_posterior(given, source="f.json")
    assert "\n" not in str(caught.value)


def test_paths_and_names(tmp_path, monkeypatch):
    (tmp_path / "posteriordb").mkdir()
    path = tmp_path / "posteriordb" / "mine.json"
    path.write_bytes(content())
    assert load_posterior(path).model == "m"
    monkeypatch.setenv("PROBJAX_DATA", str(tmp_path))
    assert load_posterior("mine").model == "m"
    with pytest.raises(DatasetError, match=r"yours.json is not in .* name its folder by PROBJAX"):
        load_posterior("yours")
    with pytest.raises(DatasetError, match=r"no.json cannot be read"):
        load_posterior(tmp_path / "no.json")


def test_the_collection_is_read():
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER} is absent: no files of posteriordb to read")
    files = sorted(FOLDER.glob("*.json"))
    assert len(files) == 10
    for path in files:
        problem = load_posterior(path)
        reference = problem.reference
        assert problem.posterior == path.stem and reference.n_draws == 10_000
        assert (reference.q05 < reference.q50).all() and (reference.q50 < reference.q95).all()
        variance = reference.mean_sq - reference.mean**2
        np.testing.assert_allclose(variance, reference.sd**2, rtol=1e-3)
