import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import ellipj

from probjax.diffeq.problems import PROBLEMS
from probjax.diffeq.sde import check_sde
from probjax.diffeq.solution import check_field, checked_state

EXACT = [name for name, problem in PROBLEMS.items() if problem.exact is not None]


def test_all_names_are_there():
    detest = {f"{letter}{number}" for letter in "ABCDE" for number in range(1, 6)}
    assert detest < set(PROBLEMS) and all(name == p.name for name, p in PROBLEMS.items())


@pytest.mark.parametrize("name", PROBLEMS)
def test_fields_return_what_the_state_is(name):
    problem = PROBLEMS[name]
    check_field(problem.field, 0.0, checked_state(problem.y0), problem.args)
    if problem.sde is not None:
        check_sde(problem.sde, 0.0, jnp.asarray(problem.y0))
        np.testing.assert_allclose(
            problem.sde.drift(0.0, jnp.asarray(problem.y0)),
            problem.field(0.0, jnp.asarray(problem.y0), problem.args),
        )


def test_exact_solutions_solve_their_equations(x64):
    """At three times inside the span: the derivative is the field; at 0 it is the start."""
    times = jnp.array([0.3, 2.9, 17.0])

    @jax.jit
    def defects():
        found = {}
        for name in set(EXACT) - {"D2", "D3", "D4", "kepler"}:  # as D1 and D5
            problem = PROBLEMS[name]
            at = times * problem.span[1] / 20
            curve = lambda t, p=problem: p.exact(t, p.args)
            if name[0] == "D":
                # The bracket that is halved has no derivative: differences instead.
                slope = lambda t, c=curve, h=1e-4: (c(t + h) - c(t - h)) / (2 * h)
            else:
                slope = lambda t, c=curve: jax.jvp(c, (t,), (jnp.ones_like(t),))[1]
            gap = lambda t, p=problem, c=curve, s=slope: s(t) - p.field(t, c(t), p.args)
            start = curve(jnp.asarray(0.0)) - problem.y0
            found[name] = (jnp.abs(jax.vmap(gap)(at)).max(), jnp.abs(start).max())
        return found

    for name, (gap, start) in defects().items():
        assert gap < (1e-5 if name[0] == "D" else 1e-11), name
        assert start < 1e-14, name


def test_invariants_do_not_change(x64):
    """grad I . f + dI/dt = 0 at a point that is no solution's start."""

    @jax.jit
    def rates(shift):
        found = {}
        for name, problem in PROBLEMS.items():
            if problem.invariant is None:
                continue
            y, t = jnp.asarray(problem.y0) * (1 + shift) + shift, jnp.asarray(0.7)
            args = problem.args
            if name == "C5":
                y = jnp.asarray(problem.y0) * (1 + shift)
            flow = (jnp.ones_like(t), problem.field(t, y, args))
            _, rate = jax.jvp(lambda t, y, p=problem: p.invariant(t, y, p.args), (t, y), flow)
            found[name] = jnp.abs(rate).max()
        return found

    for name, rate in rates(0.13).items():
        assert rate < 1e-12, name


def reference(problem):
    y0 = np.asarray(problem.y0)
    field = jax.jit(lambda t, y: problem.field(t, y.reshape(y0.shape), problem.args).reshape(-1))
    found = solve_ivp(
        lambda t, y: np.asarray(field(t, y)),
        problem.span,
        y0.reshape(-1),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return found.y[:, -1].reshape(y0.shape)


def test_rigid_body_by_elliptic_functions(x64):
    sn, cn, dn, _ = ellipj(20.0, 0.51)
    np.testing.assert_allclose(reference(PROBLEMS["B5"]), [sn, cn, dn], atol=1e-9)


@pytest.mark.slow
def test_pleiades_ends_where_the_literature_says(x64):
    """Hairer, Norsett and Wanner's seven stars at t = 3."""
    end = reference(PROBLEMS["pleiades"])
    expected = [
        [0.3706139143970502, -3.943437585517392],
        [3.237284092057233, -3.271380973972550],
        [-3.222559032418324, 5.225081843456543],
    ]
    np.testing.assert_allclose(end[0, :3], expected, atol=1e-6)


def test_planets_have_the_axes_of_the_planets():
    """Semi-major axes in astronomical units: Jupiter to Pluto, by the vis-viva equation."""
    places, speeds = PROBLEMS["C5"].y0
    inverse = 2 / np.linalg.norm(places, axis=1) - (speeds**2).sum(axis=1) / 2.95912208286
    np.testing.assert_allclose(1 / inverse, [5.20, 9.58, 19.2, 30.1, 39.5], rtol=0.01)
