"""Small mistakes: every place of a module where one expression can be replaced by a wrong one.

A mutant is a span of the source and the text that replaces it, so all other lines stay as they
are. Docstrings, annotations, imports, decorators, raised errors and calls of `checks` are left
alone: none of them computes.
"""

import ast
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_PAIRS = """sum mean, max min, maximum minimum, argmax argmin, any all, sin cos, sinh cosh,
    exp expm1, log log1p, sqrt square, floor ceil, zeros ones, zeros_like ones_like, prod sum,
    cumsum cumprod, set add, triu tril, isposinf isneginf, real imag, logical_and logical_or"""
FUNCTIONS = dict(pair.split() for pair in _PAIRS.replace("\n", " ").split(","))
FUNCTIONS |= {b: a for a, b in FUNCTIONS.items() if b not in FUNCTIONS}
_ORDERLESS = """maximum minimum max min logaddexp isinstance allclose broadcast_shapes dot vdot
    multiply add equal not_equal logical_and logical_or result_type promote_types gcd same_shape
    hypot isclose asarray array zeros ones full broadcast_to reshape astype normal uniform gumbel
    exponential bernoulli rademacher fold_in split bits partial getattr hasattr issubdtype map zip
    vmap jit grad vjp jvp linearize scan cond"""
ORDERLESS = set(_ORDERLESS.split())
"""Functions of two arguments whose order does not matter, or is settled by their types."""


class Mutant(NamedTuple):
    """One mistake."""

    operator: str
    """What kind of mistake."""
    line: int
    """Its line, from 1."""
    before: str
    """The text there is."""
    after: str
    """The text in its place."""
    start: int
    """The first byte replaced."""
    end: int
    """The byte after the last one replaced."""


def mutants(source: bytes) -> list[Mutant]:
    """All mutants of a module, in the order of its text, none twice and none that is no change.

    Args:
        source: the module's source.
    """
    lines = source.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    found = set()
    for operator, node, new in _walk(ast.parse(source)):
        if ast.dump(node) == ast.dump(new):
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        after = ast.unparse(new)
        if isinstance(new, ast.expr) and not isinstance(new, (ast.Name, ast.Constant)):
            after = f"({after})"
        found.add(Mutant(operator, node.lineno, source[start:end].decode(), after, start, end))
    unique = {(mutant.start, mutant.end, mutant.after): mutant for mutant in sorted(found)}
    return sorted(unique.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.after))


def apply(source: bytes, mutant: Mutant) -> bytes:
    """The module with its mistake; lines below keep their numbers."""
    lost = "\n" * mutant.before.count("\n")
    after = f"{mutant.after[:-1]}{lost})" if mutant.after.endswith(")") else mutant.after
    return source[: mutant.start] + after.encode() + source[mutant.end :]


def _walk(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Every place, and what to put there."""
    if _is_left_alone(node):
        return
    yield from _here(node)
    for child in _parts(node) if _number(node) is None else ():
        yield from _walk(child)


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert)):
        return True
    if isinstance(node, ast.Call):
        root = node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and root.id in ("checks", "warnings", "NamedTuple")
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(getattr(node, "ctx", None), ast.Store)


def _parts(node: ast.AST) -> list[ast.AST]:
    """The children that compute."""
    skipped = {"annotation", "returns", "decorator_list", "targets", "target", "bases"}
    children = []
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        children += value if isinstance(value, list) else [value]
    children = [child for child in children if isinstance(child, ast.AST)]
    if isinstance(node, ast.Module):  # an alias of types is no arithmetic
        return [child for child in children if not _is_alias(child)]
    return [child for child in children if not isinstance(child, ast.arg)]


def _is_alias(node: ast.AST) -> bool:
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return False
    if isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr):
        return True
    return isinstance(node.value, ast.Subscript) and isinstance(node.value.value, ast.Name)


def _here(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """The mistakes at this very node."""
    number = _number(node)
    if number is not None:
        yield from (("constant", node, _literal(new)) for new in _other_numbers(number))
    elif isinstance(node, ast.BinOp):
        yield from _binary(node)
    elif isinstance(node, ast.UnaryOp):
        yield "unary", node, node.operand
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            ops = [COMPARISONS[type(op)]() if i == j else old for j, old in enumerate(node.ops)]
            yield "comparison", node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield "boolean", node, ast.BoolOp(_other(node.op), node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "boolean", node, ast.Constant(not node.value)
    elif isinstance(node, ast.Call):
        yield from _call(node)
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in ARITHMETIC:
            op = ARITHMETIC[type(node.op)]()
            yield "augmented", node, ast.AugAssign(node.target, op, node.value)
        yield "augmented", node, ast.Pass()
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and isinstance(
        node.test, (ast.Name, ast.Attribute, ast.Call)
    ):
        yield "condition", node.test, ast.UnaryOp(ast.Not(), node.test)
    if isinstance(node, ast.Slice):
        for bound, op in ((node.lower, ast.Add()), (node.upper, ast.Sub())):
            if bound is not None and _number(bound) is None:
                yield "slice", bound, ast.BinOp(bound, op, ast.Constant(1))


def _other(op: ast.boolop) -> ast.boolop:
    return ast.Or() if isinstance(op, ast.And) else ast.And()


def _number(node: ast.AST) -> int | float | None:
    """The number that a literal, with its sign, stands for."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return node.value if is_number else None


def _literal(number: int | float) -> ast.expr:
    size = ast.Constant(abs(number))
    return ast.UnaryOp(ast.USub(), size) if number < 0 else size


def _other_numbers(number: int | float) -> list[int | float]:
    if isinstance(number, int):
        return [number + 1, number - 1] + [-number] * (number < 0)
    return [1.0] if number == 0 else [2 * number, -number]


def _binary(node: ast.BinOp) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    sides = (node.left, node.right)
    if any(
        isinstance(side, (ast.Tuple, ast.List, ast.JoinedStr)) or _is_str(side) for side in sides
    ):
        return
    if type(node.op) in ARITHMETIC:
        yield "arithmetic", node, ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    yield "operand", node, node.left
    if not isinstance(node.op, (ast.Pow, ast.Mod, ast.FloorDiv)):
        yield "operand", node, node.right


def _is_str(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _call(node: ast.Call) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    plain = not any(isinstance(arg, ast.Starred) for arg in node.args)
    is_math = ast.unparse(node.func).startswith("math.")
    is_swapped = isinstance(node.func, ast.Attribute) and name in FUNCTIONS
    if is_swapped and not (is_math and not hasattr(math, FUNCTIONS[name])):
        func = ast.Attribute(node.func.value, FUNCTIONS[name], ast.Load())
        yield "function", node, ast.Call(func, node.args, node.keywords)
    if name == "where" and len(node.args) == 3 and plain:
        yield "where", node, ast.Call(node.func, [node.args[i] for i in (0, 2, 1)], node.keywords)
    elif len(node.args) == 2 and plain and name not in ORDERLESS:
        yield "order", node, ast.Call(node.func, node.args[::-1], node.keywords)
    elif name == "stop_gradient":
        yield "gradient", node, node.args[0]
    for i, keyword in enumerate(node.keywords):
        if keyword.arg == "axis" and _number(keyword.value) is not None:
            axis = ast.keyword("axis", _literal(0 if _number(keyword.value) else -1))
            keywords = [*node.keywords[:i], axis, *node.keywords[i + 1 :]]
            yield "axis", node, ast.Call(node.func, node.args, keywords)
