"""Every public name is explained and shown: read from the sources, nothing is imported."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "probjax").rglob("*.py"))
SHAPE = re.compile(
    r"`\(|\bshape\b|\bscalars?\b|\bnumbers?\b|\bindex\b|\binteger\b|\bkey\b|^as for "
)


def is_public(name: str) -> bool:
    return not name.startswith("_")


def section(text: str, name: str) -> str | None:
    """The indented lines under `name:` in a docstring, or None."""
    found = re.search(rf"(?m)^{name}:[ \t]*\n((?:[ \t]+\S.*\n|[ \t]*\n)*)", text + "\n")
    return found and textwrap.dedent(found[1])


def explained(text: str) -> dict[str, str]:
    """What `Args:` says of each argument."""
    entries = re.findall(
        r"(?ms)^(\*{0,2}\w+(?:, \*{0,2}\w+)*):\s*(.*?)(?=^\S|\Z)", section(text, "Args") or ""
    )
    return {name.strip(" *"): words for names, words in entries for name in names.split(",")}


def own_nodes(function: ast.FunctionDef):
    """The nodes of a body, without those of the functions and classes within it."""
    left = list(function.body)
    while left:
        node = left.pop()
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            yield node
            left.extend(ast.iter_child_nodes(node))


def gives_back(text: str) -> bool:
    """Whether a docstring says what comes back."""
    return bool(section(text, "Returns") or section(text, "Yields"))


def arguments_of(function: ast.FunctionDef) -> dict[str, str]:
    """The arguments in their order, each with its annotation."""
    given = function.args
    found = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return {
        argument.arg: ast.unparse(argument.annotation) if argument.annotation else ""
        for argument in found
        if argument is not None and argument.arg not in ("self", "cls")
    }


def has_line_below(body: list[ast.stmt], place: int) -> bool:
    """Whether the statement is followed by a bare string, its docstring on the site."""
    below = body[place + 1] if place + 1 < len(body) else None
    return (
        isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    )


def raising_checks() -> set[str]:
    """The functions of `core.checks` that raise."""
    tree = ast.parse((ROOT / "probjax" / "core" / "checks.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f"checks.{f.name}" for f in functions if section(ast.get_docstring(f) or "", "Raises")}


RAISING = raising_checks()


def raised_by(function: ast.FunctionDef) -> set[str]:
    """The errors that a body raises by name, and the checks it makes."""
    found = set()
    for node in own_nodes(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(error).split(".")[-1])
        if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISING:
            found.add(ast.unparse(node.func))
    return {name for name in found if name[:1].isupper() or name in RAISING}


def function_faults(function: ast.FunctionDef, *, is_method: bool, needs_example: bool):
    """What the docstring of a function leaves out.

    A method may have one line: its class says what it works on, and on the site its signature
    stands below. What it does say has to be right.
    """
    text = ast.get_docstring(function)
    if not text:
        yield "no docstring"
        return
    arguments, words = arguments_of(function), explained(text)
    if list(words) != list(arguments) and (words or not is_method):
        yield f"Args: {list(words)}, the signature has {list(arguments)}"
    for name, said in words.items():
        # `Float[Array, "*batch d"]` tells the shape and stands in the signature on the site.
        bare = re.search(r"\bArray\b(?!,)", arguments.get(name, "").split("Callable")[0])
        if not said.strip():
            yield f"nothing said of {name}"
        elif bare and not SHAPE.search(said):
            yield f"the shape of {name}"
    if function.returns is None:
        yield "no annotation of what it returns"
    elif not (is_method or ast.unparse(function.returns) == "None" or gives_back(text)):
        yield "no Returns"
    errors = section(text, "Raises")
    for name in raised_by(function):
        if errors is None and not is_method:
            yield f"no Raises, but {name}"
        elif errors is not None and name[:1].isupper() and name not in errors:
            yield f"Raises without {name}"
    if needs_example and ">>>" not in text:
        yield "no example"


def class_faults(node: ast.ClassDef, *, needs_example: bool):
    """What the docstrings of a class, its fields and its methods leave out.

    Records (NamedTuples, protocols, configs) need no example: they are what functions take and
    return, whose examples show them. A nested config is explained by its own class.
    """
    text = ast.get_docstring(node) or ""
    if not text:
        yield f"{node.name}: no docstring"
    words = explained(text)
    for place, part in enumerate(node.body):
        if isinstance(part, ast.AnnAssign) and is_public(part.target.id):
            nested = ast.unparse(part.annotation).endswith("Config")
            if not (nested or has_line_below(node.body, place) or words.get(part.target.id)):
                yield f"{node.name}.{part.target.id}: nothing said of the field"
        if isinstance(part, ast.FunctionDef) and is_public(part.name):
            for fault in function_faults(part, is_method=True, needs_example=False):
                yield f"{node.name}.{part.name}: {fault}"
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    is_record = node.decorator_list or any(
        ast.unparse(base) in ("NamedTuple", "Protocol") for base in node.bases
    )
    is_error = node.name.endswith("Error")
    if needs_example and not (is_record and fields) and not is_error and ">>>" not in text:
        yield f"{node.name}: no example"


def module_faults(source: str, exported: set[str], *, is_experiment: bool = False):
    """What the docstrings of a module leave out.

    A name that the package exports has an example of its own, or stands in the one at the head of
    the module; what only other modules call is run by the latter. Experiments need none: an
    example would be a whole run, their pages have the commands and their tests run them. A
    constant in small letters is an entry of a table that is explained (`METHODS` of tableaus).
    """
    tree = ast.parse(source)
    head = ast.get_docstring(tree) or ""
    if not head:
        yield "the module: no docstring"
    for place, node in enumerate(tree.body):
        name = getattr(node, "name", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name = getattr(target, "id", "_")
            told = name.islower() or "TypeVar(" in ast.unparse(node)
            if is_public(name) and not told and not has_line_below(tree.body, place):
                yield f"{name}: no line below the constant"
        if name is None or not is_public(name):
            continue
        if isinstance(node, ast.FunctionDef):
            shown = name in head if name in exported else True
            needed = not (is_experiment or (shown and ">>>" in head))
            for fault in function_faults(node, is_method=False, needs_example=needed):
                yield f"{name}: {fault}"
        if isinstance(node, ast.ClassDef):
            yield from class_faults(node, needs_example=name in exported and not is_experiment)


def exported_by(package: Path) -> set[str]:
    """The names that a package's `__init__` hands out."""
    tree = ast.parse((package / "__init__.py").read_text())
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imported for alias in node.names}


@pytest.mark.parametrize("package", sorted({file.parent for file in MODULES}), ids=lambda p: p.name)
def test_every_public_name_is_explained(package):
    exported = exported_by(package)
    faults = [
        f"{file.relative_to(ROOT)}: {fault}"
        for file in sorted(package.glob("*.py"))
        for fault in module_faults(
            file.read_text(),
            exported,
            is_experiment=package.name == "experiments" or file.name in ("__init__.py", "cli.py"),
        )
    ]
    assert not faults, "\n".join(faults)


GOOD = '''
"""A module."""

MOST = 3
"""How many."""


def public(x: Array, *, scale: float) -> Array:
    """Return a thing.

    Args:
        x: rows `(*B, d)`.
        scale: of the thing.

    Returns:
        Things `(*B,)`.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> public(1, scale=2)
    """
    checks.positive("scale", scale)
    if scale > 3:
        raise ValueError


class Thing(NamedTuple):
    """A thing."""

    width: int
    """Of the thing."""
'''


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ('"""A module."""', "", "the module: no docstring"),
        ('"""How many."""', "", "MOST: no line"),
        ("    Args:\n        x: rows `(*B, d)`.\n        scale: of the thing.\n", "", "Args"),
        ("scale: of the thing.", "size: of the thing.", "Args"),
        ("rows `(*B, d)`", "the rows", "the shape of x"),
        ("of the thing.\n\n    Returns", "\n\n    Returns", "nothing said of scale"),
        (" -> Array", "", "no annotation"),
        ("    Returns:\n        Things `(*B,)`.\n", "", "no Returns"),
        ("    Raises:\n        ValueError: `scale` is not positive.\n", "", "no Raises"),
        ("        raise ValueError", "        raise TypeError", "Raises without TypeError"),
        (">>> public", "public", "public: no example"),
        ('    """A thing."""\n', "", "Thing: no docstring"),
        ('    """Of the thing."""\n', "", "Thing.width"),
    ],
)
def test_the_rules_find_what_is_missing(old, new, fault):
    assert old in GOOD
    found = list(module_faults(GOOD.replace(old, new, 1), {"public", "Thing"}))
    assert bool(found) == (fault is not None)
    assert fault is None or any(fault in said for said in found)


def test_every_package_is_reached_from_the_top():
    tree = ast.parse((ROOT / "probjax" / "__init__.py").read_text())
    [names] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    packages = {file.parent.name for file in MODULES if file.name == "__init__.py"} - {"probjax"}
    assert set(names) == packages


def test_every_module_is_rendered_on_one_page_of_the_navigation():
    named = re.findall(r"(?m)^\s+- (?:[^:\n]+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text())
    rendered = [
        module
        for page in named
        for module in re.findall(r"(?m)^::: (\S+)", (ROOT / "docs" / page).read_text())
    ]
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in MODULES
        if file.name != "__init__.py"
    }
    assert {name for name in rendered if rendered.count(name) > 1} == set()
    assert modules - set(rendered) == set()
