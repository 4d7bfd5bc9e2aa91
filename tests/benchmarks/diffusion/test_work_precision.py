"""The errors against calls: one program for all tables, and the calls that they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.diffusion import work_precision
from probjax import diffusion


def test_idle_steps_change_nothing(x64):
    for name, calls in (("UniPC-2", 6), ("2S", 7), ("DDIM", 5)):
        table = work_precision.table_of(name, calls)
        longer = work_precision.padded(table, 9)
        assert table.num_steps == calls and longer.num_steps == 9

        def run(table, x):
            algorithm = diffusion.multistep(lambda x, c: jnp.tanh(x) / (1 + c), table)
            return diffusion.sample(jax.random.key(0), algorithm, x, table.num_steps).x

        x = jnp.array([[3.0, -50.0]])
        a, b = (jax.jit(run)(jax.tree.map(jnp.asarray, t), x) for t in (table, longer))
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.slow
def test_under_two_hundredths_at_eighteen_calls_and_at_nine_with_a_leap(x64):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert work_precision.sampler_error("UniPC-2", 18).error < 0.02
        assert work_precision.sampler_error(work_precision.LEAP, 9).error < 0.02
        assert work_precision.sampler_error("UniPC-2", 16).error > 0.02
