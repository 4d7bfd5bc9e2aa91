"""What all samplers share."""

import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.walk import Levels, call_denoiser, finish, init_fn


def test_levels_end_at_no_noise():
    levels = Levels.make(np.array([3.0, 1.0]), np.array([0.2, 0.9]), "denoise")
    got = [float(v) for v in levels.at(jnp.array(0), jnp.float32)]
    np.testing.assert_allclose(got, [0.2, 3.0, 0.9, 1.0])
    for i in (1, 5):  # past the end it means the last
        got = [float(v) for v in levels.at(jnp.array(i), jnp.float32)]
        np.testing.assert_allclose(got, [0.9, 1.0, 1.0, 0.0])
    assert Levels.make(np.array([3.0, 1.0]), None, "keep").num_steps == 1


def test_a_step_past_the_end_holds_and_costs_nothing():
    state = init_fn(1, 1)(jnp.ones((2, 3)))
    moved = jnp.array([[2.0, 2.0, 2.0], [jnp.nan, 0.0, 0.0]])
    after, info = finish(state, moved, state.x, 2, 1, 1, (state.x,))
    assert int(info.num_evaluations) == 2 and int(after.i) == 1
    np.testing.assert_array_equal(info.is_nonfinite, [False, True])
    held, info = finish(after, 5 * moved, state.x, 2, 1, 1, (state.x,))
    np.testing.assert_array_equal(held.x, after.x)
    assert int(info.num_evaluations) == 0


def test_bad_levels_and_denoisers_are_named():
    with pytest.raises(ValueError, match="noise_scales / alphas"):
        Levels.make(np.array([3.0, 2.0]), np.array([0.9, 0.1]), "keep")
    with pytest.raises(ValueError, match="must have the shape of x"):
        call_denoiser(lambda x, c: x[..., :1], jnp.ones((2, 3)), jnp.array(1.0))
    with pytest.raises(ValueError, match="x must have at least event_ndim=3 axes"):
        init_fn(3)(jnp.ones((2, 3)))
