"""The figure of `docs/diffeq/symplectic.md`: phase portraits of four methods, and energies."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq import solve_fixed, solve_hamiltonian

STEP, STEPS = 0.3, 90


def spring_path(name):
    """Positions and momenta of the spring from (1, 0)."""
    start = (jnp.ones(()), jnp.zeros(()))
    settings = {"num_steps": STEPS, "save_every": 1}
    if name in ("euler", "rk4"):

        def field(t, y, args):
            return y[1], -y[0]

        return solve_fixed(field, start, 0.0, STEP * STEPS, method=name, **settings).y
    return solve_hamiltonian(lambda t, q: -q, start, 0.0, STEP * STEPS, method=name, **settings).y


def pendulum_error(name, num_steps=20_000):
    """Largest energy error of the pendulum up to each of some times, h = 0.1."""
    start = (jnp.asarray(1.0), jnp.asarray(0.5))
    settings = {"num_steps": num_steps, "save_every": 1}

    @jax.jit
    def solve(start):
        if name == "rk4":

            def field(t, y, args):
                return y[1], -jnp.sin(y[0])

            solution = solve_fixed(field, start, 0.0, 0.1 * num_steps, **settings)
        else:
            solution = solve_hamiltonian(
                lambda t, q: -jnp.sin(q), start, 0.0, 0.1 * num_steps, method=name, **settings
            )
        q, p = solution.y
        energy = 0.5 * p**2 - jnp.cos(q)
        return solution.t, jnp.abs(energy - energy[0])

    t, error = map(np.asarray, solve(start))
    at = np.unique(np.geomspace(50, num_steps, 60).astype(int))
    return t[at], np.maximum.accumulate(error)[at]


def main() -> None:
    """Draw both."""
    drawing, axes = plt.subplots(1, 2, figsize=(10, 4.3), width_ratios=(1, 1.25))
    for name, colour, label in (
        ("euler", figure.RED, "Euler"),
        ("symplectic_euler", figure.ORANGE, "symplectic Euler"),
        ("verlet", figure.BLUE, "leapfrog"),
    ):
        q, p = map(np.asarray, spring_path(name))
        shown = slice(0, 16) if name == "euler" else slice(None)
        axes[0].plot(q[shown], p[shown], ".-", color=colour, ms=4, lw=0.7, label=label)
    angle = np.linspace(0, 2 * np.pi, 200)
    axes[0].plot(np.cos(angle), np.sin(angle), color=figure.INK, lw=0.8, ls=":", label="exact")
    axes[0].set(xlim=(-2.1, 2.1), ylim=(-1.8, 2.9), aspect="equal", xlabel="q", ylabel="p")
    axes[0].legend(fontsize=8, loc="upper right")
    for name, colour, label in (
        ("rk4", figure.RED, "RK4"),
        ("verlet", figure.BLUE, "leapfrog"),
        ("yoshida4", figure.GREEN, "order 4"),
        ("yoshida6", figure.ORANGE, "order 6"),
    ):
        axes[1].loglog(*pendulum_error(name), color=colour, label=label)
    axes[1].set(xlabel="time", ylabel="largest energy error so far", ylim=(1e-10, 1e-1))
    axes[1].legend(fontsize=9, ncol=2)
    figure.save(drawing, "symplectic")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
