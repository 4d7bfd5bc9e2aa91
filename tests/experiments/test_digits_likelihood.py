"""Likelihood of digits: on a normal law the flow's table is the closed form's."""

import jax
import jax.numpy as jnp
import numpy as np

from probjax import datasets, diffusion
from probjax.core import item_keys
from probjax.experiments import digits_likelihood as likelihood
from probjax.experiments.digits_model import measure_scaling
from probjax.experiments.digits_quality import spread

TRAIN, TEST = datasets.load_digits(split="train"), datasets.load_digits(split="test")
CONFIG = likelihood.LikelihoodConfig(num_digits=16, num_exact=8, num_steps=20, noise_scale_min=0.01)


def test_a_gaussian_model_costs_what_the_gaussian_row_says():
    scaling = measure_scaling(TRAIN)
    fitted = scaling.rows(spread(TRAIN))
    rows = scaling.rows(datasets.dequantise(jax.random.key(1), TEST.images[:16], TEST.levels))
    cov = np.cov(np.asarray(fitted, np.float64).T) - 0.01**2 * np.eye(64)
    mean = jnp.mean(fitted, axis=0)
    denoiser = diffusion.gaussian_denoiser(mean, jnp.asarray(cov, jnp.float32))
    keys = item_keys(jax.random.key(0), 16)
    # Probes see the trace of a linear field with an error that is the same at each digit's state.
    estimate = [
        likelihood.log_prob_fn(lambda _: denoiser, CONFIG, noise_scale_max=80.0, exact=exact)
        for exact in (True, False)
    ]
    exact, hutchinson = (np.asarray(jax.jit(fn)(None, keys, rows)) for fn in estimate)
    found = likelihood.measure(
        {"held-out, exact": exact[:8], "held-out": hutchinson, "training": hutchinson},
        {"held-out": np.asarray(rows)}, CONFIG, scaling, TRAIN,
    )  # fmt: skip
    flow, _, gaussian = found["rows"][:3]
    assert abs(flow["bits_per_dim"] - gaussian["bits_per_dim"]) < 0.01
    assert abs(flow["nats"] - flow["bits_per_dim"] * 64 * np.log(2)) < 1e-9
    gap, error = found["hutchinson_minus_exact"], found["hutchinson_minus_exact_se"]
    assert 0 < abs(gap) < 5 * error


def test_the_uniform_law_costs_the_logarithm_of_the_levels():
    scaling = measure_scaling(TRAIN)
    uniform = np.full(8, -64 * np.log(scaling.scale))  # of pixels over (0, 1)
    row = likelihood._row("", "", uniform, np.log(scaling.scale / 17))
    np.testing.assert_allclose(row["bits_per_dim"], np.log2(17), rtol=1e-12)
