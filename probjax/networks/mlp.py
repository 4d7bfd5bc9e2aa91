"""Multi-layer perceptrons over rows of numbers.

>>> import jax, jax.numpy as jnp
>>> from probjax.networks import MLP
>>> net = MLP((64, 64, 2))
>>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(2))
>>> jax.jit(net.apply)(params, jnp.zeros((5, 2))).shape
(5, 2)
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from probjax.networks.features import noise_features


class MLP(nn.Module):
    r"""Dense layers with an activation between them.

    $$x \mapsto W_n\,a(\dots a(W_1 x + b_1)\dots) + b_n$$

    Args:
        features: width of each layer, the output's last.
        activation: $a$, applied after each layer but the last.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = MLP((8, 1)).init(jax.random.key(0), jnp.zeros(3))
        >>> sorted(params["params"])
        ['Dense_0', 'Dense_1']
    """

    features: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.silu

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch out"]:
        """Apply the layers to rows `(*B, d)`."""
        for width in self.features[:-1]:
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(self.features[-1])(x)


class DenoisingMLP(nn.Module):
    r"""Residual perceptron with a noise level, for rows of any length.

    $$h_0 = W x + V e,\qquad h_{k+1} = h_k + B_k\,a(A_k\,n(h_k)\,(1+s_k(e)) + t_k(e)),\qquad
      \text{output} = C\,n(h_K)$$

    with $e$ the embedded level, $n$ layer normalisation, $a$ SiLU and $B_k, C$ zero at the start,
    so that a new network gives zero.

    Args:
        width: of the residual stream and of each block.
        num_blocks: $K$.
        num_features: features of the noise level.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = DenoisingMLP(width=32, num_blocks=2)
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(2), jnp.zeros(()))
        >>> print(jax.jit(net.apply)(params, jnp.ones((3, 2)), jnp.zeros(3))[0])
        [0. 0.]
    """

    width: int = 256
    num_blocks: int = 3
    num_features: int = 32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch d"], c_noise: Float[Array, "*batch"]
    ) -> Float[Array, "*batch d"]:
        """Map rows `(*B, d)` at levels `(*B,)` to rows `(*B, d)`."""
        embedded = noise_features(c_noise, num_features=self.num_features)
        embedded = nn.silu(nn.Dense(self.width)(embedded))
        hidden = nn.Dense(self.width)(x) + nn.Dense(self.width, use_bias=False)(embedded)
        for _ in range(self.num_blocks):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(embedded), 2, axis=-1)
            inner = nn.LayerNorm(use_scale=False, use_bias=False)(hidden)
            inner = nn.silu(nn.Dense(self.width)(inner) * (1 + scale) + shift)
            hidden = hidden + nn.Dense(self.width, kernel_init=nn.initializers.zeros)(inner)
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(nn.LayerNorm()(hidden))
