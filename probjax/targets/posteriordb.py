"""The ten models of posteriordb that are here, by the names of the collection.

>>> from probjax import targets
>>> data = {"N": 2, "D": 1, "X": [[1.0], [2.0]], "y": [1.0, 2.5]}
>>> targets.posteriordb("blr", data).dim
2
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from probjax.core import checks
from probjax.targets.gaussian_process import gp_regr
from probjax.targets.hierarchical import eight_schools
from probjax.targets.lotka_volterra import lotka_volterra
from probjax.targets.mixture_posterior import low_dim_gauss_mix
from probjax.targets.posterior import Posterior
from probjax.targets.regressions import blr, kidscore_interaction, nes
from probjax.targets.time_series import arma11, garch11, hmm_drive_0


class Model(NamedTuple):
    """How a model is built from data."""

    make: Callable[..., Posterior]
    """The constructor."""
    fields: dict[str, str]
    """Its arguments, by the names that they have in the data."""


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


MODELS = {
    "eight_schools_noncentered": Model(eight_schools, _same("y", "sigma")),
    "arma11": Model(arma11, _same("y")),
    "garch11": Model(garch11, _same("y", "sigma1")),
    "gp_regr": Model(gp_regr, _same("x", "y")),
    "low_dim_gauss_mix": Model(low_dim_gauss_mix, _same("y")),
    "hmm_drive_0": Model(hmm_drive_0, _same("u", "v", "alpha")),
    "lotka_volterra": Model(lotka_volterra, _same("ts", "y_init", "y")),
    "nes": Model(
        nes,
        _same(
            "partyid7", "real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income"
        ),
    ),
    "kidscore_interaction": Model(kidscore_interaction, _same("kid_score", "mom_hs", "mom_iq")),
    "blr": Model(blr, {"X": "x", "y": "y"}),
}  # fmt: skip
"""Models that `posteriordb` knows."""


def posteriordb(model: str, data: Mapping[str, Any]) -> Posterior:
    """Build a posterior from its model's name and its data, both as in posteriordb.

    Args:
        model: one of `MODELS`.
        data: the data's fields; those that the model does not use are ignored.

    Returns:
        The posterior.

    Raises:
        ValueError: the model is not among them, a field is missing or holds what it must not.

    References:
        Magnusson, Torgander, Bürkner, Zhang, Carpenter, Vehtari 2024, *posteriordb: testing,
        benchmarking and developing Bayesian inference algorithms*.

    Example:
        >>> posteriordb("arma11", {"T": 200})
        Traceback (most recent call last):
        ValueError: data of arma11 must hold y, got T
        >>> posteriordb("arma12", {})
        Traceback (most recent call last):
        ValueError: model must be one of 'eight_schools_noncentered', ..., got 'arma12'
    """
    checks.one_of("model", model, MODELS)
    make, fields = MODELS[model]
    for name in fields:
        if name not in data:
            raise ValueError(
                f"data of {model} must hold {name}, got {', '.join(data) or 'nothing'}"
            )
    return make(**{argument: data[name] for name, argument in fields.items()})
