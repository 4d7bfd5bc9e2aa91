"""The benchmark of the bridge runs, and its contenders agree."""

import jax
import pytest

from benchmarks.diffeq import bridge
from benchmarks.harness import Effort, measure


@pytest.mark.slow
def test_both_cases_run():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for case in bridge.cases(number=16, steps=100):
            record = measure(case, Effort(1, 0.0, 1.0), say=lambda line: None)
            assert not record["absent"] and len(record["contenders"]) == 2
            assert {bar["kind"] for bar in record["bars"]} == {
                "speed",
                "programs compiled per second",
            }
