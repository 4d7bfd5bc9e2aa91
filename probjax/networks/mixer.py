"""An MLP-Mixer over image patches that denoises.

>>> import jax, jax.numpy as jnp
>>> from probjax.networks import DenoisingMixer
>>> net = DenoisingMixer(image_size=8)
>>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))
>>> jax.jit(net.apply)(params, jnp.zeros((5, 64)), jnp.zeros(5)).shape
(5, 64)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.networks.features import noise_features


class DenoisingMixer(nn.Module):
    r"""Patches of a square image as tokens; each block mixes across tokens, then across channels.

    With $Z\in\mathbb R^{\text{tokens}\times width}$ and $n_e$ layer normalisation whose scale and
    shift are linear in the embedded condition $e$,

    $$Z \leftarrow Z + A_2\,a(A_1\,n_e(Z)),\qquad Z \leftarrow Z + a(n_e(Z)\,B_1)\,B_2$$

    $$e=\mathrm{silu}\big(W\,\text{features}(c\_noise)+b+C_{label}\big)$$

    $C$ has a learned row for each of `num_classes` classes, zero at the start. Without a class its
    term is left out: the same parameters are the conditional network and the unconditional one, as
    classifier-free guidance wants.

    The channel layers share their weights over the patches. On a thousand images that is what
    separates learning to draw strokes from learning the images by heart, as `DenoisingMLP` does.
    All its work is matrix products.

    Args:
        image_size: side of the image; a row is a flattened image of `image_size**2` pixels.
        patch_size: side of a patch; must divide `image_size`.
        width: channels of a token.
        token_width: hidden units of the mixing across tokens.
        channel_width: hidden units of the mixing across channels.
        num_blocks: residual blocks.
        embedding_width: width of the embedded condition.
        num_classes: how many classes a row may be told to have; `None` for a network that is not
            told any.

    Raises:
        ValueError: `patch_size` does not divide `image_size`, rows have another length, or a label
            is given to a network without classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = DenoisingMixer(image_size=4, width=8)
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(16), jnp.zeros(()))
        >>> float(jnp.abs(jax.jit(net.apply)(params, jnp.ones(16), jnp.zeros(()))).max())
        0.0

    References:
        Tolstikhin et al. (2021), MLP-Mixer; Peebles and Xie (2023) for the modulated norm; Ho and
        Salimans (2022) for the conditional and the unconditional network in one.
    """

    image_size: int
    patch_size: int = 2
    width: int = 64
    token_width: int = 32
    channel_width: int = 128
    num_blocks: int = 4
    embedding_width: int = 128
    num_classes: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch d"],
        c_noise: Float[Array, "*batch"],
        label: Int[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch d"]:
        """Map rows `(*B, d)` at levels `(*B,)` to rows `(*B, d)`.

        A label `(*B,)` is a class, or -1 or `num_classes` for a row without one; no labels mean
        that no row has one.
        """
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size must divide image_size={self.image_size}, got {self.patch_size}"
            )
        if x.shape[-1] != self.image_size**2:
            raise ValueError(f"x must have rows of {self.image_size**2}, got shape {x.shape}")
        if label is not None and self.num_classes is None:
            raise ValueError("label must be None without num_classes, got an array")
        shape = x.shape
        x, c_noise = x.reshape(c_noise.size, shape[-1]), c_noise.reshape(-1)
        embedded = nn.Dense(self.embedding_width)(noise_features(c_noise))
        if self.num_classes is not None:
            table = (self.num_classes, self.embedding_width)
            classes = self.param("classes", nn.initializers.zeros, table)
            if label is not None:  # a row of zeros where there is no such class
                chosen = jax.nn.one_hot(label.reshape(-1), self.num_classes, dtype=classes.dtype)
                embedded = embedded + chosen @ classes
        embedded = nn.silu(embedded)
        # Tokens lead, (tokens, rows, channels): both mixings are then plain matrix products.
        tokens = nn.Dense(self.width)(self._patches(x))
        position = self.param("position", nn.initializers.normal(0.5), (len(tokens), self.width))
        tokens = tokens + position[:, None, :]
        for _ in range(self.num_blocks):
            tokens = tokens + _TokenMix(self.token_width)(_Modulated()(tokens, embedded))
            tokens = tokens + _ChannelMix(self.channel_width)(_Modulated()(tokens, embedded))
        out = nn.Dense(self.patch_size**2, kernel_init=nn.initializers.zeros)
        return self._rows(out(nn.LayerNorm()(tokens))).reshape(shape)

    def _patches(self, x):
        side, count = self.patch_size, self.image_size // self.patch_size
        grid = x.reshape(x.shape[0], count, side, count, side)
        return grid.transpose(1, 3, 0, 2, 4).reshape(count**2, x.shape[0], side**2)

    def _rows(self, patches):
        side, count = self.patch_size, self.image_size // self.patch_size
        grid = patches.reshape(count, count, patches.shape[1], side, side)
        return grid.transpose(2, 0, 3, 1, 4).reshape(patches.shape[1], self.image_size**2)


class _Modulated(nn.Module):
    """Layer norm whose scale and shift, one pair for each row, are linear in the embedding."""

    @nn.compact
    def __call__(self, tokens, embedded):
        scale, shift = jnp.split(nn.Dense(2 * tokens.shape[-1])(embedded)[None], 2, axis=-1)
        return nn.LayerNorm(use_scale=False, use_bias=False)(tokens) * (1 + scale) + shift


class _ChannelMix(nn.Module):
    """Two dense layers over the last axis, the second zero at the start."""

    hidden: int

    @nn.compact
    def __call__(self, x):
        inner = nn.silu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(inner)


class _TokenMix(nn.Module):
    """The same over the first axis."""

    hidden: int

    @nn.compact
    def __call__(self, x):
        inner = nn.silu(_LeadingDense(self.hidden)(x))
        return _LeadingDense(x.shape[0], kernel_init=nn.initializers.zeros)(inner)


class _LeadingDense(nn.Module):
    """A dense layer over the first axis, as one product with nothing transposed."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[0], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mixed = kernel.T @ x.reshape(x.shape[0], -1) + bias[:, None]
        return mixed.reshape(self.features, *x.shape[1:])
