"""The likelihood of hares and lynxes: the library's posterior as twin, slopes, information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import targets
from probjax.core import item_keys
from probjax.experiments import predator_prey_model as model

POINT = np.log([0.6, 0.03, 0.75, 0.022, 30.0, 5.0, 0.3, 0.25])


def log_prior(v):
    """What the posterior holds besides the likelihood, in its unconstrained vector."""
    normal = lambda x, m, s: -0.5 * ((x - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)
    theta = np.exp(v[:4])
    rates = normal(theta, np.array([1.0, 0.05, 1.0, 0.05]), np.array([0.5, 0.05, 0.5, 0.05]))
    starts, scatters = normal(v[4:6], np.log(10.0), 1.0), normal(v[6:], -1.0, 1.0)
    return rates.sum() + v[:4].sum() + starts.sum() + scatters.sum()


def test_it_is_the_likelihood_of_the_library_posterior(x64):
    """Another solver, another parametrisation; differences of the log density drop constants."""
    posterior = targets.lotka_volterra(rtol=1e-9, atol=1e-9)
    points = np.stack([POINT, POINT + np.linspace(-0.1, 0.15, 8)])
    theirs = np.array([float(posterior.logdensity_fn(jnp.asarray(v))) for v in points])
    theirs -= np.array([log_prior(v) for v in points])
    ours = -np.array([float(jax.jit(model.negative_log_likelihood)(v)) for v in points])
    assert abs((ours[1] - ours[0]) - (theirs[1] - theirs[0])) < 1e-4


def test_the_known_optimum_has_its_value(x64):
    best = np.log([0.5400, 0.02716, 0.7966, 0.02370, 34.60, 5.84, 0.2184, 0.2201])
    value = jax.jit(model.negative_log_likelihood)(best)
    assert abs(value - 122.926) < 1e-3


def test_slope_and_information(x64):
    """Slope against reverse mode; information against the mean Hessian over simulated counts."""
    place, slope = jax.jit(lambda v: (model.look(v), jax.grad(model.negative_log_likelihood)(v)))(
        POINT
    )
    np.testing.assert_allclose(place.gradient, slope, rtol=1e-10)
    paths = jax.jit(jax.jacfwd(lambda v: model.paths(v)))(POINT)
    jacobian = np.asarray(paths)[:, :, :6] / np.exp(POINT[6:])[None, :, None]
    expected = np.zeros((8, 8))
    expected[:6, :6] = np.einsum("tki,tkj->ij", jacobian, jacobian)
    expected[6, 6] = expected[7, 7] = 42
    np.testing.assert_allclose(place.information, expected, rtol=1e-10, atol=1e-10)


def test_without_a_solution_there_is_no_step():
    wild = jnp.log(jnp.array([1e4, 1.0, 1e4, 1.0, 50.0, 5.0, 0.3, 0.3]))
    place = jax.jit(model.look)(wild)
    assert place.value == jnp.inf and (place.gradient == 0).all()
    assert np.isfinite(place.information).all()


def test_starts_lie_between_their_edges():
    starts = np.exp(jax.vmap(model.draw_start)(item_keys(jax.random.key(3), 50)))
    assert (starts >= model.LOWEST * 0.999).all() and (starts <= model.HIGHEST * 1.001).all()
    spread = starts.max(axis=0) / starts.min(axis=0)
    assert (spread > (model.HIGHEST / model.LOWEST) ** 0.7).all()


def test_the_data_are_those_of_the_file():
    path = "../shared/data/posteriordb/hudson_lynx_hare-lotka_volterra.json"
    from probjax import datasets

    try:
        data = datasets.load_posterior(path).data
    except datasets.DatasetError as error:
        pytest.skip(f"the file of posteriordb is not here: {error}")
    assert model.data()[1].tolist() == [data["y_init"], *data["y"]]
