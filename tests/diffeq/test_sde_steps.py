"""Steps of stochastic equations: local errors against exact solutions, by quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq import sde_steps
from probjax.diffeq.convergence import empirical_order
from probjax.diffeq.sde import SDE

STEPS = 0.5 ** np.arange(4, 9)
NODE, SHARE = np.polynomial.hermite_e.hermegauss(30)
SHARE = SHARE / SHARE.sum()


def sinh_sde(noise):
    """X = sinh(asinh(x0) + t + W) entry by entry: a function of W alone, and not linear."""
    wide = lambda x: jnp.sqrt(1 + x**2)
    root = {"general": lambda t, x: wide(x)[:, None]}.get(noise, lambda t, x: wide(x))
    return SDE(lambda t, x: wide(x) + 0.5 * x, root, noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def local_errors(step, noise, y):
    """Mean and root mean square of the error of one step, for each step size."""
    sde = sinh_sde(noise)
    shape = {"scalar": (), "general": (1,), "diagonal": (2,)}[noise]

    def error(h, z):
        w = z * jnp.sqrt(h)
        end = step(sde, 0.3, y, h, jnp.full(shape, w))
        return end - jnp.sinh(jnp.arcsinh(y) + h + w)

    over = jax.vmap(jax.vmap(error, (None, 0)), (0, None))(jnp.asarray(STEPS), jnp.asarray(NODE))
    mean = jnp.einsum("z,hzd->hd", jnp.asarray(SHARE), over)
    return jnp.abs(mean), jnp.sqrt(jnp.einsum("z,hzd->hd", jnp.asarray(SHARE), over**2))


def check_strong(step, noise, order):
    """Mean errors of h^2, and errors of h^(order + 1/2).

    Heun's are one half better here: in Stratonovich's form drift and noise commute.
    """
    mean, size = local_errors(step, noise, jnp.array([0.7, -1.3]))
    for i in (0, 1):
        assert empirical_order(np.asarray(mean[:, i]), STEPS).order > 1.85
        assert empirical_order(np.asarray(size[:, i]), STEPS).order > order + 0.4


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("euler_maruyama", "scalar"),
        ("milstein", "diagonal"),
        ("milstein", "scalar"),
        ("stochastic_heun", "diagonal"),
        ("stochastic_heun", "general"),
    ],
)
def test_local_errors_have_the_strong_order(x64, name, noise):
    method = sde_steps.METHODS[name]
    check_strong(method.step, noise, method.strong_order)


def doubled_bend(sde, t, y, h, dw):
    plain = sde_steps.euler_maruyama(sde, t, y, h, dw)
    return plain + 2 * (sde_steps.milstein(sde, t, y, h, dw) - plain)


def variance_forgotten(sde, t, y, h, dw):
    bend = 0.5 * sde.diffusion(t, y) * y / jnp.sqrt(1 + y**2)
    return sde_steps.milstein(sde, t, y, h, dw) + bend * h


def ito_drift_in_heun(sde, t, y, h, dw):
    slope = lambda t, y: sde.drift(t, y) * h + sde.diffusion(t, y) * dw
    first = slope(t, y)
    return y + 0.5 * (first + slope(t + h, y + first))


def twice_stratonovich(sde, t, y, h, dw):
    return sde_steps.stochastic_heun(sde_steps.to_stratonovich(sde), t, y, h, dw)


@pytest.mark.parametrize(
    "mutant", [doubled_bend, variance_forgotten, ito_drift_in_heun, twice_stratonovich]
)
def test_local_errors_kill(x64, mutant):
    with pytest.raises(AssertionError):
        check_strong(mutant, "diagonal", 1.0)


A, C = 0.4, 0.6


def timed(noise="scalar"):
    """X = sinh(u), u normal of mean asinh(x0) + A t^2 and variance C^2 (t + t^2)."""
    wide = lambda x: jnp.sqrt(1 + x**2)
    rate = lambda t: C**2 * (1 + 2 * t)
    return SDE(
        lambda t, x: 2 * A * t * wide(x) + 0.5 * rate(t) * x,
        lambda t, x: jnp.sqrt(rate(t)) * wide(x),
        noise,
    )


@functools.partial(jax.jit, static_argnums=0)
def weak_errors(step, y):
    """Errors of the first two moments of one step from t = 0.2."""
    sde, t, node, share = timed(), 0.2, jnp.asarray(NODE), jnp.asarray(SHARE)

    def error(h):
        ends = jax.vmap(lambda z: step(sde, t, y, h, z * jnp.sqrt(h))[0])(node)
        shift = A * ((t + h) ** 2 - t**2)
        width = C * jnp.sqrt(h + (t + h) ** 2 - t**2)
        exact = jnp.sinh(jnp.arcsinh(y[0]) + shift + width * node)
        return jnp.stack([jnp.sum(share * (ends**k - exact**k)) for k in (1, 2)])

    return jnp.abs(jax.vmap(error)(jnp.asarray(STEPS)))


def check_weak(step, order):
    errors = np.asarray(weak_errors(step, jnp.array([0.7])))
    for k in (0, 1):
        assert abs(empirical_order(errors[:, k], STEPS).order - order - 1) < 0.1


def test_local_errors_have_the_weak_order_with_coefficients_that_know_the_time(x64):
    check_weak(sde_steps.weak2_platen, 2)
    check_weak(sde_steps.euler_maruyama, 1)


def test_weak_errors_kill_a_step_that_forgets_the_time_or_a_root(x64):
    def frozen(sde, t, y, h, dw):
        still = sde._replace(diffusion=lambda s, x: sde.diffusion(t, x))
        return sde_steps.weak2_platen(still, t, y, h, dw)

    def flat(sde, t, y, h, dw):
        drift = 0.5 * h * (sde.drift(t, y) + sde.drift(t + h, y + sde.drift(t, y) * h))
        return y + drift + sde.diffusion(t, y) * dw

    for mutant in (frozen, flat):
        with pytest.raises(AssertionError):
            check_weak(mutant, 2)


@pytest.mark.parametrize("name", sde_steps.METHODS)
def test_backwards_in_time_is_forwards_with_the_drift_turned(x64, name):
    step, y, h, dw = sde_steps.METHODS[name].step, jnp.array([0.7]), 0.05, jnp.asarray(0.2)
    forward = timed()
    turned = SDE(
        lambda t, x: -forward.drift(1 - t, x), lambda t, x: forward.diffusion(1 - t, x), "scalar"
    )
    both = jax.jit(lambda: (step(forward, 0.3, y, h, dw), step(turned, 0.7, y, -h, dw)))()
    np.testing.assert_allclose(*both, rtol=1e-14)


def test_the_correction_sums_over_columns(x64):
    matrix = jnp.array([[1.0, 0.3, -0.2], [0.4, 2.0, 0.5]])
    root = lambda t, x: matrix * jnp.sin(x[:, None]) + x[0] * x[1] * (1 + t)
    sde, y = SDE(lambda t, x: -x, root, "general"), jnp.array([0.7, -1.3])
    correct = jax.jit(lambda y: sde_steps.stratonovich_correction(sde, 0.4, y))(y)
    slope = jax.jacfwd(lambda x: root(0.4, x))(y)
    np.testing.assert_allclose(
        correct, 0.5 * np.einsum("ikj,jk->i", slope, root(0.4, y)), rtol=1e-12
    )
    np.testing.assert_allclose(
        sde_steps.to_stratonovich(sde).drift(0.4, y), -y - correct, rtol=1e-12
    )
    still = SDE(lambda t, x: -x, lambda t, x: matrix, "additive")
    np.testing.assert_array_equal(sde_steps.stratonovich_correction(still, 0.0, y), 0.0)


def test_each_noise_takes_its_increment():
    x, matrix = jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    cases = {
        ("scalar", ()): (lambda t, x: x, jnp.asarray(0.5), [0.5, 1.0]),
        ("diagonal", (2,)): (lambda t, x: x, jnp.array([0.5, 0.1]), [0.5, 0.2]),
        ("additive", (2,)): (lambda t, x: jnp.asarray(2.0), jnp.array([0.5, 0.1]), [1.0, 0.2]),
        ("additive", (3,)): (lambda t, x: matrix, jnp.array([0.1, 0.2, 0.3]), [0.7, 0.6]),
        ("general", (3,)): (lambda t, x: matrix, jnp.array([0.1, 0.2, 0.3]), [0.7, 0.6]),
    }
    for (noise, shape), (root, dw, want) in cases.items():
        sde = SDE(lambda t, x: 0.0 * x, root, noise)
        assert sde_steps.noise_like(sde, 0.0, x).shape == shape
        moved = sde_steps.euler_maruyama(sde, 0.0, x, 0.1, dw) - x
        np.testing.assert_allclose(moved, want, rtol=1e-5)


def test_what_a_step_does_not_take_is_named():
    general = SDE(lambda t, x: x, lambda t, x: x[:, None], "general")
    y, dw = jnp.ones(2), jnp.ones(1)
    with pytest.raises(ValueError, match="milstein takes scalar, diagonal or additive noise"):
        sde_steps.milstein(general, 0.0, y, 0.1, dw)
    with pytest.raises(ValueError, match="weak2_platen takes scalar noise, got 'general'"):
        sde_steps.weak2_platen(general, 0.0, y, 0.1, dw)
    with pytest.raises(ValueError, match="method must be one of 'euler_maruyama'"):
        sde_steps.find_method("heun")
    assert np.isnan(sde_steps.find_method(lambda *args: args[2]).strong_order)


def test_the_table_states_the_weak_orders(x64):
    for name in ("weak2_platen", "euler_maruyama"):
        method = sde_steps.METHODS[name]
        check_weak(method.step, method.weak_order)
