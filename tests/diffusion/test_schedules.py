"""Noise schedules: one identity for all, inverses, grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.schedules import (
    cosine,
    edm,
    subvp,
    to_sde,
    ve,
    vp,
)

SCHEDULES = {
    "ve": (ve, 1e-3, 1.0),
    "vp": (vp, 1e-3, 1.0),
    "subvp": (subvp, 1e-3, 1.0),
    "edm": (edm, 1e-2, 80.0),
    "cosine": (cosine, 1e-3, 0.999),
}


def slopes(fn, t):
    return jax.vmap(jax.grad(fn))(t)


def marginal_gap(schedule, t):
    """f = (log alpha)' and g^2 = (sigma^2)' - 2 f sigma^2, relative."""
    drift = slopes(lambda s: jnp.log(schedule.alpha(s)), t)
    variance = schedule.noise_scale(t) ** 2
    rate = slopes(lambda s: schedule.noise_scale(s) ** 2, t) - 2 * schedule.drift(t) * variance
    first = jnp.abs(drift - schedule.drift(t)) / (1 + jnp.abs(drift))
    second = jnp.abs(rate / schedule.diffusion2(t) - 1)
    return float(jnp.maximum(first, second).max())


@pytest.mark.parametrize("name", SCHEDULES)
def test_drift_and_diffusion_have_the_marginals(x64, name):
    make, first, last = SCHEDULES[name]
    schedule, t = make(), jnp.linspace(first, last, 100)
    assert marginal_gap(schedule, t) < 1e-8
    gap = schedule.log_snr(t) - jnp.log(schedule.alpha(t) / schedule.noise_scale(t))
    assert float(jnp.abs(gap).max()) < 1e-10
    np.testing.assert_allclose(schedule.t_of_log_snr(schedule.log_snr(t)), t, rtol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_float32_inverse_and_jit(name):
    make, first, last = SCHEDULES[name]
    t = jnp.linspace(first, last, 50)
    schedule = make()
    back = jax.jit(lambda schedule, t: schedule.t_of_log_snr(schedule.log_snr(t)))(schedule, t)
    assert back.dtype == jnp.float32
    # An error of one rounding in log_snr moves t by it over the slope.
    rounding = 2e-7 * (1 + jnp.abs(schedule.log_snr(t))) / jnp.abs(slopes(schedule.log_snr, t))
    assert bool((jnp.abs(back - t) < 1e-6 + 8 * rounding).all())


MUTANTS = {
    "subvp with minus one for minus the square": lambda: subvp()._replace(
        diffusion2=lambda t: vp().diffusion2(t) * (1 - jnp.exp(-(0.1 * t + 9.95 * t**2)))
    ),
    "subvp with the sign turned": lambda: subvp()._replace(
        diffusion2=lambda t: vp().diffusion2(t) * (1 + jnp.exp(-2 * (0.1 * t + 9.95 * t**2)))
    ),
    "vp with half the rate": lambda: vp()._replace(diffusion2=lambda t: vp().diffusion2(t) / 2),
    "drift forgotten": lambda: vp()._replace(drift=jnp.zeros_like),
    "scale for its square": lambda: edm()._replace(diffusion2=lambda t: 2 * t**2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_identity_kills(x64, name):
    assert marginal_gap(MUTANTS[name](), jnp.linspace(0.05, 0.9, 20)) > 1e-3


def test_closed_values(x64):
    assert float(ve(0.1, 10.0).noise_scale(0.5)) == pytest.approx(1.0, rel=1e-14)
    t = jnp.linspace(0.1, 1.0, 5)
    total = 0.1 * t + 0.5 * 19.9 * t**2
    np.testing.assert_allclose(vp().alpha(t) ** 2, jnp.exp(-total), rtol=1e-13)
    np.testing.assert_allclose(vp().alpha(t) ** 2 + vp().noise_scale(t) ** 2, 1.0, rtol=1e-13)
    np.testing.assert_allclose(subvp().noise_scale(t), vp().noise_scale(t) ** 2, rtol=1e-13)


def test_cosine_is_flat_where_it_is_clipped(x64):
    schedule, ends = cosine(), jnp.array([0.0, 1e-6, 1 - 1e-6, 1.0])
    np.testing.assert_allclose(schedule.log_snr(ends), [10, 10, -10, -10], rtol=1e-12)
    np.testing.assert_array_equal(schedule.diffusion2(ends), 0)
    np.testing.assert_array_equal(schedule.drift(ends), 0)
    assert bool((schedule.noise_scale(ends) > 0).all() & (schedule.alpha(ends) > 0).all())


def test_as_an_equation():
    sde = to_sde(vp())
    x = jnp.array([[1.0, -2.0]])
    np.testing.assert_allclose(sde.drift(0.5, x), vp().drift(0.5) * x, rtol=1e-6)
    np.testing.assert_allclose(sde.diffusion(0.5, x) ** 2, vp().diffusion2(0.5), rtol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"lo must be below hi, got 3\.0 and 2\.0"):
        ve(3.0, 2.0)
    with pytest.raises(ValueError, match="beta_min must be below beta_max"):
        vp(1.0, 0.5)
