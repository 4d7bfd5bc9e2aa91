r"""CTC's sums over alignments, for one sequence: a forward scan, and smoothing back.

The lattice is kept in two lanes, $L+1$ blanks and $L$ labels. The forward scan carries
`probjax.sequence.wide` numbers, so nothing underflows and nothing is scaled; it also leaves, for
each state, with which probability a path that arrives there came from each predecessor. Going back
with those probabilities gives the occupancies without a second recursion over emissions.

>>> import jax, jax.numpy as jnp
>>> uniform = jnp.full((4, 2), -jnp.log(3.0))
>>> arguments = uniform[:, 0], uniform, jnp.array([False, True]), jnp.array(2)
>>> print(-log_z(*arguments))
1.686...
>>> print((15 * jax.grad(log_z)(*arguments)).round())  # fifteen paths: blank in so many
[5. 4. 4. 5.]

Frames of padding come in as frames that are blank for certain (log probability 0, labels
$-\infty$): all mass ends in the last blank, whatever the length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from probjax.core import logspace, rows
from probjax.sequence import wide
from probjax.sequence.wide import Wide


class LatticeStates(NamedTuple):
    """One number for each state; lane `j` of the labels stands before lane `j` of the blanks."""

    blank: Any
    """`(L + 1,)`: the blanks."""
    label: Any
    """`(L + 1,)`: the labels; lane 0 is no state and holds zero."""


class Arrivals(NamedTuple):
    """With which probability a path in a state came from where; staying takes the rest."""

    blank_from_label: Float[Array, "*frames lanes"]
    """Into blank `j` from label `j`."""
    label_from_blank: Float[Array, "*frames lanes"]
    """Into label `j` from blank `j - 1`."""
    label_from_label: Float[Array, "*frames lanes"]
    """Into label `j` from label `j - 1`, over the blank."""


class Smoothed(NamedTuple):
    """The sum over alignments and what they visit."""

    log_z: Float[Array, ""]
    """Logarithm of the sum."""
    blank: Float[Array, "frames"]
    """Probability, given the target, that frame `t` is in a blank."""
    label: Float[Array, "frames labels"]
    """Probability that frame `t` is in label `j`."""


@jax.custom_jvp
def log_z(
    blank_lp: Float[Array, "frames"],
    label_lp: Float[Array, "frames labels"],
    can_skip: Bool[Array, "labels"],
    label_length: Int[Array, ""],
) -> Float[Array, ""]:
    r"""Logarithm of the sum over all alignments of one target.

    $$\ln Z=\ln\sum_{\pi:\,\mathcal B(\pi)=y}\prod_t p_t(\pi_t),\qquad
      \frac{\partial\ln Z}{\partial\ln p_t(k)}=P(\pi_t=k\mid y)$$

    The derivative is given in this closed form, to forward mode, too; second derivatives are those
    of `log_z_reference`.

    Args:
        blank_lp: log probability of the blank in each frame `(T,)`.
        label_lp: log probability of each label of the target in each frame `(T, L)`; $-\infty$
            for labels beyond `label_length`. No entry may be NaN or $+\infty$.
        can_skip: whether label `j` may follow label `j - 1` with no blank between `(L,)`.
        label_length: how many labels the target has.

    Returns:
        $\ln Z$, $-\infty$ where there is no alignment; the derivative is then zero.

    Example:
        >>> zero = jnp.zeros((1, 1))
        >>> print(log_z(zero[:, 0], zero, jnp.array([False]), jnp.array(1)))
        0.0

    References:
        Graves and others 2006; Rabiner 1989.
    """
    states, _ = forward(blank_lp, label_lp, can_skip, lambda state, arrivals: None)
    return ending(states, label_length)[0]


@log_z.defjvp
def _log_z_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    result = smooth(*primals)
    return result.log_z, _inner(result, tangents)


def _inner(result: Smoothed, tangents: tuple[Any, ...]) -> Float[Array, ""]:
    """The directional derivative of the sum."""
    return jnp.sum(result.blank * tangents[0]) + jnp.sum(result.label * tangents[1])


@jax.custom_jvp
def smooth(
    blank_lp: Float[Array, "frames"],
    label_lp: Float[Array, "frames labels"],
    can_skip: Bool[Array, "labels"],
    label_length: Int[Array, ""],
) -> Smoothed:
    r"""The sum over alignments together with the probability of each class in each frame.

    With $w_t(s'\to s)$ the probability that a path in $s$ at $t$ was in $s'$ one frame before,

    $$w_t(s'\to s)=\frac{\alpha_{t-1}(s')}{\sum_{s''\to s}\alpha_{t-1}(s'')},\qquad
      \gamma_{t-1}(s')=\sum_s\gamma_t(s)\,w_t(s'\to s) .$$

    Only sums and products of positive numbers, and $\sum_s\gamma_t(s)=1$ by construction.

    Args:
        blank_lp: as for `log_z`.
        label_lp: as for `log_z`.
        can_skip: as for `log_z`.
        label_length: as for `log_z`.

    Returns:
        `Smoothed`; all probabilities are zero where there is no alignment.

    Example:
        >>> half = jnp.log(jnp.full((2, 1), 0.5))
        >>> print(smooth(half[:, 0], half, jnp.array([False]), jnp.array(1)).label[:, 0].round(3))
        [0.667 0.667]
    """
    states, arrivals = forward(blank_lp, label_lp, can_skip, lambda state, arrivals: arrivals)
    total, end = ending(states, label_length)
    occupancy = backward(
        arrivals, end, lambda gamma: LatticeStates(jnp.sum(gamma.blank), gamma.label[1:])
    )
    return Smoothed(total, occupancy.blank, occupancy.label)


@smooth.defjvp
def _smooth_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> Any:
    result = smooth(*primals)
    scores, fixed = primals[:2], primals[2:]
    occupancies = jax.grad(lambda scores: log_z_reference(*scores, *fixed))
    _, (blank, label) = jax.jvp(occupancies, (scores,), (tangents[:2],))
    return result, Smoothed(_inner(result, tangents), blank, label)


def log_z_reference(
    blank_lp: Float[Array, "frames"],
    label_lp: Float[Array, "frames labels"],
    can_skip: Bool[Array, "labels"],
    label_length: Int[Array, ""],
) -> Float[Array, ""]:
    r"""`log_z` written with logarithms, for automatic differentiation of any order.

    Each frame's largest log weight is subtracted and added up apart, so that large numbers do not
    eat the digits of small differences.

    Args:
        blank_lp: as for `log_z`.
        label_lp: as for `log_z`.
        can_skip: as for `log_z`.
        label_length: as for `log_z`.

    Returns:
        $\ln Z$.

    Example:
        >>> zero = jnp.zeros((1, 1))
        >>> print(log_z_reference(zero[:, 0], zero, jnp.array([False]), jnp.array(1)))
        0.0
    """
    lane = jnp.arange(label_lp.shape[1] + 1, dtype=jnp.int32)
    nowhere = jnp.full(lane.shape, -jnp.inf, label_lp.dtype)
    may_skip = with_lane_zero(can_skip, False)

    def step(state: LatticeStates, scores: tuple[Array, Array]) -> tuple[LatticeStates, Array]:
        skipping = jnp.where(may_skip, right(state.label, -jnp.inf), -jnp.inf)
        into_label = jnp.stack([state.label, right(state.blank, -jnp.inf), skipping])
        blank = logspace.logaddexp(state.blank, state.label) + scores[0]
        label = logspace.logsumexp(into_label, axis=0) + scores[1]
        top = jax.lax.stop_gradient(jnp.maximum(jnp.max(blank), jnp.max(label)))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        return LatticeStates(blank - top, label - top), top

    start = LatticeStates(jnp.where(lane == 0, 0.0, nowhere), nowhere)
    scores = blank_lp, with_lane_zero(label_lp, -jnp.inf)
    start = rows.varying_over(start, (*scores, can_skip))
    states, tops = jax.lax.scan(step, start, scores)
    ends = logspace.logaddexp(states.blank[label_length], states.label[label_length])
    return ends + jnp.sum(tops)


def forward(
    blank_lp: Float[Array, "frames"],
    label_lp: Float[Array, "frames labels"],
    can_skip: Bool[Array, "labels"],
    observe: Callable[[LatticeStates, Arrivals], Any],
) -> tuple[LatticeStates, Any]:
    r"""Carry the sums over beginnings of alignments through the frames.

    $$\alpha_t(s)=p_t(e_s)\bigl[\alpha_{t-1}(s)+\alpha_{t-1}(s-1)
      +skip(s)\,\alpha_{t-1}(s-2)\bigr]$$

    Before the first frame all mass is in the first blank.

    Args:
        blank_lp: as for `log_z`.
        label_lp: as for `log_z`.
        can_skip: as for `log_z`.
        observe: `observe(states, arrivals)`, what to keep of each frame.

    Returns:
        The states after the last frame, `LatticeStates` of `Wide`, and what was kept.

    Example:
        >>> zero = jnp.zeros((3, 1))
        >>> states, _ = forward(zero[:, 0], zero, jnp.array([False]), lambda *_: None)
        >>> print(jnp.exp(wide.to_log(states.label)).round(3))  # three ways to be in the label
        [0. 3.]
    """
    lane = jnp.arange(label_lp.shape[1] + 1, dtype=jnp.int32)
    may_skip = with_lane_zero(can_skip, False)
    low, dtype = wide.lowest(label_lp.dtype), label_lp.dtype

    def step(state: LatticeStates, scores: tuple[Array, Array]) -> tuple[LatticeStates, Any]:
        # Split here, not before the scan: two arrays of all frames less.
        emission = LatticeStates(
            wide.from_log(scores[0]), wide.from_log(with_lane_zero(scores[1], -jnp.inf))
        )
        (stay, enter), exponent = wide.aligned(state.blank, state.label)
        total = stay + enter
        blank = wide.normalised(total * emission.blank.mantissa, exponent + emission.blank.exponent)
        blank_from_label = enter * _inverse(total)

        earlier = Wide(right(state.blank.mantissa, 0.0), right(state.blank.exponent, low))
        skipping = Wide(
            jnp.where(may_skip, right(state.label.mantissa, 0.0), 0.0),
            jnp.where(may_skip, right(state.label.exponent, low), low),
        )
        (stay, enter, skip), exponent = wide.aligned(state.label, earlier, skipping)
        total = stay + enter + skip
        label = wide.normalised(total * emission.label.mantissa, exponent + emission.label.exponent)
        share = _inverse(total)
        new = LatticeStates(blank, label)
        return new, observe(new, Arrivals(blank_from_label, enter * share, skip * share))

    nothing = Wide(jnp.zeros(lane.shape, dtype), jnp.full(lane.shape, low, dtype))
    first = Wide(
        jnp.where(lane == 0, 1.0, nothing.mantissa), jnp.where(lane == 0, 0.0, nothing.exponent)
    )
    start = rows.varying_over(LatticeStates(first, nothing), (blank_lp, label_lp, can_skip))
    return jax.lax.scan(step, start, (blank_lp, label_lp))


def backward(
    arrivals: Arrivals, end: LatticeStates, observe: Callable[[LatticeStates], Any]
) -> Any:
    r"""Carry the posterior of the last state back through the frames.

    Args:
        arrivals: of each frame, as `forward` gives them.
        end: the posterior after the last frame.
        observe: `observe(gamma)`, what to keep of each frame.

    Returns:
        What was kept, in the order of the frames.

    Example:
        >>> zero = jnp.zeros((3, 1))
        >>> _, arrivals = forward(zero[:, 0], zero, jnp.array([False]), lambda s, a: a)
        >>> end = LatticeStates(jnp.array([0.0, 0.5]), jnp.array([0.0, 0.5]))
        >>> print(backward(arrivals, end, lambda gamma: gamma.label[1]).round(3))
        [0.5   0.667 0.5  ]
    """

    def step(gamma: LatticeStates, arrival: Arrivals) -> tuple[LatticeStates, Any]:
        up = gamma.blank * arrival.blank_from_label
        enter = gamma.label * arrival.label_from_blank
        skip = gamma.label * arrival.label_from_label
        # What stays is the rest, so that the sum is kept to the last digit.
        blank = jnp.maximum(gamma.blank - up, 0.0) + left(enter, 0.0)
        label = jnp.maximum(gamma.label - enter - skip, 0.0) + up + left(skip, 0.0)
        return LatticeStates(blank, label), observe(gamma)

    end = rows.varying_over(end, arrivals)
    return jax.lax.scan(step, end, arrivals, reverse=True)[1]


def ending(
    states: LatticeStates, label_length: Int[Array, ""]
) -> tuple[Float[Array, ""], LatticeStates]:
    """Return the logarithm of all mass in the two end states, and how they share it.

    Args:
        states: after the last frame, of `Wide`.
        label_length: how many labels the target has: the last label and the blank behind it end.

    Returns:
        The logarithm, and the posterior of the states.

    Example:
        >>> zero = jnp.zeros((3, 1))
        >>> states, _ = forward(zero[:, 0], zero, jnp.array([False]), lambda *_: None)
        >>> total, end = ending(states, jnp.array(1))
        >>> print(jnp.exp(total).round(3), end.label)
        6.0 [0.  0.5]
    """
    last = jnp.arange(states.blank.mantissa.shape[0], dtype=jnp.int32) == label_length.astype(
        jnp.int32
    )
    blank, label = (Wide(x.mantissa[label_length], x.exponent[label_length]) for x in states)
    (in_blank, in_label), exponent = wide.aligned(blank, label)
    total = in_blank + in_label
    share = _inverse(total)
    end = LatticeStates(
        jnp.where(last, in_blank * share, 0.0), jnp.where(last, in_label * share, 0.0)
    )
    return wide.to_log(wide.normalised(total, exponent)), end


def _inverse(total: Array) -> Array:
    """One over the total, where there is any."""
    return jnp.where(total > 0, 1.0, 0.0) / jnp.where(total > 0, total, 1.0)


def with_lane_zero(
    x: Shaped[Array, "*frames labels"], fill: bool | float
) -> Shaped[Array, "*frames n"]:
    """Put one more lane in front of the labels.

    Args:
        x: of each label.
        fill: what the new lane holds.

    Returns:
        `x` with `L + 1` lanes.

    Example:
        >>> print(with_lane_zero(jnp.ones(2), 0.0))
        [0. 1. 1.]
    """
    return jnp.concatenate([jnp.full_like(x[..., :1], fill, shape=(*x.shape[:-1], 1)), x], axis=-1)


def right(x: Shaped[Array, "lanes"], fill: float) -> Shaped[Array, "lanes"]:
    """Give each lane what the lane before it has.

    Args:
        x: one number for each lane.
        fill: what the first lane gets.

    Returns:
        The moved lanes.

    Example:
        >>> print(right(jnp.array([1.0, 2.0]), 0.0))
        [0. 1.]
    """
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), [(1, -1, 0)])


def left(x: Float[Array, "lanes"], fill: float) -> Float[Array, "lanes"]:
    """Give each lane what the lane behind it has.

    Args:
        x: one number for each lane.
        fill: what the last lane gets.

    Returns:
        The moved lanes.

    Example:
        >>> print(left(jnp.array([1.0, 2.0]), 0.0))
        [2. 0.]
    """
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), [(-1, 1, 0)])
