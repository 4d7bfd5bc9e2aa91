"""Samplers against exact laws, orders of convergence and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax.core.keys import item_keys, row_normal, step_key
from probjax.diffusion.exact import gaussian_denoiser, gmm_denoiser
from probjax.diffusion.grids import geometric_noise_scales, karras_noise_scales
from probjax.diffusion.samplers import ancestral, ddim, heun, sample

MEAN, VARIANCES = np.array([1.0, -2.0, 0.5]), np.array([4.0, 1.0, 0.25])


def diagonal_gaussian(x, noise_scale):
    mean, variance = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, VARIANCES))
    return mean + variance / (variance + noise_scale**2) * (x - mean)


def flow_slope(make, counts=(128, 256)):
    """Global order on a Gaussian, noise scales 2 to 0.1 uniform in the logarithm."""
    x = jnp.array([[3.0, 0.5, -1.0]])
    exact = MEAN + np.sqrt((VARIANCES + 0.01) / (VARIANCES + 4.0)) * (np.asarray(x) - MEAN)
    errors = []
    for n in counts:
        scales = geometric_noise_scales(n + 1, 0.1, 2.0)
        result = sample(jax.random.key(0), make(scales), x, n)
        errors.append(np.abs(np.asarray(result.x) - exact).max())
    return np.log2(errors[-2] / errors[-1])


def make_ddim(scales):
    return ddim(diagonal_gaussian, scales, final="keep")


def make_heun(scales):
    return heun(diagonal_gaussian, scales, final="keep")


def test_orders(x64):
    assert abs(flow_slope(make_ddim) - 1.0) < 0.1
    assert abs(flow_slope(make_heun) - 2.0) < 0.1


def heun_mutant(kind):
    """Heun's rule with one deliberate fault."""

    def make(scales):
        algorithm = make_heun(scales)

        def step(key, state):
            x, here, there = state.x, scales[state.i], scales[state.i + 1]
            slope = (x - diagonal_gaussian(x, here)) / here
            euler = x + (there - here) * slope
            at = here if kind == "old scale" else there
            second = (euler - diagonal_gaussian(euler, at)) / at
            base = euler if kind == "added to the Euler point" else x
            moved = base + 0.5 * (there - here) * (slope + second)
            new, info = algorithm.step(key, state)
            return new._replace(x=moved), info

        return algorithm._replace(step=step)

    return make


@pytest.mark.slow
def test_order_kills(x64):
    assert abs(flow_slope(heun_mutant("none")) - 2.0) < 0.1
    assert not abs(flow_slope(heun_mutant("old scale")) - 2.0) < 0.1
    assert not abs(flow_slope(heun_mutant("added to the Euler point")) - 2.0) < 0.1


@pytest.mark.parametrize("make", [ddim, heun])
def test_a_constant_denoiser_is_exact_in_one_step(x64, make):
    x, clean = jnp.array([[4.0, -1.0]]), jnp.array([[1.0, 2.0]])
    algorithm = make(lambda y, c: clean, np.array([2.0, 1.0]), final="keep")
    state, _ = algorithm.step(jax.random.key(0), algorithm.init(x))
    np.testing.assert_allclose(state.x, clean + (x - clean) / 2, rtol=1e-15)
    alphas = np.array([0.5, 0.8])
    algorithm = make(lambda y, c: clean, np.array([2.0, 1.0]), alphas=alphas, final="keep")
    state, _ = algorithm.step(jax.random.key(0), algorithm.init(x))
    np.testing.assert_allclose(state.x, 0.8 * clean + (x - 0.5 * clean) / 2, rtol=1e-14)
    algorithm = make(lambda y, c: clean, np.array([2.0, 1.0]))
    result = sample(jax.random.key(0), algorithm, x, 2)
    np.testing.assert_array_equal(result.x, clean)


def ancestral_variance(algorithm, num_steps, variance):
    """Exact variance of a linear sampler, from the slope and spread of each step."""
    for t in range(num_steps):
        key = step_key(jax.random.key(0), t)

        def move(x, key=key, t=t):
            state = algorithm.init(x)._replace(i=jnp.asarray(t, jnp.int32))
            return algorithm.step(key, state)[0].x

        zero = jnp.zeros((1, 1))
        slope = float((move(zero + 1) - move(zero))[0, 0])
        spread = float((move(zero) / row_normal(key, zero))[0, 0])
        variance = slope**2 * variance + spread**2
    return variance


def quarter(x, noise_scale):
    return 0.25 / (0.25 + noise_scale**2) * x


@pytest.mark.slow
def test_exact_law_of_ancestral_sampling(x64, reuse_keys):
    """Data N(0, 1/4), ten Karras scales: 0.0911..., far from 0.25."""
    algorithm = ancestral(quarter, karras_noise_scales(10), final="keep")
    got = ancestral_variance(algorithm, 9, 0.25 + 80.0**2)
    assert abs(got - 0.0911361926920368) < 1e-12

    draws = 20_000
    start = np.sqrt(0.25 + 80.0**2) * jax.random.normal(jax.random.key(1), (draws, 1))
    x = sample(jax.random.key(2), algorithm, start, 9).x
    assert abs(float((x**2).mean()) / got - 1) < 4 * np.sqrt(2 / draws)


def test_ancestral_is_its_formula_and_ddim_with_eta_one(x64, reuse_keys):
    scales = np.array([3.0, 1.0, 0.4])
    x = jax.random.normal(jax.random.key(0), (5, 3)) * 3
    one, two = ancestral(diagonal_gaussian, scales), ddim(diagonal_gaussian, scales, eta=1.0)
    a, b, c = one.init(x), two.init(x), x
    for t in range(2):
        key = step_key(jax.random.key(1), t)
        a, b = one.step(key, a)[0], two.step(key, b)[0]
        high, low = scales[t], scales[t + 1]
        score = (diagonal_gaussian(c, high) - c) / high**2
        spread = low / high * np.sqrt(high**2 - low**2)
        c = c + (high**2 - low**2) * score + spread * row_normal(key, c)
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_allclose(a.x, c, rtol=1e-13)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_keeps_the_marginal_when_the_data_are_one_point(x64, reuse_keys, eta):
    """Then D is exact and the next level's law is N(alpha x0, noise_scale^2) at any eta."""
    x0, scales, alphas = 1.5, np.array([0.9, 0.5]), np.array([0.4, 0.85])
    algorithm = ddim(
        lambda x, c: jnp.full_like(x, x0), scales, alphas=alphas, eta=eta, final="keep"
    )
    key = jax.random.key(0)

    def move(x):
        return float(algorithm.step(key, algorithm.init(jnp.full((1, 1), x)))[0].x[0, 0])

    slope = move(1.0) - move(0.0)
    spread = 0.0
    if eta:
        noise = float(row_normal(key, jnp.zeros((1, 1)))[0, 0])
        ratio = alphas[0] * scales[1] / (alphas[1] * scales[0])
        spread = eta * scales[1] * np.sqrt(1 - ratio**2)
        offset = move(alphas[0] * x0) - spread * noise
    else:
        offset = move(alphas[0] * x0)
    np.testing.assert_allclose(offset, alphas[1] * x0, rtol=1e-13)
    np.testing.assert_allclose(slope**2 * scales[0] ** 2 + spread**2, scales[1] ** 2, rtol=1e-13)


@pytest.mark.parametrize("name", ["ddim", "ancestral", "heun"])
def test_variance_preserving_is_variance_exploding_rescaled(x64, reuse_keys, name):
    """x / alpha of the one walks as x of the other, at noise_scale / alpha, step for step."""
    make = {"ddim": ddim, "ancestral": ancestral, "heun": heun}[name]
    sigma = np.array([0.95, 0.7, 0.3, 0.05])
    alphas = np.sqrt(1 - sigma**2)

    def preserving(x, noise_scale):
        alpha = jnp.sqrt(1 - noise_scale**2)
        return diagonal_gaussian(x / alpha, noise_scale / alpha)

    vp = make(preserving, sigma, alphas=alphas)
    ve = make(diagonal_gaussian, sigma / alphas)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    a, b = vp.init(x), ve.init(x / alphas[0])
    after = [*alphas[1:], 1.0]
    for t in range(4):
        key = step_key(jax.random.key(1), t)
        a, b = vp.step(key, a)[0], ve.step(key, b)[0]
        np.testing.assert_allclose(a.x / after[t], b.x, rtol=1e-12)


def test_exact_denoisers(x64):
    covariance = jnp.array([[2.0, 0.6], [0.6, 0.5]])
    mean = jnp.array([1.0, -2.0])
    x, scales = jnp.array([[0.3, 1.0], [-2.0, 4.0]]), jnp.array([0.5, 2.0])
    got = gaussian_denoiser(mean, covariance)(x, scales)
    for i in range(2):
        gain = np.linalg.solve(np.asarray(covariance) + scales[i] ** 2 * np.eye(2), x[i] - mean)
        np.testing.assert_allclose(got[i], mean + covariance @ gain, rtol=1e-12)

    means = jnp.array([[-1.0, 0.0], [2.0, 1.0]])
    spreads, weights = jnp.array([0.5, 0.1]), jnp.array([0.3, 0.7])

    def log_density(y, scale):
        total = spreads**2 + scale**2
        squares = ((y[None] - means) ** 2).sum(-1)
        return jax.nn.logsumexp(jnp.log(weights) - jnp.log(total) - 0.5 * squares / total)

    got = gmm_denoiser(means, spreads, weights)(x, scales)
    want = x + scales[:, None] ** 2 * jax.vmap(jax.grad(log_density))(x, scales)
    np.testing.assert_allclose(got, want, atol=1e-12)


WEIGHTS = np.array([[0.3, -0.2, 0.1], [0.5, 0.1, -0.4], [-0.1, 0.2, 0.3]], np.float32)
GRID = np.array([4.0, 1.0, 0.3, 0.1], np.float32)


def network(x, noise_scale):
    return jnp.tanh(jnp.tensordot(x, jnp.asarray(WEIGHTS, x.dtype), axes=1)) / (1 + noise_scale)


ALGORITHMS = {
    "ddim": lambda: ddim(network, GRID),
    "ddim eta": lambda: ddim(network, GRID, eta=0.5),
    "ancestral": lambda: ancestral(network, GRID),
    "heun": lambda: heun(network, GRID),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_rows_stand_alone_everywhere(reuse_keys, name):
    algorithm = ALGORITHMS[name]()
    keys, x = item_keys(jax.random.key(0), 8), 4 * jax.random.normal(jax.random.key(1), (8, 3))

    def run(keys, x):
        return sample(keys, algorithm, x, 4)

    jitted = jax.jit(run)
    whole = jitted(keys, x)
    assert int(whole.num_evaluations) == (7 if name == "heun" else 4)
    assert whole.trajectory is None and not bool(whole.is_nonfinite.any())
    back = jitted(keys[::-1], x[::-1]).x[::-1]
    np.testing.assert_allclose(back, whole.x, rtol=1e-5, atol=1e-6)
    broken = jitted(keys, x.at[3, 1].set(jnp.nan))
    np.testing.assert_array_equal(broken.is_nonfinite, np.arange(8) == 3)
    np.testing.assert_array_equal(np.delete(broken.x, 3, 0), np.delete(whole.x, 3, 0))
    assert sample(keys[:0], algorithm, x[:0], 4).x.shape == (0, 3)

    mapped_rows = jax.jit(jax.vmap(run))(keys, x)
    np.testing.assert_allclose(mapped_rows.x, whole.x, rtol=1e-5, atol=1e-6)
    for num_devices in (1, 2, 4, 8):
        mesh = jax.make_mesh(
            (num_devices,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        spec = PartitionSpec("rows")
        mapped = jax.jit(
            jax.shard_map(lambda keys, x: run(keys, x).x, mesh=mesh, in_specs=spec, out_specs=spec)
        )
        np.testing.assert_allclose(mapped(keys, x), whole.x, rtol=1e-5, atol=1e-6)
    text = mapped.lower(keys, x).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_a_constant_start_with_a_key_per_device(reuse_keys):
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("rows")

    def one(key):
        return sample(key, ancestral(network, GRID), jnp.ones(3), 4).x

    keys = item_keys(jax.random.key(0), 4)
    mapped = jax.jit(jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(keys), jax.jit(jax.vmap(one))(keys), rtol=1e-5, atol=1e-6)


def test_trajectory_end_and_number_of_evaluations(reuse_keys):
    x = jnp.ones((2, 3), jnp.bfloat16)
    algorithm = heun(network, GRID)
    result = sample(jax.random.key(0), algorithm, x, 6, trajectory=True)
    assert result.x.dtype == jnp.bfloat16 and result.trajectory.shape == (6, 2, 3)
    np.testing.assert_array_equal(result.trajectory[3], result.x)  # held past the end
    assert int(result.num_evaluations) == 7
    kept = sample(jax.random.key(0), heun(network, GRID, final="keep"), x, 3)
    np.testing.assert_array_equal(kept.x, result.trajectory[2])
    assert int(kept.num_evaluations) == 6


def test_one_loop_whatever_the_number_of_steps(reuse_keys):
    def lines(n):
        algorithm = ddim(network, geometric_noise_scales(n, 0.1, 4.0))
        lowered = jax.jit(lambda x: sample(jax.random.key(0), algorithm, x, n).x).lower(
            jnp.ones((2, 3))
        )
        return len(lowered.as_text().splitlines())

    assert lines(4) == lines(200)


def test_gradients_are_finite(reuse_keys):
    for algorithm in (heun, ancestral):
        gradient = jax.grad(
            lambda a, algorithm=algorithm: (
                sample(
                    jax.random.key(0),
                    algorithm(lambda x, c: a * network(x, c), GRID),
                    jnp.ones((2, 3)),
                    4,
                ).x
                ** 2
            ).sum()
        )(1.0)
        assert np.isfinite(gradient) and gradient != 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"noise_scales\[3\]=0\.2 is not below noise_scales\[2\]"):
        ddim(network, np.array([1.0, 0.5, 0.2, 0.2]))
    with pytest.raises(ValueError, match=r"noise_scales\[1\] must be positive"):
        heun(network, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 1\.5"):
        ddim(network, GRID, eta=1.5)
    with pytest.raises(ValueError, match="final must be one of"):
        heun(network, GRID, final="zero")
    with pytest.raises(ValueError, match=r"alphas must have shape \(4,\)"):
        ddim(network, GRID, alphas=np.ones(3))
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        sample(jax.random.key(0), ddim(network, GRID), jnp.ones((1, 3)), 0)
    with pytest.raises(ValueError, match=r"denoiser\(x, noise_scale\) must have the shape of x"):
        sample(jax.random.key(0), ddim(lambda x, c: x[..., :1], GRID), jnp.ones((1, 3)), 1)
    with pytest.raises(ValueError, match="two entries at least"):
        ddim(network, np.array([1.0]), final="keep")
