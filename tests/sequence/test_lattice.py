"""Lattices: what paths spell, how many there are, which targets fit, lengths from masks."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from probjax.sequence import lattice, testing


def compiled(function, *static, **options):
    """The compiled function, with NumPy arrays as results: to take them apart compiles nothing."""
    program = jax.jit(functools.partial(function, *static, **options))
    return lambda *arguments: jax.device_get(program(*arguments))


PATHS = np.array(list(itertools.product(range(3), repeat=5)))


def check_collapse(collapse):
    """Merging comes first: every path of five frames spells what the plain loop says."""
    for blank in (0, 2):
        tokens, lengths = collapse(PATHS, blank_id=blank)
        for path, row, length in zip(PATHS, tokens, lengths, strict=True):
            spelled = testing.spelled(path, blank_id=blank)
            assert tuple(row) == spelled + (-1,) * (5 - len(spelled))
            assert length == len(spelled)


def check_required_frames(required_frames):
    """The shortest path that spells a target, found by trying; padding repeats the last label."""
    shortest = {}
    for count in range(6):
        for path in itertools.product(range(3), repeat=count):
            shortest.setdefault(testing.spelled(path), count)
    targets = [target for target in shortest if 0 < len(target) < 4]
    padded = np.array([target + (target[-1],) * (4 - len(target)) for target in targets])
    got = required_frames(padded, np.array([len(target) for target in targets]))
    assert np.asarray(got).tolist() == [shortest[target] for target in targets]


def test_collapse_is_merge_then_drop():
    check_collapse(lambda paths, blank_id: compiled(lattice.collapse, blank_id=blank_id)(paths))


def test_collapse_reads_nothing_beyond_the_length():
    path, collapse = np.array([[1, 1, 0, 7], [2, 0, 2, 2]]), compiled(lattice.collapse, pad_id=-5)
    tokens, lengths = collapse(path, np.array([2, 3]))
    assert tokens.tolist() == [[1, -5, -5, -5], [2, 2, -5, -5]]
    assert lengths.tolist() == [1, 2]
    one = collapse(path[0], 2)
    assert one.tokens.tolist() == [1, -5, -5, -5]
    assert collapse(np.zeros((2, 0), int)).length.tolist() == [0, 0]


def test_required_frames_and_feasibility_agree_with_trying():
    required_frames = compiled(lattice.required_frames)
    check_required_frames(required_frames)
    assert required_frames(np.zeros((2, 0), int)).tolist() == [0, 0]
    labels = np.array([[1, 1, 2], [1, 1, 1], [1, 2, 9]])
    feasible = compiled(lattice.ctc_feasible)(np.array([4, 4, 2]), labels, np.array([3, 3, 2]))
    assert feasible.tolist() == [True, False, True]


def test_extended_labels_allow_a_skip_between_different_live_labels_only():
    extend = compiled(lattice.extend_labels, blank_id=1)
    states, skip = extend(np.array([[4, 4, 6, 6]]), np.array([3]))
    assert states.tolist() == [[1, 4, 1, 4, 1, 6, 1, 1, 1]]
    assert skip.astype(int).tolist() == [[0, 0, 0, 0, 0, 1, 0, 0, 0]]
    assert extend(np.zeros(0, int)).states.tolist() == [1]


def test_the_number_of_alignments_is_the_enumerated_one(x64):
    targets = [(), (1,), (1, 2), (1, 1), (2, 1, 2), (1, 1, 1)]
    padded = np.array([target + (1,) * (3 - len(target)) for target in targets])
    lengths = np.array([len(target) for target in targets])
    logs = compiled(lattice.log_num_alignments, 5)(padded, lengths)
    counts = [testing.enumerate_ctc(np.zeros((5, 3)), t).num_alignments for t in targets]
    np.testing.assert_allclose(np.exp(logs), counts, rtol=1e-12)
    assert compiled(lattice.log_num_alignments, 4)(np.array([1, 1, 1])) == -np.inf
    long = compiled(lattice.log_num_alignments, 2000)(np.array([1] * 100 + [2] * 100))
    assert abs(long - math.log(math.comb(2000 + 200 - 198, 400))) < 1e-9


def test_lengths_come_from_prefix_masks_only():
    mask = np.array([[True, True, False], [True, True, True], [False, False, False]])
    assert compiled(lattice.lengths_from_mask)(mask).tolist() == [2, 3, 0]
    assert compiled(lattice.lengths_from_paddings)(1.0 - mask).tolist() == [2, 3, 0]
    gap = jnp.array([[True, False, False], [True, False, True]])
    with pytest.raises(ValueError, match=r"mask\[1\] must be true on a prefix only, got \[ True"):
        lattice.lengths_from_mask(gap)
    with pytest.raises(ValueError, match=r"paddings\[1\] must be nonzero on a suffix only"):
        lattice.lengths_from_paddings(1.0 - gap.astype(float))
    assert jax.jit(lattice.lengths_from_mask)(gap).tolist() == [1, -1]
    error, _ = checkify.checkify(jax.jit(lattice.lengths_from_mask))(gap)
    assert "mask must be true on a prefix only" in error.get()


def test_the_checks_kill_deliberate_mistakes():
    def drop_then_merge(path, *, blank_id):
        rows = [[k for k in row if k != blank_id] for row in np.asarray(path)]
        rows = [[int(k) for k, _ in itertools.groupby(row)] for row in rows]
        tokens = [row + [-1] * (5 - len(row)) for row in rows]
        return np.array(tokens), np.array([len(row) for row in rows])

    def boundary_counted(labels, lengths):
        same = labels[:, 1:] == labels[:, :-1]
        live = np.arange(same.shape[1])[None] < lengths[:, None]
        return lengths + (same & live).sum(axis=-1)

    with pytest.raises(AssertionError):
        check_collapse(drop_then_merge)
    with pytest.raises(AssertionError):
        check_required_frames(boundary_counted)
