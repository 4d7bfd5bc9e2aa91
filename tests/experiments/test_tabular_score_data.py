"""Tables of the tabular protocol: gaps, columns, splits without leaks, whitening, noise."""

import pathlib

import jax
import numpy as np
import pytest

from probjax.core import item_key, stream
from probjax.experiments import tabular_score_data as data

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data"


def real(name):
    if name != "breast-cancer" and not (FOLDER / "uci").is_dir():
        pytest.skip(f"{FOLDER / 'uci'} is absent: no table to read")
    return data.load(name, str(FOLDER))


def lopsided(num_rows=60, num_components=3):
    generator = np.random.default_rng(0)
    values = generator.exponential(size=(num_rows, 3)) @ np.array(
        [[1.0, 0.5, 0.0], [0.0, 20.0, 3.0], [0.0, 0.0, 0.1]]
    )
    return data.Tabular(values.round(1), ("a", "b", "c"), {}, num_components)


def test_the_gap_is_the_median_between_distinct_values():
    values = np.array([[5.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [9.0, 1.0]])
    assert data.median_gaps(values).tolist() == [3.0, 0.0]  # of 1, 3, 4; a constant has none


def test_islands_are_counted():
    values = np.array([0.0, 1.0, 1.0, 2.0, 9.0, 9.0, 9.0, 9.0])[:, None]
    row = data.describe(data.Tabular(values, ("a",), {}, 1))[0]
    assert (row["distinct"], row["gap"], row["largest_share"]) == (4, 1.0, 0.5)
    assert row["rows_apart"] == 0.5, "the nines are 7 from the next value, more than 2 gaps"


@pytest.mark.parametrize(
    ("name", "shape", "left_out"),
    [
        ("wine-red", (1599, 11), {"quality"}),
        ("wine-white", (4898, 11), {"quality"}),
        ("breast-cancer", (569, 30), set()),
    ],
)
def test_the_columns_of_each_table(name, shape, left_out):
    table = real(name)
    assert table.values.shape == shape and set(table.dropped) == left_out


def test_of_parkinsons_only_measures_of_voice_are_kept_and_none_twice():
    table = real("parkinsons")
    assert {"subject#", "test_time", "total_UPDRS", "Jitter:RAP", "Shimmer:APQ3"} <= set(
        table.dropped
    )
    correlation = np.corrcoef(table.values.T) - np.eye(len(table.columns))
    assert abs(correlation).max() <= 0.98 and len(table.columns) == 12


def test_every_row_is_in_one_part_of_a_split_and_dequantised_by_less_than_its_gap():
    """Whitening is undone by the training rows' own statistics, found again from the parts."""
    table = lopsided()
    splits = data.make_splits(jax.random.key(3), table, num_splits=2, noise_scale=1e-6)
    assert splits.train.shape == (2, 49, 3) and splits.noised.shape == (2, 49, 3)
    assert splits.validation.shape == (2, 5, 3) and splits.test.shape == (2, 6, 3)
    gaps = data.median_gaps(table.values)
    for i in range(2):
        white = np.concatenate([splits.train[i], splits.validation[i], splits.test[i]])
        # An affine map takes them back; rows are matched through it by least squares.
        order = np.asarray(
            jax.random.permutation(
                stream(item_key(jax.random.key(3), i), "data"), len(table.values)
            )
        )
        values = table.values[np.concatenate([order[11:], order[6:11], order[:6]])]
        design = np.concatenate([white, np.ones((60, 1))], axis=1)
        back = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        assert (abs(back - values) < 1.5 * gaps).all()
        assert len(np.unique(np.concatenate([order[11:], order[6:11], order[:6]]))) == 60


def test_only_training_rows_decide_the_whitening():
    table = lopsided()
    splits = data.make_splits(jax.random.key(0), table, num_splits=2, noise_scale=0.1)
    for train in np.asarray(splits.train, np.float64):
        assert np.allclose(train.mean(axis=0), 0, atol=1e-5)
        assert np.allclose(train.T @ train / len(train), np.eye(3), atol=1e-5)
    rest = np.concatenate([splits.validation[0], splits.test[0]])
    assert abs(rest.mean(axis=0)).max() > 0.05, "else it was centred too"
    rows = np.random.default_rng(1).normal(size=(20, 3))
    moved = rows.copy()
    moved[15:] += 100.0
    same = data.whiten(rows, rows[:15], 2)[:15], data.whiten(moved, moved[:15], 2)[:15]
    assert np.array_equal(*same)


def test_noise_has_its_scale_and_training_rows_are_kept_without():
    table = lopsided(num_rows=4000)
    splits = data.make_splits(jax.random.key(0), table, num_splits=2, noise_scale=0.3)
    noise = np.asarray(splits.noised - splits.train).ravel()
    spread = noise.std()
    assert abs(spread - 0.3) < 4 * 0.3 / np.sqrt(2 * len(noise))
    assert abs(noise.mean()) < 4 * spread / np.sqrt(len(noise))


def test_more_splits_leave_the_first_as_they_are_and_repeats_can_go():
    table = lopsided()
    two, three = (
        data.make_splits(jax.random.key(0), table, num_splits=n, noise_scale=0.1) for n in (2, 3)
    )
    assert np.array_equal(two.train, three.train[:2])
    assert not np.array_equal(three.test[0], three.test[1])
    twice = table._replace(values=np.concatenate([table.values] * 2))
    single = data.make_splits(
        jax.random.key(0), twice, num_splits=2, noise_scale=0.1, unique_rows=True
    )
    assert single.train.shape[1] <= two.train.shape[1]
