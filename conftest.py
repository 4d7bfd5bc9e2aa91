"""One place for what every test and every documentation snippet runs under."""

import doctest
import gc
import os
import pathlib
import re

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)
if jax.config.jax_compilation_cache_dir is None:  # JAX_COMPILATION_CACHE_DIR names another folder
    cache = pathlib.Path(__file__).parent / ".jax_cache"
    jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)

# Traces are millions of small objects that live on: collecting them often takes minutes.
gc.set_threshold(100_000, 20, 50)

# Where in the source an operation came from is told to a compiler that nobody asks.
jax.config.update("jax_traceback_in_locations_limit", 0)

# Without optimisation XLA compiles a small program three times as fast.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

hypothesis.settings.register_profile("probjax", deadline=None, max_examples=15)
hypothesis.settings.load_profile("probjax")


def pytest_configure(config):
    """Compile the default suite, thousands of programs that run once, quickly.

    With `-m slow` or `-m bits` programs are compiled as users compile them.
    """
    if config.option.markexpr.strip() == "not slow":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()


def pytest_sessionfinish():
    """Spare the end of a session several walks over all traces to collect nothing."""
    gc.freeze()


class FencedDocTestParser(doctest.DocTestParser):
    """Blanks Markdown fence lines, which doctest would read as expected output."""

    def parse(self, string, name="<string>"):
        """Parse `string` with its fence lines emptied, so that line numbers stay."""
        return super().parse(re.sub(r"(?m)^[ \t]*(```|~~~).*$", "", string), name)


doctest.DocTestParser = FencedDocTestParser


@pytest.fixture(autouse=True)
def default_settings():
    """A page may set print options and precision; the next test has the defaults again."""
    with np.printoptions():
        yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def x64():
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def reuse_keys():
    """Some tests call one function twice with one key, and mean it."""
    with jax.debug_key_reuse(False):
        yield


@pytest.fixture
def compilations():
    """What was compiled since the list was cleared: the seconds of each program."""
    seen = []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)
