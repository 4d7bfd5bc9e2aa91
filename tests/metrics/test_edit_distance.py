"""Edit distance against a double loop, metric axioms, hand cases; the rate and its error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probjax.metrics.edit_distance import edit_distance, label_error_rate

BATCH, SIZE = 6, 7
distance = jax.jit(edit_distance)


def loop(hyp, ref):
    table = np.add.outer(np.arange(len(hyp) + 1), np.arange(len(ref) + 1))
    for i, a in enumerate(hyp, 1):
        for j, b in enumerate(ref, 1):
            change = table[i - 1, j - 1] + (a != b)
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, change)
    return int(table[len(hyp), len(ref)])


def check_against_the_loop(distance, seed):
    hyp, ref, n, m = draw(seed)
    expected = [loop(hyp[b, : n[b]], ref[b, : m[b]]) for b in range(BATCH)]
    assert distance(*map(jnp.asarray, (hyp, ref, n, m))).tolist() == expected


def draw(seed, classes=3):
    """Labels of any length, also none, followed by anything."""
    rng = np.random.default_rng(seed)
    hyp, ref = rng.integers(1, 1 + classes, size=(2, BATCH, SIZE)).astype(np.int32)
    n, m = rng.integers(0, SIZE + 1, size=(2, BATCH)).astype(np.int32)
    return hyp, ref, n, m


@given(st.integers(0, 10**6))
def test_is_the_double_loop(seed):
    check_against_the_loop(distance, seed)


@given(st.integers(0, 10**6))
def test_is_a_metric(seed):
    hyp, ref, n, m = draw(seed)
    other, _, k, _ = draw(seed + 1)
    there, back = distance(hyp, ref, n, m), distance(ref, hyp, m, n)
    np.testing.assert_array_equal(there, back)
    assert (distance(hyp, hyp, n, n) == 0).all()
    assert (there <= distance(hyp, other, n, k) + distance(other, ref, k, m)).all()
    assert (there >= np.abs(n - m)).all() and (there <= np.maximum(n, m)).all()
    same = [np.array_equal(hyp[b, : n[b]], ref[b, : m[b]]) for b in range(BATCH)]
    assert (np.asarray(there) == 0).tolist() == same


@given(st.integers(0, 10**6))
def test_padding_and_neighbours_do_not_count(seed):
    hyp, ref, n, m = draw(seed)
    expected = distance(hyp, ref, n, m)
    for fill in (-1, 1, 10**9):
        h, r = hyp.copy(), ref.copy()
        h[np.arange(SIZE) >= n[:, None]] = fill
        r[np.arange(SIZE) >= m[:, None]] = fill
        np.testing.assert_array_equal(distance(h, r, n, m), expected)
    np.testing.assert_array_equal(distance(hyp[::-1], ref[::-1], n[::-1], m[::-1]), expected[::-1])


@pytest.mark.parametrize(
    ("hyp", "ref", "expected"),
    [
        ("kitten", "sitting", 3),
        ("sunday", "saturday", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("abcdef", "bcdefa", 2),  # a move costs a deletion and an insertion
        ("ab", "ba", 2),  # there is no swap
        ("aaaa", "a", 3),
    ],
)
def test_by_hand(hyp, ref, expected):
    padded = np.zeros((2, 1, 8), np.int32)
    for row, word in zip(padded, (hyp, ref), strict=True):
        row[0, : len(word)] = [ord(letter) for letter in word]
    lengths = [np.array([len(word)], np.int32) for word in (hyp, ref)]
    assert loop(hyp, ref) == expected
    assert distance(padded[0], padded[1], *lengths).tolist() == [expected]


def test_empty_arrays_single_sequences_and_more_axes():
    assert edit_distance(jnp.zeros((2, 0), int), jnp.ones((2, 3), int)).tolist() == [3, 3]
    assert edit_distance(jnp.zeros((2, 3), int), jnp.ones((2, 0), int)).tolist() == [3, 3]
    assert int(edit_distance(jnp.array([1, 2, 3]), jnp.array([1, 3]), 3, 1)) == 2
    hyp, ref, n, m = (jnp.asarray(x).reshape(2, 3, *x.shape[1:]) for x in draw(0))
    flat = distance(*draw(0))
    np.testing.assert_array_equal(edit_distance(hyp, ref, n, m).reshape(-1), flat)


def no_row_chain(hyp, ref, n, m):
    """The mutant: insertions along the row forgotten."""
    return jnp.array([_loop_without(hyp[b, : n[b]], ref[b, : m[b]]) for b in range(BATCH)])


def _loop_without(hyp, ref):
    row = np.arange(len(ref) + 1)
    for a in np.asarray(hyp):
        inner = np.minimum(row[1:] + 1, row[:-1] + (a != np.asarray(ref)))
        row = np.concatenate([row[:1] + 1, inner])
    return int(row[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [
        no_row_chain,
        lambda hyp, ref, n, m: edit_distance(hyp, ref),
        lambda hyp, ref, n, m: edit_distance(hyp, ref, m, n),
        lambda hyp, ref, n, m: edit_distance(hyp, ref, n, jnp.full_like(m, SIZE)),
    ],
)
def test_the_check_kills_mistakes(mutant):
    with pytest.raises(AssertionError):
        for seed in range(10):
            check_against_the_loop(mutant, seed)


def test_rate_is_a_ratio_of_sums_with_the_error_of_a_ratio(x64):
    hyp, ref, n, m = draw(3)
    found = jax.jit(label_error_rate)(hyp, ref, n, m)
    d = np.array([loop(hyp[b, : n[b]], ref[b, : m[b]]) for b in range(BATCH)])
    rate = d.sum() / m.sum()
    np.testing.assert_allclose(found.value, rate, rtol=1e-12)
    # The variance of the mean of d - rate m, divided by the square of the mean of m.
    error = np.std(d - rate * m, ddof=1) / np.sqrt(BATCH) / m.mean()
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-12)


@pytest.mark.slow
def test_standard_error_is_the_spread_of_repeats():
    """Sequences of unequal length and difficulty; 400 repeats of 60 sequences."""
    size, count, repeats = 12, 60, 400
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, size + 1, size=(repeats, count))
    difficulty = rng.beta(1, 3, size=(repeats, count, 1))
    hyp = (rng.uniform(size=(repeats, count, size)) < difficulty).astype(np.int32)
    ref = np.zeros_like(hyp)
    found = jax.jit(jax.vmap(label_error_rate))(hyp, ref, lengths, lengths)
    spread = np.std(found.value)
    claimed = np.sqrt(np.mean(np.square(found.standard_error)))
    # The spread of 400 repeats is known to 1 / sqrt(800), 3.5 %; to first order 1 / 60 is left.
    assert abs(claimed / spread - 1) < 5 * 0.035
    assert abs(np.mean(found.value) - 0.25) < 5 * spread / 20


def test_degenerate_rates():
    one = label_error_rate(jnp.array([1, 2]), jnp.array([1, 3]))
    assert float(one.value) == 0.5 and np.isnan(one.standard_error)
    hyp = jnp.ones((2, 2), jnp.int32)
    assert np.isposinf(label_error_rate(hyp, hyp[:, :0]).value)
    assert np.isnan(label_error_rate(hyp[:, :0], hyp[:, :0]).value)


def test_bad_lengths_are_named_or_flagged():
    hyp, ref, n, m = map(jnp.asarray, draw(0))
    with pytest.raises(ValueError, match=r"hyp_lengths\[2\]=8 must be in \[0, 7\]"):
        edit_distance(hyp, ref, n.at[2].set(8), m)
    with pytest.raises(ValueError, match=r"ref_lengths\[0\]=-1 must be in \[0, 7\]"):
        label_error_rate(hyp, ref, n, m.at[0].set(-1))
    with pytest.raises((ValueError, TypeError), match="ref"):
        edit_distance(hyp, ref[:3])
    with pytest.raises(TypeError, match="hyp"):
        edit_distance(jnp.zeros(3), jnp.zeros(3, jnp.int32))
    flagged = distance(hyp, ref, n.at[2].set(8), m.at[4].set(-1))
    expected = distance(hyp, ref, n, m)
    assert (flagged == -1).tolist() == [False, False, True, False, True, False]
    np.testing.assert_array_equal(flagged[:2], expected[:2])
