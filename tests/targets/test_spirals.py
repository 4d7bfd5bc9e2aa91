import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import targets


def test_density_against_a_fine_sum(x64):
    """20,000 midpoints in n and the normal distribution function of SciPy."""
    x, scale = np.array([1.1, -1.7]), 0.1
    n = 3 * np.pi * (np.arange(20_000) + 0.5) / 20_000
    weight = 2 * n / (3 * np.pi) ** 2 * (3 * np.pi / 20_000)
    density = 0.0
    for point in (x, -x):
        factors = 1.0
        for i, start in enumerate((-n * np.cos(n) / 3, n * np.sin(n) / 3)):
            upper = stats.norm.cdf((start + 1 / 6 - point[i]) / scale)
            factors = factors * 6 * (upper - stats.norm.cdf((start - point[i]) / scale))
        density += 0.5 * np.sum(weight * factors)
    ours = jax.jit(targets.two_spirals().log_density)(x)
    np.testing.assert_allclose(ours, np.log(density), rtol=1e-7)


def test_a_scale_that_the_nodes_cannot_resolve():
    with pytest.raises(ValueError, match=r"scale must be at least 0.08, got 0.01"):
        targets.two_spirals(scale=0.01)


def test_score_is_the_gradient_row_by_row(x64):
    target, x = targets.two_spirals(), jnp.array([[1.1, -1.7], [0.4, 2.0], [-3.0, 0.2]])
    gradient = jax.grad(lambda points: target.log_density(points).sum())(x)
    np.testing.assert_allclose(target.score(x), gradient, rtol=1e-8)
