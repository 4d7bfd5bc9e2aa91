"""Guidance: ends to the bit, Bayes' rule, and the law that guided sampling has in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from probjax.diffusion.exact import gmm_denoiser
from probjax.diffusion.grids import geometric_noise_scales
from probjax.diffusion.guidance import classifier_free, classifier_guidance
from probjax.diffusion.likelihood import decode
from probjax.diffusion.samplers import ddim, sample


def towards(x, noise_scale):
    return jnp.tanh(3.0 * x + noise_scale) + 0.1


def away(x, noise_scale):
    return jnp.sin(x) / (1.0 + noise_scale) - 0.7


ROWS = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


def ends_are_exact(make):
    """A traced weight of 1 and of 0 gives each denoiser to the bit."""

    @jax.jit
    def both(x, weight):
        return make(towards, away, weight)(x, 0.3), towards(x, 0.3), away(x, 0.3)

    x = jnp.asarray(ROWS)
    one, conditional, _ = both(x, 1.0)
    zero, _, unconditional = both(x, 0.0)
    equal = np.array_equal(one, conditional) and np.array_equal(zero, unconditional)
    middle = 0.25 * conditional + 0.75 * unconditional
    return equal and np.allclose(both(x, 0.25)[0], middle, rtol=1e-5, atol=1e-6)


def ours(conditional, unconditional, weight):
    return classifier_free(conditional, unconditional, weight=weight)


@pytest.mark.bits
def test_weights_one_and_zero_are_the_denoisers_themselves():
    assert ends_are_exact(ours)


MUTANTS = {
    "weight off by one": lambda c, u, w: ours(c, u, 1.0 + w),
    "exchanged": lambda c, u, w: ours(u, c, w),
    "only the formula": lambda c, u, w: lambda x, s: u(x, s) + w * (c(x, s) - u(x, s)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_ends_kill(name):
    assert not ends_are_exact(MUTANTS[name])


def normal(variance):
    return lambda x, noise_scale: variance / (variance + noise_scale**2) * x


def guided_variance(guided):
    """Variance of the guided flow's samples: it is linear, so one path tells the slope."""
    start = jnp.full((1,), 80.0)
    end = decode(guided, start, noise_scale_min=1e-3, noise_scale_max=80.0, num_steps=60)
    return float(end[0] ** 2)


def test_guided_flow_is_geometric_and_not_the_tilted_density(x64):
    """Variances 1 and 1/4 at weight 2: 1/16, where the tilted density has 1/7."""
    for weight in (0.5, 2.0, 3.0):
        guided = classifier_free(normal(0.25), normal(1.0), weight=weight)
        geometric, harmonic = 0.25**weight, 1 / ((1 - weight) + weight / 0.25)
        got = guided_variance(guided)
        assert abs(got - geometric) < 1e-3
        assert abs(got - harmonic) > 1e-2
    off = classifier_free(normal(0.25), normal(1.0), weight=3.0)
    assert not abs(guided_variance(off) - 0.25**2) < 1e-3


def test_a_classifier_at_weight_one_is_bayes_rule(x64):
    """Two components; the class is the component, whose own denoiser is known."""
    means, scales = jnp.array([[-1.0, 0.5], [2.0, 1.0]]), jnp.array([0.5, 1.5])
    whole = gmm_denoiser(means, scales, jnp.array([0.3, 0.7]))
    part = gmm_denoiser(means[:1], scales[:1], jnp.ones(1))

    def log_prob_fn(x, noise_scale):
        total = scales**2 + jnp.broadcast_to(noise_scale, x.shape[:-1])[..., None] ** 2
        log_weights = jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.7])), total.shape)
        squares = ((x[..., None, :] - means) ** 2).sum(-1)
        return jax.nn.log_softmax(log_weights - jnp.log(total) - 0.5 * squares / total)[..., 0]

    with jax.numpy_rank_promotion("allow"):
        x, scale = jnp.asarray(ROWS[:8, :2], jnp.float64), jnp.linspace(0.2, 5.0, 8)
        guided = classifier_guidance(whole, log_prob_fn, weight=1.0)(x, scale)
        np.testing.assert_allclose(guided, part(x, scale), atol=1e-12)
        np.testing.assert_array_equal(
            classifier_guidance(whole, log_prob_fn, weight=0.0)(x, scale), whole(x, scale)
        )
        double = classifier_guidance(whole, log_prob_fn, weight=jnp.full(8, 2.0))(x, scale)
        np.testing.assert_allclose(double - guided, guided - whole(x, scale), atol=1e-12)


def test_weights_and_scales_per_row_and_the_interval():
    x, scale = jnp.asarray(ROWS[:4]), jnp.array([0.1, 0.2, 1.0, 1.5])
    weight = jnp.array([3.0, 2.0, 0.0, -1.0])
    with jax.numpy_rank_promotion("allow"):

        def flat(fn):
            return lambda y, s: fn(y, s[..., None])

        got = classifier_free(flat(towards), flat(away), weight=weight, interval=(0.1, 1.0))(
            x, scale
        )
        c, u = flat(towards)(x, scale), flat(away)(x, scale)
        used = np.array([1.0, 2.0, 0.0, 1.0])[:, None]
        np.testing.assert_allclose(got, u + used * (c - u), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[np.array([0, 3])], c[np.array([0, 3])])
    images = classifier_free(towards, away, weight=weight, event_ndim=3)
    assert images(jnp.ones((4, 2, 2, 1)), 0.5).shape == (4, 2, 2, 1)


def run(x, weight):
    guided = classifier_free(towards, away, weight=weight)
    tilted = classifier_guidance(guided, lambda y, s: -jnp.sum(y**2, -1), weight=0.1)
    scales = geometric_noise_scales(5, 0.1, 4.0)
    return sample(jax.random.key(0), ddim(tilted, scales), x, 5).x


def test_a_new_weight_compiles_nothing(compilations):
    jitted, x = jax.jit(run), jnp.asarray(ROWS[:8])
    first = jitted(x, 1.5)
    compilations.clear()
    assert not np.array_equal(jitted(x, 2.5), first)
    assert not compilations


@pytest.mark.slow
def test_rows_stand_alone_on_any_number_of_devices():
    x = jnp.asarray(ROWS[:8])
    whole = jax.jit(run)(x, 1.5)
    broken = jax.jit(run)(x.at[2, 0].set(jnp.nan), 1.5)
    np.testing.assert_array_equal(np.delete(whole, 2, 0), np.delete(broken, 2, 0))
    assert np.isnan(np.asarray(broken)[2]).any()
    for num_devices in (1, 2, 4):
        mesh = jax.make_mesh(
            (num_devices,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        spec = PartitionSpec("rows")
        mapped = jax.jit(
            jax.shard_map(run, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
        )
        np.testing.assert_allclose(mapped(x, 1.5), whole, rtol=1e-6, atol=1e-6)
    text = mapped.lower(x, 1.5).compile().as_text()
    assert "all-" not in text and "collective" not in text


def test_bad_arguments_are_named():
    x = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="interval must be"):
        classifier_free(towards, away, weight=1.0, interval=(1.0, 0.5))
    with pytest.raises(ValueError, match=r"weight must be a scalar or have shape \(4,\)"):
        classifier_free(towards, away, weight=jnp.ones(2))(x, 0.5)
    with pytest.raises(ValueError, match=r"unconditional\(x, noise_scale\) must have the shape"):
        classifier_free(towards, lambda y, s: y[..., 0], weight=1.0)(x, 0.5)
    with pytest.raises(ValueError, match=r"log_prob_fn\(x, noise_scale\) must have shape \(4,\)"):
        classifier_guidance(towards, lambda y, s: y, weight=1.0)(x, 0.5)
