"""Problems and solvers: references that agree, counts, growth, floors."""

import jax
import numpy as np

from probjax.experiments import work_precision_model as model


def test_symplectic_solvers_run_where_they_apply():
    cells = model.cells_of(model.PROBLEMS, tuple(model.SOLVERS))
    assert len(cells) == 5 * 29 + 2 * 2
    assert {cell.problem for cell in cells if cell.solver == "yoshida6"} == {"pendulum", "kepler"}
    families = {solver.family for solver in model.SOLVERS.values()}
    assert families == {"fixed", "adams", "symplectic", "adaptive", "diffrax", "scipy"}


def test_blocks_are_one_solve():
    """Four blocks of 64 steps give what 256 steps give, and cost the same."""
    from probjax.diffeq import solve_hamiltonian

    cell = model.Cell("pendulum", "yoshida4")
    found, again = model.curve(cell, (), most_evaluations=1024)[-1]
    count = int(found.setting)
    with jax.enable_x64(True):
        start = (np.array([1.0]), np.array([0.5]))
        force = model._FORCES["pendulum"]
        whole = jax.jit(
            lambda y: solve_hamiltonian(
                force, y, 0.0, 20.0, num_steps=count, method="yoshida4"
            ).y
        )(start)  # fmt: skip
        whole = np.concatenate(whole)
    np.testing.assert_allclose(again()[0], whole, rtol=1e-12)
    assert count == 256 and found.evaluations == 3 * count


def test_a_floor_knows_steps_and_reference():
    few, many = (model.floor(model.Cell("kepler", "rk4"), n) for n in (64, 6400))
    assert np.isclose(many, 10 * few) and few > 1e3 * model.EPS
