r"""Kernel distance of images over fixed random features.

The usual kernel inception distance compares images by the features of a trained network. Here
the features are those of a fixed **random** network: nothing is downloaded, and the number is
comparable only with others from the same features. It is never the Fréchet distance and must not
be quoted beside published values of either.

>>> import jax
>>> from probjax import metrics
>>> images = jax.random.uniform(jax.random.key(0), (40, 8, 8, 1))
>>> dark = metrics.kid(images, 0.5 * jax.random.uniform(jax.random.key(1), (40, 8, 8, 1)))
>>> bool(dark.value > 5 * dark.standard_error)
True
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.metrics.estimate import Estimate, check_samples
from probjax.metrics.mmd import u_statistic

FEATURE_SEED = 20180
"""Seed of the random features, so that numbers from different runs compare."""


def kid(
    x: Float[Array, "n *event"],
    y: Float[Array, "m ..."],
    *,
    feature_fn: Callable[[Array], Array] | None = None,
) -> Estimate:
    r"""Estimate the squared MMD of features under the cubic polynomial kernel.

    $$k(a, b) = \Big(\frac{\phi(a)\cdot\phi(b)}{D} + 1\Big)^3, \qquad \phi(a)\in\mathbb R^D$$

    as the same unbiased U-statistic as `mmd2`, so equal laws give values around zero of both
    signs. Published implementations average over random subsets and quote the spread of subsets;
    here all pairs are used once and the error is a jackknife's.

    Args:
        x: rows `(n, *event)`, for images `(n, height, width, channels)`.
        y: rows `(m, *event)`.
        feature_fn: from rows `(n, *event)` to features `(n, D)`; `None` takes
            `random_features(x.shape[1:])`.

    Returns:
        The estimate and its standard error over new samples (with the features held fixed).

    Raises:
        ValueError: a sample has fewer than two rows, rows differ in shape, or the features are
            not `(n, D)`.

    References:
        Binkowski, Sutherland, Arbel and Gretton (2018), Demystifying MMD GANs.

    Example:
        >>> import jax
        >>> rows = jax.random.normal(jax.random.key(0), (200, 5))
        >>> same = kid(rows[:100], rows[100:])
        >>> bool(abs(same.value) < 4 * same.standard_error)
        True
    """
    check_samples(x, y)
    if feature_fn is None:
        feature_fn = random_features(x.shape[1:])
    features = feature_fn(jnp.concatenate([x, y]))
    checks.shape("feature_fn(x)", features, (x.shape[0] + y.shape[0], None))
    product = jnp.matmul(features, features.T, precision=jax.lax.Precision.HIGHEST)
    return u_statistic((product / features.shape[1] + 1) ** 3, x.shape[0])


def random_features(
    event_shape: tuple[int, ...], *, num_features: int = 256, seed: int = FEATURE_SEED
) -> Callable[[Array], Array]:
    r"""Return a fixed random feature map for rows of shape `event_shape`.

    Vectors: $\phi(a) = \max(0, Wa + c)$ with $W_{ij}\sim\mathcal N(0, 2/d)$ and
    $c_j\sim\mathcal N(0, 1)$. Images: two such layers as 3x3 convolutions (32 channels, then
    `num_features / 4` with stride 2), averaged over the four quadrants, so that the features see
    strokes and roughly where they are. The numbers come from NumPy's `RandomState(seed)`, whose
    stream is frozen for good.

    Args:
        event_shape: `(d,)`, or `(height, width, channels)` with both sides at least 4.
        num_features: $D$, a multiple of 4 for images.
        seed: seed of the weights.

    Returns:
        `feature_fn(rows)`: `(n, *event_shape)` to `(n, num_features)`.

    Raises:
        ValueError: `event_shape` has neither one nor three axes, or sizes are too small.

    Example:
        >>> import jax.numpy as jnp
        >>> random_features((28, 28, 1))(jnp.zeros((3, 28, 28, 1))).shape
        (3, 256)
    """
    checks.at_least("num_features", num_features, 4)
    draws = np.random.RandomState(seed)
    if len(event_shape) == 1:
        return _dense_features(draws, event_shape[0], num_features)
    if len(event_shape) != 3 or min(event_shape[:2]) < 4 or num_features % 4:
        raise ValueError(
            "event_shape must be (d,) or (height, width, channels) with sides of at least 4, and "
            f"num_features a multiple of 4 for images, got {event_shape}, {num_features}"
        )
    return _image_features(draws, event_shape[2], num_features // 4)


def _dense_features(
    draws: np.random.RandomState, dim: int, num_features: int
) -> Callable[[Array], Array]:
    weights = draws.standard_normal((dim, num_features)) * np.sqrt(2 / dim)
    offsets = draws.standard_normal((1, num_features))

    def feature_fn(rows: Float[Array, "n dim"]) -> Float[Array, "n features"]:
        hidden = jnp.matmul(
            rows, jnp.asarray(weights, rows.dtype), precision=jax.lax.Precision.HIGHEST
        )
        return jax.nn.relu(hidden + jnp.asarray(offsets, rows.dtype))

    return feature_fn


def _image_features(
    draws: np.random.RandomState, channels: int, width: int
) -> Callable[[Array], Array]:
    first = draws.standard_normal((3, 3, channels, 32)) * np.sqrt(2 / (9 * channels))
    first_offset = 0.5 * draws.standard_normal((1, 1, 1, 32))
    second = draws.standard_normal((3, 3, 32, width)) * np.sqrt(2 / (9 * 32))

    def convolve(rows: Array, kernel: np.ndarray, stride: int) -> Array:
        return jax.lax.conv_general_dilated(
            rows,
            jnp.asarray(kernel, rows.dtype),
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )

    def feature_fn(rows: Float[Array, "n height width c"]) -> Float[Array, "n features"]:
        hidden = jax.nn.relu(convolve(rows, first, 1) + jnp.asarray(first_offset, rows.dtype))
        hidden = jax.nn.relu(convolve(hidden, second, 2))
        middle = (hidden.shape[1] // 2, hidden.shape[2] // 2)
        quadrants = [
            jnp.mean(hidden[:, up, left], axis=(1, 2))
            for up in (slice(None, middle[0]), slice(middle[0], None))
            for left in (slice(None, middle[1]), slice(middle[1], None))
        ]
        return jnp.concatenate(quadrants, axis=-1)

    return feature_fn
