"""Which mistakes are made, which places are left alone, and that a mistake is just that one."""

import ast
from pathlib import Path

import pytest

from mutants import operators

ROOT = Path(__file__).parents[2]


def changes(text):
    """All `(before, after)` of a text."""
    return [(mutant.before, mutant.after) for mutant in operators.mutants(text.encode())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a - b", {"(a + b)", "a", "b"}),
        ("a ** b", {"(a * b)", "a"}),
        ("-a", {"a"}),
        ("-1", {"0", "(-2)", "1"}),
        ("x = 0.5", {"1.0", "(-0.5)"}),
        ("x = 0.0", {"1.0"}),
        ("a < b <= c", {"(a <= b <= c)", "(a < b < c)"}),
        ("a is not None", {"(a is None)"}),
        ("a and b", {"(a or b)"}),
        ("not a", {"a"}),
        ("x = True", {"False"}),
        ("jnp.sum(x)", {"(jnp.mean(x))"}),
        ("jnp.where(a, b, c)", {"(jnp.where(a, c, b))"}),
        ("f(a, b)", {"(f(b, a))"}),
        ("jnp.maximum(a, b)", {"(jnp.minimum(a, b))"}),
        ("f(x, axis=-1)", {"(f(x, axis=0))", "(-2)", "0", "1"}),
        ("stop_gradient(x)", {"x"}),
        ("x += y", {"x -= y", "pass"}),
        ("a[i:j]", {"(i + 1)", "(j - 1)"}),
        ("a if b else c", {"(not b)"}),
        ("x = lambda y: -y", {"y"}),
        ("def f(*, y=2): return y", {"1", "3"}),
    ],
)
def test_the_mistakes_at_one_place(text, expected):
    assert {after for _, after in changes(text)} == expected


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: int | None) -> Float[Array, '2']:\n    'Text of 2 * 3.'",
        "@cached(3)\ndef f(x): return x",
        "raise ValueError(2 * 3)",
        "checks.at_least('n', n, 1)",
        "Pair = A | B",
        "Row = Float[Array, 'd'] | Callable[[A], B]",
        "import a",
        "x[0] = y",
        "f'{2 * 3}'",
        "(1,) + shape",
    ],
)
def test_what_does_not_compute_is_left_alone(text):
    assert [pair for pair in changes(text) if pair != ("1", "2") and pair != ("1", "0")] == []


@pytest.mark.parametrize("name", ["core/logspace", "mcmc/mala"])
def test_a_mutant_changes_one_span_and_no_line_below(name):
    source = (ROOT / "probjax" / f"{name}.py").read_bytes()
    found = operators.mutants(source)
    assert len(found) > 50
    same = ast.dump(ast.parse(source))
    for mutant in found[::5]:
        changed = operators.apply(source, mutant)
        assert changed[: mutant.start] == source[: mutant.start]
        assert changed.endswith(source[mutant.end :])
        assert changed.count(b"\n") == source.count(b"\n")
        assert ast.dump(ast.parse(changed)) != same
