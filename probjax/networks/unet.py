"""A small U-Net for images from 8x8 to 28x28.

>>> import jax, jax.numpy as jnp
>>> from probjax.networks import UNet
>>> net = UNet(widths=(8, 16))
>>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()))
>>> jax.jit(net.apply)(params, jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)).shape
(2, 8, 8, 1)
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.networks.features import noise_features


class _Block(nn.Module):
    """Two 3x3 convolutions around a noise-dependent scale and shift, with a shortcut."""

    width: int

    @nn.compact
    def __call__(self, x, embedded):
        inner = nn.Conv(self.width, (3, 3))(nn.silu(nn.GroupNorm(_groups(x.shape[-1]))(x)))
        scale, shift = jnp.split(nn.Dense(2 * self.width)(embedded)[:, None, None, :], 2, axis=-1)
        inner = nn.GroupNorm(_groups(self.width))(inner) * (1 + scale) + shift
        inner = nn.Conv(self.width, (3, 3), kernel_init=nn.initializers.zeros)(nn.silu(inner))
        shortcut = x if x.shape[-1] == self.width else nn.Dense(self.width)(x)
        return shortcut + inner


class UNet(nn.Module):
    """Down and up again with skip connections: one resolution for each width.

    Args:
        widths: channels at each resolution, each half the one before. Height and width must be
            divisible by `2 ** (len(widths) - 1)`: 8x8 takes up to four, 28x28 up to three.
        num_blocks: residual blocks at each resolution, on the way down and on the way up.
        num_features: features of the noise level.

    Raises:
        ValueError: the image's sides are not divisible so, or `skip_scale` has another length
            than there are skips.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = UNet(widths=(8, 8, 8))
        >>> x = jnp.zeros((28, 28, 1))
        >>> params = jax.jit(net.init)(jax.random.key(0), x, jnp.zeros(()))
        >>> jax.jit(net.apply)(params, x, jnp.zeros(())).shape
        (28, 28, 1)

    References:
        Ronneberger et al. (2015); Ho et al. (2020) for the noise-conditioned residual block.
    """

    widths: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    num_features: int = 32

    @property
    def num_skips(self) -> int:
        """How many skip connections there are, which is the length of `skip_scale`."""
        return len(self.widths) * self.num_blocks

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch h w c"],
        c_noise: Float[Array, "*batch"],
        skip_scale: Float[Array, "num_skips"] | None = None,
    ) -> Float[Array, "*batch h w c"]:
        """Map images `(*B, h, w, c)` at levels `(*B,)` to images of the same shape.

        `skip_scale` multiplies the skips, the one nearest the input first (`(num_skips,)`, from
        `diffusion.skip_scales`); without it, and with concrete ones, they pass as they are.
        """
        shape, channels = x.shape, x.shape[-1]
        factor = 2 ** (len(self.widths) - 1)
        if shape[-3] % factor or shape[-2] % factor:
            raise ValueError(
                f"x must have sides divisible by {factor} for {len(self.widths)} widths, "
                f"got {shape[-3]}x{shape[-2]}"
            )
        if skip_scale is not None:
            checks.shape("skip_scale", skip_scale, (self.num_skips,))
        x = x.reshape(math.prod(shape[:-3]), *shape[-3:])
        embedded = noise_features(c_noise.reshape(-1), num_features=self.num_features)
        embedded = nn.silu(nn.Dense(4 * self.widths[0])(embedded))
        x = nn.Conv(self.widths[0], (3, 3))(x)
        skips = []
        for level, width in enumerate(self.widths):
            if level:
                x = _halved(x)
            for _ in range(self.num_blocks):
                x = _Block(width)(x, embedded)
                gain = None if skip_scale is None else skip_scale[len(skips)].astype(x.dtype)
                skips.append(x if gain is None else gain * x)
        for level, width in reversed(list(enumerate(self.widths))):
            for _ in range(self.num_blocks):
                x = _Block(width)(jnp.concatenate([x, skips.pop()], axis=-1), embedded)
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = nn.silu(nn.GroupNorm(_groups(self.widths[0]))(x))
        return nn.Conv(channels, (3, 3), kernel_init=nn.initializers.zeros)(x).reshape(shape)


def _halved(x: Array) -> Array:
    """Mean of each 2x2 square of pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _groups(width: int) -> int:
    """Up to eight groups, at least four channels in each."""
    return math.gcd(width, max(1, min(8, width // 4)))
