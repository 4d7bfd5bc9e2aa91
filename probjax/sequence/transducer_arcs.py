r"""From the arguments of a transducer function to the arcs that its lattice reads, and to a loss.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import transducer_arcs as ta
>>> logits = jnp.zeros((2, 2, 4)).at[1].set(jnp.nan)  # the second frame is padding
>>> @jax.jit
... def summed(logits, labels, frames, length):
...     scores = ta.node_scores(logits, ta.lane_labels(labels, 2), 0)
...     arcs, sound = ta.masked_arcs(scores, frames, length, jnp.array(True))
...     return arcs, sound, ta.lattice_log_z(arcs, frames, length)
>>> arcs, sound, log_z = summed(logits, jnp.array([3]), jnp.array(1), jnp.array(1))
>>> print(arcs.label[:, 0], bool(sound))  # ln 1/4, and no way through padding
[-1.386   -inf] True
>>> print(log_z)  # a label and two blanks, one of them certain
-2.772...
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

from probjax.core import checks as core_checks
from probjax.core import rows
from probjax.sequence import emissions, transducer_core
from probjax.sequence.ctc import INFEASIBLE, loss_from_log_z
from probjax.sequence.lattice import live_places

KINDS = ("regular", "modified", "constrained")
"""What a label's arc does: it stays on its frame; it advances the frame; it stays, and the blank
of the same frame follows."""


class Arcs(NamedTuple):
    """One number, or flag, for each arc of the lattice of one target."""

    blank: Shaped[Array, "*batch frames lanes"]
    """The blank at node `(t, u)`, where `u` labels are out: `(T, U + 1)`."""
    label: Shaped[Array, "*batch frames labels"]
    """The next label at node `(t, u)`: `(T, U)`."""


class NodeScores(NamedTuple):
    """What the lattice needs to know of the classes at each node."""

    blank: Float[Array, "*batch frames lanes"]
    """Log probability of the blank."""
    label: Float[Array, "*batch frames lanes"]
    """Log probability of the lane's label; the last lane's means nothing."""
    top: Float[Array, "*batch frames lanes"]
    """The largest logit, finite where there is a distribution."""
    log_sum: Float[Array, "*batch frames lanes"]
    """Logarithm of the sum of the exponentials, those of the largest being 1."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def node_scores(
    logits: Float[Array, "frames lanes classes"], labels: Int[Array, "frames lanes"], blank: int
) -> NodeScores:
    r"""Read off the log probabilities of each node's two arcs.

    $$\ln p_{tu}(k)=(z_{tu}(k)-m_{tu})-\ln\sum_je^{z_{tu}(j)-m_{tu}},\qquad
      \frac{\partial\ln p_{tu}(k)}{\partial z_{tu}(j)}=[j=k]-p_{tu}(j)$$

    The derivative is written as a comparison for each class, not as a scatter: turned round it is
    one pass that reads the logits and writes the gradient.

    Args:
        logits: $z$, `(T, U + 1, V)`.
        labels: the label that may follow at each node `(T, U + 1)`, or a filler.
        blank: index of the blank.

    Returns:
        `NodeScores`; not masked. Only the sum of `top` and `log_sum` has a derivative.

    Example:
        >>> print(node_scores(jnp.zeros((1, 2, 4)), jnp.array([[3, 0]]), 0).label)
        [[-1.386 -1.386]]
    """
    top = jnp.max(logits, axis=-1)
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1))

    def pick(node: Array, label: Array) -> Array:
        return node.at[label].get(mode="promise_in_bounds")

    label = jax.vmap(jax.vmap(pick))(logits, labels)
    return NodeScores((logits[..., blank] - top) - log_sum, (label - top) - log_sum, top, log_sum)


@node_scores.defjvp
def _node_scores_jvp(blank: int, primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> Any:
    logits, labels = primals
    scores = node_scores(logits, labels, blank)

    def moves(logits: Array, top: Array, log_sum: Array, moved: Array) -> tuple[Array, ...]:
        good = (jnp.isfinite(top) & jnp.isfinite(log_sum))[..., None]
        softmax = jnp.exp((logits - top[..., None]) - log_sum[..., None])
        mean = jnp.sum(jnp.where(good, softmax, 0.0) * moved, axis=-1)
        classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)[None, None, :]
        at_blank = jnp.sum(jnp.where(classes == blank, moved, 0.0), axis=-1)
        at_label = jnp.sum(jnp.where(classes == labels[..., None], moved, 0.0), axis=-1)
        return at_blank - mean, at_label - mean, mean

    # The softmax is written again from the logits when the gradient asks for it, never stored.
    again = jax.checkpoint(moves, prevent_cse=False)
    at_blank, at_label, mean = again(logits, scores.top, scores.log_sum, tangents[0])
    return scores, NodeScores(at_blank, at_label, jnp.zeros_like(mean), mean)


def lane_labels(labels: Int[Array, "labels"], num_frames: int) -> Int[Array, "frames lanes"]:
    """Return which label may follow at each node; 0 in the last lane.

    Args:
        labels: a target.
        num_frames: T.

    Returns:
        `(T, U + 1)`.

    Example:
        >>> print(lane_labels(jnp.array([3]), 2))
        [[3 0]
         [3 0]]
    """
    padded = jnp.pad(labels, (0, 1))
    return jnp.broadcast_to(padded, (num_frames, *padded.shape))


def masked_arcs(
    scores: NodeScores | Arcs,
    frames: Int[Array, ""],
    label_length: Int[Array, ""],
    valid: Bool[Array, ""],
) -> tuple[Arcs, Bool[Array, ""]]:
    r"""Lead every walk through padding straight to the end, and tell whether the rest is sound.

    Args:
        scores: of the nodes of one sequence, or the weights of its arcs.
        frames: live frames.
        label_length: length of the target.
        valid: whether the arguments were in range.

    Returns:
        The arcs, where blanks of padding are certain and labels impossible, and whether no live
        node had a weight of NaN or $+\infty$, or no distribution.

    Example:
        >>> one = jnp.array(1)
        >>> arcs, _ = masked_arcs(Arcs(jnp.ones((1, 2)), jnp.ones((1, 1))), one, 0 * one, one == 1)
        >>> print(arcs.label)
        [[-inf]]
    """
    num_frames, lanes = scores.blank.shape
    frame_live = live_places(frames, (), num_frames)[:, None]
    node_live = frame_live & live_places(label_length + 1, (), lanes)[None]
    arc_live = frame_live & live_places(label_length, (), lanes - 1)[None]
    blank, label = scores.blank, scores.label[:, : lanes - 1]
    if isinstance(scores, NodeScores):
        good = jnp.all(jnp.isfinite(scores.top) | ~node_live)
    else:  # a comparison with NaN is false, too
        good = jnp.all((blank < jnp.inf) | ~node_live) & jnp.all((label < jnp.inf) | ~arc_live)
    sound = valid & good
    arcs = Arcs(
        jnp.where(node_live & sound, blank, 0.0), jnp.where(arc_live & sound, label, -jnp.inf)
    )
    return arcs, sound


def lattice_log_z(
    arcs: Arcs,
    frames: Int[Array, ""],
    label_length: Int[Array, ""],
    *,
    kind: str = "regular",
    delay_penalty: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    r"""Logarithm of the sum over all alignments of one target.

    Args:
        arcs: log weights, of `masked_arcs`.
        frames: live frames.
        label_length: length of the target.
        kind: one of `KINDS`.
        delay_penalty: as for `rnnt_loss`.

    Returns:
        $\ln Z$, $-\infty$ where there is no alignment.

    Raises:
        ValueError: `kind` is unknown.

    Example:
        >>> arcs, counts = Arcs(jnp.zeros((3, 3)), jnp.zeros((3, 2))), (jnp.array(3), jnp.array(2))
        >>> log_z = jax.jit(lattice_log_z, static_argnames="kind")
        >>> print([float(jnp.exp(log_z(arcs, *counts, kind=kind))) for kind in KINDS])
        [6.0, 3.0, 3.0]
    """
    return transducer_core.log_z(*walk(arcs, frames, kind, delay_penalty), label_length)


def walk(
    arcs: Arcs, frames: Int[Array, ""], kind: str, delay_penalty: float | Float[Array, ""]
) -> tuple[Float[Array, "steps lanes"], Float[Array, "steps labels"]]:
    r"""Return the weights of the walk of `transducer_core` that visits the alignments.

    Args:
        arcs: log weights, of `masked_arcs`.
        frames: live frames.
        kind: one of `KINDS`.
        delay_penalty: as for `rnnt_loss`.

    Returns:
        Weights of staying and of moving on.

    Raises:
        ValueError: `kind` is unknown.

    Example:
        >>> arcs = Arcs(jnp.zeros((3, 3)), jnp.zeros((3, 2)))
        >>> [walk(arcs, jnp.array(3), kind, 0.0)[0].shape for kind in ("regular", "modified")]
        [(5, 3), (3, 3)]
    """
    core_checks.one_of("kind", kind, KINDS)
    blank, label = arcs
    if not no_penalty(delay_penalty):
        middle = 0.5 * (frames.astype(label.dtype) - 1)
        late = jnp.arange(label.shape[0], dtype=label.dtype) - middle
        label = label - jnp.asarray(delay_penalty, label.dtype) * late[:, None]
    if kind == "regular":
        return transducer_core.skewed(blank, label)
    if kind == "constrained":
        label = label + blank[:, 1:]
    return blank, label


def no_penalty(delay_penalty: float | Float[Array, ""]) -> bool:
    """Tell whether the penalty is zero for certain.

    Args:
        delay_penalty: a number, perhaps a traced one.

    Returns:
        Whether it is the Python number 0.

    Example:
        >>> no_penalty(0.0), no_penalty(jnp.zeros(()))
        (True, False)
    """
    return isinstance(delay_penalty, (int, float)) and delay_penalty == 0


def arcs_loss(
    arcs: Arcs,
    sound: Bool[Array, ""],
    frames: Int[Array, ""],
    label_length: Int[Array, ""],
    *,
    kind: str,
    delay_penalty: float | Float[Array, ""],
    infeasible: str,
    clamp: bool = True,
) -> Float[Array, ""]:
    """Return the loss of one sequence.

    Args:
        arcs: log weights, of `masked_arcs`.
        sound: whether they mean anything; NaN where not.
        frames: live frames.
        label_length: length of the target.
        kind: one of `KINDS`.
        delay_penalty: as for `rnnt_loss`.
        infeasible: `"inf"` or `"zero"`.
        clamp: whether weights are log probabilities, so that rounding below zero is cut off.

    Returns:
        The loss.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> arcs, true = Arcs(jnp.zeros((1, 1)), jnp.zeros((1, 0))), jnp.array(True)
        >>> options = {"kind": "regular", "delay_penalty": 0.0, "infeasible": "inf"}
        >>> print(arcs_loss(arcs, true, jnp.array(1), jnp.array(0), **options))
        0.0
    """
    core_checks.one_of("infeasible", infeasible, INFEASIBLE)
    log_z = lattice_log_z(arcs, frames, label_length, kind=kind, delay_penalty=delay_penalty)
    return loss_from_log_z(log_z, sound, infeasible, clamp=clamp and no_penalty(delay_penalty))


def given_arcs(
    blank_lp: Num[ArrayLike, "..."],
    label_lp: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None,
    label_lengths: Num[ArrayLike, "..."] | None,
    checks: str,
) -> tuple[emissions.Prepared, Arcs]:
    """Check arguments that are weights of arcs.

    Args:
        blank_lp: `(T, U + 1)` or `(B, T, U + 1)`.
        label_lp: `(T, U)` or `(B, T, U)`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        Checked lengths, and the arcs in working precision.

    Raises:
        ValueError: shapes, dtypes or concrete lengths do not fit.

    Example:
        >>> given_arcs(jnp.zeros((3, 3)), jnp.zeros((3, 3)), None, None, "poison")
        Traceback (most recent call last):
        ValueError: label_lp must have shape (3, 2), got (3, 3)
    """
    blank_lp, label_lp = jnp.asarray(blank_lp), jnp.asarray(label_lp)
    if blank_lp.ndim not in (2, 3) or blank_lp.shape[-1] == 0:
        words = "blank_lp must have shape (T, U + 1) or (B, T, U + 1)"
        raise ValueError(f"{words}, got {blank_lp.shape}")
    core_checks.shape("label_lp", label_lp, (*blank_lp.shape[:-1], blank_lp.shape[-1] - 1))
    if label_lp.dtype != blank_lp.dtype:
        raise ValueError(f"label_lp must have the dtype {blank_lp.dtype}, got {label_lp.dtype}")
    # There are neither classes nor labels: lanes pose as the one, zeros as the other.
    stand_ins = jnp.zeros((*blank_lp.shape[:-2], blank_lp.shape[-1] - 1), jnp.int32)
    given = emissions.prepare(
        blank_lp, stand_ins, logit_lengths, label_lengths,
        blank_id=-1, checks=checks, name="blank_lp",
    )  # fmt: skip
    working = functools.partial(rows.working, event_ndim=2)
    return given, Arcs(working("blank_lp", blank_lp), working("label_lp", label_lp))


def over_sequences(function: Callable[..., Any], given: emissions.Prepared, arrays: Any) -> Any:
    """Call `function(arrays, labels, frames, label_length, valid)` for each sequence.

    Args:
        function: of one sequence.
        given: checked arguments of one sequence or of a batch.
        arrays: pytree with a batch axis if `given` has one.

    Returns:
        What the function returns, with a batch axis if there is one.

    Example:
        >>> given, arcs = given_arcs(jnp.ones((3, 2, 1)), jnp.ones((3, 2, 0)), None, None, "poison")
        >>> print(over_sequences(lambda arcs, *rest: arcs.blank.sum(), given, arcs))
        [2. 2. 2.]
    """
    mapped = function if given.labels.ndim == 1 else jax.vmap(function)
    return mapped(arrays, *given[1:5])
