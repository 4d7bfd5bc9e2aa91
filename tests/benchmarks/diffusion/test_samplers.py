"""The peers of the samplers make the evaluations that the samplers make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import harness
from benchmarks.diffusion import samplers
from probjax import diffusion
from probjax.experiments import digits, digits_model

CONFIG = digits.Config(
    network=digits_model.NetworkConfig(width=8, token_width=4, channel_width=8, num_blocks=1)
)


@pytest.fixture(scope="module")
def cases():
    return samplers.cases(CONFIG, batch_size=65, steps=3)


def test_heun_visits_these_noise_scales():
    grid = np.asarray(diffusion.karras_noise_scales(4, 0.1, 20.0))
    seen = []

    def denoiser(x, noise_scale):
        jax.debug.callback(lambda scale: seen.append(float(scale)), noise_scale, ordered=True)
        return 0.5 * x

    out = diffusion.sample(
        jax.random.key(0), diffusion.heun(denoiser, jnp.asarray(grid)), jnp.ones((1, 2)), 4
    )
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert seen == samplers._heun_visits(grid).tolist()
    assert int(out.num_evaluations) == len(seen) == 7


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_case_has_times_errors_and_a_bar(cases, number):
    found = harness.measure(cases[number], harness.Effort(2, 0.0, 0.0), say=lambda line: None)
    assert found["absent"] == []
    assert [row["peer"] for row in found["contenders"]] == [False, True, True]
    for row in found["contenders"]:
        assert 0 < row["errors"]["result"] < 1e-3
        assert row["compile_seconds"] > 0 and row["temporary_bytes"] > 0
    assert found["ratio_of"] == "time" and found["bars"][0]["value"] == 1.05
    assert "network evaluations" in found["description"]
