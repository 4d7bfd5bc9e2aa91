import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.guards import SMALL, guarded, last_finite


def euler(field, args=None):
    return lambda t, y, h: y + h * field(t, y, args)


@pytest.mark.parametrize("num_parameters", [1, SMALL + 1])
def test_a_failed_step_leaves_the_gradient_of_the_others(num_parameters):
    """sqrt(y - 1) has no value below 1: the last trajectory gets there in one step."""

    def field(t, y, args):
        return -args[0] * jnp.sqrt(y - 1)

    def total(parameters, y):
        def end(y):
            h = jnp.asarray(0.5)
            step = guarded(euler(field, parameters), 0.0, y, h)
            for k in range(3):
                y = step(jnp.asarray(0.5 * k), y, h)
            return y

        ends = jax.vmap(end)(y)
        return jnp.sum(jnp.where(jnp.isfinite(ends), ends, 0.0))

    parameters = jnp.ones(num_parameters)
    gradient = jax.jit(jax.grad(total, (0, 1)))
    good = gradient(parameters, jnp.array([10.0, 5.0, 17.0]))
    both = gradient(parameters, jnp.array([10.0, 5.0, 1.1]))
    assert np.isfinite(good[0]).all() and np.isfinite(both[0]).all()
    np.testing.assert_array_equal(both[1][:2], good[1][:2])
    assert both[1][2] == 0 and good[1][2] != 0
    # What the third trajectory would have added is gone, and nothing else.
    third = gradient(parameters, jnp.array([17.0, 17.0, 17.0]))[0] / 3
    np.testing.assert_allclose(good[0] - third, both[0], rtol=1e-5)


def test_values_and_both_derivatives_of_a_good_step_are_its_own():
    def field(t, y, args):
        return jnp.stack([args * y[1] * t, y[0] ** 2])

    def plain(y, args, t):
        return euler(field, args)(t, y, 0.25)

    def ours(y, args, t):
        h = jnp.asarray(0.25)
        return guarded(euler(field, args), t, y, h)(t, y, h)

    at = (jnp.array([1.0, -2.0]), jnp.asarray(0.7), jnp.asarray(1.5))
    for transform in (lambda f: f, lambda f: jax.jacrev(f, (0, 1, 2)), lambda f: jax.jacfwd(f, 2)):
        ours_at, plain_at = (jax.jit(transform(f))(*at) for f in (ours, plain))
        jax.tree.map(np.testing.assert_array_equal, ours_at, plain_at)


def test_closed_over_values_are_differentiated_too():
    def end(scale):
        at = (jnp.asarray(0.0), jnp.asarray(3.0), jnp.asarray(0.5))
        return guarded(euler(lambda t, y, args: scale * y), *at)(*at)

    assert jax.grad(end)(2.0) == 1.5


def test_the_walk_ends_before_the_first_value_that_is_not_finite():
    def step(k, y):
        return {"a": y["a"] * 10, "b": jnp.where(k == 3, jnp.nan, y["b"])}

    start = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    end, count = last_finite(step, start, 9, True)
    assert (end["a"], end["b"], count) == (1000.0, 2.0, 3)
    end, count = last_finite(step, start, 9, False)
    assert (end["a"], count) == (1.0, 9)
    _, count = last_finite(step, {"a": jnp.asarray(jnp.inf), "b": jnp.asarray(2.0)}, 9, True)
    assert count == 0
