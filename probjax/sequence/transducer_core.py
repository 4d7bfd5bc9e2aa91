r"""The transducer's sums over alignments, for one sequence: a forward walk, and smoothing back.

An alignment walks over the nodes $(t,u)$: $t$ frames are done, $u$ labels are out. With node
$(t,u)$ on the diagonal $n=t+u$ every arc leads from one diagonal to the next, on the same lane $u$
(the blank) or on the next one (a label). So a walk of $T+U$ steps over $U+1$ lanes visits all
alignments, one node a step:

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import transducer_core as core
>>> blank, label = jnp.zeros((3, 3)), jnp.zeros((3, 2))  # T=3, U=2: every alignment weighs one
>>> stay, move = core.skewed(blank, label)
>>> print(jnp.exp(core.log_z(stay, move, jnp.array(2))).round(3))
6.0

Where a label advances the frame, too, frames are the steps and nothing is skewed. The walk carries
`probjax.sequence.wide` numbers: nothing underflows, and $-\infty$ is no special case.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.core import logspace, rows
from probjax.sequence import wide
from probjax.sequence.ctc_core import left, right
from probjax.sequence.wide import Wide


class Walk(NamedTuple):
    """The sum over walks and how often each arc is taken."""

    log_z: Float[Array, ""]
    """Logarithm of the sum."""
    stay: Float[Array, "steps lanes"]
    """Probability, given the end, of staying on lane `u` in step `n`."""
    move: Float[Array, "steps labels"]
    """Probability of moving from lane `u` to the next in step `n`."""


def skewed(
    blank_lp: Float[Array, "frames lanes"], label_lp: Float[Array, "frames labels"]
) -> tuple[Float[Array, "steps lanes"], Float[Array, "steps labels"]]:
    r"""Lay the lattice's diagonals out as rows.

    $$stay_n(u)=blank_{n-u}(u),\qquad move_n(u)=label_{n-u}(u),\qquad n=t+u<T+U$$

    Behind the last frame blanks are certain and labels impossible, so that every lane can wait for
    the last diagonal.

    Args:
        blank_lp: log probability of the blank at each node `(T, U + 1)`.
        label_lp: log probability of the next label `(T, U)`.

    Returns:
        The same for steps `(T + U, U + 1)` and `(T + U, U)`.

    Example:
        >>> print(skewed(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 1)))[0])
        [[1. 0.]
         [3. 2.]
         [0. 4.]]
    """
    steps = label_lp.shape[0] + label_lp.shape[1]
    return _skewed(blank_lp, steps, 0.0), _skewed(label_lp, steps, -jnp.inf)


def _skewed(x: Array, steps: int, fill: float) -> Array:
    """Push column `u` down by `u`: pad each column by one row too many, and cut it anew."""
    frames, lanes = x.shape
    padded = jnp.pad(x.T, ((0, 0), (0, steps + 1 - frames)), constant_values=fill)
    return padded.reshape(-1)[: lanes * steps].reshape(lanes, steps).T


@jax.custom_jvp
def log_z(
    stay_lp: Float[Array, "steps lanes"],
    move_lp: Float[Array, "steps labels"],
    end_lane: Int[Array, ""],
) -> Float[Array, ""]:
    r"""Logarithm of the sum over all walks from lane 0 to the end lane.

    $$\alpha_{n+1}(u)=\alpha_n(u)\,e^{stay_n(u)}+\alpha_n(u-1)\,e^{move_n(u-1)},\qquad
      \frac{\partial\ln Z}{\partial\,stay_n(u)}=P(\text{the walk stays on }u\text{ in step }n)$$

    The derivative is given in this closed form, to forward mode, too; second derivatives are those
    of `log_z_reference`.

    Args:
        stay_lp: log weight of staying on each lane, in each step `(N, U + 1)`.
        move_lp: log weight of moving from each lane to the next `(N, U)`. Entries may be
            $-\infty$, but neither NaN nor $+\infty$.
        end_lane: where the walk has to be after the last step.

    Returns:
        $\ln Z$, $-\infty$ where there is no walk; the derivative is then zero.

    Example:
        >>> print(log_z(jnp.zeros((2, 2)), jnp.zeros((2, 1)), jnp.array(1)).round(3))  # ln 2
        0.693

    References:
        Graves 2012.
    """
    alpha, _ = forward(stay_lp, move_lp, lambda alpha, arrival: None)
    return _end(alpha, end_lane)


@log_z.defjvp
def _log_z_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    result = smooth(*primals)
    return result.log_z, _inner(result, tangents)


def _inner(result: Walk, tangents: tuple[Any, ...]) -> Array:
    """The directional derivative of the sum."""
    return jnp.sum(result.stay * tangents[0]) + jnp.sum(result.move * tangents[1])


@jax.custom_jvp
def smooth(
    stay_lp: Float[Array, "steps lanes"],
    move_lp: Float[Array, "steps labels"],
    end_lane: Int[Array, ""],
) -> Walk:
    r"""The sum over walks together with the probability of each arc.

    With $w_n(u)$ the probability that a walk which is on lane $u$ after step $n$ moved there,

    $$w_n(u)=\frac{\alpha_n(u-1)\,e^{move_n(u-1)}}{\alpha_{n+1}(u)},\qquad
      \gamma_n(u)=\gamma_{n+1}(u)\,(1-w_n(u))+\gamma_{n+1}(u+1)\,w_n(u+1),$$

    and the two summands are the arcs out of $u$. No second recursion over weights, and
    $\sum_u\gamma_n(u)=1$ by construction.

    Args:
        stay_lp: as for `log_z`.
        move_lp: as for `log_z`.
        end_lane: as for `log_z`.

    Returns:
        `Walk`; all probabilities are zero where there is no walk.

    Example:
        >>> print(smooth(jnp.zeros((2, 2)), jnp.zeros((2, 1)), jnp.array(1)).move[:, 0])
        [0.5 0.5]
    """
    alpha, arrivals = forward(stay_lp, move_lp, lambda alpha, arrival: arrival)
    total = _end(alpha, end_lane)
    lane = jnp.arange(stay_lp.shape[1], dtype=end_lane.dtype)
    end = jnp.where((lane == end_lane) & ~jnp.isneginf(total), 1.0, jnp.zeros_like(alpha.mantissa))

    def step(gamma: Array, arrival: Array) -> tuple[Array, tuple[Array, Array]]:
        moved = gamma * arrival
        # What stays is the rest, so that the sum is kept to the last digit.
        stayed, moved = jnp.maximum(gamma - moved, 0.0), left(moved, 0.0)
        return stayed + moved, (stayed, moved)

    end = rows.varying_over(end, (arrivals, stay_lp, move_lp))
    _, (stay, move) = jax.lax.scan(step, end, arrivals, reverse=True)
    return Walk(total, stay, move[:, :-1])


@smooth.defjvp
def _smooth_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Walk, Walk]:
    result = smooth(*primals)
    weights, end_lane = primals[:2], primals[2]
    arcs = jax.grad(lambda weights: log_z_reference(*weights, end_lane))
    _, (stay, move) = jax.jvp(arcs, (weights,), (tangents[:2],))
    return result, Walk(_inner(result, tangents), stay, move)


def forward(
    stay_lp: Float[Array, "steps lanes"],
    move_lp: Float[Array, "steps labels"],
    observe: Callable[[Wide, Array], Any],
) -> tuple[Wide, Any]:
    r"""Carry the sums over beginnings of walks through the steps.

    Args:
        stay_lp: as for `log_z`.
        move_lp: as for `log_z`.
        observe: `observe(alpha, arrival)`, what to keep of each step: the sums after it, `Wide`,
            and with which probability a walk on a lane has just moved there.

    Returns:
        The sums after the last step, and what was kept.

    Example:
        >>> alpha, _ = forward(jnp.zeros((4, 3)), jnp.zeros((4, 2)), lambda *_: None)
        >>> print(jnp.exp(wide.to_log(alpha)).round(3))
        [1. 4. 6.]
    """
    low = wide.lowest(stay_lp.dtype)
    lane = jnp.arange(stay_lp.shape[1], dtype=jnp.int32)

    def step(alpha: Wide, weights: tuple[Wide, Wide]) -> tuple[Wide, Any]:
        stay, move = (
            Wide(alpha.mantissa * weight.mantissa, alpha.exponent + weight.exponent)
            for weight in weights
        )
        move = Wide(right(move.mantissa, 0.0), right(move.exponent, 2 * low))
        (stayed, moved), exponent = wide.aligned(stay, move)
        total = stayed + moved
        some = total > 0
        arrival = jnp.where(some, moved, 0.0) / jnp.where(some, total, 1.0)
        new = wide.normalised(total, exponent)
        return new, observe(new, arrival)

    start = Wide(
        jnp.where(lane == 0, 1.0, jnp.zeros_like(stay_lp, shape=lane.shape)),
        jnp.where(lane == 0, 0.0, jnp.full_like(stay_lp, low, shape=lane.shape)),
    )
    start = rows.varying_over(start, (stay_lp, move_lp))
    weights = wide.from_log(stay_lp), wide.from_log(_with_last_lane(move_lp, stay_lp))
    return jax.lax.scan(step, start, weights)


def log_z_reference(
    stay_lp: Float[Array, "steps lanes"],
    move_lp: Float[Array, "steps labels"],
    end_lane: Int[Array, ""],
) -> Float[Array, ""]:
    r"""`log_z` written with logarithms, for automatic differentiation of any order.

    Each step's largest log weight is subtracted and added up apart, so that large numbers do not
    eat the digits of small differences.

    Args:
        stay_lp: as for `log_z`.
        move_lp: as for `log_z`.
        end_lane: as for `log_z`.

    Returns:
        $\ln Z$.

    Example:
        >>> print(log_z_reference(jnp.zeros((2, 2)), jnp.zeros((2, 1)), jnp.array(1)).round(3))
        0.693
    """
    lane = jnp.arange(stay_lp.shape[1], dtype=jnp.int32)

    def step(alpha: Array, weights: tuple[Array, Array]) -> tuple[Array, Array]:
        moved = right(alpha + weights[1], -jnp.inf)
        new = logspace.logaddexp(alpha + weights[0], moved)
        top = jax.lax.stop_gradient(jnp.max(new))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        return new - top, top

    start = jnp.where(lane == 0, 0.0, jnp.full_like(stay_lp, -jnp.inf, shape=lane.shape))
    start = rows.varying_over(start, (stay_lp, move_lp))
    alpha, tops = jax.lax.scan(step, start, (stay_lp, _with_last_lane(move_lp, stay_lp)))
    return alpha[end_lane] + jnp.sum(tops)


def best_walk(
    stay_lp: Float[Array, "steps lanes"],
    move_lp: Float[Array, "steps labels"],
    end_lane: Int[Array, ""],
) -> Int[Array, "diagonals"]:
    r"""Find a walk of the largest weight.

    Of two best ways into one node the one that stays is taken, so moves come as early as the
    maximum allows.

    Args:
        stay_lp: as for `log_z`.
        move_lp: as for `log_z`.
        end_lane: as for `log_z`.

    Returns:
        The lane before each step and after the last `(N + 1,)`; -1 where there is no walk.

    Example:
        >>> print(best_walk(jnp.zeros((3, 2)), jnp.zeros((3, 1)), jnp.array(1)))
        [0 1 1 1]
    """
    lane = jnp.arange(stay_lp.shape[1], dtype=jnp.int32)

    def step(best: Array, weights: tuple[Array, Array]) -> tuple[Array, Array]:
        stayed, moved = best + weights[0], right(best + weights[1], -jnp.inf)
        return jnp.maximum(stayed, moved), moved > stayed

    def back(lane: Array, came: Array) -> tuple[Array, Array]:
        before = lane - came[lane].astype(lane.dtype)
        return before, before

    start = jnp.where(lane == 0, 0.0, jnp.full_like(stay_lp, -jnp.inf, shape=lane.shape))
    start = rows.varying_over(start, (stay_lp, move_lp))
    best, came = jax.lax.scan(step, start, (stay_lp, _with_last_lane(move_lp, stay_lp)))
    end_lane = rows.varying_over(end_lane.astype(jnp.int32), (came,))
    _, lanes = jax.lax.scan(back, end_lane, came, reverse=True)
    lanes = jnp.concatenate([lanes, end_lane[None]])
    return jnp.where(jnp.isneginf(best[end_lane]), -1, lanes)


def _end(alpha: Wide, end_lane: Array) -> Array:
    """Logarithm of the sum at the end lane."""
    return wide.to_log(Wide(alpha.mantissa[end_lane], alpha.exponent[end_lane]))


def _with_last_lane(move_lp: Array, stay_lp: Array) -> Array:
    """One more column: from the last lane nothing moves on."""
    return jnp.concatenate([move_lp, jnp.full_like(stay_lp[:, :1], -jnp.inf)], axis=1)
