r"""Hamilton's equations by two first-order integrators, and the energy that they should keep.

They are here to be compared with: production code takes the leapfrog scheme,
`blackjax.mcmc.integrators.velocity_verlet`, which is of second order, keeps volumes and can be run
backwards. All three have one form, `integrator(logdensity_fn, kinetic_energy_fn)` to
`one_step(state, step_size)`.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> logdensity_fn = lambda x: -0.5 * jnp.sum(x**2)  # a spring
>>> kinetic_energy_fn = lambda p: 0.5 * jnp.sum(p**2)
>>> state = mcmc.phase_state(logdensity_fn, jnp.array([1.0]), jnp.array([0.0]))
>>> for integrator in (mcmc.euler_hamiltonian, mcmc.symplectic_euler):
...     one_step = integrator(logdensity_fn, kinetic_energy_fn)
...     end = jax.lax.fori_loop(0, 100, lambda _, s: one_step(s, 0.3), state)
...     print(f"{mcmc.hamiltonian_energy(kinetic_energy_fn, end):.2f}")
2764.52
0.56
"""

from collections.abc import Callable
from typing import Any

import jax
from blackjax.mcmc.integrators import IntegratorState
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks

LogDensityFn = Callable[[Any], Float[Array, ""]]
"""Log density up to a constant: minus the potential energy."""

KineticEnergyFn = Callable[[Any], Float[Array, ""]]
"""Kinetic energy of a momentum."""

Integrator = Callable[[IntegratorState, ArrayLike], IntegratorState]
"""One step: `(state, step_size)` to the state after it."""


def phase_state(logdensity_fn: LogDensityFn, position: Any, momentum: Any) -> IntegratorState:
    r"""Put a position and a momentum together, with the density and its gradient there.

    $$(x, p) \mapsto \bigl(x,\ p,\ \log\pi(x),\ \nabla\log\pi(x)\bigr)$$

    Args:
        logdensity_fn: $\log\pi$ up to a constant, of one position.
        position: $x$, an array or a pytree.
        momentum: $p$, of the same structure.

    Returns:
        BlackJAX's `IntegratorState(position, momentum, logdensity, logdensity_grad)`.

    Raises:
        ValueError: `momentum` has other shapes than `position`.

    Example:
        >>> import jax.numpy as jnp
        >>> phase_state(lambda x: -jnp.sum(x**2), jnp.ones(2), jnp.zeros(2)).logdensity_grad
        Array([-2., -2.], dtype=float32)
    """
    jax.tree.map(lambda p, x: checks.same_shape("momentum", p, "position", x), momentum, position)
    return IntegratorState(position, momentum, *jax.value_and_grad(logdensity_fn)(position))


def hamiltonian_energy(
    kinetic_energy_fn: KineticEnergyFn, state: IntegratorState
) -> Float[Array, ""]:
    r"""Total energy of a point of phase space.

    $$H(x,p)=U(x)+K(p),\qquad U=-\log\pi$$

    Args:
        kinetic_energy_fn: $K$.
        state: position and momentum, with the log density there.

    Returns:
        $H$, up to the constant that is missing in $\log\pi$.

    Example:
        >>> import jax.numpy as jnp
        >>> state = phase_state(lambda x: -0.5 * jnp.sum(x**2), jnp.ones(2), 2 * jnp.ones(2))
        >>> float(hamiltonian_energy(lambda p: 0.5 * jnp.sum(p**2), state))
        5.0
    """
    return kinetic_energy_fn(state.momentum) - state.logdensity


def euler_hamiltonian(
    logdensity_fn: LogDensityFn, kinetic_energy_fn: KineticEnergyFn
) -> Integrator:
    r"""Euler's step for Hamilton's equations: both halves from the old point.

    $$x'=x+\epsilon\,\nabla K(p),\qquad p'=p+\epsilon\,\nabla\log\pi(x)$$

    On a spring each step multiplies the energy by $1+\epsilon^2$, and volumes too: of no use in
    a sampler.

    Args:
        logdensity_fn: $\log\pi$ up to a constant.
        kinetic_energy_fn: $K$.

    Returns:
        `one_step(state, step_size)`, one evaluation of the gradient of $\log\pi$.

    Example:
        >>> import jax.numpy as jnp
        >>> spring, kinetic = lambda x: -0.5 * jnp.sum(x**2), lambda p: 0.5 * jnp.sum(p**2)
        >>> state = phase_state(spring, jnp.array([1.0]), jnp.array([0.0]))
        >>> state = euler_hamiltonian(spring, kinetic)(state, 0.3)
        >>> print(state.position, state.momentum)
        [1.] [-0.3]
    """
    return _euler(logdensity_fn, kinetic_energy_fn, lambda old, new: old)


def symplectic_euler(logdensity_fn: LogDensityFn, kinetic_energy_fn: KineticEnergyFn) -> Integrator:
    r"""First the momentum, then the position with the new momentum.

    $$p'=p+\epsilon\,\nabla\log\pi(x),\qquad x'=x+\epsilon\,\nabla K(p')$$

    Each half is a shear, so volumes are kept exactly and the energy error stays bounded; it is of
    first order in $\epsilon$. Run backwards it is another scheme (position first), so it cannot
    take the place of leapfrog in Hamiltonian Monte Carlo.

    Args:
        logdensity_fn: $\log\pi$ up to a constant.
        kinetic_energy_fn: $K$.

    Returns:
        `one_step(state, step_size)`, one evaluation of the gradient of $\log\pi$.

    Example:
        >>> import jax.numpy as jnp
        >>> spring, kinetic = lambda x: -0.5 * jnp.sum(x**2), lambda p: 0.5 * jnp.sum(p**2)
        >>> state = phase_state(spring, jnp.array([1.0]), jnp.array([0.0]))
        >>> state = symplectic_euler(spring, kinetic)(state, 0.3)
        >>> print(state.position, state.momentum)
        [0.91] [-0.3]
    """
    return _euler(logdensity_fn, kinetic_energy_fn, lambda old, new: new)


def _euler(
    logdensity_fn: LogDensityFn, kinetic_energy_fn: KineticEnergyFn, drives: Any
) -> Integrator:
    """A step in which the momentum that `drives(old, new)` picks moves the position."""

    def one_step(state: IntegratorState, step_size: ArrayLike) -> IntegratorState:
        momentum = _move(state.momentum, state.logdensity_grad, step_size)
        velocity = jax.grad(kinetic_energy_fn)(drives(state.momentum, momentum))
        position = _move(state.position, velocity, step_size)
        return phase_state(logdensity_fn, position, momentum)

    return one_step


def _move(tree: Any, direction: Any, step_size: ArrayLike) -> Any:
    return jax.tree.map(lambda x, v: x + step_size * v, tree, direction)
