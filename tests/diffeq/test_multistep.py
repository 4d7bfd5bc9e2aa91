"""Adams methods: weights in rationals, exactness, slopes of every order, the starter, mutants."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq import multistep, tableaus
from probjax.diffeq.multistep import adams_bashforth, adams_moulton, solve_multistep
from probjax.diffeq.solution import NON_FINITE, REACHED

PUBLISHED = {
    (adams_bashforth, 2): ((3, -1), 2),
    (adams_bashforth, 3): ((23, -16, 5), 12),
    (adams_bashforth, 4): ((55, -59, 37, -9), 24),
    (adams_bashforth, 5): ((1901, -2774, 2616, -1274, 251), 720),
    (adams_moulton, 2): ((1, 1), 2),
    (adams_moulton, 3): ((5, 8, -1), 12),
    (adams_moulton, 4): ((9, 19, -5, 1), 24),
}


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def test_published_weights(case):
    (fn, steps), (numerators, denominator) = case, PUBLISHED[case]
    assert fn(steps) == tuple(Fraction(n, denominator) for n in numerators)


def check_exact(weights, newest):
    """Polynomials of degree below k are integrated exactly, that of degree k is not."""
    k = len(weights)
    for degree in range(k + 1):
        total = sum(w * Fraction(newest - j) ** degree for j, w in enumerate(weights))
        assert (total == Fraction(1, degree + 1)) == (degree < k)


@pytest.mark.parametrize("steps", range(1, 9))
def test_weights_integrate_polynomials(steps):
    check_exact(adams_bashforth(steps), 0)
    check_exact(adams_moulton(steps), 1)


def test_the_check_kills_wrong_weights():
    good = adams_bashforth(4)
    for mutant in (good[::-1], (good[1], good[0], *good[2:]), (-good[0], *good[1:])):
        with pytest.raises(AssertionError):
            check_exact(mutant, 0)
    with pytest.raises(AssertionError):
        check_exact(good, 1)


def nonlinear(t, y, args):
    """Two entries, not autonomous, not linear."""
    return jnp.stack([y[1] * jnp.cos(t) - 0.3 * y[0] * y[1], -jnp.sin(y[0]) + 0.2 * jnp.sin(t)])


@functools.cache
def rows(kind, steps, starter, counts):
    """The solution at sixteen times, in each of the resolutions."""

    def run(y, n):
        options = {"kind": kind, "steps": steps, "starter": starter, "save_every": n // 16}
        return solve_multistep(nonlinear, y, 0.0, 4.0, num_steps=n, **options).y

    return np.asarray([jax.jit(run, static_argnums=1)(jnp.array([1.0, 0.4]), n) for n in counts])


def slope(rows):
    """From three resolutions, so that no exact solution is asked for."""
    differences = np.abs(np.diff(rows, axis=0)).max((1, 2))
    return np.log2(differences[-2] / differences[-1])


def check_slope(kind, steps, starter, counts=(160, 320, 640)):
    assert abs(slope(rows(kind, steps, starter, counts)) - steps) < 0.1


STARTERS = {1: "euler", 2: "euler", 3: "heun", 4: "kutta3", 5: "rk4"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ab", "abm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_slopes(x64, kind, steps):
    """The starter of order k - 1 is enough, as its error is made in k - 1 steps only."""
    check_slope(kind, steps, STARTERS[steps], (320, 640, 1280))


def test_slope_of_the_default(x64):
    check_slope("abm", 4, "rk4", (320, 640, 1280))


@pytest.mark.slow
def test_a_weak_starter_is_what_the_check_kills(x64, monkeypatch):
    """AB4 started by Heun or Euler has their slopes, plus one: hence it is refused."""
    claimed = {name: getattr(tableaus, name)._replace(order=9) for name in ("heun", "euler")}
    for name, order in (("heun", 3), ("euler", 2)):
        found = slope(rows("ab", 4, claimed[name], (320, 640, 1280)))
        assert abs(found - order) < 0.5
        with pytest.raises(AssertionError):
            check_slope("ab", 4, claimed[name], (320, 640, 1280))


def by_hand(kind, count, h):
    """The textbook's loop in NumPy, order 3, started by exact values of y' = -y."""
    y = [np.exp(-h * i) for i in range(3)]
    for n in range(2, count):
        f = [-value for value in y]
        step = h / 12 * (23 * f[n] - 16 * f[n - 1] + 5 * f[n - 2])
        if kind == "abm":
            step = h / 12 * (5 * -(y[n] + step) + 8 * f[n] - f[n - 1])
        y.append(y[n] + step)
    return y[-1]


@pytest.mark.parametrize("kind", ["ab", "abm"])
def test_equals_the_loop_written_out(x64, kind):
    """The starter is of order 6, its error is below rounding of the comparison."""
    run = jax.jit(
        lambda y: solve_multistep(
            lambda t, y, args: -y, y, 0.0, 1.0, num_steps=50, kind=kind, steps=3,
            starter="butcher6",
        ).y
    )  # fmt: skip
    assert abs(run(jnp.ones(())) - by_hand(kind, 50, 0.02)) < 1e-12


def test_rows_backwards_and_pytrees(x64):
    def field(t, y, rate):
        return {"a": -rate * y["a"], "b": 1j * y["b"]}

    y0 = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(1.0 + 0j)}

    @jax.jit
    def run(y0):
        return solve_multistep(
            field, y0, 1.0, -1.0, num_steps=60, args=0.5, kind="abm", steps=4, save_every=20
        )

    found = run(y0)
    np.testing.assert_allclose(found.t, [1.0, 1 / 3, -1 / 3, -1.0])
    np.testing.assert_allclose(found.y["a"][:, 1], 2 * np.exp(0.5 * (1 - found.t)), rtol=1e-6)
    np.testing.assert_allclose(found.y["b"], np.exp(1j * (np.asarray(found.t) - 1)), rtol=1e-6)
    assert found.stats.num_evaluations == 3 * 4 + 57 * 2
    assert found.result == REACHED


def test_a_failure_stays_alone(x64):
    """y' = y^2 from 1 blows up at t = 1; its end is finite, its rows NaN, its gradient zero."""

    @jax.jit
    def run(y0):
        return jax.vmap(
            lambda y: solve_multistep(
                lambda t, y, args: y**2, y, 0.0, 4.0, num_steps=20, save_every=10
            )
        )(y0)

    both = run(jnp.array([0.1, 50.0]))
    assert both.result.tolist() == [REACHED, NON_FINITE]
    alone = run(jnp.array([0.1, 0.1]))
    np.testing.assert_array_equal(both.y[0], alone.y[0])
    assert np.isnan(both.y[1, 1:]).all() and both.y[1, 0] == 50.0

    @jax.jit
    @jax.grad
    def gradient(y0):
        end = jax.vmap(
            lambda y: solve_multistep(lambda t, y, args: y**2, y, 0.0, 4.0, num_steps=20).y
        )
        return jnp.sum(end(y0))

    found = gradient(jnp.array([0.1, 50.0]))
    assert found[1] == 0 and np.isfinite(found[0]) and found[0] > 1


def test_no_span_and_few_steps():
    run = jax.jit(
        lambda t1: solve_multistep(lambda t, y, args: -y, jnp.ones(2), 1.0, t1, num_steps=2)
    )
    still = run(1.0)
    assert still.y.tolist() == [1.0, 1.0] and still.stats.num_steps == 0
    np.testing.assert_allclose(run(1.5).y, np.exp(-0.5), rtol=1e-4)


def test_bad_arguments_are_named():
    def solve(**changes):
        options = {"num_steps": 10, "steps": 4, **changes}
        return solve_multistep(lambda t, y, args: -y, jnp.ones(2), 0.0, 1.0, **options)

    for match, changes in (
        ("kind must be one of 'ab', 'abm', got 'am'", {"kind": "am"}),
        ("steps must be at most 8, got 9", {"steps": 9}),
        ("steps must be at least 1, got 0", {"steps": 0}),
        ("num_steps must be at least 1, got 0", {"num_steps": 0}),
        ("save_every must divide num_steps=10, got 3", {"save_every": 3}),
        ("starter must be one of", {"starter": "lsoda"}),
        ("starter must have order 3 at least, as steps=4, got 'heun' of order 2",
         {"starter": "heun"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            solve(**changes)
    with pytest.raises(TypeError, match="vector_field"):
        solve_multistep(lambda t, y, args: y[:1], jnp.ones(2), 0.0, 1.0, num_steps=3)
    assert multistep.KINDS == ("ab", "abm")
