"""From some solutions to all: against SciPy, with minors that change sign; mutants."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from probjax.diffeq.completion import complete_fundamental_matrix, generalized_cross, reduce_order
from probjax.diffeq.matrix_functions import expm

END, MIDDLE = 1.0, 0.45
DEGREE = 40


def system(n, seed=0):
    """Coefficients (5, n, n) of a constant and two harmonics, and the columns of a fundamental
    matrix as Chebyshev coefficients (DEGREE + 1, n, n), the second oracle being SciPy.

    All minors of the first n - 1 columns but one vanish at MIDDLE, and change sign there.
    """
    rng = np.random.default_rng([seed, n])
    parts = rng.normal(size=(5, n, n)) / np.sqrt(n)

    def slope(t, y):
        waves = np.array([1, np.cos(3 * t), np.sin(3 * t), np.cos(6 * t), np.sin(6 * t)])
        return (np.tensordot(waves, parts, 1) @ y.reshape(n, n)).reshape(-1)

    nodes = np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    times = 0.5 * END * (1 + nodes)
    exact = partial(scipy.integrate.solve_ivp, slope, method="DOP853", rtol=1e-13, atol=1e-14)
    middle = exact((0, MIDDLE), np.eye(n).reshape(-1)).y[:, -1].reshape(n, n)
    there = rng.normal(size=(n, n)) + 2 * np.eye(n)
    there[0, : n - 1] = 0  # every minor of the first n - 1 columns that keeps row 0 is zero
    start = np.linalg.solve(middle, there)
    rows = exact((0, END), start.reshape(-1), t_eval=times[::-1]).y.T[::-1]
    fitted = np.polynomial.chebyshev.chebfit(nodes, rows, DEGREE)
    return parts, fitted.reshape(-1, n, n)


def matrix(parts):
    def A_fn(t):
        angles = (
            jnp.array([0.0, 3.0, 3.0, 6.0, 6.0]) * t
            - jnp.array([0.0, 0.0, 1.0, 0.0, 1.0]) * jnp.pi / 2
        )
        return jnp.tensordot(jnp.cos(angles), parts, 1)

    return A_fn


def columns(fitted, m):
    def X_fn(t):
        angle = jnp.arccos(jnp.clip(2 * t / END - 1, -1, 1))
        return jnp.tensordot(jnp.cos(jnp.arange(DEGREE + 1.0) * angle), fitted[:, :, :m], 1)

    return X_fn


TIMES = np.array([0.25, 0.6, 1.0])
PANELS, STEPS = 4, 40


@partial(jax.jit, static_argnames="m")
def solutions(fitted, ts, m):
    return jax.vmap(columns(fitted, m))(ts)


@jax.jit
def completed(parts, fitted, ts):
    known = columns(fitted, fitted.shape[-1] - 1)
    return complete_fundamental_matrix(matrix(parts), known, 0.0, ts, panels=PANELS)


@partial(jax.jit, static_argnames="m")
def reduced(parts, fitted, ts, m):
    return reduce_order(matrix(parts), columns(fitted, m), 0.0, ts, num_steps=STEPS)


def normal(X):
    """The generalized cross product by NumPy's determinants."""
    n = len(X)
    minors = [np.linalg.det(np.delete(X, i, axis=0)) for i in range(n)]
    return (-1.0) ** (np.arange(n) + n - 1) * np.array(minors)


def check_completion(complete, n):
    """Against integration, and the Wronskian against Liouville; minors do change sign."""
    parts, fitted = system(n)
    found = complete(parts, fitted, TIMES)
    basis = np.asarray(solutions(fitted, np.append(0.0, TIMES), n))
    nu = normal(basis[0, :, : n - 1])
    truth = basis[1:] @ np.linalg.solve(basis[0], nu / (nu @ nu))
    around = solutions(fitted, MIDDLE + np.array([-0.01, 0.01]), n - 1)
    before, after = (normal(np.asarray(x)) for x in around)
    assert (before * after < 0).any()
    assert found.is_valid
    assert np.abs(found.x - truth).max() <= 1e-10
    both = np.concatenate([basis[1:, :, : n - 1], np.asarray(found.x)[..., None]], axis=-1)
    assert np.abs(np.linalg.det(both) / found.wronskian - 1).max() <= 1e-10


def check_reduction(reduce, n, m):
    """Formula (9): the solutions that start orthogonal to the known ones."""
    parts, fitted = system(n)
    found = reduce(parts, fitted, np.append(0.0, TIMES), m)
    N, Z, C = (np.asarray(v) for v in found)
    basis = np.asarray(solutions(fitted, np.append(0.0, TIMES), n))
    known = basis[:, :, :m]
    np.testing.assert_allclose(Z[0], np.eye(n - m), atol=1e-14)
    np.testing.assert_allclose(np.swapaxes(N, 1, 2) @ N, np.broadcast_to(Z[0], Z.shape), atol=1e-12)
    assert np.abs(np.swapaxes(N, 1, 2) @ known).max() < 1e-11
    truth = basis @ np.linalg.solve(basis[0], N[0])
    assert np.abs(known @ C + N @ Z - truth).max() < 1e-11


def test_the_last_column_is_the_integrated_one(x64):
    check_completion(completed, 3)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4, 5, 6])
def test_the_last_column_is_the_integrated_one_in_all_sizes(x64, n):
    check_completion(completed, n)


def test_reduction_gives_the_other_solutions(x64):
    check_reduction(reduced, 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_reduction_gives_the_other_solutions_for_every_count(x64, n):
    for m in range(1, n):
        check_reduction(reduced, n, m)


def transposed(parts):
    return np.swapaxes(parts, 1, 2)


def with_coordinates(factor):
    """The last column with its share in the known solutions changed."""

    def mutant(parts, fitted, ts):
        found = completed(parts, fitted, ts)
        known = solutions(fitted, ts, fitted.shape[-1] - 1)
        return found._replace(x=found.x + factor * (known @ found.c[..., None])[..., 0])

    return mutant


COMPLETIONS = {
    "no coordinates": with_coordinates(-1.0),
    "coordinates of the other sign": with_coordinates(-2.0),
    "half of A + A^T": with_coordinates(-0.5),
    "the Wronskian left out": lambda *given: (
        lambda found: found._replace(x=found.x / found.wronskian[:, None])
    )(completed(*given)),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_the_check_kills_completions(x64, name):
    with pytest.raises(AssertionError):
        check_completion(COMPLETIONS[name], 3)


REDUCTIONS = {
    "A for its transpose": lambda parts, *rest: reduced(transposed(parts), *rest),
    "no coordinates": lambda *given: (lambda r: r._replace(C=0 * r.C))(reduced(*given)),
    "coordinates of the other sign": lambda *given: (lambda r: r._replace(C=-r.C))(reduced(*given)),
    "Z transposed": lambda *given: (lambda r: r._replace(Z=r.Z.swapaxes(1, 2)))(reduced(*given)),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_check_kills_reductions(x64, name):
    with pytest.raises(AssertionError):
        check_reduction(REDUCTIONS[name], 3, 1)


@jax.jit
def derivatives(cases):
    return [jax.jvp(generalized_cross, (X,), (A @ X,)) for X, A in cases]


def check_normal_rule(rule):
    """The derivative of the cross product along X' = A X, for n = 2 to 6, real and complex."""
    rng = np.random.default_rng(3)
    cases = []
    for n in range(2, 7):
        X, A = rng.normal(size=(n, n - 1)), rng.normal(size=(n, n))
        cases.append((X, A))
    X, A = (rng.normal(size=s) + 1j * rng.normal(size=s) for s in ((3, 2), (3, 3)))
    cases.append((X, A))

    for (X, A), (nu, dnu) in zip(cases, derivatives(cases), strict=True):
        np.testing.assert_allclose(nu, normal(X) if np.isrealobj(X) else nu, atol=1e-12)
        np.testing.assert_allclose(dnu, rule(A, np.asarray(nu)), atol=1e-12 * np.abs(dnu).max())


def test_the_normal_obeys_its_equation(x64):
    check_normal_rule(lambda A, nu: np.trace(A) * nu - A.T @ nu)


@pytest.mark.parametrize(
    "rule",
    [
        lambda A, nu: np.trace(A) * nu - A @ nu,
        lambda A, nu: -A.T @ nu,
        lambda A, nu: np.trace(A) * nu + A.T @ nu,
        lambda A, nu: np.trace(A) * nu - A.conj().T @ nu,
    ],
    ids=["A for its transpose", "no trace", "sign", "conjugated"],
)
def test_the_rule_kills(x64, rule):
    with pytest.raises(AssertionError):
        check_normal_rule(rule)


def test_the_cross_product_is_a_determinant(x64):
    rng = np.random.default_rng(1)
    cross = jax.jit(generalized_cross)
    for n in (1, 2, 4):
        X, y = rng.normal(size=(n, n - 1)), rng.normal(size=n)
        np.testing.assert_allclose(cross(X) @ y, np.linalg.det(np.column_stack([X, y])), rtol=1e-12)
    X = rng.normal(size=(3, 2)) + 1j * rng.normal(size=(3, 2))
    np.testing.assert_allclose(cross(X), np.cross(X[:, 0], X[:, 1]), rtol=1e-12)
    assert np.abs(cross(X[:, :1] * np.array([[1.0, 2.0]]))).max() < 1e-14


def test_nearly_dependent_columns_cost_their_condition(x64):
    """A mixture of solutions with condition 1e8 is another set of known solutions."""
    parts, fitted = system(3)
    mix = np.eye(3)
    mix[:2, :2] = [[1.0, 1.0], [1.0, 1.0 + 4e-8]]
    assert 0.5e8 < np.linalg.cond(mix[:2, :2]) < 2e8
    found = completed(parts, fitted @ mix, TIMES)
    basis = np.asarray(solutions(fitted, np.append(0.0, TIMES), 3))
    # The normal of the mixture is that of the known solutions times the determinant.
    nu = normal(basis[0, :, :2]) * 4e-8
    truth = basis[1:] @ np.linalg.solve(basis[0], nu / (nu @ nu))
    assert found.is_valid
    bound = 1e8 * np.finfo(float).eps * np.linalg.cond(basis[0])
    assert np.abs(found.x - truth).max() <= bound * np.abs(truth).max()


@pytest.mark.slow
def test_complex_systems(x64):
    rng = np.random.default_rng(5)
    A, start = (rng.normal(size=s) + 1j * rng.normal(size=s) for s in ((3, 3), (3, 2)))

    @jax.jit
    def run(A, start, ts):
        found = complete_fundamental_matrix(
            lambda t: A, lambda t: expm(A * t.astype(A.dtype)) @ start, 0.0, ts, panels=2
        )
        return found, jax.vmap(lambda t: expm(A * t.astype(A.dtype)))(ts)

    found, moves = run(A, start, np.array([0.0, 0.5]))
    np.testing.assert_allclose(found.x[1], moves[1] @ found.x[0], atol=1e-11)
    both = np.concatenate([moves @ start, found.x[..., None]], axis=-1)
    np.testing.assert_allclose(np.linalg.det(both), found.wronskian, rtol=1e-11)
    np.testing.assert_allclose(found.wronskian[1], np.exp(0.5 * np.trace(A)), rtol=1e-12)


def test_dependent_solutions_are_flagged(x64):
    parts, fitted = system(3)
    twice = fitted[:, :, [0, 0, 2]] * np.array([1.0, 2.0, 1.0])
    found = completed(parts, twice, TIMES)
    assert not found.is_valid
    assert all(np.isnan(v).all() for v in found[:3])


def test_bad_shapes_are_named():
    ts, A_fn = jnp.array([1.0]), lambda t: jnp.eye(3)
    with pytest.raises(ValueError, match=r"X_fn\(t\) must have shape \(3, m\) with m = 2"):
        complete_fundamental_matrix(A_fn, lambda t: jnp.ones((3, 1)), 0.0, ts)
    with pytest.raises(ValueError, match="with m = 1 to 2, got"):
        reduce_order(A_fn, lambda t: jnp.ones((3, 3)), 0.0, ts, num_steps=1)
    with pytest.raises(ValueError, match="panels must be at least 1"):
        complete_fundamental_matrix(A_fn, lambda t: jnp.ones((3, 2)), 0.0, ts, panels=0)
    with pytest.raises(ValueError, match=r"X must have shape \(n, n - 1\)"):
        generalized_cross(jnp.ones((3, 3)))


@pytest.mark.slow
def test_derivatives_pass_through(x64):
    """Along a change of A that keeps the known columns solutions: A + s v nu^T, nu.X = 0."""
    A, v = (
        np.array([[0.1, -1.0, 0.3], [0.8, 0.2, 0.0], [-0.4, 0.5, -0.3]]),
        np.array([0.3, -1, 2.0]),
    )
    start = np.array([[1.0, 0.2], [0.0, 1.0], [0.5, -1.0]])

    def A_fn(s, t):
        nu = generalized_cross(expm(A * t.astype(A.dtype)) @ start)
        return A + s * v[:, None] * nu[None]

    @jax.jit
    def ends(s):
        ts = jnp.array([0.7])
        known = lambda t: expm(A * t.astype(A.dtype)) @ start
        one = complete_fundamental_matrix(lambda t: A_fn(s, t), known, 0.0, ts, panels=2).x
        other = reduce_order(lambda t: A_fn(s, t), known, 0.0, ts, num_steps=8)
        return one, expm(jnp.asarray(0.7 * A)) @ start @ other.C[0] + other.N[0] @ other.Z[0]

    slopes = jax.jit(jax.jacfwd(ends))(0.3)
    for found, after, before in zip(slopes, ends(0.3 + 1e-5), ends(0.3 - 1e-5), strict=True):
        np.testing.assert_allclose(found, (after - before) / 2e-5, rtol=1e-7, atol=1e-8)


def test_programs_lower_for_an_accelerator():
    """Single precision; nothing here needs a routine that only a CPU has."""

    def both(coefficients):
        A_fn, X_fn = matrix(coefficients), columns(jnp.ones((DEGREE + 1, 3, 3)), 2)
        ts = jnp.array([0.5])
        found = complete_fundamental_matrix(A_fn, X_fn, 0.0, ts, panels=1)
        return found, reduce_order(A_fn, X_fn, 0.0, ts, num_steps=1)

    jax.jit(both).trace(jnp.ones((5, 3, 3))).lower(lowering_platforms=("cuda",))
