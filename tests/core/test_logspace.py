"""Log-space arithmetic against float64 arithmetic on the numbers themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probjax.core import logspace

INF = jnp.inf
finite_or_zero = st.one_of(st.floats(-80, 80, width=32), st.just(-float("inf")))


@given(st.lists(finite_or_zero, min_size=1, max_size=6))
def test_logsumexp_value_and_gradient(values):
    x = np.asarray(values, dtype=np.float64)
    total = np.exp(x).sum()
    value, gradient = jax.value_and_grad(logspace.logsumexp)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(value, np.log(total) if total > 0 else -INF, rtol=3e-6, atol=3e-6)
    np.testing.assert_allclose(
        gradient, np.exp(x) / total if total > 0 else 0 * np.exp(x), atol=1e-5
    )


def test_logsumexp_axes_mask_and_emptiness():
    x = jnp.log(jnp.arange(1.0, 7.0).reshape(2, 3))
    np.testing.assert_allclose(jnp.exp(logspace.logsumexp(x, axis=0)), [5, 7, 9], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(logspace.logsumexp(x, axis=None)), 21, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(logspace.logsumexp(x, axis=(0, 1))), 21, rtol=1e-6)
    where = jnp.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(jnp.exp(logspace.logsumexp(x, where=where)), [4, 0], rtol=1e-6)
    assert logspace.logsumexp(jnp.zeros((2, 0))).tolist() == [-INF, -INF]
    gradient = jax.grad(
        lambda x: logspace.logsumexp(x, where=where).sum(where=jnp.array([True, False]))
    )
    np.testing.assert_allclose(gradient(x), [[0.25, 0, 0.75], [0, 0, 0]], atol=1e-6)


def test_infinity_and_nan_pass_through():
    assert logspace.logsumexp(jnp.array([INF, 0.0])) == INF
    assert jnp.isnan(logspace.logsumexp(jnp.array([jnp.nan, 0.0])))
    assert logspace.logaddexp(jnp.asarray(INF), jnp.asarray(0.0)) == INF
    assert jnp.isnan(logspace.logaddexp(jnp.asarray(jnp.nan), jnp.asarray(0.0)))


@given(finite_or_zero, finite_or_zero)
def test_logaddexp_is_logsumexp_of_two(a, b):
    pair = jnp.asarray([a, b], jnp.float32)
    value, gradient = jax.value_and_grad(lambda p: logspace.logaddexp(p[0], p[1]))(pair)
    expected, softmax = jax.value_and_grad(logspace.logsumexp)(pair)
    np.testing.assert_allclose(value, expected, rtol=3e-6, atol=3e-6)
    np.testing.assert_allclose(gradient, softmax, atol=1e-5)


def test_logaddexp_keeps_small_additions():
    assert logspace.logaddexp(jnp.asarray(0.0), jnp.asarray(-20.0)) == pytest.approx(
        2.0611537e-9, rel=1e-5
    )


def test_logmeanexp_counts_the_mask():
    x = jnp.log(jnp.array([1.0, 3.0, 100.0]))
    where = jnp.array([True, True, False])
    np.testing.assert_allclose(jnp.exp(logspace.logmeanexp(x, where=where)), 2.0, rtol=1e-6)
    assert jnp.isnan(logspace.logmeanexp(x, where=jnp.zeros(3, bool)))


def test_log1mexp_both_sides(x64):
    x = -np.logspace(-14, 2.5, 60)
    expected = np.where(x > -1e-3, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
    np.testing.assert_allclose(logspace.log1mexp(jnp.asarray(x)), expected, rtol=1e-12)
    assert logspace.log1mexp(jnp.asarray(0.0)) == -INF
    assert logspace.log1mexp(jnp.asarray(-INF)) == 0
    assert jnp.isnan(logspace.log1mexp(jnp.asarray(0.5)))
    gradient = jax.vmap(jax.grad(logspace.log1mexp))(jnp.asarray(x))
    np.testing.assert_allclose(gradient, np.exp(x) / np.expm1(x), rtol=1e-12)
