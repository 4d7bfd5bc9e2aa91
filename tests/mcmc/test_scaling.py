"""Steps at one acceptance shrink with the dimension as each method's theory says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import mcmc
from probjax.core.keys import item_keys

DIMENSIONS = (100, 1000, 10_000)
CHAINS, TILE = 1000, 50


def logdensity_fn(x):
    return -0.5 * jnp.sum(x**2)


def random_walk(step_size):
    def propose(key, x):
        return x + step_size * jax.random.normal(key, x.shape)

    return mcmc.metropolis_hastings(logdensity_fn, propose, symmetric=True)


def acceptance(make, dim):
    """Mean acceptance of one step from exact starts, as a function of the kernel's numbers."""

    @jax.jit
    def run(*numbers):
        kernel = make(*numbers)

        def one(keys):
            state = kernel.init(jax.random.normal(keys[0], (dim,)))
            return kernel.step(keys[1], state)[1].acceptance_rate

        pairs = item_keys(jax.random.key(0), 2 * CHAINS).reshape(CHAINS, 2)
        return jnp.mean(jax.lax.map(one, pairs, batch_size=TILE))

    return run


def halved(rate, wanted, low, high):
    """The step at which the acceptance is the one wanted, by bisection."""
    for _ in range(12):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if rate(middle) > wanted else (low, middle)
    return low


def exponent(steps):
    return np.polyfit(np.log(DIMENSIONS), np.log(steps), 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "wanted", "theory"),
    [
        (random_walk, 0.234, -1 / 2),
        (lambda step_size: mcmc.mala(logdensity_fn, step_size), 0.574, -1 / 3),
    ],
)
def test_one_step(make, wanted, theory):
    """MALA's step size is that of time, half the variance of its noise."""
    steps = [halved(acceptance(make, dim), wanted, 1e-3, 3.0) for dim in DIMENSIONS]
    assert abs(exponent(steps) - theory) < 0.03


@pytest.mark.slow
def test_trajectories_of_one_length():
    """Of 1.5, cut into a whole number of leapfrog steps; between two of them it is interpolated."""
    kernel = mcmc.dynamic_hmc_kernel(logdensity_fn, jitter_amount=0.0)

    def trajectory(step_size, num_steps):
        params = mcmc.DynamicHMCParams(step_size, jnp.ones(dim), num_steps)
        return mcmc.bind(kernel, params)

    steps = []
    for dim in DIMENSIONS:
        rate, found = acceptance(trajectory, dim), []
        while not found or found[-1][0] < 0.8:
            number = 2 + len(found)
            found.append((float(rate(1.5 / number, float(number))), np.log(1.5 / number)))
        rates, logs = zip(*found[-2:], strict=True)
        steps.append(np.exp(np.interp(0.8, rates, logs)))
    assert abs(exponent(steps) + 1 / 4) < 0.03
