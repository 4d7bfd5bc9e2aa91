r"""Networks that read a line of text: an encoder of columns, and a transducer around it.

>>> import jax, jax.numpy as jnp
>>> from probjax.networks import line_encoder
>>> net = line_encoder.LineEncoder(11)
>>> images = jnp.zeros((2, 10, 100))
>>> params = jax.eval_shape(net.init, jax.random.key(0), images)
>>> jax.eval_shape(net.apply, params, images).shape  # lines, frames, classes
(2, 50, 11)
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.core import checks

INK_MEAN, INK_SCALE = 0.2, 0.33
"""About the mean and the deviation of the pixels of a line. Without unit scale throughout (He's
initial weights do the rest) training stays at naming blanks for hundreds of steps."""


class LineEncoder(nn.Module):
    r"""Three convolutions along the columns of an image; the second takes every other column.

    A column's pixels are its channels, so the layers look along the line only:

    $$h^{(l)}_t=\text{relu}\Big(b^{(l)}+\sum_{j}W^{(l)}_j\,h^{(l-1)}_{r_l t+j}\Big),\qquad
      r=(1,2,1),\qquad\text{output}_t=A\,h^{(3)}_t+a$$

    from $h^{(0)}=(\text{image}-0.2)/0.33$, which is zero outside the image.

    Frame $t$ stands over columns $2t$ and $2t+1$. It sees $4k-3$ columns with kernels of $k$
    taps, 17 by default: two digits, not the line.

    Args:
        num_outputs: numbers for each frame: classes, the blank among them, or features.
        widths: channels of the three layers.
        kernel_size: taps of each, odd.

    Raises:
        ValueError: the width of the images is odd, or `kernel_size` is even.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = LineEncoder(3, widths=(4, 4, 4))
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((10, 12)))
        >>> jax.jit(net.apply)(params, jnp.ones((10, 12))).shape
        (6, 3)

    References:
        Graves and others 2006 for reading by frames; the network is our own choice.
    """

    num_outputs: int
    widths: tuple[int, int, int] = (64, 128, 128)
    kernel_size: int = 5

    @nn.compact
    def __call__(
        self, images: Float[Array, "*batch height width"]
    ) -> Float[Array, "*batch frames outputs"]:
        """Map images `(*B, height, 2T)` to frames `(*B, T, num_outputs)`."""
        batch, (height, width) = images.shape[:-2], images.shape[-2:]
        if width % 2:
            raise ValueError(f"images must have an even width, got shape {images.shape}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        x = jnp.swapaxes(images, -1, -2).reshape(math.prod(batch), width, height)
        x = (x - INK_MEAN) / INK_SCALE
        half = self.kernel_size // 2
        for channels, stride in zip(self.widths, (1, 2, 1), strict=True):
            # The same margin on both sides: a frame stands in the middle of what it sees.
            padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
            stop = x.shape[1]
            taps = [padded[:, j : j + stop : stride] for j in range(self.kernel_size)]
            # One matrix product: inside a loop XLA's convolutions are many times slower on CPUs.
            layer = nn.Dense(channels, kernel_init=nn.initializers.he_normal())
            x = nn.relu(layer(jnp.concatenate(taps, axis=-1)))
        return nn.Dense(self.num_outputs)(x).reshape(*batch, width // 2, self.num_outputs)


class LineTransducer(nn.Module):
    r"""A transducer over lines: what was seen and what was last written, joined for each pair.

    $$\text{logits}_{tu}=A\tanh(f_t+g_u)+a,\qquad f=\text{LineEncoder}(image),\qquad
      g_u=\text{MLP}(\text{embedding}(y_u))$$

    where $y_0$ is the blank, for nothing written yet. The predictor sees one label back only:
    random digits offer no more to learn. Take a lattice in which a label ends its frame
    (`"modified"` or `"constrained"`): with the last label alone, a frame that has just written a 3
    cannot be told from one that is to write a 3 behind a 3.

    Args:
        num_classes: classes, the blank among them.
        blank_id: class of the blank, in `[0, num_classes)`.
        width: of both parts and of the joint.
        encoder_widths: channels of the encoder's layers.
        kernel_size: their taps.

    Raises:
        ValueError: `blank_id` is no class, or as for `LineEncoder`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = LineTransducer(11, blank_id=10)
        >>> inputs = jnp.zeros((2, 10, 100)), jnp.zeros((2, 9), jnp.int32)
        >>> params = jax.eval_shape(net.init, jax.random.key(0), *inputs)
        >>> jax.eval_shape(net.apply, params, *inputs).shape
        (2, 50, 10, 11)

    References:
        Graves 2012 for the transducer; Ghodsi and others 2020 for a predictor without recurrence.
    """

    num_classes: int
    blank_id: int = 0
    width: int = 128
    encoder_widths: tuple[int, int, int] = (64, 128, 128)
    kernel_size: int = 5

    def setup(self) -> None:
        """Make the layers."""
        if not 0 <= self.blank_id < self.num_classes:
            raise ValueError(f"blank_id must be in [0, {self.num_classes}), got {self.blank_id}")
        checks.at_least("width", self.width, 1)
        self.encoder = LineEncoder(self.width, self.encoder_widths, self.kernel_size)
        self.embedding = nn.Embed(self.num_classes, self.width)
        self.inner, self.outer = nn.Dense(self.width), nn.Dense(self.width)
        self.output, self.frames = nn.Dense(self.num_classes), nn.Dense(self.num_classes)

    def __call__(
        self,
        images: Float[Array, "*batch height width"],
        labels: Int[Array, "*batch labels"],
    ) -> Float[Array, "*batch frames states classes"]:
        """Logits of every frame after every number of labels, `(*B, T, U + 1, V)`."""
        first = jnp.full_like(labels[..., :1], self.blank_id)
        written = self.predict(jnp.concatenate([first, labels], axis=-1))
        seen = self.encode(images)
        if self.is_initializing():
            self.name_frames(seen)
        return self.join(seen[..., :, None, :], written[..., None, :, :])

    def encode(
        self, images: Float[Array, "*batch height width"]
    ) -> Float[Array, "*batch frames features"]:
        """What each frame shows, $f$."""
        return self.encoder(images)

    def name_frames(
        self, seen: Float[Array, "*batch frames features"]
    ) -> Float[Array, "*batch frames classes"]:
        """Logits of each frame by itself, for a CTC loss beside the transducer's."""
        return self.frames(seen)

    def predict(self, last: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        """What the last label lets expect, $g$; padding, outside the classes, counts as blank."""
        known = (last >= 0) & (last < self.num_classes)
        embedded = self.embedding(jnp.where(known, last, self.blank_id))
        return self.outer(nn.relu(self.inner(embedded)))

    def join(
        self, seen: Float[Array, "... features"], written: Float[Array, "... features"]
    ) -> Float[Array, "... classes"]:
        """Logits of one frame and one history; the leading axes broadcast, ranks being equal."""
        return self.output(nn.tanh(seen + written))
