"""The sampler loops, beside the bare evaluations of the network that they make."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax import diffusion
from probjax.experiments import digits, digits_model

DESCRIPTION = (
    "{steps} steps of `{sampler}` with the digits network, {batch_size:,} rows, {calls} network "
    "evaluations. The peers make the same evaluations at the same noise scales and nothing else, "
    "each fed with the output of the one before. The error is the largest difference from the "
    "same program in float64, over the largest value."
)
CHECKED_ROWS = 64


def cases(
    config: digits.Config | None = None, batch_size: int | None = None, steps: int | None = None
) -> list[Case]:
    """Three samplers between the experiment's noise scales; larger batches on an accelerator."""
    config = config or digits.Config()
    batch_size = batch_size or pick(1024, 16384)
    return [
        _case(config, "ddim", steps or 20, batch_size),
        _case(config, "heun", steps or 10, batch_size),
        _case(config, "unipc", steps or 20, batch_size),
    ]


def quick_cases() -> list[Case]:
    """A quarter of the rows."""
    return cases(batch_size=pick(256, 16384))


def _case(config: digits.Config, sampler: str, steps: int, batch_size: int) -> Case:
    options = config.sampling
    net = digits_model.make_network(config.network)
    grid = np.asarray(
        diffusion.karras_noise_scales(steps, options.min_noise_scale, options.max_noise_scale)
    )
    visited = _heun_visits(grid) if sampler == "heun" else grid
    generator = np.random.default_rng(0)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(64), jnp.zeros(()))
    params = jax.tree.map(  # The last layers begin as zeros: give every layer something to do.
        lambda leaf: leaf + 0.05 * generator.normal(size=leaf.shape).astype(np.float32), params
    )
    start = generator.normal(size=(batch_size, 64)).astype(np.float32) * grid[0]

    denoiser = functools.partial(digits_model.denoiser, net)

    def loop(params: Any, x: Any) -> Any:
        make = getattr(diffusion, sampler)
        algorithm = make(denoiser(params), jnp.asarray(grid, x.dtype))
        return diffusion.sample(jax.random.key(0), algorithm, x, steps)

    def evaluation(params: Any, x: Any, noise_scale: Any) -> Any:
        return denoiser(params)(x, noise_scale)

    def bare(params: Any, x: Any) -> Any:
        def body(x: Any, noise_scale: Any) -> tuple[Any, None]:
            return evaluation(params, x, noise_scale), None

        return jax.lax.scan(body, x, jnp.asarray(visited, x.dtype))[0]

    def whole(program: Callable[[Any, Any], Any], result: Callable[[Any], Any]) -> Program:
        executable, seconds, temporary = compiled(program, params, start)
        error = _error(result(executable(params, start)), truth(program, result))
        return Program(
            lambda: jax.block_until_ready(executable(params, start)),
            batch_size, {"result": error}, seconds, temporary,
        )  # fmt: skip

    @functools.cache
    def truth(program: Callable[[Any, Any], Any], result: Callable[[Any], Any]) -> np.ndarray:
        """The float64 run of the first rows; rows do not influence each other."""
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax needs the latter
            double = jax.tree.map(
                lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64),
                (params, start[:CHECKED_ROWS]),
            )
            return np.asarray(result(jax.jit(program)(*double)))

    def one_by_one() -> Program:
        scales = [jnp.asarray(scale) for scale in visited]
        executable, seconds, temporary = compiled(evaluation, params, start, scales[0])

        def once() -> Any:
            x = start
            for scale in scales:
                x = executable(params, x, scale)
            return jax.block_until_ready(x)

        error = _error(once(), truth(bare, _itself))
        return Program(once, batch_size, {"result": error}, seconds, temporary)

    contenders = (
        Contender(f"probjax diffusion.{sampler}", lambda: whole(loop, lambda out: out.x)),
        Contender("bare evaluations, one scan", lambda: whole(bare, _itself), peer=True),
        Contender("bare evaluations, a call each", one_by_one, peer=True),
    )
    description = DESCRIPTION.format(
        steps=steps, sampler=sampler, batch_size=batch_size, calls=len(visited)
    )
    return Case(
        f"diffusion/samplers: {sampler}", description, "samples", batch_size, contenders,
        tolerance=pick(1e-3, 5e-2), bars=(Bar("time", 1.05),),
    )  # fmt: skip


def _heun_visits(grid: np.ndarray) -> np.ndarray:
    """Both ends of every interval, and the last noise scale once more, for the final step."""
    return np.concatenate([np.stack([grid[:-1], grid[1:]], axis=1).reshape(-1), grid[-1:]])


def _itself(x: Any) -> Any:
    return x


def _error(found: Any, truth: np.ndarray) -> float:
    found = np.asarray(found)[:CHECKED_ROWS]
    return float(np.max(np.abs(found - truth)) / np.max(np.abs(truth)))
