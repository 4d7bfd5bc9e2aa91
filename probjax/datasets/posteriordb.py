"""Posteriors of posteriordb as files: a model's name, its data, and what a long run found.

A file is one JSON object with `posterior`, `model`, `data` and, if there is one, `reference`:

```json
{"posterior": "sblri-blr", "model": "blr", "data": {"X": [[1.0]], "y": [2.0]},
 "reference": {"names": ["beta[1]", "sigma"], "n_draws": 10000, "mean": [1.0, 0.9], ...}}
```

`targets.posteriordb(problem.model, problem.data)` makes the density.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from probjax.datasets import sources
from probjax.datasets.sources import DatasetError

STATISTICS = ("mean", "sd", "mean_sq", "sd_sq", "q05", "q50", "q95")
"""What a reference tells of each parameter: moments of x and of its square, and quantiles."""


class Reference(NamedTuple):
    """What a long run found, on the scale of the parameters."""

    names: tuple[str, ...]
    """Names of the parameters."""
    n_draws: int
    """Independent draws that the numbers come from."""
    mean: Float[np.ndarray, " parameters"]
    """Means."""
    sd: Float[np.ndarray, " parameters"]
    """Standard deviations."""
    mean_sq: Float[np.ndarray, " parameters"]
    """Means of the squares."""
    sd_sq: Float[np.ndarray, " parameters"]
    """Standard deviations of the squares."""
    q05: Float[np.ndarray, " parameters"]
    """Quantiles at 5 %."""
    q50: Float[np.ndarray, " parameters"]
    """Medians."""
    q95: Float[np.ndarray, " parameters"]
    """Quantiles at 95 %."""


class Problem(NamedTuple):
    """One posterior."""

    posterior: str
    """Its name in the collection."""
    model: str
    """Name of the model."""
    data: dict[str, Any]
    """The data, by the model's names for them."""
    reference: Reference | None
    """What is known of the answer, if anything."""


def load_posterior(name: str | os.PathLike[str]) -> Problem:
    """Read one posterior.

    Args:
        name: path of a file that ends in `.json`; or the name of a posterior, looked for as
            `NAME.json` in the folder named by `PROBJAX_DATA`, in its sub-folder `posteriordb`, and
            in the cache. Nothing is downloaded.

    Returns:
        Model, data and reference.

    Raises:
        DatasetError: the file is missing, cannot be read, is no JSON, or lacks what it must hold;
            one line that names file and place.

    References:
        Magnusson, Torgander, Bürkner, Zhang, Carpenter, Vehtari 2024, *posteriordb: testing,
        benchmarking and developing Bayesian inference algorithms*.

    Example:
        >>> load_posterior("no/such.json")
        Traceback (most recent call last):
        probjax.datasets.sources.DatasetError: no/such.json cannot be read: No such file ...
    """
    path = Path(name)
    if path.suffix != ".json":
        found = sources.find(f"{name}.json", dataset="posteriordb")
        if found is None:
            places = " nor in ".join(str(place) for place in sources.folders("posteriordb"))
            raise DatasetError(
                f"{name}.json is not in {places}: give the path of a file, or name its folder by "
                f"{sources.VARIABLE}"
            )
        path = found
    return parse_posterior(sources.read(path), source=str(path))


def parse_posterior(content: bytes, *, source: str = "the file") -> Problem:
    """Decode and check the content of a file.

    Args:
        content: its bytes.
        source: its name in messages.

    Returns:
        Model, data and reference.

    Raises:
        DatasetError: it is no JSON object, or a field is missing or of the wrong kind.

    Example:
        >>> problem = parse_posterior(b'{"model": "blr", "data": {"y": [1.0]}}')
        >>> problem.model, problem.posterior, problem.reference
        ('blr', 'blr', None)
        >>> parse_posterior(b'{"model": "blr"}')
        Traceback (most recent call last):
        probjax.datasets.sources.DatasetError: the file must hold an object as data, got nothing
    """
    try:
        record = json.loads(content)
    except ValueError as error:
        raise DatasetError(f"{source} is no JSON: {' '.join(str(error).split())}") from error
    if not isinstance(record, Mapping):
        raise DatasetError(f"{source} must hold a JSON object, got {type(record).__name__}")
    model = _field(record, "model", str, source)
    data = _field(record, "data", dict, source)
    name = _field(record, "posterior", str, source) if "posterior" in record else model
    reference = None
    if record.get("reference") is not None:
        reference = _reference(_field(record, "reference", dict, source), source)
    return Problem(name, model, data, reference)


_KINDS = {str: "a string", dict: "an object", list: "a list", int: "a whole number"}


def _field(record: Mapping[str, Any], name: str, kind: type, source: str) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        got = "nothing" if value is None else f"{value!r:.40}"
        raise DatasetError(f"{source} must hold {_KINDS[kind]} as {name}, got {got}")
    return value


def _reference(record: Mapping[str, Any], source: str) -> Reference:
    names = tuple(map(str, _field(record, "names", list, f"the reference in {source}")))
    n_draws = _field(record, "n_draws", int, f"the reference in {source}")
    if n_draws < 1:
        raise DatasetError(f"the reference in {source} must hold n_draws of 1 at least")
    values = {}
    for name in STATISTICS:
        numbers = _field(record, name, list, f"the reference in {source}")
        good = [isinstance(x, int | float) and math.isfinite(x) for x in numbers]
        if len(numbers) != len(names) or not all(good):
            raise DatasetError(
                f"the reference in {source} must hold {len(names)} finite numbers as {name}"
            )
        values[name] = np.asarray(numbers, np.float64)
    return Reference(names, n_draws, **values)
