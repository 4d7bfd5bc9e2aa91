"""One warm process forks a child for each mutant, which runs the tests of the mutated module.

The parent imports what all tests need, but nothing of the library and nothing that starts a JAX
backend: threads do not survive a fork. The child hands the mutated source to the import system in
place of the file, so no file changes, and runs pytest in its own process, quickest test first,
until one fails.
"""

import gc
import importlib
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from typing import Any, NamedTuple

PRELOADED = (
    "pytest", "numpy", "scipy.special", "scipy.stats", "scipy.linalg", "scipy.integrate",
    "hypothesis", "hypothesis.strategies", "beartype", "jaxtyping", "jax", "jax.numpy",
    "jax.scipy.stats", "jax.scipy.special", "jax.experimental.checkify",
    "jax.experimental.pallas", "optax", "diffrax",
)  # fmt: skip

KILLED = ("failed", "broken", "crashed", "timeout")
"""A test failed; the module could not be imported; the process died; it did not end."""


class Result(NamedTuple):
    """What a child found."""

    outcome: str
    """One of `KILLED`, or `survived`."""
    failed: list[str]
    """Tests that failed, or files that could not be imported, or what was raised instead."""
    seconds: float
    """Processor time, user and system."""
    durations: dict[str, float]
    """Seconds of each test that passed."""


def preload(names: Sequence[str] = PRELOADED) -> None:
    """Import what children would otherwise import each on their own."""
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


class Plugin:
    """Orders the tests, notes what they took and which failed, and keeps caches as they are."""

    def __init__(self, order: dict[str, float], limit: float, is_mutated: bool):
        self.order, self.limit, self.is_mutated = order, limit, is_mutated
        self.durations: dict[str, float] = {}
        self.failed: list[str] = []
        self.is_broken = False

    def pytest_configure(self, config: Any) -> None:
        """Draw the same examples each time, shrink none, and store no program of a mutant."""
        if "hypothesis" in sys.modules:
            import hypothesis

            phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
            quick = hypothesis.settings(database=None, derandomize=True, phases=phases)
            hypothesis.settings.register_profile("mutants", quick)
            hypothesis.settings.load_profile("mutants")
        if self.is_mutated and "jax" in sys.modules:
            import jax

            jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))

    def pytest_collection(self, session: Any) -> None:
        """Import modules by their names before pytest finds them by their paths.

        The other way round a module would stand in its package in place of a function of the
        same name.
        """
        for arg in session.config.args:
            if arg.startswith("probjax"):
                name = arg.partition(".py")[0].replace("/", ".")
                try:
                    importlib.import_module(name)
                except BaseException as error:
                    self.failed.append(f"{name}: {error!r}"[:100])
                    raise

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Run quick tests first, and those that are not known before or after them."""
        items.sort(key=lambda item: self.order.get(item.nodeid, self.order.get("", 1e9)))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Let the system end a test that takes far longer than it did."""
        known = self.order.get(nodeid, self.limit / 5)
        signal.setitimer(signal.ITIMER_PROF, self.limit + 5 * known)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test's duration and failure."""
        if report.failed:
            self.failed.append(report.nodeid)
            self.durations.pop(report.nodeid, None)
        elif report.nodeid not in self.failed:
            before = self.durations.get(report.nodeid, 0.0)
            self.durations[report.nodeid] = before + report.duration

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            self.is_broken = True
            self.failed.append(report.nodeid)


class Child:
    """A running fork."""

    def __init__(
        self,
        tests: list[str],
        path: pathlib.Path | None = None,
        source: bytes | None = None,
        *,
        order: dict[str, float] | None = None,
        limit: float = 30.0,
        slow: bool = False,
        only_collect: bool = False,
    ):
        """Fork, and run `tests` with `source` in place of the file at `path`.

        Args:
            tests: arguments of pytest.
            path: the mutated module.
            source: its text; without it all files are as they are.
            order: seconds of each test by its name, and under the empty name those of all others.
            limit: processor seconds that a test may take beyond five times what it took.
            slow: run the tests marked `slow` instead of the others.
            only_collect: import the files and run nothing.
        """
        number, name = tempfile.mkstemp(suffix=".json")
        os.close(number)
        self.answer = pathlib.Path(name)
        self.polls = 0
        self.pid = os.fork()
        if self.pid == 0:
            try:
                flags = ["-m", "slow" if slow else "not slow"]
                flags += ["--collect-only"] * only_collect
                _run_tests(self.answer, [*flags, *tests], path, source, order or {}, limit)
            except BaseException as error:
                said = {"outcome": "broken", "failed": [repr(error)], "durations": {}}
                self.answer.write_text(json.dumps(said))
            finally:
                os._exit(1)

    def poll(self) -> Result | None:
        """The result, once there is one."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        self.polls += 1
        if pid == 0:
            if self.polls * POLL > WAIT:
                os.killpg(self.pid, signal.SIGKILL)
            return None
        seconds = usage.ru_utime + usage.ru_stime
        text = self.answer.read_text()
        self.answer.unlink()
        if text:
            return Result(seconds=seconds, **json.loads(text))
        number = os.waitstatus_to_exitcode(status)
        outcome = "timeout" if number in (-signal.SIGPROF, -signal.SIGKILL) else "crashed"
        return Result(outcome, [f"exit {number}"], seconds, {})

    def wait(self) -> Result:
        """Wait for the result."""
        while (result := self.poll()) is None:
            time.sleep(POLL)
        return result


POLL = 0.05
WAIT = 3600.0
"""Seconds after which a child waits for something that does not come."""
MEMORY = 8 << 30
"""Bytes of a child's data, since a mistake in a shape can ask for any number."""


def _run_tests(
    answer: pathlib.Path,
    tests: list[str],
    path: pathlib.Path | None,
    source: bytes | None,
    order: dict[str, float],
    limit: float,
) -> None:
    """What the child does."""
    os.setpgid(0, 0)
    signal.setitimer(signal.ITIMER_PROF, limit)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    if source is not None:
        _replace(path, source)
    import pytest

    plugin = Plugin(order, limit, source is not None)
    flags = ["-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
    flags += ["-x"] if source is not None else []
    code = pytest.main([*flags, *tests], [plugin])
    outcome = {0: "survived", 1: "failed", 5: "survived"}.get(int(code))
    if plugin.is_broken or outcome is None:
        outcome = "broken"
    found = {"outcome": outcome, "failed": plugin.failed, "durations": plugin.durations}
    answer.write_text(json.dumps(found))
    os._exit(0)


def _replace(path: pathlib.Path, source: bytes) -> None:
    """Make every import of the file at `path` read `source`."""
    usual = SourceFileLoader.get_code

    def get_code(self, fullname):
        if pathlib.Path(self.get_filename(fullname)) == path:
            return self.source_to_code(source, str(path))
        return usual(self, fullname)

    SourceFileLoader.get_code = get_code
