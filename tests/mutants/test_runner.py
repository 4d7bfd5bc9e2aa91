"""A toy of two functions: which of its mutants its tests kill is known beforehand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import __main__ as command
from mutants import results

ROOT = Path(__file__).parents[2]
TOY = '''"""Examples.

>>> from probjax.core.toy import larger
>>> larger(3, 2)
3
"""

def larger(a, b):
    return a if a > b else b

def half_of(a):
    if a < 0:
        a += 1
    return a / 2
'''
TESTS = """
from probjax.core import toy

def test_half():
    assert toy.half_of(6) == 3

def test_below():
    assert toy.half_of(-0.5) == 0.25
"""
RUN = """
import sys
from pathlib import Path
from mutants import __main__ as command, runner
runner.preload(["pytest"])
args = command.parse(["core/toy", "--all"] + sys.argv[2:])
command.run(args, Path(sys.argv[1]), Path(sys.argv[1], "results.json"))
"""


@pytest.fixture
def root(tmp_path):
    for folder in ("probjax/core", "tests/core"):
        (tmp_path / folder).mkdir(parents=True)
    for package in ("probjax", "probjax/core"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "probjax/core/toy.py").write_text(TOY)
    (tmp_path / "tests/core/test_toy.py").write_text(TESTS)
    flags = "--import-mode=importlib --doctest-modules"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = {flags}\nmarkers = slow\n")
    return tmp_path


def python(root, script, *arguments):
    environment = os.environ | {
        "PYTHONPATH": f"{root}{os.pathsep}{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, str(root), *arguments],
        cwd=root, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def tried(root, *flags):
    return python(root, RUN, *flags), results.load(root / "results.json")


def test_the_toys_mutants(root):
    said, kept = tried(root)
    entries = kept["core/toy"]["mutants"]
    assert {(entry["before"], entry["after"]): entry["outcome"] for entry in entries} == {
        ("a > b", "(a >= b)"): "survived",  # of equal numbers either is the larger
        ("a < 0", "(a <= 0)"): "survived",  # no test asks for zero
        ("0", "1"): "survived",  # nor for a number between zero and one
        ("0", "(-1)"): "failed",
        ("a += 1", "a -= 1"): "failed",
        ("a += 1", "pass"): "failed",
        ("1", "2"): "failed",
        ("1", "0"): "failed",
        ("a / 2", "(a * 2)"): "failed",
        ("a / 2", "a"): "failed",
        ("a / 2", "2"): "failed",
        ("2", "1"): "failed",
        ("2", "3"): "failed",
    }
    assert said.count("failed") == 10 and said.count("survived") == 3
    assert "| core | 13 | 10 | 0 | 3 | 76.9" in results.summary(kept)
    assert kept == results.load(root / "results.json")

    entry = next(entry for entry in entries if entry["after"] == "(a >= b)")
    entry["note"] = "equivalent: of equal numbers either is the larger"
    results.save(kept, root / "results.json")
    assert "| all | 13 | 10 | 1 | 2 | 83.3" in results.summary(kept)
    command.run(command.parse(["core/toy", "--all"]), root, root / "results.json")
    assert results.load(root / "results.json") == kept  # all were known, nothing ran

    more = "\n\ndef test_zero():\n    assert toy.half_of(0) == 0\n"
    (root / "tests/core/test_toy.py").write_text(TESTS + more)
    said, kept = tried(root, "--again")
    assert said.count("failed") == 2 and said.count("test_zero") == 2
    assert len(results.survivors(kept, kept)) == 1


def test_a_mutant_that_does_not_end_is_stopped(root):
    endless = """
import sys
from pathlib import Path
from mutants import runner
path = Path(sys.argv[1], "probjax/core/toy.py")
child = runner.Child(["probjax/core/toy.py"], path, b"while True: pass", limit=0.5)
print(child.wait().outcome)
"""
    assert python(root, endless).strip() == "timeout"


def test_a_file_belongs_to_the_module_that_its_name_begins_with():
    named = command.tests_of("sequence/transducer")
    assert "tests/sequence/test_transducer.py" in named
    assert "tests/sequence/test_transducer_core.py" not in named
    assert "tests/mcmc/test_gibbs_geweke.py" in command.tests_of("mcmc/gibbs")


def test_a_larger_sample_keeps_the_smaller_one():
    draw = command.sample(list(range(40)), "a/b", 0, 12)
    assert draw[:6] == command.sample(list(range(40)), "a/b", 0, 6)
    assert len(set(draw)) == 12


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match="unknown module 'core/nothing'"):
        command.choose(["core/nothing"], ["core/rows"])
