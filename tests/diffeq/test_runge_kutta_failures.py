"""Loops of fixed steps in which a trajectory leaves the numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq import tableaus
from probjax.diffeq.runge_kutta import rk_step, solve_fixed
from probjax.diffeq.solution import NON_FINITE, REACHED


def explode(t, y, args):
    return args * y * y


@functools.partial(jax.jit, static_argnames=("save_every", "checkpoint"))
def exploding(y, args, save_every=None, checkpoint="step"):
    solve = functools.partial(
        solve_fixed, explode, num_steps=40, save_every=save_every, checkpoint=checkpoint
    )
    return jax.vmap(lambda y, args: solve(y, 0.0, 1.0, args=args))(y, args)


def test_a_failed_trajectory_is_flagged_and_touches_no_other():
    y, args = jnp.array([0.5, 3.0, 0.3, jnp.nan]), jnp.ones(4)
    rows = exploding(y, args, save_every=10)
    calm = exploding(jnp.array([0.5, 0.4, 0.3, 0.2]), args, save_every=10)
    np.testing.assert_array_equal(rows.y[::2], calm.y[::2])
    np.testing.assert_array_equal(rows.result, [REACHED, NON_FINITE, REACHED, NON_FINITE])
    finite = np.isfinite(rows.y[1])
    assert finite[0] and not finite[-1] and (np.diff(finite.astype(int)) <= 0).all()
    end = exploding(y, args)
    assert np.isfinite(end.y[:3]).all()
    count = int(end.stats.num_accepted[1])
    assert 10 < count < 40 and end.stats.num_steps[1] == count + 1
    # The end is the state after the last good step: one more is not finite.
    h = jnp.asarray(1 / 40, jnp.float32)
    step = jax.jit(lambda t, y, h: rk_step(tableaus.rk4, explode, t, y, h, 1.0))
    walked = jnp.asarray(3.0)
    for k in range(count):
        walked = step(k * h, walked, h)[0]
    np.testing.assert_allclose(end.y[1], walked, rtol=1e-3)
    assert end.stats.num_accepted[3] == 0


@pytest.mark.parametrize(
    "checkpoint",
    ["step", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "sqrt"))],
)
def test_a_failed_trajectory_has_gradient_zero(checkpoint):
    def total(y, args):
        return jnp.sum(exploding(y, args, checkpoint=checkpoint).y)

    def shared(y, scale):
        return total(y, jnp.full_like(y, 1.0) * scale)

    gradient = jax.jit(jax.grad(total, (0, 1)))
    y = jnp.array([0.5, 3.0, 0.3])
    at_y, at_args = gradient(y, jnp.ones(3))
    calm_y, calm_args = gradient(jnp.array([0.5, 0.2, 0.3]), jnp.ones(3))
    for ours, calm in ((at_y, calm_y), (at_args, calm_args)):
        assert ours[1] == 0 and calm[1] != 0
        np.testing.assert_array_equal(ours[::2], calm[::2])
    # y' = y^2 ends at y / (1 - y), whose slope is 1 / (1 - y)^2.
    np.testing.assert_allclose(at_y[::2], 1 / (1 - y[::2]) ** 2, rtol=1e-4)
    one = jax.jit(jax.grad(shared, 1))(y, jnp.asarray(1.0))
    np.testing.assert_allclose(one, at_args[0] + at_args[2], rtol=1e-6)
    # Arguments of one trajectory that are not finite spoil its gradient alone.
    at_y, at_args = gradient(jnp.array([0.5, 0.2, 0.3]), jnp.array([1.0, jnp.nan, 1.0]))
    assert at_y[1] == at_args[1] == 0
    np.testing.assert_array_equal(at_y[::2], calm_y[::2])
