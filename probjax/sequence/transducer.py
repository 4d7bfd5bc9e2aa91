r"""The transducer's loss: labels that depend on the labels before, alignments summed over.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import transducer
>>> logits = jnp.zeros((3, 3, 4))  # three frames, two labels, four classes, class 0 is the blank
>>> labels = jnp.array([1, 2])
>>> loss, gradient = jax.jit(jax.value_and_grad(transducer.rnnt_loss))(logits, labels)
>>> print(loss)  # six alignments of five arcs: 5 ln 4 - ln 6
5.139...
>>> print(gradient[0, 0].round(3))  # softmax, minus the arcs that the target takes
[-0.25 -0.25  0.25  0.25]

The three frames and two labels of each alignment are five arcs; the lattice's sums are those of
`probjax.sequence.transducer_core`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from probjax.core import checks as core_checks
from probjax.core import rows
from probjax.sequence import emissions
from probjax.sequence.lattice import front_index, live_places
from probjax.sequence.transducer_arcs import (
    Arcs,
    NodeScores,
    arcs_loss,
    given_arcs,
    lane_labels,
    lattice_log_z,
    masked_arcs,
    node_scores,
    over_sequences,
)


def rnnt_loss(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    kind: str = "regular",
    blank_id: int = 0,
    delay_penalty: float | Float[Array, ""] = 0.0,
    infeasible: str = "inf",
    checks: str = "poison",
) -> Float[Array, "*batch"]:
    r"""Negative log probability of each target, summed over its alignments, from logits.

    $$\ell=-\ln\sum_{\text{alignments}}\ \prod_{\text{arcs}}p_{tu}(k),\qquad
      \frac{\partial\ell}{\partial z_{tu}(k)}=\gamma_{tu}\,p_{tu}(k)-[k=\varnothing]\,
      \xi^\varnothing_{tu}-[k=y_{u+1}]\,\xi^y_{tu},\qquad p_{tu}=\text{softmax}(z_{tu})$$

    with $\xi$ the probabilities of the arcs given the target and
    $\gamma=\xi^\varnothing+\xi^y$. The gradient is this closed form, written in one pass over
    the logits; forward mode and Hessian-vector products work, too.

    Kinds: in a `"regular"` lattice a frame may have any number of labels and ends with a blank; in
    a `"modified"` one each frame has one label or one blank; in a `"constrained"` one each frame
    has at most one label and ends with a blank. The last two cannot align more labels than frames.

    Padding, infeasible targets and bad input are treated as in `ctc_loss`: padding may hold
    anything and gets gradient zero; no frames cost 0 with an empty target and are infeasible
    otherwise; a live node with NaN, $+\infty$ or nothing but $-\infty$, or a traced label or
    length out of range, makes that sequence NaN with gradient zero.

    Args:
        logits: $z$, `(T, U + 1, V)` or `(B, T, U + 1, V)`; half precision is computed in float32.
        labels: targets `(U,)` or `(B, U)`, without blanks.
        logit_lengths: live frames, `()` or `(B,)`; all when `None`.
        label_lengths: lengths of the targets, `()` or `(B,)`; all of `U` when `None`.
        kind: one of `KINDS`.
        blank_id: class of the blank, in $[-V,V)$.
        delay_penalty: $\lambda$; adds $\lambda\,((T_b-1)/2-t)$ to the score of each label's arc
            in frame $t$, so that early labels gain. The loss is no log probability any more.
        infeasible: loss of a target without alignment: `"inf"` or `"zero"`. Gradient 0 in both.
        checks: `"poison"`, or `"checkify"` for an error under `checkify.checkify` as well.

    Returns:
        Losses `()` or `(B,)`, float32 or float64; without `delay_penalty` not negative.

    Raises:
        ValueError: shapes, ranks or dtypes do not fit, `blank_id` is out of range, a name is
            unknown, or a concrete label or length is out of range.

    Example:
        >>> loss_fn = jax.jit(rnnt_loss, static_argnames="kind")
        >>> print(loss_fn(jnp.zeros((3, 3, 4)), jnp.array([1, 2]), kind="modified"))
        3.060...

    References:
        Graves 2012; Tripathi and others 2019 (one label or blank a frame); Kang and others 2023
        (delay penalty).
    """
    logits = jnp.asarray(logits)
    if logits.ndim not in (3, 4) or 0 in logits.shape[-2:]:
        words = "logits must have shape (T, U + 1, V) or (B, T, U + 1, V)"
        raise ValueError(f"{words}, got {logits.shape}")
    given = emissions.prepare(
        logits[..., 0, :],
        labels,
        logit_lengths,
        label_lengths,
        blank_id=blank_id,
        checks=checks,
    )
    core_checks.shape("logits", logits, (*logits.shape[:-2], given.labels.shape[-1] + 1, None))
    logits = rows.working("logits", logits, event_ndim=3)

    def one(logits: Array, labels: Array, *rest: Array) -> Array:
        scores = node_scores(logits, lane_labels(labels, logits.shape[0]), given.blank)
        arcs, sound = masked_arcs(scores, *rest)
        return arcs_loss(
            arcs, sound, *rest[:2], kind=kind, delay_penalty=delay_penalty, infeasible=infeasible
        )

    return over_sequences(one, given, logits)


def rnnt_loss_from_arcs(
    blank_lp: Float[Array, "..."],
    label_lp: Float[Array, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    kind: str = "regular",
    delay_penalty: float | Float[Array, ""] = 0.0,
    infeasible: str = "inf",
    checks: str = "poison",
) -> Float[Array, "*batch"]:
    r"""`rnnt_loss` from the log weights of the arcs, with the gradient with respect to them.

    $$\frac{\partial\ell}{\partial\,blank\_lp_{tu}}=-\xi^\varnothing_{tu},\qquad
      \frac{\partial\ell}{\partial\,label\_lp_{tu}}=-\xi^y_{tu}$$

    Weights need not be probabilities; the loss may then be negative.

    Args:
        blank_lp: log weight of the blank at each node `(T, U + 1)` or `(B, T, U + 1)`.
        label_lp: log weight of the next label `(T, U)` or `(B, T, U)`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        kind: as for `rnnt_loss`.
        delay_penalty: as for `rnnt_loss`.
        infeasible: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        Losses `()` or `(B,)`.

    Raises:
        ValueError: as for `rnnt_loss`.

    Example:
        >>> gradient = jax.jit(jax.grad(rnnt_loss_from_arcs, argnums=(0, 1)))
        >>> blanks, moves = gradient(jnp.zeros((3, 3)), jnp.zeros((3, 2)))
        >>> print(-blanks.sum().round(3), -moves.sum().round(3))  # T blanks and U labels
        3.0 2.0
    """
    given, arcs = given_arcs(blank_lp, label_lp, logit_lengths, label_lengths, checks)

    def one(arcs: Arcs, labels: Array, *rest: Array) -> Array:
        arcs, sound = masked_arcs(arcs, *rest)
        return arcs_loss(
            arcs, sound, *rest[:2], kind=kind, delay_penalty=delay_penalty,
            infeasible=infeasible, clamp=False,
        )  # fmt: skip

    return over_sequences(one, given, arcs)


def rnnt_arc_posteriors(
    blank_lp: Float[Array, "..."],
    label_lp: Float[Array, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    kind: str = "regular",
    delay_penalty: float | Float[Array, ""] = 0.0,
    checks: str = "poison",
) -> Arcs:
    r"""Probability of each arc, given the target: minus the gradient of `rnnt_loss_from_arcs`.

    The blanks add up to the number of frames (without those that have a label, if `kind` is
    `"modified"`), the labels to that of the labels.

    Args:
        blank_lp: as for `rnnt_loss_from_arcs`.
        label_lp: as for `rnnt_loss_from_arcs`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        kind: as for `rnnt_loss`.
        delay_penalty: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        `Arcs` of the shapes given; zero in padding and where there is no alignment.

    Raises:
        ValueError: as for `rnnt_loss`.

    Example:
        >>> posterior = jax.jit(rnnt_arc_posteriors)(jnp.zeros((2, 2)), jnp.zeros((2, 1)))
        >>> print(posterior.label[:, 0])
        [0.5 0.5]
    """
    given, arcs = given_arcs(blank_lp, label_lp, logit_lengths, label_lengths, checks)

    def one(arcs: Arcs, labels: Array, *rest: Array) -> Arcs:
        def total(arcs: Arcs) -> Array:
            arcs, _ = masked_arcs(arcs, *rest)
            return lattice_log_z(arcs, *rest[:2], kind=kind, delay_penalty=delay_penalty)

        return jax.grad(total)(arcs)

    return over_sequences(one, given, arcs)


def rnnt_loss_from_joint(
    joint_fn: Callable[[Array, Array], Array],
    enc: Float[Array, "..."],
    pred: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    time_block: int = 16,
    kind: str = "regular",
    blank_id: int = 0,
    delay_penalty: float | Float[Array, ""] = 0.0,
    infeasible: str = "inf",
    checks: str = "poison",
) -> Float[Array, "*batch"]:
    r"""`rnnt_loss` of logits that never exist all at once.

    Logits are made for `time_block` frames at a time, and again for the gradient; what is kept of
    each node are the scores of its blank and its label.

    Args:
        joint_fn: `joint_fn(enc (B, t, 1, E), pred (B, 1, U + 1, P))` gives logits
            `(B, t, U + 1, V)`; anything that works along the last axis and broadcasts the others.
        enc: encoder's output `(T, E)` or `(B, T, E)`.
        pred: predictor's output `(U + 1, P)` or `(B, U + 1, P)`: before the first label, behind
            the first, and so on.
        labels: as for `rnnt_loss`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        time_block: frames at a time.
        kind: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.
        delay_penalty: as for `rnnt_loss`.
        infeasible: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        Losses `()` or `(B,)`, differentiable in `enc`, `pred` and what `joint_fn` closes over.
        Padding of `enc` and `pred` is replaced by zeros before `joint_fn` sees it.

    Raises:
        ValueError: as for `rnnt_loss`, or `time_block` is below 1.

    Example:
        >>> loss_fn = jax.jit(rnnt_loss_from_joint, static_argnums=0)
        >>> print(loss_fn(jnp.add, jnp.zeros((3, 4)), jnp.zeros((3, 4)), jnp.array([1, 2])))
        5.139...
    """
    enc, pred = jnp.asarray(enc), jnp.asarray(pred)
    if enc.ndim not in (2, 3):
        raise ValueError(f"enc must have shape (T, E) or (B, T, E), got {enc.shape}")
    if enc.ndim == 2:
        lengths = [n if n is None else jnp.asarray(n)[None] for n in (logit_lengths, label_lengths)]
        return rnnt_loss_from_joint(
            joint_fn, enc[None], pred[None], jnp.asarray(labels)[None], *lengths,
            time_block=time_block, kind=kind, blank_id=blank_id, delay_penalty=delay_penalty,
            infeasible=infeasible, checks=checks,
        )[0]  # fmt: skip
    core_checks.at_least("time_block", time_block, 1)
    batch, frames = enc.shape[:2]
    labels = jnp.asarray(labels)
    core_checks.shape("labels", labels, (batch, None))
    lanes = labels.shape[1] + 1
    core_checks.shape("pred", pred, (batch, lanes, None))
    time_block = min(time_block, max(frames, 1))
    frame = jax.ShapeDtypeStruct((batch, 1, 1, enc.shape[-1]), enc.dtype)
    block = jax.eval_shape(joint_fn, frame, pred[:, None, :, :])
    core_checks.shape("joint_fn(enc, pred)", block, (batch, 1, lanes, None))
    given = emissions.prepare(
        jnp.zeros_like(enc, block.dtype, shape=(batch, frames, block.shape[-1])),
        labels,
        logit_lengths,
        label_lengths,
        blank_id=blank_id,
        checks=checks,
        name="joint_fn(enc, pred)",
    )
    enc = jnp.where(live_places(given.frames, (batch,), frames)[..., None], enc, 0.0)
    pred = jnp.where(live_places(given.label_lengths + 1, (batch,), lanes)[..., None], pred, 0.0)

    @jax.checkpoint
    def scores(enc: Array, pred: Array) -> NodeScores:
        logits = joint_fn(enc[:, :, None, :], pred[:, None, :, :])
        logits = rows.working("joint_fn(enc, pred)", logits, event_ndim=3)

        def one(logits: Array, labels: Array) -> NodeScores:
            return node_scores(logits, lane_labels(labels, time_block), given.blank)

        return jax.vmap(one)(logits, given.labels)

    count = -(-frames // time_block)
    enc = jnp.pad(enc, ((0, 0), (0, count * time_block - frames), (0, 0)))
    blocks = jnp.swapaxes(enc.reshape(batch, count, time_block, enc.shape[-1]), 0, 1)
    nodes = jax.lax.map(lambda enc: scores(enc, pred), blocks)
    nodes = jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(batch, count * time_block, lanes)[:, :frames], nodes
    )

    def one(nodes: NodeScores, labels: Array, *rest: Array) -> Array:
        arcs, sound = masked_arcs(nodes, *rest)
        return arcs_loss(
            arcs, sound, *rest[:2], kind=kind, delay_penalty=delay_penalty, infeasible=infeasible
        )

    return over_sequences(one, given, nodes)


def hat_log_probs(
    blank_logit: Float[Array, "*batch"],
    label_logits: Float[Array, "*batch labels"],
    *,
    blank_id: int = 0,
) -> Float[Array, "*batch classes"]:
    r"""Log probabilities of the hybrid autoregressive transducer: first blank or not, then which.

    $$p(\varnothing)=\sigma(blank\_logit),\qquad
      p(k)=(1-p(\varnothing))\,\text{softmax}(label\_logits)_k$$

    So the labels' part is a language model of its own, whose score can be told and subtracted.
    `rnnt_loss` takes the answer as logits: they are normalised already.

    Args:
        blank_logit: `(*B,)`.
        label_logits: `(*B, V - 1)`, the labels in their order, without the blank.
        blank_id: where the blank is put among the V classes, in $[-V,V)$.

    Returns:
        `(*B, V)`; the exponentials sum to 1.

    Raises:
        ValueError: `blank_id` is out of range, or the shapes differ.

    Example:
        >>> print(jnp.exp(hat_log_probs(jnp.array(0.0), jnp.zeros(2), blank_id=1)))
        [0.25 0.5  0.25]

    References:
        Variani and others 2020.
    """
    blank_logit = rows.working("blank_logit", blank_logit, event_ndim=0)
    label_logits = rows.working("label_logits", label_logits, event_ndim=1)
    core_checks.shape("blank_logit", blank_logit, label_logits.shape[:-1])
    place = front_index(blank_id, label_logits.shape[-1] + 1)
    blank = jax.nn.log_sigmoid(blank_logit)[..., None]
    label = jax.nn.log_sigmoid(-blank_logit)[..., None] + jax.nn.log_softmax(label_logits, axis=-1)
    return jnp.concatenate([label[..., :place], blank, label[..., place:]], axis=-1)
