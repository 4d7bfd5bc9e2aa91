"""Argument checks that name the argument, what was expected and what came.

Static facts (shapes, dtypes, concrete values) raise at trace time. Facts about traced values go
through `checkify.debug_check`: free under plain `jit`, exact under `checkify.checkify`:

>>> from probjax.core import checks
>>> checks.strictly_decreasing("noise_scales", [1.0, 0.5, 0.5])
Traceback (most recent call last):
ValueError: noise_scales[2]=0.5 is not below noise_scales[1]=0.5
"""

import contextlib
import contextvars
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, ArrayLike, Int

_ONLY_CONCRETE = contextvars.ContextVar("only_concrete", default=False)


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


@contextlib.contextmanager
def only_concrete() -> Iterator[None]:
    """Leave traced values unchecked within the block.

    For programs whose caller has checked the values before they enter: a check that waits in a
    compiled program for `checkify` sends every call of it through Python, a millisecond or two.

    Yields:
        Nothing.

    Example:
        >>> from jax.experimental import checkify
        >>> def run(x):
        ...     with only_concrete():
        ...         positive("x", x)
        ...     return x
        >>> print(checkify.checkify(jax.jit(run))(-1.0)[0].get())
        None
    """
    token = _ONLY_CONCRETE.set(True)
    try:
        yield
    finally:
        _ONLY_CONCRETE.reset(token)


def positive(name: str, value: ArrayLike) -> None:
    """Demand that every entry of `value` is finite and above zero.

    Args:
        name: the argument's name, for the message.
        value: a number or an array.

    Raises:
        ValueError: some entry is not (concrete values only).

    Example:
        >>> positive("step_size", 0.1)
        >>> positive("step_size", -1.0)
        Traceback (most recent call last):
        ValueError: step_size must be positive and finite, got -1.0
    """
    _demand(name, value, lambda v: v > 0, "must be positive and finite")


def non_negative(name: str, value: ArrayLike) -> None:
    """Demand that every entry of `value` is finite and not below zero.

    Args:
        name: the argument's name, for the message.
        value: a number or an array.

    Raises:
        ValueError: some entry is not (concrete values only).

    Example:
        >>> non_negative("noise_scale", -0.5)
        Traceback (most recent call last):
        ValueError: noise_scale must be finite and not negative, got -0.5
    """
    _demand(name, value, lambda v: v >= 0, "must be finite and not negative")


def at_least(name: str, value: Any, minimum: int) -> int:
    """Demand that the static integer `value` is at least `minimum`, and return it.

    Args:
        name: the argument's name, for the message.
        value: a Python or NumPy integer.
        minimum: the smallest value allowed.

    Returns:
        `value` as an `int`.

    Raises:
        TypeError: `value` is not a static integer.
        ValueError: `value < minimum`.

    Example:
        >>> at_least("num_steps", 0, 1)
        Traceback (most recent call last):
        ValueError: num_steps must be at least 1, got 0
    """
    try:
        number = operator.index(value)
    except (TypeError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(f"{name} must be a static integer, got {value!r}") from error
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def strictly_decreasing(name: str, values: ArrayLike | Sequence[float]) -> None:
    """Demand a non-empty vector of positive, finite, strictly decreasing numbers.

    Args:
        name: the argument's name, for the message.
        values: numbers `(n,)`.

    Raises:
        ValueError: it is empty, not a vector, or some entry breaks the order
            (concrete values only for the last).

    Example:
        >>> strictly_decreasing("noise_scales", [0.2, 0.4])
        Traceback (most recent call last):
        ValueError: noise_scales[1]=0.4 is not below noise_scales[0]=0.2
    """
    traced = _is_traced(values)
    array = values if traced else np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(f"{name} must be a non-empty vector, got shape {array.shape}")
    positive(name, array)
    if traced:
        message = f"{name} must be strictly decreasing, got {{v}}"
        _later(jnp.all(array[1:] < array[:-1]), message, v=array)
        return
    bad = np.flatnonzero(~(array[1:] < array[:-1]))
    if bad.size:
        i = int(bad[0])
        given = np.asarray(values)
        raise ValueError(f"{name}[{i + 1}]={given[i + 1]} is not below {name}[{i}]={given[i]}")


def shape(name: str, array: Any, expected: Sequence[int | None]) -> None:
    """Demand the shape `expected`, in which `None` stands for any length.

    Args:
        name: the argument's name, for the message.
        array: whatever has a `shape`.
        expected: lengths, or `None`.

    Raises:
        ValueError: the shape differs.

    Example:
        >>> import jax.numpy as jnp
        >>> shape("x", jnp.zeros((3, 2)), (None, 4))
        Traceback (most recent call last):
        ValueError: x must have shape (any, 4), got (3, 2)
    """
    got = jnp.shape(array)
    agree = len(got) == len(expected) and all(
        want is None or want == have for want, have in zip(expected, got, strict=True)
    )
    if not agree:
        want = ", ".join("any" if length is None else str(length) for length in expected)
        comma = "," if len(expected) == 1 else ""
        raise ValueError(f"{name} must have shape ({want}{comma}), got {got}")


def same_shape(name: str, array: Any, other_name: str, other: Any) -> None:
    """Demand that two arrays have one shape.

    Args:
        name: name of the first, for the message.
        array: the first.
        other_name: name of the second.
        other: the second.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> same_shape("score_fn(x)", jnp.zeros(3), "x", jnp.zeros(2))
        Traceback (most recent call last):
        ValueError: score_fn(x) must have the shape of x, (2,), got (3,)
    """
    if jnp.shape(array) != jnp.shape(other):
        raise ValueError(
            f"{name} must have the shape of {other_name}, {jnp.shape(other)}, "
            f"got {jnp.shape(array)}"
        )


def one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Demand that `value` is one of the names `allowed`.

    Args:
        name: the argument's name, for the message.
        value: the name given.
        allowed: the names there are.

    Raises:
        ValueError: it is not among them.

    Example:
        >>> one_of("law", "cauchy", ("rademacher", "gaussian"))
        Traceback (most recent call last):
        ValueError: law must be one of 'rademacher', 'gaussian', got 'cauchy'
    """
    names = tuple(allowed)
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}")


def floating(name: str, array: Array) -> None:
    """Demand a floating-point array.

    Args:
        name: the argument's name, for the message.
        array: the array, of any shape.

    Raises:
        TypeError: its dtype is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> floating("x", jnp.arange(3))
        Traceback (most recent call last):
        TypeError: x must be a floating-point array, got int32
    """
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating-point array, got {dtype}")


def integers(name: str, array: ArrayLike) -> None:
    """Demand an array of integers.

    Args:
        name: the argument's name, for the message.
        array: the array, or a number.

    Raises:
        TypeError: its dtype is no integer.

    Example:
        >>> integers("labels", 1.5)
        Traceback (most recent call last):
        TypeError: labels must be integers, got float32
    """
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {dtype}")


def refuse(name: str, values: ArrayLike, is_bad: Array, words: str) -> None:
    """Raise for the first bad entry; traced values, and those of other processes, pass.

    Args:
        name: the argument's name, for the message.
        values: the argument.
        is_bad: which entries are bad, of its shape.
        words: what it must be, or what is wrong with it.

    Raises:
        ValueError: an entry is bad; the message names it by its index.

    Example:
        >>> import jax.numpy as jnp
        >>> lengths = jnp.array([3, 7])
        >>> refuse("lengths", lengths, lengths > 5, "must be in [0, 5]")
        Traceback (most recent call last):
        ValueError: lengths[1]=7 must be in [0, 5]
    """
    if _is_traced(is_bad) or not is_bad.is_fully_addressable:
        return
    found = np.argwhere(np.asarray(is_bad))
    if len(found):
        index = tuple(int(i) for i in found[0])
        raise ValueError(f"{name}{_place(index)}={np.asarray(values)[index]} {words}")


def lengths(
    name: str, values: ArrayLike | None, batch: Sequence[int], most: int
) -> Int[Array, "..."]:
    """Lengths of padded sequences: checked, int32, and all of `most` where none are given.

    Args:
        name: the argument's name, for the message.
        values: the lengths, of shape `batch`, or `None`.
        batch: the sequences' batch shape.
        most: places there are.

    Returns:
        Lengths of shape `batch`. Traced ones may lie outside `[0, most]`.

    Raises:
        TypeError: they are no integers.
        ValueError: their shape differs, or a concrete one lies outside `[0, most]`.

    Example:
        >>> print(lengths("lengths", None, (2,), 5))
        [5 5]
        >>> import jax.numpy as jnp
        >>> lengths("lengths", jnp.array([3, 7]), (2,), 5)
        Traceback (most recent call last):
        ValueError: lengths[1]=7 must be in [0, 5]
    """
    if values is None:
        return jnp.full(tuple(batch), most, jnp.int32)
    found = jnp.asarray(values)
    integers(name, found)
    shape(name, found, batch)
    refuse(name, found, (found < 0) | (found > most), f"must be in [0, {most}]")
    return found.astype(jnp.int32)


def _place(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""


def _demand(name: str, value: ArrayLike, holds: Callable[[Any], Any], words: str) -> None:
    """Raise `name words, got value` unless every entry is finite and `holds` for it."""
    if _is_traced(value):
        good = jnp.all(holds(value) & jnp.isfinite(value))
        _later(good, f"{name} {words}, got {{value}}", value=value)
        return
    array = np.asarray(value, dtype=np.float64)
    bad = np.argwhere(~np.asarray(holds(array) & np.isfinite(array)))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name}{_place(index)} {words}, got {array[index]}")


def _later(good: Any, message: str, **values: Any) -> None:
    """Leave a check to `checkify`, unless nobody asks for it."""
    if not _ONLY_CONCRETE.get():
        checkify.debug_check(good, message, **values)
