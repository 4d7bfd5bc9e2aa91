"""Training of a denoiser: one pure step, and the loop that logs, checkpoints and resumes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from probjax import sharding
from probjax.core import item_keys, step_key, stream
from probjax.datasets import batch_indices
from probjax.experiments.runs import Context, Log
from probjax.sharding import checkpoints


class TrainState(NamedTuple):
    """What training carries from step to step, and what a checkpoint holds."""

    params: Any
    """The network's parameters."""
    average: Any
    """Their exponential moving average, from which samples are drawn."""
    opt_state: optax.OptState
    """The optimiser's state."""


LossFn = Callable[..., jax.Array]
"""`loss_fn(params, keys, rows) -> (B,)`, with a key for each row; rows may be a pytree."""


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Start from `params`.

    Args:
        params: the network's parameters.
        optimizer: what will update them.

    Returns:
        The state before step 0.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> init_state({"w": jnp.ones(2)}, optax.sgd(0.1)).average
        {'w': Array([1., 1.], dtype=float32)}
    """
    return TrainState(params, jax.tree.map(jnp.copy, params), optimizer.init(params))


def make_step(
    loss_fn: LossFn,
    batch_fn: Callable[[jax.Array, Any], Any],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    ema_decay: float,
    tile: int | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Make the pure step `(state, t, key, data) -> (state, metrics)` for `sharding.run_chunks`.

    The average follows the parameters with decay `min(ema_decay, (1 + t) / (10 + t))`, so that the
    first steps do not linger in it.

    Args:
        loss_fn: loss of each row.
        batch_fn: `batch_fn(key, rows_of_data)` turns the chosen examples into rows (dequantises,
            scales); data and rows may be pytrees.
        optimizer: what updates the parameters.
        mesh: devices over which the rows go.
        batch_size: rows in a step.
        ema_decay: decay of the average.
        tile: rows in a tile, for equal bits on any number of devices.

    Returns:
        The step function.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> step = make_step(lambda p, keys, x: (p - x) ** 2, lambda key, x: x, optax.sgd(0.5),
        ...                  sharding.make_mesh(1), batch_size=4, ema_decay=0.5)
        >>> state, metrics = jax.jit(step)(
        ...     init_state(jnp.float32(0.0), optax.sgd(0.5)), 0, jax.random.key(0), jnp.ones(4))
        >>> float(state.params), float(metrics["loss"])
        (1.0, 1.0)
    """
    gradient = sharding.value_and_grad(loss_fn, mesh, tile=tile)

    def step(state, t, key, data):
        num_examples = jax.tree.leaves(data)[0].shape[0]
        chosen = batch_indices(stream(key, "data"), t, num_examples, batch_size)
        examples = jax.tree.map(lambda leaf: leaf[chosen], data)
        rows = batch_fn(step_key(stream(key, "dequantise"), t), examples)
        keys = item_keys(step_key(stream(key, "noise"), t), batch_size)
        loss, grads = gradient(state.params, keys, rows)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        age = jnp.asarray(t, jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + age) / (10 + age))
        average = optax.incremental_update(params, state.average, 1.0 - decay)
        return TrainState(params, average, opt_state), {"loss": loss}

    return step


def fit(
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    num_steps: int,
    *,
    args: tuple[Any, ...],
    context: Context,
    config: dict[str, Any],
    held_out: Callable[[Any], jax.Array],
    chunk_size: int,
    checkpoint_every: int,
    same_bits: bool = False,
) -> tuple[TrainState, Log, str]:
    """Train, from the last checkpoint of the run folder where there is one.

    Args:
        step: from `make_step`.
        state: the state before step 0; its sharding is that of a resumed state too.
        num_steps: steps of the whole run.
        args: key and data, handed to each step.
        context: folder, mesh, progress and deadline.
        config: what a checkpoint belongs to.
        held_out: loss of the averaged parameters on data that is not trained on.
        chunk_size: steps between two looks of the host.
        checkpoint_every: steps between two checkpoints, rounded up to chunk borders.
        same_bits: compile so that a tiled step gives the same bits on any number of devices.

    Returns:
        The last state, the log and the reason why it ended (`sharding.LoopResult.reason`).

    Raises:
        CheckpointError: the folder's checkpoint cannot be used.
        FloatingPointError: the loss is not finite any more.
    """
    folder = context.folder / "checkpoints"
    state = sharding.place(state, context.mesh, P())
    start = 0
    if checkpoints.steps(folder):
        state, start = checkpoints.restore(folder, state, config=config)
        context.say(f"resumed from step {start} of {num_steps}")
    log = Log(context.folder, before=start)
    before = log.records[-1]["seconds"] if log.records else 0.0
    report = context.progress("train")
    held_out = jax.jit(held_out)
    saved = start

    def on_chunk(chunk: sharding.Chunk) -> None:
        nonlocal saved
        loss = float(np.mean(chunk.metrics["loss"]))
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} between steps {chunk.start} and {chunk.stop}; "
                f"the last good checkpoint is step {saved}"
            )
        log.append(
            {
                "step": chunk.stop,
                "loss": loss,
                "held_out_loss": float(held_out(chunk.state.average)),
                "seconds": before + chunk.seconds,
            }
        )
        report(chunk)
        if chunk.ending or chunk.stop - saved >= checkpoint_every:
            checkpoints.save(folder, chunk.stop, chunk.state, config=config)
            saved = chunk.stop

    result = sharding.run_chunks(
        step,
        state,
        num_steps,
        args=args,
        start=start,
        chunk_size=chunk_size,
        on_chunk=on_chunk,
        deadline=context.deadline,
        compiler_options=sharding.same_bits_options(context.mesh) if same_bits else None,
    )
    return result.state, log, result.reason


def adam(learning_rate: float, num_steps: int, warmup_steps: int) -> optax.GradientTransformation:
    """Adam with linear warm-up and cosine decay to zero.

    Args:
        learning_rate: the highest rate, reached after the warm-up.
        num_steps: steps after which the rate is zero.
        warmup_steps: steps of linear growth from zero; at most `num_steps - 1` are taken.

    Returns:
        The optimiser.

    Example:
        >>> import jax.numpy as jnp
        >>> len(adam(1e-3, 100, 10).init(jnp.ones(1)))
        2
    """
    warmup_steps = min(warmup_steps, num_steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, num_steps)
    return optax.adam(schedule)
