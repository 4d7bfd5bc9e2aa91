"""optax's signature: the same numbers where optax is right, better ones where it is not."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from probjax.sequence.compat import optax_ctc_loss

BATCH, FRAMES, CLASSES, LABELS = 4, 6, 5, 3


def arguments():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(BATCH, FRAMES, CLASSES)).astype(np.float32)
    labels = np.array([[1, 2, 3], [4, 4, 0], [2, 0, 0], [3, 3, 3]])
    frames, lengths = np.array([6, 5, 6, 5]), np.array([3, 2, 0, 3])
    logit_paddings = (np.arange(FRAMES) >= frames[:, None]).astype(np.float32)
    label_paddings = (np.arange(LABELS) >= lengths[:, None]).astype(np.float32)
    return logits, logit_paddings, labels, label_paddings


@functools.cache
def compiled():
    def total(logits, *rest):
        loss = optax_ctc_loss(logits, *rest, log_epsilon=-1e4)
        return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0.0)), loss

    program = jax.jit(jax.value_and_grad(total, has_aux=True))
    return lambda *arguments: jax.device_get(program(*arguments))


def test_the_signature_is_optaxs():
    ours, theirs = (inspect.signature(f).parameters for f in (optax_ctc_loss, optax.ctc_loss))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind and ours[name].default == parameter.default
    assert list(ours)[len(theirs) :] == ["infeasible"]


@pytest.mark.slow
@pytest.mark.parametrize("blank", [0, 4])
def test_the_numbers_are_optaxs(blank):
    logits, logit_paddings, labels, label_paddings = map(jnp.asarray, arguments())
    labels = (labels - 1) % CLASSES if blank == 4 else labels
    given = logits, logit_paddings, labels, label_paddings
    fit = jnp.array([0, 1, 2])

    def both(loss_fn):
        loss = functools.partial(loss_fn, blank_id=blank)
        both = jax.value_and_grad(lambda z: loss(z, *given[1:])[fit].sum())
        return jax.jit(lambda z: (loss(z, *given[1:])[fit], both(z)[1]))(logits)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = both(optax.ctc_loss)
    for one, other in zip(both(optax_ctc_loss), theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_where_optax_is_not_followed():
    logits, *rest = arguments()
    (_, losses), gradient = compiled()(logits, *rest)
    assert np.isfinite(losses).all() and np.abs(gradient[3, :5]).max() > 0.1
    # Five frames are just enough for (3, 3, 3); with four of them it does not fit.
    four, spoiled = rest[0].copy(), logits.copy()
    four[3, 4], spoiled[3, 4:], spoiled[1, 5:] = 1, np.nan, np.inf
    (_, others), gradient = compiled()(spoiled, four, *rest[1:])
    assert others[3] == np.inf and (gradient[3] == 0).all()
    np.testing.assert_array_equal(others[:3], losses[:3])
    assert np.isfinite(gradient).all() and np.isfinite(losses).all()
    no_prefix = rest[0].copy()
    no_prefix[0, 0] = 1
    (_, others), _ = compiled()(logits, no_prefix, *rest[1:])
    assert np.isnan(others[0]) and (others[1:] == losses[1:]).all()


def test_what_does_not_fit_is_named():
    logits, logit_paddings, labels, label_paddings = arguments()
    gap, out_of_range = label_paddings.copy(), labels.copy()
    gap[0, 0], out_of_range[0, 0] = 1, 9
    for changed, message in [
        ({"logit_paddings": jnp.asarray(logit_paddings[:, 1:])}, "logit_paddings must have shape"),
        ({"label_paddings": jnp.asarray(label_paddings[:2])}, "label_paddings must have shape"),
        ({"logits": jnp.asarray(logits[0])}, r"logits must have shape \(B, T, V\)"),
        ({"label_paddings": jnp.asarray(gap)}, r"paddings\[0\] must be nonzero on"),
        ({"labels": jnp.asarray(out_of_range)}, r"labels\[0, 0\]=9 must be in"),
        ({"blank_id": 5}, "blank_id=5 must be in"),
    ]:
        given = {
            "logits": logits,
            "logit_paddings": logit_paddings,
            "labels": labels,
            "label_paddings": label_paddings,
        }
        with pytest.raises(ValueError, match=message):
            optax_ctc_loss(**(jax.device_put(given) | changed))
