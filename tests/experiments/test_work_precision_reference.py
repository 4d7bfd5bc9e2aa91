"""Ends and growth, against other solvers and the literature."""

import numpy as np
import pytest

from probjax.experiments import work_precision_reference as ends
from probjax.experiments.work_precision_model import PROBLEMS


def test_the_pendulum_has_the_end_that_tight_tolerances_find():
    end = ends.dop853(ends.ALL_PROBLEMS["pendulum"], 1e-10, 1e-12)[0]
    np.testing.assert_allclose(end, ends.reference("pendulum").end, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_growth_is_what_is_written(name):
    assert ends.growth(name) == pytest.approx(ends.GROWTH[name], rel=1e-3)


@pytest.mark.slow
def test_pleiades_ends_where_the_test_set_says():
    """First entries of the reference solution in the test set of Bari (Mazzia, Magherini)."""
    found = ends.reference("pleiades")
    first = [0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310]
    np.testing.assert_allclose(found.end[0, :4, 0], first, rtol=1e-9)
    assert found.uncertainty < 1e-11
