"""The figures of `docs/mcmc/langevin.md`: bias, mode weights over the levels, sample clouds."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.stats import norm

from probjax import mcmc, targets

CHAINS, STEPS, EPSILON = 4000, 100, 0.1
LEVELS = jnp.geomspace(20.0, 0.7, 10)


def bias() -> None:
    """Draw the relative excess variance on N(0, 1) against the step size, exact and measured."""
    drawing, axis = plt.subplots(figsize=(6.4, 3.9))
    sizes = np.geomspace(0.05, 1.6, 60)
    for convention, colour, half, marker in (
        ("blackjax", figure.BLUE, 2, "o"),
        ("song", figure.ORANGE, 4, "s"),
    ):
        axis.loglog(sizes, 1 / (1 - sizes / half) - 1, color=colour)
        for number, size in enumerate((0.1, 0.2, 0.4, 0.8, 1.4)):
            kernel = mcmc.ula(lambda x: -x, size, convention=convention)
            start = kernel.init(jnp.zeros((400_000, 1)))
            run = jax.jit(
                lambda key, start, step=kernel.step: mcmc.scan_steps(key, step, start, 150)
            )
            state, _, _ = run(jax.random.key(number), start)
            measured = float(state.position.var())
            error = 4 * measured * (2 / start.position.size) ** 0.5
            axis.errorbar(
                size, measured - 1, error, color=colour, marker=marker, markersize=5, capsize=3,
                label=f'convention "{convention}"' if number == 0 else None,
            )  # fmt: skip
    axis.set_xlabel(r"step_size $\eta$")
    axis.set_ylabel(r"$v/\sigma^2-1$")
    axis.legend(loc="upper left")
    figure.save(drawing, "langevin_bias")


def share(x: jax.Array) -> jax.Array:
    """Return the share of chains on the small mode's side."""
    return jnp.mean(x.sum(axis=-1) < 0)


def wrong_noise(key: jax.Array, score_fn, x: jax.Array) -> jax.Array:
    """Return the shares along a run whose noise stays at the last level's."""

    def step(x, t):
        noise_scale = LEVELS[t // STEPS]
        size = EPSILON * (noise_scale / LEVELS[-1]) ** 2
        z = jax.random.normal(jax.random.fold_in(key, t), x.shape)
        x = x + size / 2 * score_fn(x, noise_scale) + jnp.sqrt(EPSILON) * z
        return x, share(x)

    return jax.lax.scan(step, x, jnp.arange(len(LEVELS) * STEPS))[1]


def weights_and_clouds() -> None:
    """Draw the share of the small mode over the run, then the clouds at its end."""
    modes = targets.two_modes()
    start = jax.random.uniform(jax.random.key(3), (CHAINS, 2), minval=-8.0, maxval=8.0)
    total = len(LEVELS) * STEPS
    keep = lambda state, _: share(state.position)  # noqa: E731
    annealed = mcmc.annealed_langevin(
        modes.score, LEVELS, num_steps_per_level=STEPS, epsilon=EPSILON
    )
    plain = mcmc.ula(modes.score, EPSILON, convention="song")

    @jax.jit
    def run(key, x):
        whole, _, path = mcmc.scan_steps(
            key, annealed.step, annealed.init(x), total + 1, trace_fn=keep
        )
        still, _, flat = mcmc.scan_steps(key, plain.step, plain.init(x), total, trace_fn=keep)
        wrong = wrong_noise(key, modes.score, x)
        return whole.position, still.position, path, flat, wrong

    whole, still, path, flat, wrong = jax.tree.map(np.asarray, run(jax.random.key(7), start))

    steps = np.arange(1, total + 1)
    drawing, axis = plt.subplots(figsize=(7.6, 3.9))
    # The sum of both coordinates is normal: means -10 and 10, variance 2 (1 + sigma^2).
    spread = np.sqrt(2 * (1 + np.asarray(LEVELS) ** 2))
    exact = 0.2 * norm.cdf(10 / spread) + 0.8 * norm.cdf(-10 / spread)
    axis.step(
        np.arange(len(LEVELS) + 1) * STEPS, np.append(exact, exact[-1]), where="post",
        color=figure.INK, linestyle="--", linewidth=1.2, label="exact, at this level",
    )  # fmt: skip
    axis.plot(steps, path[:total], color=figure.BLUE, label="annealed")
    axis.plot(steps, flat, color=figure.ORANGE, label="plain")
    axis.plot(steps, wrong, color=figure.RED, label=r"noise left at $\sqrt{\epsilon}$")
    axis.set_xticks(np.arange(len(LEVELS)) * STEPS)
    axis.set_xticklabels([f"{level:.3g}" for level in LEVELS])
    axis.set_xlabel(r"noise_scale $\sigma_i$, each for 100 steps")
    axis.set_ylabel("share in the small mode")
    axis.set_ylim(-0.02, 0.6)
    axis.legend(loc="upper right", ncols=2, bbox_to_anchor=(1.0, 0.86))
    figure.save(drawing, "langevin_weights")

    drawing, axes = plt.subplots(1, 3, figsize=(10, 3.5), sharex=True, sharey=True)
    draws = np.asarray(modes.sample(jax.random.key(12), CHAINS))
    for axis, title, cloud in zip(
        axes, ("exact draws", "plain", "annealed"), (draws, still, whole), strict=True
    ):
        axis.scatter(*cloud[:600].T, s=5, color=figure.BLUE, alpha=0.5, linewidths=0)
        axis.set_title(f"{title}: {np.mean(cloud.sum(axis=-1) < 0):.2f} lower left")
        axis.set_aspect("equal")
        axis.set_xticks([-5, 0, 5])
        axis.set_yticks([-5, 0, 5])
    figure.save(drawing, "langevin_clouds")


if __name__ == "__main__":
    bias()
    weights_and_clouds()
