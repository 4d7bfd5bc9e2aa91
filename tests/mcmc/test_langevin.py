"""Langevin dynamics against its own exact recursion, BlackJAX and mutants."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax.core.keys import item_keys, row_normal, step_key
from probjax.mcmc.driver import row_step_key, scan_steps
from probjax.mcmc.langevin import annealed_langevin, sample_annealed, ula


def affine_step(kernel, position_shape=(1, 1), index=0):
    """Slope a, and spread c, of a one-dimensional kernel that is x -> a x + c z."""
    key = jax.random.key(0)

    def move(x):
        state = kernel.init(x)
        state = state if index == 0 else state._replace(step=jnp.asarray(index, jnp.int32))
        return kernel.step(jax.random.clone(key), state)[0].position

    zero, one = jnp.zeros(position_shape), jnp.ones(position_shape)
    noise = row_normal(jax.random.clone(key), zero)
    return float((move(one) - move(zero))[0, 0]), float((move(zero) / noise)[0, 0])


def stationary(slope, spread):
    return spread**2 / (1 - slope**2)


@pytest.mark.parametrize("convention", ["blackjax", "song"])
@pytest.mark.parametrize("variance, step_size", [(4.0, 0.8), (1.0, 0.1)])
def test_stationary_variance_of_the_discrete_chain(
    x64, reuse_keys, convention, variance, step_size
):
    slope, spread = affine_step(ula(lambda x: -x / variance, step_size, convention=convention))
    h = step_size if convention == "blackjax" else step_size / 2
    expected = variance / (1 - h / (2 * variance))
    np.testing.assert_allclose(stationary(slope, spread), expected, rtol=1e-12)
    known = {
        (4.0, 0.8, "blackjax"): 4.4444,
        (4.0, 0.8, "song"): 4.2105,
        (1.0, 0.1, "blackjax"): 20 / 19,
    }
    if (variance, step_size, convention) in known:
        assert abs(expected - known[variance, step_size, convention]) < 1e-4


def variance_after(kernel, num_steps, start):
    """The exact variance of a linear one-dimensional annealed kernel, step by step."""
    history = [start]
    for index in range(num_steps):
        slope, spread = affine_step(kernel, index=index)
        history.append(slope**2 * history[-1] + spread**2)
    return np.array(history)


def gaussian_score(x, noise_scale):
    return -x / (1.0 + noise_scale**2)


def recursion(noise_scales, num_steps_per_level, epsilon, start):
    """Variance of annealed chains on data N(0, 1), by hand."""
    variance = start
    for scale in noise_scales:
        a = epsilon * scale**2 / noise_scales[-1] ** 2
        for _ in range(num_steps_per_level):
            variance = (1 - a / 2 / (1 + scale**2)) ** 2 * variance + a
    return variance


def annealing_gap(make):
    """Largest error of a kernel's variances against the recursion, over every step."""
    scales, epsilon, num_steps_per_level = np.array([2.0, 0.7, 0.3]), 0.05, 2
    kernel = make(gaussian_score, scales, num_steps_per_level, epsilon)
    got = variance_after(kernel, 7, 9.0)
    want = [9.0]
    for count in range(1, 7):
        variance = 9.0
        for t in range(count):
            scale = scales[t // 2]
            a = epsilon * scale**2 / scales[-1] ** 2
            variance = (1 - a / 2 / (1 + scale**2)) ** 2 * variance + a
        want.append(variance)
    want.append(want[-1] / (1 + scales[-1] ** 2) ** 2)
    return np.abs(got / np.array(want) - 1).max()


def make_ours(score_fn, noise_scales, num_steps_per_level, epsilon):
    return annealed_langevin(
        score_fn, noise_scales, num_steps_per_level=num_steps_per_level, epsilon=epsilon
    )


def test_annealed_variance_follows_the_recursion_at_every_step(x64, reuse_keys):
    assert annealing_gap(make_ours) < 1e-12


def scaled_steps(drift=1.0, spread=1.0, follows=True):
    """A mutant: the same schedule with other sizes of drift or noise."""

    def make(score_fn, noise_scales, num_steps_per_level, epsilon):
        kernel = make_ours(score_fn, noise_scales, num_steps_per_level, epsilon)

        def step(key, state):
            x = state.position
            noise = row_normal(key, x)
            index = int(state.step)
            new, info = kernel.step(key, state)
            if index >= num_steps_per_level * len(noise_scales):
                return new, info
            scale = noise_scales[index // num_steps_per_level]
            a = epsilon * scale**2 / noise_scales[-1] ** 2
            size = a if follows else epsilon
            moved = x + drift * a / 2 * score_fn(x, scale) + spread * np.sqrt(size) * noise
            return new._replace(position=moved), info

        return blackjax.base.SamplingAlgorithm(kernel.init, step)

    return make


MUTANTS = {
    "noise of epsilon instead of a": scaled_steps(follows=False),
    "drift a for a / 2": scaled_steps(drift=2.0),
    "noise sqrt(2 a)": scaled_steps(spread=np.sqrt(2)),
    "flipped score": lambda s, *rest: make_ours(lambda x, c: -s(x, c), *rest),
    "scale one level late": lambda s, c, n, e: make_ours(s, np.append(c[0] + 1, c[:-1]), n, e),
    "last step on the level before": lambda s, c, n, e: make_ours(s, c[:-1], n, e),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_recursion_kills(x64, reuse_keys, name):
    assert annealing_gap(scaled_steps()) < 1e-12
    assert annealing_gap(MUTANTS[name]) > 1e-3


def test_published_numbers_of_the_schedule():
    """Data N(0, 1), ten geometric scales 10 to 0.1, a hundred steps each."""
    scales = 10 * 0.01 ** (np.arange(10) / 9)
    variance = recursion(scales, 100, 2e-3, 100.0)
    assert abs(variance - 1.068322) < 1e-6
    assert abs(variance / 1.01**2 - 1.047272) < 1e-6


def test_a_level_keeps_its_own_variance_and_the_posts_noise_does_not(x64, reuse_keys):
    """One step on N(0, scale^2), epsilon 0.01, last scale 1: scale^2 / (1 - 0.0025)."""
    kernel = annealed_langevin(
        lambda x, c: -x / c**2, np.array([20.0, 1.0]), num_steps_per_level=1, epsilon=0.01
    )
    slope, spread = affine_step(kernel)
    np.testing.assert_allclose(stationary(slope, spread), 400 / (1 - 0.0025), rtol=1e-12)
    assert abs(stationary(slope, spread) - 401.00) < 0.01
    assert abs(stationary(slope, np.sqrt(0.01)) - 1.0025) < 1e-4


@pytest.mark.slow
def test_two_modes_get_their_weights_back():
    """Plain Langevin keeps the weights of its start; annealing finds 0.2 and 0.8."""
    centres = jnp.array([[-5.0, -5.0], [5.0, 5.0]])
    logs = jnp.log(jnp.array([0.2, 0.8]))

    def score_fn(x, noise_scale):
        away = x[:, None] - centres[None]
        total = 1 + noise_scale**2
        shares = jax.nn.softmax(logs[None] - 0.5 * (away**2).sum(-1) / total, axis=-1)
        return -(shares[..., None] * away).sum(1) / total

    chains = 2048
    start = jax.random.uniform(jax.random.key(0), (chains, 2), minval=-8.0, maxval=8.0)
    scales = jnp.asarray(20 * (0.7 / 20) ** (np.arange(10) / 9), jnp.float32)

    @jax.jit
    def run(key, x):
        return sample_annealed(
            key, score_fn, x, scales, num_steps_per_level=100, epsilon=0.1, denoise_last=False
        )

    x, info = run(jax.random.key(1), start)
    weight = float((x.sum(-1) < 0).mean())
    error = np.sqrt(weight * (1 - weight) / chains)
    assert abs(weight - 0.2) < 0.025 + 3 * error
    assert bool(info.is_accepted.all())
    assert int(info.num_grad_evals[0]) == 1000

    plain = ula(lambda y: score_fn(y, jnp.zeros((), y.dtype)), 0.1)
    state, _, _ = jax.jit(lambda key, x: scan_steps(key, plain.step, plain.init(x), 300))(
        jax.random.key(2), start
    )
    assert abs(float((state.position.sum(-1) < 0).mean()) - 0.2) > 0.2


def test_equal_to_blackjax_sgld(reuse_keys):
    """The scale is handed to SGLD as its minibatch, half of a as its step size."""
    scales, epsilon, x = jnp.array([2.0, 0.5]), 0.05, jnp.array([0.3, -1.0])
    kernel = annealed_langevin(gaussian_score, scales, num_steps_per_level=3, epsilon=epsilon)
    sgld = blackjax.sgld(gaussian_score)
    state, position = kernel.init(x), sgld.init(x)
    one, two = jax.jit(kernel.step), jax.jit(sgld.step)
    for t in range(6):
        key, scale = step_key(jax.random.key(4), t), np.asarray(scales)[t // 3]
        state, _ = one(key, state)
        position = two(key, position, scale, 0.5 * epsilon * (scale / np.float32(0.5)) ** 2)
        np.testing.assert_allclose(state.position, position, rtol=1e-6)

    plain, plain_state = ula(lambda y: -y, 0.1), ula(lambda y: -y, 0.1).init(x)
    sgld = blackjax.sgld(lambda y, _: -y)
    moved = sgld.step(jax.random.key(5), x, None, 0.1)
    np.testing.assert_allclose(
        plain.step(jax.random.key(5), plain_state)[0].position, moved, rtol=1e-6
    )


def test_preconditioning_is_a_linear_change_of_space(x64, reuse_keys):
    matrix = jnp.array([[2.0, 0.6], [0.6, 0.5]])
    root = jnp.linalg.cholesky(matrix)
    precision = jnp.array([[1.5, -0.4], [-0.4, 3.0]])
    x = jnp.array([[1.0, -2.0], [0.3, 0.7]])

    def score_fn(y):
        return -jnp.tensordot(y, precision, axes=1) - 0.1 * y**3

    def pulled(y):
        return jnp.tensordot(score_fn(jnp.tensordot(y, root.T, axes=1)), root, axes=1)

    there = ula(score_fn, 0.05, preconditioner=matrix)
    here = ula(pulled, 0.05)

    def mover(kernel):
        return jax.jit(lambda key, x: kernel.step(key, kernel.init(x))[0].position)

    one, two = mover(there), mover(here)
    y = np.linalg.solve(root, x.T).T
    for t in range(3):
        key = step_key(jax.random.key(0), t)
        x, y = one(key, x), two(key, y)
        np.testing.assert_allclose(x, y @ np.asarray(root).T, atol=1e-12)

    diagonal = ula(score_fn, 0.05, preconditioner=jnp.array([2.0, 0.5]))
    dense = ula(score_fn, 0.05, preconditioner=jnp.diag(jnp.array([2.0, 0.5])))
    ends = [mover(kernel)(jax.random.key(1), x) for kernel in (diagonal, dense)]
    np.testing.assert_allclose(*ends, atol=1e-12)


def test_nonfinite_proposals_are_refused_flagged_and_do_no_harm(reuse_keys):
    """Beyond 1 the score is NaN: the wall refuses, the chains stay finite, rows stay apart."""

    def score_fn(x):
        return jnp.where(x > 1, jnp.nan, -x)

    kernel = ula(score_fn, 0.5)
    start = kernel.init(jnp.full((200, 1), 0.9))
    state, info = jax.jit(kernel.step)(jax.random.key(0), start)
    assert np.isfinite(state.position).all() and np.isfinite(state.score).all()
    refused = np.asarray(info.is_nonfinite)
    assert 0 < refused.sum() < 200
    np.testing.assert_array_equal(np.asarray(state.position)[refused], np.float32(0.9))
    np.testing.assert_array_equal(info.is_accepted, ~refused)
    np.testing.assert_array_equal(info.is_divergent, refused)
    np.testing.assert_array_equal(info.acceptance_rate, (~refused).astype(np.float32))
    np.testing.assert_array_equal(info.num_grad_evals, np.ones(200))
    run = jax.jit(lambda key, start: scan_steps(key, kernel.step, start, 20)[:2])
    last, totals = run(jax.random.key(0), start)
    assert np.isfinite(last.position).all() and np.asarray(totals.is_nonfinite).any()

    @jax.jit
    def annealed(x):
        return sample_annealed(
            jax.random.key(1),
            lambda y, c: jnp.where(y > 50, jnp.nan, gaussian_score(y, c)),
            x,
            np.array([1.0, 0.5]),
            num_steps_per_level=3,
            epsilon=0.1,
        )

    clean = jnp.array([[0.5], [1.0], [-1.0]])
    good, _ = annealed(clean)
    broken, info = annealed(clean.at[1].set(100.0))
    np.testing.assert_array_equal(info.is_nonfinite, [False, True, False])
    np.testing.assert_array_equal(info.acceptance_rate, [1, 0, 1])
    assert float(broken[1, 0]) == 100.0
    np.testing.assert_array_equal(broken[::2], good[::2])


def test_steps_past_the_end_hold(reuse_keys):
    kernel = annealed_langevin(
        gaussian_score, np.array([1.0, 0.5]), num_steps_per_level=2, epsilon=0.1
    )
    state, totals, kept = scan_steps(
        jax.random.key(0),
        kernel.step,
        kernel.init(jnp.ones((3, 2))),
        8,
        trace_fn=lambda state, info: (state.position, info.is_accepted),
    )
    np.testing.assert_array_equal(kept[0][4], kept[0][7])
    assert bool((kept[0][3] != kept[0][4]).all())
    np.testing.assert_array_equal(kept[1].all(-1), [True] * 5 + [False] * 3)
    np.testing.assert_array_equal(totals.num_grad_evals, [5, 5, 5])
    run, info = sample_annealed(
        jax.random.key(0),
        gaussian_score,
        jnp.ones((3, 2)),
        np.array([1.0, 0.5]),
        num_steps_per_level=2,
        epsilon=0.1,
    )
    np.testing.assert_array_equal(run, state.position)
    assert bool(info.is_accepted.all()) and info.num_grad_evals.tolist() == [5, 5, 5]


def test_inpainting_conditions_a_correlated_gaussian():
    """Correlation 0.9 and the first entry known to be 1: mean near 0.9, variance near 0.19."""
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])

    def score_fn(x, noise_scale):
        noised = jnp.asarray(covariance, x.dtype) + noise_scale**2 * jnp.eye(2, dtype=x.dtype)
        return -jnp.tensordot(x, jnp.linalg.inv(noised), axes=1)

    chains = 2000
    y = jnp.array([[1.0, jnp.nan]])
    x, info = jax.jit(
        lambda key, x: sample_annealed(
            key,
            score_fn,
            x,
            np.array([3.0, 1.0, 0.3, 0.1]),
            num_steps_per_level=60,
            epsilon=0.004,
            inpaint=(jnp.array([[True, False]]), y),
        )
    )(jax.random.key(0), jnp.zeros((chains, 2)))
    assert not bool(info.is_nonfinite.any())
    np.testing.assert_array_equal(x[:, 0], 1.0)
    # At the smallest level the known entry still carries its noise: slope 0.9 / 1.01 to 0.9.
    mean, spread = float(x[:, 1].mean()), float(x[:, 1].std())
    assert abs(mean - 0.9) < 0.03 + 4 * spread / np.sqrt(chains)
    assert 0.1 < spread**2 < 0.3


def test_bad_arguments_are_named():
    scales = np.array([1.0, 0.5])
    with pytest.raises(ValueError, match=r"noise_scales\[1\]=2\.0 is not below"):
        make_ours(gaussian_score, np.array([1.0, 2.0]), 1, 0.1)
    with pytest.raises(ValueError, match=r"epsilon must be below 4 \* noise_scales\[-1\]\*\*2 = 1"):
        make_ours(gaussian_score, scales, 1, 1.0)
    with pytest.raises(ValueError, match="num_steps_per_level must be at least 1, got 0"):
        make_ours(gaussian_score, scales, 0, 0.1)
    with pytest.raises(ValueError, match=r"step_size must be positive and finite, got -0\.1"):
        ula(lambda x: -x, -0.1)
    with pytest.raises(ValueError, match="convention must be one of"):
        ula(lambda x: -x, 0.1, convention="langevin")
    with pytest.raises(ValueError, match="positive definite"):
        ula(lambda x: -x, 0.1, preconditioner=np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(TypeError, match="mask must be boolean"):
        annealed_langevin(
            gaussian_score,
            scales,
            num_steps_per_level=1,
            epsilon=0.1,
            inpaint=(jnp.ones(2), jnp.ones(2)),
        )
    with pytest.raises(ValueError, match="must have the shape of x"):
        ula(lambda x: x[..., 0], 0.1).init(jnp.zeros((3, 2)))


WEIGHTS = np.array([[0.3, -0.2, 0.1], [0.5, 0.1, -0.4], [-0.1, 0.2, 0.3]], np.float32)


def network_score(x, noise_scale):
    return (jnp.tanh(jnp.tensordot(x, jnp.asarray(WEIGHTS), axes=1)) - x) / (1 + noise_scale**2)


def one_chain(key):
    return sample_annealed(
        key,
        network_score,
        jnp.zeros(3),
        np.array([2.0, 1.0, 0.5], np.float32),
        num_steps_per_level=4,
        epsilon=0.05,
    )


@pytest.mark.slow
def test_chains_are_the_same_alone_in_a_batch_and_on_devices(reuse_keys):
    """A constant start and a key per chain pass the default VMA check without a collective."""
    keys = item_keys(jax.random.key(0), 8)
    together, info = jax.jit(jax.vmap(one_chain))(keys)
    assert info.num_grad_evals.tolist() == [13] * 8
    alone = jax.jit(one_chain)(keys[5])[0]
    np.testing.assert_allclose(alone, together[5], rtol=1e-6)
    ladder = np.array([2.0, 1.0, 0.5], np.float32)
    rows, _ = jax.jit(
        lambda keys: sample_annealed(
            keys, network_score, jnp.zeros((8, 3)), ladder, num_steps_per_level=4, epsilon=0.05
        )
    )(keys)
    np.testing.assert_allclose(rows, together, rtol=2e-6)
    for num_devices in (1, 2, 4, 8):
        mesh = jax.make_mesh(
            (num_devices,), ("chains",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        spec = PartitionSpec("chains")
        mapped = jax.jit(
            jax.shard_map(jax.vmap(one_chain), mesh=mesh, in_specs=spec, out_specs=spec)
        )
        np.testing.assert_allclose(mapped(keys)[0], together, rtol=2e-6)
    text = mapped.lower(keys).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_the_run_is_one_loop_and_differentiable(reuse_keys):
    def loss(slope, num_steps_per_level=3):
        x, _ = sample_annealed(
            jax.random.key(0),
            lambda x, c: -slope * x / (1 + c**2),
            jnp.ones((2, 2)),
            np.array([1.0, 0.5], np.float32),
            num_steps_per_level=num_steps_per_level,
            epsilon=0.1,
        )
        return (x**2).sum()

    jitted, step = jax.jit(loss, static_argnums=1), 1e-2
    numeric = (float(jitted(1 + step)) - float(jitted(1 - step))) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), numeric, rtol=1e-2)
    sizes = [len(jitted.lower(1.0, n).as_text().splitlines()) for n in (3, 300)]
    assert sizes[0] == sizes[1]


def test_narrow_positions_come_back_in_their_dtype():
    x, _ = sample_annealed(
        jax.random.key(0),
        gaussian_score,
        jnp.ones((2, 2), jnp.bfloat16),
        np.array([1.0, 0.5]),
        num_steps_per_level=1,
        epsilon=0.1,
    )
    assert x.dtype == jnp.bfloat16
    state = ula(lambda x: -x, 0.1).init(jnp.ones(2, jnp.bfloat16))
    assert state.position.dtype == jnp.float32
    assert row_step_key(item_keys(jax.random.key(0), 4).reshape(2, 2), 3).shape == (2, 2)
