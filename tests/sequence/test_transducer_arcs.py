"""From logits to arcs: the derivative in one pass, padding, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import transducer_arcs as ta


def test_scores_and_their_derivatives_are_those_of_log_softmax(x64):
    keys = jax.random.split(jax.random.key(0), 3)
    logits = jax.random.normal(keys[0], (2, 3, 4), float).at[0, 0, 3].set(-jnp.inf)
    labels = jnp.array([[1, 2, 0], [0, 3, 3]])
    pulls = jax.random.normal(keys[1], (2, 2, 3), float)

    def ours(logits):
        scores = ta.node_scores(logits, labels, 1)
        return jnp.sum(pulls[0] * scores.blank) + jnp.sum(pulls[1] * scores.label)

    def plain(logits):
        log_probs = jax.nn.log_softmax(logits)
        label = jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
        return jnp.sum(pulls[0] * log_probs[..., 1]) + jnp.sum(pulls[1] * label)

    both = jax.jit(lambda z: [jax.value_and_grad(f)(z) for f in (ours, plain)])
    (value, gradient), (wanted, wanted_gradient) = both(logits)
    assert abs(value - wanted) < 1e-13
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-14)


def test_padding_is_certain_to_end_and_bad_weights_are_found():
    blank, label = jnp.full((3, 3), -1.0), jnp.full((3, 2), -2.0)
    two, one, yes = jnp.array(2), jnp.array(1), jnp.array(True)
    rubbish = ta.Arcs(blank.at[2].set(jnp.nan), label.at[:, 1].set(jnp.inf))
    masked = jax.jit(ta.masked_arcs)
    arcs, sound = masked(rubbish, two, one, yes)
    assert sound
    np.testing.assert_array_equal(arcs.blank[:, :2], [[-1, -1], [-1, -1], [0, 0]])
    np.testing.assert_array_equal(arcs.label[:, 0], [-2, -2, -np.inf])
    assert (arcs.label[:, 1] == -np.inf).all() and (arcs.blank[:, 2] == 0).all()
    for bad in (jnp.nan, jnp.inf):
        assert not masked(ta.Arcs(blank.at[1, 1].set(bad), label), two, one, yes)[1]
        assert not masked(ta.Arcs(blank, label.at[1, 0].set(bad)), two, one, yes)[1]
    assert masked(ta.Arcs(blank, label.at[1, 0].set(-jnp.inf)), two, one, yes)[1]
    assert not masked(ta.Arcs(blank, label), two, one, ~yes)[1]


def test_a_penalty_of_zero_is_told_from_a_traced_one():
    assert ta.no_penalty(0.0) and not ta.no_penalty(0.1) and not ta.no_penalty(jnp.zeros(()))


def test_what_does_not_fit_is_named():
    blank, label = jnp.zeros((2, 3, 3)), jnp.zeros((2, 3, 2))
    for arguments, message in [
        ((blank[0, 0], label), r"blank_lp must have shape \(T, U \+ 1\)"),
        ((blank, label[:, :, :1]), r"label_lp must have shape \(2, 3, 2\), got \(2, 3, 1\)"),
        ((blank, label.astype(jnp.bfloat16)), "label_lp must have the dtype float32, got bfloat16"),
        ((blank, label, jnp.array([4, 1])), r"logit_lengths\[0\]=4 must be in \[0, 3\]"),
        ((blank, label, None, jnp.array([2, 3])), r"label_lengths\[1\]=3 must be in \[0, 2\]"),
    ]:
        lengths = (*arguments[2:], None, None)[:2]
        with pytest.raises(ValueError, match=message):
            ta.given_arcs(*arguments[:2], *lengths, "poison")
    half = ta.given_arcs(*(x.astype(jnp.bfloat16) for x in (blank, label)), None, None, "poison")
    assert half[1].blank.dtype == half[1].label.dtype == jnp.float32
    with pytest.raises(ValueError, match="kind must be one of"):
        ta.walk(ta.Arcs(blank[0], label[0]), jnp.array(3), "monotone", 0.0)
