"""Exact transition matrices: published numbers, balance to 1e-12, brute-force twins, mutants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.mcmc.finite import balance_gap, gibbs_matrix, mh_matrix, stationary

PI = np.array([0.5, 0.3, 0.2])
Q = np.array([[0.0, 0.5, 0.5], [0.2, 0.0, 0.8], [0.6, 0.4, 0.0]])
TABLE = np.array([[0.4, 0.1], [0.2, 0.3]])


def random_table(shape, seed=0):
    table = np.random.default_rng(seed).gamma(0.7, size=shape)
    return table / table.sum()


def brute_force(table, order):
    """Follow every path of single-coordinate redraws from every state."""
    states = list(itertools.product(*map(range, table.shape)))
    matrix = np.zeros((len(states), len(states)))
    for i, state in enumerate(states):
        paths = {state: 1.0}
        for k in order:
            spread = {}
            for at, probability in paths.items():
                line = np.array([table[(*at[:k], v, *at[k + 1 :])] for v in range(table.shape[k])])
                for v, weight in enumerate(line / line.sum()):
                    to = (*at[:k], v, *at[k + 1 :])
                    spread[to] = spread.get(to, 0.0) + probability * weight
            paths = spread
        for to, probability in paths.items():
            matrix[i, states.index(to)] = probability
    return matrix


def check_balanced(make):
    """Invariant and reversible to 1e-12, on the published case and on a random larger one."""
    rng = np.random.default_rng(1)
    pi = rng.gamma(0.5, size=7)
    proposal = rng.gamma(0.5, size=(7, 7)) * (rng.random((7, 7)) < 0.8) + 0.01 * np.eye(7)
    for law, wander in ((PI, Q), (pi / pi.sum(), proposal / proposal.sum(1, keepdims=True))):
        matrix = make(law, wander)
        assert float(balance_gap(law, matrix)) <= 1e-12
        assert np.abs(law @ np.asarray(matrix) - law).max() <= 1e-12
        np.testing.assert_allclose(stationary(matrix), law, rtol=1e-10)


def test_metropolis_hastings_is_balanced_and_as_published(x64):
    check_balanced(mh_matrix)
    known = [[0.64, 0.12, 0.24], [0.2, 8 / 15, 4 / 15], [0.6, 0.4, 0.0]]
    np.testing.assert_allclose(mh_matrix(PI, Q), known, atol=1e-15)
    np.testing.assert_allclose(mh_matrix(7 * PI, Q), known, atol=1e-15)


def accept_matrix(rate):
    """Metropolis-Hastings with another acceptance probability, by hand."""

    def make(pi, proposal):
        matrix = np.zeros_like(proposal)
        for i, j in itertools.permutations(range(len(pi)), 2):
            if proposal[i, j] > 0:
                matrix[i, j] = proposal[i, j] * rate(pi[i], pi[j], proposal[i, j], proposal[j, i])
        return matrix + np.diag(1 - matrix.sum(1))

    return make


MUTANTS = {
    "proposal ratio dropped": lambda pi, pj, qij, qji: min(1.0, pj / pi),
    "proposal ratio inverted": lambda pi, pj, qij, qji: min(1.0, pj * qij / max(pi * qji, 1e-30)),
    "log u > ratio": lambda pi, pj, qij, qji: max(0.0, 1 - pj * qji / (pi * qij)),
    "target ratio inverted": lambda pi, pj, qij, qji: min(1.0, pi * qji / (pj * qij)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_balance_kills(x64, name):
    check_balanced(accept_matrix(lambda pi, pj, qij, qji: min(1.0, pj * qji / (pi * qij))))
    with pytest.raises(AssertionError):
        check_balanced(accept_matrix(MUTANTS[name]))


def test_a_forgotten_ratio_moves_the_law_as_published(x64):
    as_if_symmetric = accept_matrix(MUTANTS["proposal ratio dropped"])(PI, Q)
    np.testing.assert_allclose(stationary(as_if_symmetric), [0.4309, 0.3149, 0.2541], atol=5e-5)


def test_states_outside_the_support_are_left_and_never_entered(x64):
    matrix = np.asarray(mh_matrix([0.0, 3.0, 0.0, 1.0], np.full((4, 4), 0.25)))
    np.testing.assert_allclose(matrix[0], [0.5, 0.25, 0, 0.25])
    assert (matrix[[1, 3]][:, [0, 2]] == 0).all()
    np.testing.assert_allclose(stationary(matrix), [0, 0.75, 0, 0.25], atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2)])
def test_gibbs_matrices_equal_enumeration(x64, shape):
    table = random_table(shape)
    dim, law = len(shape), table.ravel()
    forward = list(range(dim))
    systematic = gibbs_matrix(table)
    np.testing.assert_allclose(systematic, brute_force(table, forward), atol=1e-14)
    there_and_back = forward + forward[-2::-1]
    np.testing.assert_allclose(
        gibbs_matrix(table, "palindromic"), brute_force(table, there_and_back), atol=1e-14
    )
    picks = itertools.product(forward, repeat=dim)
    mean = np.mean([brute_force(table, order) for order in picks], axis=0)
    np.testing.assert_allclose(gibbs_matrix(table, "random"), mean, atol=1e-14)
    for scan in ("systematic", "random", "palindromic"):
        matrix = gibbs_matrix(table, scan)
        assert np.abs(law @ np.asarray(matrix) - law).max() <= 1e-12
        assert (float(balance_gap(law, matrix)) <= 1e-12) == (scan != "systematic")


def test_gibbs_numbers_as_published(x64):
    law = TABLE.ravel()
    gaps = {scan: float(balance_gap(law, gibbs_matrix(TABLE, scan))) for scan in
            ("systematic", "random", "palindromic")}  # fmt: skip
    assert abs(gaps["systematic"] - 0.0533) < 5e-5
    assert max(gaps["random"], gaps["palindromic"]) <= 1e-12
    at_once = gibbs_matrix(TABLE, "parallel")
    np.testing.assert_allclose(stationary(at_once), [0.3, 0.2, 0.3, 0.2], atol=1e-12)
    corrected = mh_matrix(law, at_once)
    assert float(balance_gap(law, corrected)) <= 1e-12
    accepts = np.minimum(law[:, None] * at_once, (law[:, None] * at_once).T).sum()
    assert abs(accepts - 0.81) < 5e-3


def test_a_coordinate_without_a_conditional_stays(x64):
    matrix = np.asarray(gibbs_matrix([[0.5, 0.5], [0.0, 0.0]]))
    np.testing.assert_allclose(matrix.sum(1), 1.0)
    np.testing.assert_allclose(stationary(matrix), [0.5, 0.5, 0, 0], atol=1e-12)


def test_stationary_of_periodic_and_of_split_chains():
    np.testing.assert_allclose(stationary([[0.0, 1.0], [1.0, 0.0]]), [0.5, 0.5])
    with pytest.raises(ValueError, match="reached state 0 never reaches state 2"):
        stationary([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])


def test_under_jit_and_in_single_precision():
    matrix = jax.jit(mh_matrix)(jnp.asarray(PI, jnp.float32), jnp.asarray(Q, jnp.float32))
    assert matrix.dtype == jnp.float32
    np.testing.assert_allclose(matrix, mh_matrix(PI.tolist(), Q.tolist()), atol=1e-6)
    assert float(jax.jit(balance_gap)(jnp.asarray(PI, jnp.float32), matrix)) < 1e-6
    assert jax.jit(stationary)(matrix).shape == (3,)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"row 1 of Q must sum to 1, got 0\.9"):
        mh_matrix([0.5, 0.5], [[0.5, 0.5], [0.5, 0.4]])
    with pytest.raises(ValueError, match="row 0 of P must sum to 1"):
        stationary([[0.5, 0.6], [0.5, 0.5]])
    with pytest.raises(ValueError, match="row 0 of P must sum to 1"):
        balance_gap([0.5, 0.5], [[0.5, 0.6], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"P must have shape \(2, 2\), got \(2, 3\)"):
        stationary(np.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"Q\[0, 1\] must be finite and not negative"):
        mh_matrix([0.5, 0.5], [[1.5, -0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"pi must have shape \(2,\), got \(3,\)"):
        mh_matrix([1.0, 1.0, 1.0], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="pi must have a positive entry"):
        balance_gap([0.0, 0.0], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="scan must be one of"):
        gibbs_matrix(TABLE, "zigzag")
    with pytest.raises(ValueError, match="table must have an axis"):
        gibbs_matrix(1.0)
