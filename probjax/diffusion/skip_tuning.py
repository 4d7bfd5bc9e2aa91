r"""Skip-Tuning: turn down the skip connections of a trained U-Net, without training.

A fast sampler must carry noise far in each call of the network; the skips carry its input to its
output almost unchanged. Gains below one on the skips change what few calls can do:

>>> from probjax.diffusion.skip_tuning import skip_scales
>>> print(skip_scales(3, 0.5))  # nearest the input first
[1.   0.75 0.5 ]
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks


def skip_scales(
    num_skips: int, rho_bottom: ArrayLike, rho_top: ArrayLike = 1.0
) -> Float[Array, "num_skips"]:
    r"""Gains for the skips of a U-Net, linear from the outermost to the deepest.

    $$g_k=rho\_top+\frac k{num\_skips-1}\,(rho\_bottom-rho\_top),\qquad k=0,\dots,num\_skips-1$$

    Pass them as `skip_scale` to `networks.UNet`. Concrete ones leave every bit as it is. The gains
    may be traced, so one compiled sampler serves a whole search; traced ones are the plain network
    up to the rounding of another program.

    Args:
        num_skips: how many; `UNet.num_skips`.
        rho_bottom: the gain of the deepest skip, at the lowest resolution.
        rho_top: the gain of the skip nearest the input. A single skip has this one.

    Returns:
        Gains `(num_skips,)`, nearest the input first.

    Raises:
        ValueError: `num_skips < 1`, or a gain is not finite or negative.

    Example:
        >>> print(skip_scales(2, 0.8, 0.9))
        [0.9 0.8]

    References:
        Ma, Xue, Hu, Wang, Liu, Li, Ma, Kawaguchi 2024, *The surprising effectiveness of skip-tuning
        in diffusion sampling*.
    """
    checks.at_least("num_skips", num_skips, 1)
    checks.non_negative("rho_bottom", rho_bottom)
    checks.non_negative("rho_top", rho_top)
    dtype = jnp.result_type(float)
    top, bottom = jnp.asarray(rho_top, dtype), jnp.asarray(rho_bottom, dtype)
    checks.shape("rho_bottom", bottom, ())
    checks.shape("rho_top", top, ())
    # Not jnp.linspace: between equal ends it may round to their neighbours.
    shares = jnp.arange(num_skips, dtype=dtype) / max(num_skips - 1, 1)
    return jnp.where(shares == 1, bottom, top + shares * (bottom - top))
