"""Parallel tempering: exact on finite ladders, exact exchange rates, counted round trips."""

import functools
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from scipy import stats

from probjax import mcmc, sharding
from probjax.core.keys import item_keys
from probjax.mcmc import tempering

_spec = importlib.util.spec_from_file_location("checks", Path(__file__).with_name("checks.py"))
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)

# Four states on a path, walked by steps to a random neighbour; lopsided weights.
LOG_WEIGHTS = np.log([0.05, 0.5, 0.15, 0.3])
LOG_PRIOR = np.log([0.4, 0.1, 0.3, 0.2])
NEIGHBOUR = np.array([[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]])


def walk(logdensity_fn, level):
    def proposal_logdensity_fn(from_x, to_x):
        return jnp.log(jnp.asarray(NEIGHBOUR, jnp.float32))[from_x, to_x]

    def propose(key, x):
        return jax.random.categorical(key, jnp.log(jnp.asarray(NEIGHBOUR, jnp.float32))[x])

    return mcmc.metropolis_hastings(logdensity_fn, propose, proposal_logdensity_fn)


def ladder_matrices(betas, log_prior):
    """Product law, local moves, and exchanges of either parity, on the product of the levels."""
    num_levels, size = len(betas), len(LOG_WEIGHTS)
    law, moves = np.ones(1), np.ones((1, 1))
    for beta in betas:
        weights = np.exp(log_prior + beta * LOG_WEIGHTS)
        law = np.kron(law, weights / weights.sum())
        moves = np.kron(moves, np.asarray(mcmc.mh_matrix(weights, NEIGHBOUR)))
    states = np.stack(np.unravel_index(np.arange(len(law)), (size,) * num_levels), axis=1)
    exchanges = []
    for parity in (0, 1):
        whole = np.eye(len(law))
        for j in range(parity, num_levels - 1, 2):
            one = np.zeros_like(whole)
            for i, x in enumerate(states):
                y = x.copy()
                y[[j, j + 1]] = x[[j + 1, j]]
                to = np.ravel_multi_index(y, (size,) * num_levels)
                rate = 1.0 if law[to] >= law[i] else law[to] / law[i]
                one[i, to] += rate
                one[i, i] += 1 - rate
            whole = whole @ one
        exchanges.append(whole)
    return law, moves, exchanges


def joint_move(algorithm, num_levels, parity):
    """A step of the kernel as a map of the ladder's states, numbered."""
    size = len(LOG_WEIGHTS)
    place = size ** np.arange(num_levels)[::-1]

    def move(key, joint):
        replicas = (joint // jnp.asarray(place)) % size
        values = jnp.asarray(LOG_WEIGHTS, jnp.float32)[replicas]
        state = algorithm.init(replicas[0])
        state = state._replace(
            position=replicas[0],
            replicas=replicas,
            logdensities=values,
            parity=state.parity + parity,
        )
        new, _ = algorithm.step(key, state)
        return jnp.sum(new.replicas * jnp.asarray(place))

    return move


def finite_ladder(betas, prior=False, swap="even_odd"):
    return mcmc.parallel_tempering(
        lambda x: jnp.asarray(LOG_WEIGHTS, jnp.float32)[x],
        walk,
        betas,
        log_prior_fn=(lambda x: jnp.asarray(LOG_PRIOR, jnp.float32)[x]) if prior else None,
        swap=swap,
    )


@pytest.mark.parametrize("betas", [(1.0, 0.3), (1.0, 0.5, 0.1)])
@pytest.mark.parametrize("prior", [False, True])
def test_exchanges_and_moves_keep_the_product_law(x64, betas, prior):
    law, moves, exchanges = ladder_matrices(betas, LOG_PRIOR if prior else np.zeros(4))
    np.testing.assert_allclose(law @ moves, law, atol=1e-12)
    for exchange in exchanges:
        assert float(mcmc.balance_gap(law, exchange)) < 1e-12
        np.testing.assert_allclose(law @ moves @ exchange, law, atol=1e-12)
    turns = moves @ exchanges[0] @ moves @ exchanges[1]
    np.testing.assert_allclose(mcmc.stationary(turns), law, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "betas, prior, swap, parity, repeats",
    [
        ((1.0, 0.3), False, "even_odd", 0, 20_000),
        pytest.param((1.0, 0.0), True, "random", 0, 20_000, marks=pytest.mark.slow),
        pytest.param((1.0, 0.5, 0.1), True, "even_odd", 1, 4_000, marks=pytest.mark.slow),
        pytest.param((1.0, 0.5, 0.1), False, "random", 0, 4_000, marks=pytest.mark.slow),
    ],
)
def test_the_kernel_follows_the_matrix(betas, prior, swap, parity, repeats):
    _, moves, exchanges = ladder_matrices(betas, LOG_PRIOR if prior else np.zeros(4))
    matrix = moves @ (exchanges[parity] if swap == "even_odd" else sum(exchanges) / 2)
    move = joint_move(finite_ladder(betas, prior, swap), len(betas), parity)
    counts = checks.transition_counts(move, jax.random.key(parity), len(matrix), repeats)
    # What rounding leaves of a rate of one minus one is not a possible transition.
    checks.check_counts(counts, np.where(matrix < 1e-9, 0, matrix))


# The log ratio with other factors of the two inverse temperatures.
MUTANTS = {
    "right": (1.0, -1.0),
    "wrong sign": (-1.0, 1.0),
    "hotter temperature missing": (1.0, 0.0),
    "colder temperature missing": (0.0, -1.0),
    "temperatures added": (1.0, 1.0),
    "always": (0.0, 0.0),
    "twice the ratio": (2.0, -2.0),
}


@pytest.mark.slow
def test_the_matrix_kills(monkeypatch):
    betas, size, repeats = (1.0, 0.3), len(LOG_WEIGHTS), 5_000
    factors = []

    def swap_rates(betas, values):
        colder, hotter = factors[-1]
        log_ratio = (colder * betas[:-1] + hotter * betas[1:]) * (values[1:] - values[:-1])
        return jnp.exp(jnp.minimum(log_ratio, 0.0)), log_ratio

    monkeypatch.setattr(tempering, "_swap_rates", swap_rates)
    _, moves, exchanges = ladder_matrices(betas, np.zeros(4))
    move = joint_move(finite_ladder(betas), 2, 0)

    @jax.jit
    def ends(key, starts, given):
        factors.append(given)
        return jax.vmap(move)(item_keys(key, len(starts)), starts)

    starts = jnp.repeat(jnp.arange(size**2), repeats)
    for number, (name, given) in enumerate(MUTANTS.items()):
        counts = np.zeros((size**2, size**2))
        reached = np.asarray(ends(jax.random.key(number), starts, jnp.array(given)))
        np.add.at(counts, (np.asarray(starts), reached), 1)
        if name == "right":
            checks.check_counts(counts, moves @ exchanges[0])
        else:
            with pytest.raises(AssertionError):
                checks.check_counts(counts, moves @ exchanges[0])


def exact_gaussian(dim):
    """Local moves that draw anew from N(0, I / beta), so that exchanges are independent."""

    def make_kernel(logdensity_fn, level):
        init = lambda position, rng_key=None: SimpleState(position)

        def step(key, state):
            z = jax.random.normal(key, (dim,))
            return SimpleState(z / jnp.sqrt(level.inverse_temperature)), ()

        return SamplingAlgorithm(init, step)

    return make_kernel


class SimpleState(SimpleNamespace):
    def __init__(self, position):
        super().__init__(position=position)


jax.tree_util.register_pytree_node(
    SimpleState, lambda s: ((s.position,), None), lambda _, children: SimpleState(*children)
)


@functools.lru_cache
def gaussian_run(swap):
    """Forty-eight ladders of 4 levels on a plane, in two halves, with exact local moves."""
    algorithm = mcmc.parallel_tempering(
        lambda x: -0.5 * jnp.sum(x**2), exact_gaussian(2), [1.0, 0.6, 0.3, 0.1], swap=swap
    )

    @jax.jit
    def chain(key):
        start = algorithm.init(jnp.ones(2))
        half, _, _ = mcmc.scan_steps(key, algorithm.step, start, 100)
        state, info, _ = mcmc.scan_steps(key, algorithm.step, half, 1500, start=100)
        return info.swap_acceptance / 1500, (state.round_trips - half.round_trips) / 1500

    return jax.tree.map(np.asarray, jax.vmap(chain)(item_keys(jax.random.key(3), 48)))


@pytest.mark.slow
@pytest.mark.parametrize("swap", tempering.SWAPS)
def test_exchange_rates_of_gaussians(swap):
    """In the plane |x|^2 / 2 is exponential, and the mean acceptance is 2 b' / (b + b')."""
    rates, _ = gaussian_run(swap)
    betas = np.array([1.0, 0.6, 0.3, 0.1])
    exact = 2 * betas[1:] / (betas[1:] + betas[:-1])
    error = rates.std(axis=0, ddof=1) / np.sqrt(len(rates))
    assert (np.abs(rates.mean(axis=0) - exact) < 5 * error).all() and (error < 0.01).all()


@pytest.mark.slow
def test_round_trips_a_step():
    """With exact local moves: 1 / (2 + 2 s) in turns, 1 / (2 (K - 1) + 2 s) at random."""
    betas = np.array([1.0, 0.6, 0.3, 0.1])
    refused = (betas[:-1] - betas[1:]) / (betas[:-1] + betas[1:])
    s = (refused / (1 - refused)).sum()
    for swap, exact in (("even_odd", 1 / (2 + 2 * s)), ("random", 1 / (6 + 2 * s))):
        trips = gaussian_run(swap)[1]
        error = trips.std(ddof=1) / np.sqrt(len(trips))
        assert abs(trips.mean() - exact) < 5 * error and error < 0.02 * exact


def test_round_trips_where_every_exchange_is_accepted():
    """A flat density: replicas go around like beads, each round of K levels taking 2 K steps."""
    stay = lambda f, level: mcmc.metropolis_hastings(f, lambda key, x: x, symmetric=True)
    algorithm = mcmc.parallel_tempering(lambda x: 0.0 * x, stay, [1.0, 0.5, 0.2])
    keep = lambda state, info: (state.index, state.trip, state.round_trips, info.swapped)
    run = jax.jit(lambda key: mcmc.scan_steps(key, algorithm.step, start, 12, trace_fn=keep)[2])
    start = algorithm.init(jnp.array(1.0))
    index, trip, count, swapped = map(np.asarray, run(jax.random.key(0)))
    np.testing.assert_array_equal(
        index[:6], [[1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2]]
    )
    np.testing.assert_array_equal(swapped[:2], [[True, False], [False, True]])
    # 0 leaves 0, is at 2 after two steps, back at 0 after five; 1 and 2 come to 0 first.
    np.testing.assert_array_equal(trip[:3], [[1, 1, 0], [1, 0, 2], [1, 1, 2]])
    np.testing.assert_array_equal(count, [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


@pytest.mark.slow
def test_weights_of_far_modes():
    """Two modes ten apart, all ladders begun in the lesser one: plain MALA never leaves it."""
    log_mixture = lambda x: jnp.logaddexp(
        jnp.log(0.2) - 0.5 * jnp.sum((x + 5) ** 2), jnp.log(0.8) - 0.5 * jnp.sum((x - 5) ** 2)
    )
    make = lambda f, level: mcmc.mala(f, 0.5 / level.inverse_temperature)
    ladder = mcmc.parallel_tempering(log_mixture, make, mcmc.geometric_ladder(5, 0.03))
    plain = mcmc.mala(log_mixture, 0.5)

    @jax.jit
    def share(key):
        def one(algorithm):
            right = lambda state, info: state.position[0] > 0
            start = algorithm.init(jnp.full(1, -5.0))
            return mcmc.scan_steps(key, algorithm.step, start, 600, trace_fn=right)[2][200:].mean()

        return one(ladder), one(plain)

    tempered, alone = map(np.asarray, jax.vmap(share)(item_keys(jax.random.key(5), 64)))
    error = tempered.std(ddof=1) / 8
    assert abs(tempered.mean() - 0.8) < 5 * error and error < 0.03
    assert alone.mean() < 0.01


RAYLEIGH = mcmc.parallel_tempering(
    # log(max(x, 0)): minus infinity where x < 0, and a gradient that is no number there.
    lambda x: jnp.sum(jnp.log(jnp.maximum(x, 0.0))),
    lambda f, level: mcmc.mala(f, 0.3),
    [1.0, 0.4, 0.0],
    log_prior_fn=lambda x: -0.5 * jnp.sum(x**2),
)


@jax.jit
def rayleigh_step(key, starts):
    def one(key, x):
        start = RAYLEIGH.init(x[0])
        values = jnp.sum(jnp.log(jnp.maximum(x, 0.0)), axis=-1)
        return RAYLEIGH.step(key, start._replace(replicas=x, logdensities=values))

    return jax.vmap(one)(item_keys(key, len(starts)), starts)


@pytest.mark.slow
def test_one_step_from_exact_starts_down_to_a_prior():
    """x^b exp(-x^2 / 2): Rayleigh at b = 1, chi at 0.4, and normal at 0, half of it at -inf."""
    rng, count = np.random.default_rng(0), checks.CHAINS
    cold, middle = np.sqrt(rng.chisquare(2.0, count)), np.sqrt(rng.chisquare(1.4, count))
    starts = np.stack([cold, middle, rng.normal(size=count)], axis=1)[..., None]
    state, info = rayleigh_step(jax.random.key(7), jnp.asarray(starts, jnp.float32))
    x = np.asarray(state.replicas, np.float64)[..., 0]
    checks.check_uniform(
        np.stack(
            [stats.chi(2.0).cdf(x[:, 0]), stats.chi(1.4).cdf(x[:, 1]), stats.norm.cdf(x[:, 2])],
            axis=1,
        )
    )
    assert (np.asarray(info.acceptance_rates).mean(axis=0) > 0.7).all()
    hot = np.asarray(state.logdensities)[:, 2]
    assert abs(np.isneginf(hot).mean() - 0.5) < 5 * np.sqrt(0.25 / count)
    rates = np.asarray(info.swap_acceptance)[:, 0]
    # The mean acceptance is twice the chance that the hotter of two has the larger density.
    exact = 2 * np.mean(middle > cold)
    assert abs(rates.mean() - exact) < 5 * np.sqrt(1.5 / count)
    np.testing.assert_array_equal(state.position, state.replicas[:, 0])


def test_what_is_no_number_is_flagged_and_stays_hot():
    def broken(x):
        return jnp.where(x[0] > 1, jnp.nan, jnp.where(x[0] < -1, -jnp.inf, -0.5 * x[0] ** 2))

    algorithm = mcmc.parallel_tempering(
        broken, lambda f, level: mcmc.mala(f, 1.0), [1.0, 0.5, 0.2], num_local_steps=2
    )
    run = lambda key: algorithm.step(key, algorithm.init(jnp.zeros(1)))
    state, info = jax.jit(jax.vmap(run))(item_keys(jax.random.key(8), 300))
    assert (np.abs(state.replicas) <= 1).all() and np.isfinite(state.logdensities).all()
    flags = np.asarray(info.is_nonfinite)
    assert flags.sum() > 50 and not flags.all()
    start = algorithm.init(jnp.full(1, 2.0))
    np.testing.assert_array_equal(start.logdensities, -np.inf)
    rates, ratio = tempering._swap_rates(
        jnp.array([1.0, 0.6, 0.3, 0.2, 0.1]), jnp.array([-jnp.inf, 2.0, -jnp.inf, -jnp.inf, 1e38])
    )
    np.testing.assert_array_equal(rates, [1, 0, 0, 1])
    assert not np.isnan(ratio).any()


@pytest.mark.slow
def test_gradients_told_are_gradients_made():
    seen = []

    @jax.custom_vjp
    def density(x):
        return -0.5 * jnp.sum(x**2)

    def forward(x):
        jax.debug.callback(lambda x: seen.append(x), x)
        return density(x), x

    density.defvjp(forward, lambda x, g: (-g * x,))
    algorithm = mcmc.parallel_tempering(
        density, lambda f, level: mcmc.mala(f, 0.1), [1.0, 0.5, 0.2], num_local_steps=2
    )
    _, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2)))
    jax.effects_barrier()
    assert float(info.num_grad_evals) == len(seen) == 9


@functools.lru_cache
def spread(num_devices):
    states = mcmc.init_chains(SPREAD, {"a": jnp.ones((8, 2)), "b": jnp.zeros(8)})
    mesh = sharding.make_mesh(num_devices)
    return mcmc.run_chains(
        jax.random.key(9), SPREAD, states, 6, mesh=mesh, reducers=(mcmc.moments(), mcmc.counts())
    )


SPREAD = mcmc.parallel_tempering(
    lambda x: -0.25 * jnp.sum(x["a"] ** 4) - 0.5 * (x["b"] - x["a"][0]) ** 2,
    lambda f, level: mcmc.mala(f, jnp.array([0.2, 0.4, 0.9])[level.index]),
    [1.0, 0.5, 0.2],
)


@pytest.mark.slow
def test_the_same_ladders_on_devices():
    one, four = spread(1), spread(4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.states, four.states
    )
    moments, counts = four.reduced
    assert moments.mean["a"].shape == (2,) and counts.num_grad_evals == 8 * 6 * 3 * 2
    assert 0 < float(counts.acceptance_rate) < 1


def test_levels_may_have_kernels_of_their_own():
    """The step of each level by its index: acceptance tells them apart."""
    sizes = jnp.array([0.01, 4.0])
    algorithm = mcmc.parallel_tempering(
        lambda x: -0.5 * jnp.sum(x**2),
        lambda f, level: mcmc.mala(f, sizes[level.index]),
        [1.0, 0.9],
    )
    run = lambda key: algorithm.step(key, algorithm.init(jnp.ones(2)))[1].acceptance_rates
    rates = jax.jit(jax.vmap(run))(item_keys(jax.random.key(10), 100)).mean(axis=0)
    assert rates[0] > 0.95 and rates[1] < 0.5


def test_types():
    state = SPREAD.init({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.array(0.0)})
    assert state.replicas["a"].dtype == jnp.float32 and state.index.dtype == jnp.int32


def test_bad_arguments_are_named():
    f, make = (lambda x: -0.5 * jnp.sum(x**2)), (lambda f, level: mcmc.mala(f, 0.1))
    build = functools.partial(mcmc.parallel_tempering, f, make)
    for betas, message in (
        ([1.0], r"inverse_temperatures must be a vector of at least 2, got shape \(1,\)"),
        ([0.9, 0.5], r"inverse_temperatures\[0\] must be 1, the target itself, got 0.9"),
        ([1.0, 0.5, 0.5], r"inverse_temperatures\[2\]=0.5 is not below inverse_temperatures\[1\]"),
        ([1.0, 0.5, 0.0], r"inverse_temperatures\[2\] is 0, which needs a log_prior_fn"),
        ([1.0, 0.5, -0.1], "inverse_temperatures.* must be positive"),
        ([1.0, np.nan], "inverse_temperatures.* must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            build(betas)
    with pytest.raises(ValueError, match=r"inverse_temperatures\[2\]=0.9 is not below"):
        build([1.0, 0.5, 0.9, 0.0], log_prior_fn=f)
    with pytest.raises(ValueError, match="num_local_steps must be at least 1, got 0"):
        build([1.0, 0.5], num_local_steps=0)
    with pytest.raises(ValueError, match="swap must be one of 'even_odd', 'random', got 'all'"):
        build([1.0, 0.5], swap="all")
    with pytest.raises(ValueError, match=r"logdensity_fn\(x\) must have shape \(\), got \(2,\)"):
        mcmc.parallel_tempering(lambda x: -x, make, [1.0, 0.5]).init(jnp.ones(2))
    with pytest.raises(ValueError, match="num_levels must be at least 2, got 1"):
        mcmc.geometric_ladder(1, 0.1)
    with pytest.raises(ValueError, match="minimum must be below 1, got 1.5"):
        mcmc.geometric_ladder(3, 1.5)
    with pytest.raises(ValueError, match=r"rejection_rates\[0\] must be finite and not negative"):
        mcmc.communication_barrier([-0.1, 0.5])
    with pytest.raises(ValueError, match="rejection_rates must not be above 1, got 1.5"):
        mcmc.communication_barrier([0.1, 1.5])
    with pytest.raises(ValueError, match="rejection_rates must have a positive entry"):
        mcmc.equalised_ladder([1.0, 0.5], [0.0])
    with pytest.raises(
        ValueError, match=r"inverse_temperatures must have shape \(3,\), got \(2,\)"
    ):
        mcmc.equalised_ladder([1.0, 0.5], [0.1, 0.2])
