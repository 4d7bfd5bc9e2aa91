"""What one network does beyond drawing at random: a wanted class, a missing half.

>>> import jax.numpy as jnp
>>> from probjax.experiments import digits_conditional
>>> print(digits_conditional.known_half().reshape(8, 8)[0])
[ True  True  True  True False False False False]
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probjax import datasets, diffusion, metrics
from probjax.core import stream
from probjax.experiments import digits_quality
from probjax.experiments.digits_model import NUM_CLASSES, SIGMA_DATA, Scaling
from probjax.experiments.digits_samplers import SamplingConfig, few_noise_scales, starts


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """Samples of each class by classifier-free guidance, with UniPC of order 2."""

    weights: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Guidance weights: 1 is conditional without guidance, above it is guided."""
    num_per_class: int = 50
    """Samples of each class at each weight."""


@dataclasses.dataclass(frozen=True)
class InpaintingConfig:
    """The right half of held-out digits, drawn given the left half."""

    num_digits: int = 100
    """Held-out digits."""
    num_completions: int = 4
    """Completions of each."""
    num_steps: int = 40
    """Steps of ancestral sampling."""
    num_correctors: int = 2
    """Langevin steps at each level, each one more evaluation."""


def known_half() -> Bool[Array, "64"]:
    """Mark the pixels that are given: the left half of the image.

    Returns:
        The mask over a row.

    Example:
        >>> int(known_half().sum())
        32
    """
    return jnp.broadcast_to(jnp.arange(8) < 4, (8, 8)).reshape(64)


def guided_draw(
    apply: Callable[..., diffusion.parameterization.Denoiser], config: SamplingConfig
) -> Callable[[Any, Array, Array, Array], Array]:
    """Make the guided sampler.

    Args:
        apply: parameters, and labels or none, to denoiser.
        config: grid and number of steps of the samplers with few evaluations.

    Returns:
        `draw(params, key, label, weight) -> x` over rows, with a key, a class and a weight for
        each. Another weight is no other program.

    Example:
        >>> import jax
        >>> apply = lambda params, label=None: lambda x, noise_scale: 0.0 * x + (
        ...     0.0 if label is None else 1.0)
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> draw = guided_draw(apply, SamplingConfig())
        >>> print(draw(None, keys, jnp.zeros(2, jnp.int32), jnp.array([1.0, 3.0]))[:, 0])
        [1. 3.]
    """
    num_steps = config.few_evaluations
    scales = few_noise_scales(config, num_steps)

    def draw(params, key, label, weight):
        guided = diffusion.classifier_free(apply(params, label), apply(params), weight=weight)
        algorithm = diffusion.unipc(guided, scales)
        return diffusion.sample(stream(key, "noise"), algorithm, starts(key, config), num_steps).x

    return draw


def inpainting_draw(
    apply: Callable[..., diffusion.parameterization.Denoiser],
    config: InpaintingConfig,
    sampling: SamplingConfig,
) -> Callable[..., Array]:
    """Make the sampler that keeps the left half.

    Args:
        apply: parameters, and labels or none, to denoiser.
        config: steps and correctors.
        sampling: ends of the grid.

    Returns:
        `draw(params, key, observed, label=None) -> x` over rows; the right half of `observed`
        plays no part.

    Example:
        >>> import jax
        >>> apply = lambda params, label=None: lambda x, noise_scale: 0.0 * x
        >>> draw = inpainting_draw(apply, InpaintingConfig(num_steps=3), SamplingConfig())
        >>> rows = jnp.arange(64.0)[None]
        >>> x = draw(None, jax.random.split(jax.random.key(0), 1), rows)
        >>> print(x[0, :4])
        [0. 1. 2. 3.]
    """
    scales = diffusion.karras_noise_scales(
        config.num_steps, sampling.few_min_noise_scale, sampling.max_noise_scale
    )

    def draw(params, key, observed, label=None):
        denoiser = apply(params, label)
        algorithm = diffusion.inpaint(
            diffusion.ancestral(denoiser, scales),
            observed,
            known_half(),
            noise_scales=scales,
            num_correctors=config.num_correctors,
            denoiser=denoiser,
            sigma_data=SIGMA_DATA,
        )
        start = starts(key, sampling)
        return diffusion.sample(stream(key, "noise"), algorithm, start, config.num_steps).x

    return draw


def guess_classes(
    observed: Float[Array, "n 64"], scaling: Scaling, train: datasets.Images
) -> Array:
    """Guess the class of a digit from its left half, by a support vector machine.

    Args:
        observed: rows, of which the left half is looked at.
        scaling: from pixels to rows.
        train: the training digits, whose left halves it learns from.

    Returns:
        Classes, int32.

    Example:
        >>> from probjax.experiments.digits_model import measure_scaling
        >>> train = datasets.load_digits()
        >>> scaling = measure_scaling(train)
        >>> guess_classes(scaling.rows(train.images[:2]), scaling, train).shape
        (2,)
    """
    mask = np.asarray(known_half())
    images = digits_quality.flat(scaling.images(observed, train.levels))
    guessed = digits_quality.classifier(train, mask).predict(images[:, mask])
    return jnp.asarray(guessed, jnp.int32)


def guidance_plan(config: GuidanceConfig) -> tuple[Int[Array, "n"], Float[Array, "n"], np.ndarray]:
    """List the class, the weight and the number of the key of each guided sample.

    Samples of one class and number have one key at all weights, so that pictures can be compared.

    Args:
        config: weights and counts.

    Returns:
        Classes, weights and key numbers, each `(n,)`, weight by weight and class by class.

    Example:
        >>> label, weight, item = guidance_plan(GuidanceConfig((1.0, 2.0), 3))
        >>> label.shape, weight[29:31].tolist(), int(item[30])
        ((60,), [1.0, 2.0], 0)
    """
    each = NUM_CLASSES * config.num_per_class
    label = jnp.tile(jnp.repeat(jnp.arange(NUM_CLASSES), config.num_per_class), len(config.weights))
    weight = jnp.repeat(jnp.asarray(config.weights, jnp.float32), each)
    return label.astype(jnp.int32), weight, np.tile(np.arange(each), len(config.weights))


def measure_guidance(
    images: np.ndarray, config: GuidanceConfig, train: datasets.Images, test: datasets.Images
) -> dict[str, Any]:
    """Measure guided samples: is it the class that was asked for, and how alike are they.

    Each row has the share of images that a support vector machine trained on the training digits
    puts into their class, with its standard error; as diversity the mean distance of an image to
    the nearest other one of its class and the root mean square distance to the class mean; the
    two-sample accuracy; and the memorisation check. Draws of one Gaussian for each class and
    held-out digits (for the two-sample accuracy training digits) frame the table.

    Args:
        images: quantised images of `guidance_plan`, `(n, 8, 8, 1)`.
        config: the plan.
        train: the training digits.
        test: the held-out digits.

    Returns:
        JSON-ready `rows`.
    """
    classify = digits_quality.classifier(train)
    labels = np.asarray(guidance_plan(config)[0])
    each = NUM_CLASSES * config.num_per_class

    def row(name, some, label, compared=None, **more):
        right = float(np.mean(classify.predict(digits_quality.flat(some)) == label))
        nearest, spread = zip(
            *(_diversity(some[label == c]) for c in np.unique(label)), strict=True
        )
        compared = some if compared is None else compared
        separable = metrics.two_sample_accuracy(test.images, compared)
        return {
            "sampler": name,
            "class_accuracy": right,
            "class_accuracy_se": float(np.sqrt(right * (1 - right) / len(label))),
            "nearest_in_class": float(np.mean(nearest)),
            "spread_in_class": float(np.mean(spread)),
            "two_sample_accuracy": float(separable.value),
            "two_sample_accuracy_se": float(separable.standard_error),
            **digits_quality.memorisation(some, train, test),
            **more,
        }

    rows = [
        row(f"weight {weight:g}", images[part], labels[part], weight=weight)
        for i, weight in enumerate(config.weights)
        for part in [slice(i * each, (i + 1) * each)]
    ]
    rows.append(row("Gaussian of each class", _class_gaussians(train, config), labels[:each]))
    # Held-out digits are the yardstick of the two-sample accuracy; training digits stand in there.
    held_out, others = np.asarray(test.images), train.images[: len(test.images)]
    rows.append(row("real digits", held_out, np.asarray(test.labels), others))
    return {"rows": rows}


def measure_inpainting(
    x: np.ndarray,
    observed: np.ndarray,
    scaling: Scaling,
    config: InpaintingConfig,
    train: datasets.Images,
    test: datasets.Images,
) -> dict[str, Any]:
    """Measure completions: is what was given untouched, and do they make the digit that it was.

    Args:
        x: completed rows `(num_digits * num_completions, 64)`, digit by digit.
        observed: what was given to each, in the same shape.
        scaling: from pixels to rows.
        config: counts.
        train: the training digits.
        test: the held-out digits, of which the first were completed.

    Returns:
        JSON-ready `known_half_exact` (every bit of float32), `rows` with the share of images that
        are classified as the original's class (the error over digits), the spread of the unknown
        pixels among completions of one digit and the memorisation check, and `half_accuracy`, of a
        classifier that is trained on left halves and sees nothing else.
    """
    mask = np.asarray(known_half())
    given, kept = (np.ascontiguousarray(rows[:, mask]) for rows in (observed, x))
    classify, number = digits_quality.classifier(train), config.num_digits
    labels, each = np.asarray(test.labels[:number]), config.num_completions
    half = digits_quality.classifier(train, mask)

    def row(name, some):
        right = classify.predict(digits_quality.flat(some)).reshape(number, -1) == labels[:, None]
        unknown = digits_quality.flat(some).reshape(number, right.shape[1], -1)[:, :, ~mask]
        return {
            "sampler": name,
            "class_accuracy": float(right.mean()),
            "class_accuracy_se": float(right.mean(1).std() / np.sqrt(number)),
            "spread": float(np.sqrt(unknown.var(1).sum(-1).mean())),
            **digits_quality.memorisation(some, train, test),
        }

    completed = np.asarray(scaling.images(jnp.asarray(x), train.levels))
    linear = _gaussian_completions(observed, mask, scaling, train)
    guessed = half.predict(digits_quality.flat(test.images)[:number][:, mask])
    return {
        "known_half_exact": bool(np.array_equal(given.view(np.uint32), kept.view(np.uint32))),
        "num_evaluations": config.num_steps * (1 + config.num_correctors),
        "completions_of_each": each,
        "half_accuracy": float(np.mean(guessed == labels)),
        "rows": [
            row("completions", completed),
            row("Gaussian baseline", linear),
            row("real digits", np.asarray(test.images[:number])),
        ],
    }


def _diversity(images: np.ndarray) -> Sequence[float]:
    """Mean distance to the nearest other image, and root mean square distance to the mean."""
    rows = digits_quality.flat(images).astype(np.float64)
    gaps = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    nearest = float(gaps.min(1).mean()) if len(rows) > 1 else 0.0
    return nearest, float(np.sqrt(rows.var(0).sum()))


def _class_gaussians(train: datasets.Images, config: GuidanceConfig) -> np.ndarray:
    """Draws of the Gaussian of each class, class by class."""
    rows, labels = digits_quality.flat(digits_quality.spread(train)), np.asarray(train.labels)
    draws = []
    for c in range(NUM_CLASSES):
        some, generator = rows[labels == c], np.random.RandomState(c)
        mean, cov = some.mean(0), np.cov(some.T)
        draws.append(generator.multivariate_normal(mean, cov, config.num_per_class))
    images = np.concatenate(draws).reshape(-1, *train.images.shape[1:])
    return np.asarray(datasets.quantise(jnp.asarray(images, jnp.float32), train.levels))


def _gaussian_completions(
    observed: np.ndarray, mask: np.ndarray, scaling: Scaling, train: datasets.Images
) -> np.ndarray:
    """Draws of the unknown pixels given the known ones under the digits' Gaussian."""
    rows = np.asarray(scaling.rows(digits_quality.spread(train)), np.float64)
    mean, cov = rows.mean(0), np.cov(rows.T)
    gain = np.linalg.solve(cov[np.ix_(mask, mask)], cov[np.ix_(mask, ~mask)])
    rest = cov[np.ix_(~mask, ~mask)] - cov[np.ix_(~mask, mask)] @ gain
    noise = np.random.RandomState(0).multivariate_normal(np.zeros(len(rest)), rest, len(observed))
    out = np.array(observed, np.float64)
    out[:, ~mask] = mean[~mask] + (observed[:, mask] - mean[mask]) @ gain + noise
    return np.asarray(scaling.images(jnp.asarray(out, jnp.float32), train.levels))
