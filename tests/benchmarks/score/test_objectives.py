"""The benchmark of objectives measures what it says, at a tiny size."""

import pytest

from benchmarks import harness
from benchmarks.score import objectives


def test_there_is_a_case_for_each_dimension():
    names = [case.name for case in objectives.cases(width=8, batch_size=4)]
    assert "score/objectives: sliced energy, d = 11" in names and len(set(names)) == 12


@pytest.mark.slow
def test_a_case_has_times_errors_and_bars():
    case = next(
        case
        for case in objectives.cases((11,), width=8, batch_size=4)
        if case.name.endswith("sliced energy, d = 11")
    )
    found = harness.measure(case, harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    assert [row["name"] for row in found["contenders"]] == [
        "probjax sliced energy", "regression", "backward twice, energy"
    ]  # fmt: skip
    assert found["reference"] == "regression"
    for row in found["contenders"]:
        assert row["errors"]["gradient"] < 1e-3
        assert 0.1 < row["figures"]["FLOP efficiency"][1] <= 1
    assert [bar["kind"] for bar in found["bars"]] == ["time", "FLOP efficiency"]
