"""How good drawn digits are: beside real ones, beside a Gaussian, and beside the training set.

>>> from probjax import datasets
>>> from probjax.experiments import digits_quality
>>> train, test = datasets.load_digits(), datasets.load_digits(split="test")
>>> found = digits_quality.measure({}, train, test, seed=0)
>>> [row["sampler"] for row in found["rows"]]
['Gaussian baseline', 'real digits']
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax import datasets, metrics

_kid, _nearest = jax.jit(metrics.kid), jax.jit(metrics.nearest_distances)


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
    classify = classifier(train)

    def row(name, images, **cost):
        images = jnp.asarray(images)
        separable = metrics.two_sample_accuracy(test.images, images)
        distance = _kid(test.images, images)
        counts = np.bincount(classify.predict(flat(images)), minlength=10)
        return {
            "sampler": name,
            "two_sample_accuracy": float(separable.value),
            "two_sample_accuracy_se": float(separable.standard_error),
            "kid": float(distance.value),
            "kid_se": float(distance.standard_error),
            "class_counts": counts.tolist(),
            **memorisation(images, train, test),
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
    real |= memorisation(test.images, train, test)
    accuracy = classify.score(flat(test.images), test.labels)
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
    rows = flat(spread(train))
    generator = np.random.RandomState(seed)
    draws = generator.multivariate_normal(rows.mean(0), np.cov(rows.T), num_samples)
    draws = jnp.asarray(draws, jnp.float32).reshape(num_samples, *train.images.shape[1:])
    return np.asarray(datasets.quantise(draws, train.levels))


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """Hold what was measured against the bars, with reasons.

    Four checks, each left out where the run has nothing to check: the best sampler at 20
    evaluations or fewer is no worse in two-sample accuracy than annealed Langevin dynamics of 1,000
    steps or more, within two standard errors of the difference; guided samples, at every weight of
    2 or more, are classified as their class at least 97 % of the time; completions keep every bit
    of what was given; no sampler copies, or draws more than 2 % of its samples nearer to a training
    digit than 99 % of held-out digits are.

    Args:
        found: `measure`'s result with `guidance` and `inpainting`.

    Returns:
        JSON-ready `verdict` (`pass`, `fail`, or `pass, with checks left out`), `checks`, and
        `reasons`: one line for each check that failed or was left out.
    """
    drawn = [row for row in found["rows"] if "num_evaluations" in row]
    checks = [
        _few_against_langevin(drawn),
        _guided(found.get("guidance")),
        _known_half(found.get("inpainting")),
        _not_memorised(drawn),
    ]
    reasons = [f"{one['check']}: {one['why']}" for one in checks if one["passed"] is not True]
    failed = any(one["passed"] is False for one in checks)
    left_out = any(one["passed"] is None for one in checks)
    words = "fail" if failed else "pass, with checks left out" if left_out else "pass"
    return {"verdict": words, "checks": checks, "reasons": reasons}


def _few_against_langevin(drawn: list[dict[str, Any]]) -> dict[str, Any]:
    name = "few evaluations against 1,000"
    few = [row for row in drawn if row["num_evaluations"] <= 20]
    long = [r for r in drawn if "Langevin" in r["sampler"] and r["num_evaluations"] >= 1000]
    if not few or not long:
        missing = "annealed Langevin at 1,000 steps" if few else "a sampler at 20 or fewer"
        return {"check": name, "passed": None, "why": f"{missing} was not run"}
    best = min(few, key=lambda row: row["two_sample_accuracy"])
    gap = best["two_sample_accuracy"] - long[0]["two_sample_accuracy"]
    error = math.hypot(best["two_sample_accuracy_se"], long[0]["two_sample_accuracy_se"])
    why = (
        f"{best['sampler']} at {best['num_evaluations']:.0f} evaluations minus annealed Langevin "
        f"at {long[0]['num_evaluations']:.0f}: {gap:+.3f} ± {error:.3f} in two-sample accuracy"
    )
    return {"check": name, "passed": bool(gap <= 2 * error), "why": why}


def _guided(guidance: dict[str, Any] | None) -> dict[str, Any]:
    name = "guided samples are of their class"
    rows = [row for row in (guidance or {"rows": []})["rows"] if row.get("weight", 0) >= 2]
    if not rows:
        return {"check": name, "passed": None, "why": "nothing was drawn at a weight of 2 or more"}
    worst = min(rows, key=lambda row: row["class_accuracy"])
    why = f"{worst['class_accuracy']:.1%} at {worst['sampler']}, bar 97 %"
    return {"check": name, "passed": worst["class_accuracy"] >= 0.97, "why": why}


def _known_half(inpainting: dict[str, Any] | None) -> dict[str, Any]:
    name = "completions keep the known half"
    if inpainting is None:
        return {"check": name, "passed": None, "why": "nothing was completed"}
    exact = inpainting["known_half_exact"]
    return {"check": name, "passed": exact, "why": f"{'every' if exact else 'not every'} bit"}


def _not_memorised(drawn: list[dict[str, Any]]) -> dict[str, Any]:
    name = "nothing is remembered"
    if not drawn:
        return {"check": name, "passed": None, "why": "nothing was drawn"}
    worst = max(drawn, key=lambda row: row["nearest_below_1_percent"])
    copies = sum(row["copies"] for row in drawn)
    share = worst["nearest_below_1_percent"]
    why = f"{copies} copies; {share:.1%} too near in {worst['sampler']}, bar 2 %"
    return {"check": name, "passed": copies == 0 and share <= 0.02, "why": why}


def classifier(train: datasets.Images, mask: np.ndarray | None = None) -> Any:
    """Fit the support vector machine that tells digits apart.

    Args:
        train: the training digits.
        mask: which of the 64 pixels it sees; all if left out.

    Returns:
        A fitted scikit-learn classifier over `flat` images.
    """
    from sklearn.svm import SVC

    rows = flat(train.images)
    return SVC(C=10).fit(rows if mask is None else rows[:, mask], np.asarray(train.labels))


def memorisation(
    images: Any, train: datasets.Images, test: datasets.Images
) -> dict[str, float | int]:
    """Compare distances to the nearest training digit with those that held-out digits have.

    Args:
        images: quantised images `(n, 8, 8, 1)`.
        train: the training digits.
        test: the held-out digits.

    Returns:
        The median distance, the fraction of images nearer than all but 1 % of held-out digits are,
        and the number of exact copies.

    Example:
        >>> train, test = datasets.load_digits(), datasets.load_digits(split="test")
        >>> memorisation(train.images[:7], train, test)["copies"]
        7
    """
    gaps, nearest = (
        np.asarray(_nearest(jnp.asarray(some), train.images).distance)
        for some in (test.images, images)
    )
    return {
        "nearest_median": float(np.median(nearest)),
        "nearest_below_1_percent": float(np.mean(nearest < np.quantile(gaps, 0.01))),
        "copies": int(np.sum(nearest == 0)),
    }


def spread(train: datasets.Images) -> jax.Array:
    """Dequantise the training digits, always with the same draws.

    Args:
        train: the training digits.

    Returns:
        Images in (0, 1).

    Example:
        >>> spread(datasets.load_digits()).shape
        (1297, 8, 8, 1)
    """
    return datasets.dequantise(jax.random.key(0), train.images, train.levels)


def flat(images: Any) -> np.ndarray:
    """Flatten images to rows.

    Args:
        images: `(n, ...)`.

    Returns:
        Rows `(n, d)`.

    Example:
        >>> flat(np.zeros((3, 8, 8, 1))).shape
        (3, 64)
    """
    return np.asarray(images).reshape(len(images), -1)
