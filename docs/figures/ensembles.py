"""The figures of `docs/diffeq/ensembles.md`: a bifurcation picture, and iterations per shard."""

import figure
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax.diffeq.ensemble import deal, solve_ensemble
from probjax.experiments.ensemble import lorenz, maxima

NUM = 1000
STEP = 0.002


def bifurcation() -> None:
    """Maxima of z of Lorenz's equations."""
    rho = jnp.linspace(20.0, 200.0, NUM)
    options = {"args": rho, "method": "rk4", "tile": 500}
    settled = solve_ensemble(
        lorenz, jnp.array([1.0, 0.0, 0.0]), 0.0, 8000 * STEP, in_axes=(None, 0), num_steps=8000,
        **options,
    ).y  # fmt: skip
    rows = solve_ensemble(
        lorenz, settled, 0.0, 5000 * STEP, in_axes=(0, 0), num_steps=5000, save_every=5, **options
    ).y
    which, heights = maxima(np.asarray(rows)[:, :, 2])
    counts, x, y = np.histogram2d(np.asarray(rho)[which], heights, bins=(360, 240))
    drawing, axis = plt.subplots(figsize=(7, 4))
    colours = plt.matplotlib.colors.LinearSegmentedColormap.from_list(
        "ink", [figure.BLUE + "40", figure.BLUE]
    )
    axis.imshow(
        np.ma.masked_equal(np.minimum(counts.T, 4), 0), origin="lower", aspect="auto",
        extent=(x[0], x[-1], y[0], y[-1]), cmap=colours, interpolation="nearest",
    )  # fmt: skip
    axis.grid(False)
    axis.set_xlabel(r"$\rho$")
    axis.set_ylabel("maxima of $z$")
    figure.save(drawing, "ensembles_bifurcation")


def van_der_pol(t: object, y: jnp.ndarray, mu: jnp.ndarray) -> jnp.ndarray:
    """A stiff oscillator for large mu."""
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def iterations() -> None:
    """Loop turns of eight shards, by how the items are dealt to them."""
    number, shards, tile = 1024, 8, 32
    mu = np.linspace(1.0, 100.0, number, dtype=np.float32)
    y0 = jnp.tile(jnp.array([2.0, 0.0]), (number, 1))
    steps = np.asarray(
        solve_ensemble(
            van_der_pol, y0, 0.0, 2.0, args=jnp.asarray(mu), in_axes=(0, 0), rtol=1e-5, atol=1e-6
        ).stats.num_steps
    )
    shuffled = np.random.default_rng(0).permutation(steps)
    dealt = steps[np.asarray(deal(jnp.asarray(steps), shards, tile)[0])]
    ways = {
        "one loop for all": np.full(shards, steps.max() * number // shards),
        "a loop for each shard": steps.reshape(shards, -1).max(1) * (number // shards),
        "tiles, shuffled": shuffled.reshape(shards, -1, tile).max(-1).sum(1) * tile,
        "tiles, sorted and dealt": dealt.reshape(shards, -1, tile).max(-1).sum(1) * tile,
    }
    drawing, axis = plt.subplots(figsize=(7, 3.4))
    width = 0.2
    for k, (name, turns) in enumerate(ways.items()):
        axis.bar(np.arange(shards) + (k - 1.5) * width, turns / 1e3, width, label=name)
        print(name, turns.max(), turns.sum())
    print("steps that are needed", steps.sum())
    axis.axhline(steps.sum() / shards / 1e3, color=figure.INK, linewidth=1, linestyle="--")
    axis.set_xlabel("shard")
    axis.set_ylabel("steps computed, thousands")
    axis.legend(fontsize=9, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.save(drawing, "ensembles_iterations")


if __name__ == "__main__":
    bifurcation()
    iterations()
