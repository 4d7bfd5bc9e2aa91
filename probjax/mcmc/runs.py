"""Runs: what a run is, how it is saved and brought back, how it tells of its progress.

>>> import tempfile
>>> import jax, jax.numpy as jnp, numpy as np
>>> from probjax import mcmc, sharding
>>> algorithm = mcmc.ula(lambda x: -x, 0.1)
>>> states = mcmc.init_chains(algorithm, jnp.zeros((8, 2)))
>>> go = lambda num_steps, **options: mcmc.run_chains(
...     jax.random.key(0), algorithm, states, num_steps, **options)
>>> folder = tempfile.mkdtemp()
>>> mcmc.save_run(folder, go(30), config={"seed": 0})
>>> like = go(0, mesh=sharding.make_mesh(4))
>>> run = mcmc.restore_run(folder, like, config={"seed": 0})
>>> more = go(50, start=run, mesh=sharding.make_mesh(4))
>>> more.step, np.allclose(more.states.position, go(50).states.position)
(50, True)
"""

import io
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from probjax import sharding
from probjax.core.keys import as_key
from probjax.mcmc.program import on_host
from probjax.mcmc.reducers import Counts, Reducer
from probjax.sharding import checkpoints


class Run(NamedTuple):
    """A run as far as it has come: enough to go on from, with the same bits."""

    states: Any
    """States of the chains, leaves `(C, ...)`, on the devices."""
    step: int
    """The next step to make."""
    accs: tuple[Any, ...]
    """Accumulators of the reducers, leaves `(C, ...)`."""
    reduced: tuple[Any, ...] | None
    """What the reducers give, one entry for each."""
    trace: Any
    """What `trace_fn` kept, NumPy leaves `(C, K, ...)` on the host; `None` without one."""
    key: Key[Array, ""]
    """The key of all chains."""
    thin: int
    """The trace holds every `thin`-th step."""


def save_run(
    folder: str | pathlib.Path, run: Run, *, config: Mapping[str, Any], keep: int = 2
) -> None:
    """Write a run, atomically: states, accumulators, trace and key.

    What the reducers give is not written: the accumulators tell it.

    Args:
        folder: where checkpoints go; made if absent.
        run: the run, for instance as `on_chunk` gets it.
        config: JSON-ready mapping; `restore_run` demands the same.
        keep: how many checkpoints stay.

    Raises:
        ValueError: `keep < 1`.
        OSError: the folder cannot be written.
    """
    checkpoints.save(folder, int(run.step), _saved(run), config=config, keep=keep)


def restore_run(
    folder: str | pathlib.Path, like: Run, *, config: Mapping[str, Any], step: int | None = None
) -> Run:
    """Read a run, onto the devices of `like`, which need not be those it was saved from.

    Args:
        folder: the run's checkpoint folder.
        like: a run of the same chains, such as `run_chains` gives for `num_steps=0` with the same
            reducers and trace.
        config: what `save_run` was given; a difference is an error that names the first field.
        step: which checkpoint; the last one when `None`.

    Returns:
        The run, to be handed to `run_chains` as `start`. Its `reduced` is `None`: the next
        `run_chains` computes it, also for no further step.

    Raises:
        probjax.sharding.checkpoints.CheckpointError: there is none, it is damaged, or belongs to
            another config or other chains.
    """
    known = checkpoints.steps(folder)
    at = known[-1] if step is None and known else step or 0
    trace = jax.tree.map(
        lambda leaf: np.zeros((leaf.shape[0], at // like.thin, *leaf.shape[2:]), leaf.dtype),
        like.trace,
    )
    wanted = _saved(like._replace(step=at, trace=trace))
    found, at = checkpoints.restore(folder, wanted, config=config, step=step)
    if found["trace"] is not None:
        trace = jax.tree.map(on_host, found["trace"])
    return Run(found["states"], at, found["accs"], None, trace, found["key"], like.thin)


def progress(
    num_steps: int,
    *,
    label: str = "sampling",
    stream: io.TextIOBase | None = None,
    as_json: bool = False,
) -> Callable[[Run], None]:
    """Make an `on_chunk` callback that tells rate and time left, and acceptance and divergences.

    The last two need `counts()` among the reducers.

    Args:
        num_steps: as given to `run_chains`.
        label: what is going on.
        stream: where to; standard error when `None`.
        as_json: one JSON object on each line instead.

    Returns:
        The callback; `sharding.progress` does the printing.

    Example:
        >>> import sys
        >>> import jax.numpy as jnp
        >>> from probjax import mcmc
        >>> algorithm = mcmc.ula(lambda x: -x, 0.1)
        >>> states = mcmc.init_chains(algorithm, jnp.zeros((4, 1)))
        >>> _ = mcmc.run_chains(
        ...     jax.random.key(0), algorithm, states, 20, chunk_size=10,
        ...     reducers=(mcmc.counts(),), on_chunk=mcmc.progress(20, stream=sys.stdout))
        sampling  10/20   50%  ... steps/s  acceptance 1  divergent 0  ... left
        sampling  20/20  100%  ... steps/s  acceptance 1  divergent 0  ...
    """
    show = sharding.progress(
        label, stream=stream, as_json=as_json, show=("acceptance", "divergent")
    )
    begun, before = time.monotonic(), [0]

    def callback(run: Run) -> None:
        metrics = {}
        for found in run.reduced or ():
            if isinstance(found, Counts):
                metrics = {
                    "acceptance": np.asarray(found.acceptance_rate),
                    "divergent": np.asarray(found.divergent),
                }
        ending = run.step >= num_steps
        seconds = time.monotonic() - begun
        show(sharding.Chunk(None, before[0], run.step, num_steps, metrics, seconds, ending))
        before[0] = run.step

    return callback


def _saved(run: Run) -> dict[str, Any]:
    # Orbax writes no empty arrays.
    empty = any(0 in leaf.shape for leaf in jax.tree.leaves(run.trace))
    trace = None if empty else jax.tree.map(np.ascontiguousarray, run.trace)
    return {"states": run.states, "accs": run.accs, "trace": trace, "key": run.key}


class HostTrace:
    """The rows kept so far, on the host, `(K, C, ...)`: chunks append, nothing is copied twice."""

    def __init__(self, before: Any, first: int, last: int, thin: int):
        self.before, self.first, self.last, self.thin = before, first, last, thin
        leaves = jax.tree.leaves(before)
        self.done = leaves[0].shape[1] if leaves else 0
        self.buffer: Any = None

    def row(self, step: int) -> int:
        """How many rows there are before `step`."""
        return self.done + step // self.thin - self.first // self.thin

    def take(self, kept: Any, start: int, stop: int) -> None:
        """Take in the rows `(rows, C, ...)` of the steps `start, ..., stop - 1`."""
        kept = jax.tree.map(on_host, kept)
        low, high, total = self.row(start), self.row(stop), self.row(self.last)
        if low == 0 and high == total:
            self.buffer = jax.tree.map(lambda leaf: leaf[:high], kept)
            return
        if self.buffer is None:
            self.buffer = jax.tree.map(
                lambda leaf: np.zeros((total, *leaf.shape[1:]), leaf.dtype), kept
            )
            if self.before is not None:
                self._write(jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), self.before), 0)
        self._write(jax.tree.map(lambda leaf: leaf[: high - low], kept), low)

    def _write(self, new: Any, low: int) -> None:
        for rows_, part in zip(jax.tree.leaves(self.buffer), jax.tree.leaves(new), strict=True):
            rows_[low : low + len(part)] = part

    def so_far(self, step: int) -> Any:
        """The trace before `step`, `(C, K, ...)`."""
        high = self.row(step)
        return jax.tree.map(lambda leaf: np.moveaxis(leaf[:high], 0, 1), self.buffer)


def check_start(
    start: Run, key: Array, num_steps: int, reducers: tuple[Reducer, ...], thin: int
) -> None:
    """Demand that a run can go on from `start`.

    Args:
        start: the run.
        key: the key given now.
        num_steps: steps of the whole run.
        reducers: the reducers given now.
        thin: the thinning given now.

    Raises:
        ValueError: something differs.
    """
    if int(start.step) > num_steps:
        raise ValueError(
            f"num_steps={num_steps} is before start, which has made {int(start.step)} steps; "
            "it counts from the beginning of the run"
        )
    if start.thin != thin:
        raise ValueError(f"thin must be that of start, {start.thin}, got {thin}")
    if len(start.accs) != len(reducers):
        raise ValueError(f"start has {len(start.accs)} reducers, got {len(reducers)}")
    same = jax.random.key_data(as_key(start.key)) == jax.random.key_data(key)
    if not bool(np.all(on_host(same))):
        raise ValueError("key must be that of start, else the run would not go on with its numbers")
