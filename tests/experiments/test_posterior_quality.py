"""What a run of the posterior experiment found: verdict, table, cost."""

import json

import numpy as np
import pytest

from probjax.experiments import posterior_quality
from probjax.mcmc.kernels import InfoView


def info(shape, energy):
    flags, numbers = np.zeros(shape, bool), np.ones(shape)
    return InfoView(numbers, ~flags, flags, flags, numbers, energy)


def test_the_verdict_is_the_gates_and_an_energy_that_is_not_told_is_not_judged():
    draws = np.random.default_rng(0).normal(size=(4, 30, 2)).astype(np.float32)
    told = np.random.default_rng(1).normal(size=(4, 30)).astype(np.float32)
    known = posterior_quality.verdict(draws, info((4, 30), told), None)
    silent = posterior_quality.verdict(draws, info((4, 30), np.full((4, 30), np.nan)), None)
    assert known["checks"]["e_bfmi"]["value"] > 0.3
    assert silent["checks"]["e_bfmi"]["value"] is None is silent["checks"]["e_bfmi"]["verdict"]
    assert json.loads(json.dumps(known)) == known


def test_without_an_effective_sample_size_there_is_no_ratio():
    spent = {"warmup": 0.0, "sampling": 0.0}
    found = posterior_quality.cost(
        {"checks": {}}, gradients=spent, seconds={**spent, "steady": 0.0}
    )
    assert found["min_ess"] is None is found["ess_per_gradient"]
    gate = {"checks": {"replicate_ess": {"value": 5.0}}}
    found = posterior_quality.cost(gate, gradients=spent, seconds={**spent, "steady": 0.0})
    assert found["min_ess"] == 5.0 and found["ess_per_second"] is None


def test_the_hardest_are_those_with_the_fewest_effective_draws():
    rows = [{"bulk_ess": ess} for ess in (5.0, None, 9.0, 1.0)]
    assert posterior_quality.hardest(rows, 2) == [1, 3]
    assert posterior_quality.hardest(rows, 9) == [0, 1, 2, 3]


def test_cost_divides_by_what_was_spent():
    gate = {"checks": {"bulk_ess": {"value": 600.0}}}
    found = posterior_quality.cost(
        gate,
        gradients={"warmup": 1000.0, "sampling": 2000.0},
        seconds={"warmup": 2.0, "sampling": 4.0, "steady": 3.0},
    )
    assert found["ess_per_gradient"] == 0.3 and found["ess_per_gradient_with_warmup"] == 0.2
    assert found["ess_per_second"] == 200
    assert found["ess_per_second_with_warmup_and_compilation"] == 100


@pytest.mark.slow
def test_the_table_knows_a_shifted_mean():
    """z is in units of the error of both means, here of 10,000 independent draws each."""
    draws = np.random.default_rng(0).normal(size=(4, 2500, 1))
    truth = {"mean": [0.1], "sd": [1.0], "n_draws": 10_000}
    (found,) = posterior_quality.table(["a"], draws.astype(np.float32), truth)
    expected = (draws.mean() - 0.1) / (1e-4 * (1 + 10_000 / found["bulk_ess"])) ** 0.5
    assert found["z"] == pytest.approx(expected, rel=0.1) and found["z"] < -4
    assert found["q50"] == pytest.approx(np.median(draws), abs=1e-6)
