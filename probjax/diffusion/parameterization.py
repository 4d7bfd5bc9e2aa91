r"""The ways to say what a network predicts, and how to weight and precondition it.

With $x=\alpha x_0+\sigma\varepsilon$ the score, the noise, the clean data and the velocity
$v=\alpha\varepsilon-\sigma x_0$ carry the same information:

>>> import jax.numpy as jnp
>>> from probjax.diffusion.parameterization import convert
>>> x0, noise, alpha, noise_scale = jnp.array([1.0]), jnp.array([2.0]), 0.8, 0.6
>>> x = alpha * x0 + noise_scale * noise
>>> print(convert(noise, x, alpha, noise_scale, source="noise", target="x0"))
[1.]
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, rows

Denoiser = Callable[[Float[Array, "*rows"], Float[Array, "*noise"]], Float[Array, "*rows"]]
"""`denoiser(x, noise_scale)`, an estimate of the clean data; the scale a scalar or `(*B,)`."""

KINDS = ("score", "noise", "x0", "v")
"""What a network may predict."""

WEIGHTS = ("x0", "score", "noise", "v", "edm", "soft_min_snr", "likelihood")
"""The weights that `loss_weight` knows."""


def convert(
    value: Float[Array, "*rows"],
    x: Float[Array, "*rows"],
    alpha: ArrayLike,
    noise_scale: ArrayLike,
    *,
    source: str,
    target: str,
    event_ndim: int = 1,
) -> Float[Array, "*rows"]:
    r"""Turn one kind of prediction into another.

    $$s=-\frac\varepsilon\sigma,\qquad x_0=\frac{x-\sigma\varepsilon}\alpha,\qquad
      v=\alpha\varepsilon-\sigma x_0$$

    Args:
        value: the prediction, `(*B, *event)`.
        x: the noised data it was made for, same shape.
        alpha: $\alpha$, a scalar or `(*B,)`.
        noise_scale: $\sigma$, a scalar or `(*B,)`.
        source: what `value` is: `"score"`, `"noise"`, `"x0"` or `"v"`.
        target: what it shall become.
        event_ndim: how many trailing axes make one example.

    Returns:
        The prediction as `target`.

    Raises:
        ValueError: unknown kind, wrong shape, `alpha` or `noise_scale` not positive.

    Example:
        >>> x = jnp.array([2.0])
        >>> print(convert(jnp.array([-2.0]), x, 1.0, 0.5, source="score", target="x0"))
        [1.5]

    References:
        Salimans, Ho 2022, *Progressive distillation for fast sampling of diffusion models* (the
        velocity).
    """
    checks.one_of("source", source, KINDS)
    checks.one_of("target", target, KINDS)
    checks.same_shape("value", value, "x", x)
    checks.positive("alpha", alpha)
    checks.positive("noise_scale", noise_scale)
    if source == target:
        return value
    alpha = rows.per_row("alpha", alpha, x, event_ndim=event_ndim)
    sigma = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
    if source == "x0":
        noise = (x - alpha * value) / sigma
    elif source == "v":
        noise = (sigma * x + alpha * value) / (alpha**2 + sigma**2)
    else:
        noise = -sigma * value if source == "score" else value
    if target == "noise":
        return noise
    if target == "score":
        return -noise / sigma
    if source == "v":
        x0 = (alpha * x - sigma * value) / (alpha**2 + sigma**2)
    else:
        x0 = value if source == "x0" else (x - sigma * noise) / alpha
    return x0 if target == "x0" else alpha * noise - sigma * x0


def precondition(
    net: Callable[[Float[Array, "*rows"], Float[Array, "*batch"]], Float[Array, "*rows"]],
    sigma_data: ArrayLike,
    *,
    event_ndim: int = 1,
) -> Denoiser:
    r"""Wrap a network into a denoiser whose inputs and targets have variance one at every scale.

    $$D(x,\sigma)=c_{skip}\,x+c_{out}\,net\big(c_{in}\,x,\ \tfrac14\log\sigma\big)$$

    $$c_{skip}=\frac{\sigma_d^2}{\sigma^2+\sigma_d^2},\qquad
      c_{out}=\frac{\sigma\sigma_d}{\sqrt{\sigma^2+\sigma_d^2}},\qquad
      c_{in}=\frac1{\sqrt{\sigma^2+\sigma_d^2}}$$

    with $\sigma_d=sigma\_data$. A network that returns zero gives the best linear denoiser.

    Args:
        net: `net(x, c_noise)`, rows `(*B, *event)` and their `(*B,)` numbers to the same shape.
        sigma_data: standard deviation of the data, positive; the same that the loss takes.
        event_ndim: how many trailing axes make one example.

    Returns:
        `denoiser(x, noise_scale)`, the scale a scalar or `(*B,)`.

    Raises:
        ValueError: `sigma_data` is not positive.

    Example:
        >>> denoiser = precondition(lambda x, c_noise: jnp.zeros_like(x), 0.5)
        >>> print(denoiser(jnp.array([[1.0, 2.0]]), 0.5))
        [[0.5 1. ]]

    References:
        Karras et al. 2022, *Elucidating the design space of diffusion-based generative models*,
        table 1.
    """
    checks.positive("sigma_data", sigma_data)

    def denoiser(x: Float[Array, "*rows"], noise_scale: ArrayLike) -> Float[Array, "*rows"]:
        x = rows.working("x", x, event_ndim=event_ndim)
        sigma = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
        data = jnp.asarray(sigma_data, x.dtype)
        total = sigma**2 + data**2
        root = jnp.sqrt(total)
        batch = x.shape[: x.ndim - event_ndim]
        c_noise = jnp.broadcast_to(0.25 * jnp.log(jnp.asarray(noise_scale, x.dtype)), batch)
        inner = net(x / root, c_noise)
        checks.same_shape("net(x, c_noise)", inner, "x", x)
        return data**2 / total * x + sigma * data / root * inner

    return denoiser


def loss_weight(
    kind: str,
    alpha: ArrayLike,
    noise_scale: Float[Array, "*batch"],
    *,
    sigma_data: ArrayLike | None = None,
    diffusion2: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    r"""The weight on the squared error of the clean data, $\Vert D-x_0\Vert^2$.

    | kind | weight | equals |
    |---|---|---|
    | `"x0"` | $1$ | |
    | `"score"` | $\alpha^2/\sigma^4$ | the squared error of the score |
    | `"noise"` | $\alpha^2/\sigma^2$ | that of the noise |
    | `"v"` | $(\alpha^2+\sigma^2)^2/\sigma^2$ | that of the velocity |
    | `"edm"` | $(\sigma^2+\sigma_d^2)/(\sigma\sigma_d)^2$ | $1/c_{out}^2$ |
    | `"soft_min_snr"` | $1/(\sigma^2+\sigma_d^2)$ | |
    | `"likelihood"` | $g^2\alpha^2/\sigma^4$ | |

    For $\alpha^2+\sigma^2=1$ the weight of the velocity is $\alpha^2/\sigma^2+1$.

    Args:
        kind: a name of the table.
        alpha: $\alpha$, a scalar or `(*B,)`.
        noise_scale: $\sigma$, `(*B,)`.
        sigma_data: $\sigma_d$, for `"edm"` and `"soft_min_snr"`.
        diffusion2: $g^2$ at the same time, for `"likelihood"`.

    Returns:
        Weights `(*B,)`.

    Raises:
        ValueError: unknown kind, or `sigma_data` or `diffusion2` missing for it.

    Example:
        >>> print(loss_weight("edm", 1.0, jnp.array([0.5]), sigma_data=0.5))
        [8.]

    References:
        Karras et al. 2022; Salimans, Ho 2022; Crowson et al. 2024, *Scalable high-resolution
        pixel-space image synthesis with hourglass diffusion transformers* (soft min-SNR); Song,
        Durkan, Murray, Ermon 2021, *Maximum likelihood training of score-based diffusion models*.
    """
    checks.one_of("kind", kind, WEIGHTS)
    sigma = jnp.asarray(noise_scale)
    alpha = jnp.broadcast_to(jnp.asarray(alpha, sigma.dtype), sigma.shape)
    if kind in ("edm", "soft_min_snr"):
        if sigma_data is None:
            raise ValueError(f"kind={kind!r} needs sigma_data")
        total = sigma**2 + jnp.asarray(sigma_data, sigma.dtype) ** 2
        if kind == "soft_min_snr":
            return 1 / total
        return total / (sigma * jnp.asarray(sigma_data, sigma.dtype)) ** 2
    if kind == "likelihood":
        if diffusion2 is None:
            raise ValueError("kind='likelihood' needs diffusion2")
        return jnp.asarray(diffusion2, sigma.dtype) * alpha**2 / sigma**4
    simple = {
        "x0": jnp.ones_like(sigma),
        "score": alpha**2 / sigma**4,
        "noise": alpha**2 / sigma**2,
        "v": (alpha**2 + sigma**2) ** 2 / sigma**2,
    }
    return simple[kind]


def score_from_denoiser(denoiser: Denoiser, *, event_ndim: int = 1) -> Denoiser:
    r"""Turn a denoiser of $x=x_0+\sigma\varepsilon$ into a score, for `mcmc.annealed_langevin`.

    $$score\_fn(x,\sigma)=\frac{D(x,\sigma)-x}{\sigma^2}$$

    Args:
        denoiser: `denoiser(x, noise_scale)`, row-wise.
        event_ndim: how many trailing axes make one example.

    Returns:
        `score_fn(x, noise_scale)`, row-wise.

    Example:
        >>> score_fn = score_from_denoiser(lambda x, noise_scale: jnp.zeros_like(x))
        >>> print(score_fn(jnp.array([1.0]), 0.5))  # all data at zero: -x / noise_scale^2
        [-4.]

    References:
        Robbins 1956; Vincent 2011.
    """

    def score_fn(x: Float[Array, "*rows"], noise_scale: ArrayLike) -> Float[Array, "*rows"]:
        scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
        return (denoiser(x, jnp.asarray(noise_scale, x.dtype)) - x) / scale**2

    return score_fn


def denoiser_from_score(score_fn: Denoiser, *, event_ndim: int = 1) -> Denoiser:
    r"""Turn a score of $x=x_0+\sigma\varepsilon$ into a denoiser: Tweedie's formula.

    $$D(x,\sigma)=x+\sigma^2\,score\_fn(x,\sigma)$$

    Args:
        score_fn: `score_fn(x, noise_scale)`, row-wise.
        event_ndim: how many trailing axes make one example.

    Returns:
        `denoiser(x, noise_scale)`, row-wise.

    Example:
        >>> denoiser = denoiser_from_score(lambda x, noise_scale: -x / (1 + noise_scale**2))
        >>> print(denoiser(jnp.array([1.0]), 1.0))  # data N(0, 1)
        [0.5]

    References:
        Robbins 1956; Efron 2011.
    """

    def denoiser(x: Float[Array, "*rows"], noise_scale: ArrayLike) -> Float[Array, "*rows"]:
        scale = rows.per_row("noise_scale", noise_scale, x, event_ndim=event_ndim)
        return x + scale**2 * score_fn(x, jnp.asarray(noise_scale, x.dtype))

    return denoiser
