r"""Hares and lynxes as an ordinary differential equation: likelihood, random starts, and the fit.

>>> from probjax.experiments import predator_prey_model as model
>>> years, counts = model.data()
>>> print(years[[0, -1]], counts[0])
[1900. 1920.] [30.  4.]

The eight parameters are fitted as logarithms, in the order of `NAMES`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array, Float

from probjax.core import rows, stream
from probjax.diffeq import solve_fixed
from probjax.targets.lotka_volterra import PELTS, START

NAMES = (
    "prey_birth", "predation", "predator_death", "predator_growth",
    "prey_start", "predator_start", "prey_scatter", "predator_scatter",
)  # fmt: skip
"""The parameters; rates are in 1/year, starts in thousands of pelts, scatters of the logarithm."""

LOWEST = np.array([0.1, 0.005, 0.1, 0.005, 10.0, 1.0, 0.2, 0.2])
"""Lower ends of where fits begin."""
HIGHEST = np.array([2.0, 0.2, 2.0, 0.2, 100.0, 20.0, 1.0, 1.0])
"""Starts are drawn between these, evenly in the logarithm."""


class Fits(NamedTuple):
    """What the fits ended with, one row for each start."""

    start: Float[Array, "n 8"]
    """Logarithms of the parameters that the fit began with."""
    end: Float[Array, "n 8"]
    """Those that it ended with."""
    value: Float[Array, " n"]
    """Negative log-likelihood there."""
    gradient: Float[Array, " n"]
    """Largest entry of its gradient there."""


def data() -> tuple[Float[np.ndarray, " years"], Float[np.ndarray, "years 2"]]:
    """Years, and pelts of hares and lynxes in thousands.

    Returns:
        `(21,)` and `(21, 2)`; the same numbers as those of `targets.lotka_volterra`.

    Example:
        >>> data()[1].shape
        (21, 2)
    """
    counts = np.array([START, *PELTS])
    return 1900.0 + np.arange(len(counts)), counts


def field(t: Any, log_z: Any, rates: Any) -> Array:
    r"""The equations in the logarithms of the two populations, which stay positive so.

    $$(\log z_1)'=\theta_1-\theta_2z_2,\qquad(\log z_2)'=-\theta_3+\theta_4z_1$$

    Args:
        t: time, unused.
        log_z: `(2,)`.
        rates: `(4,)`.

    Returns:
        `(2,)`.

    Example:
        >>> print(field(0.0, jnp.log(jnp.array([4.0, 2.0])), jnp.array([1.0, 0.5, 2.0, 0.5])))
        [0. 0.]
    """
    prey, predators = jnp.exp(log_z)
    return jnp.stack([rates[0] - rates[1] * predators, -rates[2] + rates[3] * prey])


def paths(
    v: Float[Array, " 8"], *, num_years: int = 20, steps_per_year: int = 20, rows_per_year: int = 1
) -> Float[Array, "rows 2"]:
    """Logarithms of both populations over time, by the classical Runge-Kutta method.

    Args:
        v: logarithms of the parameters.
        num_years: how far.
        steps_per_year: steps of a year.
        rows_per_year: rows of a year, a divisor of it.

    Returns:
        One row for each date, the start first; NaN from where there is no solution.

    Example:
        >>> still = jnp.log(jnp.array([1.0, 0.5, 2.0, 0.5, 4.0, 2.0, 0.2, 0.2]))
        >>> print(jnp.exp(paths(still, num_years=1)))
        [[4. 2.]
         [4. 2.]]
    """
    solution = solve_fixed(
        field, v[4:6], 0.0, float(num_years), num_steps=num_years * steps_per_year, method="rk4",
        args=jnp.exp(v[:4]), save_every=steps_per_year // rows_per_year,
    )  # fmt: skip
    return solution.y


def negative_log_likelihood(v: Float[Array, " 8"], *, steps_per_year: int = 20) -> Float[Array, ""]:
    r"""Minus the log density of all counts, constants included.

    $$-\sum_{t,k}\log N(\log y_{tk};\,\log z_k(t),\sigma_k^2)+\sum_{t,k}\log y_{tk}$$

    Args:
        v: logarithms of the parameters.
        steps_per_year: of the solver.

    Returns:
        A scalar, not finite where there is no solution.

    Example:
        >>> best = [0.54, 0.02716, 0.7966, 0.0237, 34.6, 5.84, 0.2184, 0.2201]
        >>> print(f"{negative_log_likelihood(jnp.log(jnp.array(best))):.2f}")
        122.93
    """
    return _value(_misfits(v, steps_per_year), v[6:])


def _misfits(v: Array, steps_per_year: int) -> Array:
    """Logarithms of the counts less those of the solution, `(21, 2)`."""
    observed = np.log(data()[1])
    found = paths(v, num_years=len(observed) - 1, steps_per_year=steps_per_year)
    return jnp.asarray(observed, v.dtype) - found


def _value(misfits: Array, log_scatters: Array) -> Array:
    observed = np.log(data()[1])
    z = misfits * jnp.exp(-log_scatters)[None]
    scatter = len(observed) * (jnp.sum(log_scatters) + float(np.log(2 * np.pi)))
    return 0.5 * jnp.sum(z**2) + scatter + float(observed.sum())


class Place(NamedTuple):
    """What a fit knows of where it stands."""

    v: Float[Array, " 8"]
    """Logarithms of the parameters."""
    value: Float[Array, ""]
    """Negative log-likelihood; infinite where there is no solution."""
    gradient: Float[Array, " 8"]
    """Its gradient."""
    information: Float[Array, "8 8"]
    """Expected information: the mean of the Hessian over counts from this model."""


def look(v: Float[Array, " 8"], *, steps_per_year: int = 20) -> Place:
    r"""Evaluate value, gradient and information, with derivatives taken through the solver.

    With $J=\partial\log z/\partial v$ and $z_{tk}=(\log y_{tk}-\log z_k(t))/\sigma_k$ the gradient
    is $-\sum J_{tk}z_{tk}/\sigma_k$ for rates and starts, and $21-\sum_tz_{tk}^2$ for
    $\log\sigma_k$; the information is $\sum J_{tk}J_{tk}^\top/\sigma_k^2$ and $2\cdot21$.

    Args:
        v: logarithms of the parameters.
        steps_per_year: of the solver.

    Returns:
        All of it; gradient and information are zero where there is no solution.

    Example:
        >>> jax.eval_shape(look, jnp.zeros(8)).information.shape
        (8, 8)
    """

    def misfits(head: Array) -> tuple[Array, Array]:
        found = _misfits(jnp.concatenate([head, v[6:]]), steps_per_year)
        return found, found

    jacobian, found = jax.jacfwd(misfits, has_aux=True)(v[:6])
    value = _value(found, v[6:])
    good = jnp.isfinite(value) & jnp.all(jnp.isfinite(jacobian))
    scale = jnp.exp(-v[6:])
    z = jnp.where(good, found, jnp.zeros_like(found)) * scale[None]
    slopes = jnp.where(good, jacobian, jnp.zeros_like(jacobian)) * scale[None, :, None]
    head = jnp.einsum("tk,tki->i", z, slopes)
    tail = len(found) - jnp.sum(z**2, axis=0)
    information = (
        jnp.zeros((8, 8), v.dtype).at[:6, :6].set(jnp.einsum("tki,tkj->ij", slopes, slopes))
    )
    information = information.at[jnp.array([6, 7]), jnp.array([6, 7])].set(2.0 * len(found))
    gradient = jnp.where(good, jnp.concatenate([head, tail]), jnp.zeros_like(v))
    return Place(v, jnp.where(good, value, jnp.inf), gradient, information)


def draw_start(key: Any) -> Float[Array, " 8"]:
    """Draw where a fit begins: evenly between `LOWEST` and `HIGHEST` in the logarithm.

    Args:
        key: the key of this start.

    Returns:
        Logarithms of the parameters.

    Example:
        >>> draw_start(jax.random.key(0)).shape
        (8,)
    """
    low, high = (jnp.asarray(np.log(edge), jnp.float32) for edge in (LOWEST, HIGHEST))
    return low + (high - low) * jax.random.uniform(stream(key, "init"), (8,))


def make_fit(num_iterations: int, steps_per_year: int) -> Callable[[Any], Fits]:
    r"""Make the fit of one start: Fisher scoring, damped where it does not descend.

    $$v'=v-(F+\lambda\,\mathrm{diag}F)^{-1}g$$

    A step that does not lower the value is not taken, and $\lambda$ grows fourfold; else it falls
    to a third. No entry moves by more than a half at once.

    Args:
        num_iterations: steps tried.
        steps_per_year: of the solver.

    Returns:
        `fit(key)`, a row of `Fits`.

    Example:
        >>> jax.eval_shape(make_fit(9, 4), jax.random.key(0)).end.shape
        (8,)

    References:
        Marquardt 1963, *An algorithm for least-squares estimation of nonlinear parameters*.
    """

    def fit(key: Any) -> Fits:
        start = draw_start(key)

        def body(carry: tuple[Place, Array], _: None) -> tuple[tuple[Place, Array], None]:
            here, damping = carry
            # A rate that has fallen to nothing has no information: the floor keeps it in place.
            diagonal = jnp.maximum(jnp.diagonal(here.information), 0.1)
            matrix = here.information + jnp.diag(damping * diagonal)
            step = jnp.linalg.solve(matrix, here.gradient)
            step = jnp.clip(jnp.where(jnp.isfinite(step), step, 0.0), -0.5, 0.5)
            there = look(here.v - step, steps_per_year=steps_per_year)
            better = there.value < here.value
            here = jax.tree.map(lambda new, old: jnp.where(better, new, old), there, here)
            damping = jnp.clip(jnp.where(better, damping / 3, damping * 4), 1e-7, 1e9)
            return (here, damping), None

        first = look(start, steps_per_year=steps_per_year)
        carry = rows.varying_over((first, jnp.ones_like(first.value)), first)
        (end, _), _ = jax.lax.scan(body, carry, length=num_iterations)
        return Fits(start, end.v, end.value, jnp.max(jnp.abs(end.gradient)))

    return fit
