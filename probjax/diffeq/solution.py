r"""What every solver returns, and what every solver asks of its arguments.

A vector field `vector_field(t, y, args) -> dy` describes one trajectory. `y` and `args` are
pytrees, and `dy` has the layout of `y`:

>>> import jax.numpy as jnp
>>> from probjax.diffeq.solution import checked_state, check_field
>>> y0 = checked_state({"q": 1.0, "p": jnp.zeros(2)})
>>> check_field(lambda t, y, args: {"q": y["q"], "p": y["q"]}, 0.0, y0, None)
Traceback (most recent call last):
TypeError: vector_field(t, y, args)['p'] must be like y['p'], float32[2], got float32[]
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probjax.core import checks

Tree = TypeVar("Tree")

VectorField = Callable[[Any, Any, Any], Any]
"""`vector_field(t, y, args) -> dy`, of one trajectory."""

REACHED, MAX_STEPS, NON_FINITE, STEP_TOO_SMALL = range(4)
"""How a solve ended: at its end, out of steps, at a value that is not finite, at a step below
rounding."""


class Stats(NamedTuple):
    """What a solve cost."""

    num_steps: Int[Array, "*n"]
    """Steps tried."""
    num_accepted: Int[Array, "*n"]
    """Steps kept."""
    num_rejected: Int[Array, "*n"]
    """Steps thrown away and tried again with a smaller size."""
    num_evaluations: Int[Array, "*n"]
    """Calls of the vector field."""


class Solution(NamedTuple):
    """One trajectory, or several along a leading axis of every field."""

    t: Float[Array, "*times"]
    """Times of the rows of `y`: `()` where only the end is kept, else `(T,)`."""
    y: Any
    """The state at `t`: the layout of `y0`, with a leading axis `T` where rows are kept. Rows that
    a failed trajectory did not reach are NaN; an end alone is its last finite state."""
    stats: Stats
    """What it cost."""
    result: Int[Array, "*n"]
    """`REACHED` (0), `MAX_STEPS` (1), `NON_FINITE` (2) or `STEP_TOO_SMALL` (3)."""


def checked_state(y0: Tree) -> Tree:
    """Return a state as arrays, in float32 at least.

    Args:
        y0: pytree of floating or complex arrays and numbers.

    Returns:
        The same tree of arrays; Python floats take JAX's default precision, half precision
        becomes float32.

    Raises:
        TypeError: a leaf is an integer or a flag.
        ValueError: the tree has no leaves.

    Example:
        >>> checked_state({"q": jnp.array([1, 2])})
        Traceback (most recent call last):
        TypeError: y0['q'] must be floating or complex, got int32
    """

    def convert(path: Any, leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            where = jax.tree_util.keystr(path)
            raise TypeError(f"y0{where} must be floating or complex, got {leaf.dtype}")
        return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf

    if not jax.tree.leaves(y0):
        raise ValueError("y0 must have at least one array, got an empty tree")
    return jax.tree_util.tree_map_with_path(convert, y0)


def time_dtype(y: Any) -> Any:
    """Return the real dtype in which times and step sizes of a state are computed.

    Args:
        y: pytree of floating or complex arrays.

    Returns:
        The widest real dtype among the leaves.

    Example:
        >>> time_dtype(jnp.zeros(2, jnp.complex64)).name
        'float32'
    """
    # Not `result_type`: a tree may hold real and complex leaves, which strict promotion parts.
    return max(
        (jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(y)), key=lambda d: d.itemsize
    )


def check_field(vector_field: VectorField, t: ArrayLike, y: Any, args: Any) -> None:
    """Demand that a vector field returns what can be added to the state.

    Nothing is computed: the field is traced only.

    Args:
        vector_field: `vector_field(t, y, args) -> dy`.
        t: a time.
        y: the state, a tree of arrays.
        args: what the field gets besides.

    Raises:
        TypeError: `dy` has another structure, or a leaf of another shape or dtype.

    Example:
        >>> check_field(lambda t, y, args: y[:2], 0.0, jnp.zeros(3), None)
        Traceback (most recent call last):
        TypeError: vector_field(t, y, args) must be like y, float32[3], got float32[2]
    """
    t = jnp.asarray(t, time_dtype(y))
    dy = jax.eval_shape(vector_field, t, y, args)
    ours, theirs = jax.tree.structure(dy), jax.tree.structure(y)
    if ours != theirs:
        raise TypeError(
            f"vector_field(t, y, args) must have the structure of y, {theirs}, got {ours}"
        )

    def compare(path: Any, got: Any, want: Any) -> None:
        if got.shape != want.shape or got.dtype != want.dtype:
            where = jax.tree_util.keystr(path)
            raise TypeError(
                f"vector_field(t, y, args){where} must be like y{where}, "
                f"{want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}"
            )

    jax.tree_util.tree_map_with_path(compare, dy, y)


def check_times(
    name: str,
    times: ArrayLike | Sequence[float],
    *,
    t0: ArrayLike | None = None,
    t1: ArrayLike | None = None,
) -> None:
    """Demand times that run strictly from `t0` towards `t1` and leave the span nowhere.

    Args:
        name: the argument's name, for the message.
        times: `(T,)`; concrete values are checked, traced ones are not.
        t0: where the solve begins; `None` for the first of `times`.
        t1: where it ends; `None` for the last of `times`.

    Raises:
        ValueError: no vector, empty, not monotone along the span, or outside it.

    Example:
        >>> check_times("save_at", [0.0, 1.0, 0.5], t0=0.0, t1=2.0)
        Traceback (most recent call last):
        ValueError: save_at[2]=0.5 does not follow save_at[1]=1.0 along the way from 0.0 to 2.0
        >>> check_times("save_at", [0.5, 2.5], t0=0.0, t1=2.0)
        Traceback (most recent call last):
        ValueError: save_at[1]=2.5 is outside the span from 0.0 to 2.0
    """
    shape = np.shape(times)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"{name} must be a non-empty vector, got shape {shape}")
    if any(isinstance(value, jax.core.Tracer) for value in (times, t0, t1)):
        return
    values = np.asarray(times, np.float64)
    start = float(values[0] if t0 is None else np.asarray(t0))
    end = float(values[-1] if t1 is None else np.asarray(t1))
    direction = 1.0 if end >= start else -1.0
    bad = np.flatnonzero(~(direction * np.diff(values) > 0))
    if bad.size:
        i = int(bad[0]) + 1
        raise ValueError(
            f"{name}[{i}]={values[i]} does not follow {name}[{i - 1}]={values[i - 1]} "
            f"along the way from {start} to {end}"
        )
    inside = (direction * (values - start) >= 0) & (direction * (end - values) >= 0)
    if not inside.all():
        i = int(np.flatnonzero(~inside)[0])
        raise ValueError(f"{name}[{i}]={values[i]} is outside the span from {start} to {end}")


def check_step(name: str, step: ArrayLike, t0: ArrayLike, t1: ArrayLike) -> None:
    """Demand a step size that is not zero and leads from `t0` towards `t1`.

    Args:
        name: the argument's name, for the message.
        step: a signed step size; concrete values are checked, traced ones are not.
        t0: where the solve begins.
        t1: where it ends.

    Raises:
        ValueError: zero, not finite, or of the wrong sign.

    Example:
        >>> check_step("first_step", -0.1, 0.0, 1.0)
        Traceback (most recent call last):
        ValueError: first_step must lead from t0=0.0 towards t1=1.0, got -0.1
    """
    if any(isinstance(value, jax.core.Tracer) for value in (step, t0, t1)):
        return
    h, span = float(np.asarray(step)), float(np.asarray(t1)) - float(np.asarray(t0))
    if not np.isfinite(h) or h == 0 or h * span < 0:
        raise ValueError(f"{name} must lead from t0={t0} towards t1={t1}, got {step}")


def check_tolerances(rtol: ArrayLike, atol: ArrayLike) -> None:
    """Demand tolerances that are not negative and not both zero.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.

    Raises:
        ValueError: one is negative, or both are zero (concrete values only).

    Example:
        >>> check_tolerances(0.0, 0.0)
        Traceback (most recent call last):
        ValueError: rtol and atol must not both be zero
    """
    checks.non_negative("rtol", rtol)
    checks.non_negative("atol", atol)
    if any(isinstance(value, jax.core.Tracer) for value in (rtol, atol)):
        return
    if not np.any(np.asarray(rtol) > 0) and not np.any(np.asarray(atol) > 0):
        raise ValueError("rtol and atol must not both be zero")
