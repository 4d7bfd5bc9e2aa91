"""The class enters the mixer beside the noise level, and only there."""

import jax
import jax.numpy as jnp
import numpy as np

from probjax.experiments.digits_network import ClassMixer
from probjax.networks import DenoisingMixer

SIZES = {"image_size": 4, "width": 8, "token_width": 4, "channel_width": 8, "num_blocks": 1}
NET = ClassMixer(**SIZES, num_classes=2)
X = jax.random.normal(jax.random.key(1), (3, 16))
LEVELS = jnp.array([-1.0, 0.0, 0.5])
APPLY = jax.jit(NET.apply)


def test_it_is_the_plain_mixer_with_the_class_added_to_the_embedding():
    labels = jnp.array([0, 1, 2])
    params = jax.jit(NET.init)(jax.random.key(0), X, LEVELS, labels)["params"]
    draw = np.random.default_rng(0)  # zeros would hide the class
    params = jax.tree.map(lambda w: w + 0.3 * draw.normal(size=w.shape).astype(w.dtype), params)
    params["classes"] = jax.random.normal(jax.random.key(2), (3, 128))
    out = APPLY({"params": params}, X, LEVELS, labels)
    plain = jax.jit(DenoisingMixer(**SIZES).apply)
    for i, label in enumerate([0, 1, 2]):
        moved = {name: value for name, value in params.items() if name != "classes"}
        first = moved["Dense_0"]
        moved["Dense_0"] = {**first, "bias": first["bias"] + params["classes"][label]}
        alone = plain({"params": moved}, X[i : i + 1], LEVELS[i : i + 1])
        np.testing.assert_allclose(out[i], alone[0], rtol=2e-5, atol=2e-5)
