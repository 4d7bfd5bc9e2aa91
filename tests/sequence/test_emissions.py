"""Arguments and scores: what is refused, what is replaced, what the lattice reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import emissions


def scored(logits, *given, normalise=True, **options):
    """The lattice's scores, compiled."""

    def one(*given):
        return emissions.lattice_scores(emissions.prepare(*given, **options), normalise=normalise)

    return jax.device_get(jax.jit(one)(logits, *given))


def test_rubbish_beyond_the_lengths_is_replaced():
    logits = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    wanted = logits[0, :2] - np.log(np.exp(logits[0, :2]).sum(axis=-1, keepdims=True))
    logits[0, 2] = np.nan
    rest = np.array([[3, 10**9]]), np.array([2]), np.array([1])
    given = emissions.prepare(*map(jnp.asarray, (logits, *rest)), blank_id=-3)
    assert given.blank == 1 and given.labels.tolist() == [[3, 0]] and given.valid.tolist() == [True]
    scores = scored(logits, *rest, blank_id=-3)
    np.testing.assert_allclose(scores.blank[0], [*wanted[:, 1], 0.0], rtol=1e-6)
    np.testing.assert_allclose(scores.label[0, :2, 0], wanted[:, 3], rtol=1e-6)
    assert (scores.label[0, :, 1] == -np.inf).all() and (scores.label[0, 2] == -np.inf).all()
    as_given = scored(logits, *rest, blank_id=-3, normalise=False)
    np.testing.assert_array_equal(as_given.blank[0], [1.0, 5.0, 0.0])


def test_scores_do_not_feel_large_shifts():
    """One ulp at 1e4 is 1e-3; the differences between classes are exact there all the same."""
    logits = np.array([[0, 1, 2]], np.float32)
    near, far = (scored(z, np.array([1])) for z in (logits, logits + np.float32(1e4)))
    np.testing.assert_allclose(far.label, near.label, rtol=1e-6)


def test_unsound_frames_are_told_apart():
    logits = np.zeros((5, 1, 2), np.float32)
    logits[0], logits[1, 0, 1], logits[2], logits[3, 0, 1] = np.nan, np.inf, -np.inf, -np.inf
    for normalise in (True, False):
        sound = scored(logits, np.ones((5, 1), int), normalise=normalise).sound
        assert sound.tolist() == [False, False, False, True, True]


def test_integers_of_any_kind_are_labels():
    for kind in (jnp.int8, jnp.uint8, jnp.int32):
        labels = jax.ShapeDtypeStruct((2,), kind)
        given = jax.eval_shape(emissions.prepare, jnp.zeros((3, 4)), labels)
        assert given.labels.dtype == jnp.int32
    with pytest.raises(ValueError, match=r"labels\[0\]=200 must be in \[0, 4\)"):
        emissions.prepare(jnp.zeros((3, 4)), jnp.array([200], jnp.uint8))
    with pytest.raises(ValueError, match="logits must be floating, got int32"):
        emissions.prepare(jnp.zeros((3, 4), int), jnp.array([1]))
