"""The loss of a transducer and its gradient, beside log-softmax, a scan and autodiff."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax.sequence import transducer

DESCRIPTION = (
    "`value_and_grad` of the sum of {batch} losses with respect to the logits, {frames} frames, "
    "{labels} labels, {classes} classes, all lengths full. The peers take `log_softmax`, gather, "
    "add up in the logarithmic semiring and leave the gradient to JAX: by diagonals, one `scan` "
    "over T + U steps of `logaddexp`; and by rows, one over T steps of `cumlogsumexp`. Errors are "
    "of the losses, relative, and of the gradient, whose entries are at most 1, against the same "
    "program in float64."
)
CPU = ((4, 100, 30, 256), (2, 200, 50, 500))
ACCELERATOR = ((16, 200, 50, 1024), (8, 500, 100, 1024))


def cases(shapes: tuple[tuple[int, int, int, int], ...] | None = None) -> list[Case]:
    """Batch, frames, labels and classes of an utterance, small and large."""
    return [_case(*shape) for shape in shapes or pick(CPU, ACCELERATOR)]


def quick_cases() -> list[Case]:
    """The small utterance."""
    return cases(pick(CPU, ACCELERATOR)[:1])


def by_diagonals(logits: Any, labels: Any) -> Any:
    """The loss of one sequence by a scan over antidiagonals."""
    blank, label = _log_probs(logits, labels)
    frames, lanes = blank.shape
    frame = jnp.arange(frames + lanes - 1)[:, None] - jnp.arange(lanes)[None]
    inside = (frame >= 0) & (frame < frames)
    index = jnp.clip(frame, 0, frames - 1)
    stay = jnp.where(inside, jnp.take_along_axis(blank, index, axis=0), 0.0)
    move = jnp.where(inside[:, :-1], jnp.take_along_axis(label, index[:, :-1], axis=0), LOW)

    def step(alpha: Any, arcs: Any) -> Any:
        stay, move = arcs
        moved = jnp.pad(alpha[:-1] + move, (1, 0), constant_values=LOW)
        return jnp.logaddexp(alpha + stay, moved), None

    start = jnp.full_like(blank[0], LOW).at[0].set(0.0)
    return -jax.lax.scan(step, start, (stay, move))[0][-1]


def by_rows(logits: Any, labels: Any) -> Any:
    """The loss of one sequence by a scan over frames."""
    blank, label = _log_probs(logits, labels)
    shift = jnp.pad(jnp.cumsum(label, axis=1), ((0, 0), (1, 0)))

    def step(alpha: Any, row: Any) -> Any:
        blank, shift = row
        return shift + jax.lax.cumlogsumexp(alpha + blank - shift), None

    alpha, _ = jax.lax.scan(step, shift[0], (blank[:-1], shift[1:]))
    return -(alpha[-1] + blank[-1, -1])


LOW = -1e30
"""Minus infinity has no gradient here."""


def _log_probs(logits: Any, labels: Any) -> Any:
    log_probs = jax.nn.log_softmax(logits)
    label = jnp.take_along_axis(log_probs[:, :-1], labels[None, :, None], axis=-1)
    return log_probs[..., 0], label[..., 0]


def _case(batch: int, frames: int, labels: int, classes: int) -> Case:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(batch, frames, labels + 1, classes)).astype(np.float32)
    targets = generator.integers(1, classes, size=(batch, labels)).astype(np.int32)

    def program(loss_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def objective(logits: Any, targets: Any) -> Any:
            losses = loss_fn(logits, targets)
            return jnp.sum(losses), losses

        return jax.value_and_grad(objective, has_aux=True)

    def prepare(loss_fn: Callable[[Any, Any], Any]) -> Program:
        arrays = jax.device_put((logits, targets))
        executable, seconds, temporary = compiled(program(loss_fn), *arrays)
        (_, losses), gradient = executable(*arrays)
        wanted, wanted_gradient = truth()
        errors = {
            "loss": float(np.max(np.abs(np.asarray(losses, np.float64) / wanted - 1))),
            "gradient": float(np.max(np.abs(np.asarray(gradient, np.float64) - wanted_gradient))),
        }
        return Program(
            lambda: jax.block_until_ready(executable(*arrays)), batch, errors, seconds, temporary
        )

    known: list[Any] = []

    def truth() -> Any:
        """Diagonals in float64: no program is its own judge but in another precision."""
        if not known:
            with jax.enable_x64(True):
                exact = jax.jit(program(jax.vmap(by_diagonals)))
                (_, losses), gradient = exact(logits.astype(np.float64), targets)
                known.append((np.asarray(losses), np.asarray(gradient)))
        return known[0]

    contenders = (
        Contender("probjax rnnt_loss", lambda: prepare(transducer.rnnt_loss)),
        Contender("autodiff by diagonals", lambda: prepare(jax.vmap(by_diagonals)), peer=True),
        Contender("autodiff by rows", lambda: prepare(jax.vmap(by_rows)), peer=True),
    )
    description = DESCRIPTION.format(batch=batch, frames=frames, labels=labels, classes=classes)
    return Case(
        f"sequence/transducer: {batch}x{frames}x{labels}x{classes}", description, "sequences",
        batch, contenders, tolerance=1e-2, bars=(Bar("speed", 3.0),),
    )  # fmt: skip
