"""The figures of `docs/mcmc/hamiltonian.md`: phase portrait, energies, acceptance by step size."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from blackjax.mcmc.integrators import velocity_verlet

from probjax import mcmc


def spring(x):
    return -0.5 * jnp.sum(x**2)


def kinetic(p):
    return 0.5 * jnp.sum(p**2)


INTEGRATORS = {
    "Euler": (mcmc.euler_hamiltonian, figure.RED, "o"),
    "symplectic Euler": (mcmc.symplectic_euler, figure.ORANGE, "s"),
    "leapfrog": (velocity_verlet, figure.BLUE, "^"),
}


def path(integrator, step_size: float, num_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, momenta and energies from (1, 0) on."""
    one_step = integrator(spring, kinetic)
    start = mcmc.phase_state(spring, jnp.array([1.0]), jnp.array([0.0]))

    def body(state, _):
        after = one_step(state, step_size)
        return after, (
            state.position[0],
            state.momentum[0],
            mcmc.hamiltonian_energy(kinetic, state),
        )

    _, kept = jax.lax.scan(body, start, length=num_steps + 1)
    return tuple(np.asarray(part) for part in kept)


def phase() -> None:
    """Draw twenty steps of size 0.3 in phase space, and the energies beside them."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
    angle = np.linspace(0, 2 * np.pi, 200)
    left.plot(np.cos(angle), np.sin(angle), color=figure.INK, linewidth=1, linestyle="--")
    for name, (integrator, colour, marker) in INTEGRATORS.items():
        x, p, _ = path(integrator, 0.3, 20)
        left.plot(x, p, color=colour, marker=marker, markersize=4, linewidth=1, label=name)
        _, _, energy = path(integrator, 0.3, 60)
        right.semilogy(energy, color=colour, label=name)
    left.set_xlabel("position $x$")
    left.set_ylabel("momentum $p$")
    left.set_aspect("equal")
    right.set_xlabel("steps")
    right.set_ylabel("energy $H$")
    right.set_ylim(0.3, 30)
    right.legend(loc="upper left")
    figure.save(drawing, "hamiltonian_phase")


@jax.jit
def acceptance(sign: float, step_size: float) -> jax.Array:
    """Mean acceptance of five steps from exact starts in two dimensions."""
    one_step = velocity_verlet(lambda x: sign * spring(x), kinetic)

    def one(key):
        x, p = jax.random.normal(key, (2, 2))
        state = mcmc.phase_state(lambda x: sign * spring(x), x, p)
        state = jax.lax.fori_loop(0, 5, lambda _, s: one_step(s, step_size), state)
        change = kinetic(state.momentum) - spring(state.position) - kinetic(p) + spring(x)
        return jnp.minimum(1.0, jnp.exp(-change))

    return jax.vmap(one)(jax.random.split(jax.random.key(0), 20_000)).mean()


def accepted() -> None:
    """Draw acceptance against the step size for the right and the wrong sign."""
    drawing, axis = plt.subplots(figsize=(6.4, 3.9))
    sizes = np.linspace(0.04, 1.2, 30)
    for sign, label, colour in (
        (1.0, r"$p-\frac{\epsilon}{2}\nabla U$", figure.BLUE),
        (-1.0, r"$p+\frac{\epsilon}{2}\nabla U$ (wrong)", figure.RED),
    ):
        axis.plot(
            sizes, [float(acceptance(sign, size)) for size in sizes], color=colour, label=label
        )
    axis.axvline(0.3, color=figure.INK, linewidth=1, linestyle="--")
    axis.set_xlabel(r"step size $\epsilon$")
    axis.set_ylabel("acceptance")
    axis.set_ylim(0, 1.05)
    axis.legend(loc="center right")
    figure.save(drawing, "hamiltonian_acceptance")


if __name__ == "__main__":
    phase()
    accepted()
