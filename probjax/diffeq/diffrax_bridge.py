r"""Tableaus as diffrax solvers, whose stages are unrolled, and diffrax's methods as tableaus.

diffrax runs the stages of a Runge-Kutta step in a loop over a buffer. For a large network that
compiles once what would else be compiled for every stage; for a small field the buffer costs more
than the field. `to_diffrax` gives the same method without that loop, for diffrax's controllers,
events, `SaveAt` and adjoints.

>>> import diffrax, jax, jax.numpy as jnp
>>> from probjax.diffeq import tableaus
>>> with jax.numpy_dtype_promotion("standard"):
...     solution = diffrax.diffeqsolve(
...         diffrax.ODETerm(lambda t, y, args: -y), to_diffrax(tableaus.tsit5), 0.0, 1.0, 0.1,
...         jnp.ones(()), stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6))
>>> print(f"{solution.ys[0]:.4f}")
0.3679
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.internal import unvmap_any

from probjax.diffeq import tableaus
from probjax.diffeq.dense_output import hermite, native, native_weights, step_with_stages


class TableauInterpolation(diffrax.AbstractLocalInterpolation):
    """Within a step: the method's own quartic where `stages` are given, else the cubic."""

    t0: Any
    """Start of the step."""
    t1: Any
    """Its end."""
    y0: Any
    """State at the start."""
    y1: Any
    """State at the end."""
    stages: Any
    """Slopes times the step: of all stages for the quartic, of both ends for the cubic."""
    weights: Any = eqx.field(static=True)
    """Coefficients of the quartic, or `None`."""

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> Any:
        """Return the state at a time, or the difference between two.

        Args:
            t0: the time.
            t1: a second one.
            left: not used, the interpolant is continuous.
        """
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        h = self.t1 - self.t0
        theta = (t0 - self.t0) / jnp.where(h == 0, 1, h)
        if self.weights is not None:
            return native(theta, 1.0, self.y0, self.stages, self.weights)
        return hermite(theta, 1.0, self.y0, self.y1, *self.stages)


class TableauSolver(diffrax.AbstractSolver):
    """An explicit Runge-Kutta method for diffrax, its stages unrolled. Made by `to_diffrax`."""

    tableau: tableaus.Tableau = eqx.field(static=True)
    """The method."""

    term_structure: ClassVar = diffrax.AbstractTerm
    """What diffrax checks its terms against."""

    @property
    def interpolation_cls(self) -> Callable[..., Any]:  # type: ignore[override]
        """What diffrax builds from the information of a step."""
        weights = native_weights(self.tableau)
        return lambda **information: TableauInterpolation(weights=weights, **information)

    def order(self, terms: Any) -> int:
        """Return the order of the method.

        Args:
            terms: not used.
        """
        del terms
        return self.tableau.order

    def error_order(self, terms: Any) -> int | None:
        """Return the power of the step by which the estimated error falls.

        Args:
            terms: not used.
        """
        del terms
        if self.tableau.embedded_order is None:
            return None
        return 1 + min(self.tableau.order, self.tableau.embedded_order)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """Return the slope at the start where the method hands it on, else nothing.

        Args:
            terms: an `ODETerm`.
            t0: start of the first step.
            t1: its end.
            y0: the state.
            args: what the field gets besides.
        """
        if jnp.ndim(terms.contr(t0, t1)) != 0:
            raise TypeError("terms must be an ODETerm: the bridge is for ordinary equations")
        return terms.vf(t0, y0, args) if self.tableau.fsal else None

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """Make one step.

        Args:
            terms: an `ODETerm`.
            t0: start of the step.
            t1: its end.
            y0: the state there.
            args: what the field gets besides.
            solver_state: the slope at the start, or nothing.
            made_jump: whether that slope is out of date.
        """
        h = terms.contr(t0, t1)
        # diffrax runs a backward integration forward in the negative of time.
        direction = terms.contr(jnp.zeros_like(t0), jnp.ones_like(t0)).astype(t0.dtype)

        def field(t: Any, y: Any, args: Any) -> Any:
            return terms.vf(t * direction, y, args)

        f0 = solver_state
        if self.tableau.fsal:
            f0 = jax.lax.cond(
                unvmap_any(made_jump), lambda: terms.vf(t0, y0, args), lambda: solver_state
            )
        (y1, error, f1), stages = step_with_stages(
            self.tableau, field, t0 * direction, y0, h, args, f0=f0
        )
        if native_weights(self.tableau) is None:
            stages = [stages[0], terms.vf(t1, y1, args) if f1 is None else f1]
        scaled = [terms.prod(slope, h) for slope in stages]
        information = {"y0": y0, "y1": y1, "stages": tuple(scaled)}
        return y1, error, information, f1, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """Return the vector field.

        Args:
            terms: an `ODETerm`.
            t0: time.
            y0: state.
            args: what the field gets besides.
        """
        return terms.vf(t0, y0, args)


def to_diffrax(method: str | tableaus.Tableau) -> TableauSolver:
    """Return an explicit Runge-Kutta method as a diffrax solver with unrolled stages.

    Args:
        method: a tableau, or its name. With embedded weights the solver serves adaptive
            controllers; `tsit5` and `dormand_prince` bring their own interpolant, the others the
            cubic with values and slopes at both ends.

    Returns:
        A solver for `diffrax.diffeqsolve` with an `ODETerm`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> to_diffrax("rk4").order(None)
        4

    References:
        Kidger 2021, for diffrax.
    """
    return TableauSolver(tableaus.as_tableau(method))


def from_diffrax(solver: diffrax.AbstractSolver) -> tableaus.Tableau:
    """Return the tableau of one of diffrax's explicit Runge-Kutta methods, its order proved.

    Args:
        solver: such as `diffrax.Dopri8()`.

    Returns:
        The tableau, its coefficients as floats.

    Raises:
        TypeError: the solver is no Runge-Kutta method.
        ValueError: it is implicit, or has not the order that it claims.

    Example:
        >>> from_diffrax(diffrax.Bosh3()).order
        3
    """
    if isinstance(solver, TableauSolver):
        return solver.tableau
    table = getattr(solver, "tableau", None)
    name = type(solver).__name__
    if not isinstance(table, diffrax.ButcherTableau):
        raise TypeError(f"solver must be a Runge-Kutta method, got {name}")
    if table.implicit:
        raise ValueError(f"solver must be explicit, got {name}: leave it to diffrax")
    b = [float(x) for x in table.b_sol]
    b_hat = [float(x) - float(e) for x, e in zip(table.b_sol, table.b_error, strict=True)]
    order = solver.order(None)
    return tableaus.make_tableau(
        [[float(x) for x in row] for row in table.a_lower], b, b_hat=b_hat, order=order, name=name
    )
