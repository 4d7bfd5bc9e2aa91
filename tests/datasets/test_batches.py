import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probjax import datasets

KEY = jax.random.key(5)


def each_once_per_epoch(batch_indices, num_examples, batch_size, num_epochs=3):
    """Cut the endless sequence of examples at the epochs' borders."""
    steps = -(-num_epochs * num_examples // batch_size)
    rows = [np.asarray(batch_indices(KEY, s, num_examples, batch_size)) for s in range(steps)]
    sequence = np.concatenate(rows)[: num_epochs * num_examples]
    for epoch in sequence.reshape(num_epochs, num_examples):
        assert sorted(epoch.tolist()) == list(range(num_examples))


compiled = jax.jit(datasets.batch_indices, static_argnums=(2, 3))


@example(num_examples=7, batch_size=3)
@example(num_examples=3, batch_size=8)
@settings(deadline=None, max_examples=4)
@given(num_examples=st.integers(1, 12), batch_size=st.integers(1, 15))
def test_each_example_once_per_epoch(num_examples, batch_size):
    each_once_per_epoch(compiled, num_examples, batch_size)


def no_border(key, step, num_examples, batch_size):
    order = datasets.epoch_permutation(key, step * batch_size // num_examples, num_examples)
    return order[(step * batch_size + jnp.arange(batch_size)) % num_examples]


def with_replacement(key, step, num_examples, batch_size):
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, num_examples)


def off_by_one(key, step, num_examples, batch_size):
    return datasets.batch_indices(key, step + (step > 0), num_examples, batch_size)


@pytest.mark.parametrize("mutant", [no_border, with_replacement, off_by_one])
def test_mutants_die(mutant):
    with pytest.raises(AssertionError):
        each_once_per_epoch(mutant, 10, 4)


def test_epochs_differ_and_the_key_decides():
    first, second = (datasets.epoch_permutation(KEY, epoch, 50) for epoch in (0, 1))
    other = datasets.epoch_permutation(jax.random.key(6), 0, 50)
    assert (first != second).any() and (first != other).any()
    assert (datasets.epoch_permutation(KEY, jnp.asarray(1), 50) == second).all()


def test_late_steps_do_not_overflow():
    """Step 2e9 of 1000 rows would be position 2e12."""
    step, n, size = 2_000_000_000, 1297, 1000
    batch = np.asarray(datasets.batch_indices(KEY, step, n, size))
    epoch, offset = divmod(step * size, n)
    head = datasets.epoch_permutation(KEY, epoch, n)[offset : offset + size]
    np.testing.assert_array_equal(batch[: len(head)], head)
    tail = datasets.epoch_permutation(KEY, epoch + 1, n)[: size - len(head)]
    np.testing.assert_array_equal(batch[len(head) :], tail)


def test_one_compile_for_all_steps():
    count = compiled._cache_size()
    for step in range(4):
        compiled(KEY, jnp.asarray(step), 33, 8)
    assert compiled._cache_size() == count + 1


@pytest.mark.parametrize(
    ("n", "size", "message"),
    [
        (0, 4, "num_examples must be at least 1, got 0"),
        (4, 0, "batch_size must be at least 1, got 0"),
        (99_991, 99_989, "least common multiple"),
    ],
)
def test_bad_input_is_named(n, size, message):
    with pytest.raises(ValueError, match=message):
        datasets.batch_indices(KEY, 0, n, size)
