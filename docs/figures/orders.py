"""The figure of `docs/diffeq/orders.md`: both orders of four methods."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffeq

jax.config.update("jax_enable_x64", True)

DRIFT, VOLATILITY = 0.5, 0.8
GROWTH = diffeq.SDE(lambda t, x: DRIFT * x, lambda t, x: VOLATILITY * x, "scalar")
STYLES = {
    "euler_maruyama": ("Euler-Maruyama", figure.BLUE, "o"),
    "milstein": ("Milstein", figure.ORANGE, "s"),
    "stochastic_heun": ("Heun", figure.GREEN, "^"),
    "weak2_platen": ("Platen", figure.RED, "D"),
}
COUNTS = (8, 16, 32, 64, 128, 256, 512)


def end(dw: jax.Array) -> jax.Array:
    """The end that belongs to the increments of a path."""
    return jnp.exp(DRIFT - VOLATILITY**2 / 2 + VOLATILITY * dw.sum(0))[None]


def guide(axis: plt.Axes, steps: np.ndarray, height: float, slope: float) -> None:
    """A dashed line of a slope, below the curve that it goes with."""
    axis.loglog(
        steps, height * (steps / steps[0]) ** slope, "--", color=figure.INK, linewidth=1, alpha=0.6
    )


def strong(axis: plt.Axes) -> None:
    """Mean absolute errors on coupled paths."""
    key = jax.random.key(0)
    for name, slope in (("euler_maruyama", 0.5), ("milstein", 1.0), ("stochastic_heun", 1.0)):
        label, colour, marker = STYLES[name]
        found = diffeq.strong_order(
            key, GROWTH, jnp.ones(1), 0.0, 1.0, method=name, exact_fn=end, num_steps=COUNTS
        )
        axis.loglog(
            found.steps, found.errors, marker=marker, color=colour, markersize=5,
            label=f"{label}: {found.order:.3f} $\\pm$ {found.standard_error:.3f}",
        )  # fmt: skip
        if name != "stochastic_heun":
            guide(axis, found.steps, 0.6 * found.errors[0], slope)
    axis.set_ylim(bottom=1e-4)
    axis.set_title(r"paths: $\mathbb{E}|X-Y|$")
    axis.set_xlabel("step $h$")
    axis.legend(loc="lower right")


def weak(axis: plt.Axes) -> None:
    """Errors of the second moment, computed."""
    exact = diffeq.gbm_moments(1.0, 1.0, drift=DRIFT, volatility=VOLATILITY)
    for name, (label, colour, marker) in STYLES.items():
        found = diffeq.weak_order_moments(
            GROWTH, 1.0, 0.0, 1.0, exact=exact, method=name, num_steps=COUNTS
        )[1]
        axis.loglog(
            found.steps, found.errors, marker=marker, color=colour, markersize=5,
            label=f"{label}: {found.order:.3f}",
        )  # fmt: skip
        if name in ("stochastic_heun", "weak2_platen"):
            guide(axis, found.steps, 0.5 * found.errors[0], round(found.order))
    axis.set_title(r"laws: $|\mathbb{E}X^2-\mathbb{E}Y^2|$")
    axis.set_xlabel("step $h$")
    axis.legend(loc="lower right")


def main() -> None:
    """Draw both panels."""
    drawing, axes = plt.subplots(1, 2, figsize=(9.4, 4.2))
    strong(axes[0])
    weak(axes[1])
    figure.save(drawing, "orders")


if __name__ == "__main__":
    main()
