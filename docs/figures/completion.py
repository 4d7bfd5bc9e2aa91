"""The figure of `docs/diffeq/completion.md`: minors that vanish, and what divides by them."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffeq

jax.config.update("jax_enable_x64", True)
TIMES = jnp.linspace(0.0, 2.0, 161)
MINOR = 2


def solutions(t: jax.Array) -> jax.Array:
    """The columns of the page."""
    c, s, one, no = jnp.cos(2 * t), jnp.sin(2 * t), 1 + 0 * t, 0 * t
    first = jnp.array([[c, -s, no], [s, c, no], [no, no, one]])
    then = jnp.array([[one, no, no], [no, c, -s], [no, s, c]])
    last = jnp.array([[one, t, s], [no, jnp.exp(t / 2), c], [t, no, 2 + t]])
    return then @ first @ last


def matrix(t: jax.Array) -> jax.Array:
    """The system that they solve."""
    value, slope = jax.jvp(solutions, (t,), (jnp.ones_like(t),))
    return slope @ jnp.linalg.inv(value)


def normal(t: jax.Array) -> jax.Array:
    """Minors of the first two."""
    return diffeq.generalized_cross(solutions(t)[:, :2])


def by_coordinates() -> np.ndarray:
    """The last column as X k + mu e, with mu = W / (nu . e), by Gauss nodes between the times."""
    node, weight = np.polynomial.legendre.leggauss(8)
    left, width = TIMES[:-1], jnp.diff(TIMES)
    places = (left[:, None] + width[:, None] * (0.5 + 0.5 * node)[None]).reshape(-1)
    grid = jnp.sort(jnp.concatenate([places, TIMES[1:]]))
    w = diffeq.liouville(matrix, 0.0, grid, panels=1)

    def rate(t: jax.Array, w: jax.Array) -> jax.Array:
        """The slope of k: A mu e less what the slope of mu e has in the row of e."""
        moved = matrix(t)[:, MINOR] * w / normal(t)[MINOR]
        rest = np.delete(np.arange(3), MINOR)
        return jnp.linalg.solve(solutions(t)[rest, :2], moved[rest])

    at = jnp.searchsorted(grid, places)
    rates = jax.vmap(rate)(places, w[at]).reshape(*left.shape, 8, 2)
    k = np.cumsum(np.einsum("tgk,g,t->tk", rates, 0.5 * weight, width), axis=0)
    w = w[jnp.searchsorted(grid, TIMES[1:])]
    x = np.einsum("tij,tj->ti", jax.vmap(solutions)(TIMES[1:])[..., :2], k)
    x[:, MINOR] += w / jax.vmap(normal)(TIMES[1:])[:, MINOR]
    return x


def main() -> None:
    """Draw both panels."""
    every = np.asarray(jax.vmap(solutions)(TIMES))
    minors = np.asarray(jax.vmap(normal)(TIMES))
    drawing, axes = plt.subplots(1, 2, figsize=(8.4, 3.6))
    for i, values in enumerate(minors.T):
        axes[0].plot(TIMES, values, label=rf"$\nu_{i + 1}$")
    length = np.linalg.norm(minors, axis=1)
    axes[0].plot(TIMES, length, color=figure.INK, linestyle="--", label=r"$|\nu|$")
    axes[0].axhline(0.0, color=figure.INK, linewidth=0.8)
    axes[0].set_title("minors of the known solutions")
    axes[0].legend()

    found = diffeq.complete_fundamental_matrix(matrix, lambda t: solutions(t)[:, :2], 0.0, TIMES)
    other = by_coordinates()
    starts = np.zeros(3)
    starts[MINOR] = 1 / minors[0, MINOR]
    for x, start, label in (
        (other, starts, "in coordinates"),
        (np.asarray(found.x)[1:], np.asarray(found.x)[0], "along the normal"),
    ):
        truth = every[1:] @ np.linalg.solve(every[0], start)
        error = np.abs(x - truth).max(axis=1)
        axes[1].semilogy(TIMES[1:], np.maximum(error, 1e-17), label=label)
    axes[1].set_title("error of the last column")
    axes[1].legend()
    for axis in axes:
        axis.set_xlabel("$t$")
    figure.save(drawing, "completion")


if __name__ == "__main__":
    main()
