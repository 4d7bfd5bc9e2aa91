"""The chunked loop: where it is cut does not matter, and it ends for the reason it says."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import sharding
from probjax.core import step_key
from probjax.sharding import loops


def walk(state, step, key):
    moved = 0.9 * state + jax.random.normal(step_key(key, step), state.shape)
    return moved, {"mean": moved.mean(), "step": step}


def run(**options):
    chunks = []
    options = {
        "args": (jax.random.key(0),),
        "on_chunk": lambda c: chunks.append(c) and None,
        **options,
    }
    result = sharding.run_chunks(walk, jnp.ones(3), 23, **options)
    return result, chunks


def test_chunk_size_and_resume_point_do_not_change_a_bit():
    whole, chunks = run(chunk_size=23)
    assert whole.reason == "finished" and whole.step == 23
    for size in (1, 7, 100):
        np.testing.assert_array_equal(run(chunk_size=size)[0].state, whole.state)
    half = sharding.run_chunks(walk, jnp.ones(3), 11, chunk_size=4, args=(jax.random.key(0),))
    rest = sharding.run_chunks(
        walk, half.state, 23, chunk_size=5, start=11, args=(jax.random.key(0),)
    )
    np.testing.assert_array_equal(rest.state, whole.state)
    pieces = np.concatenate([c.metrics["step"] for c in run(chunk_size=7)[1]])
    np.testing.assert_array_equal(pieces, np.arange(23))
    np.testing.assert_array_equal(
        np.concatenate([c.metrics["mean"] for c in run(chunk_size=7)[1]]), chunks[0].metrics["mean"]
    )


def test_one_compile_for_tails_and_resumes():
    def step(state, t):
        return state + 1.0, t

    for start, stop in ((0, 10), (10, 13), (2, 3)):
        sharding.run_chunks(step, jnp.zeros(()), stop, chunk_size=4, start=start)
    assert loops.chunk_program(step, 4, ())._cache_size() == 1


def test_the_callers_state_is_not_donated():
    state = jnp.ones(3)
    sharding.run_chunks(walk, state, 4, chunk_size=2, args=(jax.random.key(0),))
    assert state.tolist() == [1, 1, 1]


def test_deadline_and_callback_end_it_at_a_border():
    result, chunks = run(chunk_size=5, deadline=0.0)
    assert (result.step, result.reason, len(chunks)) == (5, "deadline", 1)
    assert chunks[0].ending
    result, _ = run(chunk_size=5, on_chunk=lambda chunk: chunk.stop == 10)
    assert (result.step, result.reason) == (10, "callback")
    result, _ = run(chunk_size=23, deadline=0.0)
    assert result.reason == "finished"


def test_a_signal_ends_it_at_a_border_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    kill = lambda chunk: os.kill(os.getpid(), signal.SIGTERM) if chunk.stop == 5 else None
    result, _ = run(chunk_size=5, on_chunk=kill)
    assert (result.step, result.reason) == (10, "signal")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.multiprocess
def test_a_second_interrupt_ends_it_at_once():
    program = textwrap.dedent(
        """
        import os, signal, time, jax.numpy as jnp
        from probjax import sharding
        # A shell's background jobs are born ignoring interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def twice(chunk):
            for _ in range(2):  # one after the other: equal signals that are pending are one
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
        try:
            sharding.run_chunks(lambda s, t: (s, t), jnp.ones(1), 10, chunk_size=1, on_chunk=twice)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert out.stdout == "interrupted\n", out.stderr


def test_empty_runs_and_errors():
    assert run(start=23)[0] == (pytest.approx(np.ones(3)), 23, "finished")
    for options, message in (
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"start": 24}, "start must not be beyond num_steps=23, got 24"),
        ({"start": -1}, "start must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)
