"""Heun with churn: without churn it is Heun's rule, with churn its exact linear law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core.keys import row_normal
from probjax.diffusion.churn import churn_heun
from probjax.diffusion.samplers import heun, sample

GRID = np.array([7.0, 3.1, 0.8, 0.2])


def quarter(x, noise_scale):
    return 0.25 / (0.25 + noise_scale**2) * x


def step_of(algorithm, i, key, x):
    return algorithm.step(key, algorithm.init(x)._replace(i=jnp.asarray(i, jnp.int32)))[0].x


def test_without_churn_it_is_heun(x64, reuse_keys):
    x = jnp.array([[3.0], [-1.0]])
    one, two = churn_heun(quarter, GRID), heun(quarter, GRID)
    a, b = (jax.jit(lambda x, s=s: sample(jax.random.key(0), s, x, 4))(x) for s in (one, two))
    np.testing.assert_allclose(a.x, b.x, rtol=1e-13)
    assert int(a.num_evaluations) == 7


def check_step(algorithm, options):
    """Slope and spread of each step on N(0, 1/4), by hand."""
    key, zero = jax.random.key(0), jnp.zeros((1, 1))
    z = float(row_normal(key, zero)[0, 0])
    move = jax.jit(lambda i, x: step_of(algorithm, i, key, x)[0, 0])
    for i in range(3):
        sigma, after = GRID[i], GRID[i + 1]
        gamma = min(options.get("s_churn", 0.0) / 4, 2**0.5 - 1)
        if not options.get("s_min", 0.0) <= sigma <= options.get("s_max", np.inf):
            gamma = 0.0
        raised = (1 + gamma) * sigma
        first = raised / (0.25 + raised**2)  # slope of the flow, times x
        euler = 1 + (after - raised) * first
        slope = 1 + 0.5 * (after - raised) * (first + after / (0.25 + after**2) * euler)
        spread = options.get("s_noise", 1.0) * np.sqrt(raised**2 - sigma**2)
        at_zero = float(move(i, zero))
        np.testing.assert_allclose(float(move(i, zero + 1)) - at_zero, slope, rtol=1e-9)
        np.testing.assert_allclose(at_zero, slope * spread * z, rtol=1e-9, atol=1e-14)


OPTIONS = {
    "some": {"s_churn": 0.8},
    "capped": {"s_churn": 40.0},
    "window": {"s_churn": 1.2, "s_min": 0.5, "s_max": 5.0, "s_noise": 1.01},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_exact_law_of_a_step(x64, reuse_keys, name):
    check_step(churn_heun(quarter, GRID, **OPTIONS[name]), OPTIONS[name])


@pytest.mark.slow
def test_step_kills(x64, reuse_keys):
    some = OPTIONS["some"]
    for wrong in ({"s_churn": 1.0}, {"s_churn": 0.8, "s_noise": 1.1}, {"s_churn": 0.8, "s_max": 4}):
        with pytest.raises(AssertionError):
            check_step(churn_heun(quarter, GRID, **wrong), some)

    algorithm = churn_heun(quarter, GRID, **some)

    def added_to_euler(key, state):
        after, info = algorithm.step(key, state)
        return after._replace(x=after.x + 0.5 * (after.x - state.x)), info

    with pytest.raises(AssertionError):
        check_step(algorithm._replace(step=added_to_euler), some)


def test_other_churn_needs_no_new_program(compilations):
    @jax.jit
    def run(x, churn, grid):
        return sample(jax.random.key(0), churn_heun(quarter, grid, s_churn=churn), x, 4).x

    x, grid = jnp.ones((2, 1)), jnp.asarray(GRID, jnp.float32)
    run(x, jnp.float32(0.5), grid)
    others = jnp.float32(1.5), 0.9 * grid
    compilations.clear()
    run(x, *others)
    assert not compilations


def test_bad_arguments_are_named():
    for name in ("s_churn", "s_min", "s_noise"):
        with pytest.raises(ValueError, match=name):
            churn_heun(quarter, GRID, **{name: -1.0})
    with pytest.raises(ValueError, match=r"noise_scales\[1\]"):
        churn_heun(quarter, np.array([1.0, 2.0]))
