"""The mixer of the digits experiment with a class beside the noise level.

>>> import jax, jax.numpy as jnp
>>> from probjax.experiments.digits_network import ClassMixer
>>> net = ClassMixer(image_size=8, num_classes=10)
>>> rows, levels, labels = jnp.zeros((3, 64)), jnp.zeros(3), jnp.array([0, 9, 10])
>>> params = jax.jit(net.init)(jax.random.key(0), rows, levels, labels)
>>> jax.jit(net.apply)(params, rows, levels, labels).shape
(3, 64)
"""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from probjax.networks import DenoisingMixer, noise_features
from probjax.networks.mixer import _ChannelMix, _Modulated, _TokenMix


class ClassMixer(DenoisingMixer):
    r"""`networks.DenoisingMixer` whose blocks are modulated by the noise level and by a class.

    $$e=\mathrm{silu}\big(W\,\text{features}(c\_noise)+b+C_{label}\big)$$

    with one learned row of $C$ for each class and one more, `label = num_classes`, for "none": the
    same parameters are the conditional network and the unconditional one. $C$ starts at zero.

    Args:
        num_classes: how many classes there are besides "none".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = ClassMixer(image_size=4, width=8, num_classes=2)
        >>> inputs = jnp.zeros(16), jnp.zeros(()), jnp.int32(2)
        >>> params = jax.jit(net.init)(jax.random.key(0), *inputs)
        >>> params["params"]["classes"].shape
        (3, 128)

    References:
        Ho and Salimans (2022) for training both networks as one.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch d"],
        c_noise: Float[Array, "*batch"],
        label: Int[Array, "*batch"],
    ) -> Float[Array, "*batch d"]:
        """Map rows `(*B, d)` at levels `(*B,)` and of classes `(*B,)` to rows `(*B, d)`."""
        shape = x.shape
        x = x.reshape(c_noise.size, shape[-1])
        classes = self.param(
            "classes", nn.initializers.zeros, (self.num_classes + 1, self.embedding_width)
        )
        embedded = nn.Dense(self.embedding_width)(noise_features(c_noise.reshape(-1)))
        embedded = nn.silu(embedded + classes[label.reshape(-1)])
        tokens = nn.Dense(self.width)(self._patches(x))
        position = self.param("position", nn.initializers.normal(0.5), (len(tokens), self.width))
        tokens = tokens + position[:, None, :]
        for _ in range(self.num_blocks):
            tokens = tokens + _TokenMix(self.token_width)(_Modulated()(tokens, embedded))
            tokens = tokens + _ChannelMix(self.channel_width)(_Modulated()(tokens, embedded))
        out = nn.Dense(self.patch_size**2, kernel_init=nn.initializers.zeros)
        return self._rows(out(nn.LayerNorm()(tokens))).reshape(shape)
