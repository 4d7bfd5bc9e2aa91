"""Gibbs: exact matrices, exact autocorrelation, stale caches, errors."""

import importlib.util
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from probjax.core.keys import item_key, item_keys
from probjax.mcmc.driver import scan_steps
from probjax.mcmc.finite import gibbs_matrix, mh_matrix
from probjax.mcmc.gibbs import (
    SCANS,
    Block,
    Conditional,
    GibbsState,
    block_from_blackjax,
    gibbs,
    parallel_gibbs_mh,
)

_spec = importlib.util.spec_from_file_location(
    "chain_checks", Path(__file__).with_name("checks.py")
)
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)

RHO, SCALE = 0.9, 2.0  # x ~ N(0, 4), y ~ N(0, 1), correlation 0.9
TABLE = np.array([[0.3, 0.1, 0.05], [0.05, 0.2, 0.3]])


def exact_pairs(key, count):
    z = jax.random.normal(key, (2, count))
    return {"x": SCALE * z[0], "y": RHO * z[0] + np.sqrt(1 - RHO**2).astype(np.float32) * z[1]}


def pair_uniforms(position):
    x, y = (np.asarray(position[name], np.float64) for name in "xy")
    left = (y - RHO * x / SCALE) / np.sqrt(1 - RHO**2)
    both = (x / SCALE + y) / np.sqrt(2 + 2 * RHO)
    return stats.norm.cdf(np.stack([x / SCALE, y, left, both], axis=-1))


def draw_x(key, x, rest):
    return SCALE * (RHO * rest["y"] + np.sqrt(1 - RHO**2) * jax.random.normal(key)), None


def draw_y(key, y, rest):
    return RHO * rest["x"] / SCALE + np.sqrt(1 - RHO**2) * jax.random.normal(key), None


PAIR = [Block("x", draw_x), Block("y", draw_y)]


def joint(position):
    x, y = position["x"] / SCALE, position["y"]
    return -0.5 * (x**2 - 2 * RHO * x * y + y**2) / (1 - RHO**2)


def wide_walk(logdensity_fn):
    return checks.random_walk(logdensity_fn, 2.5)


def given(name):
    """The joint density as a function of one block."""
    return lambda value, rest: joint({**rest, name: value})


WITHIN = [
    Block("x", block_from_blackjax(checks.random_walk, given("x"))),
    Block("y", block_from_blackjax(lambda f: blackjax.hmc(f, 0.3, jnp.ones(1), 3), given("y"))),
]


def as_columns(position):
    return np.stack([np.asarray(position["x"]), np.asarray(position["y"])], axis=-1)


@pytest.mark.parametrize(
    "scan", [SCANS[0], *(pytest.param(scan, marks=pytest.mark.slow) for scan in SCANS[1:])]
)
def test_one_step_leaves_a_pair_of_normals(scan):
    exact, within = gibbs(PAIR, scan=scan), gibbs(WITHIN, scan=scan)
    starts = exact_pairs(jax.random.key(0), checks.CHAINS)
    checks.check_uniform(pair_uniforms(starts))

    def both(key, x):
        return checks.moved(exact)(item_key(key, 0), x), checks.moved(within)(item_key(key, 1), x)

    (one, info), (two, within_info) = checks.one_step(both, jax.random.key(1), starts)
    for after in (one, two):
        checks.check_uniform(pair_uniforms(after))
        checks.check_moves(as_columns(starts), as_columns(after), 0.5)
        if scan != "systematic":
            checks.check_reversible(as_columns(starts), as_columns(after))
    assert bool(info.is_accepted.all()) and bool((info.acceptance_rate == 1).all())
    assert int(info.num_grad_evals.sum()) == 0

    # Three leapfrog steps and one rebuilt gradient at each visit of y.
    visits = {name: np.asarray(count) for name, count in within_info.num_visits.items()}
    np.testing.assert_array_equal(within_info.num_grad_evals, 4 * visits["y"])
    total = {"systematic": 2, "random": 2, "palindromic": 3}[scan]
    np.testing.assert_array_equal(visits["x"] + visits["y"], total)
    assert abs(visits["x"].mean() - {"palindromic": 2}.get(scan, 1)) < 5 * 0.71 / 223
    sums = sum(np.asarray(rate) for rate in within_info.block_acceptance.values())
    np.testing.assert_allclose(sums / total, within_info.acceptance_rate, rtol=1e-5)
    assert not bool(within_info.is_nonfinite.any())


def table_blocks():
    log_table = jnp.log(jnp.asarray(TABLE, jnp.float32))

    def row(key, i, rest):
        return jax.random.categorical(key, log_table[:, rest["j"]]).astype(i.dtype), None

    def column(key, j, rest):
        return jax.random.categorical(key, log_table[rest["i"]]).astype(j.dtype), None

    return [Block("i", row), Block("j", column)], log_table


def table_counts(kernel):
    def move(key, index):
        after, _ = checks.moved(kernel)(key, {"i": index // 3, "j": index % 3})
        return 3 * after["i"] + after["j"]

    return checks.transition_counts(move, jax.random.key(2), 6, 10_000)


@pytest.mark.slow
def test_transitions_are_counted_as_the_matrices_say():
    blocks, log_table = table_blocks()
    counts = {scan: table_counts(gibbs(blocks, scan=scan)) for scan in SCANS}
    for scan in SCANS:
        checks.check_counts(counts[scan], gibbs_matrix(TABLE, scan))
    for one, other in (("systematic", "palindromic"), ("palindromic", "random")):
        with pytest.raises(AssertionError):
            checks.check_counts(counts[one], gibbs_matrix(TABLE, other))
    with pytest.raises(AssertionError):  # the coordinates in the other order
        backwards = table_counts(gibbs(blocks[::-1]))
        checks.check_counts(backwards, gibbs_matrix(TABLE))

    conditionals = {
        "i": Conditional(
            lambda key, rest: blocks[0].kernel(key, jnp.zeros((), jnp.int32), rest)[0],
            lambda i, rest: jax.nn.log_softmax(log_table[:, rest["j"]])[i],
        ),
        "j": Conditional(
            lambda key, rest: blocks[1].kernel(key, jnp.zeros((), jnp.int32), rest)[0],
            lambda j, rest: jax.nn.log_softmax(log_table[rest["i"]])[j],
        ),
    }
    corrected = parallel_gibbs_mh(conditionals, lambda v: log_table[v["i"], v["j"]])
    matrix = mh_matrix(TABLE.ravel(), gibbs_matrix(TABLE, "parallel"))
    checks.check_counts(table_counts(corrected), matrix)


@pytest.mark.slow
def test_systematic_scan_fails_reversibility_where_it_should():
    """Positive control: the lopsided two-by-two table, its flow 0.0533 one way round."""
    table = np.array([[0.4, 0.1], [0.2, 0.3]])
    log_table = jnp.log(jnp.asarray(table, jnp.float32))
    blocks = [
        Block("i", lambda key, i, rest: (
            jax.random.categorical(key, log_table[:, rest["j"]]).astype(i.dtype), None)),
        Block("j", lambda key, j, rest: (
            jax.random.categorical(key, log_table[rest["i"]]).astype(j.dtype), None)),
    ]  # fmt: skip
    start = jax.random.categorical(jax.random.key(0), log_table.ravel(), shape=(checks.CHAINS,))

    def every(key, index):
        at = {"i": index // 2, "j": index % 2}
        kernels = [gibbs(blocks, scan=scan) for scan in SCANS]
        ends = [checks.moved(kernel)(item_key(key, n), at)[0] for n, kernel in enumerate(kernels)]
        return [2 * end["i"] + end["j"] for end in ends]

    ends = checks.one_step(every, jax.random.key(1), start)
    for scan, end in zip(SCANS, ends, strict=True):
        counts = np.bincount(np.asarray(end), minlength=4)
        assert stats.chisquare(counts, len(end) * table.ravel()).pvalue > 1e-6
        before = np.asarray(start)
        scores = [
            ((before == a) & (np.asarray(end) == b)) * 1.0
            - ((before == b) & (np.asarray(end) == a))
            for a in range(4)
            for b in range(a)
        ]
        worst = max(abs(s.mean()) / s.std() * np.sqrt(len(s)) for s in scores if s.std() > 0)
        assert (worst < 5) == (scan != "systematic"), (scan, worst)


def parallel_step(blocks):
    """The mutant: every block reads the values from before the sweep."""

    def step(key, state):
        new = {}
        for number, block in enumerate(blocks):
            rest = {k: v for k, v in state.position.items() if k != block.name}
            new[block.name], _ = block.kernel(
                item_key(key, number), state.position[block.name], rest
            )
        return GibbsState(new), jnp.zeros(())

    kernel = gibbs(blocks)
    return SamplingAlgorithm(kernel.init, step)


def check_covariance(after):
    """Both variances, 4 and 1, and the covariance, 1.8, within 5 s.e."""
    x, y = np.asarray(after["x"], np.float64), np.asarray(after["y"], np.float64)
    for value, truth in ((x * y, SCALE * RHO), (x**2, SCALE**2), (y**2, 1.0)):
        assert abs(value.mean() - truth) < 5 * value.std() / np.sqrt(len(value)), truth


def after_sweeps(kernel):
    starts = exact_pairs(jax.random.key(4), 20_000)
    return checks.one_step(checks.moved(kernel, 6), jax.random.key(5), starts)[0]


def test_old_values_of_updated_blocks_are_seen_by_the_covariance():
    check_covariance(after_sweeps(gibbs(PAIR)))
    with pytest.raises(AssertionError, match=r"1\.8"):
        check_covariance(after_sweeps(parallel_step(PAIR)))


@pytest.mark.slow
def test_uncorrected_parallel_draws_forget_the_correlation():
    """Unit variances and covariance zero, as the product of the marginals has."""
    kernel = parallel_step(PAIR)
    starts = {"x": jnp.zeros(20_000), "y": jnp.zeros(20_000)}
    # Correlation and variances decay like 0.81^t: after 80 sweeps by a factor of 2e7.
    after, _ = checks.one_step(checks.moved(kernel, 80), jax.random.key(6), starts)
    x, y = np.asarray(after["x"], np.float64) / SCALE, np.asarray(after["y"], np.float64)
    for value, truth in ((x * y, 0.0), (x**2, 1.0), (y**2, 1.0)):
        assert abs(value.mean() - truth) < 5 * value.std() / np.sqrt(len(value))


def test_autocorrelation_of_a_systematic_scan():
    """Each coordinate is autoregressive with coefficient rho^2; so is its time (1+r)/(1-r)."""
    chains, length, r = 4000, 40, RHO**2
    kernel = gibbs(PAIR)

    def one(key, start):
        _, _, path = scan_steps(key, kernel.step, kernel.init(start), length,
                                trace_fn=lambda state, info: state.position)  # fmt: skip
        return path

    path = checks.one_step(one, jax.random.key(8), exact_pairs(jax.random.key(7), chains))
    for name, scale in (("x", SCALE), ("y", 1.0)):
        z = np.asarray(path[name], np.float64) / scale
        for lag, expected in ((1, r), (2, r**2)):
            product = (z[:, lag:] * z[:, :-lag]).mean(axis=1)  # one number a chain
            assert abs(product.mean() - expected) < 5 * product.std() / np.sqrt(chains)
        # Variance of a chain's mean: the finite sum whose limit is the autocorrelation time.
        lags = np.arange(1, length)
        time = 1 + 2 * ((1 - lags / length) * r**lags).sum()
        got = z.mean(axis=1).var() * length
        assert abs(got - time) < 5 * time * np.sqrt(2 / chains)
    assert abs((1 + r) / (1 - r) - 9.526) < 1e-3


def cached_blocks(refresh):
    """x carries its own chain state: position and log density given the y it last saw."""

    def algorithm(rest):
        return wide_walk(lambda x: given("x")(x, rest))

    def x_kernel(key, value, rest):
        return algorithm(rest).step(key, value)

    def x_refresh(value, rest):
        return algorithm(rest).init(value.position)

    def y_kernel(key, y, rest):
        return draw_y(key, y, {"x": rest["x"].position})

    return [Block("x", x_kernel, x_refresh if refresh else None), Block("y", y_kernel)]


def cached_run(refresh):
    """Thirty sweeps: one alone hides the mistake, the cache being right at the start."""
    blocks = cached_blocks(refresh)
    starts = exact_pairs(jax.random.key(11), 20_000)

    def run(key, start):
        x = wide_walk(lambda x: given("x")(x, {"y": start["y"]})).init(start["x"])
        after, _ = checks.moved(gibbs(blocks), 30)(key, {"x": x, "y": start["y"]})
        return {"x": after["x"].position, "y": after["y"]}

    return checks.one_step(run, jax.random.key(12), starts)


@pytest.mark.slow
def test_a_stale_cache_dies_and_a_refreshed_one_lives():
    check_covariance(cached_run(refresh=True))
    with pytest.raises(AssertionError):
        check_covariance(cached_run(refresh=False))


def test_a_value_that_is_not_finite_is_refused_and_flagged(reuse_keys):
    broken = Block("x", lambda key, x, rest: (x / 0.0 + jnp.nan, None))
    for scan in SCANS:
        kernel = gibbs([broken, PAIR[1]], scan=scan)
        start = kernel.init({"x": 1.0, "y": 2.0})
        state, info = jax.jit(kernel.step)(jax.random.key(1), start)
        assert float(state.position["x"]) == 1.0
        visited = int(info.num_visits["x"])
        assert bool(info.is_nonfinite) == bool(info.is_divergent) == (visited > 0)
        assert bool(info.is_accepted) == (visited == 0)
        assert float(info.block_acceptance["x"]) == 0.0
        assert bool(jnp.isfinite(state.position["y"]))

    kernel = block_from_blackjax(
        lambda f: blackjax.hmc(f, 0.3, jnp.ones(1), 3),
        lambda x, rest: jnp.where(x == rest["y"], 0.0, jnp.nan),
    )
    value, info = jax.jit(kernel)(jax.random.key(0), jnp.array(1.0), {"y": jnp.array(1.0)})
    assert float(value) == 1.0 and bool(info.is_nonfinite) and not bool(info.is_accepted)


def test_pytrees_dtypes_and_old_keys(x64, reuse_keys):
    block = Block("a", lambda key, a, rest: (jax.tree.map(lambda leaf: -leaf, a), None))
    kernel = gibbs([block], scan="random")
    start = kernel.init({"a": {"b": jnp.ones(2, jnp.bfloat16), "c": np.arange(3)}})
    state, info = kernel.step(jax.random.PRNGKey(0), start)
    assert state.position["a"]["b"].dtype == jnp.float32
    assert state.position["a"]["c"].tolist() == [0, -1, -2]
    assert info.acceptance_rate.dtype == jnp.float32
    assert gibbs([block]).init({"a": np.ones(2)}).position["a"].dtype == jnp.float64


def test_bad_input_is_named(reuse_keys):
    hold = lambda key, value, rest: (value, None)
    with pytest.raises(ValueError, match="at least one block"):
        gibbs([])
    with pytest.raises(ValueError, match="different names, got a twice"):
        gibbs([Block("a", hold), Block("b", hold), Block("a", hold)])
    with pytest.raises(ValueError, match="scan must be one of 'systematic', 'random'"):
        gibbs([Block("a", hold)], scan="sideways")
    kernel = gibbs([Block("a", hold), Block("b", hold)])
    parallel = parallel_gibbs_mh(
        {name: Conditional(lambda key, rest: 0.0, lambda value, rest: 0.0) for name in "ab"},
        lambda v: v["a"],
    )
    for algorithm in (kernel, parallel):
        with pytest.raises(ValueError, match="position lacks block 'b'"):
            algorithm.init({"a": 1.0})
        with pytest.raises(ValueError, match="position has 'c', which no block updates"):
            algorithm.init({"a": 1.0, "b": 1.0, "c": 1.0})
        with pytest.raises(TypeError, match="must be a dict by block name, got float"):
            algorithm.init(1.0)
    wide = gibbs([Block("a", lambda key, value, rest: (jnp.zeros(3), None))])
    with pytest.raises(ValueError, match="kernel of block 'a' must have the shape of its value"):
        wide.step(jax.random.key(0), wide.init({"a": 1.0}))
    lost = gibbs([Block("a", hold, lambda value, rest: (value, value))])
    with pytest.raises(ValueError, match="refresh of block 'a' must have the structure"):
        lost.step(jax.random.key(0), lost.init({"a": 1.0}))


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["systematic", "random"])
def test_sharded_chains_are_the_same_and_exchange_nothing(reuse_keys, scan):
    """One start for all chains; a block that draws nothing; default VMA check."""
    mean = Block("mean", lambda key, mean, rest: (0.5 * (rest["x"] + rest["y"]), None))
    blocks = [mean, *(block._replace(kernel=without_mean(block.kernel)) for block in WITHIN)]
    kernel = gibbs(blocks, scan=scan)

    def one(key):
        start = kernel.init({"x": 0.0, "y": 0.0, "mean": 0.0})
        state, info, _ = scan_steps(key, kernel.step, start, 10)
        return state.position, info.num_visits

    keys = item_keys(jax.random.key(0), 8)
    together = jax.jit(jax.vmap(one))(keys)
    mesh = jax.make_mesh((4,), ("chains",), (AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("chains")
    mapped = jax.jit(jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec))
    compiled = mapped.lower(keys).compile()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        compiled(keys), together,
    )  # fmt: skip
    text = compiled.as_text()
    assert "all-" not in text and "collective" not in text


def without_mean(kernel):
    return lambda key, value, rest: kernel(
        key, value, {name: other for name, other in rest.items() if name != "mean"}
    )


def test_a_finite_visit_is_not_flagged(reuse_keys):
    kernel = gibbs(PAIR)
    info = jax.jit(kernel.step)(jax.random.key(1), kernel.init({"x": 1.0, "y": 2.0}))[1]
    assert not bool(info.is_divergent) and not bool(info.is_nonfinite) and bool(info.is_accepted)
