"""Runs: cut, saved, killed and resumed, with the same bits; the trace on the host; progress."""

import importlib.util
import io
import itertools
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from probjax import mcmc, sharding
from probjax.mcmc.runs import HostTrace

_spec = importlib.util.spec_from_file_location("walks", Path(__file__).with_name("walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)


@pytest.mark.parametrize("cut", [1, 10, 23])
def test_cut_and_resumed(cut):
    whole = walks.walk_run(thin=3)
    half = walks.walk_run(cut, thin=3)
    rest = walks.walk_run(thin=3, start=half, mesh=sharding.make_mesh(4), chunk_size=6)
    walks.assert_same_run(rest, whole)
    walks.assert_same_run(walks.walk_run(thin=3, start=rest, mesh=sharding.make_mesh(2)), whole)


@pytest.mark.parametrize("cut", [2, 10])
def test_through_a_checkpoint_onto_other_devices(tmp_path, cut):
    config = {"seed": 5}
    half = walks.walk_run(cut, thin=3)
    mcmc.save_run(tmp_path, half, config=config)
    like = walks.walk_run(0, thin=3, mesh=sharding.make_mesh(8))
    back = mcmc.restore_run(tmp_path, like, config=config)
    assert back.step == cut and back.reduced is None
    assert len(back.states.position.sharding.device_set) == 8
    rest = walks.walk_run(thin=3, start=back, mesh=sharding.make_mesh(8))
    walks.assert_same_run(rest, walks.walk_run(thin=3))
    walks.assert_same_run(walks.walk_run(cut, thin=3, start=back, mesh=sharding.make_mesh(8)), half)
    with pytest.raises(sharding.checkpoints.CheckpointError, match="seed is 5 there, 6 here"):
        mcmc.restore_run(tmp_path, like, config={"seed": 6})


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


@pytest.mark.parametrize("thin", [1, 3])
@pytest.mark.parametrize("cuts", [[0, 23], [0, 1, 8, 15, 23], [0, 2, 4, 23]])
def test_the_trace_on_the_host_is_that_of_one_chunk(thin, cuts):
    """A chunk hands over a row for each thinning group it touches; the last may be unfinished."""
    values = np.arange(23)
    wanted = values[thin - 1 :: thin]

    def rows(start, stop):
        groups = range(start // thin, (stop - 1) // thin + 1)
        return np.stack([[values[min(g * thin + thin, stop) - 1]] * 2 for g in groups])

    middle = cuts[len(cuts) // 2]
    trace = HostTrace(None, 0, 23, thin)
    for start, stop in itertools.pairwise(cuts):
        trace.take({"x": rows(start, stop)}, start, stop)
        np.testing.assert_array_equal(trace.so_far(stop)["x"], [wanted[: stop // thin]] * 2)
    if 0 < middle < 23:
        later = HostTrace(trace.so_far(middle), middle, 23, thin)
        later.take({"x": rows(middle, 23)}, middle, 23)
        np.testing.assert_array_equal(later.so_far(23)["x"], [wanted] * 2)


def test_progress_without_counts_and_as_json():
    stream = io.StringIO()
    callback = mcmc.progress(20, stream=stream, as_json=True, label="walk")
    run = mcmc.Run(None, 10, (), (), None, jax.random.key(0), 1)
    for step in (10, 20):
        callback(run._replace(step=step))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert not {"acceptance", "divergent"} & set(lines[0])


def test_saved_runs_are_counted_and_chosen(tmp_path):
    run = walks.walk_run(4, trace_fn=None)
    for step in (1, 2, 3):
        mcmc.save_run(tmp_path, run._replace(step=step), config={}, keep=2)
    assert sharding.checkpoints.steps(tmp_path) == [2, 3]
    assert mcmc.restore_run(tmp_path, run, config={}).step == 3
    assert mcmc.restore_run(tmp_path, run, config={}, step=2).step == 2
    with pytest.raises(sharding.checkpoints.CheckpointError):
        mcmc.restore_run(tmp_path / "absent", run, config={})
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        mcmc.save_run(tmp_path, run, config={}, keep=0)
