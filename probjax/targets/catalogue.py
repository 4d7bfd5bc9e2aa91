"""Targets by name, for experiments and tests that run over all of them.

>>> from probjax import targets
>>> targets.make("funnel", dim=4).dim
4
"""

from typing import Any

from probjax.core import checks
from probjax.targets.banana import banana
from probjax.targets.checkerboard import checkerboard
from probjax.targets.funnel import funnel
from probjax.targets.gaussians import eight_gaussians, gaussian, two_modes
from probjax.targets.record import Target
from probjax.targets.rings import rings
from probjax.targets.spirals import two_spirals


def correlated_gaussian() -> Target:
    """Return a plain Gaussian whose mean, variances and correlation are all asymmetric.

    Returns:
        `gaussian([1, -2], [[2, 0.9], [0.9, 1]])`.

    Example:
        >>> correlated_gaussian().dim
        2
    """
    return gaussian([1.0, -2.0], [[2.0, 0.9], [0.9, 1.0]])


_CONSTRUCTORS = {
    "gaussian": correlated_gaussian,
    "eight_gaussians": eight_gaussians,
    "two_modes": two_modes,
    "banana": banana,
    "funnel": funnel,
    "rings": rings,
    "two_spirals": two_spirals,
    "checkerboard": checkerboard,
}

NAMES = tuple(_CONSTRUCTORS)
"""Names that `make` knows."""


def make(name: str, **options: Any) -> Target:
    """Build a target from its name.

    Args:
        name: one of `NAMES`.
        **options: hyper-parameters of the constructor of that name.

    Returns:
        The target.

    Raises:
        ValueError: no target has this name.

    Example:
        >>> make("rings", scale=0.2).dim
        2
        >>> make("ring")
        Traceback (most recent call last):
        ValueError: name must be one of 'gaussian', ..., got 'ring'
    """
    checks.one_of("name", name, NAMES)
    return _CONSTRUCTORS[name](**options)
