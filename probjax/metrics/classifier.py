"""Two-sample accuracy: how well a classifier tells generated rows from real ones.

>>> import numpy as np
>>> from probjax import metrics
>>> rng = np.random.default_rng(0)
>>> same = metrics.two_sample_accuracy(rng.normal(size=(200, 2)), rng.normal(size=(200, 2)))
>>> abs(same.value - 0.5) < 4 * same.standard_error
True
"""

import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.metrics.estimate import Estimate


def two_sample_accuracy(
    real: Float[Array | np.ndarray, "n *event"],
    fake: Float[Array | np.ndarray, "m ..."],
    *,
    seed: int = 0,
    num_folds: int = 5,
) -> Estimate:
    r"""Cross-validated accuracy of a support vector machine at telling `fake` from `real`.

    One half means that this classifier sees no difference; 1 that it sees one in every row. The
    machine has a Gaussian kernel of width `gamma="scale"` and $C = 1$, the folds are stratified,
    and the larger sample is cut at random to the size of the smaller.

    Exact copies of real rows in both samples push the number **below** one half, so a memorising
    model looks good here: read it beside `nearest_distances`.

    Args:
        real: rows `(n, *event)`, flattened.
        fake: rows `(m, *event)`, flattened.
        seed: decides the folds and which rows are cut.
        num_folds: number of folds, at least 2.

    Returns:
        Accuracy as a Python float and its binomial standard error
        $\sqrt{a(1-a)/N}$ over the $N$ held-out predictions.

    Raises:
        ValueError: fewer than two rows or than `num_folds` rows in a sample, rows of different
            shapes, or non-finite rows.

    References:
        Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> two_sample_accuracy(rng.normal(size=(50, 2)), 9 + rng.normal(size=(60, 2))).value
        1.0
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import SVC

    checks.at_least("num_folds", num_folds, 2)
    samples = []
    rng = np.random.default_rng(seed)
    size = min(len(real), len(fake))
    checks.at_least("the number of rows of the smaller sample", size, num_folds)
    for name, sample in (("real", real), ("fake", fake)):
        rows = np.asarray(sample, np.float64).reshape(len(sample), -1)
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        samples.append(rows[rng.permutation(len(rows))[:size]])
    if samples[0].shape != samples[1].shape:
        raise ValueError(
            f"real and fake must have rows of one shape, got {real.shape}, {fake.shape}"
        )
    labels = np.repeat([0, 1], size)
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    guesses = cross_val_predict(SVC(gamma="scale"), np.concatenate(samples), labels, cv=folds)
    accuracy = float(np.mean(guesses == labels))
    return Estimate(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / labels.size)))
