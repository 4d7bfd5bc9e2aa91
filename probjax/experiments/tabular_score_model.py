"""What the tabular-score experiment fits: objectives, networks, and fits that stop early.

>>> from probjax.experiments import tabular_score_model as model
>>> [name for name, objective in model.OBJECTIVES.items() if objective.energy]
['deen', 'fd-ssm']
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from probjax import score
from probjax.core import item_keys, step_key, stream
from probjax.datasets import batch_indices
from probjax.experiments.tabular_score_data import Splits
from probjax.networks import EnergyMLP, ScoreMLP

ModelFn = Callable[[Float[Array, "batch d"]], Float[Array, "..."]]
"""A score `(B, d)` to `(B, d)`, or an energy `(B, d)` to `(B,)`."""


@dataclasses.dataclass(frozen=True)
class FittingConfig:
    """How a network is fitted."""

    widths: tuple[int, ...] = (128, 128)
    """Hidden layers."""
    batch_size: int = 200
    """Rows in a step."""
    learning_rate: float = 1e-3
    """Adam's."""
    check_every: int = 100
    """Steps between two looks at the validation rows."""
    patience: int = 5
    """So many looks without a new best end a fit."""
    max_checks: int = 150
    """Looks after which a fit ends anyway."""
    fd_step: float = 0.02
    """Step of the finite differences, in the whitened unit, along slices of norm sqrt(d)."""


class Fit(NamedTuple):
    """Where the fit of one split is."""

    params: Any
    """Parameters."""
    opt_state: Any
    """Adam's moments."""
    best_params: Any
    """Those of the best look at the validation rows so far; what is tested in the end."""
    best: Float[Array, "*splits"]
    """The implicit objective they had on the validation rows."""
    waited: Int[Array, "*splits"]
    """Looks since then."""
    checks: Int[Array, "*splits"]
    """Looks in all."""
    is_stopped: Bool[Array, "*splits"]
    """Whether patience has run out: nothing changes any more."""


class Objective(NamedTuple):
    """A way to fit."""

    energy: bool
    """Whether the network is an energy, and the score its gradient."""
    adds_noise: bool
    """Whether it noises the rows itself."""
    rows: Callable[..., Float[Array, " batch"]]
    """`rows(key, model_fn, x, noise_scale, fd_step)`: one value for each row."""


def _deen(key: Array, energy_fn: ModelFn, x: Array, noise_scale: float, step: float) -> Array:
    del step
    return score.deen(key, score.score_from_energy(energy_fn), x, noise_scale=noise_scale)


OBJECTIVES = {
    "ism": Objective(False, False, lambda key, s, x, noise, step: score.implicit_sm(s, x)),
    "ssm": Objective(
        False,
        False,
        lambda key, s, x, noise, step: score.sliced_sm(key, s, x, variance_reduced=False),
    ),
    "ssm-vr": Objective(False, False, lambda key, s, x, noise, step: score.sliced_sm(key, s, x)),
    "dsm": Objective(
        False,
        True,
        lambda key, s, x, noise, step: score.denoising_sm(key, s, x, noise_scale=noise),
    ),
    "deen": Objective(True, True, _deen),
    "fd-ssm": Objective(
        True, False, lambda key, e, x, noise, step: score.fd_ssm(key, e, x, epsilon=step)
    ),
}
"""What is compared, besides the Gaussian: implicit, sliced, sliced with reduced variance,
denoising, DEEN of an energy, sliced by finite differences of an energy."""


def make_model(
    objective: Objective, widths: tuple[int, ...]
) -> tuple[Any, Callable[[Any], ModelFn], Callable[[Any], ModelFn]]:
    r"""Make the network: a perceptron on top of the standard normal's score or energy.

    $$s(x)=-x+f(x)\qquad\text{or}\qquad E(x)=\tfrac12\Vert x\Vert^2+f(x)$$

    Args:
        objective: what it is for.
        widths: hidden layers.

    Returns:
        The flax module $f$; parameters to what the objective asks for; parameters to the score.
    """
    net = (EnergyMLP if objective.energy else ScoreMLP)(widths)

    def score_model(params: Any) -> ModelFn:
        return lambda x: net.apply(params, x) - x

    def energy_model(params: Any) -> ModelFn:
        return lambda x: net.apply(params, x) + 0.5 * jnp.sum(x**2, axis=-1)

    if not objective.energy:
        return net, score_model, score_model
    return net, energy_model, lambda params: score.score_from_energy(energy_model(params))


class Problem(NamedTuple):
    """The functions of one split that a fit consists of; `sharding.map_items` maps them."""

    start: Callable[..., Fit]
    """`start(key, d)`: the fit before its first step."""
    block: Callable[..., tuple[Fit, dict[str, Array]]]
    """`block(key, fit, train, validation, index)`: the steps up to the next look, and the look."""
    test: Callable[..., Float[Array, ""]]
    """`test(params, rows)`: mean of the implicit objective with the exact trace."""


def make_problem(objective: Objective, options: FittingConfig, noise_scale: float) -> Problem:
    """Make the functions of a fit.

    A split whose patience has run out goes on in the program, since the others do, but nothing of
    it is kept.

    Args:
        objective: how to fit.
        options: the rest.
        noise_scale: of the noise that is added to the rows of each step.

    Returns:
        The functions.
    """
    net, model_of, score_of = make_model(objective, options.widths)
    optimizer = optax.adam(options.learning_rate)

    def start(key: Array, like: Float[Array, " d"]) -> Fit:
        params = net.init(stream(key, "init"), like)
        none = jnp.zeros((), jnp.int32)
        best = jnp.full((), jnp.inf, jnp.float32)
        return Fit(params, optimizer.init(params), params, best, none, none, none > 0)

    def loss(params: Any, key: Array, x: Float[Array, "batch d"]) -> Float[Array, ""]:
        values = objective.rows(key, model_of(params), x, noise_scale, options.fd_step)
        return jnp.mean(values)

    def test(params: Any, rows: Float[Array, "k d"]) -> Float[Array, ""]:
        return jnp.mean(score.implicit_sm(score_of(params), rows))

    def block(
        key: Array, fit: Fit, train: Array, validation: Array, index: Array
    ) -> tuple[Fit, dict[str, Array]]:
        def step(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], Array]:
            params, opt_state = carry
            chosen = batch_indices(stream(key, "data"), t, train.shape[0], options.batch_size)
            x = train[chosen]
            if noise_scale and not objective.adds_noise:
                noise = jax.random.normal(step_key(stream(key, "noise"), t), x.shape)
                x = x + noise_scale * noise
            value, grads = jax.value_and_grad(loss)(params, step_key(stream(key, "probe"), t), x)
            with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
                updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        times = index * options.check_every + jnp.arange(options.check_every)
        (params, opt_state), losses = jax.lax.scan(step, (fit.params, fit.opt_state), times)
        found = test(params, validation)
        improved = found < fit.best
        best_params = jax.tree.map(
            lambda new, old: jnp.where(improved, new, old), params, fit.best_params
        )
        waited = jnp.where(improved, 0, fit.waited + 1)
        new = Fit(
            params, opt_state, best_params, jnp.where(improved, found, fit.best), waited,
            fit.checks + 1, waited >= options.patience,
        )  # fmt: skip
        kept = jax.tree.map(lambda a, b: jnp.where(fit.is_stopped, b, a), new, fit)
        return kept, {"loss": jnp.mean(losses), "validation": found, "active": ~fit.is_stopped}

    return Problem(start, block, test)


@functools.cache
def flops_of_a_step(name: str | None, options: FittingConfig, dim: int) -> float:
    """Count the operations of a parameter gradient, as XLA does.

    Args:
        name: the objective; none for the mean squared error of the score network, the unit.
        options: widths and batch.
        dim: columns.

    Returns:
        Floating-point operations.

    Example:
        >>> options = FittingConfig(widths=(16, 16), batch_size=8)
        >>> unit = flops_of_a_step(None, options, 3)
        >>> 1.5 < flops_of_a_step("ssm-vr", options, 3) / unit < 2.5
        True
    """
    objective = OBJECTIVES[name] if name else Objective(False, False, _regression)
    if name == "ism":  # XLA counts the body of a loop once: send all tangents through together
        objective = Objective(
            False, False, lambda key, s, x, noise, step: score.implicit_sm(s, x, chunk=dim)
        )
    net, model_of, _ = make_model(objective, options.widths)
    x = jax.ShapeDtypeStruct((options.batch_size, dim), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)

    def loss(params: Any, x: Array) -> Array:
        values = objective.rows(jax.random.key(0), model_of(params), x, 0.1, options.fd_step)
        return jnp.mean(values)

    return float(jax.jit(jax.grad(loss)).lower(params, x).compile().cost_analysis()["flops"])


def _regression(key: Array, score_fn: ModelFn, x: Array, noise: float, step: float) -> Array:
    return 0.5 * jnp.sum((score_fn(x) + x) ** 2, axis=-1)


def gaussian_test(splits: Splits) -> Float[np.ndarray, " splits"]:
    """Test the Gaussian that fits the noised training rows, in closed form.

    Args:
        splits: the splits.

    Returns:
        Mean of the implicit objective on the test rows of each.

    Example:
        >>> from probjax.experiments.tabular_score_data import load, make_splits
        >>> splits = make_splits(jax.random.key(0), load("breast-cancer"), num_splits=2,
        ...                      noise_scale=0.1)
        >>> bool((gaussian_test(splits) < 0).all())
        True
    """

    def one(train: Array, test: Array) -> Array:
        fit = score.gaussian_sm(train)
        return jnp.mean(score.implicit_sm(lambda x: (fit.mean[None] - x) @ fit.precision, test))

    return np.asarray(jax.jit(jax.vmap(one))(splits.noised, splits.test))


def split_keys(key: Array, num_splits: int) -> Array:
    """The keys of the fits, one for each split.

    Args:
        key: one key.
        num_splits: how many.

    Returns:
        Typed keys `(num_splits,)`.

    Example:
        >>> split_keys(jax.random.key(0), 3).shape
        (3,)
    """
    return item_keys(stream(key, "sample"), num_splits)
