import numpy as np
import pytest
from sklearn.datasets import load_digits

from probjax import datasets


def test_split_is_a_partition_of_the_source():
    train, test = datasets.load_digits(split="train"), datasets.load_digits(split="test")
    assert train.images.shape == (1297, 8, 8, 1) and test.images.shape == (500, 8, 8, 1)
    together = datasets.load_digits(split="all")
    ours = np.concatenate([train.images, test.images])
    np.testing.assert_array_equal(together.images, ours)
    source = load_digits()
    levels = np.round(ours[..., 0] * 16).reshape(1797, -1)
    labels = np.concatenate([train.labels, test.labels])
    rows = {tuple(row) for row in np.column_stack([levels, labels]).tolist()}
    theirs = {tuple(row) for row in np.column_stack([source.data, source.target]).tolist()}
    assert rows == theirs and together.images.dtype == np.float32
    assert together.labels.dtype == np.int32


def test_the_split_is_shuffled_and_fixed():
    labels = datasets.load_digits(split="test").labels
    assert np.bincount(labels, minlength=10).min() > 30
    assert (
        labels[:8].tolist()
        == load_digits().target[np.random.RandomState(0).permutation(1797)[:8]].tolist()
    )


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of 'train', 'test', 'all', got 'dev'"):
        datasets.load_digits(split="dev")
