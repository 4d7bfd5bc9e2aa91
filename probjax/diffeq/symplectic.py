r"""Hamiltonian systems: steps that keep volume and structure, so that the energy does not drift.

>>> import jax.numpy as jnp
>>> from probjax.diffeq import solve_hamiltonian
>>> spring = lambda t, q: -q
>>> start = (jnp.ones(()), jnp.zeros(()))
>>> end = solve_hamiltonian(spring, start, 0.0, 1000.0, num_steps=10000, method="yoshida4").y
>>> print(round(float(end[0] ** 2 + end[1] ** 2), 3))
1.000

The state is the pair `(q, p)` of positions and momenta, two pytrees of one layout, and
$H=\frac12p^\top M^{-1}p+U(t,q)$. A force is `force_fn(t, q)` $=-\partial U/\partial q$, and every
step is `step(force_fn, inverse_mass, t, (q, p), h) -> (q, p)`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffeq.fixed_steps import march
from probjax.diffeq.solution import Solution, VectorField, check_field, checked_state, time_dtype

Phase = tuple[Any, Any]
"""Positions and momenta."""

ForceFn = Callable[[Any, Any], Any]
"""`force_fn(t, q)`, laid out like `q`."""

YOSHIDA4_WEIGHTS = (1 / (2 - 2 ** (1 / 3)), -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)))
"""The outer weights and the centre of the composition of order 4, read `w1, w0, w1`."""

_A = (0.784513610477560, 0.235573213359357, -1.17767998417887)
YOSHIDA6_WEIGHTS = (*_A, 1 - 2 * sum(_A))
"""Likewise of order 6, solution A: `w3, w2, w1, w0, w1, w2, w3`."""


def _mirror(half: Sequence[float]) -> tuple[float, ...]:
    return (*half, *reversed(half[:-1]))


def symplectic_euler(
    force_fn: ForceFn, inverse_mass: Any, t: ArrayLike, state: Phase, h: ArrayLike
) -> Phase:
    r"""Kick with the whole step, then drift with the new momentum: order 1.

    $$p'=p+h\,F(t,q),\qquad q'=q+h\,M^{-1}p'$$

    Args:
        force_fn: `force_fn(t, q)`, minus the slope of the potential, laid out like `q`.
        inverse_mass: $M^{-1}$: a number, an array that multiplies `p` entry by entry, a pytree of
            such laid out like `p`, or a square matrix for a vector `p`.
        t: time.
        state: the pair `(q, p)`.
        h: step size, negative for a step back.

    Returns:
        `(q', p')` at `t + h`.

    Example:
        >>> symplectic_euler(lambda t, q: -q, 1.0, 0.0, (1.0, 0.0), 0.5)
        (0.75, -0.5)
    """
    q, p = state
    p = _add(p, h, force_fn(t, q))
    return _add(q, h, _velocity(inverse_mass, p)), p


def velocity_verlet_step(
    force_fn: ForceFn, inverse_mass: Any, t: ArrayLike, state: Phase, h: ArrayLike
) -> Phase:
    r"""Half a kick, a drift, half a kick (leapfrog): order 2, its own reverse.

    $$p_{1/2}=p+\tfrac h2F(t,q),\qquad q'=q+hM^{-1}p_{1/2},\qquad p'=p_{1/2}+\tfrac h2F(t+h,q')$$

    Args:
        force_fn: as for `symplectic_euler`.
        inverse_mass: as for `symplectic_euler`.
        t: time.
        state: the pair `(q, p)`.
        h: step size, negative for a step back.

    Returns:
        `(q', p')` at `t + h`.

    Example:
        >>> velocity_verlet_step(lambda t, q: -q, 1.0, 0.0, (1.0, 0.0), 0.5)
        (0.875, -0.46875)

    References:
        Hairer, Lubich, Wanner 2006, *Geometric Numerical Integration*, I.1.4.
    """
    return _kicks_and_drifts((1.0,), force_fn, inverse_mass, t, state, h)[0]


def yoshida4(
    force_fn: ForceFn, inverse_mass: Any, t: ArrayLike, state: Phase, h: ArrayLike
) -> Phase:
    r"""Three leapfrog steps, the middle one backwards: order 4.

    $$S_{w_1h}\,S_{w_0h}\,S_{w_1h},\qquad w_1=\frac1{2-2^{1/3}},\qquad w_0=1-2w_1$$

    Args:
        force_fn: as for `symplectic_euler`.
        inverse_mass: as for `symplectic_euler`.
        t: time.
        state: the pair `(q, p)`.
        h: step size, negative for a step back.

    Returns:
        `(q', p')` at `t + h`.

    Example:
        >>> q, p = yoshida4(lambda t, q: -q, 1.0, 0.0, (1.0, 0.0), 0.1)
        >>> print(f"{q:.6f} {p:.6f}")  # cos(0.1) = 0.995004, -sin(0.1) = -0.099833
        0.995004 -0.099833

    References:
        Yoshida 1990, *Construction of higher order symplectic integrators*.
    """
    return _kicks_and_drifts(_mirror(YOSHIDA4_WEIGHTS), force_fn, inverse_mass, t, state, h)[0]


def yoshida6(
    force_fn: ForceFn, inverse_mass: Any, t: ArrayLike, state: Phase, h: ArrayLike
) -> Phase:
    r"""Seven leapfrog steps of Yoshida's solution A: order 6.

    $$S_{w_3h}S_{w_2h}S_{w_1h}S_{w_0h}S_{w_1h}S_{w_2h}S_{w_3h},\qquad w_0=1-2(w_1+w_2+w_3)$$

    Args:
        force_fn: as for `symplectic_euler`.
        inverse_mass: as for `symplectic_euler`.
        t: time.
        state: the pair `(q, p)`.
        h: step size, negative for a step back.

    Returns:
        `(q', p')` at `t + h`.

    Example:
        >>> q, p = yoshida6(lambda t, q: -q, 1.0, 0.0, (1.0, 0.0), 0.1)
        >>> print(f"{q:.9f} {p:.9f}")  # cos(0.1) = 0.995004165, -sin(0.1) = -0.099833417
        0.995004165 -0.099833417

    References:
        Yoshida 1990, *Construction of higher order symplectic integrators*.
    """
    return _kicks_and_drifts(_mirror(YOSHIDA6_WEIGHTS), force_fn, inverse_mass, t, state, h)[0]


_WEIGHTS = {
    "verlet": (1.0,),
    "yoshida4": _mirror(YOSHIDA4_WEIGHTS),
    "yoshida6": _mirror(YOSHIDA6_WEIGHTS),
}


def compose(step: Callable[..., Any], weights: Sequence[float]) -> Callable[..., Any]:
    r"""Make one step of several: of a higher order if the weights are chosen for it.

    $$S_{w_mh}\cdots S_{w_2h}S_{w_1h},\qquad\textstyle\sum_iw_i=1$$

    A symmetric `step` of order 2 and weights that read the same from both ends give a symmetric
    step, of order 4 if also $\sum_iw_i^3=0$.

    Args:
        step: any step whose last three arguments are `t, state, h`; what stands before them is
            handed on.
        weights: lengths of the parts, in the order in which they are taken.

    Returns:
        A step with the arguments of `step`.

    Raises:
        ValueError: the weights do not add up to 1 within 1e-12.

    Example:
        >>> compose(velocity_verlet_step, (0.5, 0.6))
        Traceback (most recent call last):
        ValueError: weights must add up to 1, got a sum of 1.1
        >>> two = compose(velocity_verlet_step, (0.5, 0.5))
        >>> two(lambda t, q: -q, 1.0, 0.0, (1.0, 0.0), 1.0)
        (0.53125, -0.8203125)
    """
    weights = tuple(map(float, weights))
    if not abs(sum(weights) - 1) <= 1e-12:
        raise ValueError(f"weights must add up to 1, got a sum of {sum(weights)}")

    def composed(*arguments: Any) -> Any:
        *problem, t, state, h = arguments
        done = 0.0
        for weight in weights:
            state = step(*problem, t + done * h, state, weight * h)
            done += weight
        return state

    return composed


def solve_hamiltonian(
    force_fn: ForceFn,
    y0: Phase,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    num_steps: int,
    method: str | Callable[..., Any] = "verlet",
    inverse_mass: Any = 1.0,
    save_every: int | None = None,
) -> Solution:
    r"""Integrate $q'=M^{-1}p,\ p'=F(t,q)$ by `num_steps` equal steps.

    Steps that end with a kick hand their last force to the next one: leapfrog costs one force a
    step, `yoshida4` three, `yoshida6` seven.

    Args:
        force_fn: as for `symplectic_euler`.
        y0: the pair `(q, p)` at `t0`.
        t0: where to begin.
        t1: where to end; earlier than `t0` goes backwards.
        num_steps: steps, at least 1.
        method: `symplectic_euler`, `verlet`, `yoshida4` or `yoshida6`, or a step of one's own.
        inverse_mass: as for `symplectic_euler`.
        save_every: keep every so many steps a row, the start included; it must divide
            `num_steps`. `None`: the end alone.

    Returns:
        The solution; `y` is the pair `(q, p)`. A step of one's own counts one evaluation.

    Raises:
        TypeError: the force is not laid out like `q`, or `p` not like `q`.
        ValueError: an unknown method, `num_steps` below 1, or a `save_every` that does not fit.

    Example:
        >>> field = lambda t, q: -jnp.sin(q)
        >>> y0 = (jnp.array(1.0), jnp.array(0.5))
        >>> there = solve_hamiltonian(field, y0, 0.0, 5.0, num_steps=50)
        >>> back = solve_hamiltonian(field, there.y, 5.0, 0.0, num_steps=50)
        >>> print(f"{back.y[0]:.4f} {back.y[1]:.4f}")
        1.0000 0.5000
    """
    y0 = checked_state(y0)

    def field(t: Any, y: Phase, _: None) -> Phase:
        return _velocity(inverse_mass, y[1]), force_fn(t, y[0])

    check_field(field, t0, y0, None)
    settings: dict[str, Any] = {"num_steps": num_steps, "save_every": save_every}
    if callable(method) or method == "symplectic_euler":
        step = method if callable(method) else symplectic_euler
        own = lambda t, y, h: step(force_fn, inverse_mass, t, y, h)  # noqa: E731
        return march(own, y0, t0, t1, evaluations_per_step=1, **settings)
    checks.one_of("method", method, ("symplectic_euler", *_WEIGHTS))
    weights = _WEIGHTS[method]

    def carried(t: Any, state: tuple[Phase, Any], h: Any) -> tuple[Phase, Any]:
        y, force = state
        return _kicks_and_drifts(weights, force_fn, inverse_mass, t, y, h, force)

    start = (y0, force_fn(jnp.asarray(t0, time_dtype(y0)), y0[0]))
    return march(
        carried, start, t0, t1, evaluations_per_step=len(weights), view=lambda s: s[0], **settings
    )


def hamiltonian_field(hamiltonian_fn: Callable[..., Any]) -> VectorField:
    r"""Turn an energy into the vector field of Hamilton's equations.

    $$q'=\frac{\partial H}{\partial p},\qquad p'=-\frac{\partial H}{\partial q}$$

    Args:
        hamiltonian_fn: `hamiltonian_fn(q, p)`, a scalar; it need not be a sum of two parts.

    Returns:
        `vector_field(t, (q, p), args)`, for any solver.

    Example:
        >>> field = hamiltonian_field(lambda q, p: 0.5 * p**2 - jnp.cos(q))
        >>> dq, dp = field(0.0, (jnp.array(0.5), jnp.array(2.0)), None)
        >>> print(f"{dq:.4f} {dp:.4f}")
        2.0000 -0.4794
    """

    def vector_field(t: Any, y: Phase, args: Any) -> Phase:
        dq, dp = jax.grad(hamiltonian_fn, argnums=(0, 1))(*y)
        return dp, jax.tree.map(jnp.negative, dq)

    return vector_field


def symplectic_defect(step: Callable[[Phase], Phase], state: Phase) -> Float[Array, ""]:
    r"""Measure how far a map of phase space is from a symplectic one.

    $$\max\bigl|J^\top\Omega J-\Omega\bigr|,\qquad J=\frac{\partial\,step(q,p)}{\partial(q,p)},
    \qquad\Omega=\begin{pmatrix}0&I\\-I&0\end{pmatrix}$$

    Args:
        step: `step((q, p)) -> (q, p)`, one step or a whole trajectory.
        state: where to measure.

    Returns:
        The defect, zero up to rounding for a symplectic map.

    Raises:
        ValueError: positions and momenta differ in number.

    Example:
        >>> spring = lambda t, q: -q
        >>> start = (jnp.array([1.0]), jnp.array([0.5]))
        >>> leap = lambda y: velocity_verlet_step(spring, 1.0, 0.0, y, 0.5)
        >>> print(symplectic_defect(leap, start) < 1e-6)
        True
        >>> euler = lambda y: (y[0] + 0.5 * y[1], y[1] - 0.5 * y[0])
        >>> print(symplectic_defect(euler, start))  # h^2
        0.25
    """
    q, unravel_q = ravel_pytree(state[0])
    p, unravel_p = ravel_pytree(state[1])
    checks.same_shape("p", p, "q", q)
    n = q.size

    def flat(z: Array) -> Array:
        q, p = step((unravel_q(z[:n]), unravel_p(z[n:])))
        return jnp.concatenate([ravel_pytree(q)[0], ravel_pytree(p)[0]])

    jacobian = jax.jacfwd(flat)(jnp.concatenate([q, p]))
    one = jnp.eye(n, dtype=q.dtype)
    omega = jnp.block([[jnp.zeros_like(one), one], [-one, jnp.zeros_like(one)]])
    product = jnp.matmul(jacobian.T, jnp.matmul(omega, jacobian, precision="highest"))
    return jnp.max(jnp.abs(product - omega))


def _kicks_and_drifts(
    weights: Sequence[float],
    force_fn: ForceFn,
    inverse_mass: Any,
    t: Any,
    state: Phase,
    h: Any,
    force: Any = None,
) -> tuple[Phase, Any]:
    """Leapfrog steps of lengths `weights`, one force each; also the force at their end."""
    q, p = state
    force = force_fn(t, q) if force is None else force
    done = 0.0
    for weight in weights:
        done += weight
        p = _add(p, 0.5 * weight * h, force)
        q = _add(q, weight * h, _velocity(inverse_mass, p))
        force = force_fn(t + done * h, q)
        p = _add(p, 0.5 * weight * h, force)
    return (q, p), force


def _add(tree: Any, h: Any, slope: Any) -> Any:
    return jax.tree.map(lambda x, v: x + _like(h, x) * v, tree, slope)


def _like(number: Any, x: Any) -> Any:
    """A time step in the dtype of what it multiplies, which may be wider or complex."""
    return number.astype(x.dtype) if isinstance(number, jax.Array) else number


def _velocity(inverse_mass: Any, p: Any) -> Any:
    if jax.tree.structure(inverse_mass) == jax.tree.structure(p):
        return jax.tree.map(_times, inverse_mass, p)
    return jax.tree.map(lambda x: _times(inverse_mass, x), p)


def _times(inverse_mass: Any, p: Any) -> Any:
    if jnp.ndim(inverse_mass) == 2 and jnp.ndim(p) == 1:
        return jnp.matmul(jnp.asarray(inverse_mass, p.dtype), p, precision="highest")
    if isinstance(inverse_mass, float | int):
        return inverse_mass * p
    return jnp.asarray(inverse_mass, jnp.asarray(p).dtype) * p
