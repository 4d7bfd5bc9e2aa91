"""Increments: one counter for all, sums, and three points with the moments of the normal law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import item_keys
from probjax.diffeq.brownian import coarsen, enumerate_weak, increments, three_point

KEY = jax.random.key(3)


def check_counter(draw_fn):
    """Step t of item i draws from fold_in(fold_in(key, i), t), from wherever one begins."""
    keys = item_keys(KEY, 3)
    drawn = jax.jit(jax.vmap(lambda key: draw_fn(key, 4, 0.25, jnp.zeros(2))))(keys)
    for item, step in ((0, 0), (2, 3)):
        key = jax.random.fold_in(jax.random.fold_in(KEY, item), step)
        np.testing.assert_allclose(drawn[item, step], 0.5 * jax.random.normal(key, (2,)), rtol=1e-6)
    later = draw_fn(keys[2], 2, 0.25, jnp.zeros(2), start=2)
    np.testing.assert_array_equal(later, drawn[2, 2:])


def test_increments_go_by_counter(reuse_keys):
    check_counter(increments)


def test_the_counter_kills_local_indices(reuse_keys):
    def local(key, num_steps, dt, like, start=0):
        return increments(key, num_steps, dt, like)

    def one_draw(key, num_steps, dt, like, start=0):
        return jnp.sqrt(dt) * jax.random.normal(key, (num_steps, *like.shape))

    for mutant in (local, one_draw):
        with pytest.raises(AssertionError):
            check_counter(mutant)


def check_coarse(coarsen_fn):
    """The walk on the coarse grid is the fine one at every third step; the variance is 3 dt."""
    dw = increments(KEY, 30_000, 0.1, jnp.zeros(2))
    coarse = coarsen_fn(dw, 3)
    np.testing.assert_allclose(jnp.cumsum(coarse, 0), jnp.cumsum(dw, 0)[2::3], atol=2e-3)
    error = 0.3 * np.sqrt(2 / coarse.size)
    assert abs(float(jnp.var(coarse)) - 0.3) < 4 * error


def test_coarse_increments_are_sums(reuse_keys):
    check_coarse(coarsen)
    with pytest.raises(AssertionError):
        check_coarse(lambda dw, factor: coarsen(dw, factor) / factor)
    with pytest.raises(AssertionError):
        check_coarse(lambda dw, factor: dw[::factor])


def test_three_points_and_hermite_nodes_agree_up_to_the_fifth_power(x64):
    paths, weights = enumerate_weak(1, 0.3)
    node, share = np.polynomial.hermite_e.hermegauss(20)
    for power in range(8):
        normal = np.sum(share * node**power) / share.sum() * 0.3 ** (power / 2)
        points = float(jnp.sum(weights * paths[:, 0] ** power))
        assert (abs(points - normal) < 1e-14) == (power != 6)


def test_enumerated_paths_are_all_and_independent(x64):
    paths, weights = enumerate_weak(3, -0.5)
    assert paths.shape == (27, 3) and len(set(map(tuple, np.asarray(paths)))) == 27
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-14)
    paths, weights = np.asarray(paths), np.asarray(weights)
    np.testing.assert_allclose((paths.T * weights) @ paths, 0.5 * np.eye(3), atol=1e-14)


def test_drawn_three_points_have_their_frequencies():
    dw = np.asarray(three_point(KEY, 1000, 1 / 3, jnp.zeros(10)))
    np.testing.assert_allclose(np.unique(np.round(dw, 5)), [-1, 0, 1], atol=1e-5)
    for value, share in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
        found = np.mean(np.abs(dw - value) < 0.1)
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / dw.size)


def test_half_precision_draws_in_single_and_the_sign_of_a_step_does_not_matter(reuse_keys):
    half = increments(KEY, 2, -0.25, jnp.zeros(3, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(half, increments(KEY, 2, 0.25, jnp.zeros(3)))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        increments(KEY, 0, 0.1, jnp.zeros(()))
    with pytest.raises(ValueError, match="law must be one of"):
        increments(KEY, 1, 0.1, jnp.zeros(()), law="cauchy")
    with pytest.raises(TypeError, match="like must be a floating-point array"):
        increments(KEY, 1, 0.1, jax.ShapeDtypeStruct((2,), jnp.int32))
    with pytest.raises(ValueError, match="factor must divide the 4 steps of dw, got 3"):
        coarsen(jnp.zeros(4), 3)
    with pytest.raises(ValueError, match="num_steps must be at most 12, got 13"):
        enumerate_weak(13, 0.1)
