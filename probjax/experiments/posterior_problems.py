"""What the posterior experiment can sample: a posterior, and what is known of the answer.

>>> from probjax.experiments import posterior_problems
>>> problem = posterior_problems.load("banana")
>>> problem.posterior.dim, problem.truth["mean_sq"].tolist()
(2, [100.0, 19.0])
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from probjax import datasets, targets
from probjax.datasets import sources
from probjax.experiments.runs import UserError


class Problem(NamedTuple):
    """One task for a sampler."""

    posterior: targets.Posterior
    """The density."""
    about: str
    """One sentence on it."""
    truth: dict[str, Any] | None
    """Moments of the parameters as `mcmc.quality_gate` takes them, where they are known."""
    truth_from: str
    """Where they are known from; empty where they are not."""
    vma_clean: bool = True
    """Whether the density passes `jax.shard_map`'s check of what varies over the mesh."""


def load(target: str) -> Problem:
    """Build a task from its name.

    Args:
        target: a key of `TARGETS`; or the path of a posteriordb file, which ends in `.json`.

    Returns:
        The task.

    Raises:
        UserError: there is no such task, or its file cannot be used; one line.

    Example:
        >>> load("nine_schools")
        Traceback (most recent call last):
        probjax.experiments.runs.UserError: config.target='nine_schools' is neither a file ...
    """
    if target in TARGETS:
        return TARGETS[target]()
    if not target.endswith(".json"):
        raise UserError(
            f"config.target={target!r} is neither a file that ends in .json nor one of "
            f"{', '.join(TARGETS)}"
        )
    try:
        problem = datasets.load_posterior(target)
        posterior = targets.posteriordb(problem.model, problem.data)
        truth = None if problem.reference is None else _moments(problem.reference, posterior.names)
    except ValueError as error:
        raise UserError(f"config.target: {error}") from error
    told = "" if truth is None else f"the reference in {pathlib.Path(target).name}"
    about = f"{problem.posterior}, the model {problem.model} of posteriordb."
    return Problem(posterior, about, truth, told, problem.model != "lotka_volterra")


def _moments(reference: datasets.posteriordb.Reference, names: Sequence[str]) -> dict[str, Any]:
    if reference.names != tuple(names):
        raise ValueError(
            f"the reference is of {', '.join(reference.names)} but the model has {', '.join(names)}"
        )
    fields = ("mean", "sd", "mean_sq", "sd_sq", "n_draws")
    return {name: getattr(reference, name) for name in fields}


def _with_file(posterior: targets.Posterior, file: str, about: str, **options: Any) -> Problem:
    """A posterior with data of its own, and its reference where the user has the file."""
    path = sources.find(f"{file}.json", dataset="posteriordb")
    if path is None:
        return Problem(posterior, about, None, "", **options)
    found = load(str(path))
    return Problem(posterior, about, found.truth, found.truth_from, **options)


def _eight_schools() -> Problem:
    about = "Effects of coaching in eight schools, with a common mean and spread; not centered."
    file = "eight_schools-eight_schools_noncentered"
    return _with_file(targets.eight_schools(), file, about)


def _eight_schools_centered() -> Problem:
    about = "Eight schools, centered: a funnel, on which a run should not pass."
    file = "eight_schools-eight_schools_noncentered"
    return _with_file(targets.eight_schools(centered=True), file, about)


def _gp_regr() -> Problem:
    about = "Length scale, amplitude and noise of a Gaussian process through eleven points."
    return _with_file(targets.gp_regr(), "gp_pois_regr-gp_regr", about)


def _lotka_volterra() -> Problem:
    about = "Hares and lynxes: an ordinary differential equation behind twenty years of pelts."
    file = "hudson_lynx_hare-lotka_volterra"
    return _with_file(targets.lotka_volterra(), file, about, vma_clean=False)


def _breast_cancer() -> Problem:
    import sklearn.datasets

    data = sklearn.datasets.load_breast_cancer()
    x = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    names = ["intercept", *(name.replace(" ", "_") for name in data.feature_names)]
    posterior = targets.logistic_regression(x=x, y=data.target, names=names)
    about = "Logistic regression of 569 tumours on 30 standardised measurements, prior N(0, 1)."
    return Problem(posterior, about, None, "")


def _from_target(
    name: str, target: targets.Target, names: Sequence[str], radius: Any, about: str, truth: Any
) -> Problem:
    truth = {key: np.asarray(value, np.float64) for key, value in truth.items()}
    posterior = targets.make_posterior(
        name, names, target.log_density, _same, _same, center=np.zeros(target.dim), radius=radius
    )
    return Problem(posterior, about, truth, "the target's exact moments")


def _same(vector: Any) -> Any:
    return vector


def _banana() -> Problem:
    truth = {"mean": [0.0, 0.0], "mean_sq": [100.0, 1 + 2 * (0.03 * 100) ** 2]}
    about = "Two dimensions, bent along a parabola."
    names = ["x[1]", "x[2]"]
    return _from_target("banana", targets.banana(), names, [20.0, 10.0], about, truth)


def _funnel() -> Problem:
    # The others have a second moment too, but no run tells it: their tails are too heavy.
    about = "One variable sets the width of nine others; a run should not pass."
    names = ["v", *(f"x[{i}]" for i in range(1, 10))]
    truth = {"mean": np.zeros(10)}
    return _from_target("funnel", targets.funnel(10), names, 2.0, about, truth)


def _ill_conditioned(rotated: bool) -> Problem:
    target = targets.ill_conditioned(rotated=rotated)
    spectrum = 1000.0 ** (np.arange(100) / 99 - 0.5)
    if rotated:
        import jax.numpy as jnp

        precision = -np.asarray(target.score(jnp.eye(100)), np.float64)
        spectrum = np.diagonal(np.linalg.inv(precision))
    truth = {"mean": np.zeros(100), "mean_sq": spectrum}
    about = f"A Gaussian, d = 100, condition 1000, {'rotated' if rotated else 'along its axes'}."
    names = [f"x[{i}]" for i in range(1, 101)]
    name = f"ill_conditioned{'_rotated' * rotated}"
    return _from_target(name, target, names, 5.0, about, truth)


TARGETS: dict[str, Callable[[], Problem]] = {
    "eight_schools": _eight_schools,
    "eight_schools_centered": _eight_schools_centered,
    "breast_cancer": _breast_cancer,
    "banana": _banana,
    "funnel": _funnel,
    "ill_conditioned": lambda: _ill_conditioned(False),
    "ill_conditioned_rotated": lambda: _ill_conditioned(True),
    "lotka_volterra": _lotka_volterra,
    "gp_regr": _gp_regr,
}
"""Tasks by name."""
