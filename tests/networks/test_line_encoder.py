"""The reader of lines looks as far as it says, and the transducer joins every frame and history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.networks.line_encoder import INK_MEAN, INK_SCALE, LineEncoder, LineTransducer

NET = LineEncoder(3, widths=(4, 5, 6))
IMAGES = jax.random.normal(jax.random.key(1), (2, 10, 60))
PAIR = LineTransducer(11, blank_id=10, width=8, encoder_widths=(4, 4, 4))


@pytest.fixture(scope="module")
def params():
    return jax.jit(NET.init)(jax.random.key(0), IMAGES)


@pytest.fixture(scope="module")
def pair_params():
    return jax.jit(PAIR.init)(jax.random.key(0), IMAGES, jnp.zeros((2, 3), jnp.int32))


def by_hand(params, image):
    """The formula, tap by tap."""
    x = (np.asarray(image).T - INK_MEAN) / INK_SCALE
    for name, stride in (("Dense_0", 1), ("Dense_1", 2), ("Dense_2", 1)):
        kernel, bias = (np.asarray(params["params"][name][part]) for part in ("kernel", "bias"))
        kernel = kernel.reshape(5, -1, kernel.shape[-1])
        padded = np.pad(x, ((2, 2), (0, 0)))
        frames = range(0, len(x), stride)
        sums = [sum(padded[t + j] @ kernel[j] for j in range(5)) for t in frames]
        x = np.maximum(np.stack(sums) + bias[None], 0)
    dense = params["params"]["Dense_3"]
    return x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])[None]


def test_the_encoder_is_its_formula(params):
    out = jax.jit(NET.apply)(params, IMAGES)
    assert out.shape == (2, 30, 3)
    for image, frames in zip(IMAGES, out, strict=True):
        np.testing.assert_allclose(frames, by_hand(params, image), atol=2e-5)


def test_a_frame_sees_seventeen_columns_around_its_own(params):
    moved = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, params)  # no unit is off
    image = jnp.abs(IMAGES[0]) + 1
    seen = jax.grad(lambda image: NET.apply(moved, image)[12, 1])(image)
    columns = np.flatnonzero(np.abs(np.asarray(seen)).sum(axis=0))
    assert columns.tolist() == list(range(24 - 8, 24 + 9))


def test_lines_do_not_influence_each_other(params):
    poisoned = jax.jit(NET.apply)(params, IMAGES.at[0, 3, 7].set(jnp.nan))
    assert jnp.isnan(poisoned[0]).any() and not jnp.isnan(poisoned[1]).any()


def test_every_frame_is_joined_with_every_history(pair_params):
    labels = jnp.array([[4, 4, 7], [0, 9, -1]])
    logits = jax.jit(PAIR.apply)(pair_params, IMAGES, labels)
    assert logits.shape == (2, 30, 4, 11)
    bound = PAIR.bind(pair_params)
    seen = bound.encode(IMAGES)
    for b, t, u, last in ((0, 5, 0, 10), (0, 29, 1, 4), (0, 0, 3, 7), (1, 8, 1, 0), (1, 8, 2, 9)):
        one = bound.join(seen[b, t], bound.predict(jnp.array(last)))
        np.testing.assert_allclose(logits[b, t, u], one, atol=1e-5)
    assert np.abs(logits[0, 5, 0] - logits[0, 5, 3]).max() > 1e-3
    # The predictor looks one label back; padding is nothing that was written.
    np.testing.assert_allclose(logits[0, :, 1], logits[0, :, 2], atol=1e-5)
    np.testing.assert_array_equal(bound.predict(jnp.array(-1)), bound.predict(jnp.array(10)))
    np.testing.assert_array_equal(bound.predict(jnp.array(10**9)), bound.predict(jnp.array(10)))


def test_errors():
    with pytest.raises(ValueError, match=r"images must have an even width, got shape \(10, 59\)"):
        NET.init(jax.random.key(0), jnp.zeros((10, 59)))
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        LineEncoder(3, kernel_size=4).init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match=r"blank_id must be in \[0, 11\), got 11"):
        LineTransducer(11, blank_id=11).init(
            jax.random.key(0), IMAGES, jnp.zeros((2, 3), jnp.int32)
        )
