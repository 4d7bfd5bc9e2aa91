"""Other weights and targets: closed forms by quadrature, the likelihood identity, mutants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import item_keys
from probjax.score.denoising import denoising_sm_from_noise, multi_noise_dsm_from_noise
from probjax.score.weighted import (
    likelihood_dsm,
    likelihood_dsm_from_noise,
    multiscale_dsm,
    multiscale_dsm_from_noise,
    target_sm,
    target_sm_from_noise,
)

LEVELS = np.array([2.0, 0.7, 0.3])


def hermite(num_nodes):
    """Nodes and weights of the standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes, weights / weights.sum()


def pairs(num_nodes):
    """Rows of clean points and noise `(n^2, 1)`, both standard normal, and their weights."""
    node, mass = hermite(num_nodes)
    clean, noise = np.repeat(node, num_nodes)[:, None], np.tile(node, num_nodes)[:, None]
    return clean, noise, np.outer(mass, mass).ravel()


def check_multiscale(objective, spread=1.3, reference=0.5):
    """For N(0, spread^2) and s = a y the minimiser is a ratio of sums over the levels."""
    clean, noise, mass = pairs(4)
    x = jnp.asarray(np.tile(spread * clean, (3, 1)))
    noise, mass = jnp.asarray(np.tile(noise, (3, 1))), jnp.asarray(np.tile(mass, 3) / 3)
    levels = jnp.repeat(jnp.arange(3), 16)

    def loss(a):
        return jnp.vdot(mass, objective(lambda y: a * y, x, noise, levels, reference))

    value, slope, curvature = jax.jit(
        lambda a: (loss(a), jax.grad(loss)(a), jax.grad(jax.grad(loss))(a))
    )(0.0)
    best = -3 / reference**2 / np.sum(1 + spread**2 / LEVELS**2)
    np.testing.assert_allclose(-slope / curvature, best, rtol=1e-12)
    np.testing.assert_allclose(value, 0.5 / reference**4, rtol=1e-12)


def multiscale(score_fn, x, noise, levels, reference):
    return multiscale_dsm_from_noise(
        score_fn, x, noise, levels, noise_scales=LEVELS, reference_noise_scale=reference
    )


def test_multiscale_minimiser_on_gaussian_data(x64):
    check_multiscale(multiscale)


def by_hand(weight, target):
    def objective(score_fn, x, noise, levels, reference):
        scale = jnp.asarray(LEVELS)[levels][:, None]
        residual = score_fn(x + scale * noise) + target(scale, noise, reference)
        return 0.5 * (weight(scale) * residual**2).sum(-1)

    return objective


MULTISCALE_MUTANTS = {
    "weight of the networks that see the level": by_hand(
        lambda s: s**2, lambda s, z, r: s * z / r**2
    ),
    "weight lost": by_hand(lambda s: 1.0, lambda s, z, r: s * z / r**2),
    "target of each level": by_hand(lambda s: 1 / s**2, lambda s, z, r: z / s),
    "scale for its square": by_hand(lambda s: 1 / s**2, lambda s, z, r: s * z / r),
    "flipped sign": by_hand(lambda s: 1 / s**2, lambda s, z, r: -s * z / r**2),
    "lost half": by_hand(lambda s: 2 / s**2, lambda s, z, r: s * z / r**2),
}


@pytest.mark.slow
def test_the_multiscale_check_kills(x64):
    check_multiscale(by_hand(lambda s: 1 / s**2, lambda s, z, r: s * z / r**2))
    for mutant in MULTISCALE_MUTANTS.values():
        with pytest.raises(AssertionError):
            check_multiscale(mutant)


def test_one_level_is_denoising(x64):
    x, noise = np.random.default_rng(0).normal(size=(2, 5, 3))
    ours = multiscale_dsm_from_noise(
        jnp.sin, x := jnp.asarray(x), noise := jnp.asarray(noise), jnp.zeros(5, int),
        noise_scales=np.array([0.4]), reference_noise_scale=0.4,
    )  # fmt: skip
    plain = denoising_sm_from_noise(jnp.sin, x, noise, noise_scale=0.4)
    np.testing.assert_allclose(ours, plain / 0.4**2, rtol=1e-12)


def check_likelihood(objective, spread=1.5, model=0.6):
    """Excess over the true score = KL(data, model) at clean data less that at full noise.

    Data N(0, spread^2), model N(0, model^2), both diffused: drift f x, g^2, here of the
    variance-preserving kind with beta(t) = 1 + 3 t. Gauss-Legendre in time, Hermite in space.
    """
    clean, noise, mass = pairs(4)
    time, time_mass = np.polynomial.legendre.leggauss(60)
    time, time_mass = 0.5 * (time + 1), 0.5 * time_mass
    total = time + 1.5 * time**2
    alpha, scale, diffusion2 = np.exp(-total / 2), np.sqrt(-np.expm1(-total)), 1 + 3 * time

    def rows(values):
        return jnp.asarray(np.repeat(values, 16))

    mass = jnp.asarray(np.outer(time_mass, mass).ravel())
    x, noise = jnp.asarray(np.tile(spread * clean, (60, 1))), jnp.asarray(np.tile(noise, (60, 1)))
    alphas, scales = rows(alpha), rows(scale)

    def loss(width):
        variance = (alphas**2 * width**2 + scales**2)[:, None]
        values = objective(lambda y: -y / variance, x, noise, scales, rows(diffusion2), alphas)
        return jnp.vdot(mass, values)

    def divergence(alpha, scale):
        ratio = (alpha**2 * spread**2 + scale**2) / (alpha**2 * model**2 + scale**2)
        return 0.5 * (ratio - 1 - np.log(ratio))

    excess = float(jax.jit(lambda: loss(model) - loss(spread))())
    ends = divergence(1.0, 0.0) - divergence(np.exp(-1.25), np.sqrt(-np.expm1(-2.5)))
    assert abs(excess - ends) < 1e-8


def likelihood(score_fn, x, noise, scale, diffusion2, alpha):
    return likelihood_dsm_from_noise(
        score_fn, x, noise, noise_scale=scale, diffusion2=diffusion2, alpha=alpha
    )


def test_likelihood_weight_is_the_kl_divergence(x64):
    check_likelihood(likelihood)


LIKELIHOOD_MUTANTS = {
    "g for its square": lambda s, x, z, c, g2, a: likelihood(s, x, z, c, jnp.sqrt(g2), a),
    "weight of the noise scale": lambda s, x, z, c, g2, a: likelihood(s, x, z, c, c**2, a),
    "lost half": lambda s, x, z, c, g2, a: likelihood(s, x, z, c, 2 * g2, a),
    "clean data not shrunk": lambda s, x, z, c, g2, a: likelihood(s, x, z, c, g2, jnp.ones_like(a)),
    "flipped sign of the noise": lambda s, x, z, c, g2, a: likelihood(
        lambda y: -s(y), x, z, c, g2, a
    ),
}


@pytest.mark.slow
def test_the_likelihood_check_kills(x64):
    for mutant in LIKELIHOOD_MUTANTS.values():
        with pytest.raises(AssertionError):
            check_likelihood(mutant)


def test_on_a_geometric_ladder_the_usual_weight_is_the_likelihoods(x64):
    """g^2 dt = d sigma^2 = 2 sigma^2 log(ratio) dt: one constant between the two losses."""
    x, noise = map(jnp.asarray, np.random.default_rng(0).normal(size=(2, 4, 2)))
    ladder, levels = np.geomspace(10.0, 0.1, 4), jnp.array([0, 3, 1, 2])

    def score_fn(y, noise_scale):
        return jnp.sin(y) / noise_scale[..., None]

    scale = jnp.asarray(ladder)[levels]
    usual = multi_noise_dsm_from_noise(score_fn, x, noise, levels, noise_scales=ladder)
    factor = 2 * np.log(10.0 / 0.1)
    ours = likelihood_dsm_from_noise(
        lambda y: score_fn(y, scale), x, noise, noise_scale=scale, diffusion2=factor * scale**2
    )
    np.testing.assert_allclose(ours, factor * usual, rtol=1e-12)


def check_target(objective, alpha=0.7, scale=0.8):
    """Same gradient as denoising, on a two-component mixture, by quadrature."""
    means, widths, weights = np.array([-2.0, 1.0]), np.array([0.5, 0.8]), np.array([0.3, 0.7])
    grid = np.linspace(-9, 9, 401)
    parts = weights * np.exp(-0.5 * ((grid[:, None] - means) / widths) ** 2) / widths
    density = parts.sum(-1) / parts.sum()
    target = -(parts * (grid[:, None] - means) / widths**2).sum(-1) / parts.sum(-1)
    node, mass = hermite(24)
    x, noise = jnp.asarray(np.repeat(grid, 24)[:, None]), jnp.asarray(np.tile(node, 401)[:, None])
    target, mass = jnp.asarray(np.repeat(target, 24)[:, None]), jnp.asarray(np.outer(density, mass))

    def model(theta, y):
        return theta[0] * jnp.sin(y) + theta[1] * y + theta[2]

    def losses(theta):
        ours = objective(lambda y: model(theta, y), x, noise, target, scale, alpha)
        residual = model(theta, alpha * x + scale * noise) + noise / scale
        return jnp.stack([jnp.vdot(mass, ours), jnp.vdot(mass, 0.5 * residual[:, 0] ** 2)])

    ours, denoising = jax.jit(jax.jacfwd(losses))(jnp.array([0.3, -0.4, 0.2]))
    np.testing.assert_allclose(ours, denoising, atol=1e-8)


def target_row(score_fn, x, noise, target, scale, alpha):
    return target_sm_from_noise(score_fn, x, noise, target, noise_scale=scale, alpha=alpha)


def test_target_matching_has_the_gradient_of_denoising(x64):
    check_target(target_row)


TARGET_MUTANTS = {
    "factor alpha lost": lambda s, x, z, t, c, a: target_row(s, x, z, a * t, c, a),
    "flipped sign of the target": lambda s, x, z, t, c, a: target_row(s, x, z, -t, c, a),
    "clean data not shrunk": lambda s, x, z, t, c, a: target_row(s, x, z, t / a, c, 1.0),
    "lost half": lambda s, x, z, t, c, a: 2 * target_row(s, x, z, t, c, a),
    "noise variance for its scale": lambda s, x, z, t, c, a: target_row(s, x, z, t, c**2, a),
}


@pytest.mark.slow
def test_the_target_check_kills(x64):
    for mutant in TARGET_MUTANTS.values():
        with pytest.raises(AssertionError):
            check_target(mutant)


def test_target_is_quiet_at_small_noise(x64):
    """N(0, 1) data, s = -a y at the truth: the gradient's spread is bounded, denoising's is not."""
    rng = np.random.default_rng(0)
    x, noise = map(jnp.asarray, rng.normal(size=(2, 4000, 1)))

    @jax.jit
    def spreads(scale):
        def ours(a):
            return target_sm_from_noise(lambda y: -a * y, x, noise, -x, noise_scale=scale)

        def other(a):
            return denoising_sm_from_noise(lambda y: -a * y, x, noise, noise_scale=scale)

        best = 1 / (1 + scale**2)
        return [jax.jvp(loss, (best,), (jnp.ones_like(best),))[1].std() for loss in (ours, other)]

    (quiet, loud), (calm, _) = spreads(0.01), spreads(0.1)
    assert loud > 50 * quiet and quiet < calm


def test_levels_are_drawn_for_each_row():
    seen = []

    def spy(x):
        seen.append(np.asarray(x))
        return jnp.zeros_like(x)

    options = {"noise_scales": np.array([100.0, 1.0, 0.01]), "reference_noise_scale": 1.0}
    multiscale_dsm(jax.random.key(0), spy, jnp.zeros((3000, 8)), **options)
    size = np.round(np.log10(np.sqrt((seen[0] ** 2).mean(-1))))
    for level in (2, 0, -2):
        assert abs((abs(size - level) < 0.5).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / 3000)


def test_bad_arguments_are_named():
    x, key = jnp.zeros((3, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match=r"noise_scales\[1\]=1\.0 is not below noise_scales\[0\]"):
        multiscale_dsm(key, jnp.sin, x, noise_scales=np.ones(2), reference_noise_scale=1.0)
    with pytest.raises(ValueError, match="reference_noise_scale must be positive"):
        multiscale(jnp.sin, x, x, jnp.zeros(3, int), 0.0)
    with pytest.raises(ValueError, match=r"levels must have shape \(3,\)"):
        multiscale(jnp.sin, x, x, jnp.zeros(2, int), 1.0)
    with pytest.raises(ValueError, match="diffusion2 must be finite and not negative, got -1.0"):
        likelihood_dsm(key, jnp.sin, x, noise_scale=1.0, diffusion2=-1.0)
    with pytest.raises(ValueError, match="noise_scale must be positive and finite, got 0.0"):
        likelihood_dsm(jax.random.key(0), jnp.sin, x, noise_scale=0.0, diffusion2=1.0)
    with pytest.raises(ValueError, match="alpha must be positive and finite, got 0.0"):
        target_sm(jax.random.key(0), jnp.sin, x, x, noise_scale=1.0, alpha=0.0)
    with pytest.raises(Exception, match="target"):
        target_sm(jax.random.key(0), jnp.sin, x, x[:, :1], noise_scale=1.0)
    with pytest.raises(ValueError, match=r"score_fn\(x\) must have the shape of x"):
        target_sm(jax.random.key(0), lambda y: y[..., 0], x, x, noise_scale=1.0)


def test_with_keys_of_their_own_rows_do_not_see_each_other():
    options = {"noise_scales": np.array([10.0, 1.0, 0.1]), "reference_noise_scale": 1.0}
    keys, x = item_keys(jax.random.key(0), 6), jnp.zeros((2, 3, 4))
    together = multiscale_dsm(keys.reshape(2, 3), lambda y: -y, x, **options)
    alone = multiscale_dsm(keys[3:5], lambda y: -y, x[1, :2], **options)
    np.testing.assert_allclose(together[1, :2], alone, rtol=1e-6)
