"""The parts of the digits experiment: scaling, network, objective.

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
from jaxtyping import Array, Float, Int

from probjax import datasets, diffusion, networks
from probjax.core import stream
from probjax.core.keys import PRNGKey
from probjax.diffusion.parameterization import Denoiser
from probjax.experiments import training

SIGMA_DATA = 0.5
"""Pooled standard deviation that the pixels are scaled to."""

NUM_CLASSES = 10
"""Digits; as a class it says "none"."""


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
    conditional: bool = True
    """Whether it takes a class. Without one there is nothing to guide."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Multi-noise denoising score matching."""

    num_steps: int = 7000
    """Optimiser steps."""
    batch_size: int = 64
    """Rows in a step."""
    learning_rate: float = 3e-3
    """Highest rate of Adam, decayed to zero by a cosine."""
    warmup_steps: int = 200
    """Steps of linear growth of the rate."""
    ema_decay: float = 0.999
    """Decay of the parameters' moving average."""
    label_dropout: float = 0.5
    """Share of the rows whose class is hidden, from which "none" is learned."""
    log_noise_mean: float = -1.2
    """Mean of the log noise scale."""
    log_noise_std: float = 1.2
    """Standard deviation of the log noise scale."""
    chunk_size: int = 100
    """Steps between two looks of the host."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""


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
        A flax module over rows `(*B, 64)`, and over their classes if it is conditional.

    Example:
        >>> make_network(NetworkConfig(num_blocks=2)).num_blocks
        2
    """
    sizes = dataclasses.asdict(config)
    num_classes = NUM_CLASSES if sizes.pop("conditional") else None
    return networks.DenoisingMixer(image_size=8, num_classes=num_classes, **sizes)


def denoiser(net: Any, params: Any, label: Int[Array, "*labels"] | None = None) -> Denoiser:
    """Wrap the network's parameters into a denoiser.

    Args:
        net: the raw network.
        params: its parameters.
        label: classes, a scalar or one for each row; `None`, or `NUM_CLASSES`, for no class.

    Returns:
        `denoiser(x, noise_scale)`, row-wise.

    Raises:
        ValueError: when called, a class for a network that takes none.

    Example:
        >>> net = make_network(NetworkConfig(width=8, num_blocks=1))
        >>> params = init_params(jax.random.key(0), net)
        >>> clean = jax.jit(denoiser(net, params))(jnp.ones(64), 0.5)
        >>> print(clean[:2])  # a fresh network knows nothing
        [0.5 0.5]
    """
    if label is None:
        return diffusion.precondition(functools.partial(net.apply, params), SIGMA_DATA)

    def raw(x: Array, c_noise: Array) -> Array:
        return net.apply(params, x, c_noise, jnp.broadcast_to(label, c_noise.shape))

    return diffusion.precondition(raw, SIGMA_DATA)


def draw_classes(key: Array) -> Int[Array, "*keys"]:
    """Draw a class, all equally likely, from each key.

    Args:
        key: one key, or a key for each row.

    Returns:
        Classes, int32.

    Example:
        >>> draw_classes(jax.random.split(jax.random.key(0), 5)).shape
        (5,)
    """
    flat = stream(key, "data").reshape(-1)
    classes = jax.vmap(lambda one: jax.random.randint(one, (), 0, NUM_CLASSES))(flat)
    return classes.reshape(key.shape)


def init_params(key: PRNGKey, net: Any) -> Any:
    """Draw the network's first parameters.

    Args:
        key: of the draw.
        net: the raw network.

    Returns:
        The parameters.

    Example:
        >>> net = make_network(NetworkConfig(width=8, conditional=False))
        >>> "classes" in init_params(jax.random.key(0), net)["params"]
        False
    """
    return jax.jit(net.init)(key, jnp.zeros(64), jnp.zeros(()))


class Objective(NamedTuple):
    """What is trained: everything that a training step is made of."""

    params: Any
    """Parameters to start from."""
    loss_fn: training.LossFn
    """Multi-noise denoising score matching in EDM's weighting, one loss for each row."""
    batch_fn: Callable[[Array, tuple[Array, Array]], tuple[Array, Array]]
    """Images and classes to dequantised, scaled rows and classes."""
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
        The objective. A row of class `NUM_CLASSES` is one without a class; of the others a share of
        `label_dropout` loses it in each step, by the row's own key.

    Example:
        >>> train = datasets.load_digits()
        >>> net = make_network(NetworkConfig(width=8, num_blocks=1))
        >>> objective = make_objective(jax.random.key(0), TrainingConfig(), net, train)
        >>> rows = objective.batch_fn(jax.random.key(1), (train.images[:3], train.labels[:3]))
        >>> keys = jax.random.split(jax.random.key(2), 3)
        >>> jax.jit(objective.loss_fn)(objective.params, keys, rows).shape
        (3,)
    """
    scaling = measure_scaling(train)
    conditional = net.num_classes is not None

    def loss_fn(params, keys, rows):
        rows, label = rows
        if conditional:
            chance = jax.vmap(jax.random.uniform)(stream(keys, "dropout"))
            label = jnp.where(chance < config.label_dropout, NUM_CLASSES, label)
        return diffusion.edm_loss(
            keys,
            denoiser(net, params, label if conditional else None),
            rows,
            sigma_data=SIGMA_DATA,
            mean=config.log_noise_mean,
            std=config.log_noise_std,
        )

    def batch_fn(key, examples):
        images, label = examples
        return scaling.rows(datasets.dequantise(key, images, train.levels)), label

    optimizer = training.adam(config.learning_rate, config.num_steps, config.warmup_steps)
    return Objective(init_params(stream(key, "init"), net), loss_fn, batch_fn, optimizer)
