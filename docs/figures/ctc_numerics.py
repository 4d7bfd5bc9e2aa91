"""The figure of `docs/sequence/numerics.md`: what float32 loses of CTC's gradient."""

import functools

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from probjax.core import logspace
from probjax.sequence import ctc, lattice

CLASSES, SEEDS = 32, 5
LENGTHS = (125, 400, 1250, 4000)


def by_logarithms(logits, labels, *, scaled: bool):
    """Return the gradient from exp(alpha + beta - loss), or from frames scaled one by one."""
    states, skip = lattice.extend_labels(labels)
    log_probs = jax.nn.log_softmax(logits)
    emitted = log_probs[:, states]
    nothing = jnp.full_like(emitted[0], -jnp.inf)

    def moved(x, by):
        return jnp.roll(jnp.concatenate([x, nothing[:2]]), by)[: x.shape[0]]

    def scale(x):
        return x - jnp.max(x) if scaled else x

    def forward(alpha, emission):
        into = [alpha, moved(alpha, 1), jnp.where(skip, moved(alpha, 2), -jnp.inf)]
        alpha = scale(logspace.logsumexp(jnp.stack(into), axis=0) + emission)
        return alpha, alpha

    def backward(beta, emission):
        ahead = beta + emission
        over = jnp.where(skip, ahead, -jnp.inf)
        into = [ahead, moved(ahead, -1), moved(over, -2)]
        return scale(logspace.logsumexp(jnp.stack(into), axis=0)), beta

    place = jnp.arange(states.shape[0])
    start = jnp.where(place == 0, 0.0, nothing)
    end = jnp.where(place >= states.shape[0] - 2, 0.0, nothing)
    _, alpha = jax.lax.scan(forward, start, emitted)
    _, beta = jax.lax.scan(backward, end, emitted, reverse=True)
    total = logspace.logsumexp(alpha[-1, -2:], axis=0)
    together = alpha + beta
    gamma = jax.nn.softmax(together, axis=-1) if scaled else jnp.exp(together - total)
    occupancy = gamma @ jax.nn.one_hot(states, logits.shape[-1], dtype=gamma.dtype)
    return jnp.exp(log_probs) - occupancy


def of_optax(logits, labels):
    """Return the gradient of `optax.ctc_loss`."""
    none = jnp.zeros((1, logits.shape[0])), jnp.zeros((1, labels.shape[0]))
    return jax.grad(lambda z: optax.ctc_loss(z[None], none[0], labels[None], none[1])[0])(logits)


METHODS = {
    r"$\exp(\ln\alpha+\ln\beta+\ell)$": functools.partial(by_logarithms, scaled=False),
    "optax": of_optax,
    "logarithms, scaled by frame": functools.partial(by_logarithms, scaled=True),
    "probjax": jax.grad(ctc.ctc_loss),
}
COLOURS = (figure.RED, figure.ORANGE, figure.GREEN, figure.BLUE)


def errors(num_frames: int) -> np.ndarray:
    """Return the largest error of each method's float32 gradient, for each seed."""
    found = np.zeros((SEEDS, len(METHODS)))
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(num_frames, CLASSES)).astype(np.float32)
        labels = rng.integers(1, CLASSES, size=num_frames // 10)
        truth = compiled("probjax", True)(logits.astype(np.float64), labels)
        for i, name in enumerate(METHODS):
            found[seed, i] = np.abs(compiled(name, False)(logits, labels) - truth).max()
    return found


@functools.cache
def compiled(name: str, double: bool):
    """Return a method as a function of NumPy arrays."""
    program = jax.jit(METHODS[name])

    def run(logits, labels):
        with jax.enable_x64(double):
            return np.asarray(program(jnp.asarray(logits), jnp.asarray(labels)), np.float64)

    return run


def growth() -> None:
    """Draw the error against the number of frames; a band spans the seeds."""
    drawing, axis = plt.subplots(figsize=(6.8, 4.2))
    found = np.array([errors(count) for count in LENGTHS])
    for i, (name, colour) in enumerate(zip(METHODS, COLOURS, strict=True)):
        axis.fill_between(
            LENGTHS, found[..., i].min(axis=1), found[..., i].max(axis=1),
            color=colour, alpha=0.2, linewidth=0,
        )  # fmt: skip
        axis.plot(LENGTHS, np.median(found[..., i], axis=1), "o-", color=colour, label=name)
        print(name, found[..., i].max(axis=1))
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(LENGTHS, [str(count) for count in LENGTHS])
    axis.minorticks_off()
    axis.set_xlabel("frames (ten for each label, 32 classes)")
    axis.set_ylabel("largest error of the gradient")
    axis.legend(fontsize=9)
    figure.save(drawing, "ctc_numerics")


if __name__ == "__main__":
    growth()
