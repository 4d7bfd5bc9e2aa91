"""The measures of reading: pairs at the price of the distance, intervals, cells, the verdict."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import metrics
from probjax.datasets import load_digits
from probjax.datasets.digit_lines import DigitLines, load_glyphs
from probjax.experiments import digit_lines_quality as quality


def lines_of(labels, lengths, starts=None, ends=None):
    return DigitLines(None, jnp.asarray(labels), jnp.asarray(lengths), starts, ends)


def draws(number=60, seed=0):
    rng = np.random.default_rng(seed)
    hyp, ref = rng.integers(0, 4, (number, 9)), rng.integers(0, 4, (number, 7))
    return hyp, rng.integers(0, 10, number), ref, rng.integers(0, 8, number)


def test_pairs_cost_the_edit_distance_and_lose_nothing():
    hyp, n, ref, m = draws()
    expected = metrics.edit_distance(*map(jnp.asarray, (hyp, ref, n, m)))
    for i in range(len(hyp)):
        a, b = hyp[i, : n[i]].tolist(), ref[i, : m[i]].tolist()
        pairs = quality.edit_pairs(a, b)
        assert [x for x, _ in pairs if x is not None] == a
        assert [y for _, y in pairs if y is not None] == b
        assert sum(x != y for x, y in pairs) == expected[i]
        assert (None, None) not in pairs


def test_the_confusion_counts_every_label_once():
    hyp, n, ref, m = draws()
    counts = quality.confusion(hyp, n, lines_of(ref, m))
    true = np.concatenate([row[:k] for row, k in zip(ref, m, strict=True)])
    read = np.concatenate([row[:k] for row, k in zip(hyp, n, strict=True)])
    np.testing.assert_array_equal(counts[:10].sum(1), np.bincount(true, minlength=10))
    np.testing.assert_array_equal(counts[:, :10].sum(0), np.bincount(read, minlength=10))
    assert counts[10, 10] == 0
    wrong = counts.sum() - np.trace(counts)
    assert wrong == metrics.edit_distance(*map(jnp.asarray, (hyp, ref, n, m))).sum()


def test_rates_and_differences():
    ref = np.array([[1, 2, 3], [4, 5, 0], [6, 7, 8], [9, 0, 0]])
    lines = lines_of(ref, [3, 2, 3, 1])
    found = quality.reading_quality(ref, np.array([3, 2, 2, 1]), lines)
    assert found["distances"] == [0, 0, 1, 0] and found["line_accuracy"] == 0.75
    assert found["label_error_rate"] == pytest.approx(1 / 9)
    low, high = found["label_error_rate_interval"]
    assert low == 0 and high == pytest.approx(1 / 9 + 1.96 * found["label_error_rate_se"])
    change = quality.difference([0, 0, 1, 0], [0, 1, 1, 2], 9)
    assert change["difference"] == pytest.approx(-3 / 9)
    spread = np.sqrt(4 * np.var([0, -1, 0, -2], ddof=1)) / 9
    assert change["difference_se"] == pytest.approx(spread)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (3, 8), (400, 500), (9, 9)])
def test_the_interval_is_scipys(successes, trials):
    ours = quality.wilson(successes, trials, stats.norm.ppf(0.975))
    theirs = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert ours == pytest.approx(tuple(theirs), abs=1e-12)


def test_middles_are_held_against_the_cells():
    starts, ends = np.array([[3, 10, -1], [20, -1, -1]]), np.array([[11, 18, -1], [28, -1, -1]])
    lines = lines_of([[1, 2, -1], [3, -1, -1]], [2, 1], starts, ends)
    # Middles at columns 6 (of 3..11), 19 (of 10..18, one too far) and 28 (of 20..28, at its end).
    found = quality.centres_inside(
        np.array([[2, 9, -1], [13, -1, -1]]), np.array([[4, 10, -1], [15, -1, -1]]), lines, 2
    )
    assert found["share"] == pytest.approx(2 / 3) and found["median_offset"] == 4.0


def test_leaks_are_counted():
    train, test = load_glyphs(), load_glyphs(split="test")
    assert quality.images_on_both_sides(train, test) == 0
    assert quality.images_on_both_sides(train, load_digits(split="test")) > 300
    assert 0 < quality.isolated_error(train, test) < 0.1


def test_the_verdict_is_that_of_the_worst_check():
    good = {"label_error_rate": 0.04, "span_centres_inside": 0.99, "images_on_both_sides": 0}
    assert quality.verdict(good)["verdict"] == "pass" and not quality.verdict(good)["reasons"]
    for name, value, expected in (
        ("label_error_rate", 0.07, "pass"),
        ("label_error_rate", 0.071, "review"),
        ("label_error_rate", 0.11, "fail"),
        ("label_error_rate", 0.019, "review"),
        ("label_error_rate", 0.01, "fail"),
        ("label_error_rate", float("nan"), "fail"),
        ("span_centres_inside", 0.93, "review"),
        ("span_centres_inside", 0.5, "fail"),
        ("images_on_both_sides", 1, "fail"),
    ):
        gate = quality.verdict(good | {name: value})
        assert gate["verdict"] == expected == gate["checks"][name]["verdict"]
        assert len(gate["reasons"]) == (expected != "pass") and all(
            name in r for r in gate["reasons"]
        )
