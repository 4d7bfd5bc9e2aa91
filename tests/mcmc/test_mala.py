"""MALA: equal to BlackJAX, exact from exact starts, and what its mutants get wrong."""

from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from probjax.core.keys import item_keys, step_key
from probjax.mcmc.driver import scan_steps
from probjax.mcmc.mala import mala

STARTS = 50_000
DKW = np.sqrt(np.log(2 / 1e-6) / (2 * STARTS))


def quartic(x):
    """The lopsided density of the worked example: -sum x^4 / 4 - |x|^2 / 2 + 0.3 x0 x1."""
    return -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]


class Case(NamedTuple):
    """A density with exact draws and the laws of some statistics of them."""

    logdensity: object
    starts: np.ndarray
    laws: list
    step_size: float


def cases():
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    precision = jnp.asarray(np.linalg.inv(covariance), jnp.float32)
    normal = rng.multivariate_normal([0.0, 0.0], covariance, STARTS)
    gamma = np.log(rng.gamma(3.0, size=(STARTS, 1)))
    second = rng.random((STARTS, 1)) < 0.7
    mixture = np.where(second, 1.5, -1.0) + np.where(second, 1.0, 0.5) * rng.normal(
        size=(STARTS, 1)
    )

    def log_mixture(x):
        one = jnp.log(0.3 / 0.5) - 0.5 * ((x[0] + 1.0) / 0.5) ** 2
        return jnp.logaddexp(one, jnp.log(0.7) - 0.5 * (x[0] - 1.5) ** 2)

    mixture_law = lambda v: 0.3 * stats.norm.cdf(v, -1, 0.5) + 0.7 * stats.norm.cdf(v, 1.5, 1)
    return {
        "normal": Case(
            lambda x: -0.5 * jnp.dot(x, jnp.dot(precision, x)),
            normal,
            [
                (lambda x: x[:, 1], stats.norm(0, np.sqrt(2)).cdf),
                (lambda x: x[:, 0] - x[:, 1], stats.norm(0, np.sqrt(1.8)).cdf),
            ],
            0.6,
        ),
        "log gamma": Case(
            lambda y: 3.0 * y[0] - jnp.exp(y[0]),
            gamma,
            [(lambda y: y[:, 0], lambda v: stats.gamma(3.0).cdf(np.exp(v)))],
            0.5,
        ),
        "mixture": Case(log_mixture, mixture, [(lambda x: x[:, 0], mixture_law)], 0.4),
    }


CASES = cases()


def one_step(make, case):
    kernel = make(case.logdensity, case.step_size)

    @jax.jit
    def run(starts):
        keys = item_keys(jax.random.key(1), len(starts))
        state, info = jax.vmap(lambda k, x: kernel.step(k, kernel.init(x)))(keys, starts)
        return state.position, info

    x, info = run(jnp.asarray(case.starts, jnp.float32))
    return np.asarray(x, np.float64), info


def check_invariance(make, names=tuple(CASES)):
    """Exact draws stay exact draws after one step (DKW at 1e-6), and they do move."""
    for name in names:
        case = CASES[name]
        x, _ = one_step(make, case)
        for statistic, law in case.laws:
            values = np.sort(law(statistic(x)))
            grid = np.arange(STARTS + 1) / STARTS
            gap = max(np.abs(values - grid[1:]).max(), np.abs(values - grid[:-1]).max())
            assert gap < DKW, name
        assert np.abs(x - case.starts).mean() > 0.5 * case.step_size, name


def check_reversibility(make, names=tuple(CASES)):
    """E[g(x0) h(x1) - h(x0) g(x1)] = 0 within five standard errors."""
    for name in names:
        before = CASES[name].starts
        after, _ = one_step(make, CASES[name])
        a, b = before[:, 0], after[:, -1]
        c, d = before[:, -1], after[:, 0]
        for power in (2, 3):
            gap = a * b**power - c**power * d
            assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(STARTS), name


def test_one_step_leaves_the_law_alone_and_is_reversible():
    check_invariance(mala)
    check_reversibility(mala)


def mutant(log_ratio, noise=2.0, drift=1.0):
    """A Langevin kernel with another accept ratio, noise or drift."""

    def make(logdensity_fn, h):
        value_and_grad = jax.value_and_grad(logdensity_fn)

        def init(x):
            return blackjax.mcmc.mala.MALAState(x, *value_and_grad(x))

        def step(key, state):
            keys = jax.random.split(key)
            x, logp, s = state
            z = jax.random.normal(keys[0], x.shape, x.dtype)
            y = x + drift * h * s + jnp.sqrt(noise * h) * z
            logp_y, s_y = value_and_grad(y)
            q = lambda v, u, s_u: -jnp.sum((v - u - h * s_u) ** 2) / (4 * h)
            ratio = log_ratio(logp_y - logp, q(x, y, s_y), q(y, x, s), (q(x, y, s), h))
            taken = jnp.log(jax.random.uniform(keys[1], (), x.dtype)) < ratio
            new = jax.tree.map(lambda u, v: jnp.where(taken, u, v), init(y), state)
            return new, taken

        return SamplingAlgorithm(init, step)

    return make


RIGHT = lambda dp, back, forth, _: dp + back - forth
MUTANTS = {
    "no accept step": mutant(lambda dp, back, forth, _: jnp.zeros_like(dp)),
    "no ratio of the proposals": mutant(lambda dp, back, forth, _: dp),
    "ratio of the proposals upside down": mutant(lambda dp, back, forth, _: dp - back + forth),
    "wrong sign of the density": mutant(lambda dp, back, forth, _: -dp + back - forth),
    "old score on the way back": mutant(lambda dp, back, forth, rest: dp + rest[0] - forth),
    "proposals squared": mutant(lambda dp, back, forth, _: dp + 2 * (back - forth)),
    "noise of the other convention": mutant(RIGHT, noise=1.0),
    "drift of the other convention": mutant(RIGHT, drift=0.5),
    "downhill": mutant(RIGHT, drift=-1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_exact_starts_kill(name):
    with pytest.raises(AssertionError):
        check_invariance(MUTANTS[name], ("mixture",))
        check_invariance(MUTANTS[name], ("log gamma",))
        check_reversibility(MUTANTS[name], ("log gamma",))


@pytest.mark.slow
def test_the_mutants_are_built_right():
    check_invariance(mutant(RIGHT), ("mixture",))


def test_equal_to_blackjax(x64, reuse_keys):
    """Equal keys, equal chains, for an array and for a pytree, with new and old keys."""

    def over_tree(position):
        return quartic(position["a"]) - jnp.sum(position["b"] ** 2) * jnp.exp(position["a"][0])

    tree = {"a": jnp.array([0.7, -1.1]), "b": jnp.array([[0.3], [0.2]])}
    for logdensity_fn, x in ((quartic, jnp.array([0.7, -1.1])), (over_tree, tree)):
        ours, theirs = mala(logdensity_fn, 0.4), blackjax.mala(logdensity_fn, 0.4)
        one, two = jax.jit(ours.step), jax.jit(theirs.step)
        state, other = jax.jit(ours.init)(x), jax.jit(theirs.init)(x)
        accepted = 0
        for t in range(20):
            key = step_key(jax.random.key(3), t)
            state, info = one(key, state)
            other, expected = two(key, other)
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12)
            np.testing.assert_allclose(info.acceptance_rate, expected.acceptance_rate, atol=1e-12)
            assert bool(info.is_accepted) == bool(expected.is_accepted)
            accepted += int(info.is_accepted)
        assert 5 < accepted < 20
    old, _ = one(jax.random.PRNGKey(4), state)
    new, _ = one(jax.random.key(4), state)
    np.testing.assert_array_equal(old.position["a"], new.position["a"])


def test_one_leapfrog_step_is_one_proposal(x64, monkeypatch):
    """The published example: step delta = 0.5 with momentum p is step size delta^2 / 2, z = p."""
    x, p, delta = jnp.array([0.7, -1.1]), jnp.array([0.4, 1.3]), 0.5
    kernel = mala(quartic, delta**2 / 2)
    state = kernel.init(x)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: p)
    monkeypatch.setattr(jax.random, "bernoulli", lambda key, rate: rate > 0)
    new, info = kernel.step(jax.random.key(0), state)
    np.testing.assert_allclose(new.position, [0.728375, -0.119875], atol=1e-12)
    np.testing.assert_allclose(np.log(info.acceptance_rate), -0.055258305792723, atol=1e-12)
    half = p + delta / 2 * state.logdensity_grad
    end = half + delta / 2 * new.logdensity_grad
    change = new.logdensity - state.logdensity - 0.5 * (end @ end - p @ p)
    np.testing.assert_allclose(np.log(info.acceptance_rate), change, atol=1e-12)


@pytest.mark.slow
def test_the_bias_of_the_unadjusted_chain_is_gone():
    """N(0, 4), step 0.8: without the accept step the variance is 4.444."""
    kernel = mala(lambda x: -jnp.sum(x**2) / 8, 0.8)

    @jax.jit
    def run(keys):
        chain = lambda key: scan_steps(key, kernel.step, kernel.init(jnp.zeros(1)), 60)[0].position
        return jax.vmap(chain)(keys)

    x = np.asarray(run(item_keys(jax.random.key(5), 20_000)))
    error = 4 * np.sqrt(2 / 20_000)
    assert abs(x.var() - 4) < 5 * error < 0.444


@pytest.mark.slow
def test_preconditioning_is_a_linear_change_of_space(x64, reuse_keys):
    matrix = jnp.array([[2.0, 0.6], [0.6, 0.5]])
    root = jnp.linalg.cholesky(matrix)
    there = mala(quartic, 0.3, inverse_mass_matrix=matrix)
    here = mala(lambda y: quartic(root @ y), 0.3)
    x = jnp.array([0.7, -1.1])
    state, mapped = jax.jit(there.init)(x), jax.jit(here.init)(np.linalg.solve(root, x))
    one, two = jax.jit(there.step), jax.jit(here.step)
    for t in range(20):
        key = step_key(jax.random.key(6), t)
        state, info = one(key, state)
        mapped, expected = two(key, mapped)
        np.testing.assert_allclose(
            state.position, np.asarray(root) @ np.asarray(mapped.position), atol=1e-12
        )
        np.testing.assert_allclose(info.acceptance_rate, expected.acceptance_rate, atol=1e-12)
    diagonal = mala(quartic, 0.3, inverse_mass_matrix=np.array([2.0, 0.5]))
    dense = mala(quartic, 0.3, inverse_mass_matrix=np.diag([2.0, 0.5]))
    move = lambda kernel: jax.jit(lambda key, x: kernel.step(key, kernel.init(x)))
    a, b = (move(kernel)(jax.random.key(7), x) for kernel in (diagonal, dense))
    np.testing.assert_allclose(a[0].position, b[0].position, atol=1e-12)
    np.testing.assert_allclose(a[1].acceptance_rate, b[1].acceptance_rate, atol=1e-12)


def test_proposals_that_are_refused_and_flagged(reuse_keys):
    """Above 1 the density is NaN, below -1 it is zero: neither is stored, only one is broken."""

    def logdensity(x):
        return jnp.where(x[0] > 1, jnp.nan, jnp.where(x[0] < -1, -jnp.inf, -0.5 * x[0] ** 2))

    kernel = mala(logdensity, 1.0)
    keys = item_keys(jax.random.key(8), 500)
    start = kernel.init(jnp.zeros(1))
    state, info = jax.jit(jax.vmap(kernel.step, in_axes=(0, None)))(keys, start)
    x = np.asarray(state.position)[:, 0]
    assert np.isfinite(x).all() and np.isfinite(np.asarray(state.logdensity)).all()
    broken, divergent = np.asarray(info.is_nonfinite), np.asarray(info.is_divergent)
    assert 50 < broken.sum() < 450 and (divergent & ~broken).sum() > 50
    assert not np.asarray(info.is_accepted)[divergent].any()
    np.testing.assert_array_equal(x[divergent], 0.0)
    np.testing.assert_array_equal(np.asarray(info.acceptance_rate)[divergent], 0.0)
    assert (np.abs(x) <= 1).all() and (np.asarray(info.num_grad_evals) == 1).all()

    def wall(x):
        return jnp.where(jnp.sum(x) > 5, -jnp.inf, -0.5 * jnp.sum(x**2))

    outside = mala(wall, 4.0)
    move = lambda key: outside.step(key, outside.init(jnp.full(2, 2.6)))
    moved, info = jax.jit(jax.vmap(move))(keys)
    inside = np.asarray(moved.position).sum(-1) <= 5
    assert 100 < inside.sum() < 400 and np.isfinite(np.asarray(moved.logdensity)[inside]).all()
    np.testing.assert_array_equal(info.acceptance_rate, inside.astype(np.float32))
    np.testing.assert_array_equal(info.is_accepted, inside)
    lost = mala(lambda x: jnp.nan * jnp.sum(x), 1.0)
    held, info = jax.jit(lambda key, x: lost.step(key, lost.init(x)))(
        jax.random.key(10), jnp.ones(2)
    )
    assert bool(info.is_nonfinite) and bool(info.is_divergent)
    np.testing.assert_array_equal(held.position, 1.0)


def test_divergence_threshold():
    steep = lambda x: -1e4 * jnp.sum(x**2)
    for threshold, flagged in ((1e3, True), (1e30, False)):
        kernel = mala(steep, 0.1, divergence_threshold=threshold)
        _, info = kernel.step(jax.random.key(11), kernel.init(jnp.ones(2)))
        assert bool(info.is_divergent) == flagged and not bool(info.is_nonfinite)


def test_the_same_chains_on_devices():
    kernel = mala(quartic, 0.3)

    def chains(keys):
        chain = lambda key: scan_steps(key, kernel.step, kernel.init(jnp.zeros(2)), 5)[0].position
        return jax.vmap(chain)(keys)

    keys = item_keys(jax.random.key(12), 8)
    mesh = jax.make_mesh((4,), ("chains",), (AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("chains")
    mapped = jax.jit(jax.shard_map(chains, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(keys), jax.jit(chains)(keys), rtol=2e-6)
    text = mapped.lower(keys).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_types():
    state = mala(quartic, 0.3).init(jnp.ones(2, jnp.bfloat16))
    assert state.position.dtype == jnp.float32


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="step_size must be positive and finite, got 0"):
        mala(quartic, 0.0)
    with pytest.raises(ValueError, match="divergence_threshold must be positive"):
        mala(quartic, 0.1, divergence_threshold=-1.0)
    with pytest.raises(ValueError, match=r"inverse_mass_matrix\[1\] must be positive"):
        mala(quartic, 0.1, inverse_mass_matrix=np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        mala(quartic, 0.1, inverse_mass_matrix=np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match=r"must have shape \(d,\) or \(d, d\), got \(2, 3\)"):
        mala(quartic, 0.1, inverse_mass_matrix=np.ones((2, 3)))
    kernel = mala(quartic, 0.1, inverse_mass_matrix=np.ones(3))
    with pytest.raises(ValueError, match=r"inverse_mass_matrix must have shape \(2,\), got \(3,\)"):
        kernel.step(jax.random.key(0), kernel.init(jnp.ones(2)))
