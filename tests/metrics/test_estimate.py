import jax
import jax.numpy as jnp
import pytest

from probjax import metrics


def test_noise_floor_uses_each_row_once():
    real = jnp.arange(9.0)[:, None]
    seen = []

    def metric(x, y):
        seen.extend([*x[:, 0].tolist(), *y[:, 0].tolist()])
        assert len(x) == len(y) == 4
        return metrics.Estimate(0.0, 0.0)

    metrics.noise_floor(metric, real, jax.random.key(0))
    assert len(set(seen)) == 8 and seen != sorted(seen)


def test_noise_floor_of_one_law_is_zero_within_error():
    real = jax.random.normal(jax.random.key(0), (200, 2))
    floor = metrics.noise_floor(metrics.mmd2, real, jax.random.key(1))
    assert abs(floor.value) < 4 * floor.standard_error


def test_too_few_rows():
    with pytest.raises(ValueError, match="the number of rows of real must be at least 4, got 3"):
        metrics.noise_floor(metrics.mmd2, jnp.zeros((3, 1)), jax.random.key(0))
