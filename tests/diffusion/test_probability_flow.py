"""The adaptive probability flow against its closed form, and its count of evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core.keys import item_keys
from probjax.diffusion.exact import gaussian_denoiser
from probjax.diffusion.probability_flow import sample_probability_flow
from probjax.diffusion.schedules import edm, subvp, vp
from probjax.sharding import make_mesh, map_items

MEAN, VARIANCES = np.array([1.0, -2.0]), np.array([4.0, 0.25])


def exploding(x, noise_scale):
    mean, variance = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (MEAN, VARIANCES))
    return mean + variance / (variance + noise_scale**2) * (x - mean)


@pytest.mark.parametrize(
    "make, start, stop", [(edm, 20.0, 0.1), (vp, 1.0, 0.05), (subvp, 0.9, 0.1)]
)
def test_gaussian_data_are_carried_along_their_quantiles(x64, make, start, stop):
    schedule = make()

    def denoiser(x, noise_scale):
        # The clean data's estimate for x = alpha x0 + noise: alpha belongs to the noise scale.
        alpha = alpha_of[0](noise_scale)
        return exploding(x / alpha, noise_scale / alpha)

    alpha_of = {
        edm: [jnp.ones_like],
        vp: [lambda c: jnp.sqrt(1 - c**2)],
        subvp: [lambda c: jnp.sqrt(1 - c)],
    }[make]
    z = np.array([1.3, -0.4])

    def quantile(t):
        alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.noise_scale(t))
        return alpha * MEAN + z * np.sqrt(alpha**2 * VARIANCES + sigma**2)

    solution = jax.jit(
        lambda x: sample_probability_flow(
            denoiser,
            x,
            schedule=schedule,
            start=start,
            stop=stop,
            rtol=1e-9,
            atol=1e-9,
            final="keep",
        )
    )(jnp.asarray(quantile(start)))
    assert bool(solution.is_success)
    np.testing.assert_allclose(solution.x, quantile(stop), rtol=1e-6)


@pytest.mark.slow
def test_evaluations_are_counted_and_the_end_is_denoised():
    calls = []

    def counted(x, noise_scale):
        jax.debug.callback(lambda: calls.append(1))
        return exploding(x, noise_scale)

    x = jnp.array([60.0, -30.0])
    solution = jax.jit(lambda x: sample_probability_flow(counted, x))(x)
    jax.block_until_ready(solution.x)
    jax.effects_barrier()
    assert int(solution.num_evaluations) == len(calls)
    kept = sample_probability_flow(exploding, x, final="keep")
    np.testing.assert_allclose(solution.x, exploding(kept.x, jnp.asarray(0.002)), rtol=1e-5)
    assert int(kept.num_evaluations) == int(solution.num_evaluations) - 1
    tight = sample_probability_flow(exploding, x, rtol=1e-6, atol=1e-6)
    assert int(tight.num_evaluations) > int(solution.num_evaluations)


@pytest.mark.slow
def test_each_sample_takes_its_own_steps_on_a_mesh():
    denoiser = gaussian_denoiser(jnp.asarray(MEAN, jnp.float32), jnp.diag(jnp.array([4.0, 0.25])))

    def one(key):
        start = 80.0 * jax.random.normal(key, (2,))
        solution = sample_probability_flow(denoiser, start, rtol=1e-3, atol=1e-3)
        return solution.x, solution.num_evaluations

    keys = item_keys(jax.random.key(0), 6)
    with jax.debug_key_reuse(False):
        x, calls = map_items(one, make_mesh(4), check_vma=False)(keys)
        want, want_calls = jax.jit(jax.vmap(one))(keys)
    np.testing.assert_allclose(x, want, rtol=1e-4)
    np.testing.assert_array_equal(calls, want_calls)
    assert len(set(np.asarray(calls).tolist())) > 1


def test_failure_is_nan_and_flagged():
    x = jnp.array([60.0, -30.0])
    few = sample_probability_flow(exploding, x, max_steps=2)
    assert not bool(few.is_success) and bool(jnp.isnan(few.x).all())
    broken = sample_probability_flow(exploding, x.at[0].set(jnp.nan), max_steps=20)
    assert not bool(broken.is_success) and bool(jnp.isnan(broken.x).all())


def test_bad_arguments_are_named():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"stop must be below start, got stop=2\.0"):
        sample_probability_flow(exploding, x, start=1.0, stop=2.0)
    with pytest.raises(ValueError, match="rtol must be positive"):
        sample_probability_flow(exploding, x, rtol=0.0)
    with pytest.raises(ValueError, match="final must be one of"):
        sample_probability_flow(exploding, x, final="zero")
    with pytest.raises(ValueError, match="must have the shape of x"):
        sample_probability_flow(lambda x, c: x[:1], x)
