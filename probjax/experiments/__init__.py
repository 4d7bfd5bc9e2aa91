"""Named experiments: each a module with a frozen `Config` and a pure-in-its-config `run`.

>>> from probjax import experiments
>>> print(*sorted(experiments.NAMES))
digit-lines digits ensemble posterior predator-prey tabular-score toy2d work-precision
>>> experiments.load("digits").Config().seed
0
"""

import importlib
from types import ModuleType

from probjax.experiments.runs import UserError

NAMES = {
    "digit-lines": "read lines of handwritten digits; label errors, alignment, greedy against beam",
    "digits": "learn to draw handwritten digits; samplers compared, classes, missing halves, bits",
    "ensemble": "solve Lorenz's equations for very many parameters; their error, and a picture",
    "posterior": "sample a posterior with many chains; can the draws be trusted, and their cost",
    "predator-prey": "fit hares and lynxes through an ODE solver; the optima that many starts find",
    "tabular-score": "fit the score of a table by seven objectives; which is best, and their cost",
    "toy2d": "learn the scores of four toy densities by each objective; their exact error",
    "work-precision": "solve five equations by every method; are their orders kept, at what cost",
}
"""The experiments there are, each with one line on what it does."""


def load(name: str) -> ModuleType:
    """Import the experiment `name`.

    Args:
        name: a key of `NAMES`.

    Returns:
        Its module, which has `Config` (a frozen dataclass), `check(config, mesh)` and
        `run(config, context)`.

    Raises:
        UserError: there is no such experiment.

    Example:
        >>> load("digitz")
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: unknown experiment 'digitz'; there are: ...
    """
    if name not in NAMES:
        raise UserError(f"unknown experiment {name!r}; there are: {', '.join(sorted(NAMES))}")
    return importlib.import_module(f"probjax.experiments.{name.replace('-', '_')}")
