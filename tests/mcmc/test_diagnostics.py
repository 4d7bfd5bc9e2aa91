"""Diagnostics against toys worked by hand, exact AR(1) laws, and runs that must not pass."""

import json
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.mcmc.diagnostics import (
    e_bfmi,
    ess_at_cap,
    ess_replicate,
    mcse,
    nested_rhat,
    quality_gate,
)

NESTED_RHAT = jax.jit(nested_rhat, static_argnums=1)


def autoregressive(rng, shape, rho):
    """Stationary AR(1) chains of unit variance, `(C, N, ...)`."""
    x = rng.normal(size=shape)
    for n in range(1, shape[1]):
        x[:, n] = rho * x[:, n - 1] + np.sqrt(1 - rho**2) * x[:, n]
    return x


def exact_ess(num_chains, num_draws, rho):
    """C N over 1 + 2 sum_k (1 - k / N) rho^k."""
    k = np.arange(1, num_draws)
    return num_chains * num_draws / (1 + 2 * np.sum((1 - k / num_draws) * rho**k))


def nested_by_hand(draws, num_superchains):
    groups = np.split(np.asarray(draws, np.float64), num_superchains)
    var = lambda values: np.var(values, axis=0, ddof=1) if len(values) > 1 else 0.0
    means = np.array([group.mean((0, 1)) for group in groups])
    w = [var(g.mean(1)) + np.mean([var(chain) for chain in g], axis=0) for g in groups]
    return np.sqrt(1 + var(means) / np.mean(w, axis=0))


def check_nested(rhat):
    toy = np.arange(8.0).reshape(4, 2, 1)
    np.testing.assert_allclose(rhat(toy, 2), np.sqrt(1 + 8 / 2.5), rtol=1e-12)
    rng = np.random.default_rng(0)
    for shape, groups in [((6, 5, 2), 3), ((6, 1, 2), 2), ((4, 7), 4)]:
        draws = rng.gamma(2.0, size=shape)
        draws += rng.normal(size=(shape[0], *(1,) * (len(shape) - 1)))
        np.testing.assert_allclose(rhat(draws, groups), nested_by_hand(draws, groups), rtol=1e-12)


def test_nested_rhat_by_hand(x64):
    check_nested(NESTED_RHAT)


def nested_mutant(within_chain=1.0, between_chain=1.0, ddof=1, interleaved=False):
    def rhat(draws, k):
        x = np.asarray(draws, np.float64)
        c, n = x.shape[:2]
        x = x.reshape(c // k, k, n, *x.shape[2:]).swapaxes(0, 1) if interleaved else x
        x = x.reshape(k, c // k, n, *x.shape[3 if interleaved else 2 :])
        var = lambda v, axis: np.var(v, axis=axis, ddof=min(ddof, v.shape[axis] - 1))
        w = between_chain * var(x.mean(2), 1) + within_chain * var(x, 2).mean(1)
        return np.sqrt(1 + var(x.mean((1, 2)), 0) / w.mean(0))

    return rhat


NESTED_MUTANTS = {
    "no variance within chains": nested_mutant(within_chain=0.0),
    "no variance between chains": nested_mutant(between_chain=0.0),
    "divided by n": nested_mutant(ddof=0),
    "superchains interleaved": nested_mutant(interleaved=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NESTED_MUTANTS)
def test_the_hand_kills(x64, name):
    check_nested(nested_mutant())
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        check_nested(NESTED_MUTANTS[name])


@pytest.mark.parametrize("members, expected", [(128, 1.0039), (32, 1.0155)])
def test_nested_rhat_at_stationarity_with_one_draw(members, expected):
    """B / W averages 1 / M (a little more, for W is random); its spread over K groups is known."""
    groups, repeats = 8, 4000
    draws = jax.random.normal(jax.random.key(1), (groups * members, 1, repeats))
    excess = np.asarray(NESTED_RHAT(draws, groups)) ** 2 - 1
    error = excess.std() / np.sqrt(repeats)
    degrees = groups * (members - 1)
    assert abs(excess.mean() - degrees / (degrees - 2) / members) < 5 * error
    assert abs(np.sqrt(1 + 1 / members) - expected) < 1e-4


def test_nested_rhat_sees_superchains_that_stay_where_they_began():
    """Split R-hat alarms on good short chains; this one does not, and sees the bad ones."""
    rng = np.random.default_rng(2)
    good = np.float32(autoregressive(rng, (1024, 20), 0.9))
    with jax.numpy_rank_promotion("allow"):
        rhat = jax.jit(blackjax.diagnostics.potential_scale_reduction)
        split = float(rhat(np.concatenate([good[:, :10], good[:, 10:]])))
    assert split > 1.5
    assert float(NESTED_RHAT(good, 8)) < np.sqrt(1 + 1 / 128 + 0.02)
    starts = np.repeat(np.arange(8, dtype=np.float32), 128)[:, None]
    assert float(NESTED_RHAT(good + 0.5 * starts, 8)) > 1.3


def test_nothing_varies():
    """Constant chains: no number, and no rounding that looks like one."""
    constant = np.full((4, 7, 2), 0.1, np.float32)
    assert np.isnan(NESTED_RHAT(constant, 2)).all()
    stuck = np.tile(np.float32([[0.1], [0.3], [0.7], [0.9]]), (1, 7))
    assert np.isnan(float(NESTED_RHAT(stuck, 4)))
    np.testing.assert_array_equal(jax.jit(ess_replicate)(constant), 0)
    np.testing.assert_array_equal(jax.jit(mcse)(constant), 0)
    assert np.isnan(jax.jit(e_bfmi)(np.full((2, 5), 0.1, np.float32))).all()
    assert np.isnan(jax.jit(mcse, static_argnums=1)(constant, "autocorrelation")).all()
    shifted = np.float32(1e3 + np.random.default_rng(0).normal(size=(8, 50)))
    np.testing.assert_allclose(NESTED_RHAT(shifted, 2), nested_by_hand(shifted, 2), rtol=1e-5)


def test_e_bfmi_by_hand(x64):
    toy = jnp.array([[1.0, 3.0, 2.0, 5.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(e_bfmi(toy), [1.5, 0.4], rtol=1e-12)
    energy = np.random.default_rng(3).gamma(5.0, size=(3, 40))
    arviz = np.square(np.diff(energy)).mean(1) / np.var(energy, axis=1)
    np.testing.assert_allclose(e_bfmi(jnp.asarray(energy)) * 40 / 39, arviz, rtol=1e-12)
    np.testing.assert_allclose(e_bfmi(jnp.asarray(7 - 3 * energy)), e_bfmi(jnp.asarray(energy)))
    broken = e_bfmi(toy.at[0, 2].set(jnp.inf))
    assert np.isnan(broken[0]) and broken[1] == 0.4


@pytest.mark.slow
@pytest.mark.parametrize("rho, known", [(0.9, 1846.01), (-0.5, 57_600.0)])
def test_replicate_ess_of_many_short_chains(rho, known):
    """Exact within 10 % on one data set, 5 % on the mean of twenty; Geyer's is not."""
    exact = exact_ess(1024, 20, rho)
    assert abs(exact / known - 1) < 1e-4
    draws = jnp.asarray(autoregressive(np.random.default_rng(4), (1024, 20, 20), rho), jnp.float32)
    ess = np.asarray(ess_replicate(draws))
    # sd of a variance from 1024 chains is 4.4 %: five of them for one data set.
    assert abs(ess.mean() / exact - 1) < 0.05
    assert np.abs(ess / exact - 1).max() < 5 * np.sqrt(2 / 1024)
    assert np.median(np.abs(ess / exact - 1)) < 0.10
    if rho < 0:
        raw = float(blackjax.diagnostics.effective_sample_size(draws[..., 0]))
        assert bool(ess_at_cap(raw, 1024, 20)) and raw > 1.5 * exact
        assert not bool(ess_at_cap(exact, 1024, 20))


def test_standard_errors_by_both_methods_and_by_hand(x64):
    draws = jnp.asarray(autoregressive(np.random.default_rng(5), (4, 4000, 12), 0.6))
    exact = np.sqrt(1 / exact_ess(4, 4000, 0.6))
    long = np.asarray(mcse(draws, "autocorrelation"))
    assert abs(long.mean() / exact - 1) < 0.05
    chains = np.asarray(draws).reshape(16, 1000, 12)
    by_hand = chains.mean(1).std(axis=0, ddof=1) / 4
    np.testing.assert_allclose(mcse(jnp.asarray(chains)), by_hand, rtol=1e-12)
    pooled = chains.reshape(-1, 12).var(axis=0, ddof=1)
    np.testing.assert_allclose(ess_replicate(jnp.asarray(chains)), pooled / by_hand**2, rtol=1e-12)
    assert mcse(jnp.ones((2, 4, 1), jnp.bfloat16)).dtype == jnp.float32


class Infos(NamedTuple):
    is_divergent: jax.Array
    energy: jax.Array
    momentum: jax.Array


def infos(shape, divergent=0, key=0):
    flags = jnp.arange(shape[0] * shape[1]).reshape(shape) < divergent
    return Infos(flags, jax.random.normal(jax.random.key(key), shape), jnp.zeros((*shape, 3)))


@pytest.fixture(scope="module")
def good():
    return jax.random.normal(jax.random.key(6), (4, 1000, 3)) + jnp.arange(3.0)[None, None]


def test_a_good_run_passes_and_the_report_is_json(good):
    truth = {"mean": np.arange(3.0), "mean_sq": 1 + np.arange(3.0) ** 2}
    report = quality_gate({"a": good[..., 0], "b": good[..., 1:]}, infos((4, 1000)), truth=truth)
    assert report["verdict"] == "pass" and report["reasons"] == []
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    values = {name: check["value"] for name, check in report["checks"].items()}
    assert 0.99 < values["rank_rhat"] < 1.01
    assert values["bulk_ess"] > 2500 and values["tail_ess"] > 2500
    assert values["divergence_rate"] == 0 and 1.7 < values["e_bfmi"] < 2.3
    assert values["max_abs_z"] < report["checks"]["max_abs_z"]["pass"]
    assert (report["num_chains"], report["num_draws"], report["num_entries"]) == (4, 1000, 3)


def fails(draws, reason, info=None, verdict="fail", **options):
    report = quality_gate(draws, info, **options)
    assert report["verdict"] == verdict, report
    assert any(reason in line for line in report["reasons"]), report["reasons"]
    json.dumps(report, allow_nan=False)
    return report


def test_runs_that_must_fail(good):
    fails(good.at[2].set(0.3), "chain 2: never moves")
    fails(jnp.full_like(good, 0.1), "chains 0, 1, 2, 3: never moves")
    fails(good.at[..., 1].set(0.1), "entries [1] of the draws never vary")
    fails(good.at[1, 5, 0].set(jnp.nan), "chain 1: states that are not finite")
    fails(good.at[1, 5, 0].set(jnp.inf), "nonfinite_states is 1, above 0")
    fails(good[:1], "one chain only")
    fails(good.at[0].add(0.6), "rank_rhat")
    fails(good.at[0].multiply(3.0), "rank_rhat")
    fails(jnp.repeat(good[:, :15], 70, axis=1), "bulk_ess")
    fails(good, "divergence_rate is 0.025", infos((4, 1000), 100))
    fails(good, "divergence_rate", {"is_nonfinite": jnp.ones((4, 1000), bool)})
    slow = infos((4, 1000))._replace(energy=jnp.cumsum(good[..., 0], axis=1))
    fails(good, "e_bfmi", slow)
    fails(good, "e_bfmi is not a number", infos((4, 1000))._replace(energy=jnp.zeros((4, 1000))))
    fails(good, "max_abs_z", truth={"mean": np.arange(3.0) + [0, 0, 0.1]})
    fails(good, "max_abs_z", truth={"mean": np.arange(3.0), "mean_sq": np.array([1.3, 2, 5])})


def test_runs_to_review(good):
    fails(good, "divergence_rate is 0.002, above 0.0015", infos((4, 1000), 8), "review")
    energy = infos((4, 1000)).energy.at[3, 7].set(jnp.inf)
    fails(good, "chain 3: energies", infos((4, 1000))._replace(energy=energy), "review")
    opposite = jnp.asarray(autoregressive(np.random.default_rng(7), (4, 1000, 3), -0.95))
    fails(opposite.astype(jnp.float32), "at its cap", verdict="review")


@pytest.mark.slow
def test_signs_have_a_constant_square():
    """A coordinate of -1 and 1 is no constant chain, though its square is."""
    draws = jax.random.rademacher(jax.random.key(8), (4, 1000, 1), jnp.float32)
    assert quality_gate(draws, None)["verdict"] == "pass"


@pytest.mark.slow
def test_short_chains_are_judged_between_chains():
    rng = np.random.default_rng(9)
    draws = jnp.asarray(autoregressive(rng, (2048, 10, 2), 0.5), jnp.float32)
    report = quality_gate(draws, None, num_superchains=8)
    assert report["verdict"] == "pass", report
    assert set(report["checks"]) >= {"nested_rhat_squared_minus_1", "replicate_ess"}
    assert report["checks"]["nested_rhat_squared_minus_1"]["pass"] == 8 / 2048 + 0.02
    assert report["checks"]["e_bfmi"]["value"] is None
    away = draws + 0.3 * jnp.repeat(jnp.arange(8.0), 256)[:, None, None]
    fails(away, "nested_rhat", num_superchains=8)
    single = quality_gate(draws[:, :1], None, num_superchains=8)
    assert single["verdict"] == "pass", single
    fails(draws[:, :1], "nested_rhat_squared_minus_1 is not a number")
    fails(draws[:20], "replicate_ess", num_superchains=4)


@pytest.mark.slow
@pytest.mark.parametrize("dim, bound", [(10, 2.80), (26, 3.09), (50, 3.28)])
def test_bound_on_the_scores(dim, bound):
    draws = jax.random.normal(jax.random.key(10), (300, 5, dim))
    report = quality_gate(draws, None, truth={"mean": np.zeros(dim)}, num_superchains=2)
    assert abs(report["checks"]["max_abs_z"]["pass"] - bound) < 0.005


def test_a_truth_with_its_own_error():
    """Truth from n draws: the score shrinks by the root of the two variances' sum."""
    draws = jax.random.normal(jax.random.key(11), (300, 4, 1))
    off = {"mean": np.array([0.2])}
    sharp = quality_gate(draws, None, truth=off, num_superchains=2)["checks"]["max_abs_z"]["value"]
    off |= {"sd": np.array([1.0]), "n_draws": 100}
    blunt = quality_gate(draws, None, truth=off, num_superchains=2)["checks"]["max_abs_z"]["value"]
    error = float(mcse(draws)[0])
    np.testing.assert_allclose(blunt / sharp, error / np.hypot(error, 0.1), rtol=1e-5)


def test_bad_arguments_are_named(good):
    with pytest.raises(ValueError, match="num_superchains must be at least 2, got 1"):
        nested_rhat(good, 1)
    with pytest.raises(ValueError, match="multiple of num_superchains=3, got 4"):
        nested_rhat(good, 3)
    with pytest.raises(ValueError, match="number of chains must be at least 2, got 1"):
        ess_replicate(good[:1])
    with pytest.raises(ValueError, match="method must be one of"):
        mcse(good, "batch")
    with pytest.raises(ValueError, match="number of draws of energy must be at least 2"):
        e_bfmi(jnp.ones((3, 1)))
    with pytest.raises(ValueError, match=r"infos.is_divergent must have shape \(4, 1000\)"):
        quality_gate(good, infos((4, 10)))
    with pytest.raises(ValueError, match=r"one \(C, N, \.\.\.\)"):
        quality_gate([good, good[:3]], None)
    with pytest.raises(ValueError, match=r"truth\['mean'\] must have shape \(3,\)"):
        quality_gate(good, None, truth={"mean": np.zeros(2)})
