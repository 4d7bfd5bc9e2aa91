"""Ensembles over devices, tiles and orders: nobody's numbers depend on who else is there."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import collectives as counting
from probjax import sharding
from probjax.core import keys
from probjax.diffeq import ensemble
from probjax.diffeq.adaptive import solve_adaptive
from probjax.diffeq.ensemble import deal, solve_ensemble
from probjax.diffeq.runge_kutta import solve_fixed

NUM = 13
RHO = jnp.linspace(2.0, 21.0, NUM)
START = jnp.linspace(0.5, 1.5, 3 * NUM).reshape(NUM, 3)
SHARED = jnp.array([10.0, 8 / 3])


def lorenz(t, y, args):
    rho, (sigma, beta) = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


FIXED = {"method": "rk4", "num_steps": 20}
ADAPTIVE = {"rtol": 1e-4, "atol": 1e-6}
solve_lorenz = functools.partial(solve_ensemble, lorenz, t0=0.0, t1=0.5, in_axes=(0, (0, None)))


def run_lorenz(devices=1, start=START, rho=RHO, **options):
    shared = SHARED.astype(start.dtype)
    mesh = sharding.make_mesh(devices)
    return solve_lorenz(y0=start, args=(rho, (shared[0], shared[1])), mesh=mesh, **options)


@pytest.mark.parametrize("options", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_no_trajectories_have_no_rows(options):
    found = run_lorenz(2, start=START[:0], rho=RHO[:0], **options)
    assert found.y.shape == (0, 3) and found.result.shape == (0,)


@pytest.mark.bits
@pytest.mark.parametrize("devices", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_equal_bits_on_any_number_of_devices(devices):
    one, more = (run_lorenz(n, tile=2, **FIXED) for n in (1, devices))
    jax.tree.map(np.testing.assert_array_equal, one, more)
    one, more = (run_lorenz(n, tile=2, **ADAPTIVE) for n in (1, devices))
    np.testing.assert_array_equal(one.stats.num_steps, more.stats.num_steps)
    np.testing.assert_allclose(one.y, more.y, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["components", "stacked"])
def test_each_trajectory_is_that_of_the_solver_of_one(layout):
    found = run_lorenz(2, layout=layout, save_every=10, **FIXED)
    args = (RHO[5], (SHARED[0], SHARED[1]))
    wanted = solve_fixed(lorenz, START[5], 0.0, 0.5, args=args, save_every=10, **FIXED)
    np.testing.assert_allclose(found.y[5], wanted.y, rtol=2e-5)
    assert found.y.shape == (NUM, 3, 3) and found.t.shape == (NUM, 3)
    np.testing.assert_allclose(found.t[5], wanted.t)
    assert found.stats.num_evaluations[5] == wanted.stats.num_evaluations


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["components", "stacked"])
def test_adaptive_steps_are_those_of_the_solver_of_one(layout):
    found = run_lorenz(2, layout=layout, **ADAPTIVE)
    args = (RHO[5], (SHARED[0], SHARED[1]))
    wanted = solve_adaptive(lorenz, START[5], 0.0, 0.5, args=args, **ADAPTIVE)
    np.testing.assert_allclose(found.y[5], wanted.y, rtol=1e-4)
    assert found.stats.num_steps[5] == wanted.stats.num_steps


@pytest.mark.parametrize("number", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 7))])
def test_any_number_of_trajectories(number):
    found = run_lorenz(4, START[:number], RHO[:number], tile=2, **FIXED).y
    np.testing.assert_allclose(found, lorenz_ends()[:number], rtol=1e-5)


@functools.cache
def lorenz_ends():
    return run_lorenz(1, **FIXED).y


def collectives(program, *arguments):
    return Counter(each.kind for each in counting.of(jax.jit(program), *arguments))


def check_no_collectives(program):
    mesh = sharding.make_mesh(4)
    start = jax.device_put(START[:8], jax.NamedSharding(mesh, P("items")))
    assert not any(collectives(program, start).values())


@pytest.mark.parametrize(
    "options", [FIXED, pytest.param(ADAPTIVE | {"tile": 1}, marks=pytest.mark.slow)]
)
def test_nothing_crosses_between_devices(options):
    check_no_collectives(lambda start: run_lorenz(4, start, RHO[:8], **options).y)


def test_the_check_kills_a_reduction_in_the_loop_condition():
    def program(start):
        def shard(y):
            def goes_on(y):
                return jax.lax.pmax(jnp.max(y), "items") < 9

            return jax.lax.while_loop(goes_on, lambda y: y + 1, y)

        mesh = sharding.make_mesh(4)
        return jax.shard_map(shard, mesh=mesh, in_specs=P("items"), out_specs=P("items"))(start)

    with pytest.raises(AssertionError):
        check_no_collectives(program)


def test_shards_stop_on_their_own():
    """The slowest of a shard takes many more steps on the last shard than on the first."""
    mu = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 60.0])
    y0 = jnp.tile(jnp.array([2.0, 0.0]), (8, 1))
    mesh = sharding.make_mesh(4)
    found = solve_ensemble(
        van_der_pol, y0, 0.0, 3.0, args=mu, in_axes=(0, 0), mesh=mesh, **ADAPTIVE
    )
    counts = found.stats.num_steps.reshape(4, 2).max(axis=1)
    assert counts[0] == counts[1] == counts[2] and counts[3] > 3 * counts[0]
    assert (found.result == 0).all()


def gradient_on(devices, layout="auto", tile=None):
    """Of the sum of squares of the ends, by start, own and shared arguments."""

    def total(start, rho, shared):
        mesh = sharding.make_mesh(devices)
        y = solve_lorenz(
            y0=start, args=(rho, (shared, shared * 0.2)), mesh=mesh, layout=layout, tile=tile,
            **FIXED,
        ).y  # fmt: skip
        return jnp.sum(y**2)

    return jax.grad(total, argnums=(0, 1, 2))


def check_gradient(gradient):
    """It is that of one device, and its shared part is summed over the devices once."""
    start, rho = START[:8].astype(jnp.float64), RHO[:8].astype(jnp.float64)
    arguments = start, rho, jnp.array(9.0, jnp.float64)
    found, wanted = (jax.jit(g)(*arguments) for g in (gradient, gradient_on(1)))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    mesh = sharding.make_mesh(4)
    split = jax.device_put(arguments[:2], jax.NamedSharding(mesh, P("items")))
    counts = collectives(gradient, *split, arguments[2])
    # Two leaves of `args` are shared: `sigma` and `beta`.
    assert counts.pop("all-reduce") <= 2 and not any(counts.values()), counts


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 1])
def test_gradient_under_the_default_check(x64, tile):
    check_gradient(gradient_on(4, tile=tile))


@pytest.mark.slow
def test_the_check_kills_a_cotangent_not_summed_over_shards(x64):
    def mutant(start, rho, shared):
        def local(start, rho, shared):
            shared = jax.lax.pcast(shared, "items", to="varying")
            by_start, by_rho, by_shared = gradient_on(1)(start, rho, shared)
            return by_start, by_rho, by_shared[None]

        mesh = sharding.make_mesh(4)
        specs = (P("items"), P("items"), P())
        by_start, by_rho, parts = jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=P("items"), check_vma=False
        )(start, rho, shared)
        return by_start, by_rho, parts[0]

    with pytest.raises((AssertionError, ValueError)):
        check_gradient(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("options", [FIXED | {"layout": "stacked"}, ADAPTIVE])
def test_gradients_of_other_layouts_and_adaptive_steps(x64, options):
    def total(devices, start, rho, shared):
        mesh = sharding.make_mesh(devices)
        args = (rho, (shared, shared * 0.2))
        return jnp.sum(solve_lorenz(y0=start, args=args, mesh=mesh, **options).y ** 2)

    start, rho = START[:8].astype(jnp.float64), RHO[:8].astype(jnp.float64)
    one, four = (
        jax.jit(jax.grad(functools.partial(total, n), argnums=(0, 1, 2)))(start, rho, 9.0)
        for n in (1, 4)
    )
    for a, b in zip(one, four, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def check_failure_touches_nobody(rtol):
    for options in (FIXED, ADAPTIVE):
        tame = run_lorenz(2, tile=4, **options)
        wild = run_lorenz(2, START.at[3, 0].set(1e30), tile=4, **options)
        tame, wild = jax.device_get((tame, wild))
        others = np.delete(np.arange(NUM), 3)
        np.testing.assert_allclose(wild.y[others], tame.y[others], rtol=rtol)
        assert wild.result[3] != 0 and (wild.result[others] == 0).all()
        assert np.isfinite(wild.y).all()


@pytest.mark.slow
def test_a_failure_touches_nobody():
    check_failure_touches_nobody(1e-5)


@pytest.mark.bits
def test_a_failure_leaves_the_bits_of_the_others():
    check_failure_touches_nobody(0)


@pytest.mark.slow
def test_a_failure_has_no_derivative():
    def total(start, shared):
        y = solve_lorenz(y0=start, args=(RHO, (shared, 2.0)), **FIXED).y
        return jnp.sum(y**2)

    by_start, by_shared = jax.grad(total, argnums=(0, 1))(START.at[3, 0].set(1e30), 10.0)
    assert (by_start[3] == 0).all() and np.isfinite(by_start).all() and np.isfinite(by_shared)


def check_order(order_and_solve):
    mu = jnp.array([5.0, 1.0, 9.0, 2.0, 7.0])
    y0 = jnp.tile(jnp.array([2.0, 0.0]), (5, 1))
    plain = order_and_solve(y0, mu, None)
    for order in (mu, "pilot"):
        found = order_and_solve(y0, mu, order)
        np.testing.assert_array_equal(found.stats.num_steps, plain.stats.num_steps)
        np.testing.assert_allclose(found.y, plain.y, rtol=1e-4, atol=1e-5)


def solve_ordered(y0, mu, order_by, tile=2, devices=2):
    mesh = sharding.make_mesh(devices)
    return solve_ensemble(
        van_der_pol, y0, 0.0, 3.0, args=mu, in_axes=(0, 0), mesh=mesh, tile=tile,
        order_by=order_by, **ADAPTIVE,
    )  # fmt: skip


@pytest.mark.slow
def test_order_changes_no_result():
    check_order(solve_ordered)


@pytest.mark.slow
def test_the_check_kills_results_left_in_sorted_order(monkeypatch):
    def unsorted(difficulty, num_shards, tile):
        dealt, back = deal(difficulty, num_shards, tile)
        return dealt, jnp.arange(back.shape[0])

    monkeypatch.setattr(ensemble, "deal", unsorted)
    with pytest.raises(AssertionError):
        check_order(solve_ordered)


@pytest.mark.parametrize(
    ("number", "shards", "tile"), [(1, 1, 1), (7, 2, 2), (13, 4, 1), (8, 2, 4)]
)
def test_deal(number, shards, tile):
    """Every item is there, the way back leads home, and each tile holds neighbours."""
    difficulty = jax.random.permutation(jax.random.key(number), number)
    run = jax.jit(deal, static_argnums=(1, 2))
    difficulty, (dealt, back) = jax.device_get((difficulty, run(difficulty, shards, tile)))
    np.testing.assert_array_equal(dealt[back], np.arange(number))
    tiles = difficulty[dealt].reshape(shards, -1, tile)
    assert (tiles.max(-1) - tiles.min(-1) <= tile - 1).all()
    heads = tiles[..., 0].T.reshape(-1)  # round after round
    assert (np.diff(heads) <= 0).all()


def noisy_ends(devices=1, tile=None, **options):
    mesh = sharding.make_mesh(devices)
    return solve_ensemble(
        lambda t, y, args: -y, jnp.zeros((5, 2)), 0.0, 1.0, num_steps=4, mesh=mesh, tile=tile,
        diffusion=lambda t, y, args: 1 + 0.5 * jnp.cos(y), key=jax.random.key(7), **options,
    ).y  # fmt: skip


def check_noise(ends):
    """Trajectory i at step k draws from fold_in(fold_in(key, i), k), and h is its variance."""
    h = 0.25

    @jax.jit
    def by_hand(key):
        y = jnp.zeros(2)
        for k in range(4):
            z = jax.random.normal(jax.random.fold_in(key, k), (2,))
            y = y - h * y + h**0.5 * (1 + 0.5 * jnp.cos(y)) * z
        return y

    wanted = jnp.stack([by_hand(keys.item_key(jax.random.key(7), i)) for i in range(5)])
    np.testing.assert_allclose(ends, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_noise_follows_the_global_index(reuse_keys):
    check_noise(noisy_ends())
    check_noise(noisy_ends(2, tile=2, order_by=jnp.array([3, 1, 2, 5, 4])))


@pytest.mark.slow
def test_the_check_kills_local_indices(reuse_keys):
    halves = [noisy_ends()[:3], noisy_ends()[:2]]  # a shard that counts from zero again
    with pytest.raises(AssertionError):
        check_noise(jnp.concatenate(halves))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either num_steps or both rtol and atol"),
        ({"num_steps": 3, "rtol": 0.1, "atol": 0.1}, "must not be given together"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"num_steps": 3, "layout": "rows"}, "layout must be one of"),
        ({"num_steps": 3, "method": "rk5"}, "method must be one of"),
        ({"num_steps": 3, "tile": 0}, "tile must be at least 1"),
        ({"num_steps": 3, "save_every": 2}, "save_every must divide num_steps=3"),
        ({"num_steps": 3, "order_by": "pilot"}, "'pilot' needs adaptive steps"),
        ({"num_steps": 3, "order_by": jnp.ones(2)}, "order_by must have shape"),
        ({"rtol": 0.1, "atol": 0.1, "order_by": "size"}, "order_by must be one of"),
        ({"rtol": 0.1, "atol": 0.1, "save_every": 2}, "save_every needs num_steps"),
        ({"rtol": 0.0, "atol": 0.0}, "must not both be zero"),
        ({"num_steps": 3, "key": jax.random.key(0)}, "diffusion and key"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        solve_ensemble(lambda t, y, args: -y, jnp.ones((3, 2)), 0.0, 1.0, **options)


def test_bad_axes_are_named():
    field, options = (lambda t, y, args: -y), {"num_steps": 2}
    with pytest.raises(ValueError, match="in_axes must hold 0 or None, got 1"):
        solve_ensemble(field, jnp.ones((3, 2)), 0.0, 1.0, in_axes=(1, None), **options)
    with pytest.raises(ValueError, match="in_axes must hold 0 at least once"):
        solve_ensemble(field, jnp.ones((3, 2)), 0.0, 1.0, in_axes=(None, None), **options)
    with pytest.raises(ValueError, match=r"one leading length, got \[2, 3\]"):
        args = jnp.ones(2)
        solve_ensemble(field, jnp.ones((3, 2)), 0.0, 1.0, args=args, in_axes=(0, 0), **options)


@pytest.mark.slow
def test_a_field_without_componentwise_form():
    def field(t, y, args):
        return jnp.sort(y)

    y0 = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(NotImplementedError, match="`sort`"):
        solve_ensemble(field, y0, 0.0, 1.0, num_steps=2, layout="components")
    found = solve_ensemble(field, y0, 0.0, 1.0, method="euler", num_steps=2).y
    np.testing.assert_allclose(found, 2.25 * y0)
