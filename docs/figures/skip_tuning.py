"""The figure of `docs/diffusion/skip_tuning.md`: a small U-Net on digits, its skips turned down.

Trains for about half a minute, then samples with 4, 6 and 10 evaluations at each gain.
"""

import time

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from probjax import datasets, diffusion, metrics
from probjax.core import keys
from probjax.networks import UNet

STEPS, BATCH, SAMPLES, SIGMA_DATA = 600, 64, 800, 0.5
GAINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
COUNTS = (4, 6, 10)
NET = UNet(widths=(16, 32))


def load() -> tuple[jax.Array, jax.Array]:
    """Training and test digits, centred, with a pooled standard deviation of one half."""
    train, test = (datasets.load_digits(split=split).images for split in ("train", "test"))
    mean, scale = train.mean(), train.std() / SIGMA_DATA
    return (train - mean) / scale, (test - mean) / scale


def denoiser_of(params: dict, gain: jax.Array | None) -> diffusion.parameterization.Denoiser:
    """The network with its skips multiplied by `gain`: all, since there are only two of them."""
    scales = None if gain is None else diffusion.skip_scales(NET.num_skips, gain, gain)
    return diffusion.precondition(
        lambda x, c_noise: NET.apply(params, x, c_noise, scales), SIGMA_DATA, event_ndim=3
    )


def loss_fn(params: dict, key: jax.Array, x: jax.Array, gain: jax.Array | None) -> jax.Array:
    """The loss that the network was trained with, one value for each image."""
    denoiser = denoiser_of(params, gain)
    return diffusion.edm_loss(key, denoiser, x, sigma_data=SIGMA_DATA, event_ndim=3) / 64


def train(x: jax.Array) -> dict:
    """Adam with a cosine schedule, and the average of the weights over the last steps."""
    params = jax.jit(NET.init)(jax.random.key(0), x[:1], jnp.zeros(1))
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))

    @jax.jit
    def step(t, params, average, state):
        row_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.key(1), t))
        batch = x[jax.random.randint(row_key, (BATCH,), 0, x.shape[0])]
        grads = jax.grad(lambda p: loss_fn(p, noise_key, batch, None).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, average, 0.02), state

    average, state = params, optimizer.init(params)
    for t in range(STEPS):
        params, average, state = step(t, params, average, state)
    return average


def measure(params: dict, test: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Squared sliced Wasserstein distance to the test digits, and the loss on them; with errors."""
    noise = 80.0 * jax.random.normal(jax.random.key(2), (SAMPLES, 8, 8, 1))

    def distance(gain, num_steps):
        grid = diffusion.karras_noise_scales(num_steps)
        algorithm = diffusion.ddim(denoiser_of(params, gain), grid, event_ndim=3)
        drawn = diffusion.sample(jax.random.key(3), algorithm, noise, num_steps).x
        return metrics.sliced_wasserstein(jax.random.key(4), drawn, test, num_projections=512)

    jitted = jax.jit(distance, static_argnums=1)
    far = np.array([[jitted(jnp.float32(gain), n) for gain in GAINS] for n in COUNTS])
    whole = jax.jit(lambda gain, key: loss_fn(params, key, test, gain))
    draws = keys.item_keys(jax.random.key(5), 4)
    rows = np.array([np.mean([whole(jnp.float32(g), key) for key in draws], 0) for g in GAINS])
    return far, np.stack([rows.mean(1), rows.std(1) / rows.shape[1] ** 0.5], -1)


def main() -> None:
    """Train, measure and draw."""
    begun = time.perf_counter()
    train_images, test = load()
    params = train(train_images)
    print(f"trained in {time.perf_counter() - begun:.0f} s")
    far, loss = measure(params, test)
    floor = metrics.sliced_wasserstein(
        jax.random.key(4), train_images[:SAMPLES], test, num_projections=512
    )
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.8))
    for row, count, colour, marker in zip(
        far, COUNTS, (figure.RED, figure.ORANGE, figure.BLUE), "s^o", strict=True
    ):
        print(count, " ".join(f"{g:g}:{v:.4f}({e:.4f})" for g, (v, e) in zip(GAINS, row)))  # noqa: B905
        left.errorbar(
            GAINS, row[:, 0], row[:, 1], color=colour, marker=marker, markersize=4, capsize=2,
            label=f"{count} evaluations",
        )  # fmt: skip
        best = int(row[:, 0].argmin())
        left.plot(GAINS[best], row[best, 0], "o", ms=11, mfc="none", mec=colour)
    print(f"floor {floor.value:.4f}, loss", " ".join(f"{v:.4f}({e:.4f})" for v, e in loss))
    left.axhline(float(floor.value), color=figure.GREEN, linestyle="--", label="real digits")
    left.set_yscale("log")
    left.set_xlabel(r"gain of the skips $\rho$")
    left.set_title("squared sliced Wasserstein distance")
    left.set_ylim(4e-4, 3e-2)
    left.legend(fontsize="small", loc="lower left", ncols=2)
    right.errorbar(GAINS, loss[:, 0], loss[:, 1], color=figure.INK, marker="o", ms=4, capsize=2)
    right.set_xlabel(r"gain of the skips $\rho$")
    right.set_title("denoising loss per pixel, test digits")
    figure.save(drawing, "skip_tuning")
    print(f"in all {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
