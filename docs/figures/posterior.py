"""The posterior experiment in `docs/gallery.md`: where chains do not enter a funnel."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import mcmc, targets

TARGET = targets.funnel()


def draws() -> tuple[np.ndarray, np.ndarray]:
    """NUTS by the experiment's defaults: draws of eight chains, and which steps diverged."""
    kernel = mcmc.nuts_kernel(TARGET.log_density)
    starts = jax.random.uniform(jax.random.key(0), (8, 10), minval=-2.0, maxval=2.0)
    warm = mcmc.pooled_warmup(jax.random.key(1), kernel, starts, 500)
    run = mcmc.run_chains(
        jax.random.key(2), kernel, warm.states, 1000, params=warm.params, trace_fn=mcmc.trace_all
    )
    return run.trace.position, run.trace.info.is_divergent


def main() -> None:
    """Draw the funnel's neck, sampled and exact, and the first coordinate of each."""
    found, diverged = draws()
    exact = TARGET.sample(jax.random.key(3), 8000)
    points = found.reshape(-1, 10)
    drawing, axes = plt.subplots(1, 3, figsize=(9.2, 3.4), width_ratios=(1, 1, 0.8))
    some = jnp.arange(0, 8000, 9)
    for axis, x, colour, title in (
        (axes[0], exact[some], figure.BLUE, "exact draws"),
        (axes[1], points[some], figure.ORANGE, "NUTS, eight chains"),
    ):
        axis.plot(x[:, 1], x[:, 0], ".", color=colour, markersize=2.5)
        axis.set(title=title, xlabel="$x_1$", ylabel="$v$", xlim=(-25, 25), ylim=(-10, 9))
    bad = points[diverged.reshape(-1)]
    axes[1].plot(bad[:, 1], bad[:, 0], "x", color=figure.RED, label="divergent")
    axes[1].legend(loc="lower right")
    edges = np.linspace(-10, 9, 39)
    for x, colour in ((exact, figure.BLUE), (points, figure.ORANGE)):
        axes[2].hist(
            x[:, 0], edges, density=True, histtype="step", color=colour, orientation="horizontal"
        )
    axes[2].set(title="density of $v$", ylim=(-10, 9))
    shares = [float(np.mean(x[:, 0] < -5)) for x in (exact, points)]
    print("share of v below -5, exact and sampled:", *shares)
    figure.save(drawing, "posterior_funnel")


if __name__ == "__main__":
    main()
