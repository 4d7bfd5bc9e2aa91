"""Integrators of Hamilton's equations by what they keep, Hamiltonian Monte Carlo by its laws."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import velocity_verlet
from scipy import stats

from probjax.mcmc.hamiltonian import (
    euler_hamiltonian,
    hamiltonian_energy,
    phase_state,
    symplectic_euler,
)


def spring(x):
    return -0.5 * jnp.sum(x**2)


def quartic(x):
    return -0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + 0.3 * x[0] * x[1]


def kinetic(p):
    """With unequal masses, so that position and momentum cannot change places unseen."""
    return 0.5 * jnp.sum(p**2 * jnp.arange(1.0, p.size + 1).astype(p.dtype))


def unit_kinetic(p):
    return 0.5 * jnp.sum(p**2)


def flow(integrator, logdensity_fn, kinetic_fn, step_size, num_steps):
    """The map of a phase point (x, p), one vector, by so many steps."""
    one_step = integrator(logdensity_fn, kinetic_fn)

    def run(point):
        x, p = jnp.split(point, 2)
        state = phase_state(logdensity_fn, x, p)
        state = jax.lax.scan(lambda s, _: (one_step(s, step_size), None), state, length=num_steps)[
            0
        ]
        return jnp.concatenate([state.position, state.momentum])

    return jax.jit(run)


def energy(logdensity_fn, kinetic_fn, point):
    x, p = jnp.split(point, 2)
    return float(hamiltonian_energy(kinetic_fn, phase_state(logdensity_fn, x, p)))


POINT = np.array([0.7, -1.1, 0.4, 1.3])


def test_one_step_on_the_spring_by_hand(x64):
    point, h = jnp.array([1.0, 0.5]), 0.3
    euler = flow(euler_hamiltonian, spring, unit_kinetic, h, 1)(point)
    np.testing.assert_allclose(euler, [1 + h * 0.5, 0.5 - h], rtol=1e-14)
    symplectic = flow(symplectic_euler, spring, unit_kinetic, h, 1)(point)
    np.testing.assert_allclose(symplectic, [1 + h * (0.5 - h), 0.5 - h], rtol=1e-14)
    leapfrog = flow(velocity_verlet, spring, unit_kinetic, h, 1)(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(leapfrog, [0.955, -0.29325], rtol=1e-14)
    change = energy(spring, unit_kinetic, leapfrog) - 0.5
    assert abs(change + 9.897e-4) < 1e-7


def test_eulers_energy_grows_by_a_known_factor(x64):
    h = 0.3
    end = flow(euler_hamiltonian, spring, unit_kinetic, h, 20)(jnp.array([1.0, 0.0]))
    factor = energy(spring, unit_kinetic, end) / 0.5
    assert abs(factor - (1 + h**2) ** 20) < 1e-12
    assert abs(factor - 5.604411) < 1e-6


def test_what_the_others_conserve_on_the_spring(x64):
    """Symplectic Euler p^2 + x^2 - h x p; leapfrog p^2 + (1 - h^2 / 4) x^2."""
    h, start = 0.3, jnp.array([1.0, 0.5])
    shapes = {
        symplectic_euler: lambda x, p: p**2 + x**2 - h * x * p,
        velocity_verlet: lambda x, p: p**2 + (1 - h**2 / 4) * x**2,
        euler_hamiltonian: lambda x, p: p**2 + x**2,
    }
    for integrator, shape in shapes.items():
        end = flow(integrator, spring, unit_kinetic, h, 1000)(start)
        kept = bool(abs(shape(*end) / shape(*start) - 1) < 1e-10)
        assert kept == (integrator is not euler_hamiltonian)


@pytest.mark.parametrize("h", [0.3, 0.15, 0.075])
def test_largest_energy_error_of_leapfrog_is_an_eighth_of_the_square(x64, h):
    """The invariant ellipse bounds it by h^2 / 8, and a long run comes as close as you like."""
    one_step = velocity_verlet(spring, unit_kinetic)
    start = phase_state(spring, jnp.array([1.0]), jnp.array([0.0]))

    def body(state, _):
        state = one_step(state, h)
        return state, hamiltonian_energy(unit_kinetic, state)

    _, path = jax.jit(lambda s: jax.lax.scan(body, s, length=2000))(start)
    ratio = float(jnp.abs(path - 0.5).max()) / h**2
    assert 0.12495 < ratio < 0.125 + 1e-9


def geometry(integrator):
    """Determinant, error of the symplectic form, and error of running backwards."""
    run = flow(integrator, quartic, kinetic, 0.2, 7)
    point = jnp.asarray(POINT)
    jacobian = np.asarray(jax.jacfwd(run)(point))
    form = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    flip = jnp.array([1.0, 1.0, -1.0, -1.0])
    back = flip * run(flip * run(point))
    return (
        abs(np.linalg.det(jacobian) - 1),
        np.abs(jacobian.T @ form @ jacobian - form).max(),
        float(jnp.abs(back - point).max()),
    )


def test_volume_symplectic_form_and_time(x64):
    volume, form, back = geometry(velocity_verlet)
    assert volume < 1e-10 and form < 1e-10 and back < 1e-12
    volume, form, back = geometry(symplectic_euler)
    assert volume < 1e-10 and form < 1e-10 and back > 1e-3
    assert min(geometry(euler_hamiltonian)) > 1e-3


@pytest.mark.parametrize(
    "integrator, order", [(euler_hamiltonian, 1), (symplectic_euler, 1), (velocity_verlet, 2)]
)
def test_order_of_the_energy_error(x64, integrator, order):
    point = jnp.asarray(POINT)
    errors = []
    for num_steps in (200, 400):
        end = flow(integrator, quartic, kinetic, 1.0 / num_steps, num_steps)(point)
        errors.append(abs(energy(quartic, kinetic, end) - energy(quartic, kinetic, point)))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.05


def energy_errors(dim, step_size, num_steps, chains, sign=1.0, seed=0):
    """H1 - H0 from exact starts of a standard normal; `sign` -1 is the wrong half steps."""
    one_step = velocity_verlet(lambda x: sign * spring(x), unit_kinetic)

    def run(key):
        x, p = jax.random.normal(jax.random.fold_in(key, 0), (2, dim))
        state = phase_state(lambda x: sign * spring(x), x, p)
        state = jax.lax.scan(lambda s, _: (one_step(s, step_size), None), state, length=num_steps)[
            0
        ]
        new = -spring(state.position) + unit_kinetic(state.momentum)
        change = new + spring(x) - unit_kinetic(p)
        taken = jax.random.uniform(jax.random.fold_in(key, 1)) < jnp.exp(-change)
        return change, jnp.where(taken, state.position, x)

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(seed), chains))


def test_creutz_identity_and_acceptance():
    """E exp(-dH) = 1; with many dimensions acceptance = 2 Phi(-sqrt(E dH / 2))."""
    change, _ = energy_errors(100, 0.3, 5, 20_000)
    change = np.asarray(change, np.float64)
    weight = np.exp(-change)
    assert abs(weight.mean() - 1) < 5 * weight.std() / np.sqrt(weight.size)
    acceptance = np.minimum(1, weight).mean()
    assert abs(acceptance - 2 * stats.norm.cdf(-np.sqrt(change.mean() / 2))) < 0.01


def test_the_wrong_sign_shows_in_the_acceptance_and_not_in_the_moments():
    """Half steps that add the gradient of U: reversible and volume-keeping, hence still exact."""
    acceptance = {}
    for sign in (1.0, -1.0):
        change, x = energy_errors(2, 0.3, 5, 20_000, sign, seed=1)
        assert abs(float(x.var()) - 1) < 5 * np.sqrt(2 / 40_000)
        rate = np.minimum(1, np.exp(-np.asarray(change, np.float64)))
        acceptance[sign] = rate.mean()
    assert abs(acceptance[1.0] - 0.989) < 0.005
    assert abs(acceptance[-1.0] - 0.096) < 0.01


def test_the_form_is_blackjaxs():
    """An integrator from here runs inside BlackJAX's HMC, and a pytree goes through."""
    kernel = blackjax.hmc(spring, 0.2, jnp.ones(2), 3, integrator=symplectic_euler)
    _, info = jax.jit(kernel.step)(jax.random.key(0), kernel.init(jnp.ones(2)))
    assert 0 < float(info.acceptance_rate) <= 1
    over_tree = lambda tree: spring(tree["a"]) + spring(tree["b"])
    tree = {"a": jnp.ones(2), "b": jnp.ones((1, 2))}
    kinetic_tree = lambda tree: unit_kinetic(tree["a"]) + unit_kinetic(tree["b"])
    end = euler_hamiltonian(over_tree, kinetic_tree)(phase_state(over_tree, tree, tree), 0.1)
    np.testing.assert_allclose(end.position["b"], 1.1, rtol=1e-6)
    np.testing.assert_allclose(end.momentum["a"], 0.9, rtol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="momentum must have the shape of position"):
        phase_state(spring, jnp.ones(2), jnp.ones(3))
