"""The diffrax solver makes the scan's steps."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.diffrax_bridge import DenoiserTerm, ExponentialMultistep
from probjax.diffusion.schedules import vp
from probjax.diffusion.tables import adams_table
from tests.diffusion.tables_walk import START, gaussian, walk

GRID = np.array([7.0, 3.1, 1.9, 0.8, 0.55, 0.2])


def solve(term, solver, y, levels, **options):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return diffrax.diffeqsolve(
            term,
            solver,
            levels[0],
            levels[-1],
            None,
            y,
            stepsize_controller=diffrax.StepTo(levels),
            saveat=diffrax.SaveAt(steps=True),
            max_steps=len(levels) - 1,
            **options,
        ).ys


@pytest.mark.parametrize(
    "order, variant",
    [
        pytest.param(1, "exact", marks=pytest.mark.slow),
        pytest.param(2, "half", marks=pytest.mark.slow),
        (3, "exact"),
    ],
)
def test_equal_to_the_table(x64, order, variant):
    levels = jnp.asarray(-np.log(GRID))
    got = solve(
        DenoiserTerm(gaussian), ExponentialMultistep(order, variant), jnp.asarray(START), levels
    )
    table = adams_table(GRID, order=order, variant=variant, final="keep")
    np.testing.assert_allclose(got, walk(table, gaussian, START), rtol=1e-12)


@pytest.mark.slow
def test_a_schedule_with_alphas_and_a_gradient(x64):
    schedule = vp()
    times = jnp.linspace(0.9, 0.1, 8)

    def preserving(x, noise_scale):
        alpha = jnp.sqrt(1 - noise_scale**2)
        return jnp.sin(x / alpha)

    levels = schedule.log_snr(times)
    alphas = np.sqrt(1 / (1 + np.exp(-2 * np.asarray(levels))))
    table = adams_table(np.exp(-levels) * alphas, alphas=alphas, order=3, final="keep")
    want = walk(table, preserving, START * alphas[0])[-1] / alphas[-1]

    def last(y):
        return solve(DenoiserTerm(preserving, schedule), ExponentialMultistep(3), y, levels)[-1]

    np.testing.assert_allclose(last(jnp.asarray(START)), want, rtol=1e-10)
    gradient = jax.grad(lambda y: last(y).sum())(jnp.asarray(START))
    gap = 1e-6
    for i in range(3):
        shift = jnp.zeros(3).at[i].set(gap)
        difference = (last(START + shift) - last(START - shift)).sum() / (2 * gap)
        np.testing.assert_allclose(gradient[i], difference, rtol=1e-5)


def test_another_term_is_refused():
    levels = jnp.asarray(-np.log(GRID), jnp.float32)
    term = diffrax.ODETerm(lambda t, y, args: -y)
    with pytest.raises(TypeError, match="terms must be a DenoiserTerm.*got ODETerm"):
        solve(term, ExponentialMultistep(2), jnp.ones(3), levels)
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got 0"):
        ExponentialMultistep(0)
    with pytest.raises(ValueError, match="variant must be one of"):
        ExponentialMultistep(2, "quarter")
