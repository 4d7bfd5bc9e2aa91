"""Pure functions for probabilistic machine learning in JAX.

Sub-packages load when they are first touched, so that `import probjax` costs next to nothing:

>>> import probjax
>>> probjax.core.keys.STREAMS["noise"]
2
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "core",
    "datasets",
    "diffeq",
    "diffusion",
    "experiments",
    "mcmc",
    "metrics",
    "networks",
    "score",
    "sequence",
    "sharding",
    "targets",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"probjax.{name}")
    raise AttributeError(f"module 'probjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
