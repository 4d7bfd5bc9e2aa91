"""The figure of `docs/diffeq/systems.md`: the phase plane of the pendulum."""

import figure
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq import as_first_order, solve_fixed


def main() -> None:
    """Draw orbits of all kinds, with and without friction."""
    import jax
    import jax.numpy as jnp

    field = as_first_order(lambda t, y, friction: -jnp.sin(y[0]) - friction * y[1], 2)
    solve = jax.jit(
        lambda y0, friction: (
            solve_fixed(field, y0, 0.0, 30.0, num_steps=1500, args=friction, save_every=5).y
        )
    )
    drawing, axes = plt.subplots(1, 2, figsize=(10, 3.9), sharey=True)
    for axis, friction in zip(axes, (0.0, 0.15), strict=True):
        if friction == 0.0:
            angle = np.linspace(-2.6 * np.pi, 2.6 * np.pi, 400)
            for sign in (1, -1):
                axis.plot(angle, sign * 2 * np.abs(np.cos(angle / 2)), color=figure.RED, lw=1.3)
            starts = [(c + a, 0.0) for c in (-2 * np.pi, 0.0, 2 * np.pi) for a in (0.6, 1.4, 2.3)]
            starts += [(-2.6 * np.pi, v) for v in (1.2, 2.3, 2.8)]
            starts += [(2.6 * np.pi, -v) for v in (1.2, 2.3, 2.8)]
        else:
            starts = [(-2.6 * np.pi, v) for v in (1.6, 2.2, 2.8)]
            starts += [(2.6 * np.pi, -v) for v in (1.6, 2.2, 2.8)]
        for start in starts:
            y0 = tuple(jnp.asarray(x, jnp.float32) for x in start)
            angle, rate = solve(y0, jnp.float32(friction))
            shown = np.where(np.abs(angle) < 2.65 * np.pi, angle, np.nan)
            axis.plot(shown, rate, color=figure.BLUE, lw=1.2)
        for centre in (-2, 0, 2):
            axis.plot(centre * np.pi, 0.0, "o", color=figure.GREEN, ms=5)
        for saddle in (-1, 1):
            axis.plot(saddle * np.pi, 0.0, "x", color=figure.RED, ms=6)
        axis.set_xticks([-2 * np.pi, -np.pi, 0, np.pi, 2 * np.pi])
        axis.set_xticklabels([r"$-2\pi$", r"$-\pi$", "0", r"$\pi$", r"$2\pi$"])
        axis.set(xlim=(-2.6 * np.pi, 2.6 * np.pi), ylim=(-3.1, 3.1), xlabel="angle")
        axis.set_title("without friction" if friction == 0 else "with friction 0.15")
    axes[0].set_ylabel("angular velocity")
    figure.save(drawing, "systems")


if __name__ == "__main__":
    main()
