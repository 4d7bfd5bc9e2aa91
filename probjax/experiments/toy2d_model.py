r"""The parts of the toy laboratory: objectives by name, one fit, its error, and what it draws.

A fit is one program over arrays, so that one objective is compiled once for all densities:

>>> from probjax.experiments import toy2d_model
>>> list(toy2d_model.OBJECTIVES)
['explicit', 'ism', 'ssm', 'ssm_vr', 'fd_ssm', 'dsm', 'deen']
>>> toy2d_model.label("dsm", 0.3)
'dsm 0.3'
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probjax import metrics, score
from probjax.core import step_key, stream
from probjax.core.keys import PRNGKey
from probjax.networks.energy import EnergyMLP, ScoreMLP
from probjax.targets import Target

DENSITIES = ("eight_gaussians", "rings", "two_spirals", "checkerboard")
"""The four densities of the toy example, all of them about as large as the square [-4, 4]^2."""
WITHOUT_SCORE = ("checkerboard",)
"""Those of them whose edges leave no score unless noise is added."""
HALF_WIDTH = 4.0
"""Half the side of the square that is drawn."""


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How a model is fitted."""

    num_steps: int = 3000
    """Steps of Adam."""
    batch_size: int = 256
    """Examples in a step, drawn afresh for each."""
    widths: tuple[int, ...] = (128, 128)
    """Units of each hidden layer, with Swish activations whose slope is learned."""
    learning_rate: float = 1e-2
    """Adam's rate, at the start."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """What the rate does: it stays, or it falls to zero along half a cosine."""
    epsilon: float = 0.03
    """Step of the finite differences, in the unit of the data."""


class Batch(NamedTuple):
    """What an objective is given besides its model; each uses what it needs."""

    x: Float[Array, "batch 2"]
    """Examples."""
    truth: Float[Array, "batch 2"]
    """The exact score there, for `explicit`; zeros for the others."""
    noise_scale: Float[Array, ""]
    """Noise that a denoising objective adds; 1, and of no meaning, for the others."""


class Model(NamedTuple):
    """One network as the functions that objectives ask for."""

    score_fn: Callable[[Array], Array]
    """Row-wise score."""
    energy_fn: Callable[[Array], Array] | None
    """Row-wise energy, where the network is one."""


class Objective(NamedTuple):
    """One row of the table."""

    title: str
    """How it is called in tables."""
    rows: Callable[[PRNGKey, Model, Batch, float], Array]
    """`rows(key, model, batch, epsilon)`: values `(B,)`."""
    is_energy: bool = False
    """Whether its network is an energy; a score otherwise."""
    is_denoising: bool = False
    """Whether it adds noise itself, and so learns the density at its own noise scale."""


OBJECTIVES = {
    "explicit": Objective(
        "explicit, the score given",
        lambda key, model, at, epsilon: score.explicit_sm(model.score_fn, at.x, at.truth),
    ),
    "ism": Objective(
        "ISM", lambda key, model, at, epsilon: score.implicit_sm(model.score_fn, at.x)
    ),
    "ssm": Objective(
        "SSM",
        lambda key, model, at, epsilon: score.sliced_sm(
            key, model.score_fn, at.x, variance_reduced=False
        ),
    ),
    "ssm_vr": Objective(
        "SSM-VR", lambda key, model, at, epsilon: score.sliced_sm(key, model.score_fn, at.x)
    ),
    "fd_ssm": Objective(
        "FD-SSM",
        lambda key, model, at, epsilon: score.fd_ssm(key, model.energy_fn, at.x, epsilon=epsilon),
        is_energy=True,
    ),
    "dsm": Objective(
        "DSM",
        lambda key, model, at, epsilon: score.denoising_sm(
            key, model.score_fn, at.x, noise_scale=at.noise_scale
        ),
        is_denoising=True,
    ),
    "deen": Objective(
        "DEEN",
        lambda key, model, at, epsilon: score.deen(
            key, model.score_fn, at.x, noise_scale=at.noise_scale
        ),
        is_energy=True,
        is_denoising=True,
    ),
}
"""The objectives. DEEN trains an energy, as its authors do; the loss is DSM's times a constant."""


def label(objective: str, noise_scale: float | None) -> str:
    """Name a row: the objective, and its noise scale where it has one of its own.

    Args:
        objective: a key of `OBJECTIVES`.
        noise_scale: the noise it adds, if it adds any.

    Returns:
        The name.

    Example:
        >>> label("ism", None)
        'ism'
    """
    return objective if noise_scale is None else f"{objective} {noise_scale:g}"


def make_network(objective: str, widths: tuple[int, ...]) -> EnergyMLP | ScoreMLP:
    """Make the network that an objective trains.

    Args:
        objective: a key of `OBJECTIVES`.
        widths: units of each hidden layer.

    Returns:
        An energy or a score network.

    Example:
        >>> type(make_network("fd_ssm", (8,))).__name__
        'EnergyMLP'
    """
    return (EnergyMLP if OBJECTIVES[objective].is_energy else ScoreMLP)(widths)


def model_of(net: EnergyMLP | ScoreMLP, params: Any) -> Model:
    """Close a network over its parameters.

    Args:
        net: from `make_network`.
        params: its parameters.

    Returns:
        The functions that objectives ask for.

    Example:
        >>> net = make_network("deen", (8,))
        >>> params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 2)))
        >>> model_of(net, params).score_fn(jnp.zeros((5, 2))).shape
        (5, 2)
    """

    def apply(x: Array) -> Array:
        return net.apply(params, x)

    if isinstance(net, EnergyMLP):
        return Model(score.score_from_energy(apply), apply)
    return Model(apply, None)


def make_loss(objective: str, config: FitConfig) -> Callable[[Any, PRNGKey, Batch], Array]:
    """Make the loss of one step.

    Args:
        objective: a key of `OBJECTIVES`.
        config: the fit's config.

    Returns:
        `loss(params, key, batch)`, the mean over rows.

    Example:
        >>> config = FitConfig(widths=(8,))
        >>> params = jax.jit(make_network("dsm", (8,)).init)(jax.random.key(0), jnp.zeros((1, 2)))
        >>> at = Batch(jnp.zeros((4, 2)), jnp.zeros((4, 2)), jnp.float32(0.5))
        >>> make_loss("dsm", config)(params, jax.random.key(1), at).shape
        ()
    """
    net, rows = make_network(objective, config.widths), OBJECTIVES[objective].rows

    def loss(params: Any, key: PRNGKey, batch: Batch) -> Array:
        return jnp.mean(rows(key, model_of(net, params), batch, config.epsilon))

    return loss


@functools.cache
def make_init(objective: str, config: FitConfig) -> Callable[[PRNGKey], Any]:
    """Make `init(key)`, the parameters of a seed before the first step.

    They must be made outside the mapped fit: parameters that start as constants, biases say, are
    the same on all devices of a mesh, and `shard_map` would sum their gradients over the devices.

    Args:
        objective: a key of `OBJECTIVES`.
        config: the fit's config.

    Returns:
        The function.

    Example:
        >>> params = jax.jit(make_init("ism", FitConfig(widths=(8,))))(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        50
    """
    net = make_network(objective, config.widths)
    return lambda key: net.init(stream(key, "init"), jnp.zeros((1, 2)))


@functools.cache
def make_fit(objective: str, config: FitConfig) -> Callable[..., tuple[Any, Array]]:
    """Make the whole fit of one seed as one pure function of arrays.

    Args:
        objective: a key of `OBJECTIVES`.
        config: the fit's config.

    Returns:
        `fit(key, params, x, truth, noise_scale)` with examples `(num_steps, batch_size, 2)`, to
        the parameters after the last step and the losses `(num_steps,)`. The same function comes
        back for equal arguments, so that a mapped fit is compiled once.

    Example:
        >>> config = FitConfig(num_steps=3, batch_size=4, widths=(8,))
        >>> params = jax.jit(make_init("ism", config))(jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (3, 4, 2))
        >>> fit = jax.jit(make_fit("ism", config))
        >>> fit(jax.random.key(2), params, x, jnp.zeros_like(x), jnp.float32(1.0))[1].shape
        (3,)
    """
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, config.num_steps)
    optimizer, gradient = optax.adam(rate), jax.value_and_grad(make_loss(objective, config))

    def fit(
        key: PRNGKey, params: Any, x: Array, truth: Array, noise_scale: Array
    ) -> tuple[Any, Array]:
        def step(carry: Any, inputs: Any) -> tuple[Any, Array]:
            params, state = carry
            t, batch = inputs[0], Batch(inputs[1], inputs[2], noise_scale)
            loss, grads = gradient(params, step_key(stream(key, "noise"), t), batch)
            with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
                updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        times = jnp.arange(config.num_steps)
        start = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(step, start, (times, x, truth))
        return params, losses

    return fit


@functools.cache
def make_error(objective: str, widths: tuple[int, ...]) -> Callable[..., metrics.Estimate]:
    """Make `error(params, x, truth)`: the Fisher divergence of a model from exact scores.

    Args:
        objective: a key of `OBJECTIVES`.
        widths: units of each hidden layer.

    Returns:
        The function of parameters, draws `(n, 2)` and the exact scores there.

    Example:
        >>> config = FitConfig(widths=(8,))
        >>> params = jax.tree.map(jnp.zeros_like, make_init("ism", config)(jax.random.key(0)))
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])  # of a model that is zero: mean |x|^2 / 2
        >>> float(make_error("ism", (8,))(params, x, -x).value)
        1.25
    """
    net = make_network(objective, widths)

    def error(params: Any, x: Array, truth: Array) -> metrics.Estimate:
        return metrics.fisher_divergence(model_of(net, params).score_fn, lambda _: truth, x)

    return error


@functools.cache
def make_field(objective: str, widths: tuple[int, ...]) -> Callable[[Any, Array], Array]:
    """Make `field(params, x)`: the score of a model at points.

    Args:
        objective: a key of `OBJECTIVES`.
        widths: units of each hidden layer.

    Returns:
        The function, `(n, 2)` to `(n, 2)`.

    Example:
        >>> make_field("ism", (8,)) is make_field("ism", (8,))
        True
    """
    net = make_network(objective, widths)
    return lambda params, x: model_of(net, params).score_fn(x)


def gradient_flops(objective: str, config: FitConfig) -> float:
    """Count what XLA computes for one gradient of the parameters, random numbers included.

    Args:
        objective: a key of `OBJECTIVES`, or `regression`: the mean squared error of a score
            network against given targets, a plain backward pass.
        config: the fit's config.

    Returns:
        Floating-point operations.

    Example:
        >>> config = FitConfig(batch_size=64, widths=(64, 64))
        >>> ratio = gradient_flops("ssm_vr", config) / gradient_flops("regression", config)
        >>> bool(1.9 < ratio < 2.2)
        True
    """
    name = "explicit" if objective == "regression" else objective
    params = jax.eval_shape(make_init(name, config), jax.random.key(0))
    rows = jax.ShapeDtypeStruct((config.batch_size, 2), jnp.float32)
    batch = Batch(rows, rows, jax.ShapeDtypeStruct((), jnp.float32))
    gradient = jax.jit(jax.grad(make_loss(name, config)))
    costs = gradient.lower(params, jax.random.key(0), batch).compile().cost_analysis()
    return float(costs["flops"])


def exact_score(
    target: Target, x: Float[Array, "n 2"], noise_scale: float, *, block: int = 1024
) -> Float[Array, "n 2"]:
    """Compute exact scores in blocks of rows: the spirals need thousands of numbers for each.

    Args:
        target: the density.
        x: points.
        noise_scale: noise added to it; a Python number, so that zero is known as zero.
        block: rows at once.

    Returns:
        Scores.

    Example:
        >>> from probjax import targets
        >>> exact_score(targets.two_spirals(), jnp.zeros((5, 2)), 0.1, block=2).shape
        (5, 2)
    """
    return jax.lax.map(lambda row: target.score(row, noise_scale), x, batch_size=block)


def langevin(
    key: PRNGKey, score_fn: Callable[[Array], Array], x: Float[Array, "n 2"], *, num_steps: int,
    step_size: float,
) -> Float[Array, "n 2"]:  # fmt: skip
    r"""Run unadjusted Langevin dynamics with a row-wise score.

    $$x\leftarrow x+step\_size\cdot score\_fn(x)+\sqrt{2\,step\_size}\,z$$

    Args:
        key: of the run.
        score_fn: row-wise.
        x: where chains start.
        num_steps: steps.
        step_size: in the convention above.

    Returns:
        Where they end.

    Example:
        >>> x = langevin(jax.random.key(0), lambda x: -x, jnp.zeros((4, 2)), num_steps=5,
        ...              step_size=0.1)
        >>> x.shape
        (4, 2)
    """

    def step(x: Array, t: Array) -> tuple[Array, None]:
        noise = jax.random.normal(step_key(key, t), x.shape, x.dtype)
        return x + step_size * score_fn(x) + (2 * step_size) ** 0.5 * noise, None

    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]
