"""The programs whose traffic is counted, one or more of each pillar.

Importing this uses devices: set their number, and join other processes, before.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from probjax import mcmc, score, sharding
from probjax.core import item_keys
from probjax.diffeq.ensemble import solve_ensemble
from probjax.mcmc import warmup_programs
from probjax.networks import MLP
from probjax.sequence import ctc, sharded

DIM, WIDTH = 64, 256
LEVELS, STEPS_PER_LEVEL = (4.0, 2.0, 1.0, 0.5), 5
WARMUP, LEAPFROG, ROWS, PARAMETERS = 50, 5, 256, 20
FRAMES, CLASSES, LABELS = 128, 512, 24
ODE_STEPS = 100


class Spread(NamedTuple):
    """A program on a mesh."""

    fn: Any
    """Jitted."""
    args: tuple[Any, ...]
    """On the devices."""
    result: Callable[[Any], Any] = lambda out: out
    """The array that is compared with that of one device."""


class Program(NamedTuple):
    """A program that runs on any number of devices."""

    name: str
    """As printed."""
    pillar: str
    """The package that it stands for."""
    description: str
    """What it does, at which size."""
    step: str
    """What one step is."""
    steps: int
    """Steps in one call."""
    unit: str
    """Of what is spread over the devices, in the plural."""
    items: int
    """How many of them, on all devices together."""
    load: int
    """How many of them the estimate gives to each accelerator."""
    spread: Callable[[Mesh, int], Spread]
    """`spread(mesh, items)`."""
    cost: Callable[[int], tuple[Any, tuple[Any, ...], int]]
    """`cost(items)`: a function and arguments on one device, and how often a step takes it."""
    is_quick: bool = False
    """Whether it stands for its pillar where time is short."""


def numbers(*shape: int) -> np.ndarray:
    """Standard normal draws, the same in every process."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@functools.cache
def _network() -> tuple[Any, Any]:
    net = MLP((WIDTH, WIDTH, DIM))
    return net, jax.tree.map(np.asarray, net.init(jax.random.key(0), jnp.zeros(DIM)))


def _annealed(mesh: Mesh, items: int) -> Spread:
    net, params = _network()

    def score_fn(x: Any, noise_scale: Any) -> Any:
        return -(x + net.apply(params, x)) / (1.0 + noise_scale**2)

    def chain(key: Any, start: Any) -> Any:
        return mcmc.sample_annealed(
            key, score_fn, start, np.asarray(LEVELS, np.float32),
            num_steps_per_level=STEPS_PER_LEVEL, epsilon=0.05, denoise_last=False,
        )[0]  # fmt: skip

    given = item_keys(jax.random.key(0), items), 4 * numbers(items, DIM)
    fn = jax.jit(sharding.map_items(chain, mesh))
    return Spread(fn, sharding.place(given, mesh, P(mesh.axis_names)))


def _annealed_cost(items: int) -> Any:
    spread = _annealed(_one_device(), items)
    return spread.fn, spread.args, 1  # the loop's body, one step, is counted once


@functools.cache
def _logdensity() -> Callable[[Any], Any]:
    features, truth = numbers(ROWS, PARAMETERS), numbers(PARAMETERS)
    signs = np.sign(features @ truth + numbers(ROWS)).astype(np.float32)

    def logdensity_fn(x: Any) -> Any:
        return jnp.sum(jax.nn.log_sigmoid(signs * (features @ x))) - 0.5 * jnp.sum(x**2)

    return logdensity_fn


def _warmup(mesh: Mesh, items: int) -> Spread:
    kernel = mcmc.hmc_kernel(_logdensity(), LEAPFROG)
    axes = P(mesh.axis_names)
    plan = warmup_programs.Plan(kernel, WARMUP, "diag", mesh, axes, items)
    starts, half = 0.1 * numbers(items, PARAMETERS), np.float32(0.1)
    given = jax.random.key(0), starts, np.float32(0.8), half
    placed = sharding.place(given, mesh, (P(), axes, P(), P()))
    return Spread(warmup_programs.pooled_program(plan), placed, lambda out: out[1].step_size)


def _warmup_cost(items: int) -> Any:
    gradient = jax.jit(jax.vmap(jax.value_and_grad(_logdensity())))
    return gradient, (numbers(items, PARAMETERS),), LEAPFROG


def _training(mesh: Mesh, items: int) -> Spread:
    net, params = _network()
    optimizer = optax.adam(1e-3)

    def loss_fn(params: Any, x: Any, noise: Any) -> Any:
        return score.denoising_sm_from_noise(
            lambda y: net.apply(params, y), x, noise, noise_scale=0.5
        )

    gradient = sharding.value_and_grad(loss_fn, mesh)

    def step(params: Any, state: Any, x: Any, noise: Any) -> Any:
        loss, slope = gradient(params, x, noise)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, loss

    x, noise = np.split(numbers(2 * items, DIM), 2)
    rows = P(mesh.axis_names)
    given = params, jax.tree.map(np.asarray, optimizer.init(params)), x, noise
    placed = sharding.place(given, mesh, (P(), P(), rows, rows))
    return Spread(jax.jit(step), placed, lambda out: out[2])


def _training_cost(items: int) -> Any:
    spread = _training(_one_device(), items)
    return spread.fn, spread.args, 1


def lorenz(t: Any, y: Any, args: Any) -> Any:
    """Lorenz's equations."""
    sigma, rho, beta = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def _solve(mesh: Mesh, num_steps: int) -> Callable[[Any, Any], Any]:
    def solve(y0: Any, args: Any) -> Any:
        return solve_ensemble(
            lorenz, y0, 0.0, 0.01 * num_steps, args=args, num_steps=num_steps, mesh=mesh
        ).y

    return solve


def _ensemble(mesh: Mesh, items: int, num_steps: int = ODE_STEPS) -> Spread:
    args = tuple(np.float32(value) for value in (10.0, 14.0, 8 / 3))
    given = 1 + 0.1 * numbers(items, 3), args
    placed = sharding.place(given, mesh, (P(mesh.axis_names), P()))
    return Spread(jax.jit(_solve(mesh, num_steps)), placed)


def _ensemble_cost(items: int) -> Any:
    spread = _ensemble(_one_device(), items, 1)
    return spread.fn, spread.args, 1


def _fit(mesh: Mesh, items: int, num_steps: int = ODE_STEPS) -> Spread:
    solve, given = _solve(mesh, num_steps), _ensemble(mesh, items, num_steps).args
    gradient = jax.jit(jax.grad(lambda args, y0: jnp.mean(solve(y0, args) ** 2)))
    return Spread(gradient, given[::-1], jnp.stack)


def _fit_cost(items: int) -> Any:
    spread = _fit(_one_device(), items, 1)
    return spread.fn, spread.args, ODE_STEPS


def _ctc(split: str | None, mesh: Mesh, items: int) -> Spread:
    axis = mesh.axis_names[0]
    names = {"batch_axis": axis if split == "batch" else None}
    names |= {} if split == "batch" else {f"{split}_axis": axis}
    loss_fn = sharded.sharded_ctc_loss(mesh, **names)
    place_of = {"batch": P(axis), "time": P(None, axis), "vocab": P(None, None, axis)}[split]
    labels = np.random.default_rng(1).integers(1, CLASSES, (items, LABELS)).astype(np.int32)
    rows = P(axis) if split == "batch" else P()
    given = sharding.place((numbers(items, FRAMES, CLASSES), labels), mesh, (place_of, rows))
    step = jax.jit(jax.value_and_grad(lambda logits, labels: jnp.mean(loss_fn(logits, labels))))
    return Spread(step, given, lambda out: out[1])


def _ctc_cost(items: int) -> Any:
    labels = np.random.default_rng(1).integers(1, CLASSES, (items, LABELS)).astype(np.int32)
    step = jax.value_and_grad(lambda logits, labels: jnp.mean(ctc.ctc_loss(logits, labels)))
    return jax.jit(step), (numbers(items, FRAMES, CLASSES), labels), 1


def _one_device() -> Mesh:
    return sharding.make_mesh(1, devices=jax.local_devices())


_CTC = (
    f"The mean of CTC losses and its gradient in the logits: {FRAMES} frames, {CLASSES} classes, "
    f"{LABELS} labels, the logits split by {{}}."
)


def _ctc_program(name: str, split: str, words: str) -> Program:
    return Program(
        f"CTC, split by {name}", "sequence", _CTC.format(words), "a loss and its gradient", 1,
        "sequences", 32, 4096, functools.partial(_ctc, split), _ctc_cost,
        is_quick=split == "vocab",
    )  # fmt: skip


PROGRAMS = (
    Program(
        "annealed Langevin", "mcmc",
        f"Chains in {DIM} dimensions, the score a network {DIM}-{WIDTH}-{WIDTH}-{DIM}, "
        f"{len(LEVELS)} levels of {STEPS_PER_LEVEL} steps, by `sharding.map_items`.",
        "a step of all chains", len(LEVELS) * STEPS_PER_LEVEL, "chains", 1024, 65_536,
        _annealed, _annealed_cost, is_quick=True,
    ),
    Program(
        "pooled warm-up of HMC", "mcmc",
        f"Step size and diagonal metric found by all chains together, {WARMUP} steps of "
        f"{LEAPFROG} leapfrog steps, logistic regression with {ROWS} rows in {PARAMETERS} "
        "dimensions. The sampling after it sends nothing.",
        "a step of all chains", WARMUP, "chains", 512, 16_384, _warmup, _warmup_cost,
    ),
    Program(
        "denoising score matching", "score",
        f"A training step of a network {DIM}-{WIDTH}-{WIDTH}-{DIM}: loss and gradient by "
        "`sharding.value_and_grad`, then Adam.",
        "a training step", 1, "rows", 2048, 16_384, _training, _training_cost,
        is_quick=True,
    ),
    Program(
        "ensemble", "diffeq",
        f"Lorenz trajectories, {ODE_STEPS} steps of Tsit5, by `solve_ensemble`.",
        "a step of all trajectories", ODE_STEPS, "trajectories", 8192, 1_048_576,
        _ensemble, _ensemble_cost,
    ),
    Program(
        "gradient of an ensemble", "diffeq",
        "The same, and the gradient of the mean square of the ends in the three parameters that "
        "all trajectories share.",
        "a gradient", 1, "trajectories", 2048, 262_144, _fit, _fit_cost,
        is_quick=True,
    ),
    _ctc_program("sequences", "batch", "sequences"),
    _ctc_program("classes", "vocab", "classes"),
    _ctc_program("frames", "time", "frames"),
)  # fmt: skip
"""In the order of the page."""
