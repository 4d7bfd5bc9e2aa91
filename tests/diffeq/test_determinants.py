"""Pivots of a covariance, Hadamard's ratio, total correlation: closed forms, twins, flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.determinants import (
    correlation,
    hadamard_ratio,
    multiple_correlations,
    schur_pivots,
    total_correlation,
)

EXAMPLE = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.5]])


@jax.jit
def everything(h):
    shares = multiple_correlations(h)
    return schur_pivots(h), hadamard_ratio(h), shares, total_correlation(h), correlation(h)


def check_identities(found, h):
    """Against leading minors and regressions on the variables before, by NumPy."""
    pivots, ratio, shares, information, corr = found
    n = len(h)
    minors = [1.0, *(np.linalg.det(h[:k, :k]).real for k in range(1, n + 1))]
    np.testing.assert_allclose(pivots.value, np.divide(minors[1:], minors[:-1]), rtol=1e-11)
    np.testing.assert_allclose(corr, h / np.sqrt(np.outer(*2 * [np.diag(h).real])), atol=1e-14)
    np.testing.assert_allclose(ratio.value, np.linalg.det(np.asarray(corr)).real, rtol=1e-11)
    explained = [0.0]
    for k in range(1, n):
        weights = np.linalg.solve(h[:k, :k], h[:k, k])
        explained.append((h[k, :k] @ weights).real / h[k, k].real)
    np.testing.assert_allclose(shares.value, explained, atol=1e-13)
    mutual = -0.5 * np.log1p(-np.array(explained))
    np.testing.assert_allclose(information.value, mutual.sum(), rtol=1e-11)
    assert all(part.is_valid for part in found[:4])


def test_pivots_and_what_follows_from_them(x64):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 7))
    check_identities(everything(root @ root.T), root @ root.T)
    check_identities(everything(EXAMPLE), EXAMPLE)
    root = root + 1j * rng.normal(size=(5, 7))
    hermitian = root @ root.conj().T
    check_identities(everything(hermitian), hermitian)
    assert abs(everything(EXAMPLE)[1].value - 0.739333) < 5e-7
    assert abs(everything(EXAMPLE)[3].value - 0.151003) < 5e-7


MUTANTS = {
    "log without the half": lambda f: (*f[:3], f[3]._replace(value=2 * f[3].value), f[4]),
    "sign of the information": lambda f: (*f[:3], f[3]._replace(value=-f[3].value), f[4]),
    "pivots without division": lambda f: (*f[:1], f[1]._replace(value=f[0].value.prod()), *f[2:]),
    "shares for what is left": lambda f: (*f[:2], f[2]._replace(value=1 - f[2].value), *f[3:]),
    "order of the variables": lambda f: (f[0]._replace(value=f[0].value[::-1]), *f[1:]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_kills(x64, name):
    with pytest.raises(AssertionError):
        check_identities(MUTANTS[name](everything(EXAMPLE)), EXAMPLE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hadamard_is_an_equality_for_diagonal_matrices_alone(x64, dtype):
    for scale in (1e-3, 1.0, 7e5):
        diagonal = np.diag(scale * np.array([0.1, 3.3, 0.7], dtype)).astype(dtype)
        found = everything(diagonal)
        assert found[1].value == 1.0 and found[3].value == 0.0
        assert (found[2].value == 0.0).all()
        np.testing.assert_array_equal(found[4], np.eye(3))
    assert everything(EXAMPLE.astype(dtype))[1].value < 1.0


def test_the_order_of_the_variables_changes_shares_but_no_sum(x64):
    order = [2, 0, 1]
    one, other = everything(EXAMPLE), everything(EXAMPLE[np.ix_(order, order)])
    assert np.abs(np.sort(one[2].value) - np.sort(other[2].value)).max() > 1e-3
    np.testing.assert_allclose(one[1].value, other[1].value, rtol=1e-14)
    np.testing.assert_allclose(one[3].value, other[3].value, rtol=1e-13)


def test_what_is_no_covariance_is_flagged(x64):
    indefinite = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, -0.9], [0.9, -0.9, 1.0]])
    singular = np.outer([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    lopsided = EXAMPLE + np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])
    for bad in (indefinite, singular, lopsided):
        for part in everything(bad)[:4]:
            assert not part.is_valid
            assert np.isnan(part.value).all()


def test_a_variable_that_does_not_vary_is_named():
    flat = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    for fn in (schur_pivots, hadamard_ratio, multiple_correlations, total_correlation, correlation):
        with pytest.raises(ValueError, match=r"variance\[1\] must be positive and finite, got 0.0"):
            fn(flat)


def test_derivative_of_the_information(x64):
    """Of the log determinant: half the inverse diagonal less the inverse."""
    grad = jax.jit(jax.grad(lambda h: total_correlation(0.5 * (h + h.T)).value))(EXAMPLE)
    truth = 0.5 * (np.diag(1 / np.diag(EXAMPLE)) - np.linalg.inv(EXAMPLE))
    np.testing.assert_allclose(grad, truth, atol=1e-13)


def test_programs_lower_for_an_accelerator():
    everything.trace(jnp.eye(3)).lower(lowering_platforms=("cuda",))
