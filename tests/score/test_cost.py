"""What a parameter gradient costs, counted by XLA in units of a plain backward pass."""

import jax
import pytest

from benchmarks.score import objectives


@pytest.mark.slow
def test_flops_in_backward_equivalents():
    names = ("sliced", "sliced energy", "fd_ssm", "backward twice", "backward twice, energy")
    unit = objectives.flops("regression", 11, batch_size=32)
    ratio = {name: objectives.flops(name, 11, batch_size=32) / unit for name in names}
    assert ratio["sliced"] <= 2.1
    assert ratio["sliced energy"] <= 3.7
    assert ratio["fd_ssm"] <= 3.1
    # A second backward pass that computes nothing twice is no cheaper, and dearer for an energy.
    assert ratio["backward twice"] > 0.99 * ratio["sliced"]
    assert ratio["backward twice, energy"] > 1.05 * ratio["sliced energy"]


@pytest.mark.slow
def test_exact_traces_cost_one_tangent_for_each_coordinate():
    unit = objectives.flops("regression", 4, width=100, batch_size=32)
    assert 4.5 < objectives.flops("implicit", 4, width=100, batch_size=32) / unit <= 5.15


@pytest.mark.slow
def test_the_peers_compute_the_same_gradient(x64):
    """What is timed beside each other is one function."""
    pairs = (("sliced", "backward twice"), ("sliced energy", "backward twice, energy"))
    for ours, peer in pairs:
        found = [objectives.small_gradient(name) for name in (ours, peer)]
        for mine, theirs in zip(*map(jax.tree.leaves, found), strict=True):
            assert float(abs(mine - theirs).max()) < 1e-9 * float(abs(theirs).max() + 1)
