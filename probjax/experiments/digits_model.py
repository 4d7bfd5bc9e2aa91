"""The parts of the digits experiment: scaling, network, objective, samplers.

>>> import jax
>>> from probjax.experiments import digits_model
>>> net = digits_model.make_network(digits_model.NetworkConfig())
>>> type(net).__name__
'DenoisingMixer'
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probjax import datasets, diffusion, mcmc, networks
from probjax.core import row_normal, stream
from probjax.core.keys import PRNGKey
from probjax.diffusion.parameterization import Denoiser
from probjax.experiments import training

SIGMA_DATA = 0.5
"""Pooled standard deviation that the pixels are scaled to."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The denoising network."""

    width: int = 64
    """Channels of a token."""
    token_width: int = 32
    """Hidden units of the mixing across tokens."""
    channel_width: int = 128
    """Hidden units of the mixing across channels."""
    num_blocks: int = 4
    """Residual blocks."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Multi-noise denoising score matching."""

    num_steps: int = 5000
    """Optimiser steps."""
    batch_size: int = 64
    """Rows in a step."""
    learning_rate: float = 3e-3
    """Highest rate of Adam, decayed to zero by a cosine."""
    warmup_steps: int = 200
    """Steps of linear growth of the rate."""
    ema_decay: float = 0.999
    """Decay of the parameters' moving average."""
    log_noise_mean: float = -1.2
    """Mean of the log noise scale."""
    log_noise_std: float = 1.2
    """Standard deviation of the log noise scale."""
    chunk_size: int = 100
    """Steps between two looks of the host."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the five samplers are run."""

    num_samples: int = 1000
    """Samples of each."""
    chunk_size: int = 250
    """Samples drawn at once."""
    max_noise_scale: float = 20.0
    """Where the samplers start."""
    min_noise_scale: float = 0.002
    """The last noise scale before the final denoising."""
    ddim_steps: int = 80
    """Denoiser evaluations of DDIM."""
    heun_steps: int = 20
    """Levels of Heun's method; two evaluations each but the last."""
    ancestral_steps: int = 80
    """Denoiser evaluations of ancestral sampling."""
    flow_tolerance: float = 1e-3
    """Relative and absolute tolerance of the probability flow's adaptive steps."""
    langevin_levels: int = 40
    """Noise scales of annealed Langevin dynamics, geometric."""
    langevin_steps: int = 5
    """Steps at each of them."""
    langevin_min_noise_scale: float = 0.02
    """The last of them."""
    langevin_step: float = 1.0
    """Step size over the squared noise scale."""


class Scaling(NamedTuple):
    """The affine map between pixels in [0, 1] and what the network sees."""

    mean: float
    """Mean pixel of the training images."""
    scale: float
    """Factor to `SIGMA_DATA`."""

    def rows(self, pixels: Float[Array, "n height width channels"]) -> Float[Array, "n d"]:
        """Scale images to rows."""
        return ((pixels - self.mean) * self.scale).reshape(pixels.shape[0], -1)

    def images(self, rows: Float[Array, "n 64"], levels: int) -> Float[Array, "n 8 8 1"]:
        """Scale rows back to images and round them to grey levels."""
        return datasets.quantise(rows.reshape(-1, 8, 8, 1) / self.scale + self.mean, levels)


def measure_scaling(train: datasets.Images) -> Scaling:
    """Measure mean and spread of the dequantised training images.

    Args:
        train: the training images.

    Returns:
        The scaling under which their pooled standard deviation is `SIGMA_DATA`.

    Example:
        >>> scaling = measure_scaling(datasets.load_digits())
        >>> round(float(scaling.rows(datasets.load_digits().images).std()), 1)
        0.5
    """
    spread = datasets.dequantise(jax.random.key(0), train.images, train.levels)
    return Scaling(float(jnp.mean(spread)), SIGMA_DATA / float(jnp.std(spread)))


def make_network(config: NetworkConfig) -> networks.DenoisingMixer:
    """Make the raw network that EDM preconditioning wraps.

    Args:
        config: its sizes.

    Returns:
        A flax module over rows `(*B, 64)`.

    Example:
        >>> make_network(NetworkConfig(num_blocks=2)).num_blocks
        2
    """
    return networks.DenoisingMixer(image_size=8, **dataclasses.asdict(config))


def denoiser(net: Any, params: Any) -> Denoiser:
    """Wrap the network's parameters into a denoiser.

    Args:
        net: the raw network.
        params: its parameters.

    Returns:
        `denoiser(x, noise_scale)`, row-wise.

    Example:
        >>> net = make_network(NetworkConfig())
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))
        >>> print(denoiser(net, params)(jnp.ones(64), 0.5)[:2])  # a fresh network knows nothing
        [0.5 0.5]
    """
    return diffusion.precondition(functools.partial(net.apply, params), SIGMA_DATA)


class Objective(NamedTuple):
    """What is trained: everything that a training step is made of."""

    params: Any
    """Parameters to start from."""
    loss_fn: training.LossFn
    """Multi-noise denoising score matching in EDM's weighting, one loss for each row."""
    batch_fn: Callable[[Array, Array], Array]
    """Images to dequantised, scaled rows."""
    optimizer: optax.GradientTransformation
    """Adam on its schedule."""


def make_objective(
    key: PRNGKey, config: TrainingConfig, net: Any, train: datasets.Images
) -> Objective:
    """Put network, loss, batches and optimiser together.

    Args:
        key: the run's key.
        config: the training's config.
        net: the raw network.
        train: the training images.

    Returns:
        The objective.

    Example:
        >>> objective = make_objective(jax.random.key(0), TrainingConfig(),
        ...                            make_network(NetworkConfig()), datasets.load_digits())
        >>> rows = objective.batch_fn(jax.random.key(1), datasets.load_digits().images[:3])
        >>> keys = jax.random.split(jax.random.key(2), 3)
        >>> objective.loss_fn(objective.params, keys, rows).shape
        (3,)
    """
    scaling = measure_scaling(train)

    def loss_fn(params, keys, rows):
        return diffusion.edm_loss(
            keys,
            denoiser(net, params),
            rows,
            sigma_data=SIGMA_DATA,
            mean=config.log_noise_mean,
            std=config.log_noise_std,
        )

    def batch_fn(key, images):
        return scaling.rows(datasets.dequantise(key, images, train.levels))

    params = jax.jit(net.init)(stream(key, "init"), jnp.zeros(64), jnp.zeros(()))
    optimizer = training.adam(config.learning_rate, config.num_steps, config.warmup_steps)
    return Objective(params, loss_fn, batch_fn, optimizer)


def samplers(
    config: SamplingConfig, apply: Callable[[Any], Denoiser]
) -> dict[str, tuple[Callable[..., tuple[Array, Array]], bool]]:
    """Make the five samplers, each a pure function of parameters and a key for each sample.

    All start from the same noise for the same key, so the three deterministic ones draw the same
    digit from it.

    Args:
        config: grids and steps.
        apply: parameters to denoiser.

    Returns:
        For each name, `draw(params, key) -> (x, num_evaluations)`, both over rows, and whether
        it passes `shard_map`'s VMA check (diffrax's loop does not).

    Example:
        >>> zero = lambda params: lambda x, noise_scale: 0.0 * x
        >>> sorted(samplers(SamplingConfig(), zero))
        ['DDIM', 'Heun', 'ancestral', 'annealed Langevin', 'probability flow']
    """
    high, low = config.max_noise_scale, config.min_noise_scale

    def start(key):
        return high * row_normal(stream(key, "init"), jnp.zeros((*key.shape, 64)))

    def scan(make: Callable[..., Any], num_steps: int):
        scales = diffusion.karras_noise_scales(num_steps, low, high)

        def draw(params, key):
            algorithm = make(apply(params), scales)
            out = diffusion.sample(stream(key, "noise"), algorithm, start(key), num_steps)
            return out.x, jnp.broadcast_to(out.num_evaluations, key.shape)

        return draw

    ladder = diffusion.geometric_noise_scales(
        config.langevin_levels, config.langevin_min_noise_scale, high
    )

    def langevin(params, key):
        x, info = mcmc.sample_annealed(
            stream(key, "noise"),
            diffusion.score_from_denoiser(apply(params)),
            start(key),
            ladder,
            num_steps_per_level=config.langevin_steps,
            epsilon=config.langevin_step * config.langevin_min_noise_scale**2,
        )
        return x, info.num_grad_evals

    def flow(params, key):
        solve = functools.partial(
            diffusion.sample_probability_flow,
            apply(params),
            start=high,
            stop=low,
            rtol=config.flow_tolerance,
            atol=config.flow_tolerance,
        )
        out = jax.vmap(lambda x: solve(x))(start(key))
        return out.x, out.num_evaluations

    return {
        "annealed Langevin": (langevin, True),
        "ancestral": (scan(diffusion.ancestral, config.ancestral_steps), True),
        "DDIM": (scan(diffusion.ddim, config.ddim_steps), True),
        "Heun": (scan(diffusion.heun, config.heun_steps), True),
        "probability flow": (flow, False),
    }
