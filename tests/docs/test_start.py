"""The cheat sheet: its calls are those of the library, and each of its names is imported there."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "cheat_sheet.md").read_text()
CALLS = re.findall(r"\[`([\w.]+)\((.*?)\)`\]\([\w/.]+#(probjax[\w.]+)\)", PAGE)
IMPORTS = r"from probjax\.(\w+) import \(?([^()\n]*(?:\n\.\.\.[^)]*)?)"
IMPORTED = {
    f"{package}.{name}"
    for package, names in re.findall(IMPORTS, PAGE)
    for name in re.findall(r"\b[A-Za-z]\w*", names)
}


def test_there_are_many():
    assert len(CALLS) > 100


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_a_call_names_what_exists(call):
    name, arguments, anchor = call
    module, _, attribute = anchor.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    package, _, rest = name.partition(".")
    public = importlib.import_module(f"probjax.{package}")
    for part in rest.split("."):
        public = getattr(public, part)
    assert public is found
    assert f"{package}.{rest.split('.')[0]}" in IMPORTED
    accepted = inspect.signature(found).parameters
    positional = [word for word in arguments.split(", ") if word and "=" not in word]
    places = [p for p in accepted.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len([word for word in positional if word != "..."]) <= len(places)
    assert set(re.findall(r"(\w+)=", arguments)) <= set(accepted)
    if "..." not in positional:
        bound = len(positional)
        needed = [
            p.name
            for p in accepted.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        given = {p.name for p in places[:bound]} | set(re.findall(r"(\w+)=", arguments))
        assert set(needed) <= given
