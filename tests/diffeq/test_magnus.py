"""Magnus steps: measured orders, what each step conserves, flags, mutants of the commutators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from probjax import sharding
from probjax.diffeq import NON_FINITE, magnus
from probjax.diffeq.magnus import magnus_exponent, magnus_step, solve_magnus

END = 2.0
CONSTANT = np.array([[0.1, -1.0, 0.3], [0.8, 0.2, 0.0], [-0.4, 0.5, -0.6]])
WAVE = np.array([[0.0, 0.7, 0.2], [-0.3, 0.4, 1.0], [0.5, 0.0, -0.2]])


def A_fn(t):
    return CONSTANT + jnp.cos(2 * t) * WAVE + jnp.sin(t) * WAVE.T


def truth():
    def slope(t, y):
        a = CONSTANT + np.cos(2 * t) * WAVE + np.sin(t) * WAVE.T
        return (a @ y.reshape(3, 3)).reshape(-1)

    found = scipy.integrate.solve_ivp(
        slope, (0, END), np.eye(3).reshape(-1), method="DOP853", rtol=3e-14, atol=1e-14
    )
    return found.y[:, -1].reshape(3, 3)


def ends(step_fn):
    """The fundamental matrix at the end, for a number of steps that is data."""

    @jax.jit
    def run(num_steps):
        h = END / num_steps.astype(float)

        def step(k, phi):
            return step_fn(A_fn, k.astype(float) * h, h) @ phi

        return jax.lax.fori_loop(0, num_steps, step, jnp.eye(3))

    return run


COUNTS = {2: (32, 64, 128, 256, 512), 4: (16, 32, 64, 128, 256), 6: (8, 16, 32, 64)}


def check_order(step_fn, order):
    run, exact = ends(step_fn), truth()
    errors = [np.abs(run(jnp.asarray(n)) - exact).max() for n in COUNTS[order]]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert abs(slopes[-1] - order) < 0.1, slopes
    return slopes


@pytest.mark.parametrize("order", magnus.ORDERS)
def test_measured_orders(x64, order):
    check_order(lambda *given: magnus_step(*given, order=order), order)


def swapped_commutator(a, b):
    return b @ a - a @ b


@pytest.mark.slow
@pytest.mark.parametrize("order", [4, 6])
@pytest.mark.parametrize(
    "mutant", [swapped_commutator, lambda a, b: 0 * a, lambda a, b: 2 * (a @ b - b @ a)]
)
def test_the_check_kills_other_commutators(x64, monkeypatch, order, mutant):
    monkeypatch.setattr(magnus, "commutator", mutant)
    with pytest.raises(AssertionError):
        check_order(lambda *given: magnus_step(*given, order=order), order)


@pytest.mark.slow
@pytest.mark.parametrize("order", magnus.ORDERS)
def test_the_check_kills_orders_that_are_claimed_too_high(x64, order):
    with pytest.raises(AssertionError):
        check_order(lambda *given: magnus_step(*given, order=order), order % 6 + 2)


@jax.jit
def exponents(t, h):
    there = [magnus_exponent(A_fn, t, h, order=order) for order in magnus.ORDERS]
    back = [magnus_exponent(A_fn, t + h, -h, order=order) for order in magnus.ORDERS]
    constant = [magnus_exponent(lambda t: CONSTANT, t, h, order=order) for order in magnus.ORDERS]
    skew = magnus_step(lambda t: A_fn(t) - A_fn(t).T, t, h, order=6)
    return jnp.stack(there), jnp.stack(back), jnp.stack(constant), skew


def test_steps_run_back_keep_traces_and_turn(x64):
    there, back, constant, skew = map(np.asarray, exponents(0.3, 0.8))
    np.testing.assert_allclose(back, -there, atol=1e-14)
    np.testing.assert_allclose(constant, np.broadcast_to(0.8 * CONSTANT, (3, 3, 3)), atol=1e-15)
    traces = np.trace(there, axis1=1, axis2=2)
    nodes = [0.5 + 0.5 * np.polynomial.legendre.leggauss(k)[0] for k in (1, 2, 3)]
    weights = [0.5 * np.polynomial.legendre.leggauss(k)[1] for k in (1, 2, 3)]
    for trace, node, weight in zip(traces, nodes, weights, strict=True):
        quadrature = 0.8 * sum(
            w * np.trace(np.asarray(A_fn(0.3 + 0.8 * c))) for w, c in zip(weight, node, strict=True)
        )
        assert abs(trace - quadrature) < 1e-14
    np.testing.assert_allclose(skew.T @ skew, np.eye(3), atol=1e-14)


@jax.jit
def rows(y0, t0, t1):
    return solve_magnus(A_fn, y0, t0, t1, num_steps=32, order=6, save_every=16)


def test_rows_start_with_the_start_and_run_back(x64):
    found = rows(np.eye(3), 0.0, END)
    np.testing.assert_allclose(found.t, [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(found.y[0], np.eye(3))
    np.testing.assert_allclose(found.y[-1], truth(), atol=1e-7)
    assert (found.stats.num_evaluations, found.stats.num_accepted, found.result) == (96, 32, 0)
    back = rows(found.y[-1], END, 0.0)
    np.testing.assert_allclose(back.y[-1], np.eye(3), atol=1e-13)
    np.testing.assert_allclose(back.y[1], found.y[1], atol=1e-13)


def test_a_solve_that_leaves_the_numbers_keeps_its_last_state():
    @jax.jit
    def run(y0):
        blowing = lambda t: jnp.where(t > 1.0, jnp.nan, 1.0) * jnp.eye(2)
        kept = solve_magnus(blowing, y0, 0.0, 2.0, num_steps=4, order=2, save_every=1)
        return kept, solve_magnus(blowing, y0, 0.0, 2.0, num_steps=4, order=2)

    kept, end = run(jnp.ones(2))
    assert kept.result == end.result == NON_FINITE
    assert kept.stats.num_accepted == 2
    np.testing.assert_allclose(end.y, np.exp(1.0), rtol=1e-6)
    assert np.isfinite(kept.y[:3]).all() and np.isnan(kept.y[3:]).all()


@pytest.mark.slow
def test_many_systems_on_many_devices(x64):
    """Rows of coefficients over a mesh, under the default check of varying axes; gradients too."""

    def end(scale):
        found = solve_magnus(lambda t: scale * A_fn(t), jnp.ones(3), 0.0, 1.0, num_steps=4)
        return found.y.sum(), found.result

    scales = jnp.linspace(0.1, 1.0, 5)
    mapped, result = sharding.map_items(end, sharding.make_mesh(4))(scales)
    one = jax.jit(jax.vmap(end))(scales)[0]
    np.testing.assert_allclose(mapped, one, rtol=1e-13)
    assert (result == 0).all()
    slope = jax.jit(jax.grad(lambda s: end(s)[0]))(0.4)
    around = jax.jit(jax.vmap(end))(jnp.array([0.4 - 1e-5, 0.4 + 1e-5]))[0]
    np.testing.assert_allclose(slope, (around[1] - around[0]) / 2e-5, rtol=1e-8)


def test_bad_input_is_named():
    y0, eye = jnp.ones(2), lambda t: jnp.eye(2)
    with pytest.raises(ValueError, match="order must be one of '2', '4', '6', got '3'"):
        magnus_exponent(eye, 0.0, 1.0, order=3)
    with pytest.raises(ValueError, match=r"A_fn\(t\) must have shape \(n, n\)"):
        magnus_step(lambda t: jnp.ones((2, 3)), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"A_fn\(t\) must have shape \(2, 2\), got \(3, 3\)"):
        solve_magnus(lambda t: jnp.eye(3), y0, 0.0, 1.0, num_steps=1)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        solve_magnus(eye, y0, 0.0, 1.0, num_steps=0)
    with pytest.raises(ValueError, match="save_every must divide num_steps=4, got 3"):
        solve_magnus(eye, y0, 0.0, 1.0, num_steps=4, save_every=3)
    with pytest.raises(TypeError, match="y0 must be floating"):
        solve_magnus.__wrapped__(eye, jnp.ones(2, int), 0.0, 1.0, num_steps=4)
