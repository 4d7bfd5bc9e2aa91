"""How good drawn digits are: beside real ones, beside a Gaussian, and beside the training set.

>>> from probjax import datasets
>>> from probjax.experiments import digits_quality
>>> train, test = datasets.load_digits(), datasets.load_digits(split="test")
>>> found = digits_quality.measure({}, train, test, seed=0)
>>> [row["sampler"] for row in found["rows"]]
['Gaussian baseline', 'real digits']
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax import datasets, metrics


class Draws(NamedTuple):
    """The samples of one sampler, and what they cost."""

    images: np.ndarray
    """Quantised images `(n, 8, 8, 1)`."""
    num_evaluations: float
    """Mean denoiser evaluations for a sample."""
    seconds: float
    """Wall time, compilation included."""
    samples_per_second: float
    """Rate of the chunks after the first, compilation excluded."""


def measure(
    draws: Mapping[str, Draws], train: datasets.Images, test: datasets.Images, *, seed: int
) -> dict[str, Any]:
    """Measure the samples of each sampler, of a Gaussian and of real digits.

    Each row holds two-sample accuracy and KID against the held-out digits with their standard
    errors, the count of each class by a support vector machine, and for memorisation the median
    distance to the nearest training digit, the fraction nearer than all but 1 % of held-out
    digits are, and the number of exact copies.

    Args:
        draws: samples by the sampler's name.
        train: the training digits.
        test: the held-out digits.
        seed: seed of the Gaussian's draws.

    Returns:
        JSON-ready `rows` and the `classifier_accuracy` on held-out digits.
    """
    from sklearn.svm import SVC

    classify = SVC(C=10).fit(_flat(train.images), train.labels)
    gaps = np.asarray(metrics.nearest_distances(test.images, train.images).distance)
    near = np.quantile(gaps, 0.01)

    def row(name, images, **cost):
        images = jnp.asarray(images)
        separable = metrics.two_sample_accuracy(test.images, images)
        distance = metrics.kid(test.images, images)
        nearest = np.asarray(metrics.nearest_distances(images, train.images).distance)
        counts = np.bincount(classify.predict(_flat(images)), minlength=10)
        return {
            "sampler": name,
            "two_sample_accuracy": float(separable.value),
            "two_sample_accuracy_se": float(separable.standard_error),
            "kid": float(distance.value),
            "kid_se": float(distance.standard_error),
            "class_counts": counts.tolist(),
            "nearest_median": float(np.median(nearest)),
            "nearest_below_1_percent": float(np.mean(nearest < near)),
            "copies": int(np.sum(nearest == 0)),
            **cost,
        }

    rows = [
        row(
            name,
            one.images,
            num_evaluations=one.num_evaluations,
            seconds=one.seconds,
            samples_per_second=one.samples_per_second,
        )
        for name, one in draws.items()
    ]
    number = max((len(one.images) for one in draws.values()), default=len(test.images))
    rows.append(row("Gaussian baseline", gaussian_baseline(train, number, seed=seed)))
    real = row("real digits", train.images[: len(test.images)])
    # Training digits are their own nearest neighbours; held-out ones tell what is usual.
    real |= {
        "nearest_median": float(np.median(gaps)),
        "nearest_below_1_percent": 0.01,
        "copies": int(np.sum(gaps == 0)),
    }
    accuracy = classify.score(_flat(test.images), test.labels)
    return {"rows": [*rows, real], "classifier_accuracy": float(accuracy)}


def gaussian_baseline(train: datasets.Images, num_samples: int, *, seed: int) -> np.ndarray:
    """Draw from the Gaussian with the training digits' mean and covariance.

    Args:
        train: the training digits.
        num_samples: how many.
        seed: of the draws.

    Returns:
        Quantised images `(num_samples, 8, 8, 1)`.

    Example:
        >>> gaussian_baseline(datasets.load_digits(), 3, seed=0).shape
        (3, 8, 8, 1)
    """
    spread = _flat(datasets.dequantise(jax.random.key(0), train.images, train.levels))
    generator = np.random.RandomState(seed)
    draws = generator.multivariate_normal(spread.mean(0), np.cov(spread.T), num_samples)
    draws = jnp.asarray(draws, jnp.float32).reshape(num_samples, *train.images.shape[1:])
    return np.asarray(datasets.quantise(draws, train.levels))


def _flat(images: Any) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1)
