import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probjax import metrics
from probjax.metrics.wasserstein import quantile_steps


def test_shift_of_a_sample_is_known_on_each_line():
    """W2^2 of x and x + v on the line theta is (theta v)^2; its mean is |v|^2 / d."""
    x = jax.random.normal(jax.random.key(0), (50, 3))
    v = jnp.array([[1.0, -2.0, 2.0]])
    found = metrics.sliced_wasserstein(jax.random.key(1), x, x + v, num_projections=4000)
    assert abs(found.value - 9 / 3) < 5 * found.standard_error
    # Var of (theta v)^2 on the sphere in d = 3: |v|^4 (3/15 - 1/9).
    np.testing.assert_allclose(found.standard_error, 9 * (4 / 45 / 4000) ** 0.5, rtol=0.1)


def test_gaussians_of_different_width_and_size():
    """(1 - 3)^2 on every line, up to sampling error; the sizes differ."""
    x = jax.random.normal(jax.random.key(0), (20_000, 2))
    y = 3 * jax.random.normal(jax.random.key(1), (15_000, 2))
    found = metrics.sliced_wasserstein(jax.random.key(2), x, y, num_projections=8)
    assert abs(found.value - 4) < 0.15


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 40), m=st.integers(1, 40))
def test_steps_are_those_of_both_quantile_functions(n, m):
    i, j, lengths = quantile_steps(n, m)
    middle = np.cumsum(lengths) - lengths / 2
    assert abs(lengths.sum() - 1) < 1e-12 and (lengths > 0).all()
    np.testing.assert_array_equal(i, np.floor(middle * n))
    np.testing.assert_array_equal(j, np.floor(middle * m))


def test_repeating_rows_changes_nothing():
    x, y = jnp.array([[0.0], [1.0], [5.0]]), jnp.array([[2.0], [-1.0]])
    key = jax.random.key(0)
    one = metrics.sliced_wasserstein(key, x, y)
    doubled = metrics.sliced_wasserstein(key, jnp.concatenate([x, x]), y[::-1])
    np.testing.assert_allclose(one.value, doubled.value, rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num_projections must be at least 2"):
        metrics.sliced_wasserstein(
            jax.random.key(0), jnp.zeros((3, 1)), jnp.zeros((3, 1)), num_projections=1
        )
