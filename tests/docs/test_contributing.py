"""The skeleton that `docs/contributing.md` offers to copy works as printed there."""

import doctest
import re
import textwrap
import types
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text()
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def fence(title: str) -> str:
    """Return the body of the fence with this title."""
    return re.search(rf'(?ms)^(`{{3,4}})\w+ title="{title}"\n(.*?)^\1$', PAGE)[2]


@pytest.fixture
def module() -> types.ModuleType:
    """The skeleton's module, as if it had been copied into a file."""
    module = types.ModuleType("shrinkage")
    exec(compile(fence("module"), "module of contributing.md", "exec"), vars(module))
    return module


def test_the_module_runs_its_examples(module):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=FLAGS)
    tests = finder.find(module, "shrinkage", globs=vars(module))
    results = [runner.run(test) for test in tests]
    assert sum(result.attempted for result in results) >= 3
    assert sum(result.failed for result in results) == 0


def test_the_tests_pass(module):
    names = {"shrunk_mean": module.shrunk_mean}
    exec(compile(fence("test"), "test of contributing.md", "exec"), names)
    found = [name for name in names if name.startswith("test_")]
    assert len(found) == 3
    for name in found:
        names[name]()


def test_the_page_runs(module):
    page = textwrap.dedent(fence("page"))
    parser = doctest.DocTestParser()
    test = parser.get_doctest(page, {"shrunk_mean": module.shrunk_mean}, "page", "page", 0)
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert (result.attempted, result.failed) == (2, 0)
