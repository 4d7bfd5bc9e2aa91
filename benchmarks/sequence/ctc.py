"""The CTC loss and its gradient, beside optax's and PyTorch's."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import machine
from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax.sequence import ctc

DESCRIPTION = (
    "`value_and_grad` of the sum of {batch} losses with respect to the logits (standard normal, "
    "{megabytes} MB), {frames} frames, {labels} labels, {classes} classes, all lengths full. "
    "PyTorch's program is `log_softmax`, `ctc_loss`, `backward`. Errors are of the losses, "
    "relative, and of the gradient, whose entries are at most 1, against float64."
)
FEW = ((16, 250, 32, 50), (32, 500, 64, 100), (32, 1000, 32, 200))
MANY = ((16, 1000, 1000, 150), (8, 1500, 5000, 100), (32, 500, 4096, 50))
ACCELERATOR = ((64, 1000, 1024, 100), (256, 1000, 64, 200), (32, 500, 4096, 50))


def cases(shapes: tuple[tuple[int, int, int, int], ...] | None = None) -> list[Case]:
    """Batch, frames, classes and labels, from characters to word pieces."""
    return [_case(*shape) for shape in shapes or pick(FEW + MANY, ACCELERATOR)]


def quick_cases() -> list[Case]:
    """Two small shapes and one with many classes."""
    return cases((*FEW[:2], MANY[0]) if pick(True, False) else None)


def _case(batch: int, frames: int, classes: int, labels: int) -> Case:
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((batch, frames, classes), np.float32)
    targets = generator.integers(1, classes, size=(batch, labels)).astype(np.int32)

    def objective(loss_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def total(logits: Any, targets: Any) -> Any:
            losses = loss_fn(logits, targets)
            return jnp.sum(losses), losses

        return jax.value_and_grad(total, has_aux=True)

    @functools.lru_cache
    def truth() -> tuple[np.ndarray, np.ndarray]:
        """In float64: no program is its own judge but in another precision."""
        with jax.enable_x64(True):
            exact = jax.jit(objective(ctc.ctc_loss))
            (_, losses), gradient = exact(logits.astype(np.float64), targets)
            return np.asarray(losses), np.asarray(gradient)

    def errors(losses: Any, gradient: Any) -> dict[str, float]:
        wanted, wanted_gradient = truth()
        return {
            "loss": float(np.max(np.abs(np.asarray(losses, np.float64) / wanted - 1))),
            "gradient": float(np.max(np.abs(np.asarray(gradient) - wanted_gradient))),
        }

    def prepare(loss_fn: Callable[[Any, Any], Any]) -> Program:
        arrays = jax.device_put((logits, targets))
        executable, seconds, temporary = compiled(objective(loss_fn), *arrays)
        (_, losses), gradient = executable(*arrays)
        return Program(
            lambda: jax.block_until_ready(executable(*arrays)),
            batch, errors(losses, gradient), seconds, temporary,
        )  # fmt: skip

    def of_optax(logits: Any, targets: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            paddings = jnp.zeros(logits.shape[:2]), jnp.zeros(targets.shape)
            return optax.ctc_loss(logits, paddings[0], targets, paddings[1])

    num_threads = sorted({1, machine.cores()})
    contenders = [
        Contender("probjax ctc_loss", lambda: prepare(ctc.ctc_loss)),
        Contender("optax ctc_loss", lambda: prepare(of_optax), peer=True),
    ]
    for threads in num_threads:
        contenders.append(
            Contender(
                f"PyTorch ctc_loss, {threads} thread{'s' * (threads > 1)}",
                functools.partial(_torch, logits, targets, threads, errors),
                peer=True,
                requires="torch",
            )
        )
    bars = (2.5, 2.0) if classes >= 1000 else (1.3, 1.3)
    description = DESCRIPTION.format(
        batch=batch, frames=frames, labels=labels, classes=classes,
        megabytes=round(logits.nbytes / 1e6),
    )  # fmt: skip
    return Case(
        f"sequence/ctc: {batch}x{frames}x{classes}x{labels}", description, "sequences", batch,
        tuple(contenders), tolerance=2e-2,
        bars=(Bar("speed", bars[0], "optax"), Bar("speed", bars[1], "PyTorch")),
    )  # fmt: skip


def _torch(logits: np.ndarray, targets: np.ndarray, threads: int, errors: Any) -> Program:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = torch.tensor(logits, device=device, requires_grad=True)
    aims = torch.tensor(targets, device=device, dtype=torch.long)
    batch, frames, _ = logits.shape
    lengths = (
        torch.full((batch,), frames, dtype=torch.long),
        torch.full((batch,), targets.shape[1], dtype=torch.long),
    )

    def once() -> tuple[Any, Any]:
        torch.set_num_threads(threads)
        scores.grad = None
        log_probs = scores.log_softmax(-1).transpose(0, 1)
        losses = torch.nn.functional.ctc_loss(log_probs, aims, *lengths, reduction="none")
        losses.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return losses, scores.grad

    losses, gradient = once()
    found = errors(losses.detach().cpu().numpy(), gradient.cpu().numpy())
    return Program(once, batch, found)
