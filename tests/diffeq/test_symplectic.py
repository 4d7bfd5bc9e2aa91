"""Symplectic steps: orders, volume, reversal, the spring's invariants, energies, mutants."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import IntegratorState
from blackjax.mcmc.integrators import velocity_verlet as blackjax_verlet

from probjax.diffeq import (
    NON_FINITE,
    compose,
    hamiltonian_field,
    solve_hamiltonian,
    symplectic_defect,
    symplectic_euler,
    tableaus,
    velocity_verlet_step,
    yoshida4,
    yoshida6,
)
from probjax.diffeq.runge_kutta import rk_step, solve_fixed
from probjax.diffeq.symplectic import YOSHIDA4_WEIGHTS, YOSHIDA6_WEIGHTS

INVERSE_MASS = np.array([[1.0, 0.3], [0.3, 0.5]])
START = np.array([0.7, -0.4]), np.array([0.2, 0.9])
STEPS = {"verlet": velocity_verlet_step, "yoshida4": yoshida4, "yoshida6": yoshida6}
ORDERS = {"symplectic_euler": 1, "verlet": 2, "yoshida4": 4, "yoshida6": 6}


def potential(q):
    """Not even, coupled, of fourth degree."""
    return 0.5 * q[0] ** 2 + 0.8 * q[1] ** 2 + 0.3 * q[0] ** 2 * q[1] - 0.1 * q[1] ** 3 + q[0] ** 4


def autonomous(t, q):
    x, y = q
    return -jnp.stack([x + 0.6 * x * y + 4 * x**3, 1.6 * y + 0.3 * x**2 - 0.3 * y**2])


def driven(t, q):
    return autonomous(t, q) + 0.5 * jnp.stack([jnp.cos(2 * t), jnp.sin(t) * q[0]])


def euler(force_fn, inverse_mass, t, state, h):
    q, p = state
    return q + h * inverse_mass @ p, p + h * force_fn(t, q)


def rk4(force_fn, inverse_mass, t, state, h):
    field = lambda t, y, args: (jnp.asarray(inverse_mass) @ y[1], force_fn(t, y[0]))
    return rk_step(tableaus.rk4, field, t, state, h, None)[0]


def flat(state):
    return np.concatenate([np.asarray(state[0]), np.asarray(state[1])])


@functools.cache
def reference():
    """The driven system at time 1, by RK4 in steps that are fine enough."""
    field = lambda t, y, args: (INVERSE_MASS @ y[1], driven(t, y[0]))
    return flat(jax.jit(lambda y: solve_fixed(field, y, 0.0, 1.0, num_steps=4000).y)(START))


def slope(step, counts=(16, 32, 64)):
    """Order of the finest pair whose errors stand above rounding."""

    @jax.jit
    def end(num_steps, h):
        body = lambda k, y: step(driven, INVERSE_MASS, k * h, y, h)
        return jax.lax.fori_loop(0, num_steps, body, jax.tree.map(jnp.asarray, START))

    errors = [np.abs(flat(end(n, 1 / n)) - reference()).max() for n in counts]
    pairs = itertools.pairwise(errors)
    return [np.log2(a / b) for a, b in pairs if b > 1e3 * np.finfo(float).eps][-1]


def check_order(step, order):
    assert abs(slope(step) - order) < 0.1


def check_geometry(step, *, reversible=True):
    """A trajectory of seven steps keeps structure and volume; run back, it comes home."""

    def path(state, h):
        body = lambda y, _: (step(autonomous, INVERSE_MASS, 0.0, y, h), None)
        return jax.lax.scan(body, state, length=7)[0]

    @jax.jit
    def measure(state):
        there = path(state, 0.2)
        defect = symplectic_defect(lambda y: path(y, 0.2), state)
        jacobian = jax.jacfwd(lambda z: jnp.concatenate(path((z[:2], z[2:]), 0.2)))
        return path(there, -0.2), defect, jacobian(jnp.concatenate(state))

    back, defect, jacobian = measure(jax.tree.map(jnp.asarray, START))
    assert defect <= 1e-12
    assert abs(np.linalg.det(jacobian) - 1) <= 1e-12
    if reversible:
        assert np.abs(flat(back) - flat(START)).max() <= 1e-12


@pytest.mark.parametrize("name", STEPS)
def test_structure_volume_and_reversal(x64, name):
    check_geometry(STEPS[name])


def test_symplectic_euler_keeps_volume_but_is_not_its_own_reverse(x64):
    check_geometry(symplectic_euler, reversible=False)
    with pytest.raises(AssertionError):
        check_geometry(symplectic_euler)


def test_runge_kutta_keeps_neither(x64):
    with pytest.raises(AssertionError):
        check_geometry(rk4, reversible=False)


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "yoshida6"])
def test_orders(x64, name):
    check_order({"symplectic_euler": symplectic_euler, **STEPS}[name], ORDERS[name])


@pytest.mark.slow
def test_order_six(x64):
    check_order(yoshida6, 6)


def test_weights_of_order_six():
    """What order 6 asks of the weights: odd power sums, and the two nested sums of degree 5."""
    w = np.array([*YOSHIDA6_WEIGHTS, *YOSHIDA6_WEIGHTS[-2::-1]])
    assert abs(w.sum() - 1) < 1e-14 and abs((w**3).sum()) < 1e-12 and abs((w**5).sum()) < 1e-12
    w = np.array([*YOSHIDA4_WEIGHTS, YOSHIDA4_WEIGHTS[0]])
    assert abs(w.sum() - 1) < 1e-15 and abs((w**3).sum()) < 1e-14


@pytest.mark.parametrize("name", ["yoshida4", "yoshida6"])
def test_compositions_are_made_of_leapfrog(x64, name):
    half = {"yoshida4": YOSHIDA4_WEIGHTS, "yoshida6": YOSHIDA6_WEIGHTS}[name]
    composed = compose(velocity_verlet_step, (*half, *half[-2::-1]))
    start = jax.tree.map(jnp.asarray, START)
    ours = jax.jit(lambda y: (STEPS[name](driven, INVERSE_MASS, 0.3, y, 0.2),
                              composed(driven, INVERSE_MASS, 0.3, y, 0.2)))(start)  # fmt: skip
    np.testing.assert_allclose(flat(ours[0]), flat(ours[1]), atol=1e-15)


def test_leapfrog_is_that_of_blackjax(x64):
    mass = np.array([1.0, 0.4])
    theirs = blackjax_verlet(lambda q: -potential(q), lambda p: 0.5 * jnp.sum(mass * p**2))

    @jax.jit
    def both(q, p):
        state = IntegratorState(q, p, -potential(q), autonomous(0.0, q))
        end = theirs(state, 0.3)
        return velocity_verlet_step(autonomous, mass, 0.0, (q, p), 0.3), end.position, end.momentum

    ours, q, p = both(*map(jnp.asarray, START))
    np.testing.assert_allclose(flat(ours), np.concatenate([q, p]), rtol=1e-14)


def spring(t, q):
    return -q


@functools.cache
def spring_path(method, h=0.3, num_steps=10_000):
    solve = jax.jit(lambda q, p: solve_hamiltonian(
        spring, (q, p), 0.0, h * num_steps, num_steps=num_steps, method=method, save_every=1
    ))  # fmt: skip
    solution = solve(1.0, 0.0)
    return np.asarray(solution.y[0]), np.asarray(solution.y[1]), solution


def check_spring(q, p, h=0.3):
    """Leapfrog conserves an ellipse, and swings about the energy by h^2 / 8."""
    assert np.abs(p**2 + (1 - h**2 / 4) * q**2 - (1 - h**2 / 4)).max() <= 1e-12
    energy = 0.5 * (q**2 + p**2)
    assert abs(np.abs(energy - 0.5).max() - h**2 / 8) < 1e-5


def test_what_leapfrog_conserves_on_the_spring(x64):
    q, p, solution = spring_path("verlet")
    check_spring(q, p)
    assert solution.stats.num_evaluations == 10_000


def test_what_symplectic_euler_conserves_on_the_spring(x64):
    q, p, _ = spring_path("symplectic_euler")
    assert np.abs(q**2 + p**2 - 0.3 * q * p - 1).max() <= 1e-12


def test_what_runge_kutta_makes_of_the_energy():
    """Euler 1 + h^2; order 2 1 + h^4 / 4; order 4 1 - h^6 / 72 + h^8 / 576, in rationals."""
    from fractions import Fraction

    h = Fraction(3, 10)
    for order, factor in (
        (1, 1 + h**2), (2, 1 + h**4 / 4), (4, 1 - h**6 / 72 + h**8 / 576)
    ):  # fmt: skip
        real = imaginary = Fraction(0)
        power, sign = Fraction(1), [(1, 0), (0, 1), (-1, 0), (0, -1)]
        for k in range(order + 1):
            real += power * sign[k % 4][0]
            imaginary += power * sign[k % 4][1]
            power *= h / (k + 1)
        assert real**2 + imaginary**2 == factor


def drift(energy, times):
    """Change of the energy per unit time: difference of two smooth means, far apart."""
    n = len(energy) // 4
    window = np.hanning(n)
    first, last = (np.sum(window * part) / window.sum() for part in (energy[:n], energy[-n:]))
    return abs(last - first) / (times[-n] - times[0])


def pendulum_energy(y):
    return 0.5 * y[1] ** 2 - jnp.cos(y[0])


@functools.cache
def pendulum(method, num_steps=100_000):
    def force(t, q):
        return -jnp.sin(q)

    @jax.jit
    def solve(y0):
        settings = {"num_steps": num_steps, "save_every": 1}
        if method == "rk4":
            field = lambda t, y, args: (y[1], force(t, y[0]))
            solution = solve_fixed(field, y0, 0.0, 0.1 * num_steps, **settings)
        else:
            solution = solve_hamiltonian(force, y0, 0.0, 0.1 * num_steps, method=method, **settings)
        return solution.t, pendulum_energy(solution.y)

    return tuple(map(np.asarray, solve((1.0, 0.5))))


BOUNDS = {"verlet": (1.16e-3, 1e-9), "yoshida4": (4.1e-6, 1e-11), "yoshida6": (3.4e-9, 1e-11)}


@pytest.mark.slow
@pytest.mark.parametrize("method", BOUNDS)
def test_the_pendulum_keeps_its_energy(x64, method):
    largest, per_time = BOUNDS[method]
    times, energy = pendulum(method)
    assert np.abs(energy - energy[0]).max() == pytest.approx(largest, rel=0.02)
    assert drift(energy, times) <= per_time


@pytest.mark.slow
def test_runge_kutta_does_not(x64):
    times, energy = pendulum("rk4")
    assert drift(energy, times) > 1e-8


@pytest.mark.slow
def test_a_hundred_thousand_periods_of_the_spring(x64):
    """At h = 0.1: RK4 has lost 8 per cent, leapfrog still swings by h^2 / 8."""
    num_steps = round(1e5 * 2 * np.pi / 0.1)

    @jax.jit
    def both(y0):
        field = lambda t, y, args: (y[1], -y[0])
        settings = {"num_steps": num_steps}
        classical = solve_fixed(field, y0, 0.0, 0.1 * num_steps, **settings).y
        leap = solve_hamiltonian(spring, y0, 0.0, 0.1 * num_steps, **settings).y
        return classical, leap

    classical, leap = both((1.0, 0.0))
    energy = classical[0] ** 2 + classical[1] ** 2
    factor = (1 - 0.1**6 / 72 + 0.1**8 / 576) ** num_steps
    assert abs(energy - factor) < 1e-6 and abs(energy - 0.91653) < 5e-6
    assert abs(leap[0] ** 2 + leap[1] ** 2 - 1) <= 0.1**2 / 4 + 1e-9


def _swapped(force_fn, inverse_mass, t, state, h):
    q, p = state
    p = p + h * force_fn(t, q)
    q = q + 0.5 * h * inverse_mass @ p
    return q, p + h * force_fn(t + h, q)


def _stale(force_fn, inverse_mass, t, state, h):
    q, p = state
    force = force_fn(t, q)
    p = p + 0.5 * h * force
    return q + h * inverse_mass @ p, p + 0.5 * h * force


def _old_momentum(force_fn, inverse_mass, t, state, h):
    q, p = state
    return q + h * inverse_mass @ p, velocity_verlet_step(force_fn, inverse_mass, t, state, h)[1]


def _frozen_time(force_fn, inverse_mass, t, state, h):
    return yoshida4(lambda _, q: force_fn(t, q), inverse_mass, t, state, h)


W1, W0 = YOSHIDA4_WEIGHTS
ORDER_MUTANTS = {
    "kick and drift weights swapped": (_swapped, 2),
    "one kick too many": (_stale, 2),
    "drift with the old momentum": (_old_momentum, 2),
    "force of the wrong sign": (
        lambda f, m, t, y, h: velocity_verlet_step(lambda t, q: -f(t, q), m, t, y, h), 2,
    ),
    "mass for its inverse": (
        lambda f, m, t, y, h: velocity_verlet_step(f, jnp.linalg.inv(m), t, y, h), 2,
    ),
    "weights in the wrong places": (
        lambda *a: compose(velocity_verlet_step, (W1, W1, W0))(*a), 4,
    ),
    "cube root forgotten": (
        lambda *a: compose(velocity_verlet_step, (1 / 3, 1 / 3, 1 / 3))(*a), 4,
    ),
    "time that stands still": (_frozen_time, 4),
    "composed of what is not symmetric": (
        lambda *a: compose(symplectic_euler, (W1, W0, W1))(*a), 4,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDER_MUTANTS)
def test_the_order_kills(x64, name):
    step, order = ORDER_MUTANTS[name]
    with pytest.raises(AssertionError):
        check_order(step, order)


@pytest.mark.slow
@pytest.mark.parametrize("step", [_stale, _old_momentum, euler])
def test_the_geometry_kills(x64, step):
    with pytest.raises(AssertionError):
        check_geometry(step)


def test_the_sums_name_a_wrong_composition():
    with pytest.raises(ValueError, match="weights must add up to 1, got a sum of 0.9"):
        compose(velocity_verlet_step, (0.4, 0.5))


def test_solve_repeats_the_step_and_runs_backwards(x64):
    """Trees of positions, a mass for each leaf, rows, and the reused force."""
    q = {"a": jnp.array([0.3, -0.2]), "b": jnp.array(0.5)}
    p = {"a": jnp.array([0.1, 0.4]), "b": jnp.array(-0.3)}
    inverse_mass = {"a": np.array([1.0, 0.5]), "b": 2.0}

    def force(t, q):
        return {"a": -q["a"] * q["b"] * (1 + t), "b": -jnp.sum(q["a"]) + jnp.cos(t)}

    @jax.jit
    def run(y):
        settings = {"num_steps": 4, "method": "yoshida4", "inverse_mass": inverse_mass}
        rows = solve_hamiltonian(force, y, 1.0, 2.0, save_every=2, **settings)
        own = solve_hamiltonian(force, y, 1.0, 2.0, **{**settings, "method": yoshida4})
        state = y
        for k in range(4):
            state = yoshida4(force, inverse_mass, 1 + 0.25 * k, state, 0.25)
        last = jax.tree.map(lambda x: x[-1], rows.y)
        back = solve_hamiltonian(force, last, 2.0, 1.0, **settings)
        return rows, own, state, back

    rows, own, state, back = run((q, p))
    last = jax.tree.map(lambda x: x[-1], rows.y)
    for a, b in ((last, state), (own.y, state), (back.y, (q, p))):
        for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-13)
    assert rows.t.tolist() == [1.0, 1.5, 2.0] and rows.stats.num_evaluations == 12


def test_the_field_of_an_energy(x64):
    """Against the closed field of a pendulum, whose energy is not a square in p."""
    field = hamiltonian_field(lambda q, p: jnp.sum(jnp.cosh(p) - jnp.cos(q)) + q[0] * p[1])
    q, p = START
    dq, dp = jax.jit(lambda q, p: field(0.0, (q, p), None))(q, p)
    np.testing.assert_allclose(dq, np.sinh(p) + np.array([0, q[0]]), rtol=1e-14)
    np.testing.assert_allclose(dp, -np.sin(q) - np.array([p[1], 0]), rtol=1e-14)


def test_a_force_that_breaks_is_flagged(x64):
    force = lambda t, q: jnp.where(t < 0.45, -q, jnp.nan)
    solution = jax.jit(
        lambda q: solve_hamiltonian(force, (q, q), 0.0, 1.0, num_steps=10, save_every=1)
    )(1.0)
    assert solution.result == NON_FINITE and solution.stats.num_accepted == 4
    assert np.isfinite(solution.y[0][:5]).all() and np.isnan(solution.y[0][5:]).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="method must be one of 'symplectic_euler', 'verlet'"):
        solve_hamiltonian(spring, (1.0, 0.0), 0.0, 1.0, num_steps=2, method="leapfrog")
    with pytest.raises(TypeError, match="must be like"):
        solve_hamiltonian(lambda t, q: q[:1], (jnp.ones(2), jnp.ones(2)), 0.0, 1.0, num_steps=2)
    with pytest.raises(TypeError, match="must be like"):
        solve_hamiltonian(spring, (jnp.ones(2), jnp.ones(())), 0.0, 1.0, num_steps=2)
    with pytest.raises(ValueError, match="p must have the shape of q"):
        symplectic_defect(lambda y: y, (jnp.ones(2), jnp.ones(3)))
