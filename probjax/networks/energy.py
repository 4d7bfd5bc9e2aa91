r"""Smooth perceptrons for energies and scores, with Swish units that learn their own slope.

Score matching differentiates a network twice with respect to its input, so its activation must
have two continuous derivatives; with ReLU units the trace that the objective asks for is zero
almost everywhere.

>>> import jax, jax.numpy as jnp
>>> from probjax.networks.energy import EnergyMLP, ScoreMLP
>>> x = jnp.zeros((5, 2))
>>> for net in (EnergyMLP((32, 32)), ScoreMLP((32, 32))):
...     params = jax.jit(net.init)(jax.random.key(0), x)
...     print(jax.jit(net.apply)(params, x).shape)
(5,)
(5, 2)
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class Swish(nn.Module):
    r"""Swish with a slope $\beta$ for each unit that is learned, 1 at the start.

    $$x\mapsto x\cdot\operatorname{sigmoid}(\beta x)$$

    For $\beta=0$ it is $x/2$, for large $\beta$ it is close to a ReLU.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = Swish().init(jax.random.key(0), jnp.zeros(3))
        >>> print(Swish().apply(params, jnp.array([0.0, 1.0, -1.0])))
        [ 0.          0.7310586  -0.26894143]

    References:
        Ramachandran, Zoph, Le 2017, *Searching for activation functions*.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*batch units"]) -> Float[Array, "*batch units"]:
        """Apply the activation to rows `(*B, units)`."""
        beta = self.param("beta", nn.initializers.ones, (x.shape[-1],))
        return x * nn.sigmoid(jnp.broadcast_to(beta.astype(x.dtype), x.shape) * x)


class ScoreMLP(nn.Module):
    r"""A perceptron with Swish units from rows to rows of the same length.

    $$x\mapsto W_n\,a(\dots a(W_1x+b_1)\dots)+b_n$$

    Args:
        features: width of each hidden layer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = ScoreMLP((8,)).init(jax.random.key(0), jnp.zeros(3))
        >>> print(params["params"]["Dense_1"]["kernel"].shape)
        (8, 3)
    """

    features: tuple[int, ...] = (300, 300)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Map rows `(*B, d)` to rows `(*B, d)`."""
        hidden = x
        for width in self.features:
            hidden = Swish()(nn.Dense(width)(hidden))
        return nn.Dense(x.shape[-1])(hidden)


class EnergyMLP(nn.Module):
    r"""A perceptron with Swish units from rows to one number, an energy.

    $$E(x)=w_n^\top a(\dots a(W_1x+b_1)\dots),\qquad p(x)\propto e^{-E(x)}$$

    There is no last bias: an energy is known up to a constant, which no score sees.

    Args:
        features: width of each hidden layer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> shapes = jax.eval_shape(EnergyMLP().init, jax.random.key(0), jnp.zeros(2))
        >>> print(sum(leaf.size for leaf in jax.tree.leaves(shapes)))  # 2-300-300-1
        92100
    """

    features: tuple[int, ...] = (300, 300)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Map rows `(*B, d)` to energies `(*B,)`."""
        hidden = x
        for width in self.features:
            hidden = Swish()(nn.Dense(width)(hidden))
        return nn.Dense(1, use_bias=False)(hidden)[..., 0]
