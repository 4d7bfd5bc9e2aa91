"""The tasks: names that fit, and a truth that is the target's."""

import json

import jax
import numpy as np
import pytest

from probjax import targets
from probjax.experiments import posterior_problems
from probjax.experiments.runs import UserError


@pytest.mark.parametrize("name", posterior_problems.TARGETS)
def test_names_and_truth_fit_the_density(name):
    problem = posterior_problems.load(name)
    number = len(problem.posterior.names)
    assert jax.eval_shape(problem.posterior.constrain, np.zeros(problem.posterior.dim, np.float32))
    if problem.truth is not None:
        assert problem.truth_from and np.shape(problem.truth["mean"]) == (number,)
    assert problem.posterior.initial(jax.random.key(0), 2).shape == (2, problem.posterior.dim)


def test_moments_are_those_of_exact_draws():
    for name, target in (
        ("banana", targets.banana()),
        ("ill_conditioned_rotated", targets.ill_conditioned(rotated=True)),
    ):
        truth = posterior_problems.load(name).truth
        draws = np.asarray(target.sample(jax.random.key(0), 4000), np.float64)
        for power, field in ((1, "mean"), (2, "mean_sq")):
            error = (draws**power).std(axis=0) / len(draws) ** 0.5
            z = ((draws**power).mean(axis=0) - truth[field]) / error
            assert np.abs(z).max() < 5, (name, field)


def test_files_are_read_and_their_mistakes_told(tmp_path):
    record = {"posterior": "mine", "model": "blr", "data": {"X": [[1.0], [2.0]], "y": [1.0, 2.5]}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(record))
    problem = posterior_problems.load(str(path))
    assert problem.truth is None and problem.posterior.names == ("beta[1]", "sigma")
    numbers = {key: [1.0] for key in ("mean", "sd", "mean_sq", "sd_sq", "q05", "q50", "q95")}
    reference = {"names": ["other"], "n_draws": 10, **numbers}
    for change, message in (
        ({"model": "nought"}, "config.target: model must be one of"),
        ({"data": {"y": [1.0]}}, "config.target: data of blr must hold X, got y"),
        ({"data": {"X": [[1.0]], "y": [1.0, 2.0]}}, r"config.target: y must have shape \(1,\)"),
        ({"reference": reference}, "the reference is of other but the model has"),
    ):
        path.write_text(json.dumps(record | change))
        with pytest.raises(UserError, match=message):
            posterior_problems.load(str(path))
