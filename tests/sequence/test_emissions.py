"""Arguments and scores: what is refused, what is replaced, what the lattice reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import emissions


def test_rubbish_beyond_the_lengths_is_replaced():
    logits = jnp.arange(12.0).reshape(1, 3, 4).at[0, 2].set(jnp.nan)
    given = emissions.prepare(
        logits, jnp.array([[3, 10**9]]), jnp.array([2]), jnp.array([1]), blank_id=-3
    )
    assert given.blank == 1 and given.labels.tolist() == [[3, 0]] and given.valid.tolist() == [True]
    scores = emissions.lattice_scores(given, normalise=True)
    wanted = jax.nn.log_softmax(logits[0, :2], axis=-1)
    np.testing.assert_allclose(scores.blank[0], [*wanted[:, 1], 0.0], rtol=1e-6)
    np.testing.assert_allclose(scores.label[0, :2, 0], wanted[:, 3], rtol=1e-6)
    assert (scores.label[0, :, 1] == -jnp.inf).all() and (scores.label[0, 2] == -jnp.inf).all()
    as_given = emissions.lattice_scores(given, normalise=False)
    np.testing.assert_array_equal(as_given.blank[0], [1.0, 5.0, 0.0])


def test_scores_do_not_feel_large_shifts():
    """One ulp at 1e4 is 1e-3; the differences between classes are exact there all the same."""
    logits = jnp.array([[0.0, 1.0, 2.0]])
    near, far = (
        emissions.lattice_scores(emissions.prepare(z, jnp.array([1])), normalise=True)
        for z in (logits, logits + 1e4)
    )
    np.testing.assert_allclose(far.label, near.label, rtol=1e-6)


def test_unsound_frames_are_told_apart():
    logits = jnp.zeros((5, 1, 2))
    logits = logits.at[0].set(jnp.nan).at[1, 0, 1].set(jnp.inf).at[2].set(-jnp.inf)
    logits = logits.at[3, 0, 1].set(-jnp.inf)
    given = emissions.prepare(logits, jnp.ones((5, 1), int))
    for normalise in (True, False):
        sound = emissions.lattice_scores(given, normalise=normalise).sound
        assert sound.tolist() == [False, False, False, True, True]


def test_integers_of_any_kind_are_labels():
    for kind in (jnp.int8, jnp.uint8, jnp.int32):
        labels = jnp.array([1, 2], kind)
        assert emissions.prepare(jnp.zeros((3, 4)), labels).labels.dtype == jnp.int32
    with pytest.raises(ValueError, match=r"labels\[0\]=200 must be in \[0, 4\)"):
        emissions.prepare(jnp.zeros((3, 4)), jnp.array([200], jnp.uint8))
    with pytest.raises(ValueError, match="logits must be floating, got int32"):
        emissions.prepare(jnp.zeros((3, 4), int), jnp.array([1]))
