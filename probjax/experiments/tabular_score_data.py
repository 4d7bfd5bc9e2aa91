"""Tables of the tabular-score experiment: read, made continuous, split, whitened, noised.

>>> import numpy as np
>>> from probjax.experiments import tabular_score_data as data
>>> print(data.median_gaps(np.array([[0.1, 3.0], [0.2, 5.0], [0.4, 3.0]])).round(3))
[0.15 2.  ]
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import item_key, stream
from probjax.datasets import load_uci


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


WINES = ("wine-red", "wine-white")
"""Tables with a column of grades."""
DATASETS = (*WINES, "breast-cancer", "parkinsons")
"""Names of the tables."""

_VOICE = "not a measure of voice: it belongs to the subject or the date"
_DERIVED = "interpolated between clinical visits: each subject's rows lie on few straight lines"
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
        shift, order, noise = map(np.asarray, _draw(own, *values.shape, table.num_components))
        rows = (values + shift * gaps)[order]
        train = rows[num_test + num_validation :]
        rows = whiten(rows, train, table.num_components)
        noised = rows + noise_scale * noise
        ends = (num_test, num_test + num_validation)
        one.append(
            Splits(rows[ends[1] :], noised[ends[1] :], noised[ends[0] : ends[1]], noised[: ends[0]])
        )
    return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts), jnp.float32), *one)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(key: Array, num_rows: int, num_columns: int, dim: int) -> tuple[Array, Array, Array]:
    """All random numbers of one split: the uniform shift, the order of the rows, the noise."""
    shift = jax.random.uniform(stream(key, "dequantise"), (num_rows, num_columns), minval=-1.0)
    order = jax.random.permutation(stream(key, "data"), num_rows)
    return shift, order, jax.random.normal(stream(key, "noise"), (num_rows, dim))


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
