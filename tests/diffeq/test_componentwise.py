"""Fields written out on scalars against the same fields under `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.componentwise import (
    components,
    join_components,
    num_components,
    split_components,
)


def moves(t, y, a):
    z = jnp.zeros((3, 3)).at[0, 1].set(y[2]).at[jnp.array([1, 1]), jnp.array([2, 2])].add(y[:2])
    first, second, _ = jnp.split(y, 3)
    swapped = jnp.roll(y, 1)[::-1] + y[jnp.array([2, 0, 1])] + jnp.pad(y[1:], (1, 0))
    return z @ y + swapped + jnp.concatenate([first, second, first]) + jnp.outer(y, y).T[0] * t


def sums(t, y, a):
    total = jnp.sum(a * y[:, None], axis=0) + jnp.cumsum(y) - jnp.max(y) * jnp.prod(y)
    return total + a @ (a.T @ y) + jnp.linalg.norm(y)


def choices(t, y, a):
    inside = jnp.where((y > 0) & (jnp.sum(y) < 1), jax.nn.softplus(y), jax.nn.relu(a[0]) * t)
    return inside + jnp.clip(y, -0.5, 0.5) + y**3 + jax.nn.softmax(y) + jax.lax.stop_gradient(y)


def trees(t, y, a):
    return y


FIELDS = {"moves": moves, "sums": sums, "choices": choices}
Y = jax.random.normal(jax.random.key(0), (5, 3))
A = jax.random.normal(jax.random.key(1), (5, 3, 3))


def check_same(field, written):
    """Value and derivative of the written-out field are those of the field."""

    def ours(y, a):
        parts = written(field)(0.5, split_components(y), split_components(a))
        return jnp.stack(parts, axis=-1)

    def theirs(y, a):
        return jax.vmap(lambda y, a: field(0.5, y, a))(y, a)

    weights = jnp.arange(15.0).reshape(5, 3) - 6

    @jax.jit
    def both(y, a):
        pairs = []
        for f in (ours, theirs):
            value, pull = jax.vjp(f, y, a)
            pairs.append((value, *pull(weights)))
        return pairs

    for one, other in zip(*both(Y, A), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["sums", *(pytest.param(n, marks=pytest.mark.slow) for n in ("moves", "choices"))]
)
def test_written_out_field_is_the_field(name):
    check_same(FIELDS[name], lambda field: components(field, 0.0, Y[0], A[0]))


@pytest.mark.slow
def test_the_check_kills_a_transposed_matrix():
    def transposed(field):
        return components(lambda t, y, a: field(t, y, a.T), 0.0, Y[0], A[0])

    with pytest.raises(AssertionError):
        check_same(sums, transposed)


def test_pytrees_of_any_shape():
    y = {"a": jnp.ones((2, 2)), "b": jnp.array(3.0)}

    def field(t, y, args):
        return {"a": y["a"] @ y["a"].T * args[1], "b": jnp.trace(y["a"]) + y["b"] * t}

    written = components(field, 0.0, y, (jnp.array(1), 2.0))
    parts = written(0.5, split_components(y, items=False), (jnp.array(1), 2.0))
    wanted = field(0.5, y, (1, 2.0))
    found = join_components(parts, y)
    jax.tree.map(np.testing.assert_allclose, found, wanted)
    assert num_components(y) == 5


def test_a_constant_slope_has_the_shape_of_the_state():
    written = components(lambda t, y, args: jnp.ones_like(y), 0.0, jnp.zeros(2), None)
    assert [v.shape for v in written(0.0, (jnp.zeros(4), jnp.zeros(4)), ())] == [(4,), (4,)]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (lambda t, y, a: jnp.sort(y), "sort"),
        (lambda t, y, a: jax.lax.fori_loop(0, 3, lambda k, v: v * 2, y), "scan"),
        (lambda t, y, a: y * jnp.argmax(y).astype(y.dtype), "argmax"),
    ],
)
def test_what_has_no_form_is_named_with_its_line(field, name):
    with pytest.raises(NotImplementedError, match=f"`{name}`, at .*test_componentwise.py:"):
        components(field, 0.0, jnp.zeros(3), None)


def test_places_that_depend_on_the_state_are_refused():
    written = components(lambda t, y, a: y[a], 0.0, jnp.zeros(3), jnp.zeros(3, jnp.int32))
    with pytest.raises(NotImplementedError, match="places that depend on the state"):
        written(0.0, split_components(Y), split_components(jnp.zeros((5, 3), jnp.int32)))


def test_a_wrong_number_of_components_is_named():
    with pytest.raises(ValueError, match="y must have 3 components, got 2"):
        components(trees, 0.0, jnp.zeros(3), None)(0.0, (1.0, 2.0), ())
