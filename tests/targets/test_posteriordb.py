"""Every model against numbers of an independent port, and against its reference's parameters."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import targets
from probjax.targets.gaussian_process import INPUTS, OUTPUTS
from probjax.targets.hierarchical import EFFECTS, ERRORS
from probjax.targets.lotka_volterra import PELTS, START, YEARS

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data" / "posteriordb"

FILES = {
    "eight_schools_noncentered": "eight_schools-eight_schools_noncentered",
    "arma11": "arma-arma11",
    "garch11": "garch-garch11",
    "gp_regr": "gp_pois_regr-gp_regr",
    "low_dim_gauss_mix": "low_dim_gauss_mix-low_dim_gauss_mix",
    "hmm_drive_0": "bball_drive_event_0-hmm_drive_0",
    "lotka_volterra": "hudson_lynx_hare-lotka_volterra",
    "nes": "nes2000-nes",
    "kidscore_interaction": "kidiq-kidscore_interaction",
    "blr": "sblri-blr",
}

# log p(0.1) - log p(0), |grad log p(0.1)| in float64, and how closely they are to be met.
PORTS = {
    "eight_schools_noncentered": (0.1475656984, 1.079766007, 1e-8),
    "arma11": (-8.823365111, 172.9886590, 1e-8),
    "garch11": (11.33776198, 73.58734894, 1e-8),
    "gp_regr": (6.476274378, 38.10055158, 1e-8),
    "low_dim_gauss_mix": (538.1167617, 4348.216384, 1e-8),
    "hmm_drive_0": (-1274.762535, 13859.00135, 1e-8),
    "lotka_volterra": (-52.743410, 784.88524, 1e-5),
    "nes": (2652.010454, 7132.181610, 1e-8),
    "kidscore_interaction": (825313.6016, 3636506.380, 1e-8),
    "blr": (867864.2830, 3850817.373, 1e-8),
}

BUILT_IN = {
    "eight_schools_noncentered": targets.eight_schools,
    "gp_regr": targets.gp_regr,
    "lotka_volterra": targets.lotka_volterra,
}


def record(model):
    """The file of a model, or a skip that says what is missing."""
    path = FOLDER / f"{FILES[model]}.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent: the data of {model} are not here")
    return json.loads(path.read_text())


@functools.cache
def posterior(model):
    return BUILT_IN[model]() if model in BUILT_IN else from_file(model)


@functools.cache
def from_file(model):
    return targets.posteriordb(model, record(model)["data"])


@functools.cache
def compiled(model):
    """Log density and gradient of several points at once: one program for all tests."""
    return jax.jit(jax.vmap(jax.value_and_grad(posterior(model).logdensity_fn)))


def points(model, dtype=float):
    """Zero and 0.1, where a port is checked, and corners far out."""
    dim = posterior(model).dim
    far = np.random.default_rng(0).choice([-4.0, 4.0], (2, dim))
    return jnp.asarray(np.concatenate([np.zeros((1, dim)), np.full((1, dim), 0.1), far]), dtype)


def is_ported(values, gradients, model):
    """Hold what was computed at `points` against what is known."""
    difference, norm, tolerance = PORTS[model]
    np.testing.assert_allclose(values[1] - values[0], difference, rtol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(gradients[1]), norm, rtol=tolerance)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=pytest.mark.slow) if model == "lotka_volterra" else model
        for model in PORTS
    ],
)
def test_density_and_gradient_are_those_of_the_port(model, x64):
    values, gradients = compiled(model)(points(model))
    is_ported(values, gradients, model)
    assert np.isfinite(gradients).all(), "also at the corners"


@pytest.mark.parametrize("model", PORTS)
def test_parameters_have_the_names_of_the_reference_and_come_back(model, x64):
    """A mean of parameters lies in the support too, and is not at the image of zero."""
    reference = record(model)["reference"]
    one = from_file(model)
    assert list(one.names) == reference["names"]
    mean = np.asarray(reference["mean"])
    around = jax.jit(lambda theta: (one.unconstrain(theta), one.constrain(one.unconstrain(theta))))
    u, back = around(mean)
    assert u.shape == (one.dim,) and np.isfinite(u).all()
    np.testing.assert_allclose(back, mean, rtol=1e-10)


def test_built_in_data_are_those_of_the_files():
    data = record("eight_schools_noncentered")["data"]
    assert (list(EFFECTS), list(ERRORS)) == (data["y"], data["sigma"])
    data = record("gp_regr")["data"]
    assert (list(INPUTS), list(OUTPUTS)) == (data["x"], data["y"])
    data = record("lotka_volterra")["data"]
    assert (list(YEARS), list(START)) == (data["ts"], data["y_init"])
    assert [list(pair) for pair in PELTS] == data["y"]


SLOW = [pytest.param(model, marks=pytest.mark.slow) for model in PORTS if model != "arma11"]


@pytest.mark.parametrize("model", ["arma11", *SLOW])
def test_starts_are_usable_in_single_precision(model):
    """All of eight starts have a finite density and gradient in float32, for some others too."""
    for seed in range(3):
        starts = posterior(model).initial(jax.random.key(seed), 8)
        assert starts.dtype == jnp.float32
        values, gradients = compiled(model)(starts)
        assert np.isfinite(values).all() and np.isfinite(gradients).all()


def test_mutants_of_a_port_are_seen(x64):
    """A forgotten log-Jacobian, a wrong sign of it, and a variance taken for a deviation."""
    model = "arma11"
    one = posterior(model)

    def of(change):
        density = lambda u: one.logdensity_fn(u) + change(u)
        return jax.jit(jax.vmap(jax.value_and_grad(density)))(points(model))

    is_ported(*of(lambda u: 0 * u[3]), model)
    for change in (lambda u: -u[3], lambda u: -2 * u[3], lambda u: 200 * u[3] * 1e-6):
        with pytest.raises(AssertionError):
            is_ported(*of(change), model)


def test_unknown_models_and_missing_fields_are_named():
    with pytest.raises(ValueError, match="must be one of 'eight_schools_noncentered'.*'nes2'"):
        targets.posteriordb("nes2", {})
    with pytest.raises(ValueError, match="data of garch11 must hold sigma1, got y"):
        targets.posteriordb("garch11", {"y": [1.0, 2.0]})
