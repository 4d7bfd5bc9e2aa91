"""The tabular protocol: tables made continuous, split, whitened; objectives; fits that stop early.

>>> import numpy as np
>>> from probjax.experiments import tabular_score_model as model
>>> print(model.median_gaps(np.array([[0.1, 3.0], [0.2, 5.0], [0.4, 3.0]])).round(3))
[0.15 2.  ]
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
from probjax.core import item_key, item_keys, step_key, stream
from probjax.datasets import batch_indices, load_uci
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


class Tabular(NamedTuple):
    """A table of real numbers as the protocol begins with it."""

    values: Float[np.ndarray, "rows columns"]
    """One row for each observation."""
    columns: tuple[str, ...]
    """Names of the columns."""
    dropped: dict[str, str]
    """Columns that were taken out, each with the reason."""
    num_components: int
    """Principal components that are kept."""


class Splits(NamedTuple):
    """All splits of a table, whitened; a leading axis over splits."""

    train: Float[Array, "splits n d"]
    """Training rows, without noise."""
    noised: Float[Array, "splits n d"]
    """The same with noise drawn once."""
    validation: Float[Array, "splits m d"]
    """Validation rows, with noise."""
    test: Float[Array, "splits k d"]
    """Test rows, with noise."""


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

WINES = ("wine-red", "wine-white")
DATASETS = (*WINES, "breast-cancer", "parkinsons")
"""Names of the tables."""

_VOICE = "not a measure of voice: it belongs to the subject or the date"
_DERIVED = "interpolated between few clinical scores: each subject's rows lie on a line"
_NOT_VOICE = {
    "subject#": _VOICE, "age": _VOICE, "sex": _VOICE, "test_time": _VOICE,
    "motor_UPDRS": _DERIVED, "total_UPDRS": _DERIVED,
}  # fmt: skip


def load(name: str, folder: str | None = None) -> Tabular:
    """Load a table and leave out what has no density to be learnt.

    Args:
        name: one of `DATASETS`.
        folder: where the UCI files are, as for `datasets.load_uci`.

    Returns:
        The table with the columns that are kept. Of two columns whose correlation is above 0.98
        in absolute value the first is left out.

    Raises:
        DatasetError: a file is missing or damaged.

    Example:
        >>> table = load("breast-cancer")
        >>> table.values.shape, table.num_components
        ((569, 30), 10)
    """
    if name == "breast-cancer":
        from sklearn.datasets import load_breast_cancer

        found = load_breast_cancer()
        columns = tuple(map(str, found.feature_names))
        return Tabular(np.asarray(found.data, np.float64), columns, {}, 10)
    with jax.enable_x64(True):
        table = load_uci(name, folder)
    values, columns = np.asarray(table.values), table.columns
    dropped = {"quality": "a grade, not a measurement"} if name in WINES else dict(_NOT_VOICE)
    kept = [i for i, column in enumerate(columns) if column not in dropped]
    for i in tuple(kept):
        twin = _twin(values, i, kept)
        if twin is not None:
            dropped[columns[i]] = f"correlation above 0.98 with {columns[twin]}"
            kept.remove(i)
    return Tabular(values[:, kept], tuple(columns[i] for i in kept), dropped, len(kept))


def _twin(values: np.ndarray, i: int, kept: list[int]) -> int | None:
    """The column that says the same as column `i`, if there is one."""
    for j in kept:
        if j != i and abs(np.corrcoef(values[:, i], values[:, j])[0, 1]) > 0.98:
            return j
    return None


def median_gaps(values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " columns"]:
    """Median difference of neighbouring distinct values, for each column.

    Args:
        values: the table.

    Returns:
        The gaps; zero for a constant column.

    Example:
        >>> print(median_gaps(np.array([[1.0, 7.0], [3.0, 7.0]])))
        [2. 0.]
    """
    gaps = []
    for column in values.T:
        steps = np.diff(np.unique(column))
        gaps.append(np.median(steps) if len(steps) else 0.0)
    return np.array(gaps)


def describe(table: Tabular) -> list[dict[str, Any]]:
    """Say how discrete each column is.

    Args:
        table: the table.

    Returns:
        One row for each column: `column`, `distinct` values, median `gap`, `gap_in_sd`, the
        `largest_share` of the rows that have one and the same value, and `rows_apart`, the share
        of the rows whose value is further than two gaps from every other value, so that
        dequantising leaves it an island.

    Example:
        >>> describe(load("breast-cancer"))[0]["distinct"]
        456
    """
    rows, gaps = [], median_gaps(table.values)
    for name, gap, column in zip(table.columns, gaps, table.values.T, strict=True):
        distinct, counts = np.unique(column, return_counts=True)
        rows.append(
            {
                "column": name,
                "distinct": len(distinct),
                "gap": float(gap),
                "gap_in_sd": float(gap / column.std()),
                "largest_share": float(counts.max() / len(column)),
                "rows_apart": _isolated(distinct, counts, gap),
            }
        )
    return rows


def _isolated(distinct: np.ndarray, counts: np.ndarray, gap: float) -> float:
    """Share of rows on a value that dequantising cannot join to either neighbour."""
    steps = np.concatenate([[np.inf], np.diff(distinct), [np.inf]])
    return float(counts[np.minimum(steps[:-1], steps[1:]) > 2 * gap].sum() / counts.sum())


def make_splits(
    key: Array, table: Tabular, *, num_splits: int, noise_scale: float, unique_rows: bool = False
) -> Splits:
    """Dequantise, split, whiten by the training rows, and add noise.

    Split `i` draws from `item_key(key, i)` only, so more splits leave the first ones as they are.

    Args:
        key: one key.
        table: the table.
        num_splits: how many random splits.
        noise_scale: standard deviation of the noise, in the whitened unit.
        unique_rows: keep one of equal rows, before anything else.

    Returns:
        The splits: a tenth of the rows for testing, a tenth of the rest for validation.

    Example:
        >>> splits = make_splits(jax.random.key(0), load("breast-cancer"), num_splits=2,
        ...                      noise_scale=0.1)
        >>> splits.train.shape, splits.validation.shape, splits.test.shape
        ((2, 462, 10), (2, 51, 10), (2, 56, 10))
        >>> print(float(jnp.var(splits.train, axis=1).mean().round(3)))
        1.0
    """
    values = np.unique(table.values, axis=0) if unique_rows else table.values
    gaps, one = median_gaps(values), []
    num_test = len(values) // 10
    num_validation = (len(values) - num_test) // 10
    for i in range(num_splits):
        own = item_key(key, i)
        shift = jax.random.uniform(stream(own, "dequantise"), values.shape, minval=-1.0)
        order = np.asarray(jax.random.permutation(stream(own, "data"), len(values)))
        rows = (values + np.asarray(shift, np.float64) * gaps)[order]
        train = rows[num_test + num_validation :]
        rows = whiten(rows, train, table.num_components)
        noise = jax.random.normal(stream(own, "noise"), rows.shape)
        noised = rows + noise_scale * np.asarray(noise, np.float64)
        ends = (num_test, num_test + num_validation)
        one.append(
            Splits(rows[ends[1] :], noised[ends[1] :], noised[ends[0] : ends[1]], noised[: ends[0]])
        )
    return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts), jnp.float32), *one)


def whiten(
    rows: Float[np.ndarray, "rows columns"],
    train: Float[np.ndarray, "n columns"],
    num_components: int,
) -> Float[np.ndarray, "rows d"]:
    r"""Standardise by the training rows, then turn to their principal components, of variance 1.

    $$\Lambda^{-1/2}V^\top\,\frac{x-m}{s}$$

    Args:
        rows: what to transform.
        train: the rows that $m$, $s$ and the components $V$ with variances $\Lambda$ come from.
        num_components: how many of the leading components are kept.

    Returns:
        The rows, transformed.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([1.0, 5.0, 0.1])
        >>> white = whiten(rows, rows[:40], 2)[:40]
        >>> bool(np.allclose(white.T @ white / 40, np.eye(2)))
        True
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    standard = (train - mean) / spread
    variances, directions = np.linalg.eigh(standard.T @ standard / len(train))
    leading = np.argsort(variances)[::-1][:num_components]
    directions = directions[:, leading]
    largest = np.take_along_axis(directions, abs(directions).argmax(0)[None], 0)
    directions = directions * np.sign(largest)  # else their signs are the linear algebra's whim
    return (rows - mean) / spread @ directions / np.sqrt(variances[leading])


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
