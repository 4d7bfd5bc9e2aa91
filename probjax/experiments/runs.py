"""The folder of a run: its exact config, its log, its checkpoints and what it found.

```
runs/digits-0001/
  config.json       experiment, config, version
  log.jsonl         one line for each chunk of training
  checkpoints/      Orbax, the last two
  samples.npz       what was drawn
  metrics.json      what was measured
  report.html       the same for a person, self-contained
```
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import probjax
from probjax.sharding import Chunk


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line that names it."""


class Context(NamedTuple):
    """What a run is given besides its config; none of it may change the run's numbers."""

    folder: pathlib.Path
    """Where it writes."""
    mesh: Mesh
    """The devices it runs on."""
    progress: Callable[..., Callable[[Chunk], None]]
    """`sharding.progress` with its stream chosen: label and unit to an `on_chunk` callback."""
    say: Callable[[str], None]
    """Prints one line for the user."""
    deadline: float | None
    """Wall seconds after which it stops at the next chunk border; none when `None`."""


def create(root: pathlib.Path | None, name: str, config: Any) -> pathlib.Path:
    """Make the folder of a new run and write its config there.

    Args:
        root: the folder itself; the next free `runs/NAME-0001` when `None`.
        name: the experiment.
        config: its frozen dataclass.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something already, or cannot be written.

    Example:
        >>> import tempfile, pathlib
        >>> from probjax.experiments import digits
        >>> folder = create(pathlib.Path(tempfile.mkdtemp()) / "mine", "digits", digits.Config())
        >>> open_run(folder)[0]
        'digits'
    """
    folder = root if root is not None else _next_free(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; resume it, or name another folder with --out")
        record = {
            "experiment": name,
            "config": dataclasses.asdict(config),
            "version": probjax.__version__,
        }
        write_json(folder / "config.json", record)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def open_run(folder: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """Read which experiment and config a run folder belongs to.

    Args:
        folder: the run folder.

    Returns:
        The experiment's name and its config as a dict.

    Raises:
        UserError: it is no run folder, or its `config.json` is damaged.

    Example:
        >>> open_run(pathlib.Path("no/such/run"))
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: no/such/run is not a run folder: it has no config.json
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.json")
    try:
        record = json.loads(path.read_text())
        return record["experiment"], record["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def config_from_dict(kind: type, values: Mapping[str, Any], prefix: str = "config") -> Any:
    """Rebuild a (nested) dataclass from `dataclasses.asdict`, read back from JSON.

    Args:
        kind: the dataclass.
        values: its fields.
        prefix: how the field is called in messages.

    Returns:
        The instance.

    Raises:
        UserError: a field is missing or unknown; the message names it.

    Example:
        >>> from probjax.experiments import digits
        >>> config = digits.Config(seed=3)
        >>> config_from_dict(digits.Config, dataclasses.asdict(config)) == config
        True
    """
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in (*fields, *values):
        if name not in values or name not in fields:
            state = "missing" if name not in values else "unknown"
            raise UserError(f"{prefix}.{name} is {state} in this run's config.json")
    built = {}
    for name in fields:
        value, hint = values[name], hints[name]
        if dataclasses.is_dataclass(hint):
            value = config_from_dict(hint, value, f"{prefix}.{name}")
        elif typing.get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)
        built[name] = value
    return kind(**built)


def check_divides(field: str, count: int, mesh: Mesh, tile: int | None) -> None:
    """Refuse a tile below 1, and a count that devices and tiles do not divide.

    Args:
        field: the count's name in the config.
        count: how many rows or chains go to the devices.
        mesh: the devices.
        tile: rows computed together on a device, if fixed.

    Raises:
        UserError: as said; the message names the field.

    Example:
        >>> from probjax import sharding
        >>> check_divides("num_chains", 9, sharding.make_mesh(2), 2)
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.num_chains=9 must be a multiple of 4 (2 dev...
    """
    if tile is not None and tile < 1:
        raise UserError(f"config.tile must be at least 1, got {tile}")
    multiple = mesh.size * (tile or 1)
    if count % multiple:
        raise UserError(
            f"config.{field}={count} must be a multiple of {multiple} "
            f"({mesh.size} devices times tile {tile or 1})"
        )


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a half.

    Args:
        path: the file.
        value: JSON-ready.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"a": 1})
        >>> json.loads(path.read_text())
        {'a': 1}
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write text likewise, through a temporary file and a rename.

    Args:
        path: the file.
        text: its contents.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_text(path, "hello")
        >>> path.read_text()
        'hello'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


class Log:
    """`log.jsonl`: one record for each chunk, cut back to the checkpoint on resume."""

    def __init__(self, folder: pathlib.Path, *, before: int) -> None:
        """Open the log of `folder`, dropping records of steps beyond `before`."""
        self._path = folder / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                break  # the line a kill cut in two
            if record["step"] <= before:
                kept.append(record)
        self.records: list[dict[str, Any]] = kept
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))

    def append(self, record: dict[str, Any]) -> None:
        """Add one record, which must have a `step`."""
        self.records.append(record)
        with self._path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")


def environment(mesh: Mesh) -> dict[str, Any]:
    """Tell on what a run ran.

    Args:
        mesh: its devices.

    Returns:
        JSON-ready backend, devices, processes and versions.

    Example:
        >>> from probjax import sharding
        >>> environment(sharding.make_mesh(2))["devices"]
        2
    """
    device = mesh.devices.flat[0]
    return {
        "backend": device.platform,
        "device": device.device_kind,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "probjax": probjax.__version__,
    }


def sha256(tree: Any) -> str:
    """Hash every bit of a pytree of arrays.

    Args:
        tree: the arrays.

    Returns:
        The hexadecimal digest over the leaves in order.

    Example:
        >>> sha256([np.zeros(2)]) == sha256([np.zeros(2), np.zeros(0)])
        True
    """
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return total.hexdigest()


def _next_free(name: str) -> pathlib.Path:
    root = pathlib.Path("runs")
    number = 1
    while (root / f"{name}-{number:04d}").exists():
        number += 1
    return root / f"{name}-{number:04d}"
