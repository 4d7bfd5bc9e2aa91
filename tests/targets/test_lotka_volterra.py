import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from probjax import targets
from probjax.targets.lotka_volterra import PELTS, START, YEARS


def exact(u):
    """The density through SciPy's solver, at tight tolerances."""
    a, b, c, d, *z0 = np.exp(u[:6])
    sigma = np.exp(u[6:])
    field = lambda t, z: [(a - b * z[1]) * z[0], (-c + d * z[0]) * z[1]]
    options = {"t_eval": YEARS, "rtol": 1e-12, "atol": 1e-13, "method": "DOP853"}
    paths = integrate.solve_ivp(field, (0, 20), z0, **options).y.T
    residuals = np.log(np.concatenate([[START], PELTS])) - np.log(np.concatenate([[z0], paths]))
    prior = stats.norm([1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05]).logpdf([a, b, c, d]).sum()
    prior += stats.norm(np.log(10), 1).logpdf(u[4:6]).sum() + stats.norm(-1, 1).logpdf(u[6:]).sum()
    return stats.norm(0, sigma).logpdf(residuals).sum() + prior + u[:4].sum()


@pytest.mark.slow
def test_density_and_its_gradient_are_those_of_scipy(x64):
    """The gradient by central differences of SciPy's density."""
    one = targets.lotka_volterra(rtol=1e-9, atol=1e-9)
    u = np.log([0.5, 0.03, 0.9, 0.02, 30.0, 5.0, 0.3, 0.2])
    other = u + np.linspace(-0.05, 0.05, 8)
    both = jax.jit(jax.vmap(jax.value_and_grad(one.logdensity_fn)))
    values, slopes = both(jnp.asarray(np.stack([u, other])))
    np.testing.assert_allclose(values[1] - values[0], exact(other) - exact(u), rtol=1e-7)
    numeric = [(exact(u + step) - exact(u - step)) / 2e-4 for step in 1e-4 * np.eye(8)]
    assert np.linalg.norm(slopes[0] - np.array(numeric)) < 1e-5 * np.linalg.norm(numeric)


@pytest.mark.slow
def test_where_there_is_no_solution_the_density_vanishes():
    one = targets.lotka_volterra(max_steps=2)
    value, slope = jax.jit(jax.value_and_grad(one.logdensity_fn))(jnp.zeros(8))
    assert value == -jnp.inf and jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ts": [1.0, 1.0]}, "ts must increase"),
        ({"ts": [0.0, 1.0]}, r"ts\[0\] must be positive"),
        ({"y": [[1.0, 2.0]]}, r"y must have shape \(20, 2\), got \(1, 2\)"),
        ({"y_init": [1.0, 0.0]}, r"y_init\[1\] must be positive"),
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_wrong_data(options, message):
    with pytest.raises(ValueError, match=message):
        targets.lotka_volterra(**options)
