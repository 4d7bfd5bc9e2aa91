"""Functions of a matrix: identities, closed forms, SciPy; flags; what the checks kill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from probjax.diffeq import matrix_functions
from probjax.diffeq.matrix_functions import (
    commutator,
    cosm,
    expm,
    frechet,
    jacobi_formula,
    log_det_exp,
    logm,
    series_logm,
    sinm,
    sqrtm,
)

EPS = np.finfo(float).eps
N = 4


def matrices(count=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, N, N))


JORDAN = 0.3 * np.eye(N) + np.eye(N, k=1)

exponentials = jax.jit(jax.vmap(expm))


@jax.jit
def traces(a):
    """The exponential, its log determinant and the derivative of that."""
    value, slope = jax.vmap(jax.value_and_grad(log_det_exp))(a)
    return jax.vmap(expm)(a), value, slope


def test_det_exp_is_exp_trace(x64):
    a = np.concatenate([matrices(), JORDAN[None]])
    moved, value, slope = map(np.asarray, traces(a))
    bound = N * EPS * np.linalg.cond(moved)
    assert (np.abs(value - np.trace(a, axis1=1, axis2=2)) <= bound).all()
    assert (np.abs(slope - np.eye(N)).max((1, 2)) <= bound).all()
    assert abs(np.linalg.det(moved[-1]) - 3.320117) < 5e-7
    assert abs(np.exp(np.trace(JORDAN)) - 3.320117) < 5e-7
    closed = np.exp(0.3) * sum(
        np.linalg.matrix_power(JORDAN - 0.3 * np.eye(N), k) / [1, 1, 2, 6][k] for k in range(N)
    )
    np.testing.assert_allclose(moved[-1], closed, rtol=1e-14)


def test_the_exponential_is_right_at_every_norm(x64):
    """Also between powers of two times the limit. The numerator cancels by e^limit at worst, and
    three or four squarings double that each time.
    """
    x = -np.linspace(0.1, 40, 400)
    a = x[:, None, None] * np.eye(N)
    found = np.asarray(exponentials(a))[:, 0, 0]
    assert np.abs(found / np.exp(x) - 1).max() < 2**3 * np.exp(5.4) * EPS
    single = np.asarray(exponentials(np.float32(a)))[:, 0, 0]
    exact = np.exp(np.float64(np.float32(x)))
    assert np.abs(single / exact - 1).max() < 2**4 * np.exp(3.9) * np.finfo(np.float32).eps
    for scale in (0.1, 1, 10):
        a = scale * matrices(seed=1)
        for found, one in zip(exponentials(a), a, strict=True):
            exact = scipy.linalg.expm(one)
            assert np.abs(found - exact).max() <= 50 * scale * EPS * np.abs(exact).max() * N


def test_skew_matrices_give_rotations(x64):
    skew = matrices() - matrices().swapaxes(1, 2)
    moved = np.asarray(exponentials(skew))
    assert np.abs(moved.swapaxes(1, 2) @ moved - np.eye(N)).max() <= 1e-13


def test_too_few_squarings_and_bad_values_are_nan():
    few = jax.jit(lambda a: expm(a, max_squarings=2))
    assert np.isfinite(few(3.9 * 4 * jnp.eye(2))).all()
    assert np.isnan(few(3.93 * 4 * jnp.eye(2))).all()
    assert np.isnan(few(jnp.full((2, 2), jnp.nan))).all()
    assert expm(jnp.zeros((1, 1), jnp.bfloat16)).dtype == jnp.float32


@jax.jit
def circle(a):
    cos, sin = cosm(a), sinm(a)
    return cos, sin, cos @ cos + sin @ sin


def test_cosine_and_sine(x64):
    for a in matrices():
        cos, sin, one = circle(a)
        np.testing.assert_allclose(cos, scipy.linalg.cosm(a), atol=1e-13)
        np.testing.assert_allclose(sin, scipy.linalg.sinm(a), atol=1e-13)
        np.testing.assert_allclose(one, np.eye(N), atol=1e-12)
    z = np.array([[1 + 2j]])
    assert abs(jax.jit(cosm)(z)[0, 0] - np.cos(1 + 2j)) < 1e-14
    assert abs(jax.jit(sinm)(z)[0, 0] - np.sin(1 + 2j)) < 1e-14


logarithm = jax.jit(logm)


def within_pi(a, share=0.95):
    return a * (share * np.pi / np.abs(np.linalg.eigvals(a)).max())


def test_the_logarithm_undoes_the_exponential(x64):
    for a in [*map(within_pi, matrices()), within_pi(JORDAN, 0.5), np.zeros((N, N))]:
        found = logarithm(scipy.linalg.expm(a))
        assert found.is_valid
        bound = 100 * EPS * np.linalg.cond(scipy.linalg.expm(a))
        assert np.abs(found.value - a).max() <= bound
    diagonal = np.array([1e-8, 0.3, 1.0, 1e8])  # seven roots
    found = np.diag(logarithm(np.diag(diagonal)).value)
    np.testing.assert_allclose(found, np.log(diagonal), atol=2**8 * EPS, rtol=0)


def test_a_logarithm_that_does_not_exist_is_flagged(x64):
    turned = scipy.linalg.expm(np.random.default_rng(0).normal(size=(N, N)))
    rows = ([1, 2, 3, -0.5], [-1, -3, 1, 1], [np.nan, 1, 1, 1])
    for eigenvalues in rows:
        bad = turned @ np.diag(np.asarray(eigenvalues, float)) @ np.linalg.inv(turned)
        found = logarithm(bad)
        assert not found.is_valid and np.isnan(found.value).all()
    singular = np.array([[1.0, 2, 0, 0], [2, 4, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    for bad in (singular, -np.eye(N), np.zeros((N, N))):
        assert not logarithm(bad).is_valid
    assert not jax.jit(lambda a: logm(a, max_roots=1))(1e3 * np.eye(N)).is_valid


@pytest.mark.slow
def test_complex_roots_and_logarithms(x64):
    rng = np.random.default_rng(4)
    a = rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))
    a = within_pi(a)
    found = logarithm(scipy.linalg.expm(a))
    np.testing.assert_allclose(found.value, a, atol=1e-11)
    assert not logarithm(a @ np.diag([1, 1, 2, -1 + 0j]) @ np.linalg.inv(a)).is_valid
    root = jax.jit(sqrtm)(scipy.linalg.expm(a)).value
    np.testing.assert_allclose(root, scipy.linalg.expm(0.5 * a), atol=1e-11)


def test_the_series_serves_inside_the_unit_ball_only(x64):
    def partial_sums(radius):
        a = np.eye(2) + radius * np.array([[0.0, -1.0], [1.0, 0.0]])  # eigenvalues 1 +- i r
        exact = scipy.linalg.logm(a)
        return [np.abs(series(a) - exact).max() for series in (short, long)]

    short, long = (jax.jit(lambda a, k=k: series_logm(a, terms=k)) for k in (20, 40))
    inside, outside = partial_sums(0.8), partial_sums(1.2)
    assert inside[1] < 0.8**20 * inside[0] * 1.01
    assert outside[1] > 1.2**20 * outside[0] * 0.5
    cubic = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])  # nilpotent: it ends
    np.testing.assert_allclose(
        series_logm(jnp.asarray(cubic), terms=2), scipy.linalg.logm(cubic), atol=1e-15
    )


@jax.jit
def derivatives(a, e):
    """Of exponential and logarithm, by `jvp`, by the block, and transposed."""
    log = lambda x: logm(x).value
    pairs = []
    for fn in (expm, log):
        pairs.append((jax.jvp(fn, (a,), (e,))[1], frechet(fn, a, e)))
    back = jax.vjp(log, a)[1](e)[0]
    return pairs, jnp.vdot(back, e), jnp.vdot(e, pairs[1][0])


def test_derivatives_are_the_corner_of_a_block(x64):
    a, e = 0.6 * matrices(2, seed=2)
    a = a + 2.5 * np.eye(N)
    (exp, log), left, right = derivatives(a, e)
    scale = np.abs(exp[0]).max()
    assert np.abs(exp[0] - exp[1]).max() <= 1e-12 * scale
    exact = scipy.linalg.expm_frechet(a, e, compute_expm=False)
    assert np.abs(exp[0] - exact).max() <= 1e-12 * scale
    nodes, weights = np.polynomial.legendre.leggauss(20)
    integral = sum(
        0.5
        * w
        * scipy.linalg.expm((0.5 - 0.5 * s) * a)
        @ e
        @ scipy.linalg.expm((0.5 + 0.5 * s) * a)
        for s, w in zip(nodes, weights, strict=True)
    )
    assert np.abs(exp[0] - integral).max() <= 1e-12 * scale
    np.testing.assert_allclose(log[0], log[1], atol=1e-12)
    np.testing.assert_allclose(left, right, rtol=1e-12)
    step = scipy.linalg.logm(a + 1e-5 * e) - scipy.linalg.logm(a - 1e-5 * e)
    np.testing.assert_allclose(log[0], step / 2e-5, atol=1e-8)


def check_jacobi(formula):
    """The determinant along a line is a polynomial: its slope, at rank n, n - 1 and n - 2."""
    e = matrices(1, seed=5)[0]
    for rank in (N, N - 1, N - 2):
        a = matrices(1, seed=6)[0] @ np.diag([1.0] * rank + [0.0] * (N - rank)) @ e.T
        s = np.cos(np.pi * (np.arange(N + 1) + 0.5) / (N + 1))
        values = np.linalg.det(a + s[:, None, None] * e)
        slope = np.polynomial.Polynomial.fit(s, values, N).deriv()(0.0)
        assert abs(formula(a, e) - slope) < 1e-12


jacobi = jax.jit(jacobi_formula)


def test_jacobi_formula_also_at_singular_matrices(x64):
    check_jacobi(jacobi)


@pytest.mark.parametrize(
    "mutant",
    [lambda a, e: jacobi(a.T, e), lambda a, e: -jacobi(a, e), lambda a, e: np.trace(e) * 1.0],
    ids=["transposed", "sign", "trace only"],
)
def test_the_check_kills_jacobi(x64, mutant):
    with pytest.raises(AssertionError):
        check_jacobi(mutant)


def test_commutators_have_no_trace_and_exponentials_do_not_multiply(x64):
    a, b = 0.5 * matrices(2, seed=7)
    bracket = np.asarray(commutator(jnp.asarray(a), jnp.asarray(b)))
    np.testing.assert_allclose(bracket, a @ b - b @ a, atol=1e-15)
    assert abs(np.trace(bracket)) < 1e-14
    apart, left, right = exponentials(np.stack([a + b, a, b]))
    assert np.abs(apart - left @ right).max() > 0.1
    # To third order e^A e^B = e^(A + B + [A, B] / 2): the sign of the bracket shows.
    h = 1e-3
    left, right, both, other = exponentials(
        np.stack([h * a, h * b, h * a + h * b + h * h * bracket / 2, h * a + h * b])
    )
    gap = np.abs(left @ right - both).max()
    assert gap < 1e-2 * np.abs(left @ right - other).max()


def test_matrices_must_be_square():
    flat = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"a must have shape \(n, n\), got \(2, 3\)"):
        matrix_functions._checked("a", flat)
    with pytest.raises(ValueError, match="max_squarings must be at least 0"):
        expm(jnp.eye(2), max_squarings=-1)
    with pytest.raises(ValueError, match="terms must be at least 1"):
        series_logm(jnp.eye(2), terms=0)


def test_programs_lower_for_an_accelerator():
    def all_of_them(a):
        return (
            *(fn(a) for fn in (expm, sqrtm, logm, cosm, sinm, log_det_exp)),
            jacobi_formula(a, a),
            jax.grad(lambda x: logm(x).value.sum())(a),
        )

    jax.jit(all_of_them).trace(jnp.eye(3)).lower(lowering_platforms=("cuda",))
