r"""A vector field as a list of scalar formulas, one for each entry of the state.

`components` traces a field once and writes its operations out again on scalars. An array of shape
`(3,)` becomes three values, each of which may be a number, or an array with an entry for each item
of an ensemble: all operations that are left act entry by entry.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.componentwise import components
>>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
>>> field = components(lambda t, y, args: args * (turn @ y), 0.0, jnp.zeros(2), 1.0)
>>> q, p = field(0.0, (jnp.array([1.0, 2.0]), jnp.array([5.0, 7.0])), (2.0,))  # two items
>>> print(q, p)
[10. 14.] [-2. -4.]

What moves entries about (`slice`, `stack`, `reshape`, `gather` at fixed places) is worked out while
tracing and costs nothing. Matrix products and sums are written out. `jit` and rules for
derivatives (`custom_jvp`) are opened: a derivative is that of the formula inside.
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jax_core
from jax.typing import ArrayLike
from jaxtyping import Array

from probjax.core import rows

Component = Any
"""One scalar of a tree: a number, or an array with an entry for each item."""

ComponentField = Callable[[Any, Sequence[Component], Sequence[Component]], tuple[Array, ...]]
"""`field(t, y, args)` with `y` and `args` as sequences of components; returns those of `dy`."""

_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv "
    "erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt "
    "max min mul ne neg nextafter not or population_count pow pvary real reduce_precision rem "
    "round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh "
    "sqrt square stop_gradient sub tan tanh xor"
)
_STRUCTURAL = (
    "broadcast_in_dim concatenate expand_dims pad reshape rev slice split squeeze stack transpose"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Primitives that treat each entry alone."""
STRUCTURAL = frozenset(_STRUCTURAL.split())
"""Primitives that move entries to places known when traced."""
PLACED = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2}
"""Primitives that move entries to places that other arguments tell; how many operands hold them."""
REDUCTIONS = {
    "reduce_sum": jax.lax.add,
    "reduce_prod": jax.lax.mul,
    "reduce_max": jax.lax.max,
    "reduce_min": jax.lax.min,
    "reduce_and": jax.lax.bitwise_and,
    "reduce_or": jax.lax.bitwise_or,
}
"""Reductions, each as the operation of two entries."""
RUNNING = {
    "cumsum": jax.lax.add,
    "cumprod": jax.lax.mul,
    "cummax": jax.lax.max,
    "cummin": jax.lax.min,
}
"""Running reductions, likewise."""
BARRIER = "optimization_barrier"
"""Hands its operands on."""
OPENED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Calls whose programs are opened, each with the name of the parameter that holds it."""


def components(
    vector_field: Callable[[Any, Any, Any], Any], t: ArrayLike, y: Any, args: Any
) -> ComponentField:
    r"""Trace a function of one trajectory, and return it as a function of scalars.

    $$(y_1,\dots,y_n)\mapsto\big(f_1(t,y,args),\dots,f_n(t,y,args)\big)$$

    Args:
        vector_field: `vector_field(t, y, args)`, in `jax.numpy`.
        t: a time; of this and the next two only shapes and dtypes count.
        y: the state of one trajectory, any pytree.
        args: what the field gets besides, any pytree.

    Returns:
        `field(t, y, args)`, in which `y` and `args` are the components of the trees in the order
        of `split_components`, all of one shape or scalars. It gives the components of the result,
        each of the widest shape among those of `y`.

    Raises:
        NotImplementedError: an operation that has no componentwise form, such as a loop, a sort
            or a draw; the message names it and the line of code it comes from.

    Example:
        >>> field = components(lambda t, y, args: y[::-1] * t, 2.0, jnp.zeros(2), None)
        >>> [float(v) for v in field(2.0, (1.0, 5.0), ())]
        [10.0, 2.0]
        >>> components(lambda t, y, args: jnp.sort(y), 0.0, jnp.zeros(2), None)
        Traceback (most recent call last):
        NotImplementedError: no componentwise form of `sort`, at <doctest ...
    """
    abstract = jax.tree.map(_abstract, (t, y, args))
    closed = jax.make_jaxpr(vector_field)(*abstract)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(part)] for part in abstract]
    kinds = [leaf.dtype for leaf in jax.tree.leaves(abstract)]
    _refuse_unknown(closed.jaxpr)

    def field(t: Any, y: Sequence[Any], args: Sequence[Any]) -> tuple[Array, ...]:
        parts = []
        for name, values, wanted in zip(("t", "y", "args"), ((t,), y, args), shapes, strict=True):
            size = sum(map(math.prod, wanted))
            if len(values) != size:
                raise ValueError(f"{name} must have {size} components, got {len(values)}")
            parts += _boxes(values, wanted)
        typed = [
            _each(lambda v, kind=kind: v if _is_array(v) else np.asarray(v, kind)[()], part)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        boxed = _run(closed.jaxpr, [_constant(c) for c in closed.consts], typed)
        flat = [value for box in boxed for value in box.reshape(-1)]
        shape = jnp.broadcast_shapes((), *(jnp.shape(v) for v in y))
        like = [v for v in y if _is_array(v)]
        return tuple(_spread(v, shape, like) for v in flat)

    return field


def split_components(tree: Any, *, items: bool = True) -> tuple[Array, ...]:
    """Return the entries of a tree as separate arrays, leaf after leaf, each in row-major order.

    Args:
        tree: pytree of arrays.
        items: whether each leaf has a leading axis of items, which the components keep.

    Returns:
        The components, of shape `(N,)`, or `()` without `items`.

    Example:
        >>> [v.tolist() for v in split_components({"a": jnp.arange(6).reshape(2, 3)})]
        [[0, 3], [1, 4], [2, 5]]
    """

    def split(leaf: Array) -> list[Array]:
        leaf = jnp.asarray(leaf)
        flat = leaf.reshape(leaf.shape[0], -1) if items else leaf.reshape(-1)
        return [flat[..., k] for k in range(flat.shape[-1])]

    return tuple(v for leaf in jax.tree.leaves(tree) for v in split(leaf))


def join_components(parts: Sequence[Array], like: Any) -> Any:
    """Put components together again: the inverse of `split_components`.

    Args:
        parts: arrays of one shape, `*items`.
        like: the tree of one item, of arrays or of what has a shape.

    Returns:
        A tree with the structure of `like`, leaves `(*items, *shape)`.

    Example:
        >>> join_components((jnp.ones(5), jnp.zeros(5)), {"a": jnp.zeros((1, 2))})["a"].shape
        (5, 1, 2)
    """
    leaves, structure = jax.tree.flatten(like)
    out, place = [], 0
    for leaf in leaves:
        size = math.prod(jnp.shape(leaf))
        items = jnp.shape(parts[place]) if size else jnp.shape(parts[0])
        stacked = jnp.stack(parts[place : place + size], axis=-1) if size else jnp.zeros((0,))
        out.append(stacked.reshape(*items, *jnp.shape(leaf)))
        place += size
    return jax.tree.unflatten(structure, out)


def num_components(tree: Any) -> int:
    """Count the scalars of a tree.

    Args:
        tree: pytree of arrays of one item.

    Returns:
        Their number.

    Example:
        >>> num_components({"a": jnp.zeros((2, 3)), "b": 1.0})
        7
    """
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _refuse_unknown(jaxpr: Any, caller: Any = None) -> None:
    """Raise for the first operation that has no componentwise form; `caller` is who calls it."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in OPENED:
            _refuse_unknown(_inner(eqn)[0], caller or eqn)
        elif not (
            name in ELEMENTWISE | STRUCTURAL
            or name in PLACED
            or name in REDUCTIONS
            or name in RUNNING
            or name in ("dot_general", "scatter", "scatter-add", "iota", BARRIER)
        ):
            _refuse(caller or eqn, f"no componentwise form of `{name}`")


def _refuse(eqn: Any, words: str) -> None:
    frames = getattr(eqn.source_info.traceback, "frames", ())
    inside = str(pathlib.Path(jax.__file__).parent)
    places = [f"{f.file_name}:{f.line_num}" for f in frames if not f.file_name.startswith(inside)]
    raise NotImplementedError(f"{words}, at {places[0] if places else 'an unknown line'}")


def _inner(eqn: Any) -> tuple[Any, Sequence[Any]]:
    inner = eqn.params[OPENED[eqn.primitive.name]]
    return (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())


def _is_array(value: Any) -> bool:
    """Whether a component is known only when the program runs."""
    return isinstance(value, jax.Array)


def _box(values: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    box = np.empty(len(values), object)
    for k, value in enumerate(values):
        box[k] = value
    return box.reshape(shape)


def _boxes(values: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    out, place = [], 0
    for shape in shapes:
        size = math.prod(shape)
        out.append(_box(list(values[place : place + size]), shape))
        place += size
    return out


def _each(fn: Callable[[Any], Any], box: np.ndarray) -> np.ndarray:
    return _box([fn(v) for v in box.reshape(-1)], box.shape)


def _constant(value: Any) -> np.ndarray:
    """Numbers known now stay numbers; what is traced is taken apart."""
    if isinstance(value, jax.core.Tracer):
        flat = value.reshape(-1)
        return _box([flat[k] for k in range(flat.shape[0])], value.shape)
    value = np.asarray(value)
    return _box(list(value.reshape(-1)), value.shape)


def _known(box: np.ndarray, eqn: Any, what: str) -> np.ndarray:
    flat = list(box.reshape(-1))
    if any(map(_is_array, flat)):
        _refuse(eqn, f"`{eqn.primitive.name}` at {what} that depend on the state or the arguments")
    return np.asarray(flat).reshape(box.shape)


def _spread(value: Any, shape: tuple[int, ...], sources: Sequence[Array]) -> Array:
    value = rows.varying_over(jnp.asarray(value), list(sources))
    return value if value.shape == shape else jnp.broadcast_to(value, shape)


def _apply(fn: Callable[..., Any], operands: Any) -> Any:
    """One operation on one component of each operand."""
    arrays = [v for v in operands if isinstance(v, jax.Array)]
    if not arrays:
        with jax.ensure_compile_time_eval():
            return np.asarray(fn(*(jnp.asarray(v) for v in operands)))[()]
    kinds = [jax.typeof(v) for v in arrays]
    over = {getattr(kind, "manual_axis_type", None) for kind in kinds}
    shapes = {kind.shape for kind in kinds}
    if len(over) == len(shapes) == 1:  # the usual case, quickly
        if len(arrays) == len(operands):
            return fn(*operands)
        if not any(getattr(axes, "varying", ()) for axes in over):
            (shape,) = shapes
            return fn(
                *(v if isinstance(v, jax.Array) else jax.lax.full(shape, v) for v in operands)
            )
    shape = jnp.broadcast_shapes(*shapes)
    return fn(*(_spread(v, shape, arrays) for v in operands))


def _fold(fn: Callable[..., Any], values: Any) -> Any:
    return functools.reduce(lambda a, b: _apply(fn, (a, b)), values)


def _run(jaxpr: Any, consts: Sequence[np.ndarray], args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evaluate a jaxpr whose arrays are boxes of components."""
    values: dict[Any, np.ndarray] = {}

    def read(atom: Any) -> np.ndarray:
        if isinstance(atom, jax_core.Literal):
            return _constant(np.asarray(atom.val, atom.aval.dtype))
        return values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        out = _equation(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, boxes: list[np.ndarray]) -> list[np.ndarray]:
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name in OPENED:
        jaxpr, consts = _inner(eqn)
        return _run(jaxpr, [_constant(c) for c in consts], boxes)
    if name in ELEMENTWISE:
        bind = functools.partial(eqn.primitive.bind, **eqn.params)
        flat = [np.broadcast_to(box, shape).reshape(-1) for box in boxes]
        return [_box([_apply(bind, operands) for operands in zip(*flat, strict=True)], shape)]
    if name in STRUCTURAL:
        return _moved(eqn, boxes, [])
    if name in PLACED:
        data = PLACED[name]
        places = [_known(box, eqn, "places") for box in boxes[data:]]
        return _moved(eqn, boxes[:data], places)
    if name in REDUCTIONS:
        axes = tuple(eqn.params["axes"])
        kept = [axis for axis in range(boxes[0].ndim) if axis not in axes]
        lines = boxes[0].transpose(*kept, *axes).reshape(math.prod(shape), -1)
        if lines.shape[1] == 0:
            _refuse(eqn, f"`{name}` of nothing")
        return [_box([_fold(REDUCTIONS[name], line) for line in lines], shape)]
    if name in RUNNING:
        return [_running(RUNNING[name], boxes[0], eqn.params["axis"], eqn.params["reverse"])]
    if name == BARRIER:
        return boxes
    if name == "iota":
        return [_constant(_evaluated(eqn, ())[0])]
    if name == "dot_general":
        return [_product(eqn, *boxes)]
    return [_scattered(eqn, *boxes)]


def _evaluated(eqn: Any, operands: Sequence[Any]) -> list[np.ndarray]:
    """Run an operation now."""
    with jax.ensure_compile_time_eval():
        out = eqn.primitive.bind(*(jnp.asarray(v) for v in operands), **eqn.params)
    return [np.asarray(v) for v in (out if eqn.primitive.multiple_results else [out])]


def _moved(eqn: Any, boxes: list[np.ndarray], places: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Let an operation move numbers about, and look where each came from."""
    flat = [value for box in boxes for value in box.reshape(-1)]
    numbers, start = [], 0
    for box in boxes:
        numbers.append(np.arange(start, start + box.size, dtype=np.int32).reshape(box.shape))
        start += box.size
    outside = np.asarray(np.nan if _is_real(eqn) else 0, eqn.outvars[0].aval.dtype)[()]
    return [
        _box([flat[k] if 0 <= k < len(flat) else outside for k in origin.reshape(-1)], origin.shape)
        for origin in _evaluated(eqn, [*numbers, *places])
    ]


def _is_real(eqn: Any) -> bool:
    return jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact)


def _running(fn: Callable[..., Any], box: np.ndarray, axis: int, reverse: bool) -> np.ndarray:
    moved = np.moveaxis(box, axis, 0)
    out = moved.reshape(len(moved), -1).copy()
    order = range(len(out))[::-1] if reverse else range(len(out))
    for before, here in itertools.pairwise(order):
        for k in range(out.shape[1]):
            out[here, k] = _apply(fn, (out[before, k], out[here, k]))
    return np.moveaxis(out.reshape(moved.shape), 0, axis)


def _product(eqn: Any, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A matrix product, written out."""
    (summed_l, summed_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    kind = eqn.outvars[0].aval.dtype

    def arranged(box: np.ndarray, batch: Any, summed: Any) -> np.ndarray:
        free = [axis for axis in range(box.ndim) if axis not in (*batch, *summed)]
        sizes = [math.prod(box.shape[axis] for axis in axes) for axes in (batch, free, summed)]
        return box.transpose(*batch, *free, *summed).reshape(sizes)

    def times(a: Any, b: Any) -> Any:
        return _apply(lambda x, y: jax.lax.mul(x.astype(kind), y.astype(kind)), (a, b))

    left, right = arranged(left, batch_l, summed_l), arranged(right, batch_r, summed_r)
    if left.shape[2] == 0:
        _refuse(eqn, "a product over nothing")
    out = [
        _fold(jax.lax.add, [times(a, b) for a, b in zip(row, column, strict=True)])
        for group in range(left.shape[0])
        for row in left[group]
        for column in right[group]
    ]
    return _box(out, eqn.outvars[0].aval.shape)


def _scattered(eqn: Any, into: np.ndarray, places: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`x.at[places].set(new)` and `.add(new)` at fixed places."""
    where, kind = _known(places, eqn, "places"), eqn.outvars[0].aval.dtype
    out = into.copy().reshape(-1)
    for k, value in enumerate(new.reshape(-1)):
        one = np.zeros(new.size, kind)
        one[k] = 1
        base = np.zeros(into.shape, kind)
        for hit in np.flatnonzero(_evaluated(eqn, [base, where, one.reshape(new.shape)])[0]):
            added = eqn.primitive.name == "scatter-add"
            out[hit] = _apply(jax.lax.add, (out[hit], value)) if added else value
    return out.reshape(into.shape)
