r"""What CTC believes about the alignment: forward and backward variables, occupancies, entropy.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import posteriors
>>> logits, labels = jnp.zeros((4, 3)), jnp.array([1, 2])
>>> posterior = jax.jit(posteriors.ctc_posteriors)(logits, labels)
>>> occupancy = jax.jit(posteriors.vocab_occupancy, static_argnums=2)(posterior, labels, 3)
>>> print(occupancy[1].round(3))
[0.267 0.533 0.2  ]
>>> print(jnp.exp(jax.jit(posteriors.alignment_entropy)(logits, labels)).round(3))  # fifteen alike
15.0
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Num

from probjax.core import checks as core_checks
from probjax.core import rows
from probjax.sequence import ctc_core, emissions, wide
from probjax.sequence.ctc import loss_from_log_z
from probjax.sequence.ctc_core import LatticeStates
from probjax.sequence.lattice import ctc_feasible, front_index, live_places
from probjax.sequence.wide import Wide


class CTCPosterior(NamedTuple):
    r"""Forward and backward variables and what they say about the alignment.

    The states are those of `extend_labels`. `exp(log_alpha + log_alpha_scale)` is the sum over
    beginnings that end in the state at that frame, its emission included;
    `exp(log_beta + log_beta_scale)` the sum over all continuations, without that frame's emission.
    Frames of padding hold $-\infty$ in both, scale 0 and posterior 0.
    """

    loss: Float[Array, "*batch"]
    """As of `ctc_loss`."""
    log_alpha: Float[Array, "*batch frames states"]
    """Forward variables, each frame's largest at 0."""
    log_beta: Float[Array, "*batch frames states"]
    """Backward variables, each frame's largest at 0."""
    log_alpha_scale: Float[Array, "*batch frames"]
    """What was subtracted from that frame's forward variables, since the first frame."""
    log_beta_scale: Float[Array, "*batch frames"]
    """What was subtracted from that frame's backward variables, since the last frame."""
    state_posterior: Float[Array, "*batch frames states"]
    """Probability of each state given the target; rows sum to 1, to 0 without alignment."""
    feasible: Bool[Array, "*batch"]
    """Whether the target fits into the frames, whatever the probabilities."""


def ctc_posteriors(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    infeasible: str = "inf",
    checks: str = "poison",
) -> CTCPosterior:
    r"""Forward and backward variables and the posterior of the lattice's states.

    $$\beta_{t-1}(s')=\sum_{s'\to s}p_t(e_s)\,\beta_t(s),\qquad
      \gamma_t(s)=\frac{\alpha_t(s)\,\beta_t(s)}{p(y)},\qquad
      \sum_s\alpha_t(s)\,\beta_t(s)=p(y)\ \text{ for every }t$$

    The posterior is not computed from $\alpha\beta$ but by smoothing, which keeps its digits.

    Args:
        logits: as for `ctc_loss`.
        labels: as for `ctc_loss`.
        logit_lengths: as for `ctc_loss`.
        label_lengths: as for `ctc_loss`.
        blank_id: as for `ctc_loss`.
        infeasible: as for `ctc_loss`.
        checks: as for `ctc_loss`.

    Returns:
        `CTCPosterior`.

    Raises:
        ValueError: as for `ctc_loss`.

    Example:
        >>> posterior = jax.jit(ctc_posteriors)(jnp.zeros((2, 2)), jnp.array([1]))
        >>> print((3 * posterior.state_posterior).round())
        [[1. 2. 0.]
         [0. 2. 1.]]

    References:
        Graves and others 2006; Rabiner 1989. Graves's backward variable includes the frame's
        emission; then the sum over states of $\alpha\beta/p$ is $p(y)$.
    """
    core_checks.one_of("infeasible", infeasible, ("inf", "zero"))
    given = emissions.prepare(
        logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
    )

    def one(
        logits: Array, labels: Array, frames: Array, length: Array, valid: Array
    ) -> CTCPosterior:
        scores = emissions.sequence_scores(
            logits, labels, frames, length, valid, blank=given.blank, normalise=True
        )
        last, (alpha, arrivals) = ctc_core.forward(
            scores.blank, scores.label, scores.can_skip, lambda states, arrivals: (states, arrivals)
        )
        log_z, end = ctc_core.ending(last, length)
        gamma = ctc_core.backward(arrivals, end, lambda gamma: gamma)
        beta = _backward_variables(scores, length)
        live = live_places(frames, (), logits.shape[0]) & scores.sound
        log_alpha, log_alpha_scale = _rows(alpha, live)
        log_beta, log_beta_scale = _rows(beta, live)
        return CTCPosterior(
            loss_from_log_z(log_z, scores.sound, infeasible, clamp=True),
            log_alpha,
            log_beta,
            log_alpha_scale,
            log_beta_scale,
            jnp.where(live[:, None], _interleave(gamma), 0.0),
            ctc_feasible(frames, labels, length) & valid,
        )

    return emissions.over_sequences(one, given)


def vocab_occupancy(
    posterior: CTCPosterior,
    labels: Num[ArrayLike, "..."],
    vocab_size: int,
    *,
    blank_id: int = 0,
) -> Float[Array, "*batch frames classes"]:
    r"""Probability, given the target, that a frame shows each class.

    $$\mathrm{occ}_t(k)=\sum_{s:\,e_s=k}\gamma_t(s)$$

    Args:
        posterior: of `ctc_posteriors`.
        labels: the same targets `(L,)` or `(B, L)`; padding does not count.
        vocab_size: $V$.
        blank_id: class of the blank, in $[-V,V)$.

    Returns:
        `(T, V)` or `(B, T, V)`; live frames sum to 1.

    Raises:
        ValueError: `labels` do not fit the posterior, or `blank_id` is out of range.

    Example:
        >>> posterior = jax.jit(ctc_posteriors)(jnp.zeros((2, 2)), jnp.array([1]))
        >>> occupancy = jax.jit(vocab_occupancy, static_argnums=2)
        >>> print(occupancy(posterior, jnp.array([1]), 2).round(3))
        [[0.333 0.667]
         [0.333 0.667]]
    """
    gamma, labels = posterior.state_posterior, jnp.asarray(labels)
    core_checks.shape("labels", labels, (*gamma.shape[:-2], (gamma.shape[-1] - 1) // 2))
    blank = front_index(blank_id, vocab_size)
    of_labels = jax.nn.one_hot(labels, vocab_size, dtype=gamma.dtype)
    occupancy = jnp.einsum(
        "...tl,...lv->...tv", gamma[..., 1::2], of_labels, precision=jax.lax.Precision.HIGHEST
    )
    return occupancy.at[..., blank].add(jnp.sum(gamma[..., 0::2], axis=-1))


def alignment_entropy(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    checks: str = "poison",
) -> Float[Array, "*batch"]:
    r"""Entropy of the alignment given the target, in nats.

    $$H=-\sum_\pi p(\pi\mid y)\ln p(\pi\mid y)
       =\ln p(y)-\sum_{t,k}\mathrm{occ}_t(k)\ln p_t(k),\qquad 0\cdot(-\infty)=0$$

    Differentiable once (with second derivatives of the loss).

    Args:
        logits: as for `ctc_loss`.
        labels: as for `ctc_loss`.
        logit_lengths: as for `ctc_loss`.
        label_lengths: as for `ctc_loss`.
        blank_id: as for `ctc_loss`.
        checks: as for `ctc_loss`.

    Returns:
        `()` or `(B,)`; the logarithm of the number of alignments for uniform logits, $-\infty$
        where there is none.

    Raises:
        ValueError: as for `ctc_loss`.

    Example:
        >>> print(jax.jit(alignment_entropy)(jnp.zeros((4, 3)), jnp.array([1, 2])))
        2.708...
    """
    given = emissions.prepare(
        logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
    )
    scores_of = functools.partial(emissions.sequence_scores, blank=given.blank, normalise=True)

    def one(logits: Array, labels: Array, frames: Array, length: Array, valid: Array) -> Array:
        scores = scores_of(logits, labels, frames, length, valid)
        result = ctc_core.smooth(scores.blank, scores.label, scores.can_skip, length)
        empty = jnp.isneginf(result.log_z)
        spent = _product(result.blank, scores.blank) + _product(result.label, scores.label)
        entropy = jnp.where(empty, 0.0, result.log_z) - spent
        return jnp.where(scores.sound, jnp.where(empty, -jnp.inf, entropy), jnp.nan)

    return emissions.over_sequences(one, given)


def _product(weights: Array, logs: Array) -> Array:
    """The sum of the products, where nothing times minus infinity is nothing."""
    return jnp.sum(weights * jnp.where(jnp.isneginf(logs), 0.0, logs))


def _backward_variables(scores: emissions.LatticeScores, length: Array) -> LatticeStates:
    """The sums over continuations, after each frame."""
    label = ctc_core.with_lane_zero(scores.label, -jnp.inf)
    may_skip = ctc_core.with_lane_zero(scores.can_skip, False)
    low = wide.lowest(label.dtype)
    lane = jnp.arange(label.shape[1], dtype=length.dtype)

    def left(x: Wide) -> Wide:
        return Wide(ctc_core.left(x.mantissa, 0.0), ctc_core.left(x.exponent, low))

    def step(beta: LatticeStates, emission: LatticeStates) -> tuple[LatticeStates, LatticeStates]:
        ahead = LatticeStates(
            *(
                wide.normalised(x.mantissa * e.mantissa, x.exponent + e.exponent)
                for x, e in zip(beta, emission, strict=True)
            )
        )
        skipping = Wide(
            jnp.where(may_skip, ahead.label.mantissa, 0.0),
            jnp.where(may_skip, ahead.label.exponent, low),
        )
        blank, blank_exponent = wide.aligned(ahead.blank, left(ahead.label))
        label, label_exponent = wide.aligned(ahead.label, ahead.blank, left(skipping))
        new = LatticeStates(
            wide.normalised(sum(blank[1:], blank[0]), blank_exponent),
            wide.normalised(sum(label[1:], label[0]), label_exponent),
        )
        return new, beta

    is_end = lane == length
    zero = jnp.zeros_like(label, shape=lane.shape)
    end = Wide(jnp.where(is_end, 1.0, zero), jnp.where(is_end, zero, low))
    start = rows.varying_over(LatticeStates(end, end), (scores.blank, label, may_skip))
    emission = LatticeStates(wide.from_log(scores.blank), wide.from_log(label))
    return jax.lax.scan(step, start, emission, reverse=True)[1]


def _rows(states: LatticeStates, live: Array) -> tuple[Array, Array]:
    """Logarithms with each row's largest at 0, and that largest."""
    together = Wide(
        _interleave(LatticeStates(states.blank.mantissa, states.label.mantissa)),
        _interleave(LatticeStates(states.blank.exponent, states.label.exponent)),
    )
    # Large exponents are taken out as integers, before any logarithm is rounded.
    common = jnp.max(together.exponent, axis=-1, keepdims=True)
    logs = wide.to_log(Wide(together.mantissa, together.exponent - common))
    top = jnp.max(logs, axis=-1, keepdims=True)
    some = jnp.isfinite(top)
    scale = wide.to_log(Wide(jnp.ones_like(common), common)) + jnp.where(some, top, -jnp.inf)
    rows = jnp.where(live[:, None], logs - jnp.where(some, top, 0.0), -jnp.inf)
    return rows, jnp.where(live, scale[:, 0], 0.0)


def _interleave(states: LatticeStates) -> Array:
    """Blank, label, blank, ..., blank along the last axis."""
    blank, label = states.blank, states.label[:, 1:]
    pairs = jnp.stack([blank[:, :-1], label], axis=-1)
    pairs = pairs.reshape(label.shape[0], 2 * label.shape[1])
    return jnp.concatenate([pairs, blank[:, -1:]], axis=-1)
