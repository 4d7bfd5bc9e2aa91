"""What a parameter gradient costs, counted by XLA in units of a plain backward pass."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.score import objectives


@pytest.mark.slow
def test_flops_in_backward_equivalents():
    unit = objectives.flops("regression", 11)
    ratio = {name: objectives.flops(name, 11) / unit for name in objectives.OBJECTIVES}
    assert ratio["denoising"] <= 1.02
    assert max(ratio["sliced"], ratio["sliced, reduced"]) <= 2.1
    assert ratio["sliced energy"] <= 3.7
    assert ratio["fd_dsm"] <= 2.1 and ratio["fd_ssm"] <= 3.1
    assert ratio["implicit"] <= 12.3
    # A second backward pass that computes nothing twice is no cheaper, and dearer for an energy.
    assert ratio["backward twice"] > 0.99 * ratio["sliced"]
    assert ratio["backward twice, energy"] > 1.05 * ratio["sliced energy"]


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "energy"), [(2, 3.81), (64, 3.06)])
def test_flops_in_other_dimensions(dim, energy):
    unit = objectives.flops("regression", dim)
    assert objectives.flops("sliced", dim) / unit <= 2.1
    assert objectives.flops("sliced energy", dim) / unit <= energy


def test_the_peers_compute_the_same_gradient(x64):
    """What is timed beside each other is one function."""
    pairs = (("sliced", "backward twice"), ("sliced energy", "backward twice, energy"))
    for ours, peer in pairs:
        found = [objectives.small_gradient(name) for name in (ours, peer)]
        for mine, theirs in zip(*map(jax.tree.leaves, found), strict=True):
            assert float(abs(mine - theirs).max()) < 1e-9 * float(abs(theirs).max() + 1)
