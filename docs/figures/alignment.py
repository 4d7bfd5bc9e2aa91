"""The figure of `docs/sequence/alignment.md`: occupancy, the best path, and drawn paths."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax.sequence import alignment, posteriors

FRAMES, DRAWS = 16, 40
LABELS = (1, 1, 2)
NAMES = (
    r"$\varnothing$",
    "$a$",
    r"$\varnothing$",
    "$a$",
    r"$\varnothing$",
    "$b$",
    r"$\varnothing$",
)


def scores() -> np.ndarray:
    """Return logits of three classes: an a that is clear, one that is not, and a b."""
    t = np.arange(FRAMES)

    def bump(centre: float, width: float, height: float) -> np.ndarray:
        return height * np.exp(-0.5 * ((t - centre) / width) ** 2)

    blank = np.full(FRAMES, 1.2)
    a = bump(2.0, 1.0, 4.0) + bump(7.0, 1.6, 2.2)
    b = bump(12.0, 1.8, 2.4)
    return np.stack([blank, a, b], axis=-1)


def lattice() -> None:
    """Draw the lattice twice: what is likely in each frame, and whole paths."""
    logits, labels = jnp.asarray(scores(), jnp.float32), jnp.array(LABELS)
    best = jax.jit(alignment.ctc_align)(logits, labels)
    gamma = np.asarray(jax.jit(posteriors.ctc_posteriors)(logits, labels).state_posterior)
    sample = jax.jit(alignment.ctc_sample_alignment, static_argnames="num_samples")
    draws = sample(jax.random.key(3), logits, labels, num_samples=DRAWS)

    drawing, axes = plt.subplots(1, 2, figsize=(10, 4.0), sharex=True, sharey=True)
    t, states = np.meshgrid(np.arange(FRAMES), np.arange(len(NAMES)), indexing="ij")
    t, states, area = t.ravel(), states.ravel(), 170 * gamma.ravel()
    for axis in axes:
        axis.plot(t, states, ".", color=figure.INK, markersize=2, alpha=0.35)
        axis.set_xlabel("frame")
        axis.set_yticks(range(len(NAMES)), NAMES)
        axis.set_xticks(range(0, FRAMES, 5))
        axis.grid(visible=False)
    axes[0].scatter(t, states, s=area, color=figure.BLUE, linewidths=0, alpha=0.55)
    axes[0].plot(np.asarray(best.states), color=figure.ORANGE, linewidth=2.2)
    for i, (start, end) in enumerate(zip(best.starts.tolist(), best.ends.tolist(), strict=True)):
        axes[0].plot([start - 0.4, end - 0.6], [-0.8, -0.8], color=figure.GREEN, linewidth=5)
        axes[0].text(
            (start + end - 1) / 2, -1.25, f"$y_{i + 1}$", color=figure.GREEN, ha="center", va="top"
        )
    axes[0].set_title("occupancy, and the best path")
    shift = 0.16 * np.random.default_rng(0).uniform(-1, 1, size=DRAWS)
    for walk, move in zip(np.asarray(draws.states), shift, strict=True):
        axes[1].plot(walk + move, color=figure.BLUE, linewidth=0.8, alpha=0.5)
    axes[1].set_title(f"{DRAWS} draws")
    axes[0].set_ylim(-2.0, len(NAMES) - 0.5)
    axes[0].set_ylabel("state")
    figure.save(drawing, "alignment_lattice")


if __name__ == "__main__":
    lattice()
