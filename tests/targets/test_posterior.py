"""The record: what it refuses, how chains start, which precision it computes in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import targets
from probjax.targets.posterior import log_half_cauchy, numbers, observations


def half_line(**options):
    return targets.make_posterior(
        "exponential", ["x"], lambda u: jnp.sum(u - jnp.exp(u)), jnp.exp, jnp.log, **options
    )


def test_narrow_vectors_are_computed_in_single_precision():
    one = half_line(center=[0.0])
    u = jnp.array([0.5], jnp.bfloat16)
    value = one.logdensity_fn(u)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 0.5 - np.exp(0.5), rtol=1e-6)


def test_starts_fill_their_box_and_keep_their_rows():
    one = half_line(center=[3.0], radius=[0.5])
    starts = np.asarray(one.initial(jax.random.key(0), 1000))[:, 0]
    # The largest and smallest of 1000 uniform numbers are this near the ends, but for 1e-4.
    assert 2.5 <= starts.min() < 2.51 and 3.49 < starts.max() <= 3.5
    assert (one.initial(jax.random.key(0), 3)[:, 0] == starts[:3]).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="radius must be one number or have shape"):
        half_line(center=[0.0], radius=[1.0, 2.0])
    with pytest.raises(ValueError, match="radius must be positive"):
        half_line(center=[0.0], radius=0.0)
    with pytest.raises(ValueError, match=r"parameters must have shape \(1,\), got \(3,\)"):
        half_line(center=[0.0]).unconstrain(jnp.ones(3))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "y must not be empty"),
        ([[1.0]], {}, r"y must have shape \(any,\)"),
        ([1.0, "a"], {}, "y must be an array of numbers"),
        ([[1.0], [1.0, 2.0]], {}, "y must be an array of numbers"),
        ([1.0, float("inf")], {}, r"y\[1\] must be finite, got inf"),
        ([1.0, -1.0], {"positive": True}, r"y\[1\] must be positive"),
        ([1, 3], {"integers": (1, 2)}, r"y\[1\] must be one of 1, 2, got 3.0"),
        ([1, 3], {"length": 3}, r"y must have shape \(3,\)"),
    ],
)
def test_data_that_cannot_be_used(values, options, message):
    with pytest.raises(ValueError, match=message):
        observations("y", values, **options)


def test_numbers_of_any_shape():
    assert numbers("x", [[1, 2], [3, 4]]).dtype == np.float64


def test_half_cauchy_does_not_overflow():
    value, slope = jax.value_and_grad(lambda u: log_half_cauchy(u, 2.0))(jnp.float32(80.0))
    np.testing.assert_allclose([value, slope], [-2 * (80 - np.log(2)), -2], rtol=1e-6)
