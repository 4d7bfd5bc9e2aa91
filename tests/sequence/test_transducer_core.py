"""The walk over lanes: NumPy's double loop, row form, conservation, derivatives, the best walk."""

import functools
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import transducer_core as core

STEPS, LANES = 5, 4


@functools.cache
def compiled(name):
    return jax.jit(getattr(core, name))


def weights(seed, holes=0.0):
    """Log weights of staying and moving, some of them -inf."""
    rng = np.random.default_rng(seed)
    stay, move = rng.normal(size=(STEPS, LANES)) * 2, rng.normal(size=(STEPS, LANES - 1)) * 2
    stay[rng.random(stay.shape) < holes] = -np.inf
    move[rng.random(move.shape) < holes] = -np.inf
    return stay, move


def walks(stay, move, end):
    """Every walk to the end: in which steps it moves, and its weight."""
    for steps in itertools.combinations(range(STEPS), end):
        lane, total, path = 0, 0.0, []
        for n in range(STEPS):
            path.append(lane)
            total += move[n, lane] if n in steps else stay[n, lane]
            lane += n in steps
        yield (*path, lane), total


def check_walk(smooth, stay, move, end):
    """The sum and the probability of each arc, by enumeration."""
    found = smooth(jnp.asarray(stay), jnp.asarray(move), jnp.asarray(end))
    paths = list(walks(stay, move, end))
    log_z = np.logaddexp.reduce([total for _, total in paths])
    np.testing.assert_allclose(found.log_z, log_z, rtol=1e-12, atol=1e-12)
    wanted_stay, wanted_move = np.zeros_like(stay), np.zeros_like(move)
    if log_z > -np.inf:
        for path, total in paths:
            for n, (lane, after) in enumerate(itertools.pairwise(path)):
                arcs = wanted_move if after > lane else wanted_stay
                arcs[n, lane] += np.exp(total - log_z)
    np.testing.assert_allclose(found.stay, wanted_stay, atol=1e-12)
    np.testing.assert_allclose(found.move, wanted_move, atol=1e-12)


@hypothesis.given(
    seed=st.integers(0, 10**6),
    end=st.integers(0, LANES - 1),
    holes=st.sampled_from([0.0, 0.3]),
)
def test_sums_and_arcs_equal_enumeration(seed, end, holes):
    with jax.enable_x64(True), np.errstate(invalid="ignore"):
        stay, move = weights(seed, holes)
        check_walk(compiled("smooth"), stay, move, end)
        reference = compiled("log_z_reference")(*map(jnp.asarray, (stay, move, end)))
        value = compiled("log_z")(*map(jnp.asarray, (stay, move, end)))
        np.testing.assert_allclose(reference, value, rtol=1e-12, atol=1e-12)


def test_rows_and_a_double_loop_make_the_same_sum(x64):
    """The lattice of four frames and three labels: by rows, node by node, and as a walk."""
    rng = np.random.default_rng(1)
    blank, label = rng.normal(size=(4, 4)) - 2, rng.normal(size=(4, 3)) - 2
    alpha = np.full((5, 4), -np.inf)
    alpha[0] = np.concatenate([[0], np.cumsum(label[0])])
    by_rows = jnp.asarray(alpha[0])
    for t in range(1, 5):
        for u in range(4):
            alpha[t, u] = alpha[t - 1, u] + blank[t - 1, u]
            if u and t < 4:
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t, u - 1] + label[t, u - 1])
        shift = jnp.asarray(np.concatenate([[0], np.cumsum(label[t])]) if t < 4 else np.zeros(4))
        entering = by_rows + jnp.asarray(blank[t - 1])
        if t < 4:
            by_rows = shift + jax.lax.cumlogsumexp(entering - shift)
    walk = core.skewed(jnp.asarray(blank), jnp.asarray(label))
    found = compiled("log_z")(*walk, jnp.asarray(3))
    np.testing.assert_allclose(found, alpha[4, 3], rtol=1e-14)
    np.testing.assert_allclose(entering[3], alpha[4, 3], rtol=1e-14)


def test_nothing_underflows():
    """Float32, sums near e^-20000 whose posterior is known: all walks weigh the same."""
    stay, move = jnp.full((200, 61), -100.0), jnp.full((200, 60), -100.0)
    found = jax.jit(core.smooth)(stay, move, jnp.asarray(60))
    wanted = math.log(math.comb(200, 60)) - 20000
    np.testing.assert_allclose(found.log_z, wanted, rtol=1e-6)
    occupied = found.stay.sum(axis=1) + found.move.sum(axis=1)
    np.testing.assert_allclose(occupied, 1, atol=1e-5)
    np.testing.assert_allclose(found.move.sum(axis=1), 60 / 200, rtol=1e-4)


def test_nowhere_to_go(x64):
    stay, move = map(jnp.asarray, weights(0))
    blocked = stay, jnp.full_like(move, -jnp.inf), jnp.asarray(3)
    found = compiled("smooth")(*blocked)
    assert found.log_z == -np.inf and (found.stay == 0).all() and (found.move == 0).all()
    assert (compiled("best_walk")(*blocked) == -1).all()
    nothing = compiled("log_z")(jnp.zeros((0, 2)), jnp.zeros((0, 1)), jnp.asarray(0))
    assert nothing == 0


@pytest.mark.slow
def test_derivatives_of_second_order_are_the_references(x64):
    stay, move = map(jnp.asarray, weights(2, 0.1))
    moves = tuple(jnp.asarray(w) for w in weights(3))

    def second(function):
        gradient = jax.grad(lambda x: function(*x, jnp.asarray(2)))
        return jax.jvp(gradient, ((stay, move),), (moves,))

    for one, other in zip(
        jax.tree.leaves(jax.jit(second, static_argnums=0)(core.log_z)),
        jax.tree.leaves(second(core.log_z_reference)),
        strict=True,
    ):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, atol=1e-12)


def check_best(best_walk, stay, move, end):
    """The walk has the largest weight of all, and exists."""
    path = tuple(np.asarray(best_walk(*map(jnp.asarray, (stay, move, end)))).tolist())
    by_path = dict(walks(stay, move, end))
    assert abs(by_path[path] - max(by_path.values())) < 1e-12


def test_the_best_walk_is_the_best(x64):
    for seed in range(20):
        for end in range(LANES):
            check_best(compiled("best_walk"), *weights(seed), end)
            # Ties everywhere: few different weights.
            check_best(compiled("best_walk"), *(np.round(w / 4) for w in weights(seed)), end)


@pytest.mark.slow
def test_the_checks_kill_mistakes(x64):
    stay, move = weights(0)

    def later(stay, move, end):  # arrivals normalised over what leaves a lane
        found = core.smooth(stay, move, end)
        return found._replace(move=jnp.roll(found.move, 1, axis=0))

    def one_lane_off(stay, move, end):
        return core.smooth(stay, jnp.roll(move, 1, axis=1), end)

    def greedy(stay, move, end):  # no backtracking: moves as soon as it may
        return jnp.minimum(jnp.arange(STEPS + 1), end)

    check_walk(core.smooth, stay, move, 2)
    for mutant in (later, one_lane_off):
        with pytest.raises(AssertionError):
            check_walk(mutant, stay, move, 2)
    with pytest.raises(AssertionError):
        check_best(greedy, stay, move, 2)
