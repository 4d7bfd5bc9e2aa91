"""Each check accepts what is right, and names argument and value of what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import checkify

from probjax.core import checks


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), np.float32(-2)])
def test_positive_refuses(value):
    with pytest.raises(ValueError, match=r"step_size must be positive and finite, got"):
        checks.positive("step_size", value)


def test_an_array_names_its_entry():
    with pytest.raises(ValueError, match=r"weights\[1, 2\] must be positive .*, got -3.0"):
        checks.positive("weights", np.array([[1, 1, 1], [1, 1, -3]]))
    with pytest.raises(ValueError, match=r"noise_scale\[1\] must be finite and not negative"):
        checks.non_negative("noise_scale", jnp.array([0.0, -1e-30]))
    checks.non_negative("noise_scale", 0)


def test_traced_values_are_checked_under_checkify_only():
    def run(step_size):
        checks.positive("step_size", step_size)
        return step_size * 2

    assert np.isnan(jax.jit(run)(jnp.nan))
    error, _ = checkify.checkify(jax.jit(run))(-1.0)
    assert "step_size must be positive and finite, got -1.0" in error.get()
    error, _ = checkify.checkify(jax.jit(run))(1.0)
    assert error.get() is None


def test_a_program_whose_caller_has_checked_stays_free_of_effects():
    def run(x, ladder):
        with checks.only_concrete():
            checks.positive("x", x)
            checks.strictly_decreasing("ladder", ladder)
            with pytest.raises(ValueError, match="y must be positive"):
                checks.positive("y", -1.0)
        return x

    assert not jax.make_jaxpr(run)(1.0, jnp.array([2.0, 1.0])).effects
    before = jax.make_jaxpr(lambda x: checks.positive("x", x))(1.0)
    assert before.effects


def test_traced_ladders_are_checked_under_checkify():
    def run(noise_scales):
        checks.strictly_decreasing("noise_scales", noise_scales)
        return noise_scales

    error, _ = checkify.checkify(jax.jit(run))(jnp.array([1.0, 2.0]))
    assert "noise_scales must be strictly decreasing, got [1. 2.]" in error.get()
    error, _ = checkify.checkify(jax.jit(run))(jnp.array([2.0, 1.0]))
    assert error.get() is None


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6, unique=True))
def test_sorted_distinct_positive_numbers_pass_and_any_swap_fails(values):
    ladder = sorted(values, reverse=True)
    checks.strictly_decreasing("noise_scales", ladder)
    for i in range(len(ladder) - 1):
        swapped = [*ladder[:i], ladder[i + 1], ladder[i], *ladder[i + 2 :]]
        with pytest.raises(ValueError, match=rf"noise_scales\[{i + 1}\]=.* is not below"):
            checks.strictly_decreasing("noise_scales", swapped)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "non-empty vector"),
        ([[1.0, 0.5]], r"non-empty vector, got shape \(1, 2\)"),
        ([1.0, 0.0], r"noise_scales\[1\] must be positive"),
        ([1.0, 1.0], r"noise_scales\[1\]=1.0 is not below noise_scales\[0\]=1.0"),
        ([float("nan"), 1.0], r"noise_scales\[0\] must be positive"),
    ],
)
def test_bad_ladders(values, message):
    with pytest.raises(ValueError, match=message):
        checks.strictly_decreasing("noise_scales", np.asarray(values, dtype=float))


def test_at_least_wants_a_static_integer():
    assert checks.at_least("num_steps", np.int64(3), 1) == 3
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        checks.at_least("num_steps", 0, 1)
    with pytest.raises(TypeError, match="num_steps must be a static integer, got 2.5"):
        checks.at_least("num_steps", 2.5, 1)
    with pytest.raises(TypeError, match="num_steps must be a static integer"):
        jax.jit(lambda n: checks.at_least("num_steps", n, 1))(3)


def test_shapes_and_names_and_dtypes():
    checks.shape("x", jnp.zeros((3, 2)), (None, 2))
    with pytest.raises(ValueError, match=r"x must have shape \(any,\), got \(3, 2\)"):
        checks.shape("x", jnp.zeros((3, 2)), (None,))
    with pytest.raises(ValueError, match=r"mask must have the shape of x, \(3,\), got \(2,\)"):
        checks.same_shape("mask", jnp.zeros(2), "x", jnp.zeros(3))
    with pytest.raises(ValueError, match="law must be one of 'a', 'b', got 'c'"):
        checks.one_of("law", "c", ("a", "b"))
    with pytest.raises(TypeError, match="x must be a floating-point array, got int32"):
        checks.floating("x", jnp.arange(2))
    checks.floating("x", jnp.zeros(2, jnp.bfloat16))
