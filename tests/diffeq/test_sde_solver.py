"""The loop over steps: its counter, its rows, its failures, its gradients and its shards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from probjax import sharding
from probjax.core import item_keys
from probjax.diffeq.brownian import increments
from probjax.diffeq.sde import SDE
from probjax.diffeq.sde_solver import solve_sde, solve_sde_path
from probjax.diffeq.sde_steps import euler_maruyama
from probjax.diffeq.solution import NON_FINITE, REACHED

KEY = jax.random.key(5)
ROOT = np.array([[0.5, 0.1, 0.0], [0.0, 0.3, 0.2]])
LINEAR = SDE(
    lambda t, x: jnp.sin(t) - x, lambda t, x: jnp.asarray(ROOT, x.dtype) * jnp.cos(t), "additive"
)
CIR = SDE(lambda t, x: -x, lambda t, x: jnp.sqrt(x), "diagonal")  # NaN below zero


def check_counter(solve_fn):
    """A loop in Python: step k at t0 + k h, with the increment of fold_in(key, k)."""
    y0, steps, h = jnp.array([0.3, -1.0]), 70, 0.7 / 70
    y, rows = np.asarray(y0), [np.asarray(y0)]
    draw = jax.jit(lambda k: jax.random.normal(jax.random.fold_in(KEY, k), (3,)))
    for k in range(steps):
        t, dw = 0.1 + k * h, np.sqrt(h) * np.asarray(draw(k))
        y = y + (np.sin(t) - y) * h + np.cos(t) * np.asarray(ROOT) @ dw
        rows.append(y)
    for every in (1, 35):
        solution = solve_fn(KEY, LINEAR, y0, 0.1, 0.8, num_steps=steps, save_every=every)
        np.testing.assert_allclose(solution.y, np.stack(rows)[::every], atol=1e-5)
        times = np.linspace(0.1, 0.8, 70 // every + 1)
        np.testing.assert_allclose(solution.t, times, atol=1e-6)
    end = solve_fn(KEY, LINEAR, y0, 0.1, 0.8, num_steps=steps, save_every=None)
    np.testing.assert_allclose(end.y, rows[-1], atol=1e-5)
    assert end.t.shape == () and end.result == REACHED
    assert [int(count) for count in end.stats] == [70, 70, 0, 70]


def test_steps_go_by_counter_whatever_is_kept(reuse_keys):
    check_counter(jax.jit(solve_sde, static_argnums=1, static_argnames=("num_steps", "save_every")))


def test_the_counter_kills_a_local_one(reuse_keys):
    @functools.partial(jax.jit, static_argnums=1, static_argnames=("num_steps", "save_every"))
    def later(key, sde, y0, t0, t1, *, num_steps, save_every):
        dw = increments(key, num_steps, (t1 - t0) / num_steps, jnp.zeros(3), start=1)
        return solve_sde_path(sde, y0, t0, t1, dw, save_every=save_every)

    with pytest.raises(AssertionError):
        check_counter(later)


@functools.partial(jax.jit, static_argnames="save_every")
def cir(keys, starts, scale, save_every=None):
    def one(key, start):
        sde = CIR._replace(diffusion=lambda t, x: scale * jnp.sqrt(x))
        return solve_sde(key, sde, start, 0.0, 1.0, num_steps=40, save_every=save_every)

    return jax.vmap(one)(keys, starts)


def test_a_failed_trajectory_stops_is_marked_and_touches_nobody(reuse_keys):
    keys, scale = item_keys(KEY, 4), jnp.asarray(0.1)
    good = jnp.array([[1.0], [2.0], [3.0], [4.0]])
    bad = good.at[1, 0].set(1e-6)
    for kept in (None, 8):
        one, other = (cir(keys, start, scale, save_every=kept) for start in (good, bad))
        assert list(one.result) == [REACHED] * 4
        assert list(other.result) == [REACHED, NON_FINITE, REACHED, REACHED]
        for i in (0, 2, 3):
            np.testing.assert_array_equal(one.y[i], other.y[i])
    rows = np.asarray(other.y[1, :, 0])
    assert rows[0] == np.float32(1e-6) and np.isnan(rows[-1])
    assert (np.diff(np.isnan(rows).astype(int)) >= 0).all()
    end = cir(keys, bad, scale)
    assert np.isfinite(np.asarray(end.y)).all()
    taken = int(end.stats.num_accepted[1])
    assert taken < 40 and end.stats.num_rejected[1] == 1
    assert abs(float(end.t[1]) - taken / 40) < 1e-6


def test_a_failed_trajectory_has_no_gradient_and_spoils_none(reuse_keys):
    keys, scale = item_keys(KEY, 3), jnp.asarray(0.1)
    starts = jnp.array([[1.0], [1e-6], [jnp.nan]])
    ends = lambda starts, scale, i: cir(keys, starts, scale).y[i, 0]
    gradient = jax.jit(jax.grad(ends, argnums=(0, 1)), static_argnums=2)
    first, first_scale = gradient(starts, scale, 0)
    alone = jnp.where(starts > 0.5, starts, 2.0)
    np.testing.assert_array_equal(first_scale, gradient(alone, scale, 0)[1])
    assert first[0, 0] > 0 and not first[1:].any()
    lost, lost_scale = gradient(starts, scale, 1)
    assert lost_scale == 0 and not lost.any()


def test_paths_and_keys_meet_and_gradients_are_those_of_the_unrolled_loop(x64):
    y0, dw = jnp.array([0.3, -1.0]), 0.1 * increments(KEY, 5, 1.0, jnp.zeros(3, jnp.float64))

    def bent(a):
        return LINEAR._replace(drift=lambda t, x: jnp.sin(a * x) + t)

    def scanned(y0, dw, a):
        return jnp.sum(solve_sde_path(bent(a), y0, 1.0, 0.5, dw).y ** 3)

    def unrolled(y0, dw, a):
        for k in range(5):
            y0 = euler_maruyama(bent(a), 1.0 - 0.1 * k, y0, -0.1, dw[k])
        return jnp.sum(y0**3)

    both = [
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(y0, dw, 1.3) for f in (scanned, unrolled)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), *both)
    tangents = jnp.ones_like(y0), jnp.ones_like(dw), jnp.ones(())
    forward = jax.jit(lambda: jax.jvp(scanned, (y0, dw, jnp.asarray(1.3)), tangents)[1])()
    np.testing.assert_allclose(forward, sum(jnp.sum(g) for g in both[0][1]), rtol=1e-12)


def test_shards_draw_the_same_and_pass_the_default_check(reuse_keys):
    """One number of each item, one that all share, and the gradient in the former."""
    keys, starts = item_keys(KEY, 5), jnp.linspace(1.0, 2.0, 5)[:, None]

    def loss(scale, key, start, shared):
        sde = SDE(lambda t, x: -shared * x, lambda t, x: scale * jnp.sqrt(x), "diagonal")
        return solve_sde(key, sde, start, 0.0, 1.0, num_steps=6).y[0]

    def item(scale, key, start, shared):
        return jax.value_and_grad(loss, argnums=(0, 2))(scale, key, start, shared)

    scales, axes = jnp.linspace(0.1, 0.2, 5), (0, 0, 0, None)
    want = jax.jit(jax.vmap(item, axes))(scales, keys, starts, 0.7)
    mapped = sharding.map_items(item, sharding.make_mesh(4), in_axes=axes)
    found = mapped(scales, keys, starts, jnp.asarray(0.7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, want)


def test_no_time_no_step():
    solve = jax.jit(solve_sde, static_argnums=1, static_argnames="num_steps")
    end = solve(KEY, LINEAR, jnp.array([1.0, 2.0]), 0.5, 0.5, num_steps=3)
    np.testing.assert_array_equal(end.y, [1.0, 2.0])
    assert end.result == REACHED and end.stats.num_steps == 0


def test_a_broken_promise_is_seen_also_where_it_is_traced(reuse_keys):
    mixed = SDE(lambda t, x: -x, lambda t, x: 1 + 0.1 * x[::-1], "diagonal")
    with pytest.raises(ValueError, match="depends on other entries of x"):
        solve_sde(KEY, mixed, jnp.ones(2), 0.0, 1.0, num_steps=2)

    def run(sde):
        return checkify.checkify(jax.jit(lambda y: solve_sde(KEY, sde, y, 0.0, 1.0, num_steps=2)))

    with jax.debug_key_reuse(False):
        assert "depends on other entries" in run(mixed)(jnp.ones(2))[0].get()
        kept = mixed._replace(diffusion=lambda t, x: 1 + 0.1 * jnp.sin(x))
        assert run(kept)(jnp.ones(2))[0].get() is None


def test_bad_arguments_are_named():
    y0 = jnp.zeros(2)
    run = functools.partial(solve_sde, KEY, LINEAR, t0=0.0, t1=1.0)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        run(y0=y0, num_steps=0)
    with pytest.raises(ValueError, match="save_every must divide num_steps=4, got 3"):
        run(y0=y0, num_steps=4, save_every=3)
    with pytest.raises(ValueError, match="method must be one of"):
        run(y0=y0, num_steps=4, method="srk")
    with pytest.raises(ValueError, match="law must be one of"):
        run(y0=y0, num_steps=4, law="cauchy")
    with pytest.raises(ValueError, match=r"dw must have shape \(any, 3\), got \(4, 2\)"):
        solve_sde_path(LINEAR, y0, 0.0, 1.0, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="number of rows of dw must be at least 1"):
        solve_sde_path(LINEAR, y0, 0.0, 1.0, jnp.zeros((0, 3)))
