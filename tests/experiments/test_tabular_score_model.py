"""Fits of the tabular protocol: the Gaussian, patience, splits that stop and stay, objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import score
from probjax.experiments import tabular_score_model as model
from probjax.experiments.tabular_score_data import Splits

SMALL = model.FittingConfig(widths=(4,), batch_size=8, check_every=2, patience=1)


def test_the_gaussian_reaches_minus_half_the_dimension_on_gaussian_rows():
    rows = jax.random.normal(jax.random.key(1), (2, 3000, 3)) * jnp.array([[[1.0, 2.0, 0.5]]])
    splits = Splits(rows[:, :2000], rows[:, :2000], rows[:, :9], rows[:, 2000:])
    truth = -0.5 * (1 + 1 / 4 + 4)
    found = model.gaussian_test(splits)
    # A value is -tr P + |Px|^2 / 2; its spread is that of half a sum of p_j chi-squares.
    error = np.sqrt(0.5 * (1 + 1 / 16 + 16) / 1000) * np.sqrt(1.5)
    assert (abs(found - truth) < 4 * error).all()


PROBLEM = model.make_problem(model.OBJECTIVES["ssm-vr"], SMALL, 0.1)
START, BLOCK = jax.jit(PROBLEM.start), jax.jit(PROBLEM.block)
ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(leaves(one), leaves(two), strict=True))


def test_a_stopped_fit_does_not_move_and_a_running_one_does():
    fit = START(jax.random.key(0), ROWS[0])
    index = jnp.int32(0)
    going, told = BLOCK(jax.random.key(1), fit, ROWS, ROWS[:5], index)
    assert told["active"] and not same(going.params, fit.params) and going.checks == 1
    stopped = fit._replace(is_stopped=jnp.array(True))
    after, told = BLOCK(jax.random.clone(jax.random.key(1)), stopped, ROWS, ROWS[:5], index)
    assert not told["active"] and same(after, stopped)


def test_patience_counts_looks_without_a_new_best_and_the_best_is_kept():
    """A validation value nothing can beat: the second look in a row without one ends it."""
    fit = START(jax.random.key(0), ROWS[0])
    good, told = BLOCK(jax.random.key(1), fit, ROWS, ROWS[:5], jnp.int32(0))
    assert good.best == told["validation"] and good.waited == 0 and not good.is_stopped
    assert same(good.best_params, good.params)
    unbeatable = good._replace(best=jnp.float32(-1e9))
    over, _ = BLOCK(jax.random.key(1), unbeatable, ROWS, ROWS[:5], jnp.int32(1))
    assert over.waited == 1 and over.is_stopped, "patience is 1"
    assert same(over.best_params, good.best_params) and not same(over.params, good.params)


def test_an_energy_and_a_score_start_from_the_standard_normal():
    for name in ("ssm", "deen"):
        net, model_of, score_of = model.make_model(model.OBJECTIVES[name], (4,))
        params = jax.jit(net.init)(jax.random.key(0), ROWS)
        zero = jax.tree.map(jnp.zeros_like, params)
        assert np.allclose(jax.jit(score_of(zero))(ROWS), -ROWS, atol=1e-6), name
        value = jax.jit(model_of(zero))(ROWS)
        wanted = 0.5 * jnp.sum(ROWS**2, axis=-1) if name == "deen" else -ROWS
        assert np.allclose(value, wanted, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("name", model.OBJECTIVES)
def test_every_objective_finds_the_score_of_a_correlated_normal(name):
    """The best possible test value is that of the true law, noise included."""
    root = np.array([[1.0, 0.9], [0.0, 0.4]])
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3000, 2)) @ root, jnp.float32)
    precision = np.linalg.inv(root.T @ root + 0.01 * np.eye(2)).astype(np.float32)
    options = model.FittingConfig(widths=(32,), learning_rate=3e-3, check_every=500)
    problem = model.make_problem(model.OBJECTIVES[name], options, 0.1)
    fit = jax.jit(problem.start)(jax.random.key(0), rows[0])
    block = jax.jit(problem.block)
    held_out = rows[2000:] + 0.1 * jax.random.normal(jax.random.key(9), (1000, 2))
    for i in range(4):
        fit, _ = block(jax.random.key(1), fit, rows[:2000], held_out[:500], jnp.int32(i))
    exact = jnp.mean(score.implicit_sm(lambda x: -x @ precision, held_out[500:]))
    found = jax.jit(problem.test)(fit.best_params, held_out[500:])
    gaussian = -1.0
    assert exact < -3.0 and found < gaussian + 0.8 * (exact - gaussian), (found, exact)
