"""The figure of `docs/diffeq/exponential.md`: error against steps, mild and stiff."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq import etd2rk, etdrk4, exponential_euler

METHODS = (
    ("exponential Euler", exponential_euler, 1, figure.RED),
    ("ETD2RK", etd2rk, 2, figure.BLUE),
    ("ETDRK4", etdrk4, 4, figure.GREEN),
)


def rod(n):
    """Heat in a rod: eigenvalues, the start, and a rest that does not vanish at the ends."""
    matrix = (n + 1) ** 2 * (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n))
    values, vectors = np.linalg.eigh(matrix)
    x = np.arange(1, n + 1) / (n + 1)

    def rest(t, y):
        return vectors.T @ (jnp.mean(vectors @ y) + jnp.exp(t) * (x * (1 - x) + 2 - 1 / 6))

    return jnp.asarray(values), jnp.asarray(vectors.T @ (x * (1 - x))), rest


def errors(n, make, counts, truth_count):
    """Distance from the end that many steps give."""
    linear, start, rest = rod(n)

    @jax.jit
    def end(count, h):
        step = make(linear, h)
        return jax.lax.fori_loop(0, count, lambda k, y: step(rest, k * h, y), start)

    truth = jax.jit(
        lambda count, h: jax.lax.fori_loop(
            0, count, lambda k, y: etdrk4(linear, h)(rest, k * h, y), start
        )
    )(truth_count, 1 / truth_count)
    return [float(jnp.abs(end(c, 1 / c) - truth).max()) for c in counts]


def main() -> None:
    """Draw a rod of 3 points, mild, and one of 63, stiff."""
    drawing, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, n, title in (
        (axes[0], 3, "3 points, largest |L| = 55"),
        (axes[1], 63, "63 points, largest |L| = 16,000"),
    ):
        counts = 2 ** np.arange(3, 11)
        for label, make, order, colour in METHODS:
            found = errors(n, make, counts, 8192)
            axis.loglog(counts, found, "o-", color=colour, ms=4, label=label)
            line = found[0] * (counts / counts[0]) ** -float(order)
            axis.loglog(counts, line, ls=":", lw=1, color=colour)
        axis.set(xlabel="steps", title=title, ylim=(1e-14, 1e0))
    axes[0].set_ylabel("error at t = 1")
    axes[0].legend(fontsize=9)
    figure.save(drawing, "exponential_steps")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
