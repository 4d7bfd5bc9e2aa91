"""The loop of fixed-step methods: times, rows, direction, failures, gradients, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.diffeq import NON_FINITE, REACHED, march


def clock(t, y, h):
    """Collects what it is told: the sum of times and of sizes."""
    return {"sum": y["sum"] + h, "last": t}


START = {"sum": np.zeros(()), "last": np.full((), -1.0)}


@pytest.mark.parametrize("t0, t1", [(1.0, 3.0), (3.0, 1.0)])
def test_times_are_multiples_and_rows_hold_the_start(x64, t0, t1):
    solution = jax.jit(lambda t0, t1: march(clock, START, t0, t1, num_steps=30, save_every=10))(
        t0, t1
    )
    grid = np.linspace(t0, t1, 31)
    np.testing.assert_allclose(solution.t, grid[::10], atol=1e-15)
    np.testing.assert_allclose(solution.y["last"], [-1.0, *grid[9:30:10]], atol=1e-15)
    np.testing.assert_allclose(solution.y["sum"], grid[::10] - t0, atol=1e-14)
    assert solution.stats.num_steps == 30 and solution.result == REACHED


def test_a_span_of_nothing_takes_no_step():
    solution = march(lambda t, y, h: y / h, jnp.ones(2), 1.0, 1.0, num_steps=3, save_every=1)
    assert (solution.y == 1).all() and solution.y.shape == (4, 2)
    assert solution.stats.num_steps == 0 and solution.result == REACHED


def root(t, y, h):
    """Leaves the reals once y is below h; its slope is infinite at 0."""
    return y - h * jnp.sqrt(y) / jnp.sqrt(y - h)


def test_a_lost_trajectory_stays_where_it_was_and_harms_no_other(x64):
    solve = jax.jit(
        jax.vmap(lambda y: march(root, y, 0.0, 1.0, num_steps=4, save_every=1)), static_argnums=()
    )
    both, alone = solve(jnp.array([9.0, 0.6])), solve(jnp.array([9.0, 9.0]))
    assert both.result.tolist() == [REACHED, NON_FINITE]
    assert jnp.array_equal(both.y[0], alone.y[0])
    steps = int(both.stats.num_accepted[1])
    assert 0 < steps < 3 and both.stats.num_steps[1] == steps + 1
    assert np.isfinite(both.y[1, : steps + 1]).all() and np.isnan(both.y[1, steps + 1 :]).all()
    end = jax.jit(lambda y: march(root, y, 0.0, 1.0, num_steps=4))(0.6)
    assert end.y == both.y[1, steps]
    start = jax.jit(lambda y: march(root, y, 0.0, 1.0, num_steps=4, save_every=2))(jnp.nan)
    assert start.result == NON_FINITE and start.stats.num_steps == 0 and np.isnan(start.y).all()


def test_a_step_that_fails_passes_no_gradient(x64):
    def end(y, scale):
        step = lambda t, y, h: jnp.sqrt(scale * y)
        return march(step, y, 0.0, 1.0, num_steps=2).y

    slopes = jax.jit(jax.vmap(jax.grad(end, argnums=(0, 1)), in_axes=(0, None)))(
        jnp.array([4.0, -1.0]), 2.0
    )
    # sqrt(s sqrt(s y)) = s^(3/4) y^(1/4); the second stays at -1, whatever the scale.
    np.testing.assert_allclose(slopes[0][0], 0.25 * 2**0.75 * 4**-0.75, rtol=1e-12)
    np.testing.assert_allclose(slopes[1][0], 0.75 * 2**-0.25 * 4**0.25, rtol=1e-12)
    assert np.isfinite(slopes[0]).all() and slopes[1][1] == 0


def test_gradients_pass_a_mesh(x64):
    """A replicated parameter, starts of each device: one device's gradient."""

    def end(y, rate):
        step = lambda t, y, h: y + h * jnp.sin(rate * y + t)
        return march(step, y, 0.0, 1.0, num_steps=5).y

    def total(mapped):
        return jax.jit(jax.value_and_grad(lambda y, rate: jnp.sum(mapped(y, rate)), argnums=(0, 1)))

    sharded = sharding.map_items(end, sharding.make_mesh(4), in_axes=(0, None))
    at = jnp.linspace(-1.0, 2.0, 6), jnp.asarray(0.7)
    ours, theirs = total(sharded)(*at), total(jax.vmap(end, (0, None)))(*at)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 4, "save_every": 3}, "save_every must divide num_steps=4, got 3"),
        ({"num_steps": 4, "save_every": 0}, "save_every must be at least 1, got 0"),
    ],
)
def test_bad_counts_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        march(lambda t, y, h: y, jnp.ones(2), 0.0, 1.0, **settings)


def test_bad_steps_are_named():
    with pytest.raises(TypeError, match=r"step_fn must keep the layout .*\(2,\).*\(1,\)"):
        march(lambda t, y, h: y[:1], jnp.ones(2), 0.0, 1.0, num_steps=1)
    with pytest.raises(TypeError, match="y0 must be floating"):
        march(lambda t, y, h: y, jnp.ones(2, jnp.int32), 0.0, 1.0, num_steps=1)
