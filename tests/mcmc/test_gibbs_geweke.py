"""Gibbs on parameters and data at once: Geweke's joint test, and simulation-based calibration."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core.keys import item_key, item_keys
from probjax.mcmc.driver import scan_steps
from probjax.mcmc.gibbs import Block, block_from_blackjax, gibbs
from probjax.mcmc.mh import metropolis_hastings

_spec = importlib.util.spec_from_file_location(
    "chain_checks", Path(__file__).with_name("checks.py")
)
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)


def geweke_blocks(shape_of=lambda n: 3.0 + n / 2, within=False):
    """mu ~ N(0.5, 1), precision ~ Gamma(3, 2), three data y ~ N(mu, 1 / precision)."""

    def draw_mu(key, mu, rest):
        precision = 1 + 3 * rest["precision"]
        mean = (0.5 + rest["precision"] * rest["y"].sum()) / precision
        return mean + jax.random.normal(key) / jnp.sqrt(precision), None

    def draw_precision(key, precision, rest):
        rate = 2 + 0.5 * jnp.sum((rest["y"] - rest["mu"]) ** 2)
        return jax.random.gamma(key, shape_of(3)) / rate, None

    def draw_y(key, y, rest):
        return rest["mu"] + jax.random.normal(key, (3,)) / jnp.sqrt(rest["precision"]), None

    def log_joint(mu, precision, y):
        prior = -0.5 * (mu - 0.5) ** 2 + 2 * jnp.log(precision) - 2 * precision
        return prior + 1.5 * jnp.log(precision) - 0.5 * precision * jnp.sum((y - mu) ** 2)

    def scaled(logdensity_fn):
        propose = lambda key, x: x * jnp.exp(0.7 * jax.random.normal(key))
        density = lambda a, b: -0.5 * (jnp.log(b / a) / 0.7) ** 2 - jnp.log(b)
        return metropolis_hastings(logdensity_fn, propose, density)

    mu_kernel = block_from_blackjax(checks.random_walk, lambda mu, rest: log_joint(mu, **rest))
    precision_kernel = block_from_blackjax(scaled, lambda p, rest: log_joint(precision=p, **rest))
    return [
        Block("mu", mu_kernel if within else draw_mu),
        Block("precision", precision_kernel if within else draw_precision),
        Block("y", draw_y),
    ]


def geweke_scores(blocks, scan="systematic", chains=20_000, num_steps=10):
    """z of four moments and a product after `num_steps` sweeps of parameters and data."""
    key = jax.random.key(9)
    mu = 0.5 + jax.random.normal(item_key(key, 0), (chains,))
    precision = jax.random.gamma(item_key(key, 1), 3.0, (chains,)) / 2
    noise = jax.random.normal(item_key(key, 2), (chains, 3))
    y = mu[:, None] + noise / jnp.sqrt(precision)[:, None]
    starts = {"mu": mu, "precision": precision, "y": y}
    after, _ = checks.one_step(
        checks.moved(gibbs(blocks, scan=scan), num_steps), item_key(key, 3), starts
    )
    m, p = np.asarray(after["mu"], np.float64), np.asarray(after["precision"], np.float64)
    moments = ((m, 0.5), (m**2, 1.25), (p, 1.5), (p**2, 3.0), (m * p, 0.75))
    return [(v.mean() - truth) / v.std() * np.sqrt(chains) for v, truth in moments]


@pytest.mark.slow
@pytest.mark.parametrize("within", [False, True], ids=["exact", "metropolis within"])
def test_geweke_joint_law(within):
    assert np.abs(geweke_scores(geweke_blocks(within=within))).max() < 4


@pytest.mark.slow
def test_geweke_kills_a_wrong_conditional():
    """The data counted whole instead of half."""
    assert np.abs(geweke_scores(geweke_blocks(shape_of=lambda n: 3.0 + n))).max() > 10


@pytest.mark.slow
def test_simulation_based_calibration():
    """Ranks of the truth among 99 thinned draws, 1000 data sets: inside the 95 % ECDF band."""
    datasets, draws, thin = 1000, 99, 10
    blocks = geweke_blocks(within=True)

    def one(key):
        mu = 0.5 + jax.random.normal(item_key(key, 0))
        precision = jax.random.gamma(item_key(key, 1), 3.0) / 2
        y = mu + jax.random.normal(item_key(key, 2), (3,)) / jnp.sqrt(precision)
        fixed = Block("y", lambda key, value, rest: (y, None))
        kernel = gibbs([*blocks[:2], fixed])
        start = kernel.init({"mu": jnp.mean(y), "precision": 1.0, "y": y})
        _, _, path = scan_steps(item_key(key, 3), kernel.step, start, 100 + draws * thin,
                                trace_fn=lambda state, info: state.position)  # fmt: skip
        kept = {name: path[name][100 + thin - 1 :: thin] for name in ("mu", "precision")}
        return (kept["mu"] < mu).sum(), (kept["precision"] < precision).sum()

    with jax.debug_key_reuse(False):
        ranks = jax.jit(jax.vmap(one))(item_keys(jax.random.key(0), datasets))
    grid = np.arange(100)
    # A simultaneous band: 95 % of exactly uniform sets of ranks stay inside it everywhere.
    rng = np.random.default_rng(0)

    def distance(ranks):
        share = (ranks[..., None] <= grid).mean(axis=-2)
        expected = (grid + 1) / 100
        spread = np.sqrt(expected * (1 - expected) / datasets)[:-1]
        return (np.abs(share - expected)[..., :-1] / spread).max(axis=-1)

    null = [distance(rng.integers(0, 100, datasets)) for _ in range(500)]
    band = np.quantile(null, 1 - 0.05 / 2)  # two parameters
    for rank in ranks:
        assert distance(np.asarray(rank)) < band
