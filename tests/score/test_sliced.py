"""Sliced score matching: all sign vectors, variance laws, energies, mutants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import traces
from probjax.core.keys import item_keys
from probjax.score.energies import score_from_energy
from probjax.score.explicit import implicit_sm
from probjax.score.sliced import (
    draw_slices,
    sliced_sm,
    sliced_sm_energy,
    sliced_sm_energy_from_slices,
    sliced_sm_from_slices,
)

X = np.random.default_rng(0).normal(size=(3, 4))
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
ALL_SIGNS = np.broadcast_to(SIGNS[:, None], (16, 3, 4))


def bent(x):
    """A score that is no gradient, with a Jacobian that differs from row to row."""
    return jnp.sin(2 * x) * jnp.roll(x, 1, axis=-1) - x


def energy(x):
    return jnp.sum(jnp.cosh(x) + x * jnp.sin(jnp.roll(x, 1, axis=-1)), axis=-1)


def plain(score_fn, x, slices):
    return sliced_sm_from_slices(score_fn, x, slices, variance_reduced=False)


def from_energy(score_fn, x, slices):
    """As `plain`, with the model and the truth replaced by an energy's."""
    del score_fn
    values = sliced_sm_energy_from_slices(energy, x, slices)
    return values - plain(score_from_energy(energy), x, slices) + plain(bent, x, slices)


def check_enumeration(objective):
    """All 2^d sign vectors together are the exact trace and the exact square."""

    @jax.jit
    def values(x, slices):
        one_by_one = jax.lax.map(lambda v: objective(bent, x, v[None]), slices)
        return objective(bent, x, slices), one_by_one.mean(0), implicit_sm(bent, x)

    together, one_by_one, truth = values(X, ALL_SIGNS)
    np.testing.assert_allclose(together, truth, rtol=1e-12)
    np.testing.assert_allclose(one_by_one, truth, rtol=1e-12)


@pytest.mark.parametrize("objective", [sliced_sm_from_slices, plain, from_energy])
def test_all_sign_vectors_give_the_implicit_objective(x64, objective):
    check_enumeration(objective)


def along(score_fn, x, slices):
    return (slices * score_fn(x)[None]).sum(-1)


MUTANTS = {
    "lost half": lambda s, x, v: plain(s, x, v) + 0.5 * (along(s, x, v) ** 2).mean(0),
    "flipped sign of the score": lambda s, x, v: plain(lambda y: -s(y), x, v),
    "unit-norm slices": lambda s, x, v: plain(s, x, v / v.shape[-1] ** 0.5),
    "unit-norm slices, reduced": lambda s, x, v: sliced_sm_from_slices(
        s, x, v / v.shape[-1] ** 0.5
    ),
    "reduced with the wrong quadratic": lambda s, x, v: (
        sliced_sm_from_slices(s, x, v) - 0.5 * (s(x) ** 2).sum(-1) + 0.5 * s(x).sum(-1) ** 2
    ),
    "square of the mean slope": lambda s, x, v: (
        plain(s, x, v) + 0.5 * along(s, x, v).mean(0) ** 2 - 0.5 * (along(s, x, v) ** 2).mean(0)
    ),
    "sum over slices": lambda s, x, v: plain(s, x, v) * len(v),
    "one slice for all rows of a tiled batch": lambda s, x, v: plain(
        s, x, jnp.broadcast_to(v.reshape(-1, *v.shape[2:])[: len(v), None], v.shape)
    ),
    "first slice only": lambda s, x, v: plain(s, x, v[:1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_enumeration_kills(x64, name):
    with pytest.raises(AssertionError):
        check_enumeration(MUTANTS[name])


def test_an_energy_is_its_score(x64):
    """Two forward derivatives against forward over backward, slice by slice."""
    x, slices = jnp.asarray(X), jax.random.normal(jax.random.key(0), (3, 3, 4))
    ours = jax.jit(lambda x, v: sliced_sm_energy_from_slices(energy, x, v))(x, slices)
    other = jax.jit(lambda x, v: plain(score_from_energy(energy), x, v))(x, slices)
    np.testing.assert_allclose(ours, other, rtol=1e-12)


MATRIX = np.array([[1.0, 2.0, -1.0], [0.5, -3.0, 4.0], [7.0, 0.0, 0.25]])


def quadratics(law, n):
    """v A v for n slices, by the objective with the square taken away."""

    def linear(x):
        return x @ jnp.asarray(MATRIX.T, x.dtype)

    run = jax.jit(lambda key: sliced_sm(key, linear, jnp.zeros((n, 3)), law=law))
    return np.asarray(run(jax.random.key(1)))


def variance_law(law):
    symmetric = (MATRIX + MATRIX.T) / 2
    off = symmetric - np.diag(np.diag(symmetric))
    trace, square, dim = np.trace(MATRIX), (symmetric**2).sum(), 3
    return {
        "rademacher": 2 * (off**2).sum(),
        "gaussian": 2 * square,
        "sphere": dim / (dim + 2) * (2 * square + trace**2) - trace**2,
    }[law]


@pytest.mark.parametrize("law", traces.LAWS)
def test_variance_of_one_slice_is_its_law(x64, law):
    values = quadratics(law, 40_000)
    centred = values - np.trace(MATRIX)
    error = centred.std() / 200
    assert abs(centred.mean()) < 4 * error
    squares = centred**2
    assert abs(squares.mean() - variance_law(law)) < 4 * squares.std() / 200


def test_rademacher_law_by_enumeration(x64):
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    values = np.einsum("ni,ij,nj->n", signs, MATRIX, signs)
    np.testing.assert_allclose(values.var(), variance_law("rademacher"), rtol=1e-12)
    assert max(variance_law("rademacher"), variance_law("sphere")) < variance_law("gaussian")


def test_one_sign_slice_is_enough_where_coordinates_do_not_mix(x64):
    """A diagonal Jacobian: the reduced form is exact, the other one only in the mean."""
    x = jnp.broadcast_to(jnp.asarray(X[:1]), (4000, 4))

    @jax.jit
    def values(key, x):
        kept = [
            sliced_sm(jax.random.clone(key), jnp.cos, x, variance_reduced=reduced)
            for reduced in (True, False)
        ]
        return *kept, implicit_sm(jnp.cos, x)

    reduced, whole, truth = values(jax.random.key(2), x)
    np.testing.assert_allclose(reduced, truth, rtol=1e-12)
    assert whole.std() > 0.1
    assert abs(whole.mean() - truth[0]) < 4 * whole.std() / 4000**0.5


@pytest.mark.parametrize("law", traces.LAWS)
def test_slices_belong_to_their_rows(reuse_keys, law):
    keys, x = item_keys(jax.random.key(0), 6), jnp.zeros((6, 2, 2))
    slices = draw_slices(keys, x, num_slices=3, law=law, event_ndim=2)
    assert slices.shape == (3, 6, 2, 2)
    alone = draw_slices(keys[4:5], x[4:5], num_slices=3, law=law, event_ndim=2)
    np.testing.assert_array_equal(slices[:, 4:5], alone)
    batch = draw_slices(jax.random.key(0), jnp.zeros((40, 8)), num_slices=2, law=law)
    assert len(np.unique(batch.reshape(80, 8), axis=0)) > 60  # another slice for every row
    if law != "gaussian":
        np.testing.assert_allclose((batch**2).sum(-1), 8, rtol=1e-5)


def test_shells_draw_and_pass_on():
    options = {"num_slices": 2, "law": "gaussian"}

    def pairs(key, x):
        slices = draw_slices(jax.random.clone(key), x, **options)
        for reduced in (True, False):
            other = sliced_sm_from_slices(bent, x, slices, variance_reduced=reduced)
            again = jax.random.clone(key)
            yield sliced_sm(again, bent, x, variance_reduced=reduced, **options), other
        other = sliced_sm_energy_from_slices(energy, x, slices)
        yield sliced_sm_energy(jax.random.clone(key), energy, x, **options), other

    found = jax.jit(lambda key, x: list(pairs(key, x)))(jax.random.key(3), X.astype(np.float32))
    for ours, other in found:
        np.testing.assert_allclose(ours, other, rtol=1e-6)


def test_images():
    def values(x):
        clone, event = jax.random.clone, tuple(range(1, x.ndim))
        key, options = jax.random.key(1), {"event_ndim": x.ndim - 1}
        score = sliced_sm(clone(key), jnp.sin, x, **options)
        return score, sliced_sm_energy(clone(key), lambda y: jnp.cosh(y).sum(event), x, **options)

    x = np.random.default_rng(0).normal(size=(2, 2, 3, 1)).astype(np.float32)
    image, flat = jax.jit(lambda x: (values(x), values(x.reshape(2, 6))))(x)
    np.testing.assert_allclose(image, flat, rtol=1e-6)


def test_bad_arguments_are_named():
    x, v = jnp.zeros((3, 2)), jnp.zeros((1, 3, 2))
    with pytest.raises(ValueError, match="num_slices must be at least 1, got 0"):
        sliced_sm(jax.random.key(0), jnp.sin, x, num_slices=0)
    with pytest.raises(ValueError, match="law must be one of .* got 'unit'"):
        sliced_sm_energy(jax.random.key(0), energy, x, law="unit")
    with pytest.raises(ValueError, match=r"v must have shape \(any, 3, 2\), got \(3, 2\)"):
        sliced_sm_from_slices(jnp.sin, x, v[0])
    with pytest.raises(ValueError, match="number of probes must be at least 1, got 0"):
        sliced_sm_from_slices(jnp.sin, x, v[:0])
    with pytest.raises(ValueError, match="number of slices must be at least 1, got 0"):
        sliced_sm_energy_from_slices(energy, x, v[:0])
    with pytest.raises(ValueError, match=r"energy_fn\(x\) must have shape \(3,\), got \(3, 2\)"):
        sliced_sm_energy_from_slices(jnp.sin, x, v)
    with pytest.raises(ValueError, match=r"f\(x\) must have the shape of x"):
        sliced_sm(jax.random.key(0), lambda y: y[..., 0], x)
    with pytest.raises(ValueError, match="keys of shape"):
        sliced_sm(item_keys(jax.random.key(0), 2), jnp.sin, x)
