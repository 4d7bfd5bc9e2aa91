"""The peers of the transducer's loss compute it, and all are held to their accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import harness
from benchmarks.sequence import transducer as benchmark
from probjax.sequence import transducer


@pytest.mark.slow
def test_the_peers_compute_the_same_loss(x64):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 6)))
    labels = jnp.array([1, 5, 2])
    wanted = jax.value_and_grad(transducer.rnnt_loss)(logits, labels)
    for peer in (benchmark.by_diagonals, benchmark.by_rows):
        loss, gradient = jax.value_and_grad(peer)(logits, labels)
        np.testing.assert_allclose(loss, wanted[0], rtol=1e-12)
        np.testing.assert_allclose(gradient, wanted[1], atol=1e-12)


@pytest.mark.slow
def test_a_case_has_times_errors_and_a_bar():
    (case,) = benchmark.cases(((2, 6, 3, 8),))
    found = harness.measure(case, harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    assert [row["peer"] for row in found["contenders"]] == [False, True, True]
    for row in found["contenders"]:
        assert row["errors"]["loss"] < 1e-5 and row["errors"]["gradient"] < 1e-5
        assert row["temporary_bytes"] > 0
    assert found["ratio_of"] == "speed" and found["bars"][0]["value"] == 3.0
    assert "2x6x3x8" in case.name
