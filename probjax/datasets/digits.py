"""1797 handwritten digits of 8x8 pixels, shipped inside scikit-learn.

>>> from probjax import datasets
>>> train, test = datasets.load_digits(split="train"), datasets.load_digits(split="test")
>>> train.images.shape, test.images.shape, train.levels
((1297, 8, 8, 1), (500, 8, 8, 1), 17)
"""

import jax.numpy as jnp
import numpy as np

from probjax.core import checks
from probjax.datasets.images import Images

_NUM_TEST = 500
_SPLIT_SEED = 0


def load_digits(*, split: str = "train") -> Images:
    """Load the digits; nothing is downloaded.

    Args:
        split: `"train"` (1297 images), `"test"` (500) or `"all"` (1797, train first). The split
            is one fixed random permutation: scikit-learn's order goes by writer.

    Returns:
        Images `(n, 8, 8, 1)` in float32 with 17 levels, labels 0 to 9.

    Raises:
        ValueError: `split` has another name.

    References:
        Alpaydin and Kaynak (1998), Cascading classifiers; UCI repository, optical recognition of
        handwritten digits.

    Example:
        >>> digits = load_digits(split="test")
        >>> float(digits.images.min()), float(digits.images.max())
        (0.0, 1.0)
    """
    from sklearn.datasets import load_digits as load

    checks.one_of("split", split, ("train", "test", "all"))
    source = load()
    # RandomState's stream is frozen, so the split is the same in every version of NumPy.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(source.target))
    chosen = {"train": order[_NUM_TEST:], "test": order[:_NUM_TEST]}
    chosen["all"] = np.concatenate([chosen["train"], chosen["test"]])
    rows = chosen[split]
    return Images(
        jnp.asarray(source.images[rows][..., None] / 16, jnp.float32),
        jnp.asarray(source.target[rows], jnp.int32),
        17,
    )
