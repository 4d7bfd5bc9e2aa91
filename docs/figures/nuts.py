"""The figure of `docs/mcmc/nuts.md`: the doublings of one trajectory on a bent density."""

import figure
import matplotlib.pyplot as plt
import numpy as np

STEP, START, MOMENTUM = 0.25, np.array([-1.1, 0.5]), np.array([1.0, -1.2])
DIRECTIONS = (1, -1, -1, 1)
COLOURS = (figure.INK, figure.ORANGE, figure.GREEN, figure.BLUE, figure.RED)


def potential(x: np.ndarray) -> np.ndarray:
    """Minus the log density of a small banana."""
    return 0.5 * x[..., 0] ** 2 / 1.2**2 + 0.5 * ((x[..., 1] - 0.6 * x[..., 0] ** 2) / 0.45) ** 2


def gradient(x: np.ndarray) -> np.ndarray:
    """Its gradient."""
    off = (x[1] - 0.6 * x[0] ** 2) / 0.45**2
    return np.array([x[0] / 1.2**2 - 1.2 * x[0] * off, off])


def leapfrog(x: np.ndarray, p: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """One step."""
    p = p - 0.5 * sign * STEP * gradient(x)
    x = x + sign * STEP * p
    return x, p - 0.5 * sign * STEP * gradient(x)


def grow() -> tuple[list, list, int]:
    """States in order of the orbit, the doubling of each, and how many doublings there were."""
    states, ages = [(START, MOMENTUM)], [0]
    for age, sign in enumerate(DIRECTIONS, start=1):
        for _ in range(len(states)):
            new = leapfrog(*states[-1 if sign > 0 else 0], sign)
            at = len(states) if sign > 0 else 0
            states.insert(at, new)
            ages.insert(at, age)
        rho = sum(p for _, p in states)
        if min(states[0][1] @ rho, states[-1][1] @ rho) <= 0:
            break
    return states, ages, age


def main() -> None:
    """Draw the states by doubling, the ends, and one drawn by weight."""
    states, ages, last = grow()
    drawing, axis = plt.subplots(figsize=(6.6, 4.4))
    one, two = np.meshgrid(np.linspace(-3, 3, 200), np.linspace(-1.6, 4.4, 200))
    density = np.exp(-potential(np.stack([one, two], axis=-1)))
    axis.contour(one, two, density, levels=[0.02, 0.1, 0.3, 0.6, 0.9], colors=figure.INK,
                 linewidths=0.7, alpha=0.35)  # fmt: skip
    x = np.array([x for x, _ in states])
    axis.plot(*x.T, color=figure.INK, linewidth=0.8, alpha=0.6)
    for age in range(last + 1):
        chosen = x[np.array(ages) == age]
        label = "start" if age == 0 else f"doubling {age}: {len(chosen)} more"
        axis.plot(*chosen.T, "o", color=COLOURS[age], markersize=7 if age else 9, label=label)
    axis.plot(*x[[0, -1]].T, "--", color=figure.INK, linewidth=1.2)
    for position, momentum in (states[0], states[-1]):
        axis.annotate("", position + 0.7 * momentum / np.linalg.norm(momentum), position,
                      arrowprops={"arrowstyle": "->", "color": figure.INK, "lw": 1.6})  # fmt: skip
    energy = [potential(x) + 0.5 * p @ p for x, p in states]
    weights = np.exp(-np.array(energy))
    drawn = np.random.default_rng(1).choice(len(states), p=weights / weights.sum())
    axis.plot(*x[drawn], "o", markersize=15, markerfacecolor="none", color=figure.INK,
              markeredgewidth=1.8, label="drawn")  # fmt: skip
    axis.set_xlabel("$x_0$")
    axis.set_ylabel("$x_1$")
    axis.legend(loc="upper center", fontsize=9, ncols=2)
    figure.save(drawing, "nuts_tree")
    print(f"{len(states)} states, turned after doubling {last}")


if __name__ == "__main__":
    main()
