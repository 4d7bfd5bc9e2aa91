"""Tableaus in diffrax and back: the same steps as its own methods, and what diffrax asks for."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq import tableaus
from probjax.diffeq.diffrax_bridge import from_diffrax, to_diffrax
from probjax.diffeq.runge_kutta import solve_fixed

TIMES = np.linspace(0.0, 3.0, 7)


@pytest.fixture(autouse=True)
def diffrax_settings(x64):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def field(t, y, args):
    return {"a": args * y["b"] - t, "b": -jnp.sin(y["a"])}


START = {"a": jnp.array([0.5, 1.0], jnp.float32), "b": jnp.array([0.2, -0.4], jnp.float32)}


def run(solver, span=(0.0, 3.0), *, adaptive=True, ts=TIMES):
    """End and rows, from the start that is given at the first time."""
    controller = (
        diffrax.PIDController(rtol=1e-6, atol=1e-8) if adaptive else diffrax.ConstantStepSize()
    )
    step = 0.01 if adaptive else 0.125
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), START)

    @jax.jit
    def solve(y0, rate):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), solver, *span, step if span[1] > span[0] else -step, y0, rate,
            stepsize_controller=controller, saveat=diffrax.SaveAt(t1=True, ts=ts), max_steps=400,
        )  # fmt: skip

    return solve, start


def same(ours, theirs, rtol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), ours, theirs)


def test_tsit5_makes_diffraxs_steps():
    """Adaptive, with rows between the steps by the method's own interpolant."""
    ours, start = run(to_diffrax(tableaus.tsit5))
    theirs, _ = run(diffrax.Tsit5())
    ours, theirs = ours(start, 1.3), theirs(start, 1.3)
    same(ours.ys, theirs.ys, 1e-10)
    assert ours.stats["num_steps"] == theirs.stats["num_steps"]


@pytest.mark.slow
def test_backwards():
    ours, start = run(to_diffrax("tsit5"), (3.0, 0.0), ts=TIMES[::-1])
    theirs, _ = run(diffrax.Tsit5(), (3.0, 0.0), ts=TIMES[::-1])
    same(ours(start, 1.3).ys, theirs(start, 1.3).ys, 1e-10)


@pytest.mark.slow
def test_rk4_is_solve_fixed_and_interpolates_by_the_cubic():
    solve, start = run(to_diffrax("rk4"), adaptive=False)
    found = solve(start, 1.3)
    ours = solve_fixed(field, start, 0.0, 3.0, num_steps=24, method="rk4", args=1.3, save_every=4)
    rows = jax.tree.map(lambda leaf: leaf[:-1], found.ys)
    same(rows, ours.y, 1e-12)
    np.testing.assert_allclose(found.ts[:-1], ours.t)


@pytest.mark.slow
def test_gradients():
    def gradient(solver):
        solve, start = run(solver, ts=None)
        loss = lambda y, rate: jnp.sum(solve(y, rate).ys["a"] ** 2)
        return jax.jit(jax.grad(loss, (0, 1)))(start, 1.3)

    same(gradient(to_diffrax("tsit5")), gradient(diffrax.Tsit5()), 1e-8)


@pytest.mark.slow
def test_events_and_jumps():
    """A jump of the field makes the slope that was handed on out of date."""

    def solve(solver):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: jnp.where(t < 1.0, 1.0, -2.0) * y), solver, 0.0, 2.0,
            0.1, jnp.ones(()), stepsize_controller=diffrax.ClipStepSizeController(
                diffrax.PIDController(rtol=1e-7, atol=1e-7), jump_ts=jnp.array([1.0])),
        ).ys[0]  # fmt: skip

    np.testing.assert_allclose(solve(to_diffrax("tsit5")), np.exp(-1.0), rtol=1e-6)
    np.testing.assert_allclose(solve(to_diffrax("tsit5")), solve(diffrax.Tsit5()), rtol=1e-9)


def test_orders_are_told():
    solver = to_diffrax("bogacki_shampine")
    assert (solver.order(None), solver.error_order(None)) == (3, 3)
    assert to_diffrax("rk4").error_order(None) is None


PEERS = {
    "Euler-like": (diffrax.Heun, 2),
    "midpoint": (diffrax.Midpoint, 2),
    "ralston": (diffrax.Ralston, 2),
    "bogacki_shampine": (diffrax.Bosh3, 3),
    "dormand_prince": (diffrax.Dopri5, 5),
    "tsit5": (diffrax.Tsit5, 5),
}


@pytest.mark.parametrize("name", PEERS)
def test_from_diffrax(name):
    solver, order = PEERS[name]
    found = from_diffrax(solver())
    assert (found.order, found.exact) == (order, False)
    if name in tableaus.METHODS:
        known = tableaus.METHODS[name]
        np.testing.assert_allclose(found.b, np.asarray(known.b, float), atol=1e-15)
        for ours, theirs in zip(found.a, known.a, strict=True):
            np.testing.assert_allclose(ours, np.asarray(theirs, float), atol=1e-15)


@pytest.mark.slow
def test_dopri8_has_its_order():
    assert from_diffrax(diffrax.Dopri8()).order == 8


def test_there_and_back():
    assert from_diffrax(to_diffrax("tsit5")) == tableaus.tsit5


def test_what_is_no_explicit_method_is_named():
    with pytest.raises(ValueError, match="explicit, got Kvaerno5"):
        from_diffrax(diffrax.Kvaerno5())
    with pytest.raises(TypeError, match="Runge-Kutta method, got LeapfrogMidpoint"):
        from_diffrax(diffrax.LeapfrogMidpoint())
    with pytest.raises(ValueError, match="method must be one of"):
        to_diffrax("kvaerno5")
