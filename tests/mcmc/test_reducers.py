"""Reducers against NumPy on the whole trace, and against broken chains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import mcmc, sharding


class Noise(NamedTuple):
    position: jax.Array
    mean: jax.Array


class Info(NamedTuple):
    acceptance_rate: jax.Array
    is_accepted: jax.Array
    is_divergent: jax.Array


def draw(key, state):
    """Independent draws about a chain's own mean; a chain whose mean is NaN gives NaN."""
    noise = jax.random.normal(key, state.position.shape)
    matrix = jnp.array([[1.0, 0.0, 0.0], [0.7, 0.5, 0.0], [-0.3, 0.2, 2.0]])
    position = state.mean + matrix @ noise
    flag = noise[0] > 0.5
    return Noise(position, state.mean), Info(jax.nn.sigmoid(noise[0]), flag, noise[1] > 2.0)


ALGORITHM = mcmc.bind(mcmc.Kernel(lambda x, _: Noise(x, x), lambda k, s, _: draw(k, s)), None)
REDUCERS = (
    mcmc.moments(),
    mcmc.covariance(),
    mcmc.replicate_means(),
    mcmc.nested_rhat_reducer(4),
    mcmc.counts(),
)


def keep(state, info):
    return state.position, info


def run(means, num_steps=60, **options):
    states = Noise(means, means)
    return mcmc.run_chains(
        jax.random.key(3), ALGORITHM, states, num_steps,
        **{"reducers": REDUCERS, "trace_fn": keep, **options},
    )  # fmt: skip


def chain_means(offset=0.0):
    return offset + jax.random.normal(jax.random.key(7), (16, 3))


def check_against_numpy(out, good=None, tolerance=2e-6):
    """Every reducer against float64 NumPy on the draws of the good chains."""
    good = np.ones(16, bool) if good is None else good
    draws = np.asarray(out.trace[0], np.float64)[good]
    flat = draws.reshape(-1, 3)
    moments, covariance, replicates, nested, counts = out.reduced
    scale = flat.std(axis=0)
    np.testing.assert_allclose(moments.mean, flat.mean(0), rtol=1e-6, atol=tolerance)
    np.testing.assert_allclose(moments.variance, flat.var(0, ddof=1), rtol=20 * tolerance)
    np.testing.assert_allclose(covariance.mean, flat.mean(0), rtol=1e-6, atol=tolerance)
    np.testing.assert_allclose(
        covariance.variance / np.outer(scale, scale),
        np.cov(flat.T) / np.outer(scale, scale), atol=20 * tolerance,
    )  # fmt: skip
    means = draws.mean(1)
    np.testing.assert_allclose(
        replicates.means[np.flatnonzero(good)], means, rtol=1e-6, atol=tolerance
    )
    mcse2 = means.var(0, ddof=1) / len(means)
    np.testing.assert_allclose(replicates.mcse**2, mcse2, rtol=50 * tolerance)
    np.testing.assert_allclose(replicates.ess, flat.var(0, ddof=1) / mcse2, rtol=50 * tolerance)
    groups = [draws[(np.flatnonzero(good) // 4) == k] for k in range(4)]
    groups = [group for group in groups if len(group)]
    centres = np.stack([group.mean((0, 1)) for group in groups])
    between = np.stack(
        [g.mean(1).var(0, ddof=1) if len(g) > 1 else np.zeros(3) for g in groups]
    )  # fmt: skip
    within = np.stack([group.var(1, ddof=1).mean(0) for group in groups])
    rhat = np.sqrt(1 + centres.var(0, ddof=1) / (between + within).mean(0))
    np.testing.assert_allclose(nested.rhat, rhat, rtol=20 * tolerance)
    info = out.trace[1]
    assert float(counts.steps) == out.trace[0].shape[0] * out.trace[0].shape[1]
    assert float(counts.accepted) == info.is_accepted.sum() > 0
    assert float(counts.divergent) == info.is_divergent.sum() > 0
    np.testing.assert_allclose(counts.acceptance_rate, info.acceptance_rate.mean(), rtol=1e-5)
    excluded = (~good).sum() * draws.shape[1]
    assert float(counts.nonfinite) == excluded
    for found in (moments, covariance, replicates, nested):
        assert float(found.num_excluded) == excluded
    for found in (moments, covariance):
        assert float(found.count) == len(flat)


def test_against_numpy_on_the_whole_trace():
    check_against_numpy(run(chain_means()))


def test_thinning_and_chunks_do_not_touch_them():
    whole, cut = run(chain_means(), 61), run(chain_means(), 61, thin=7, chunk_size=9)
    for one, other in zip(*(jax.tree.leaves(r.reduced) for r in (whole, cut)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_float32_with_a_mean_of_a_thousand_standard_deviations():
    out = run(chain_means(1000.0), 400)
    assert out.reduced[0].mean.dtype == jnp.float32
    check_against_numpy(out, tolerance=1e-5)


@pytest.mark.parametrize("broken", [[5], [0], [4, 5, 6, 7]])
def test_a_broken_chain_poisons_nothing(broken):
    means = chain_means().at[jnp.array(broken), 1].set(jnp.nan)
    good = np.ones(16, bool)
    good[broken] = False
    out = run(means)
    check_against_numpy(out, good)
    assert np.isnan(out.reduced[2].means[np.array(broken)]).all()


@pytest.mark.slow
def test_on_any_number_of_devices():
    one = run(chain_means()).reduced
    for num in (2, 8):
        other = run(chain_means(), mesh=sharding.make_mesh(num)).reduced
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_no_steps_give_nan_and_zero():
    moments, covariance, replicates, nested, counts = run(chain_means(), 0).reduced
    for leaf in (*moments[:2], *covariance[:2], *replicates[:4], nested.rhat):
        assert np.isnan(leaf).all()
    assert float(moments.count) == float(moments.num_excluded) == 0
    assert [float(leaf) for leaf in counts][0::2] == [0, 0, 0]
    assert np.isnan(counts.acceptance_rate)


def test_published_number_and_twin_of_nested_rhat():
    reducer = mcmc.nested_rhat_reducer(2, lambda state: state)
    init = jax.jit(jax.vmap(reducer.init))
    update = jax.jit(jax.vmap(lambda acc, x: reducer.update(acc, x, None, 0)))
    rhat = jax.jit(lambda accs: reducer.finalize(reducer.merge(accs)).rhat)
    accs = init(np.zeros(4, np.float32))
    for x in ([0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]):
        accs = update(accs, np.array(x, np.float32))
    np.testing.assert_allclose(rhat(accs), np.sqrt(1 + 8 / 2.5), rtol=1e-6)
    for shape in ((4, 1), (2, 5)):  # one step; one chain in a superchain
        draws = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        accs = init(draws[:, 0] + np.float32(3))
        for t in range(shape[1]):
            accs = update(accs, draws[:, t])
        np.testing.assert_allclose(rhat(accs), mcmc.nested_rhat(jnp.array(draws), 2), rtol=1e-5)


def test_a_pytree_of_integers_and_halves():
    out = run(
        chain_means(),
        reducers=(mcmc.moments(_pytree), mcmc.covariance(_pytree), mcmc.replicate_means(_pytree)),
    )
    draws = np.asarray(out.trace[0]).reshape(-1, 3)
    np.testing.assert_allclose(out.reduced[0].mean["up"], (draws[:, 0] > 0).mean(), rtol=1e-5)
    assert out.reduced[0].mean["half"].dtype == jnp.float32
    assert out.reduced[1].variance.shape == (4, 4)
    assert out.reduced[2].means["half"].shape == (16, 3)


def _pytree(state):
    return {
        "up": (state.position[0] > 0).astype(jnp.int32),
        "half": state.position.astype(jnp.bfloat16),
    }


def test_what_a_kernel_does_not_tell_is_nan():
    out = mcmc.run_chains(
        jax.random.key(0), mcmc.bind(mcmc.Kernel(lambda x, _: x, lambda k, x, _: (x, ())), None),
        jnp.zeros(4), 3, reducers=(mcmc.counts(),),
    )  # fmt: skip
    counts = out.reduced[0]
    assert np.isnan([counts.acceptance_rate, counts.accepted, counts.num_grad_evals]).all()
    assert float(counts.steps) == 12


def test_one_object_for_equal_arguments_and_errors():
    assert mcmc.moments() is mcmc.moments()
    assert mcmc.nested_rhat_reducer(4) is mcmc.nested_rhat_reducer(4)
    with pytest.raises(ValueError, match="num_superchains must be at least 2, got 1"):
        mcmc.nested_rhat_reducer(1)
    with pytest.raises(ValueError, match="num_superchains=3 does not divide the 16 chains"):
        run(chain_means(), 1, reducers=(mcmc.nested_rhat_reducer(3),))


def merged_wrongly(reducer):
    """A mutant: chains' squared deviations are added, the spread of their means forgotten."""

    def merge(accs):
        merged = reducer.merge(accs)
        return merged._replace(deviation=jnp.sum(accs.deviation, axis=0))

    return reducer._replace(merge=merge)


def counts_broken(reducer):
    """A mutant: a broken draw is counted as a draw."""

    def update(acc, state, info, step):
        acc = reducer.update(acc, state, info, step)
        broken = ~jnp.isfinite(state.position[1])
        return acc._replace(count=acc.count + broken.astype(jnp.int32))

    return reducer._replace(update=update)


def takes_the_state_before(reducer):
    """A mutant: the last draw is missing and the start is in."""

    def update(acc, state, info, step):
        return reducer.update(acc, state._replace(position=state.mean), info, step)

    return reducer._replace(update=update)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [merged_wrongly, counts_broken, takes_the_state_before])
def test_the_check_kills(mutant):
    means = chain_means().at[5, 1].set(jnp.nan)
    good = np.arange(16) != 5
    with pytest.raises(AssertionError):
        check_against_numpy(run(means, reducers=(mutant(REDUCERS[0]), *REDUCERS[1:])), good)
