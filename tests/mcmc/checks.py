"""Checks that any kernel can be held to: invariance from exact starts, reversibility, counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from probjax import targets
from probjax.core.keys import item_keys
from probjax.mcmc.driver import scan_steps
from probjax.mcmc.mh import metropolis_hastings

CHAINS = 50_000


class Exact(NamedTuple):
    """A target with draws and with functions of a position whose law is uniform."""

    logdensity_fn: Any
    draw: Any
    uniforms: Any


def _normal():
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.9], [0.9, 1.0]])
    target = targets.gaussian(mean, covariance)

    def uniforms(x):
        columns = []
        for direction in ([1, 0], [0, 1], [1, 1], [1, -2]):
            spread = np.sqrt(np.array(direction) @ covariance @ direction)
            columns.append(stats.norm.cdf((x - mean) @ direction / spread))
        return np.stack(columns, axis=-1)

    return Exact(target.log_density, target.sample, uniforms)


def _banana():
    target = targets.banana()

    def uniforms(x):
        bent = x[:, 1] - 0.03 * (x[:, 0] ** 2 - 100)
        return np.stack([stats.norm.cdf(x[:, 0] / 10), stats.norm.cdf(bent)], axis=-1)

    return Exact(target.log_density, target.sample, uniforms)


def _two_modes():
    target = targets.two_modes()

    def cdf(x, distance, spread):
        low, high = (x + distance) / spread, (x - distance) / spread
        return 0.2 * stats.norm.cdf(low) + 0.8 * stats.norm.cdf(high)

    def uniforms(x):
        sums = cdf(x.sum(axis=-1), 10, np.sqrt(2))
        return np.stack([cdf(x[:, 0], 5, 1), cdf(x[:, 1], 5, 1), sums], axis=-1)

    return Exact(target.log_density, target.sample, uniforms)


def _log_gamma():
    shape = 2.5
    return Exact(
        lambda x: jnp.sum(shape * x - jnp.exp(x)),
        lambda key, n: jnp.log(jax.random.gamma(key, shape, (n, 1))),
        lambda x: stats.gamma.cdf(np.exp(x), shape),
    )


TARGETS = {
    "normal": _normal(),
    "banana": _banana(),
    "two modes": _two_modes(),
    "log gamma": _log_gamma(),
}


def one_step(step_fn, key, starts):
    """One step of every chain: `step_fn(key, position) -> (position, info)`."""
    count = len(jax.tree.leaves(starts)[0])
    return jax.jit(jax.vmap(step_fn))(item_keys(key, count), starts)


def moved(kernel, num_steps=1):
    """`move(key, position)`: the position after `num_steps` steps, and what they report."""

    def move(key, position):
        state, info, _ = scan_steps(key, kernel.step, kernel.init(position), num_steps)
        return state.position, info

    return move


def random_walk(logdensity_fn, step_size=0.8):
    """Metropolis's random walk."""
    propose = lambda key, x: x + step_size * jax.random.normal(key, x.shape)
    return metropolis_hastings(logdensity_fn, propose, symmetric=True)


def dkw_bound(count, level=1e-6):
    """What the largest gap of an empirical distribution function exceeds with chance `level`."""
    return np.sqrt(np.log(2 / level) / (2 * count))


def largest_gap(uniforms):
    """The largest gap between the columns' distribution functions and the uniform one."""
    ordered = np.sort(np.asarray(uniforms, np.float64), axis=0)
    steps = np.arange(len(ordered) + 1)[:, None] / len(ordered)
    return max((ordered - steps[:-1]).max(), (steps[1:] - ordered).max())


def check_uniform(uniforms):
    assert largest_gap(uniforms) < dkw_bound(len(uniforms))


def check_moves(before, after, step_size):
    """The chains must go somewhere: a kernel that stays is invariant, too."""
    assert np.linalg.norm(after - before, axis=-1).mean() > step_size / 2


def check_reversible(before, after):
    """|E[g(x0) h(x1) - h(x0) g(x1)]| below five standard errors, g = x and h = x^2, x^3."""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    for power in (2, 3):
        for i in range(before.shape[1]):
            for j in range(before.shape[1]):
                flow = before[:, i] * after[:, j] ** power - before[:, j] ** power * after[:, i]
                assert abs(flow.mean()) < 5 * flow.std() / np.sqrt(len(flow))


def check_counts(counts, matrix):
    """Transition counts follow the rows of `matrix`, chi-square at 1e-4; never where it is 0."""
    counts, matrix = np.asarray(counts, np.float64), np.asarray(matrix, np.float64)
    expected = counts.sum(axis=1, keepdims=True) * matrix
    open_ = matrix > 1e-12
    assert (counts[~open_] == 0).all()
    statistic = ((counts - expected)[open_] ** 2 / expected[open_]).sum()
    freedom = (open_.sum(axis=1) - 1).sum()
    assert stats.chi2.sf(statistic, freedom) > 1e-4


def transition_counts(move, key, num_states, repeats=20_000):
    """`move(key, state) -> state` on integers, `repeats` times from each state."""
    starts = jnp.repeat(jnp.arange(num_states), repeats)
    ends = jax.jit(jax.vmap(move))(item_keys(key, len(starts)), starts)
    counts = np.zeros((num_states, num_states))
    np.add.at(counts, (np.asarray(starts), np.asarray(ends)), 1)
    return counts
