"""The kernel, interpreted, against the scan over components; and lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.diffeq.ensemble import solve_ensemble
from probjax.diffeq.fused import solve_fused

WEIGHTS = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)


def lorenz(t, y, rho):
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def network(t, y, shift):
    return jnp.tanh(WEIGHTS @ y + shift) - 0.3 * jax.nn.softplus(y[::-1])


def choices(t, y, scale):
    return jnp.where(y > 0, -y, scale * jnp.linalg.norm(y)) + jnp.sin(t)


def commutator(t, y, matrix):
    return matrix @ y - y @ matrix


def rows_of(shape, number=5):
    return jnp.asarray(np.random.default_rng(1).normal(size=(number, *shape)), jnp.float32)


CASES = {
    "lorenz": (lorenz, rows_of((3,)), jnp.linspace(5.0, 20.0, 5), 0),
    "network": (network, rows_of((8,)), 0.1, None),
    "choices": (choices, rows_of((4,)), rows_of(())[:5], 0),
    "matrices": (commutator, rows_of((2, 2)), rows_of((2, 2))[0], None),
}


def check_against_scan(name, solve, **options):
    field, y0, args, axis = CASES[name]
    common = {"args": args, "in_axes": (0, axis), **options}
    wanted = solve_ensemble(field, y0, 0.0, 0.5, layout="components", **common)
    found = solve(field, y0, 0.0, 0.5, **common)
    scale = np.max(np.abs(wanted.y))
    np.testing.assert_allclose(found.y / scale, wanted.y / scale, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.result, wanted.result)
    jax.tree.map(np.testing.assert_array_equal, found.stats, wanted.stats)


interpreted = functools.partial(solve_fused, interpret=True)


@pytest.mark.parametrize(
    "name", ["lorenz", *(pytest.param(n, marks=pytest.mark.slow) for n in [*CASES][1:])]
)
def test_kernel_is_the_scan(name):
    check_against_scan(name, interpreted, method="rk4", num_steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lorenz", "choices"])
def test_adaptive_kernel_is_the_loop(name):
    check_against_scan(name, interpreted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_check_kills_a_kernel_that_stops_early():
    def early(field, y0, t0, t1, **options):
        return interpreted(field, y0, t0, 0.98 * t1, **options)

    with pytest.raises(AssertionError):
        check_against_scan("lorenz", early, method="rk4", num_steps=10)


@pytest.mark.slow
def test_failures_in_the_kernel():
    y0 = CASES["lorenz"][1].at[2, 0].set(1e30)
    common = {"args": 10.0, "method": "rk4", "num_steps": 10}
    wanted = solve_ensemble(lorenz, y0, 0.0, 0.5, **common)
    found = interpreted(lorenz, y0, 0.0, 0.5, **common)
    np.testing.assert_allclose(found.y, wanted.y, rtol=1e-5)
    np.testing.assert_array_equal(found.result, [0, 0, 2, 0, 0])
    np.testing.assert_array_equal(found.stats.num_accepted, wanted.stats.num_accepted)


def noisy(solve):
    return solve(
        lambda t, y, args: jnp.zeros_like(y), jnp.zeros((3, 2)), 0.0, 1.0, num_steps=1,
        diffusion=lambda t, y, args: jnp.ones_like(y), key=jax.random.key(3),
    ).y  # fmt: skip


@pytest.mark.bits
def test_noise_of_the_kernel_bit_for_bit(reuse_keys):
    found = noisy(interpreted)
    for item in range(3):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), item), 0)
        np.testing.assert_array_equal(found[item], jax.random.normal(key, (2,)))


@pytest.mark.slow
def test_gradient_is_that_of_the_scan():
    def total(solve, y0, rho):
        return jnp.sum(solve(lorenz, y0, 0.0, 0.5, args=rho, num_steps=5).y ** 2)

    found, wanted = (
        jax.grad(functools.partial(total, solve), argnums=(0, 1))(CASES["lorenz"][1], 10.0)
        for solve in (interpreted, solve_ensemble)
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.slow
def test_without_cuda_it_is_the_ensemble():
    mesh = sharding.make_mesh(2)
    check_against_scan(
        "lorenz", functools.partial(solve_fused, mesh=mesh), method="rk4", num_steps=10
    )


def kernels(program, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.jit(program).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton")


@pytest.mark.parametrize(
    "name", ["lorenz", *(pytest.param(n, marks=pytest.mark.slow) for n in [*CASES][1:])]
)
def test_fixed_steps_lower_for_cuda(name):
    field, y0, args, axis = CASES[name]
    options = {"args": args, "in_axes": (0, axis), "method": "rk4", "num_steps": 1000}
    assert kernels(lambda y: solve_fused(field, y, 0.0, 1.0, **options).y, y0.shape) == 1


@pytest.mark.slow
def test_adaptive_steps_and_noise_lower_for_cuda():
    def adaptive(y):
        return solve_fused(lorenz, y, 0.0, 1.0, args=10.0, rtol=1e-6, atol=1e-6).y

    assert kernels(adaptive, (300, 3)) == 1
    assert kernels(lambda _: noisy(solve_fused), (1,)) == 1


def test_too_many_scalars_and_other_noise_are_refused(x64):
    def field(t, y, args):
        return -y * args[0]

    options = {"num_steps": 2}
    with pytest.raises(ValueError, match="at most 64 scalars for each trajectory, got 65"):
        solve_fused(field, jnp.ones((2, 33)), 0.0, 1.0, args=jnp.ones(32), **options)
    with pytest.raises(NotImplementedError, match="`sort`, at .*test_fused.py"):
        solve_fused(lambda t, y, args: jnp.sort(y), jnp.ones((2, 3)), 0.0, 1.0, **options)
    options |= {"diffusion": lambda t, y, args: y, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="diffusion needs float32 states, got float64"):
        solve_fused(lambda t, y, args: y, jnp.ones((2, 3)), 0.0, 1.0, **options)
