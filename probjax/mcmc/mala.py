r"""The Metropolis-adjusted Langevin algorithm: Langevin proposals with an accept step.

The step is in BlackJAX's convention, $x+step\_size\cdot s+\sqrt{2\,step\_size}\,z$; a step of size
$\eta$ here is one of $2\eta$ in the convention that the literature on generative models uses.

>>> import jax, jax.numpy as jnp
>>> from probjax.mcmc.driver import scan_steps
>>> kernel = mala(lambda x: -0.5 * jnp.sum(x**2), 0.8)
>>> def chain(key):
...     return scan_steps(key, kernel.step, kernel.init(jnp.zeros(1)), 30)[0].position
>>> draws = jax.vmap(chain)(jax.random.split(jax.random.key(0), 4000))
>>> print(f"{draws.var():.1f}")  # without the accept step 1 / (1 - 0.4) = 1.7
1.0
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, rows
from probjax.core.keys import PRNGKey, as_key

LogDensityFn = Callable[[Any], Float[Array, ""]]
"""Log density up to a constant, of one position."""

Linear = Callable[[Float[Array, "dim"]], Float[Array, "dim"]]
"""A linear map of vectors."""


class MALAState(NamedTuple):
    """State of `mala`."""

    position: Any
    """Where the chain is: an array or a pytree; always finite if it began so."""
    logdensity: Float[Array, ""]
    """The log density there."""
    logdensity_grad: Any
    """Its gradient, of the position's structure."""


class MALAInfo(NamedTuple):
    """What a step reports."""

    acceptance_rate: Float[Array, ""]
    """The probability with which the proposal was accepted."""
    is_accepted: Bool[Array, ""]
    """Whether it was."""
    is_divergent: Bool[Array, ""]
    """Whether the log ratio was below `-divergence_threshold`, or not a number."""
    is_nonfinite: Bool[Array, ""]
    """Whether the proposal, its gradient or its log density (other than by being -inf, which is a
    density of zero) was not finite."""
    num_grad_evals: Int[Array, ""]
    """Gradient evaluations: one."""


def mala(
    logdensity_fn: LogDensityFn,
    step_size: ArrayLike,
    *,
    inverse_mass_matrix: Float[ArrayLike, "..."] | None = None,
    divergence_threshold: float = 1000.0,
) -> SamplingAlgorithm:
    r"""Langevin steps, each accepted or refused so that $\pi$ is stationary for any step size.

    $$x'=x+\eta\,Ms(x)+\sqrt{2\eta}\,Lz,\qquad LL^\top=M,\quad s=\nabla\log\pi$$

    with $\eta=step\_size$ is accepted with probability $\min(1,r)$,

    $$\log r=\log\frac{\pi(x')\,q(x\mid x')}{\pi(x)\,q(x'\mid x)}
      =\log\pi(x')-\log\pi(x)-\sqrt{\tfrac\eta2}\,z^\top w-\tfrac\eta4|w|^2,\qquad
      w=L^\top(s(x)+s(x')) .$$

    The second form has no cancelling squares and needs no inverse of $M$.

    A proposal that is not finite is refused and flagged. From a start of density zero any proposal
    of finite density is accepted.

    Args:
        logdensity_fn: $\log\pi$ up to a constant, of ONE position (an array or a pytree).
        step_size: $\eta>0$, in the `"blackjax"` convention.
        inverse_mass_matrix: $M$, about the covariance of the target: `(d,)` (diagonal), or `(d, d)`
            symmetric and positive definite, over the position's entries in the order of
            `ravel_pytree`; the identity if `None`.
        divergence_threshold: how far the log ratio may fall before the step is called divergent.

    Returns:
        `SamplingAlgorithm` with `init(position) -> MALAState` and
        `step(key, state) -> (MALAState, MALAInfo)`, one evaluation of the gradient each.

    Raises:
        ValueError: `step_size`, `divergence_threshold` or `inverse_mass_matrix` is not positive, or
            the last has another shape.

    Example:
        >>> kernel = mala(lambda x: -0.5 * jnp.sum(x**2), 0.1)
        >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.ones(2)))
        >>> bool(info.acceptance_rate > 0.9), int(info.num_grad_evals)
        (True, 1)

    References:
        Roberts, Tweedie 1996, *Exponential convergence of Langevin distributions and their
        discrete approximations*. Without `inverse_mass_matrix` and for equal keys the chain is
        `blackjax.mala`'s; that one has no metric and flags nothing.
    """
    checks.positive("step_size", step_size)
    checks.positive("divergence_threshold", divergence_threshold)
    apply, root, root_transposed = _metric(inverse_mass_matrix)
    value_and_grad = jax.value_and_grad(logdensity_fn)

    def init(position: Any, rng_key: Any = None) -> MALAState:
        del rng_key
        position = jax.tree.map(
            lambda leaf: rows.working("position", jnp.asarray(leaf), event_ndim=0), position
        )
        return MALAState(position, *value_and_grad(position))

    def step(key: PRNGKey, state: MALAState) -> tuple[MALAState, MALAInfo]:
        x, unravel = ravel_pytree(state.position)
        score, _ = ravel_pytree(state.logdensity_grad)
        # Two keys by `split`, as BlackJAX does: its chains are ours. They live in this step only.
        proposal_key, accept_key = jax.random.split(as_key(key))
        step_size_ = jnp.asarray(step_size, x.dtype)
        z = jax.random.normal(proposal_key, x.shape, x.dtype)
        proposal = x + step_size_ * apply(score) + jnp.sqrt(2 * step_size_) * root(z)
        finite = jnp.all(jnp.isfinite(proposal))
        proposal = jnp.where(finite, proposal, x)

        moved = unravel(proposal)
        logdensity, grad = value_and_grad(moved)
        new_score, _ = ravel_pytree(grad)
        outside = jnp.isneginf(logdensity)
        sound = jnp.all(jnp.isfinite(new_score)) & jnp.isfinite(logdensity)
        w = root_transposed(score + new_score)
        proposed = -jnp.sqrt(step_size_ / 2) * jnp.dot(z, w) - step_size_ / 4 * jnp.dot(w, w)
        log_ratio = logdensity - state.logdensity + proposed
        good = finite & sound & ~jnp.isnan(log_ratio)
        log_ratio = jnp.where(good, log_ratio, -jnp.inf)

        acceptance_rate = jnp.exp(jnp.minimum(log_ratio, 0.0))
        accepted = good & jax.random.bernoulli(accept_key, acceptance_rate)
        proposed_state = MALAState(moved, logdensity, grad)
        new_state = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), proposed_state, state)
        return new_state, MALAInfo(
            acceptance_rate,
            accepted,
            -log_ratio > divergence_threshold,
            ~finite | ~(sound | outside),
            jnp.ones_like(accepted, jnp.int32),
        )

    return SamplingAlgorithm(init, step)


def _metric(inverse_mass_matrix: ArrayLike | None) -> tuple[Linear, Linear, Linear]:
    r"""The maps $M$, $L$ and $L^\top$ with $LL^\top=M$."""
    if inverse_mass_matrix is None:
        return (lambda v: v,) * 3
    name, shape = "inverse_mass_matrix", jnp.shape(inverse_mass_matrix)
    if len(shape) not in (1, 2) or len(set(shape)) != 1:
        raise ValueError(f"{name} must have shape (d,) or (d, d), got {shape}")
    matrix = jnp.asarray(inverse_mass_matrix)
    if len(shape) == 1:
        checks.positive(name, inverse_mass_matrix)
        deviation = jnp.sqrt(matrix)
        times = lambda factor: lambda v: _fitting(name, factor, v) * v  # noqa: E731
        return times(matrix), times(deviation), times(deviation)
    if not isinstance(inverse_mass_matrix, jax.core.Tracer):
        values = np.asarray(inverse_mass_matrix, np.float64)
        if not (np.allclose(values, values.T) and np.linalg.eigvalsh(values)[0] > 0):
            raise ValueError(f"{name} must be symmetric and positive definite")
    factor = jnp.linalg.cholesky(matrix)
    product = lambda m: lambda v: jnp.dot(_fitting(name, m, v), v)  # noqa: E731
    return product(matrix), product(factor), product(factor.T)


def _fitting(name: str, factor: Array, v: Float[Array, "dim"]) -> Array:
    """The factor in the vector's dtype, with its length checked."""
    checks.shape(name, factor, v.shape * factor.ndim)
    return factor.astype(v.dtype)
