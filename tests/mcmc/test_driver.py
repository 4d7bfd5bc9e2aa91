"""The loop all chains share, and many chains on many devices."""

import io
import signal
import subprocess
import sys
import textwrap
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
from probjax.mcmc.program import sampling_program


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


# Many chains.

STEPS = 23


class Walk(NamedTuple):
    position: jax.Array
    made: jax.Array


class WalkInfo(NamedTuple):
    acceptance_rate: jax.Array
    is_accepted: jax.Array


def stroll(key, state, params):
    noise = jax.random.normal(key, state.position.shape)
    moved = 0.9 * state.position + params * noise
    flag = noise[0] > 0
    return Walk(moved, state.made + 1), WalkInfo(flag.astype(moved.dtype), flag)


WALK = mcmc.Kernel(lambda x, params: Walk(x, jnp.zeros((), jnp.int32)), stroll)
STARTS = jnp.arange(16.0).reshape(8, 2) / 3
REDUCERS = (mcmc.moments(), mcmc.counts())


def keep(state, info):
    return {"x": state.position, "made": state.made, "up": info.is_accepted}


def walk_run(num_steps=STEPS, algorithm=WALK, **options):
    options = {"params": jnp.float32(0.5), "reducers": REDUCERS, "trace_fn": keep, **options}
    states = mcmc.init_chains(algorithm, STARTS, params=options["params"])
    return mcmc.run_chains(jax.random.key(5), algorithm, states, num_steps, **options)


def assert_same_run(one, other):
    assert one.step == other.step
    for a, b in zip(*(jax.tree.leaves(r._replace(key=None)) for r in (one, other)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def by_hand(num_steps=STEPS):
    """The chains one after the other, each with `fold_in(fold_in(key, c), t)`."""
    paths = np.zeros((8, num_steps, 2), np.float32)
    for c in range(8):
        x = np.asarray(STARTS[c])
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
        kept = [t for t in range(STEPS) if (t + 1) % thin == 0]
        assert run.trace["x"].shape == (8, len(kept), 2)
        np.testing.assert_allclose(run.trace["x"], paths[:, kept], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.trace["made"], np.array([[t + 1 for t in kept]] * 8))
        np.testing.assert_allclose(run.states.position, paths[:, -1], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.states.made, STEPS)
        assert float(run.reduced[1].steps) == 8 * STEPS
        assert run.step == STEPS


def test_keys_steps_and_thinning(paths):
    check_rules(walk_run, paths)


def one_key_for_all(monkeypatch):
    def same_keys(key, num_chains):
        return jnp.broadcast_to(key, (num_chains,))

    monkeypatch.setattr(driver, "chain_keys", same_keys)
    return walk_run


def padded_last_chunk(monkeypatch):
    def run_fn(thin, chunk_size):
        whole = -(-STEPS // (chunk_size or STEPS)) * (chunk_size or STEPS)
        run = walk_run(whole, thin=thin, chunk_size=chunk_size)
        crop = jax.tree.map(lambda leaf: leaf[:, : STEPS // thin], run.trace)
        return run._replace(step=STEPS, trace=crop)

    return run_fn


def thinning_one_early(monkeypatch):
    def run_fn(thin, chunk_size):
        run, whole = walk_run(thin=thin, chunk_size=chunk_size), walk_run()
        rows = slice(0, STEPS // thin * thin, thin)
        return run._replace(trace=jax.tree.map(lambda leaf: leaf[:, rows], whole.trace))

    return run_fn


def step_counted_in_the_chunk(monkeypatch):
    def run_fn(thin, chunk_size):
        run = None
        for _ in range(-(-STEPS // (chunk_size or STEPS))):
            left = STEPS - (run.step if run else 0)
            states = run.states if run else mcmc.init_chains(WALK, STARTS, params=1.0)
            new = mcmc.run_chains(
                jax.random.key(5), WALK, states, min(left, chunk_size or STEPS),
                params=jnp.float32(0.5), reducers=REDUCERS, trace_fn=keep,
            )  # fmt: skip
            done = run.step if run else 0
            run = new._replace(step=done + new.step)
        whole = walk_run(thin=thin)
        return run._replace(trace=whole.trace, reduced=whole.reduced)

    return run_fn


MUTANTS = [one_key_for_all, padded_last_chunk, thinning_one_early, step_counted_in_the_chunk]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_rules_kill(mutant, monkeypatch, paths):
    with pytest.raises(AssertionError):
        check_rules(mutant(monkeypatch), paths)


def logdensity_fn(x):
    return -0.5 * jnp.sum(x**2 / jnp.array([1.0, 4.0])) - 0.1 * x[0] * x[1]


def walker(key, x):
    return x + jax.random.normal(key, x.shape)


PARAMS = mcmc.HMCParams(0.4, jnp.array([1.0, 3.0]))
KERNELS = {
    "ula": (mcmc.ula(jax.grad(logdensity_fn), 0.1), None),
    "rmh": (blackjax.rmh(logdensity_fn, walker), None),
    "mala": (blackjax.mala(logdensity_fn, 0.3), None),
    "hmc": (mcmc.hmc_kernel(logdensity_fn, 3), PARAMS),
    "nuts": (mcmc.nuts_kernel(logdensity_fn, max_num_doublings=3), PARAMS),
}


def position(state, info):
    return state.position


def sampled(name, num_devices, num_steps=60, **options):
    algorithm, params = KERNELS[name]
    states = mcmc.init_chains(algorithm, STARTS, params=params)
    mesh = sharding.make_mesh(num_devices, axis="chains")
    return mcmc.run_chains(
        jax.random.key(2), algorithm, states, num_steps, params=params, mesh=mesh,
        **{"trace_fn": position, **options},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ula", "hmc"])
def test_chunks_do_not_change_a_bit(name):
    whole = sampled(name, 2, chunk_size=60)
    assert whole.trace.std(axis=1).min() > 0
    for chunk_size in (1, 7):
        assert_same_run(sampled(name, 2, chunk_size=chunk_size), whole)


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", ["ula", "rmh", "hmc", *slow("mala", "nuts")])
def test_devices_do_not_change_a_chain(name):
    whole = sampled(name, 1, 200)
    other = sampled(name, 4, 200)
    assert len(other.states.position.sharding.device_set) == 4
    np.testing.assert_allclose(other.trace, whole.trace, rtol=0, atol=1e-5)


def same_bits(name):
    whole = sampled(name, 1, tile=1)
    for num_devices in (2, 4, 8):
        assert_same_run(sampled(name, num_devices, tile=1, chunk_size=25), whole)


@pytest.mark.bits
@pytest.mark.parametrize("name", ["ula", *slow("rmh", "hmc")])
def test_tiles_do_not_change_a_bit(name):
    same_bits(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mala", "nuts"])
def test_tiles_do_not_change_a_bit_of_these_either(name):
    same_bits(name)


@pytest.fixture
def compilations():
    """Names of what was compiled since the list was cleared."""
    seen = []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)


def test_one_compile_for_tuning_tails_and_resumes(compilations):
    entered = []

    def counted(x):
        entered.append(x)
        return logdensity_fn(x)

    algorithm = mcmc.hmc_kernel(counted, 2)
    mesh = sharding.make_mesh(2)
    states = mcmc.init_chains(algorithm, STARTS, params=PARAMS, mesh=mesh)

    def go(num_steps, params=PARAMS, **options):
        return mcmc.run_chains(
            jax.random.key(0), algorithm, states, num_steps, params=params, chunk_size=8,
            trace_fn=position, reducers=REDUCERS, mesh=mesh, **options,
        )  # fmt: skip

    def everything():
        go(10, mcmc.HMCParams(0.1, jnp.ones(2)))
        entered.clear()
        half = go(13)
        go(20, mcmc.HMCParams(0.2, np.ones(2, np.float32)))
        go(20, mcmc.HMCParams(jnp.float32(0.2), jnp.ones(2)))
        go(29, start=half)
        assert not entered

    everything()
    compilations.clear()
    everything()
    assert not compilations


@pytest.mark.parametrize("name", ["hmc", "nuts"])
def test_no_collective_in_the_sampling_program(name, monkeypatch):
    texts = []

    def recording(options=()):
        def program(*args):
            texts.append(sampling_program(options).lower(*args).compile().as_text())
            return sampling_program(options)(*args)

        return program

    monkeypatch.setattr(driver, "sampling_program", recording)
    sampled(name, 4, 3, reducers=REDUCERS)
    assert len(texts) == 1 and "num_partitions=4" in texts[0]
    for collective in ("all-reduce", "all-gather", "all-to-all", "permute", "scatter("):
        assert collective not in texts[0]


@pytest.mark.parametrize("cut", [1, 10, 23])
def test_cut_and_resumed(cut):
    whole = walk_run(thin=3)
    half = walk_run(cut, thin=3)
    rest = walk_run(thin=3, start=half, mesh=sharding.make_mesh(4), chunk_size=6)
    assert_same_run(rest, whole)
    assert_same_run(walk_run(thin=3, start=rest, mesh=sharding.make_mesh(2)), whole)


@pytest.mark.parametrize("cut", [2, 10])
def test_through_a_checkpoint_onto_other_devices(tmp_path, cut):
    config = {"seed": 5}
    half = walk_run(cut, thin=3)
    mcmc.save_run(tmp_path, half, config=config)
    like = walk_run(0, thin=3, mesh=sharding.make_mesh(8))
    back = mcmc.restore_run(tmp_path, like, config=config)
    assert back.step == cut and back.reduced is None
    assert len(back.states.position.sharding.device_set) == 8
    rest = walk_run(thin=3, start=back, mesh=sharding.make_mesh(8))
    assert_same_run(rest, walk_run(thin=3))
    assert_same_run(walk_run(cut, thin=3, start=back, mesh=sharding.make_mesh(8)), half)
    with pytest.raises(sharding.checkpoints.CheckpointError, match="seed is 5 there, 6 here"):
        mcmc.restore_run(tmp_path, like, config={"seed": 6})


def test_no_steps():
    run = walk_run(0)
    assert run.step == 0 and run.trace["x"].shape == (8, 0, 2)
    assert run.trace["up"].dtype == bool
    np.testing.assert_array_equal(run.states.position, STARTS)
    assert np.isnan(run.reduced[0].mean).all() and float(run.reduced[0].count) == 0
    assert walk_run(2, trace_fn=None).trace is None
    assert walk_run(0, tile=2).trace["x"].shape == (8, 0, 2)


def test_on_chunk_sees_a_complete_run_that_stays(paths):
    seen = []
    last = walk_run(chunk_size=5, on_chunk=lambda run: seen.append(run) or run.step == 15)
    assert [run.step for run in seen] == [5, 10, 15] and last is seen[-1]
    np.testing.assert_allclose(seen[0].trace["x"], paths[:, :5], rtol=1e-5, atol=1e-6)
    assert_same_run(walk_run(start=seen[0]), walk_run())
    assert walk_run(chunk_size=5, deadline=0.0).step == 5
    stream = io.StringIO()
    walk_run(chunk_size=12, on_chunk=mcmc.progress(STEPS, stream=stream))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("sampling  12/23") and "acceptance 0." in lines[1]


def test_the_callers_arrays_stay():
    states = mcmc.init_chains(WALK, STARTS, params=1.0)
    mesh = sharding.make_mesh(1)
    states = sharding.place(states, mesh, jax.P("items"))
    start = None
    for _ in range(2):
        start = start or mcmc.run_chains(
            jax.random.key(5), WALK, states, 4, params=1.0, mesh=mesh, chunk_size=2
        )
        mcmc.run_chains(jax.random.key(5), WALK, None, 8, params=1.0, mesh=mesh, start=start)
    np.testing.assert_array_equal(states.position, STARTS)
    assert np.isfinite(start.states.position).all()


def test_each_chain_with_its_own_parameters():
    scales = jnp.arange(1.0, 9.0) / 8
    own = walk_run(params=scales, params_axis=0, mesh=sharding.make_mesh(2))
    tiles = walk_run(params=scales, params_axis=0, mesh=sharding.make_mesh(2), tile=2)
    shared = walk_run(params=scales[5])
    np.testing.assert_allclose(own.trace["x"][5], shared.trace["x"][5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tiles.trace["x"], own.trace["x"], rtol=1e-5, atol=1e-6)


def test_pmap_twin():
    twin = mcmc.pmap_chains(
        jax.random.key(5), WALK, mcmc.init_chains(WALK, STARTS, params=0.5), STEPS,
        params=jnp.float32(0.5), mesh=sharding.make_mesh(4), reducers=REDUCERS, trace_fn=keep,
        thin=3,
    )  # fmt: skip
    ours = walk_run(thin=3)
    for a, b in zip(*(jax.tree.leaves(r._replace(key=None)) for r in (ours, twin)), strict=True):
        np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=1e-5, atol=1e-6)


def test_explicit_meshes_axes_by_name_and_old_keys():
    explicit = jax.make_mesh((2,), ("chains",))
    assert explicit.axis_types == (AxisType.Explicit,)
    states = jax.device_put(
        mcmc.init_chains(WALK, STARTS, params=0.5), NamedSharding(explicit, jax.P("chains"))
    )
    run = mcmc.run_chains(
        jax.random.PRNGKey(5), WALK, states, STEPS, params=jnp.float32(0.5), mesh=explicit,
        axis_name="chains", reducers=REDUCERS, trace_fn=keep,
    )  # fmt: skip
    assert_same_run(run, walk_run())
    two = jax.make_mesh((2, 4), ("chains", "model"))
    assert_same_run(walk_run(mesh=two, axis_name="chains"), run)


def test_init_draws_by_chain():
    kernel = blackjax.base.SamplingAlgorithm(
        lambda x, rng_key: x + jax.random.normal(rng_key, x.shape), None
    )
    few = mcmc.init_chains(kernel, STARTS[:3], key=jax.random.key(1))
    many = mcmc.init_chains(kernel, STARTS, key=jax.random.key(1), mesh=sharding.make_mesh(4))
    np.testing.assert_allclose(few, many[:3], rtol=1e-6)
    assert len(many.sharding.device_set) == 4 and len(np.unique(many - STARTS)) == 16


def test_errors_name_what_is_wrong():
    def refused(error, message, num_steps=STEPS, **options):
        with pytest.raises(error, match=message):
            walk_run(num_steps, **options)

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
    start = walk_run(5)
    refused(ValueError, "num_steps=3 is before start, which has made 5", 3, start=start)
    refused(ValueError, "thin must be that of start, 1, got 2", start=start, thin=2)
    refused(ValueError, "start has 2 reducers, got 0", start=start, reducers=())
    with pytest.raises(ValueError, match="key must be that of start"):
        mcmc.run_chains(
            jax.random.key(6), WALK, None, 9, params=1.0, start=start, reducers=REDUCERS
        )
    states = Walk(STARTS, jnp.zeros(7, jnp.int32))
    with pytest.raises(ValueError, match=r"states.made has 7 chains but states.position has 8"):
        mcmc.run_chains(jax.random.key(0), WALK, states, 3, params=1.0)
    with pytest.raises(TypeError, match="params must be given: algorithm is a Kernel"):
        mcmc.init_chains(WALK, STARTS)
    with pytest.raises(TypeError, match="params go with a Kernel"):
        mcmc.init_chains(KERNELS["ula"][0], STARTS, params=1.0)
    with pytest.raises(ValueError, match=r"params.step_size must be positive and finite, got 0"):
        mcmc.init_chains(KERNELS["hmc"][0], STARTS, params=mcmc.HMCParams(0.0, jnp.ones(2)))
    spread = walk_run(1, mesh=sharding.make_mesh(2)).states
    with pytest.raises(ValueError, match="states lie on 2 devices: mesh must be given"):
        mcmc.run_chains(jax.random.key(0), WALK, spread, 3, params=1.0)
    outside = blackjax.mala(lambda x: jnp.sum(jnp.log(x)), 0.1)
    with pytest.raises(ValueError, match=r"states.logdensity is not finite in chains \[2, 5\]"):
        mcmc.init_chains(outside, (1 + STARTS).at[jnp.array([2, 5])].set(-1.0))


def test_a_kernel_that_fails_the_check_is_told_what_to_do():
    with pytest.raises(Exception) as caught:
        sampled("nuts", 2, check_vma=True)
    assert "check_vma=False" in "".join(caught.value.__notes__)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_killed_while_it_runs_and_resumed(tmp_path):
    program = textwrap.dedent(
        """
        import os, signal, sys
        import jax, jax.numpy as jnp
        jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
        from probjax import mcmc, sharding
        algorithm = mcmc.ula(lambda x: -x, 0.1)
        def go(num_steps, **options):
            states = mcmc.init_chains(algorithm, jnp.arange(8.0)[:, None])
            return mcmc.run_chains(
                jax.random.key(0), algorithm, states, num_steps, chunk_size=10, thin=4, tile=2,
                mesh=sharding.make_mesh(), trace_fn=lambda state, info: state.position,
                reducers=(mcmc.moments(),), **options)
        def save(run):
            mcmc.save_run(sys.argv[1], run, config={})
            if run.step == 30 and len(sys.argv) > 3:
                os.kill(os.getpid(), signal.SIGKILL)
        start = None
        if sharding.checkpoints.steps(sys.argv[1]):
            start = mcmc.restore_run(sys.argv[1], go(0), config={})
        run = go(50, start=start, on_chunk=save)
        final = jax.device_get(run.states.position)
        numbers = final.sum(), run.trace.sum(), run.reduced[0].mean[0]
        print(start and start.step, run.trace.shape, *(float(x).hex() for x in numbers))
        """
    )

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300
        )

    assert call(str(tmp_path / "a"), "4", "kill").returncode == -signal.SIGKILL
    again = call(str(tmp_path / "a"), "2")
    whole = call(str(tmp_path / "b"), "4")
    assert again.returncode == whole.returncode == 0, again.stderr + whole.stderr
    assert again.stdout.split()[0] == "30"
    assert again.stdout.split()[1:] == whole.stdout.split()[1:]
