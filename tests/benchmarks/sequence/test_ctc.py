"""All contenders of the CTC benchmark compute one loss, and are held to their accuracy."""

import pytest

from benchmarks import harness
from benchmarks.sequence import ctc as benchmark


@pytest.mark.slow
def test_a_case_has_times_errors_and_bars():
    pytest.importorskip("torch", reason="the peer is not installed")
    (case,) = benchmark.cases(((2, 12, 5, 3),))
    found = harness.measure(case, harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    ours, *peers = found["contenders"]
    assert not ours["peer"] and all(row["peer"] for row in peers) and len(peers) >= 2
    for row in found["contenders"]:
        assert row["errors"]["loss"] < 1e-6 and row["errors"]["gradient"] < 1e-6
    assert [bar["value"] for bar in found["bars"]] == [1.3, 1.3]


def test_shapes_of_few_and_of_many_classes_have_their_bars():
    few, many = benchmark.cases(((1, 2, 64, 1), (1, 2, 1000, 1)))
    assert [bar.value for bar in few.bars] == [1.3, 1.3]
    assert [bar.value for bar in many.bars] == [2.5, 2.0]
