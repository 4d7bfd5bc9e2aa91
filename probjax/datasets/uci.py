"""Tables of the UCI repository, read from the user's folder.

>>> sorted(TABLES)
['parkinsons', 'wine-red', 'wine-white']
"""

import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.datasets import sources
from probjax.datasets.sources import DatasetError


class Table(NamedTuple):
    """A table of numbers."""

    values: Float[Array, "rows columns"]
    """One row for each observation, in JAX's default float."""
    columns: tuple[str, ...]
    """Names of the columns as in the file's header."""


class TableFile(NamedTuple):
    """How one table is stored."""

    name: str
    """File name."""
    separator: str
    """What stands between two fields."""
    shape: tuple[int, int]
    """Rows and columns, without the header."""
    first: str
    """Name of the first column."""
    last: str
    """Name of the last column."""


TABLES = {
    "wine-red": TableFile("winequality-red.csv", ";", (1599, 12), "fixed acidity", "quality"),
    "wine-white": TableFile("winequality-white.csv", ";", (4898, 12), "fixed acidity", "quality"),
    "parkinsons": TableFile("parkinsons_updrs.tsv", "\t", (5875, 22), "subject#", "PPE"),
}
"""Tables that `load_uci` knows: quality of red and white wine, Parkinson's telemonitoring."""


def load_uci(name: str, folder: str | os.PathLike[str] | None = None) -> Table:
    """Load a table that the user has obtained from the UCI repository.

    Args:
        name: one of `TABLES`.
        folder: where the file is (in it or in its sub-folder `uci`); without it the folder named
            by `PROBJAX_DATA` and the cache are searched. Nothing is downloaded.

    Returns:
        Values and column names. Several columns are integers or rounded: add noise before
        fitting a density.

    Raises:
        ValueError: no table has this name.
        DatasetError: the file is missing, or its header, columns, rows or numbers are wrong; the
            message names the file and the place.

    References:
        Cortez, Cerdeira, Almeida, Matos and Reis (2009), Modeling wine preferences by data mining
        from physicochemical properties; Tsanas, Little, McSharry and Ramig (2010), Accurate
        telemonitoring of Parkinson's disease progression by noninvasive speech tests.

    Example:
        >>> load_uci("wine-red", "/")
        Traceback (most recent call last):
        probjax.datasets.sources.DatasetError: winequality-red.csv is not in / nor in /uci: ...
    """
    checks.one_of("name", name, TABLES)
    file = TABLES[name]
    path = sources.find(file.name, dataset="uci", folder=folder)
    if path is None:
        places = " nor in ".join(str(place) for place in sources.folders("uci", folder))
        raise DatasetError(
            f"{file.name} is not in {places}: get it from the UCI repository and name its folder "
            f"by {sources.VARIABLE} or by the argument folder"
        )
    return parse_table(sources.read(path), file, source=str(path))


def parse_table(content: bytes, file: TableFile, *, source: str | None = None) -> Table:
    r"""Decode and check the content of a table.

    Args:
        content: the bytes of the file.
        file: what it should be.
        source: the name used in messages; `file.name` without it.

    Returns:
        The table.

    Raises:
        DatasetError: header, columns, rows or a number is wrong; the message says which.

    Example:
        >>> small = TableFile("small.csv", ";", (1, 2), "a", "b")
        >>> parse_table(b'"a";"b"\n1;2\n', small).columns
        ('a', 'b')
    """
    origin = source or file.name
    try:
        header, *lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{origin} is not a text file ({error})") from error
    columns = tuple(field.strip().strip('"') for field in header.split(file.separator))
    if len(columns) != file.shape[1] or (columns[0], columns[-1]) != (file.first, file.last):
        raise DatasetError(
            f"{origin} must have {file.shape[1]} columns from {file.first!r} to {file.last!r} "
            f"separated by {file.separator!r}, got {len(columns)} from {columns[0]!r} to "
            f"{columns[-1]!r}"
        )
    rows = [line.split(file.separator) for line in lines if line.strip()]
    if len(rows) != file.shape[0]:
        raise DatasetError(f"{origin} must have {file.shape[0]} rows, got {len(rows)}")
    values = np.empty(file.shape)
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            raise DatasetError(
                f"{origin}, line {i + 2}: {len(row)} fields, expected {len(columns)}"
            )
        for j, field in enumerate(row):
            try:
                values[i, j] = float(field)
            except ValueError as error:
                raise DatasetError(
                    f"{origin}, line {i + 2}, column {columns[j]!r}: {field!r} is no number"
                ) from error
    return Table(jnp.asarray(values, jnp.result_type(float)), columns)
