"""Parameter gradients of score-matching objectives, in units of a plain regression's.

The unit is one backward pass of the mean squared error of a score network, d-300-300-d. Beside
the library's ways stand those of code that has reverse differentiation only: the directional
derivative as the gradient of a product, a second backward pass through the first, written so that
nothing is computed twice.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax import score
from probjax.networks import EnergyMLP, ScoreMLP

DESCRIPTION = (
    "The gradient in the parameters of `{name}` for a {kind} network {dim}-300-300-{out} with "
    "Swish units, batch of {batch_size:,}, slices and noise given. The reference is the gradient "
    "of a mean squared error of the score network, which is what denoising costs. 'FLOP "
    "efficiency' is the reference's FLOPs over the contender's, as XLA counts them: its inverse "
    "is the cost in plain backward passes. The error is the largest difference of the gradient "
    "from the same program in float64, over the largest value."
)
SIGMA = 0.5


class Objective(NamedTuple):
    """A loss of one example, from its parts."""

    energy: bool
    """Whether the model is an energy."""
    rows: Callable[[Callable[[Any], Any], Any, Any], Any]
    """`rows(model, x, v)`: values `(B,)`; `v` serves as noise, target or single slice."""


def _backward_twice(score_fn: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """Sliced score matching as the gradient of a product of the score and the slice."""
    score_x, vjp = jax.vjp(score_fn, x)
    (turned,) = vjp(v)
    return jnp.sum(v * turned, axis=-1) + 0.5 * jnp.sum(v * score_x, axis=-1) ** 2


def _energy_backward_twice(energy_fn: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The same of an energy: the gradient of the gradient's product with the slice."""

    def product(y: Any) -> Any:
        slope = jax.grad(lambda z: jnp.sum(energy_fn(z)))(y)
        along = jnp.sum(v * slope, axis=-1)
        return jnp.sum(along), along

    turned, along = jax.grad(product, has_aux=True)(x)
    return -jnp.sum(v * turned, axis=-1) + 0.5 * along**2


OBJECTIVES = {
    "regression": Objective(False, lambda s, x, v: 0.5 * jnp.sum((s(x) - v) ** 2, axis=-1)),
    "denoising": Objective(
        False, lambda s, x, v: score.denoising_sm_from_noise(s, x, v, noise_scale=SIGMA)
    ),
    "sliced, reduced": Objective(False, lambda s, x, v: score.sliced_sm_from_slices(s, x, v[None])),
    "sliced": Objective(
        False,
        lambda s, x, v: score.sliced_sm_from_slices(s, x, v[None], variance_reduced=False),
    ),
    "backward twice": Objective(False, _backward_twice),
    "implicit": Objective(False, lambda s, x, v: score.implicit_sm(s, x)),
    "sliced energy": Objective(
        True, lambda e, x, v: score.sliced_sm_energy_from_slices(e, x, v[None])
    ),
    "backward twice, energy": Objective(True, _energy_backward_twice),
    "fd_ssm": Objective(True, lambda e, x, v: score.fd_ssm_from_slices(e, x, v[None])),
    "fd_dsm": Objective(
        True,
        lambda e, x, v: score.fd_dsm_from_noise(e, x, v, v[None], noise_scale=SIGMA),
    ),
}

# The library's objective, and its peer besides the regression.
COMPARED = {
    "sliced": "backward twice",
    "sliced energy": "backward twice, energy",
    "fd_ssm": None,
    "implicit": None,
}
WALL = {"sliced": {2: 2.2, 11: 2.2, 64: 2.2}, "sliced energy": {11: 3.0}, "implicit": {11: 9.0}}
"""Seconds, in those of the regression, that are allowed in a dimension."""
FLOPS = {"sliced": {2: 2.1, 11: 2.1, 64: 2.1}, "sliced energy": {11: 3.7}}
"""FLOPs, in those of the regression, that are allowed in a dimension."""


def cases(
    dims: tuple[int, ...] = (2, 11, 64), width: int = 300, batch_size: int | None = None
) -> list[Case]:
    """Each objective in each dimension; a larger batch on an accelerator."""
    batch_size = batch_size or pick(128, 8192)
    return [_case(name, dim, width, batch_size) for dim in dims for name in COMPARED]


def quick_cases() -> list[Case]:
    """One dimension, of which most is asked."""
    return cases((11,))


def flops(name: str, dim: int, width: int = 300, batch_size: int = 128) -> float:
    """What XLA counts for one gradient; tangents of a loop are counted, not its body once."""
    if name == "implicit":  # XLA counts a loop's body once: send all tangents through together.
        rows = Objective(False, lambda s, x, v: score.implicit_sm(s, x, chunk=dim))
    else:
        rows = OBJECTIVES[name]
    args = _args(rows.energy, dim, width, batch_size)
    costs = jax.jit(_gradient(rows, dim, width)).lower(*args).compile().cost_analysis()
    return float(costs["flops"])


def small_gradient(name: str) -> Any:
    """The gradient of an objective at a small size, in the current precision."""
    objective = OBJECTIVES[name]
    args = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), _args(objective.energy, 3, 8, 4)
    )
    with jax.numpy_dtype_promotion("standard"):  # flax needs it in double precision
        return jax.jit(_gradient(objective, 3, 8))(*args)


def _gradient(objective: Objective, dim: int, width: int) -> Callable[[Any, Any, Any], Any]:
    net = (EnergyMLP if objective.energy else ScoreMLP)((width, width))

    def loss(params: Any, x: Any, v: Any) -> Any:
        return jnp.mean(objective.rows(lambda y: net.apply(params, y), x, v))

    return jax.grad(loss)


@functools.cache
def _args(energy: bool, dim: int, width: int, batch_size: int) -> tuple[Any, Any, Any]:
    """Parameters, examples and slices."""
    generator = np.random.default_rng(0)
    net = (EnergyMLP if energy else ScoreMLP)((width, width))
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(dim, jnp.float32))
    x, v = generator.normal(size=(2, batch_size, dim)).astype(np.float32)
    return params, jnp.asarray(x), jnp.sign(jnp.asarray(v))


def _case(name: str, dim: int, width: int, batch_size: int) -> Case:
    peer, own = COMPARED[name], f"probjax {name}"
    wall, count = (table.get(name, {}).get(dim) for table in (WALL, FLOPS))
    bars = [Bar("time", wall, against="regression")] if wall else []
    bars += [Bar("FLOP efficiency", 1 / count, against="regression")] if count else []
    unit = functools.cache(lambda: flops("regression", dim, width, batch_size))

    def prepare(which: str) -> Program:
        objective = OBJECTIVES[which]
        args = _args(objective.energy, dim, width, batch_size)
        gradient = _gradient(objective, dim, width)
        executable, seconds, temporary = compiled(gradient, *args)
        ratio = unit() / flops(which, dim, width, batch_size)
        return Program(
            lambda: jax.block_until_ready(executable(*args)),
            1,
            {"gradient": _error(executable(*args), gradient, args)},
            seconds,
            temporary,
            {"FLOP efficiency": (ratio, ratio, ratio)},
        )

    names = {own: name, "regression": "regression"} | ({peer: peer} if peer else {})
    contenders = tuple(
        Contender(shown, functools.partial(prepare, which), peer=shown != own,
                  in_reference=which == "regression")
        for shown, which in names.items()
    )  # fmt: skip
    kind = "energy" if OBJECTIVES[name].energy else "score"
    description = DESCRIPTION.format(
        name=name, kind=kind, dim=dim, out=1 if kind == "energy" else dim, batch_size=batch_size
    )
    return Case(
        f"score/objectives: {name}, d = {dim}", description, "gradients", 1, contenders,
        tolerance=pick(1e-3, 5e-2), bars=tuple(bars),
    )  # fmt: skip


def _error(found: Any, gradient: Callable[..., Any], args: tuple[Any, Any, Any]) -> float:
    """Largest difference from float64 over the largest value, over all parameters."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), args)
        truth = jax.tree.map(np.asarray, jax.jit(gradient)(*double))
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True))
    largest = max(float(np.max(np.abs(exact))) for _, exact in pairs)
    return max(float(np.max(np.abs(np.asarray(own) - exact))) for own, exact in pairs) / largest
