r"""Guidance: push a denoiser towards a condition, by a second denoiser or by a classifier.

Both return a denoiser, so every sampler takes the result:

>>> import jax.numpy as jnp
>>> from probjax.diffusion.guidance import classifier_free
>>> conditional = lambda x, noise_scale: jnp.full_like(x, 3.0)
>>> unconditional = lambda x, noise_scale: jnp.full_like(x, 1.0)
>>> guided = classifier_free(conditional, unconditional, weight=2.0)
>>> print(guided(jnp.zeros(1), 1.0))  # 1 + 2 (3 - 1)
[5.]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.diffusion.parameterization import Denoiser

ClassifierLogProb = Callable[
    [Float[Array, "*rows"], Float[Array, "*noise"]], Float[Array, "*batch"]
]
"""`log_prob_fn(x, noise_scale)`: log probability of the wanted class, `(*B, *event)` to `(*B,)`."""


def classifier_free(
    conditional: Denoiser,
    unconditional: Denoiser,
    *,
    weight: ArrayLike,
    interval: tuple[float, float] | None = None,
    event_ndim: int = 1,
) -> Denoiser:
    r"""Classifier-free guidance: extrapolate from the unconditional denoiser to the conditional.

    $$D=D_u+weight\,(D_c-D_u)$$

    At weight 1 and 0 the result is the conditional and the unconditional denoiser to the last bit,
    also when the weight is traced. The weight may change without recompilation: pass it into
    the jitted function as an argument.

    Args:
        conditional: $D_c$, with the condition closed over.
        unconditional: $D_u$.
        weight: 0 unconditional, 1 conditional, above 1 beyond it; a scalar or `(*B,)`.
        interval: `(lo, hi)`: guide only where `lo < noise_scale <= hi` and be conditional
            elsewhere; everywhere if left out.
        event_ndim: how many trailing axes make one row.

    Returns:
        The guided denoiser. It calls both denoisers; count two evaluations for each of its own.

    Raises:
        ValueError: the denoisers disagree in shape, the weight has a wrong shape, or not
            `0 <= lo < hi`.

    Example:
        >>> one = lambda x, noise_scale: jnp.ones_like(x)
        >>> two = lambda x, noise_scale: 2 * jnp.ones_like(x)
        >>> guided = classifier_free(two, one, weight=3.0, interval=(0.1, 1.0))
        >>> print(guided(jnp.zeros((3, 1)), jnp.array([0.05, 0.5, 5.0])).ravel())
        [2. 4. 2.]

    References:
        Ho, Salimans 2022, *Classifier-free diffusion guidance*, whose strength is this weight minus
        one; Kynkäänniemi et al. 2024 (the interval). What it samples is not the tilted density:
        Bradley, Nakkiran 2024.
    """
    if interval is not None:
        lo, hi = interval
        checks.non_negative("interval[0]", lo)
        if not lo < hi:
            raise ValueError(f"interval must be (lo, hi) with lo below hi, got {interval}")

    def denoiser(
        x: Float[Array, "*rows"], noise_scale: Float[Array, "*noise"] | ArrayLike
    ) -> Float[Array, "*rows"]:
        towards, away = conditional(x, noise_scale), unconditional(x, noise_scale)
        checks.same_shape("conditional(x, noise_scale)", towards, "x", x)
        checks.same_shape("unconditional(x, noise_scale)", away, "x", x)
        w = rows.per_row("weight", weight, x, event_ndim=event_ndim)
        if interval is not None:
            sigma = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
            w = jnp.where((sigma > lo) & (sigma <= hi), w, jnp.ones_like(w))
        blend = away + w * (towards - away)
        # Rounding would keep the blend a bit away from either end.
        return jnp.where(w == 1, towards, jnp.where(w == 0, away, blend))

    return denoiser


def classifier_guidance(
    denoiser: Denoiser,
    log_prob_fn: ClassifierLogProb,
    *,
    weight: ArrayLike,
    event_ndim: int = 1,
) -> Denoiser:
    r"""Classifier guidance: add the gradient of a noisy classifier to the score.

    $$D(x,\sigma)+weight\;\sigma^2\,\nabla_x\log p(y\mid x,\sigma)$$

    At weight 1 this is Bayes' rule: the exact conditional denoiser, if both parts are exact. At
    weight 0 it is `denoiser` to the last bit.

    Args:
        denoiser: the unconditional $D$, for $x=x_0+\sigma\varepsilon$.
        log_prob_fn: `log_prob_fn(x, noise_scale)`, the log probability of the wanted class given
            *noised* data; row-wise, `(*B, *event)` to `(*B,)`.
        weight: strength, a scalar or `(*B,)`.
        event_ndim: how many trailing axes make one row.

    Returns:
        The guided denoiser; each call of it is one of `denoiser` and one gradient of
        `log_prob_fn`.

    Raises:
        ValueError: a function returns a wrong shape, or the weight has one.

    Example:
        >>> zero = lambda x, noise_scale: jnp.zeros_like(x)
        >>> log_prob_fn = lambda x, noise_scale: 3.0 * x[..., 0]
        >>> print(classifier_guidance(zero, log_prob_fn, weight=2.0)(jnp.zeros((1, 2)), 0.5))
        [[1.5 0. ]]

    References:
        Dhariwal, Nichol 2021, *Diffusion models beat GANs on image synthesis*.
    """

    def guided(
        x: Float[Array, "*rows"], noise_scale: Float[Array, "*noise"] | ArrayLike
    ) -> Float[Array, "*rows"]:
        clean = denoiser(x, noise_scale)
        checks.same_shape("denoiser(x, noise_scale)", clean, "x", x)
        values, pullback = jax.vjp(lambda y: log_prob_fn(y, noise_scale), x)
        checks.shape("log_prob_fn(x, noise_scale)", values, x.shape[: x.ndim - event_ndim])
        (slope,) = pullback(jnp.ones_like(values))
        w = rows.per_row("weight", weight, x, event_ndim=event_ndim)
        sigma = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
        return jnp.where(w == 0, clean, clean + w * sigma**2 * slope)

    return guided
