"""The kernel's normals are those of `jax.random`, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq import kernel_noise


def check_normals(normals):
    """Trajectories 0..99 at step 3, three numbers each."""
    items = jnp.arange(100)
    draws = jax.jit(
        jax.vmap(
            lambda i: jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(jax.random.key(11), i), 3), (3,)
            )
        )
    )(items)
    key = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(jax.random.key(11), i)))(items)
    found = jax.jit(lambda pair: jnp.stack(normals(pair, 3, 3), axis=1))((key[:, 0], key[:, 1]))
    np.testing.assert_array_equal(found, draws)


def ours(pair, step, count):
    return kernel_noise.normals(kernel_noise.fold_in(pair, step), count)


@pytest.mark.bits
def test_normals_bit_for_bit():
    check_normals(ours)


@pytest.mark.bits
def test_the_check_kills_another_step():
    with pytest.raises(AssertionError):
        check_normals(lambda pair, step, count: ours(pair, step + 1, count))


def test_integers_bit_for_bit():
    data = jax.random.key_data(jax.random.key(5))
    pair = kernel_noise.fold_in((data[:1], data[1:]), 9)
    wanted = jax.random.key_data(jax.random.fold_in(jax.random.key(5), 9))
    np.testing.assert_array_equal(jnp.concatenate(pair), wanted)


def test_inverse_error_function():
    x = jnp.array([-1.0, -0.999999, -0.97, -0.3, 0.0, 0.5, 0.9, 0.9999, 1.0])
    found = jax.jit(kernel_noise.erf_inv)(x)
    np.testing.assert_allclose(found, jax.scipy.special.erfinv(x), rtol=1e-5)
