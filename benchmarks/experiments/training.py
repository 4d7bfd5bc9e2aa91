"""Training steps of the digits experiment, on one device and on all, beside PyTorch."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from benchmarks import machine
from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax import datasets, diffusion, sharding
from probjax.experiments import digits, digits_model, training

DESCRIPTION = (
    "The training step of `probjax run digits`: draw a batch of {batch_size} from the 1,297 "
    "training digits, dequantise, draw noise, loss and gradient of the mixer, Adam, moving "
    "average. probjax runs {chunk_size} steps as one program with donated state, as the experiment "
    "does; PyTorch runs the same model and loss. The error is the largest relative difference "
    "from float64 of the network's output, of the loss and of the gradient's norm, at equal "
    "parameters and inputs."
)


class Check(NamedTuple):
    """Equal inputs for every contender, the answers in float64, and probjax's errors."""

    params: Any
    x0: np.ndarray
    noise_scale: np.ndarray
    noise: np.ndarray
    truth: dict[str, np.ndarray]
    errors: dict[str, float]


def cases(config: digits.Config | None = None, chunk_size: int = 25) -> list[Case]:
    """The one case; `config` is the experiment's, with larger batches on an accelerator."""
    if config is None:
        options = digits.Config().training
        options = dataclasses.replace(options, batch_size=pick(options.batch_size, 4096))
        config = digits.Config(training=options)
    check = _check(config)
    own = [1] if jax.device_count() == 1 else [1, jax.device_count()]
    contenders = [
        Contender(
            f"probjax, {number} device{'s' * (number > 1)}",
            functools.partial(_probjax, config, check, number, chunk_size),
        )
        for number in own
    ]
    contenders += _torch_contenders(config, check)
    return [
        Case(
            "experiments/training",
            DESCRIPTION.format(batch_size=config.training.batch_size, chunk_size=chunk_size),
            "steps",
            chunk_size,
            tuple(contenders),
            tolerance=pick(1e-4, 2e-2),
            bars=(Bar("speed", 1.5),),
        )
    ]


def _torch_contenders(config: digits.Config, check: Check) -> list[Contender]:
    """Eager with one thread and with all on a CPU, eager on an accelerator; and compiled."""
    make = functools.partial(_torch, config, check)
    threads = pick(sorted({1, machine.cores()}), [None])
    names = {None: ""} | {n: f", {n} thread{'s' * (n > 1)}" for n in threads if n}
    eager = [
        Contender(
            f"PyTorch eager{names[n]}",
            functools.partial(make, n, False),
            peer=True,
            requires="torch",
        )
        for n in threads
    ]
    compiling = Contender(
        f"PyTorch compiled{names[threads[-1]]}",
        functools.partial(make, threads[-1], True),
        peer=True,
        in_reference=False,
        requires="torch",
        limit_seconds=60.0,
    )
    return [*eager, compiling]


def _probjax(config: digits.Config, check: Check, number: int, chunk_size: int) -> Program:
    options, train = config.training, datasets.load_digits()
    key, mesh = jax.random.key(config.seed), sharding.make_mesh(number)
    net = digits_model.make_network(config.network)
    objective = digits_model.make_objective(key, options, net, train)
    step = training.make_step(
        objective.loss_fn,
        objective.batch_fn,
        objective.optimizer,
        mesh,
        batch_size=options.batch_size,
        ema_decay=options.ema_decay,
    )
    state = training.init_state(objective.params, objective.optimizer)
    state, args = sharding.place((state, (key, train.images)), mesh, P())
    program, seconds, temporary = compiled(
        sharding.chunk_program(step, chunk_size), state, jnp.int32(0), jnp.int32(chunk_size), *args
    )
    now = [state, 0]

    def once() -> None:
        start, stop = jnp.int32(now[1]), jnp.int32(now[1] + chunk_size)
        now[0], metrics = program(now[0], start, stop, *args)
        now[1] += chunk_size
        losses = np.asarray(metrics["loss"])
        if not np.isfinite(losses).all():
            raise FloatingPointError(f"the loss is not finite before step {now[1]}")

    return Program(once, chunk_size, check.errors, seconds, temporary)


def _check(config: digits.Config) -> Check:
    """Random parameters everywhere, so that no layer is zero; and the answers in float64."""
    train, net = datasets.load_digits(), digits_model.make_network(config.network)
    scaling = digits_model.measure_scaling(train)
    generator = np.random.default_rng(0)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape).astype(np.float32), params
    )
    x0 = np.asarray(scaling.rows(train.images[:64]))
    noise_scale = np.exp(generator.normal(-1.2, 1.2, size=64)).astype(np.float32)
    noise = generator.normal(size=x0.shape).astype(np.float32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax needs the latter
        double = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64),
            (params, x0, noise_scale, noise),
        )
        truth = _answers(net, *double)
    errors = _errors(_answers(net, params, x0, noise_scale, noise), truth)
    return Check(params, x0, noise_scale, noise, truth, errors)


def _answers(net: Any, params: Any, x0: Any, noise_scale: Any, noise: Any) -> dict[str, Any]:
    """Output, loss and norm of the gradient, in the precision of the arguments."""

    def loss(params: Any) -> jax.Array:
        weight = diffusion.loss_weight("edm", 1.0, noise_scale, sigma_data=digits_model.SIGMA_DATA)
        losses = diffusion.denoising_loss_from_noise(
            digits_model.denoiser(net, params), x0, noise, noise_scale=noise_scale, weight=weight
        )
        return jnp.mean(losses)

    x0, noise_scale, noise = jnp.asarray(x0), jnp.asarray(noise_scale), jnp.asarray(noise)

    @jax.jit
    def all_three(params: Any) -> dict[str, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params)
        output = net.apply(params, x0, jnp.log(noise_scale) / 4)
        return {"output": output, "loss": value, "gradient norm": optax.tree.norm(gradient)}

    return {name: np.asarray(answer) for name, answer in all_three(params).items()}


def _errors(answers: dict[str, Any], truth: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(np.max(np.abs(answers[name] - truth[name])) / np.max(np.abs(truth[name])))
        for name in truth
    }


def _torch(config: digits.Config, check: Check, threads: int | None, compiling: bool) -> Program:
    import torch

    from benchmarks.experiments import torch_digits

    device = torch.device("cpu" if threads else "cuda")
    if threads is None and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch has no GPU support")
    train, net = datasets.load_digits(), digits_model.make_network(config.network)
    scaling = digits_model.measure_scaling(train)
    shape = {name: getattr(net, name) for name in _MIXER_FIELDS}
    options = config.training
    recipe = torch_digits.Recipe(
        options.batch_size,
        options.learning_rate,
        options.num_steps,
        options.warmup_steps,
        options.ema_decay,
        options.log_noise_mean,
        options.log_noise_std,
        digits_model.SIGMA_DATA,
        train.levels,
        scaling.mean,
        scaling.scale,
    )

    # One compiled function for the check and for training; both batches have their own shape.
    begun = time.perf_counter()
    torch.manual_seed(config.seed)
    loss = torch.compile(torch_digits.loss_fn) if compiling else torch_digits.loss_fn
    model = torch_digits.DenoisingMixer(**shape).to(device)
    start = jax.jit(net.init)(jax.random.key(config.seed), jnp.zeros(64), jnp.zeros(()))
    torch_digits.copy_parameters(start, model)
    train_steps = torch_digits.trainer(model, np.asarray(train.images), recipe, loss)

    def once() -> None:
        if threads:
            torch.set_num_threads(threads)
        if not math.isfinite(train_steps(_TORCH_STEPS)):
            raise FloatingPointError("the loss is not finite")

    if compiling:
        _compile(once)
    seconds = time.perf_counter() - begun if compiling else 0.0

    checked = torch_digits.DenoisingMixer(**shape).to(device)
    torch_digits.copy_parameters(check.params, checked)
    answers = _torch_answers(checked, loss, check, device)
    temporary = None
    if threads is None:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once()
        temporary = torch.cuda.max_memory_allocated() - before
    return Program(once, _TORCH_STEPS, _errors(answers, check.truth), seconds, temporary)


def _compile(once: Callable[[], None]) -> None:
    """The first call; if it is broken off, so are the processes that compile for it."""
    from torch._inductor.async_compile import shutdown_compile_workers

    try:
        once()
    except BaseException:
        shutdown_compile_workers()
        raise


_TORCH_STEPS = 5
"""Few, so that a repeat ends in time also where its threads wait for one another."""

_MIXER_FIELDS = (
    "image_size",
    "patch_size",
    "width",
    "token_width",
    "channel_width",
    "num_blocks",
    "embedding_width",
)


def _torch_answers(
    model: Any, loss: Callable[..., Any], check: Check, device: Any
) -> dict[str, Any]:
    import torch

    x0, noise_scale, noise = (
        torch.tensor(array, device=device) for array in (check.x0, check.noise_scale, check.noise)
    )
    value = loss(model, x0, noise_scale, noise, digits_model.SIGMA_DATA)
    value.backward()
    squares = sum(parameter.grad.square().sum() for parameter in model.parameters())
    with torch.no_grad():
        output = model(x0, noise_scale.log() / 4)
    return {
        "output": output.cpu().numpy(),
        "loss": np.asarray(value.item()),
        "gradient norm": np.asarray(math.sqrt(squares.item())),
    }
