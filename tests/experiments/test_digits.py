"""The main job: its samplers on a law that is known, and (slow) its quality on real digits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import cli, datasets, diffusion
from probjax.core import item_keys, row_normal, stream
from probjax.experiments import digits

EIGENVALUES = np.geomspace(0.02, 1.0, 64)
MEAN = np.linspace(-0.5, 0.5, 64)
CONFIG = digits.SamplingConfig(
    ddim_steps=200, heun_steps=40, ancestral_steps=400, flow_tolerance=1e-5,
    langevin_levels=30, langevin_steps=10,
)  # fmt: skip


def exact(params):
    del params
    covariance = jnp.diag(jnp.asarray(EIGENVALUES, jnp.float32))
    return diffusion.gaussian_denoiser(jnp.asarray(MEAN, jnp.float32), covariance)


@pytest.fixture(scope="module")
def drawn():
    keys = item_keys(jax.random.key(0), 400)
    return {
        name: jax.jit(draw)(None, keys)
        for name, (draw, _) in digits.samplers(CONFIG, exact).items()
    }


def test_three_samplers_follow_one_path(drawn):
    """The exact flow of a Gaussian scales each direction; first order is allowed 2 %."""
    start = CONFIG.max_noise_scale * row_normal(
        stream(item_keys(jax.random.key(0), 400), "init"), jnp.zeros((400, 64))
    )
    factor = np.sqrt(EIGENVALUES / (EIGENVALUES + CONFIG.max_noise_scale**2))
    landed = MEAN + factor * (np.asarray(start) - MEAN)

    def error(name):
        return np.std(np.asarray(drawn[name][0]) - landed) / np.std(landed)

    assert error("DDIM") < 0.02 and error("Heun") < 0.005 and error("probability flow") < 0.002
    assert error("ancestral") > 0.5


@pytest.mark.parametrize("name", ["Heun", "DDIM", "probability flow", "ancestral"])
def test_draws_have_the_law_of_the_data(drawn, name):
    x = np.asarray(drawn[name][0], np.float64)
    z = (x - MEAN) / np.sqrt(EIGENVALUES)
    error = 5 / np.sqrt(x.shape[0])
    assert np.abs(z.mean(0)).max() < error
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / z.size) + 0.02


def test_evaluations_are_counted(drawn):
    count = {name: np.unique(np.asarray(calls)) for name, (_, calls) in drawn.items()}
    assert count["DDIM"] == [200] and count["Heun"] == [79] and count["ancestral"] == [400]
    assert count["annealed Langevin"] == [301]
    assert (count["probability flow"] > 20).all()


def test_scaling_goes_there_and_back():
    train = datasets.load_digits(split="train")
    scaling = digits._scaling(train)
    rows = scaling.rows(datasets.dequantise(jax.random.key(1), train.images, train.levels))
    assert rows.shape == (1297, 64)
    assert abs(float(rows.std()) - 0.5) < 0.01 and abs(float(rows.mean())) < 0.01
    np.testing.assert_array_equal(scaling.images(rows, train.levels), train.images)


@pytest.mark.slow
def test_the_demo_draws_digits_that_pass(tmp_path):
    """The bars of the main job, by the run that `make demo` starts."""
    assert cli.main(["run", "digits", "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = {row["sampler"]: row for row in found["rows"]}
    drawn = [row for row in found["rows"] if "num_evaluations" in row]
    assert len(drawn) == 5
    assert min(row["two_sample_accuracy"] for row in drawn) <= 0.65
    assert rows["Gaussian baseline"]["two_sample_accuracy"] > 0.85
    assert rows["real digits"]["two_sample_accuracy"] < 0.55
    for row in drawn:
        assert row["copies"] == 0 and row["nearest_below_1_percent"] <= 0.02
        assert min(row["class_counts"]) >= 50 and sum(row["class_counts"]) == 1000
