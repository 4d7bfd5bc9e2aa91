"""The figure of `docs/score/noise_conditional.md`: gradients' spread, and weights of modes."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import mcmc, score, targets

CHAINS = 2048
STEPS = (12, 25, 50, 100, 200)
LEVELS = np.geomspace(20.0, 0.7, 10).astype(np.float32)
EPSILON = 0.1


def spreads(axis: plt.Axes) -> None:
    """Standard deviation of a row's gradient, data N(0, 1), at the true slope."""
    x, noise = jax.random.normal(jax.random.key(0), (2, 20_000, 1))

    @jax.jit
    def both(sigma: jax.Array) -> list[jax.Array]:
        losses = (
            lambda c: score.denoising_sm_from_noise(lambda v: c * v, x, noise, noise_scale=sigma),
            lambda c: score.target_sm_from_noise(lambda v: c * v, x, noise, -x, noise_scale=sigma),
        )
        slope = -1 / (1 + sigma**2)
        return [jax.jvp(loss, (slope,), (jnp.ones_like(slope),))[1].std() for loss in losses]

    scales = np.geomspace(0.01, 30.0, 24)
    found = np.array([[float(value) for value in both(jnp.float32(s))] for s in scales])
    axis.loglog(scales, found[:, 0], color=figure.BLUE, label="denoising_sm")
    axis.loglog(scales, found[:, 1], color=figure.ORANGE, label="target_sm")
    axis.set_xlabel(r"noise_scale $\sigma$")
    axis.set_title("spread of one row's gradient")
    axis.legend(loc="upper center")


def wrong_noise(start: jax.Array, num_steps: int) -> jax.Array:
    """Annealing whose noise is that of the last level throughout."""
    modes, levels = targets.two_modes(), jnp.asarray(LEVELS)

    def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        sigma = levels[t // num_steps]
        z = jax.random.normal(jax.random.fold_in(jax.random.key(5), t), x.shape)
        drift = 0.5 * EPSILON * (sigma / levels[-1]) ** 2 * modes.score(x, sigma)
        return x + drift + EPSILON**0.5 * z, None

    return jax.lax.scan(step, start, jnp.arange(len(LEVELS) * num_steps))[0]


def weights(axis: plt.Axes) -> None:
    """Share of chains in the small mode against the steps of a level."""
    modes = targets.two_modes()
    start = jax.random.uniform(jax.random.key(1), (CHAINS, 2), minval=-8.0, maxval=8.0)
    plain = mcmc.ula(modes.score, EPSILON, convention="song")
    found: dict[str, list[float]] = {"plain": [], "annealed": [], "annealed, wrong noise": []}
    for num_steps in STEPS:
        state, _, _ = mcmc.scan_steps(
            jax.random.key(2), plain.step, plain.init(start), len(LEVELS) * num_steps
        )
        x, _ = mcmc.sample_annealed(
            jax.random.key(3), modes.score, start, LEVELS,
            num_steps_per_level=num_steps, epsilon=EPSILON,
        )  # fmt: skip
        ends = state.position, x, jax.jit(wrong_noise, static_argnums=1)(start, num_steps)
        for values, end in zip(found.values(), ends, strict=True):
            values.append(float((end.sum(axis=-1) < 0).mean()))
    axis.axhline(0.2, color=figure.INK, linewidth=1.2, linestyle="--", label="truth")
    colours = (figure.ORANGE, figure.BLUE, figure.RED)
    for (name, values), colour in zip(found.items(), colours, strict=True):
        share = np.array(values)
        error = 3 * np.sqrt(share * (1 - share) / CHAINS)
        axis.errorbar(
            STEPS, share, error, color=colour, marker="o", markersize=4, capsize=3, label=name
        )
    axis.set_xscale("log")
    axis.set_xticks(STEPS, [str(steps) for steps in STEPS])
    axis.minorticks_off()
    axis.set_ylim(-0.03, 0.75)
    axis.set_xlabel("num_steps_per_level")
    axis.set_title("share of chains in the mode of weight 0.2")
    axis.legend(loc="upper right", ncols=2)


def main() -> None:
    """Draw both panels."""
    drawing, axes = plt.subplots(1, 2, figsize=(9.4, 3.9))
    spreads(axes[0])
    weights(axes[1])
    figure.save(drawing, "noise_conditional")


if __name__ == "__main__":
    main()
