"""Metropolis-Hastings and rejection: exact starts, a twin by hand with mutants, refusals."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from probjax.core.keys import item_key, item_keys, stream
from probjax.mcmc.driver import scan_steps
from probjax.mcmc.finite import mh_matrix
from probjax.mcmc.mh import metropolis_hastings, rejection_sample

_spec = importlib.util.spec_from_file_location(
    "chain_checks", Path(__file__).with_name("checks.py")
)
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)

PI = np.array([0.5, 0.3, 0.2])
Q = np.array([[0.0, 0.5, 0.5], [0.2, 0.0, 0.8], [0.6, 0.4, 0.0]])


def mover(kernel):
    """One step from a bare position."""

    def move(key, x):
        state, info = kernel.step(key, kernel.init(x))
        return state.position, info

    return move


def walk(step_size):
    return lambda key, x: x + step_size * jax.random.normal(key, x.shape, x.dtype)


def drifting(step_size, pull=0.6):
    """An asymmetric proposal, pulled towards a point that is not the target's centre."""

    def propose(key, x):
        return pull * x + (1 - pull) * 1.25 + step_size * jax.random.normal(key, x.shape, x.dtype)

    def proposal_logdensity_fn(from_x, to_x):
        return -0.5 * jnp.sum((to_x - pull * from_x - (1 - pull) * 1.25) ** 2) / step_size**2

    return propose, proposal_logdensity_fn


@pytest.mark.parametrize(
    "name",
    ["banana", "log gamma"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("normal", "two modes")],
)
def test_one_step_leaves_the_target_and_is_reversible(name):
    exact = checks.TARGETS[name]
    starts = exact.draw(jax.random.key(0), checks.CHAINS)
    symmetric = metropolis_hastings(exact.logdensity_fn, walk(0.5), symmetric=True)
    asymmetric = metropolis_hastings(exact.logdensity_fn, *drifting(0.5, 0.98))

    def both(key, x):
        return tuple(mover(kernel)(item_key(key, i), x) for i, kernel in
                     enumerate((symmetric, asymmetric)))  # fmt: skip

    checks.check_uniform(exact.uniforms(np.asarray(starts, np.float64)))
    for after, info in checks.one_step(both, jax.random.key(1), starts):
        checks.check_uniform(exact.uniforms(np.asarray(after, np.float64)))
        checks.check_moves(np.asarray(starts), np.asarray(after), 0.5)
        checks.check_reversible(starts, after)
        assert not bool(info.is_nonfinite.any()) and int(info.num_grad_evals.sum()) == 0
        # The rate reported is the chance of the flag.
        rate = np.asarray(info.acceptance_rate, np.float64)
        excess = np.asarray(info.is_accepted) - rate
        assert abs(excess.mean()) < 5 * np.sqrt((rate * (1 - rate)).mean() / len(rate))


def by_hand(logdensity_fn, step_size, rule):
    """The drifting kernel written out for one number, with a rule for the decision."""
    propose, density = drifting(step_size)

    def move(key, x):
        proposal = propose(stream(key, "proposal"), x)
        target = logdensity_fn(proposal) - logdensity_fn(x)
        correction = density(proposal, x) - density(x, proposal)
        log_u = -jax.random.exponential(stream(key, "accept"), (), x.dtype)
        accepted = rule(log_u, target, correction)
        return jnp.where(accepted, proposal, x), accepted

    return move


RULES = {
    "proposal ratio dropped": lambda log_u, target, q: log_u <= target,
    "proposal ratio inverted": lambda log_u, target, q: log_u <= target - q,
    "log u > ratio": lambda log_u, target, q: log_u > target + q,
    "target ratio inverted": lambda log_u, target, q: log_u <= q - target,
    "always accepted": lambda log_u, target, q: log_u <= 0,
}


NORMAL = checks.TARGETS["normal"]
PROPOSE, DENSITY = drifting(1.5)
KERNELS = {
    "ours": mover(metropolis_hastings(NORMAL.logdensity_fn, PROPOSE, DENSITY)),
    "right": by_hand(NORMAL.logdensity_fn, 1.5, lambda log_u, target, q: log_u <= target + q),
    "ours, called symmetric": mover(
        metropolis_hastings(NORMAL.logdensity_fn, PROPOSE, symmetric=True)
    ),
    "ours, density's arguments swapped": mover(
        metropolis_hastings(NORMAL.logdensity_fn, PROPOSE, lambda a, b: DENSITY(b, a))
    ),
    **{name: by_hand(NORMAL.logdensity_fn, 1.5, rule) for name, rule in RULES.items()},
}


@pytest.fixture(scope="module")
def decided():
    """One step of every kernel from 50,000 exact draws, all with the same random numbers."""
    with jax.debug_key_reuse(False):
        starts = NORMAL.draw(jax.random.key(3), checks.CHAINS)
        every = lambda key, x: {name: move(key, x)[0] for name, move in KERNELS.items()}
        return checks.one_step(every, jax.random.key(4), starts)


def check_decision(after):
    checks.check_uniform(NORMAL.uniforms(np.asarray(after, np.float64)))


def test_equal_to_the_formula_by_hand(decided):
    check_decision(decided["ours"])
    differs = np.abs(np.asarray(decided["ours"] - decided["right"])).max(axis=-1) > 1e-5
    assert differs.sum() <= 2  # a ratio within rounding of its uniform number


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KERNELS if name not in ("ours", "right")])
def test_one_step_kills(decided, name):
    check_decision(decided["right"])
    with pytest.raises(AssertionError):
        check_decision(decided[name])


def finite_kernel(proposal_logdensity_fn, symmetric=False):
    log_pi, log_q = jnp.log(jnp.asarray(PI)), jnp.log(jnp.asarray(Q))
    return metropolis_hastings(
        lambda i: log_pi[i],
        lambda key, i: jax.random.categorical(key, log_q[i]).astype(i.dtype),
        proposal_logdensity_fn(log_q) if proposal_logdensity_fn else None,
        symmetric=symmetric,
    )


def test_three_states_are_counted_as_the_matrix_says():
    def counts(kernel):
        move = lambda key, i: mover(kernel)(key, i)[0]
        return checks.transition_counts(move, jax.random.key(5), 3)

    matrix = mh_matrix(PI, Q)
    checks.check_counts(counts(finite_kernel(lambda log_q: lambda i, j: log_q[i, j])), matrix)
    with pytest.raises(AssertionError):
        checks.check_counts(counts(finite_kernel(None, symmetric=True)), matrix)


def test_long_run_of_a_pytree_on_the_half_line():
    """A scale and a vector, moved together by proposals that are symmetric in neither."""

    def logdensity_fn(x):  # scale ~ Gamma(3, 1), vector | scale ~ N(0, 1 / scale)
        scale = jnp.where(x["scale"] > 0, x["scale"], jnp.nan)
        return 3.0 * jnp.log(scale) - scale - 0.5 * scale * jnp.sum(x["v"] ** 2)

    def propose(key, x):
        z = jax.random.normal(key, (3,), x["v"].dtype)
        return {"scale": x["scale"] * jnp.exp(0.6 * z[0]), "v": x["v"] + 0.8 * z[1:]}

    def density(from_x, to_x):
        return (
            -0.5 * (jnp.log(to_x["scale"] / from_x["scale"]) / 0.6) ** 2
            - jnp.log(to_x["scale"])
            - 0.5 * jnp.sum((to_x["v"] - from_x["v"]) ** 2) / 0.64
        )

    kernel = metropolis_hastings(logdensity_fn, propose, density)
    chains = 4000

    @jax.jit
    def run(keys, scale, v):
        def one(key, scale, v):
            state, info, _ = scan_steps(key, kernel.step, kernel.init({"scale": scale, "v": v}), 12)
            return state.position, info

        return jax.vmap(one)(keys, scale, v)

    scale = jax.random.gamma(jax.random.key(0), 3.0, (chains,))
    v = jax.random.normal(jax.random.key(1), (chains, 2)) / jnp.sqrt(scale)[:, None]
    x, info = run(item_keys(jax.random.key(2), chains), scale, v)
    checks_ = np.stack([stats.gamma.cdf(x["scale"], 3.0), stats.chi2.cdf(
        np.asarray(x["scale"]) * np.asarray((x["v"] ** 2).sum(-1)), 2)], axis=-1)  # fmt: skip
    checks.check_uniform(checks_)
    assert 2 < float(info.acceptance_rate.mean()) < 10
    assert x["v"].dtype == jnp.float32


def test_outside_the_support_and_beyond_the_numbers(reuse_keys):
    """Densities by region: below 0 none, above 3 NaN, above 6 infinite, above 9 no proposal."""

    def logdensity_fn(x):
        inside = jnp.where(x < 0, -jnp.inf, -x)
        return jnp.where(x > 6, jnp.inf, jnp.where(x > 3, jnp.nan, inside))

    def kernel_to(target, density=None):
        propose = lambda key, x: jnp.full_like(x, target)
        return metropolis_hastings(logdensity_fn, propose, density, symmetric=density is None)

    @functools.partial(jax.jit, static_argnames="density")
    def run(start, target, density):
        kernel = kernel_to(target, density)
        state, info = kernel.step(jax.random.key(0), kernel.init(start))
        return state.position, info

    def step(start, target, density=None):
        return run(jnp.float32(start), jnp.float32(target), density)

    worse = lambda a, b: -jnp.inf * jnp.abs(a - b)  # -inf both ways
    cases = {
        "inside, better": (1.0, 0.5, None, True, False),
        "inside, to outside": (1.0, -1.0, None, False, False),
        "inside, to NaN density": (1.0, 4.0, None, False, True),
        "inside, to infinite density": (1.0, 7.0, None, False, True),
        "inside, to NaN": (1.0, jnp.nan, None, False, True),
        "inside, to infinity": (1.0, jnp.inf, None, False, True),
        "outside, to inside": (-1.0, 2.9, None, True, False),
        "outside, to outside": (-1.0, -2.0, None, False, False),
        "outside, to NaN density": (-1.0, 4.0, None, False, True),
        "NaN density, to inside": (4.0, 2.9, None, True, False),
        "NaN density, to outside": (4.0, -1.0, None, False, False),
        "outside, proposal calls itself impossible": (-1.0, 2.9, worse, True, False),
        "inside, proposal calls itself impossible": (1.0, 0.5, worse, False, True),
        "inside, no way back": (
            1.0,
            0.5,
            lambda a, b: jnp.where(a < b, -jnp.inf, 0.0),
            False,
            False,
        ),
        "inside, NaN way back": (
            1.0,
            0.5,
            lambda a, b: jnp.where(a < b, jnp.nan, 0.0),
            False,
            True,
        ),
    }
    for name, (start, target, density, accepted, flagged) in cases.items():
        position, info = step(start, target, density)
        assert position == np.float32(target if accepted else start), name
        assert bool(info.is_accepted) == accepted, name
        assert bool(info.is_nonfinite) == bool(info.is_divergent) == flagged, name
        assert float(info.acceptance_rate) == float(accepted), name


def test_a_hopeless_proposal_is_never_accepted():
    """Log ratio -50: none of two million, where a uniform number that is exactly 0 would."""
    kernel = metropolis_hastings(lambda x: -50.0 * x, lambda key, x: x + 1.0, symmetric=True)
    flags = jax.jit(
        lambda keys: jax.vmap(lambda key: mover(kernel)(key, jnp.zeros(()))[1].is_accepted)(keys)
    )(item_keys(jax.random.key(0), 2_000_000))
    assert int(flags.sum()) == 0


def test_gradient_through_a_refused_step_is_finite(reuse_keys):
    def loss(mean):
        kernel = metropolis_hastings(
            lambda x: jnp.where(x < 0, -jnp.inf, -0.5 * (x - mean) ** 2),
            lambda key, x: x - 2.0,
            symmetric=True,
        )
        state, info = kernel.step(jax.random.key(0), kernel.init(jnp.asarray(1.0)))
        return state.position + state.logdensity + info.acceptance_rate

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.3), 0.7, rtol=1e-6)


def test_keys_dtypes_and_errors(x64, reuse_keys):
    kernel = metropolis_hastings(lambda x: -jnp.sum(x**2), walk(1.0), symmetric=True)
    old, typed = (
        kernel.step(key, kernel.init(jnp.ones(2)))[0].position
        for key in (jax.random.PRNGKey(3), jax.random.key(3))
    )
    np.testing.assert_array_equal(old, typed)
    for dtype, working in ((jnp.float64, "float64"), (jnp.bfloat16, "float32")):
        state, info = kernel.step(jax.random.key(0), kernel.init(jnp.ones(2, dtype)))
        assert state.position.dtype.name == info.acceptance_rate.dtype.name == working

    f = lambda x: -jnp.sum(x**2)
    with pytest.raises(ValueError, match="proposal_logdensity_fn is missing.*symmetric=True"):
        metropolis_hastings(f, walk(1.0))
    with pytest.raises(ValueError, match="got both"):
        metropolis_hastings(f, walk(1.0), lambda a, b: f(a), symmetric=True)
    cases = [
        (f, lambda key, x: x[:1], ValueError, r"propose.* must have the shape of x, \(2,\)"),
        (f, lambda key, x: {"a": x}, ValueError, "must have the structure of x"),
        (f, lambda key, x: x.astype(jnp.float32), TypeError, "must have the dtype of x, float64"),
        (lambda x: -(x**2), walk(1.0), ValueError, r"logdensity_fn\(x\) must have shape \(\)"),
        (lambda x: 1, walk(1.0), TypeError, "must be a floating-point array"),
    ]
    for logdensity_fn, propose, error, message in cases:
        kernel = metropolis_hastings(logdensity_fn, propose, symmetric=True)
        with pytest.raises(error, match=message):
            jax.eval_shape(
                lambda key, k=kernel: k.step(key, k.init(jnp.ones(2))), jax.random.key(0)
            )
    with pytest.raises(ValueError, match="num_proposals must be at least 0"):
        rejection_sample(jax.random.key(0), f, jax.random.normal, f, 0.0, -1)


@pytest.mark.slow
def test_rejection_is_exact_and_counts_its_violations(reuse_keys):
    """Beta(3, 2), density 12 x^2 (1 - x), under M = 16/9 times the uniform one."""
    log_p = lambda x: jnp.log(12.0) + 2 * jnp.log(x) + jnp.log1p(-x)
    flat = lambda x: jnp.zeros_like(x)
    count = 40_000

    @functools.partial(jax.jit, static_argnames="log_p")
    def draw(log_p, log_m):
        return rejection_sample(jax.random.key(0), log_p, jax.random.uniform, flat, log_m, count)

    right = draw(log_p, np.log(16 / 9) + 1e-6)
    share = float(right.accepted.mean())
    assert abs(share - 9 / 16) < 5 * np.sqrt(share * (1 - share) / count)
    assert int(right.violations) == 0
    kept = np.asarray(right.samples)[np.asarray(right.accepted)]
    checks.check_uniform(stats.beta.cdf(kept, 3, 2)[:, None])

    low = draw(log_p, np.log(1.2))
    x = np.asarray(right.samples, np.float64)
    assert int(low.violations) == (12 * x**2 * (1 - x) > 1.2).sum()
    with pytest.raises(AssertionError):
        kept = np.asarray(low.samples)[np.asarray(low.accepted)]
        checks.check_uniform(stats.beta.cdf(kept, 3, 2)[:, None])

    holed = draw(lambda x: jnp.where(x > 0.9, jnp.nan, log_p(x)), np.log(16 / 9) + 1e-6)
    assert int(holed.violations) == (np.asarray(holed.samples) > 0.9).sum()
    assert not np.asarray(holed.accepted)[np.asarray(holed.samples) > 0.9].any()

    fewer = rejection_sample(jax.random.key(0), log_p, jax.random.uniform, flat, 0.6, 3)
    np.testing.assert_array_equal(fewer.samples, right.samples[:3])


@pytest.mark.slow
def test_rejection_mutants_die():
    """Accepting with p / q alone, or with M the wrong way up, is not Beta(3, 2)."""
    log_p = lambda x: jnp.log(12.0) + 2 * jnp.log(x) + jnp.log1p(-x)
    flat = lambda x: jnp.zeros_like(x)
    run = jax.jit(
        lambda log_m: rejection_sample(
            jax.random.key(1), log_p, jax.random.uniform, flat, log_m, 20_000
        )
    )
    for log_m in (0.0, -np.log(16 / 9)):
        draws = run(log_m)
        kept = np.asarray(draws.samples)[np.asarray(draws.accepted)]
        with pytest.raises(AssertionError):
            checks.check_uniform(stats.beta.cdf(kept, 3, 2)[:, None])


def test_sharded_chains_are_the_same_and_exchange_nothing(reuse_keys):
    """One start for all chains on all devices passes the default VMA check."""
    propose, density = drifting(1.0)
    exact = checks.TARGETS["normal"]
    kernel = metropolis_hastings(exact.logdensity_fn, propose, density)

    def one(key):
        state, info, _ = scan_steps(key, kernel.step, kernel.init(jnp.zeros(2)), 20)
        return state.position, info.num_grad_evals

    keys = item_keys(jax.random.key(0), 8)
    together, _ = jax.jit(jax.vmap(one))(keys)
    mesh = jax.make_mesh((4,), ("chains",), (AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("chains")
    mapped = jax.jit(jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(keys)[0], together, rtol=1e-4, atol=1e-5)
    text = mapped.lower(keys).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_rejection_weighs_by_a_proposal_that_is_not_flat(reuse_keys):
    """An exponential law of rate 2 under M = 2 times that of rate 1: half is accepted."""
    count = 4000
    drawn = rejection_sample(
        jax.random.key(0),
        lambda x: jnp.log(2.0) - 2 * x,
        jax.random.exponential,
        lambda x: -x,
        np.log(2.0) + 1e-6,
        count,
    )
    assert abs(float(drawn.accepted.mean()) - 0.5) < 5 * 0.5 / np.sqrt(count)
    assert int(drawn.violations) == 0
    kept = np.asarray(drawn.samples)[np.asarray(drawn.accepted)]
    assert abs(kept.mean() - 0.5) < 5 * kept.std() / np.sqrt(kept.size)
