"""The figure of `docs/diffeq/adaptive.md`: steps along Van der Pol's oscillation."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffeq
from probjax.diffeq.dense_output import dense_output

END, MU = 18.0, 5.0
TOLERANCES = {"rtol": 1e-5, "atol": 1e-7}


def field(t: jax.Array, y: jax.Array, mu: float) -> jax.Array:
    """Slow flow and sudden jumps."""
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def main() -> None:
    """Draw the solution, the sizes and the errors."""
    jax.config.update("jax_enable_x64", True)
    y0 = jnp.array([2.0, 0.0])

    def step(state: diffeq.AdaptiveState, _: None) -> tuple:
        after, info = diffeq.adaptive_step(field, state, END, args=MU, **TOLERANCES)
        return after, (state.t, info)

    state = diffeq.adaptive_init(field, y0, 0.0, END, args=MU, **TOLERANCES)
    state, (t, info) = jax.lax.scan(step, state, None, length=600)
    count = int(state.num_steps)
    t, sizes, errors = (np.asarray(x)[:count] for x in (t, info.step_size, info.error))
    kept = np.asarray(info.accepted)[:count]
    rows = diffeq.solve_adaptive(
        field, y0, 0.0, END, args=MU, save_at="steps", max_steps=600, **TOLERANCES
    )
    fine = np.linspace(0.0, END, 1200)
    wave = np.asarray(dense_output(field, rows, args=MU, method="tsit5")(fine))[:, 0]

    drawing, axes = plt.subplots(3, 1, figsize=(8.2, 5.8), sharex=True)
    axes[0].plot(fine, wave, color=figure.INK, linewidth=1.2)
    ends = np.asarray(rows.t)
    axes[0].plot(ends, np.asarray(rows.y)[:, 0], ".", color=figure.BLUE, markersize=4)
    axes[0].set_ylabel("$y$, step ends")
    for axis, values, label in ((axes[1], sizes, "size $h$"), (axes[2], errors, "error $e$")):
        axis.semilogy(t[kept], values[kept], ".-", color=figure.BLUE, markersize=4, linewidth=0.8)
        axis.semilogy(t[~kept], values[~kept], "x", color=figure.RED, markersize=6)
        axis.set_ylabel(label)
    axes[2].axhline(1.0, color=figure.INK, linewidth=0.8, linestyle="--")
    axes[2].set_ylim(1e-3, 30)
    axes[2].set_xlabel("$t$")
    figure.save(drawing, "adaptive_van_der_pol")


if __name__ == "__main__":
    main()
