"""Checkpoints that a killed run resumes from, on any number of devices.

A checkpoint is one folder that Orbax writes atomically: the state, the configuration it belongs
to, and a hash of its bytes. Reading one that is damaged, or that belongs to another configuration,
raises `CheckpointError` and says so in one line.

>>> import tempfile, jax.numpy as jnp
>>> from probjax.sharding import checkpoints
>>> folder = tempfile.mkdtemp()
>>> checkpoints.save(folder, 3, {"x": jnp.arange(2.0)}, config={"seed": 1})
>>> state, step = checkpoints.restore(folder, {"x": jnp.zeros(2)}, config={"seed": 1})
>>> step, state["x"].tolist()
(3, [0.0, 1.0])
>>> checkpoints.restore(folder, {"x": jnp.zeros(2)}, config={"seed": 2})
Traceback (most recent call last):
probjax.sharding.checkpoints.CheckpointError: ... another config: seed is 1 there, 2 here
"""

import gc
import hashlib
import json
import logging
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probjax.core import checks

_NAME = re.compile(r"step_(\d{10})")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder and the reason."""


def steps(folder: str | pathlib.Path) -> list[int]:
    """List the steps that have a complete checkpoint, in rising order.

    Args:
        folder: the run's checkpoint folder; it need not exist.

    Returns:
        Their steps.

    Example:
        >>> steps("no/such/folder")
        []
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    names = (_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted(int(match.group(1)) for match in names if match)


def save(
    folder: str | pathlib.Path, step: int, state: Any, *, config: Mapping[str, Any], keep: int = 2
) -> None:
    """Write the state of step `step`, atomically, and drop all but the last `keep` checkpoints.

    A process killed while it writes leaves the earlier checkpoints as they were.

    Args:
        folder: where checkpoints go; made if absent.
        step: the next step to take from this state.
        state: pytree of arrays; typed keys are allowed.
        config: JSON-ready mapping; `restore` demands the same.
        keep: how many checkpoints stay.

    Raises:
        ValueError: negative `step` or `keep < 1`.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> folder = tempfile.mkdtemp()
        >>> for step in (10, 20, 30):
        ...     save(folder, step, {"x": jnp.ones(1)}, config={})
        >>> steps(folder)
        [20, 30]
    """
    checks.at_least("step", step, 0)
    checks.at_least("keep", keep, 1)
    folder = pathlib.Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    arrays = _without_keys(state)
    meta = {"config": dict(config), "step": step, "sha256": _digest(arrays)}
    ocp = _orbax()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            folder / f"step_{step:010d}",
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(meta)
            ),
            force=True,
        )
    if jax.process_index() == 0:
        for old in steps(folder)[:-keep]:
            shutil.rmtree(folder / f"step_{old:010d}", ignore_errors=True)


def restore(
    folder: str | pathlib.Path, like: Any, *, config: Mapping[str, Any], step: int | None = None
) -> tuple[Any, int]:
    """Read a checkpoint into the structure, dtypes and sharding of `like`.

    Args:
        folder: the run's checkpoint folder.
        like: pytree of arrays as `save` got them, on the devices that are to hold them now; their
            number may differ from the time of saving.
        config: what `save` was given; a difference is an error that names the first field.
        step: which checkpoint; the last one when `None`.

    Returns:
        The state and its step.

    Raises:
        CheckpointError: there is none, it is damaged, it is not one of ours, or it belongs to
            another configuration or structure.

    Example:
        >>> import jax.numpy as jnp
        >>> restore("no/such/folder", jnp.zeros(2), config={})
        Traceback (most recent call last):
        probjax.sharding.checkpoints.CheckpointError: no/such/folder: no checkpoint there
    """
    folder = pathlib.Path(folder)
    known = steps(folder)
    if not known:
        raise CheckpointError(f"{folder}: no checkpoint there")
    step = known[-1] if step is None else step
    if step not in known:
        raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are {known}")
    path = folder.absolute() / f"step_{step:010d}"
    meta = _read_meta(path)
    _same_config(path, meta["config"], json.loads(json.dumps(dict(config))))
    arrays = _read_state(path, _without_keys(like))
    if meta["sha256"] is not None and _digest(arrays) != meta["sha256"]:
        raise CheckpointError(f"{path}: damaged, its contents do not match their SHA-256")
    return _with_keys(arrays, like), step


def _orbax() -> Any:
    """Orbax, imported here alone and late: it costs a second."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> dict[str, Any]:
    """The leaves by path, with typed keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for path, leaf in leaves
    }


def _with_keys(arrays: dict[str, Any], like: Any) -> Any:
    def leaf(path, old):
        new = arrays[jax.tree_util.keystr(path)]
        if _is_key(old):
            return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
        return new

    return jax.tree_util.tree_map_with_path(leaf, like)


def _digest(arrays: dict[str, Any]) -> str | None:
    """SHA-256 over names, dtypes, shapes and bytes; none where a process sees only a part."""
    total = hashlib.sha256()
    for name, leaf in sorted(arrays.items()):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                return None
            leaf = leaf.addressable_data(0)
        leaf = np.asarray(leaf)
        total.update(f"{name}:{leaf.dtype}:{leaf.shape};".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def _read_meta(path: pathlib.Path) -> dict[str, Any]:
    ocp = _orbax()
    failure = "damaged or not a probjax checkpoint"
    found = _read(path, ocp.args.Composite(meta=ocp.args.JsonRestore()), failure)
    meta = dict(found.meta or {})
    for name in ("config", "step", "sha256"):
        if name not in meta:
            raise CheckpointError(f"{path}: {failure} (no {name})")
    return meta


def _read_state(path: pathlib.Path, like: dict[str, Any]) -> dict[str, Any]:
    ocp = _orbax()

    def abstract(leaf):
        leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    target = {name: abstract(leaf) for name, leaf in like.items()}
    how = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.Composite(state=ocp.args.PyTreeRestore(target, restore_args=how))
    restored = _read(path, args, "damaged, or of another structure").state
    for name, leaf in target.items():
        if restored[name].shape != leaf.shape:
            raise CheckpointError(
                f"{path}: state{name} has shape {restored[name].shape} there, {leaf.shape} here"
            )
    return restored


def _read(path: pathlib.Path, args: Any, failure: str) -> Any:
    """What Orbax reads, or why it cannot, in one line."""
    ocp = _orbax()
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=args)
    except Exception as error:  # Orbax's failures have no common type
        reason = _line(error)
    _collect_remains()
    raise CheckpointError(f"{path}: {failure} ({reason})")


def _collect_remains() -> None:
    """Collect what Orbax leaves of a restore that failed.

    Coroutines that were never run complain when they are collected, in whatever runs then.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = hook


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


def _same_config(path: pathlib.Path, there: Any, here: Any, prefix: str = "") -> None:
    """Raise with the first field in which two configurations differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*here, *(name for name in there if name not in here)]:
            missing = "absent"
            _same_config(
                path,
                there.get(name, missing),
                here.get(name, missing),
                f"{prefix}.{name}".lstrip("."),
            )
    elif there != here:
        raise CheckpointError(
            f"{path}: belongs to another config: {prefix} is {there!r} there, {here!r} here"
        )
