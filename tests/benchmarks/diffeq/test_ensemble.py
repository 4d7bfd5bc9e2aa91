"""The contenders of the ensemble benchmark solve the same problem."""

import jax
import pytest

from benchmarks.diffeq import ensemble


@pytest.mark.slow
def test_all_contenders_are_prepared_and_right():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for case in ensemble.cases(number=8, steps=100):
            for contender in case.contenders:
                program = contender.prepare()
                assert program.errors["result"] < case.tolerance, (case.name, contender.name)
