r"""Statistics that are gathered while chains run, so that no draw need be kept.

A `Reducer` keeps a small accumulator for each chain, updated inside the loop; chains are merged
when the loop is over. What is not finite is left out and counted, so a broken chain spoils no
one else's numbers.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> algorithm = mcmc.ula(lambda x: -x, 0.1)
>>> states = mcmc.init_chains(algorithm, jnp.zeros((64, 1)))
>>> run = mcmc.run_chains(jax.random.key(0), algorithm, states, 500, reducers=(mcmc.moments(),))
>>> print(run.reduced[0].count, run.reduced[0].num_excluded)
32000.0 0.0
>>> bool(jnp.abs(run.reduced[0].mean[0]) < 0.1)
True
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from probjax.core import checks, trees
from probjax.mcmc.kernels import info_view
from probjax.mcmc.welford import (
    Welford,
    aligned,
    merger,
    recursion,
    total,
    unzipped,
    working,
)

StateFn = Callable[[Any], Any]
"""What of a chain's state to look at: an array or a pytree of arrays."""


class Reducer(NamedTuple):
    """A statistic over all chains and steps."""

    init: Callable[[Any], Any]
    """`init(state) -> acc` of one chain, before any step."""
    update: Callable[[Any, Any, Any, Any], Any]
    """`update(acc, state, info, step) -> acc` of one chain, with the state after the step."""
    merge: Callable[[Any], Any]
    """`merge(accs) -> acc`: from accumulators with a leading chain axis to one for all."""
    finalize: Callable[[Any], Any]
    """`finalize(acc) -> statistic`."""


class Moments(NamedTuple):
    """What `moments` and `covariance` give."""

    mean: Any
    """Mean over all chains and steps, shaped as the values; NaN without draws."""
    variance: Any
    """Variance (divisor `count - 1`); for `covariance` the matrix `(d, d)`."""
    count: Float[Array, ""]
    """Draws, a whole number (as a float: it may exceed what an int32 holds)."""
    num_excluded: Float[Array, ""]
    """Draws left out."""


class Replicates(NamedTuple):
    """What `replicate_means` gives."""

    means: Any
    """Mean of each chain, `(C, ...)`; NaN for a chain without draws."""
    mean: Any
    """Mean of the chains' means."""
    mcse: Any
    """Its standard error, from the spread of independent chains."""
    ess: Any
    """Effective number of draws: the variance of all draws over `mcse` squared."""
    num_excluded: Float[Array, ""]
    """Draws left out."""


class NestedRhat(NamedTuple):
    """What `nested_rhat_reducer` gives."""

    rhat: Any
    """Nested R-hat of each number."""
    num_excluded: Float[Array, ""]
    """Draws left out."""


class Counts(NamedTuple):
    """What `counts` gives: totals over chains and steps, NaN where the kernel does not tell."""

    steps: Float[Array, ""]
    """Steps made by all chains together."""
    acceptance_rate: Float[Array, ""]
    """Mean acceptance probability; one that is not finite counts as zero."""
    accepted: Float[Array, ""]
    """Proposals taken."""
    divergent: Float[Array, ""]
    """Steps flagged as divergent."""
    nonfinite: Float[Array, ""]
    """Steps flagged as not finite, or after which the position is not."""
    num_grad_evals: Float[Array, ""]
    """Gradients of the log density."""


def position(state: Any) -> Any:
    """Give the position of a chain's state, what reducers look at by default.

    Args:
        state: any state with a `position`.

    Returns:
        The position.

    Example:
        >>> from probjax import mcmc
        >>> print(position(mcmc.ula(lambda x: -x, 0.1).init(jnp.ones(2))))
        [1. 1.]
    """
    return state.position


@functools.lru_cache(maxsize=256)
def moments(fn: StateFn = position) -> Reducer:
    r"""Mean and variance of `fn(state)` over all chains and steps.

    Within a chain by Welford's recursion, over chains by the formula of Chan and others:

    $$m_n=m_{n-1}+\frac{x_n-m_{n-1}}n,\quad S_n=S_{n-1}+(x_n-m_{n-1})(x_n-m_n);\qquad
      S=\sum_cS_c+\sum_cn_c(m_c-m)^2$$

    Values are taken relative to the chain's start, so that no digits go to a large mean.

    Args:
        fn: from the state to numbers, an array or a pytree.

    Returns:
        Reducer that gives `Moments`. Equal `fn` give the same object.

    Example:
        >>> reducer = moments(lambda state: state)
        >>> acc = reducer.init(jnp.array(0.0))
        >>> for x in (1.0, 2.0, jnp.nan, 6.0):
        ...     acc = reducer.update(acc, jnp.array(x), None, 0)
        >>> print(*reducer.finalize(reducer.merge(jax.tree.map(lambda leaf: leaf[None], acc))))
        3.0 7.0 3.0 1.0

    References:
        Welford 1962; Chan, Golub, LeVeque 1983.
    """

    def finalize(acc: Welford) -> Moments:
        mean = jax.tree.map(lambda o, m: _known(acc.count, o + m), acc.origin, acc.mean)
        return Moments(mean, _divided(acc.deviation, acc.count - 1), acc.count, acc.excluded)

    return Reducer(*recursion(fn, jnp.multiply), merger(jnp.multiply), finalize)


@functools.lru_cache(maxsize=256)
def covariance(fn: StateFn = position) -> Reducer:
    r"""Mean and covariance matrix of `fn(state)` over all chains and steps.

    $$S_n=S_{n-1}+(x_n-m_{n-1})(x_n-m_n)^\top;\qquad
      S=\sum_cS_c+\sum_cn_c(m_c-m)(m_c-m)^\top$$

    Each chain keeps a matrix: memory $C\,d^2$.

    Args:
        fn: from the state to numbers; a pytree is raveled to one vector `(d,)`.

    Returns:
        Reducer that gives `Moments` with `mean` `(d,)` and `variance` `(d, d)`.

    Example:
        >>> reducer = covariance(lambda state: state)
        >>> acc = reducer.init(jnp.zeros(2))
        >>> for x in ([0.0, 0.0], [2.0, 1.0], [4.0, -1.0]):
        ...     acc = reducer.update(acc, jnp.array(x), None, 0)
        >>> found = reducer.finalize(reducer.merge(jax.tree.map(lambda leaf: leaf[None], acc)))
        >>> print(found.mean, found.variance)
        [2. 0.] [[ 4. -1.]
         [-1.  1.]]

    References:
        As `moments`.
    """

    def outer(x: Array, y: Array) -> Array:
        return x[..., :, None] * y[..., None, :]

    def flat(state: Any) -> Array:
        return ravel_pytree(jax.tree.map(working, fn(state)))[0]

    # The product of a mean with itself is symmetric but that of two means is so only in sum.
    def finalize(acc: Welford) -> Moments:
        mean = _known(acc.count, acc.origin + acc.mean)
        matrix = 0.5 * (acc.deviation + acc.deviation.T)
        return Moments(mean, _divided(matrix, acc.count - 1), acc.count, acc.excluded)

    return Reducer(*recursion(flat, outer), merger(outer), finalize)


@functools.lru_cache(maxsize=256)
def replicate_means(fn: StateFn = position) -> Reducer:
    r"""Means of the chains, and from their spread the error of the overall mean.

    $$MCSE^2=\frac{\mathrm{Var}_c(m_c)}C,\qquad ESS=\frac{\mathrm{Var}(x)}{MCSE^2}$$

    Chains are independent, so this holds for any number of steps, one included, once the chains
    have forgotten their starts. Use 64 chains or more: with few the variance of their means is
    itself uncertain.

    Args:
        fn: from the state to numbers, an array or a pytree.

    Returns:
        Reducer that gives `Replicates`.

    Example:
        >>> reducer = replicate_means(lambda state: state)
        >>> accs = jax.vmap(reducer.init)(jnp.zeros(3))
        >>> update = jax.vmap(lambda acc, x: reducer.update(acc, x, None, 0))
        >>> for x in ([0.0, 2.0, 4.0], [2.0, 4.0, 6.0]):
        ...     accs = update(accs, jnp.array(x))
        >>> found = reducer.finalize(reducer.merge(accs))
        >>> print(found.means, found.mean, found.ess)
        [1. 3. 5.] 3.0 3.3
    """
    merge = merger(jnp.multiply)

    def finalize(accs: Welford) -> Replicates:
        used = accs.count > 0
        whole = merge(accs)

        def leaf(o: Array, m: Array, variance: Array) -> tuple[Array, Array, Array, Array]:
            means = o + jnp.where(aligned(used, m), m, jnp.nan)
            centre, spread, number = _spread(o - o[:1] + m, used)
            mcse2 = spread / number
            return means, o[0] + centre, jnp.sqrt(mcse2), variance / mcse2

        variance = _divided(whole.deviation, whole.count - 1)
        fields = unzipped(leaf, 4, accs.origin, accs.mean, variance)
        return Replicates(*fields, whole.excluded)

    return Reducer(*recursion(fn, jnp.multiply), lambda accs: accs, finalize)


@functools.lru_cache(maxsize=256)
def nested_rhat_reducer(num_superchains: int, fn: StateFn = position) -> Reducer:
    r"""Nested R-hat: have chains forgotten where they began, told from any number of steps.

    $$\hat R=\sqrt{1+\frac BW},\qquad B=\mathrm{Var}_k(\bar m_k),\qquad
      W=\frac1K\sum_k\Bigl(\mathrm{Var}_{c\in k}(m_c)+\frac1M\sum_{c\in k}s_c^2\Bigr)$$

    Chains `k M, ..., (k + 1) M - 1` are superchain `k` and should begin at one point. All variances
    have divisor one less than their number, and are 0 for a single chain or a single step.
    Plain R-hat is another thing: it splits chains, and its `W` is that of chains alone.

    Args:
        num_superchains: $K$, at least 2; divides the number of chains.
        fn: from the state to numbers, an array or a pytree.

    Returns:
        Reducer that gives `NestedRhat`. A chain without draws is left out of its superchain.

    Raises:
        ValueError: `num_superchains < 2`; at the merge: it does not divide the number of chains.

    Example:
        >>> reducer = nested_rhat_reducer(2, lambda state: state)
        >>> accs = jax.vmap(reducer.init)(jnp.zeros(4))
        >>> update = jax.vmap(lambda acc, x: reducer.update(acc, x, None, 0))
        >>> for x in ([0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]):
        ...     accs = update(accs, jnp.array(x))
        >>> print(f"{reducer.finalize(reducer.merge(accs)).rhat:.5f}")  # sqrt(1 + 8 / 2.5)
        2.04939

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari, Gelman 2024, *Nested R-hat*.
    """
    checks.at_least("num_superchains", num_superchains, 2)

    def merge(accs: Welford) -> Welford:
        num_chains = accs.count.shape[0]
        if num_chains % num_superchains:
            raise ValueError(
                f"num_superchains={num_superchains} does not divide the {num_chains} chains"
            )
        return accs

    def finalize(accs: Welford) -> NestedRhat:
        used = (accs.count > 0).reshape(num_superchains, -1)
        number = accs.count.reshape(num_superchains, -1)

        def leaf(o: Array, m: Array, s: Array) -> Array:
            shape = (*used.shape, *m.shape[1:])
            means, sums = (o - o[:1] + m).reshape(shape), s.reshape(shape)
            within = aligned(jnp.maximum(number - 1, 1).astype(s.dtype), sums)
            within = jax.vmap(lambda v, w: _spread(v, w)[0])(sums / within, used)
            centre, between, size = jax.vmap(_spread)(means, used)
            between = jnp.where(aligned(size > 1, between), between, jnp.zeros_like(between))
            alive = jnp.any(used, axis=1)
            spread = _spread(centre, alive)[1]
            return jnp.sqrt(1 + spread / _spread(between + within, alive)[0])

        rhat = jax.tree.map(leaf, accs.origin, accs.mean, accs.deviation)
        return NestedRhat(rhat, total(accs.excluded))

    return Reducer(*recursion(fn, jnp.multiply), merge, finalize)


@functools.lru_cache(maxsize=8)
def counts() -> Reducer:
    """Steps, acceptance, divergences, non-finite steps and gradients over all chains.

    Infos of BlackJAX are read through `info_view`. BlackJAX's kernels do not tell when a chain
    is not finite; here its position tells.

    Returns:
        Reducer that gives `Counts`.

    Example:
        >>> from probjax import mcmc
        >>> algorithm = mcmc.ula(lambda x: -x, 0.1)
        >>> states = mcmc.init_chains(algorithm, jnp.zeros((4, 1)))
        >>> reducers = (mcmc.counts(),)
        >>> run = mcmc.run_chains(jax.random.key(0), algorithm, states, 10, reducers=reducers)
        >>> print(*run.reduced[0])
        40.0 1.0 40.0 0.0 0.0 40.0
    """

    def init(state: Any) -> Counts:
        zero = jnp.zeros((), jnp.float32)
        return Counts(jnp.zeros((), jnp.int32), zero, *(jnp.zeros((), jnp.int32),) * 3, zero)

    def update(acc: Counts, state: Any, info: Any, step: Any) -> Counts:
        del step
        view = info_view(info)
        steps = acc.steps + 1
        bad = view.is_nonfinite | ~trees.all_finite(getattr(state, "position", state))
        # What went wrong was not accepted; what cannot be accepted or refused stays NaN.
        rate = view.acceptance_rate.astype(jnp.float32)
        refused = (bad | view.is_divergent) & ~jnp.isfinite(rate)
        rate = jnp.where(refused, jnp.zeros_like(rate), rate)
        rate = acc.acceptance_rate + (rate - acc.acceptance_rate) / steps.astype(jnp.float32)
        # A kernel that tells nothing of acceptance gets -1 a step, which `finalize` makes NaN.
        taken = view.is_accepted.astype(jnp.int32) if hasattr(info, "is_accepted") else -1
        return Counts(
            steps,
            rate,
            acc.accepted + taken,
            acc.divergent + view.is_divergent.astype(jnp.int32),
            acc.nonfinite + bad.astype(jnp.int32),
            acc.num_grad_evals + view.num_grad_evals.astype(jnp.float32),
        )

    def merge(accs: Counts) -> Counts:
        # All chains have made equally many steps.
        return Counts(*map(total, accs))._replace(acceptance_rate=accs.acceptance_rate.mean())

    def finalize(acc: Counts) -> Counts:
        return acc._replace(
            acceptance_rate=_known(acc.steps, acc.acceptance_rate),
            accepted=jnp.where(acc.accepted < 0, jnp.nan, acc.accepted),
        )

    return Reducer(init, update, merge, finalize)


def _spread(values: Array, used: Bool[Array, " n"]) -> tuple[Array, Array, Array]:
    """Mean, variance (divisor one less) and number of the entries of the first axis in use."""
    number = jnp.sum(used).astype(values.dtype)
    mask = aligned(used, values)
    mean = jnp.sum(jnp.where(mask, values, 0), axis=0) / number
    apart = jnp.where(mask, values - mean[None], 0)
    return mean, jnp.sum(apart**2, axis=0) / (number - 1), number


def _divided(tree: Any, divisor: Array) -> Any:
    return jax.tree.map(
        lambda leaf: jnp.where(divisor > 0, leaf, jnp.nan) / divisor.astype(leaf.dtype), tree
    )


def _known(count: Array, value: Array) -> Array:
    return jnp.where(count > 0, value, jnp.nan)
