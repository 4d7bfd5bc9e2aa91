"""Long work as a host loop over jitted chunks.

At chunk borders, and only there, the host looks: it pulls statistics, prints progress, writes a
checkpoint, honours a deadline or a signal. Nothing calls back from traced code, and the number of
steps in a chunk is a traced value, so that tails and resumed runs reuse the one compiled program.

>>> import jax.numpy as jnp
>>> from probjax import sharding
>>> def step(state, index):
...     return state + index, {"state": state}
>>> result = sharding.run_chunks(step, jnp.int32(0), 10, chunk_size=4)
>>> int(result.state), result.step, result.reason
(45, 10, 'finished')
"""

import functools
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax.core import checks


class Chunk(NamedTuple):
    """What the host sees at a chunk border."""

    state: Any
    """The state after step `stop - 1`. Copy what is to outlive the callback: it is donated."""
    start: int
    """First step of the chunk."""
    stop: int
    """One past its last step."""
    num_steps: int
    """The number of steps of the whole run."""
    metrics: Any
    """The steps' observations on the host, arrays `(stop - start, ...)`."""
    seconds: float
    """Wall time since the loop was entered, compilation included."""
    ending: bool
    """Whether the loop ends here, by its last step, a deadline or a signal."""


class LoopResult(NamedTuple):
    """How a loop ended."""

    state: Any
    """The last state."""
    step: int
    """The next step to take; `num_steps` when finished."""
    reason: str
    """`finished`, `deadline`, `signal` or `callback`."""


def run_chunks(
    step_fn: Callable[..., tuple[Any, Any]],
    state: Any,
    num_steps: int,
    *,
    args: tuple[Any, ...] = (),
    start: int = 0,
    chunk_size: int = 100,
    on_chunk: Callable[[Chunk], bool | None] | None = None,
    deadline: float | None = None,
    compiler_options: dict[str, str] | None = None,
) -> LoopResult:
    r"""Run `state, metrics = step_fn(state, t, *args)` for `t = start, ..., num_steps - 1`.

    The result depends neither on `chunk_size` nor on where a run was cut, if `step_fn` draws its
    randomness from `core.keys.step_key(key, t)`.

    Args:
        step_fn: pure; `t` is a traced int32. `metrics` is a pytree of arrays.
        state: pytree carried from step to step. The caller's arrays are not donated.
        num_steps: steps of the whole run, `start` included.
        args: what each step reads and none writes (data, keys): traced, so not compiled in.
        start: first step, from a checkpoint.
        chunk_size: steps between two looks of the host.
        on_chunk: called at each border; returning `True` ends the loop there.
        deadline: wall seconds after which no further chunk is started.
        compiler_options: for the program of a chunk, such as `same_bits_options(mesh)`.

    Returns:
        The last state, the next step and the reason.

    Raises:
        ValueError: `chunk_size < 1`, negative `num_steps`, or `start` beyond it.

    Example:
        >>> import jax.numpy as jnp
        >>> borders = []
        >>> def step(x, t):
        ...     return x * 2.0, x
        >>> out = run_chunks(step, jnp.ones(()), 5, chunk_size=2,
        ...                  on_chunk=lambda c: borders.append((c.stop, c.metrics.tolist())))
        >>> borders
        [(2, [1.0, 2.0]), (4, [4.0, 8.0]), (5, [16.0])]
    """
    checks.at_least("num_steps", num_steps, 0)
    checks.at_least("chunk_size", chunk_size, 1)
    checks.at_least("start", start, 0)
    if start > num_steps:
        raise ValueError(f"start must not be beyond num_steps={num_steps}, got {start}")
    options = tuple(sorted((compiler_options or {}).items()))
    program = chunk_program(step_fn, chunk_size, options)
    state = jax.tree.map(jnp.copy, state)
    begun, step, reason = time.monotonic(), start, "finished"
    with SignalFlag() as interrupted:
        while step < num_steps:
            stop = min(step + chunk_size, num_steps)
            state, metrics = program(state, jnp.int32(step), jnp.int32(stop), *args)
            metrics = jax.tree.map(lambda leaf, n=stop - step: np.asarray(leaf)[:n], metrics)
            seconds = time.monotonic() - begun
            late = deadline is not None and seconds >= deadline
            stopping = agreed_reason("signal" if interrupted() else "deadline" if late else "")
            chunk = Chunk(
                state, step, stop, num_steps, metrics, seconds, bool(stopping) or stop == num_steps
            )
            step = stop
            if on_chunk is not None and on_chunk(chunk) is True:
                stopping = stopping or "callback"
            if stopping and step < num_steps:
                reason = stopping
                break
    return LoopResult(state, step, reason)


@functools.lru_cache(maxsize=64)
def chunk_program(
    step_fn: Callable[..., tuple[Any, Any]],
    chunk_size: int,
    compiler_options: tuple[tuple[str, str], ...] = (),
) -> Callable[..., Any]:
    """Make the program that `run_chunks` runs: up to `chunk_size` steps with donated state.

    Args:
        step_fn: as in `run_chunks`.
        chunk_size: rows of the metrics' buffers.
        compiler_options: pairs of name and value.

    Returns:
        A jitted `program(state, start, stop, *args) -> (state, metrics)`, the same object for
        equal arguments; rows of `metrics` from `stop - start` on are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> program = chunk_program(lambda x, t: (x + t, x), 3)
        >>> state, metrics = program(jnp.int32(5), jnp.int32(0), jnp.int32(2))
        >>> int(state), metrics.tolist()
        (6, [5, 5, 0])
    """

    def run(state, start, stop, *args):
        shapes = jax.eval_shape(step_fn, state, start, *args)[1]
        rows = jax.tree.map(lambda leaf: jnp.zeros((chunk_size, *leaf.shape), leaf.dtype), shapes)

        def body(step, carry):
            state, rows = carry
            state, metrics = step_fn(state, step, *args)
            rows = jax.tree.map(lambda all_, one: all_.at[step - start].set(one), rows, metrics)
            return state, rows

        return jax.lax.fori_loop(start, stop, body, (state, rows))

    return jax.jit(run, donate_argnums=0, compiler_options=dict(compiler_options) or None)


_REASONS = ("", "signal", "deadline")


def agreed_reason(reason: str) -> str:
    """Return the first process's reason to stop, so that all leave a loop at one border.

    Args:
        reason: this process's: `""`, `"signal"` or `"deadline"`.

    Returns:
        The same word on every process.

    Example:
        >>> agreed_reason("deadline")
        'deadline'
    """
    if jax.process_count() == 1:
        return reason
    from jax.experimental import multihost_utils

    code = multihost_utils.broadcast_one_to_all(np.int32(_REASONS.index(reason)))
    return _REASONS[int(code)]


class SignalFlag:
    """A context in which the first SIGINT or SIGTERM is only noted; a second acts as before.

    Entering gives a function that tells whether a signal has come.

    Example:
        >>> with SignalFlag() as interrupted:
        ...     print(interrupted())
        False
    """

    def __enter__(self) -> Callable[[], bool]:
        self._seen, self._before = False, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return lambda: self._seen

    def _note(self, number, frame) -> None:
        del frame
        self._seen = True
        signal.signal(number, self._before[number])

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
