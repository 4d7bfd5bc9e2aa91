"""The parts of the digit-lines experiment: new lines at each step, readings that fit each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import item_keys
from probjax.datasets.digit_lines import load_glyphs
from probjax.experiments import digit_lines_model as model

GLYPHS = load_glyphs()
SMALL = model.NetworkConfig(widths=(4, 4, 4), joint_width=8)
TRAINING = model.TrainingConfig(num_steps=5, batch_size=4)


@pytest.fixture(scope="module")
def objective():
    return model.make_objective(jax.random.key(3), TRAINING, model.make_ctc(SMALL), GLYPHS)


def test_a_line_is_a_function_of_step_and_number(objective):
    batch = jax.jit(objective.batch_fn)
    one = batch(jax.random.key(0), jnp.array([3, 1, 2, 0], jnp.int32))
    two = batch(jax.random.key(0), jnp.array([1, 2, 0, 1], jnp.int32))
    np.testing.assert_array_equal(one.images[1:], two.images[:3])
    new = batch(jax.random.key(1), objective.numbers)
    assert objective.numbers.tolist() == [0, 1, 2, 3]
    for line in one.images:
        assert (np.asarray(new.images) != np.asarray(line)[None]).any((1, 2)).all()


def test_lines_to_judge_by_are_not_those_of_a_training():
    """The text of seed 0 is another stream than the one that every run is judged on."""
    judged = model.fresh_lines(GLYPHS, 4)
    zero = model.make_objective(jax.random.key(0), TRAINING, model.make_ctc(SMALL), GLYPHS)
    trained = jax.jit(zero.batch_fn)(jax.random.key(0), jnp.arange(4, dtype=jnp.int32))
    assert not np.array_equal(judged.labels, trained.labels)


def test_readings_fit_each_other(objective):
    """The alignment spells the labels, occupancies are a law at each frame, losses agree."""
    reader = model.make_ctc(SMALL)
    lines = model.fresh_lines(GLYPHS, 4)
    reading = jax.jit(reader.read)(objective.params, lines)
    keys = item_keys(jax.random.key(0), 4)
    losses = jax.jit(objective.loss_fn)(objective.params, keys, lines)
    np.testing.assert_allclose(losses, reading.loss, rtol=1e-4)
    np.testing.assert_allclose(reading.occupancy.sum(-1), 1, atol=1e-4)
    live = np.asarray(lines.labels) >= 0
    starts, ends = np.asarray(reading.starts), np.asarray(reading.ends)
    assert ((starts >= 0) == live).all() and (ends > starts)[live].all()
    assert (starts[:, 1:] >= ends[:, :-1])[live[:, 1:]].all()
    assert (np.asarray(reading.confidence) < 0)[live].all()
    # Over all frames the expected number of a digit's frames is at least its count in the labels.
    expected = np.asarray(reading.occupancy).sum(1)
    for row, labels in zip(expected, np.asarray(lines.labels), strict=True):
        assert (row[:10] >= np.bincount(labels[labels >= 0], minlength=10) - 1e-3).all()
