import jax
import jax.numpy as jnp
import pytest

from probjax.targets.record import lift, prepare, sampler


def test_prepare_widens_and_squares():
    x, variance = prepare(jnp.ones((2, 3), jnp.bfloat16), jnp.array([1.0, 3.0]), 3)
    assert x.dtype == variance.dtype == jnp.float32
    assert variance.tolist() == [1.0, 9.0]


def test_integers_are_refused():
    with pytest.raises(TypeError):
        prepare(jnp.zeros((2, 3), jnp.int32), 0.0, 3)


def test_lift_puts_new_axes_in_front():
    assert lift(jnp.ones((2, 3)), 4, jnp.dtype("float32")).shape == (1, 1, 2, 3)


def test_noise_does_not_reuse_the_key_of_the_draw():
    """A target that is itself normal: noise equal to the draw would give variance 4, not 2."""
    sample = sampler(lambda key, dtype: jax.random.normal(key, (1,), dtype), 1)
    variance = jnp.var(sample(jax.random.key(0), 4000, 1.0))
    assert abs(variance - 2) < 5 * 2 * (2 / 4000) ** 0.5
