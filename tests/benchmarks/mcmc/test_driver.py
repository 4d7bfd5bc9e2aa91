"""The peer makes as many steps as the driver, and both are held to their accuracy."""

import pytest

from benchmarks import harness
from benchmarks.mcmc import driver


@pytest.mark.slow
def test_a_case_has_times_errors_and_a_bar():
    (case,) = driver.cases(chains=(32,), steps=40)
    found = harness.measure(case, harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    assert [row["peer"] for row in found["contenders"]] == [False, True]
    for row in found["contenders"]:
        assert 0 <= row["errors"]["mean"] < 0.1
    assert found["ratio_of"] == "time" and found["bars"][0]["value"] == 1.03
    assert found["work"] == 32 * 40
