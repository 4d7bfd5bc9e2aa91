"""The loop all chains share, and many chains on many devices."""

import importlib.util
import io
from pathlib import Path
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from probjax import mcmc, sharding
from probjax.core.keys import item_keys, step_key
from probjax.mcmc import driver
from probjax.mcmc.driver import row_step_key, scan_steps

_spec = importlib.util.spec_from_file_location("walks", Path(__file__).with_name("walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)


class Seen(NamedTuple):
    count: jax.Array
    flag: jax.Array


def walk(key, x):
    moved = x + jax.random.normal(key, x.shape)
    return moved, Seen(jnp.ones((), jnp.int32), moved > 3)


def test_same_numbers_as_a_python_loop():
    x = jnp.zeros(3)
    last, totals, kept = scan_steps(
        jax.random.key(0), walk, x, 12, trace_fn=lambda state, info: state
    )
    flags = np.zeros(3, bool)
    for t in range(12):
        x, info = walk(step_key(jax.random.key(0), t), x)
        flags |= np.asarray(info.flag)
        np.testing.assert_allclose(kept[t], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last, kept[-1])
    assert int(totals.count) == 12
    np.testing.assert_array_equal(totals.flag, flags)


def test_cut_in_two_it_gives_the_same_bits():
    run = jax.jit(
        lambda x, start, n: scan_steps(jax.random.key(0), walk, x, n, start=start)[0],
        static_argnums=2,
    )
    whole = run(jnp.zeros(3), 0, 10)
    np.testing.assert_array_equal(run(run(jnp.zeros(3), 0, 4), 4, 6), whole)


def test_a_key_for_each_row():
    keys = item_keys(jax.random.key(0), 4)
    for i, key in enumerate(row_step_key(keys, 3)):
        assert key == step_key(keys[i], 3)
    assert row_step_key(jax.random.PRNGKey(0), 3) == step_key(jax.random.key(0), 3)


def test_no_steps_and_bad_counts():
    last, totals, kept = scan_steps(jax.random.key(0), walk, jnp.ones(2), 0)
    np.testing.assert_array_equal(last, 1)
    assert int(totals.count) == 0 and kept is None
    with pytest.raises(ValueError, match="num_steps must be at least 0, got -1"):
        scan_steps(jax.random.key(0), walk, jnp.ones(2), -1)


def by_hand(num_steps=walks.STEPS):
    """The chains one after the other, each with `fold_in(fold_in(key, c), t)`."""
    paths = np.zeros((8, num_steps, 2), np.float32)
    for c in range(8):
        x = np.asarray(walks.STARTS[c])
        for t in range(num_steps):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), c), t)
            x = paths[c, t] = 0.9 * x + 0.5 * np.asarray(jax.random.normal(key, (2,)))
    return paths


@pytest.fixture(scope="module")
def paths():
    return by_hand()


def check_rules(run_fn, paths):
    """Keys by chain and step; the steps that are kept; the number of steps."""
    for thin, chunk_size in ((1, None), (3, 7), (5, 4)):
        run = run_fn(thin=thin, chunk_size=chunk_size)
        kept = [t for t in range(walks.STEPS) if (t + 1) % thin == 0]
        assert run.trace["x"].shape == (8, len(kept), 2)
        np.testing.assert_allclose(run.trace["x"], paths[:, kept], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.trace["made"], np.array([[t + 1 for t in kept]] * 8))
        np.testing.assert_allclose(run.states.position, paths[:, -1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.states.made, walks.STEPS)
        assert float(run.reduced[1].steps) == 8 * walks.STEPS
        assert run.step == walks.STEPS


def test_keys_steps_and_thinning(paths):
    check_rules(walks.walk_run, paths)


def one_key_for_all(monkeypatch):
    def same_keys(key, num_chains):
        return jnp.broadcast_to(key, (num_chains,))

    monkeypatch.setattr(driver, "chain_keys", same_keys)
    return walks.walk_run


def padded_last_chunk(monkeypatch):
    def run_fn(thin, chunk_size):
        whole = -(-walks.STEPS // (chunk_size or walks.STEPS)) * (chunk_size or walks.STEPS)
        run = walks.walk_run(whole, thin=thin, chunk_size=chunk_size)
        crop = jax.tree.map(lambda leaf: leaf[:, : walks.STEPS // thin], run.trace)
        return run._replace(step=walks.STEPS, trace=crop)

    return run_fn


def thinning_one_early(monkeypatch):
    def run_fn(thin, chunk_size):
        run, whole = walks.walk_run(thin=thin, chunk_size=chunk_size), walks.walk_run()
        rows = slice(0, walks.STEPS // thin * thin, thin)
        return run._replace(trace=jax.tree.map(lambda leaf: leaf[:, rows], whole.trace))

    return run_fn


def step_counted_in_the_chunk(monkeypatch):
    def run_fn(thin, chunk_size):
        run = None
        for _ in range(-(-walks.STEPS // (chunk_size or walks.STEPS))):
            left = walks.STEPS - (run.step if run else 0)
            states = run.states if run else mcmc.init_chains(walks.WALK, walks.STARTS, params=1.0)
            new = mcmc.run_chains(
                jax.random.key(5), walks.WALK, states, min(left, chunk_size or walks.STEPS),
                params=jnp.float32(0.5), reducers=walks.REDUCERS, trace_fn=walks.keep,
            )  # fmt: skip
            done = run.step if run else 0
            run = new._replace(step=done + new.step)
        whole = walks.walk_run(thin=thin)
        return run._replace(trace=whole.trace, reduced=whole.reduced)

    return run_fn


MUTANTS = [one_key_for_all, padded_last_chunk, thinning_one_early, step_counted_in_the_chunk]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_rules_kill(mutant, monkeypatch, paths):
    with pytest.raises(AssertionError):
        check_rules(mutant(monkeypatch), paths)


def test_no_steps():
    run = walks.walk_run(0)
    assert run.step == 0 and run.trace["x"].shape == (8, 0, 2)
    assert run.trace["up"].dtype == bool
    np.testing.assert_array_equal(run.states.position, walks.STARTS)
    assert np.isnan(run.reduced[0].mean).all() and float(run.reduced[0].count) == 0
    assert walks.walk_run(2, trace_fn=None).trace is None
    assert walks.walk_run(0, tile=2).trace["x"].shape == (8, 0, 2)


def test_on_chunk_sees_a_complete_run_that_stays(paths):
    seen = []
    last = walks.walk_run(chunk_size=5, on_chunk=lambda run: seen.append(run) or run.step == 15)
    assert [run.step for run in seen] == [5, 10, 15] and last is seen[-1]
    np.testing.assert_allclose(seen[0].trace["x"], paths[:, :5], rtol=1e-5, atol=1e-6)
    walks.assert_same_run(walks.walk_run(start=seen[0]), walks.walk_run())
    assert walks.walk_run(chunk_size=5, deadline=0.0).step == 5
    stream = io.StringIO()
    walks.walk_run(chunk_size=12, on_chunk=mcmc.progress(walks.STEPS, stream=stream))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("sampling  12/23") and "acceptance 0." in lines[1]


def test_the_callers_arrays_stay():
    states = mcmc.init_chains(walks.WALK, walks.STARTS, params=1.0)
    mesh = sharding.make_mesh(1)
    states = sharding.place(states, mesh, jax.P("items"))
    start = None
    for _ in range(2):
        start = start or mcmc.run_chains(
            jax.random.key(5), walks.WALK, states, 4, params=1.0, mesh=mesh, chunk_size=2
        )
        mcmc.run_chains(jax.random.key(5), walks.WALK, None, 8, params=1.0, mesh=mesh, start=start)
    np.testing.assert_array_equal(states.position, walks.STARTS)
    assert np.isfinite(start.states.position).all()


@pytest.mark.slow
def test_each_chain_with_its_own_parameters():
    scales = jnp.arange(1.0, 9.0) / 8
    own = walks.walk_run(params=scales, params_axis=0, mesh=sharding.make_mesh(2))
    tiles = walks.walk_run(params=scales, params_axis=0, mesh=sharding.make_mesh(2), tile=2)
    shared = walks.walk_run(params=scales[5])
    np.testing.assert_allclose(own.trace["x"][5], shared.trace["x"][5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tiles.trace["x"], own.trace["x"], rtol=1e-5, atol=1e-6)


def test_pmap_twin():
    twin = mcmc.pmap_chains(
        jax.random.key(5),
        walks.WALK,
        mcmc.init_chains(walks.WALK, walks.STARTS, params=0.5),
        walks.STEPS,
        params=jnp.float32(0.5),
        mesh=sharding.make_mesh(4),
        reducers=walks.REDUCERS,
        trace_fn=walks.keep,
        thin=3,
    )
    ours = walks.walk_run(thin=3)
    for a, b in zip(*(jax.tree.leaves(r._replace(key=None)) for r in (ours, twin)), strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_explicit_meshes_axes_by_name_and_old_keys():
    explicit = jax.make_mesh((2,), ("chains",))
    assert explicit.axis_types == (AxisType.Explicit,)
    states = jax.device_put(
        mcmc.init_chains(walks.WALK, walks.STARTS, params=0.5),
        NamedSharding(explicit, jax.P("chains")),
    )
    run = mcmc.run_chains(
        jax.random.PRNGKey(5),
        walks.WALK,
        states,
        walks.STEPS,
        params=jnp.float32(0.5),
        mesh=explicit,
        axis_name="chains",
        reducers=walks.REDUCERS,
        trace_fn=walks.keep,
    )
    walks.assert_same_run(run, walks.walk_run())
    two = jax.make_mesh((2, 4), ("chains", "model"))
    walks.assert_same_run(walks.walk_run(mesh=two, axis_name="chains"), run)


def test_init_draws_by_chain():
    kernel = blackjax.base.SamplingAlgorithm(
        lambda x, rng_key: x + jax.random.normal(rng_key, x.shape), None
    )
    few = mcmc.init_chains(kernel, walks.STARTS[:3], key=jax.random.key(1))
    many = mcmc.init_chains(kernel, walks.STARTS, key=jax.random.key(1), mesh=sharding.make_mesh(4))
    np.testing.assert_allclose(few, many[:3], rtol=1e-6)
    assert len(many.sharding.device_set) == 4 and len(np.unique(many - walks.STARTS)) == 16


def test_errors_name_what_is_wrong():
    def refused(error, message, num_steps=walks.STEPS, **options):
        with pytest.raises(error, match=message):
            walks.walk_run(num_steps, **options)

    mesh = sharding.make_mesh(3)
    refused(ValueError, "8 chains do not divide over 3 devices: .* multiple of 3", mesh=mesh)
    refused(
        ValueError, "8 chains do not divide over 2 devices in tiles of 3",
        mesh=sharding.make_mesh(2), tile=3,
    )  # fmt: skip
    refused(ValueError, "num_steps must be at least 0, got -1", -1)
    refused(ValueError, "thin must be at least 1, got 0", thin=0)
    refused(ValueError, "chunk_size must be at least 1, got 0", chunk_size=0)
    refused(ValueError, "axis_name must be one of", mesh=mesh, axis_name="rows")
    refused(
        ValueError, "params are for 3 chains but there are 8", params=jnp.ones(3), params_axis=0
    )
    start = walks.walk_run(5)
    refused(ValueError, "num_steps=3 is before start, which has made 5", 3, start=start)
    refused(ValueError, "thin must be that of start, 1, got 2", start=start, thin=2)
    refused(ValueError, "start has 2 reducers, got 0", start=start, reducers=())
    with pytest.raises(ValueError, match="key must be that of start"):
        mcmc.run_chains(
            jax.random.key(6), walks.WALK, None, 9, params=1.0, start=start, reducers=walks.REDUCERS
        )
    states = walks.Walk(walks.STARTS, jnp.zeros(7, jnp.int32))
    with pytest.raises(ValueError, match=r"states.made has 7 chains but states.position has 8"):
        mcmc.run_chains(jax.random.key(0), walks.WALK, states, 3, params=1.0)
    with pytest.raises(TypeError, match="params must be given: algorithm is a Kernel"):
        mcmc.init_chains(walks.WALK, walks.STARTS)
    with pytest.raises(TypeError, match="params go with a Kernel"):
        mcmc.init_chains(walks.KERNELS["ula"][0], walks.STARTS, params=1.0)
    with pytest.raises(ValueError, match=r"params.step_size must be positive and finite, got 0"):
        mcmc.init_chains(
            walks.KERNELS["hmc"][0], walks.STARTS, params=mcmc.HMCParams(0.0, jnp.ones(2))
        )
    spread = walks.walk_run(1, mesh=sharding.make_mesh(2)).states
    with pytest.raises(ValueError, match="states lie on 2 devices: mesh must be given"):
        mcmc.run_chains(jax.random.key(0), walks.WALK, spread, 3, params=1.0)
    outside = blackjax.mala(lambda x: jnp.sum(jnp.log(x)), 0.1)
    with pytest.raises(ValueError, match=r"states.logdensity is not finite in chains \[2, 5\]"):
        mcmc.init_chains(outside, (1 + walks.STARTS).at[jnp.array([2, 5])].set(-1.0))
