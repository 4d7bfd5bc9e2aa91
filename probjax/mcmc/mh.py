r"""Metropolis-Hastings with an explicit proposal density, and rejection sampling.

A proposal $Q(x\to x')$ that knows nothing of the target is made right by sometimes staying where
one is. The ratio that decides contains $Q$ in both directions, unless $Q$ is symmetric; which of
the two holds must be said, because a forgotten ratio gives a chain that runs well and samples
something else.

>>> import jax, jax.numpy as jnp
>>> kernel = metropolis_hastings(
...     lambda x: -0.5 * jnp.sum(x**2),
...     lambda key, x: x + jax.random.normal(key, x.shape),
...     symmetric=True)
>>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.zeros(2)))
>>> state.position.shape, int(info.num_grad_evals)
((2,), 0)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from probjax.core import checks, trees
from probjax.core.keys import PRNGKey, as_key, item_keys, stream

LogDensityFn = Callable[[Any], Float[Array, ""]]
"""Log density of a position, up to a constant; $-\\infty$ outside the support."""


class MHState(NamedTuple):
    """State of `metropolis_hastings`."""

    position: Any
    """Where the chain is: an array or a pytree."""
    logdensity: Float[Array, ""]
    """The log density there."""


class MHInfo(NamedTuple):
    """What a step reports."""

    acceptance_rate: Float[Array, ""]
    """Probability with which the proposal was to be taken."""
    is_accepted: Bool[Array, ""]
    """Whether it was."""
    is_divergent: Bool[Array, ""]
    """Whether the proposal left the numbers; here the same as `is_nonfinite`."""
    is_nonfinite: Bool[Array, ""]
    """Whether the proposal was not finite, or a density of it `NaN` or infinitely large."""
    num_grad_evals: Int[Array, ""]
    """Gradient evaluations: 0."""


class RejectionSample(NamedTuple):
    """What `rejection_sample` returns."""

    samples: Any
    """All proposals, `(num_proposals, ...)`; only those marked in `accepted` are samples."""
    accepted: Bool[Array, "num_proposals"]
    """Which proposals were accepted."""
    violations: Int[Array, ""]
    """At how many proposals the bound did not hold; above 0 the samples are not from the target."""


def metropolis_hastings(
    logdensity_fn: LogDensityFn,
    propose: Callable[[Any, Any], Any],
    proposal_logdensity_fn: Callable[[Any, Any], Float[Array, ""]] | None = None,
    *,
    symmetric: bool = False,
) -> SamplingAlgorithm:
    r"""Metropolis-Hastings: propose, then accept or stay.

    $$A(x\to x')=\min\Bigl\{1,\frac{\pi(x')\,Q(x'\to x)}{\pi(x)\,Q(x\to x')}\Bigr\}$$

    with $\log\pi$ = `logdensity_fn` up to a constant. With `symmetric=True` the two $Q$ cancel.

    Outside the support: a proposal with log density $-\infty$ is refused; from a start whose log
    density is not finite the first proposal with a finite one is accepted, whatever $Q$ says.
    A proposal that is not finite, whose log density is `NaN` or $+\infty$, or that $Q$ itself
    calls impossible, is refused and flagged.

    Args:
        logdensity_fn: log density of a position, up to a constant, `()`.
        propose: `propose(key, x)`, a draw from $Q(x\to\cdot)$ of `x`'s structure, shapes and
            dtypes.
        proposal_logdensity_fn: `proposal_logdensity_fn(from_x, to_x)`, $\log Q$ up to a constant
            that depends on neither.
        symmetric: promise that $Q(x\to x')=Q(x'\to x)$.

    Returns:
        `SamplingAlgorithm` with `init(position) -> MHState` and
        `step(key, state) -> (MHState, MHInfo)`, one evaluation of `logdensity_fn` each.

    Raises:
        ValueError: neither `proposal_logdensity_fn` nor `symmetric=True`, or both; a proposal
            of another shape.
        TypeError: a proposal of another dtype, a log density that is not floating.

    Example:
        A random walk on the logarithm of a positive number is not symmetric in the number:

        >>> def propose(key, x):
        ...     return x * jnp.exp(0.5 * jax.random.normal(key))
        >>> def proposal_logdensity_fn(from_x, to_x):
        ...     step = jnp.log(to_x / from_x)
        ...     return -0.5 * (step / 0.5) ** 2 - jnp.log(to_x)
        >>> kernel = metropolis_hastings(lambda x: -x, propose, proposal_logdensity_fn)
        >>> state, info = kernel.step(jax.random.key(1), kernel.init(jnp.array(1.0)))
        >>> bool(state.position > 0)
        True

    References:
        Metropolis et al. 1953; Hastings 1970, *Monte Carlo sampling methods using Markov chains
        and their applications*. BlackJAX's `rmh` and `irmh` take a missing density to mean a
        symmetric proposal, also where it cannot be.
    """
    if proposal_logdensity_fn is None and not symmetric:
        raise ValueError(
            "proposal_logdensity_fn is missing: give log Q(from_x, to_x), or symmetric=True if "
            "Q(x, x') = Q(x', x)"
        )
    if proposal_logdensity_fn is not None and symmetric:
        raise ValueError("give proposal_logdensity_fn or symmetric=True, got both")

    def init(position: Any, rng_key: Any = None) -> MHState:
        del rng_key
        position = trees.widened(position)
        return MHState(position, _scalar("logdensity_fn(x)", logdensity_fn(position)))

    def step(key: PRNGKey, state: MHState) -> tuple[MHState, MHInfo]:
        key = as_key(key)
        position, old = state
        proposal = propose(stream(key, "proposal"), position)
        proposal = trees.same_layout("propose(key, x)", proposal, "x", position)
        new = _scalar("logdensity_fn(x)", logdensity_fn(proposal))
        forward = backward = jnp.zeros_like(new)
        if proposal_logdensity_fn is not None:
            name = "proposal_logdensity_fn(from_x, to_x)"
            forward = _scalar(name, proposal_logdensity_fn(position, proposal)).astype(new.dtype)
            backward = _scalar(name, proposal_logdensity_fn(proposal, position)).astype(new.dtype)

        inside = jnp.isfinite(old)
        broken = ~trees.all_finite(proposal) | _above_all(new)
        broken |= inside & (~jnp.isfinite(forward) | _above_all(backward))
        possible = ~broken & jnp.isfinite(new) & (jnp.isfinite(backward) | ~inside)

        # Masked before the subtraction, so that no infinity meets another, here or in a gradient.
        counts = possible & inside
        terms = (jnp.where(counts, term, 0.0) for term in (new, old, backward, forward))
        new_safe, old_safe, backward_safe, forward_safe = terms
        log_ratio = (new_safe - old_safe) + (backward_safe - forward_safe)
        rate = jnp.where(possible, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
        accepted = possible & _accepts(stream(key, "accept"), log_ratio)

        state = MHState(
            jax.tree.map(lambda x, y: jnp.where(accepted, x, y), proposal, position),
            jnp.where(accepted, new, old),
        )
        count = jnp.zeros_like(accepted, dtype=jnp.int32)
        return state, MHInfo(rate, accepted, broken, broken, count)

    return SamplingAlgorithm(init, step)


def rejection_sample(
    key: PRNGKey,
    logdensity_fn: LogDensityFn,
    sample_q: Callable[[Any], Any],
    log_q: LogDensityFn,
    log_m: ArrayLike,
    num_proposals: int,
) -> RejectionSample:
    r"""Rejection sampling with a fixed number of proposals.

    $$x\sim q,\qquad \text{accept with probability } \frac{p(x)}{M\,q(x)},\qquad p\le M\,q$$

    An accepted proposal is an exact, independent draw from $p$. If both densities are normalised,
    a share $1/M$ is accepted. Where the bound fails, what is accepted follows $\min(p,Mq)$
    instead: `violations` counts the proposals that show it (a `NaN` density counts, too, and
    such a proposal is refused). Where a bound holds with equality, rounding alone can show one.

    Args:
        key: one key; proposal $i$ uses `item_key(key, i)`.
        logdensity_fn: $\log p$, up to a constant that is part of $M$.
        sample_q: `sample_q(key)`, one draw from $q$, an array or a pytree.
        log_q: $\log q$.
        log_m: $\log M$, `()`.
        num_proposals: how many proposals.

    Returns:
        All proposals, which of them are accepted, and the count of violations.

    Raises:
        ValueError: `num_proposals` is negative, or a log density is not a scalar.
        TypeError: a log density is not floating.

    Example:
        The density $2x$ on $(0,1)$ under twice the uniform one:

        >>> draws = rejection_sample(
        ...     jax.random.key(0), lambda x: jnp.log(2 * x), jax.random.uniform,
        ...     lambda x: jnp.zeros_like(x), jnp.log(2.0), 4000)
        >>> print(f"{draws.accepted.mean():.1f}", int(draws.violations))
        0.5 0

    References:
        von Neumann 1951, *Various techniques used in connection with random digits*.
    """
    checks.at_least("num_proposals", num_proposals, 0)

    def one(item: Any) -> tuple[Any, Bool[Array, ""], Bool[Array, ""]]:
        x = sample_q(stream(item, "proposal"))
        log_p = _scalar("logdensity_fn(x)", logdensity_fn(x))
        bound = _scalar("log_q(x)", log_q(x)).astype(log_p.dtype) + jnp.asarray(log_m, log_p.dtype)
        possible = jnp.isfinite(log_p) & trees.all_finite(x)
        accepted = possible & _accepts(stream(item, "accept"), log_p - bound)
        return x, accepted, ~(log_p <= bound)

    samples, accepted, violated = jax.vmap(one)(item_keys(key, num_proposals))
    return RejectionSample(samples, accepted, jnp.sum(violated, dtype=jnp.int32))


def _accepts(key: Any, log_ratio: Float[Array, ""]) -> Bool[Array, ""]:
    """Flag with probability min(1, ratio).

    The logarithm of a uniform number is drawn as minus an exponential one: a uniform number is
    exactly 0 once in 2^23 float32 draws, and that would accept the worst of proposals.
    """
    return -jax.random.exponential(key, (), log_ratio.dtype) <= log_ratio


def _above_all(value: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a log density is one that none can be."""
    return jnp.isnan(value) | jnp.isposinf(value)


def _scalar(name: str, value: Any) -> Float[Array, ""]:
    """`value` as a floating scalar array, checked."""
    value = jnp.asarray(value)
    checks.shape(name, value, ())
    checks.floating(name, value)
    return value
