"""All contenders make the law of Euler-Maruyama, and a wrong one would be withheld."""

import jax
import numpy as np
import pytest

from benchmarks import harness
from benchmarks.diffeq import stochastic


@pytest.mark.slow
def test_a_case_has_times_errors_and_bars():
    with jax.debug_key_reuse(False):
        case = stochastic.cases(items=200, steps=16)[0]
        found = harness.measure(case, harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    assert [row["peer"] for row in found["contenders"]] == [False, False, True, True]
    for row in found["contenders"]:
        assert 0 < max(row["errors"].values()) < case.tolerance < 0.3
        assert row["compile_seconds"] > 0 and row["temporary_bytes"] > 0
    tree, unsafe = found["bars"]
    assert tree["value"] == 20.0 and "Tree" in tree["against"]
    assert unsafe["value"] == 1.5 and "Unsafe" in unsafe["against"]
    assert np.isclose(case.work, 200 * 16)
