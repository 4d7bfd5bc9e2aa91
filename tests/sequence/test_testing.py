"""The enumeration itself, against numbers that are known without it."""

import math

import numpy as np

from probjax.sequence import testing


def test_uniform_case_by_hand():
    result = testing.enumerate_ctc(np.full((4, 3), -math.log(3)), [1, 2])
    assert result.num_alignments == 15 == math.comb(6, 4)
    assert abs(result.log_z - (math.log(15) - 4 * math.log(3))) < 1e-14
    assert abs(result.entropy - math.log(15)) < 1e-14
    assert abs(result.best_score + 4 * math.log(3)) < 1e-14
    truth = np.array([[5, 10, 0], [4, 8, 3], [4, 3, 8], [5, 0, 10]]) / 15
    np.testing.assert_allclose(result.occupancy, truth, atol=1e-14)
    assert all(testing.spelled(path) == (1, 2) for path in result.paths)


def test_probabilities_of_all_labellings_sum_to_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3))
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    labellings = testing.enumerate_labellings(log_probs, blank_id=-1)
    assert abs(sum(map(math.exp, labellings.values())) - 1) < 1e-13
    for labels, value in labellings.items():
        assert abs(testing.enumerate_ctc(log_probs, labels, blank_id=-1).log_z - value) < 1e-13
    assert list(labellings.values()) == sorted(labellings.values(), reverse=True)


def test_nothing_to_sum():
    infeasible = testing.enumerate_ctc(np.zeros((2, 3)), [1, 1])
    assert infeasible.log_z == -np.inf and infeasible.num_alignments == 0
    assert (infeasible.occupancy == 0).all() and infeasible.entropy == -np.inf
    empty = testing.enumerate_ctc(np.zeros((0, 3)), [])
    assert empty.log_z == 0 and empty.num_alignments == 1
    impossible = testing.enumerate_ctc(np.array([[0.0, -np.inf]]), [1])
    assert impossible.log_z == -np.inf and impossible.num_alignments == 1


def test_uniform_transducer_by_hand():
    """Frames with repetition, or without; empty targets, no frames, more labels than frames."""
    uniform = np.full((3, 3, 4), -math.log(4))
    for kind, count, arcs in (("regular", 6, 5), ("modified", 3, 3), ("constrained", 3, 5)):
        result = testing.enumerate_rnnt(uniform, [1, 2], kind=kind)
        assert len(result.log_probs) == count
        assert abs(result.log_z - (math.log(count) - arcs * math.log(4))) < 1e-14
        assert abs(result.label.sum() - 2) < 1e-14
        assert abs(result.blank.sum() - (arcs - 2)) < 1e-14
    empty = testing.enumerate_rnnt(uniform[:, :1], [])
    assert abs(empty.log_z + 3 * math.log(4)) < 1e-14 and len(empty.log_probs) == 1
    assert testing.enumerate_rnnt(uniform[:0, :1], []).log_z == 0
    assert testing.enumerate_rnnt(uniform[:0], [1, 2]).log_z == -np.inf
    assert testing.enumerate_rnnt(uniform[:1], [1, 2], kind="modified").log_z == -np.inf
