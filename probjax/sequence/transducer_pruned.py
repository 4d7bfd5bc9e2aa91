r"""The transducer's loss on a band of its lattice, found by a loss that needs no joint network.

An encoder and a predictor whose logits simply add up have a normaliser that is one matrix product.
Where that simple lattice has its mass, the expensive joint network is evaluated; elsewhere not:

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import transducer, transducer_pruned
>>> @jax.jit
... def losses(am, lm, labels):
...     arcs = transducer_pruned.simple_arcs(am, lm, labels)
...     starts = transducer_pruned.pruning_ranges(transducer.rnnt_arc_posteriors(*arcs), 2)
...     band = transducer_pruned.take_band(lm, starts, 2)  # (6, 2, 5) of (6, 4, 5)
...     pruned = transducer_pruned.rnnt_pruned_loss(am[:, None] + band, labels, starts)
...     return pruned, transducer.rnnt_loss_from_arcs(*arcs)
>>> am, lm = jax.random.normal(jax.random.key(0), (6, 5)), jnp.zeros((4, 5))
>>> pruned, full = losses(am, lm, jnp.array([1, 2, 3]))
>>> print(bool(pruned > full))
True
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num, Shaped

from probjax.core import checks as core_checks
from probjax.core import rows
from probjax.sequence import emissions
from probjax.sequence.lattice import live_places
from probjax.sequence.transducer_arcs import (
    KINDS,
    Arcs,
    NodeScores,
    arcs_loss,
    given_arcs,
    masked_arcs,
    node_scores,
    over_sequences,
)


def rnnt_simple_loss(
    am: Float[Array, "..."],
    lm: Float[Array, "..."],
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
    r"""`rnnt_loss` of logits that are the sum of the encoder's and the predictor's.

    $$z_{tu}(k)=am_t(k)+lm_u(k),\qquad
      \ln\sum_ke^{z_{tu}(k)}=a_t+l_u+\ln\sum_ke^{am_t(k)-a_t}\,e^{lm_u(k)-l_u},\qquad
      a_t=\max_kam_t(k),\ l_u=\max_klm_u(k)$$

    The sum is one matrix product; `(T, U + 1, V)` is never formed. The price: a node of which all
    classes lie about 70 nats (in float32) below both maxima together cannot be normalised, and
    makes that sequence NaN.

    Args:
        am: $am$, the encoder's logits `(T, V)` or `(B, T, V)`.
        lm: $lm$, the predictor's `(U + 1, V)` or `(B, U + 1, V)`.
        labels: as for `rnnt_loss`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        kind: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.
        delay_penalty: as for `rnnt_loss`.
        infeasible: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        Losses `()` or `(B,)`.

    Raises:
        ValueError: as for `rnnt_loss`.

    Example:
        >>> zero = jnp.zeros((3, 4))
        >>> print(jax.jit(rnnt_simple_loss)(zero, zero, jnp.array([1, 2])))
        5.139...

    References:
        Kuang and others 2022.
    """
    given, scores = _simple_scores(am, lm, labels, logit_lengths, label_lengths, blank_id, checks)

    def one(scores: NodeScores, labels: Array, *rest: Array) -> Array:
        arcs, sound = masked_arcs(scores, *rest)
        return arcs_loss(
            arcs, sound, *rest[:2], kind=kind, delay_penalty=delay_penalty, infeasible=infeasible
        )

    return over_sequences(one, given, scores)


def simple_arcs(
    am: Float[Array, "..."],
    lm: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    checks: str = "poison",
) -> Arcs:
    """Return the log probabilities of the arcs that `rnnt_simple_loss` sums over.

    Args:
        am: as for `rnnt_simple_loss`.
        lm: as for `rnnt_simple_loss`.
        labels: as for `rnnt_loss`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        `Arcs` for `rnnt_loss_from_arcs` or `rnnt_arc_posteriors` (with the same lengths); NaN
        where a node cannot be normalised.

    Raises:
        ValueError: as for `rnnt_loss`.

    Example:
        >>> zero = jnp.zeros((3, 4))
        >>> arcs = jax.jit(simple_arcs)(zero, zero, jnp.array([1, 2]))
        >>> print(jnp.exp(arcs.label[0]))
        [0.25 0.25]
    """
    given, scores = _simple_scores(am, lm, labels, logit_lengths, label_lengths, blank_id, checks)

    def one(scores: NodeScores, labels: Array, *rest: Array) -> Arcs:
        arcs, sound = masked_arcs(scores, *rest)
        return jax.tree.map(lambda x: jnp.where(sound, x, jnp.nan), arcs)

    return over_sequences(one, given, scores)


def pruning_ranges(
    arc_posteriors: Arcs,
    width: int,
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    kind: str = "regular",
    checks: str = "poison",
) -> Int[Array, "*batch frames"]:
    r"""Choose for each frame the `width` neighbouring lanes that hold most of the posterior.

    $$s_t=\arg\max_s\sum_{u=s}^{s+width-1}\bigl(\xi^\varnothing_{tu}+\xi^y_{tu}\bigr)$$

    (the smallest of equal ones), and then the nearest band that an alignment can pass: starts
    never fall, rise by less than `width` (by one at most where a label advances the frame), and
    cover lane 0 in the first frame and lane $U_b$ in the last.

    Args:
        arc_posteriors: of `rnnt_arc_posteriors`; nothing is differentiated.
        width: lanes kept of each frame, at least 2 unless there are no labels (1 if `kind` is
            `"modified"`); at `U + 1` and above the band is the lattice.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        kind: as for `rnnt_loss`.
        checks: as for `rnnt_loss`.

    Returns:
        Starts `(T,)` or `(B, T)`. Where $T_b$ frames of this width cannot climb $U_b$ labels, the
        last lane covered is below $U_b$, and the target cannot be aligned on the band.

    Raises:
        ValueError: `width` is too small, a name is unknown, or shapes or lengths do not fit.

    Example:
        >>> label = jnp.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0] * 4])
        >>> arcs = Arcs(jax.nn.one_hot(jnp.array([0, 1, 2, 4, 4]), 5), label)
        >>> print(jax.jit(pruning_ranges, static_argnums=1)(arcs, 3))
        [0 0 0 2 2]

    References:
        Kuang and others 2022.
    """
    core_checks.one_of("kind", kind, KINDS)
    lanes = arc_posteriors.blank.shape[-1]
    core_checks.at_least("width", width, 1 if kind == "modified" else min(2, lanes))
    width = min(width, lanes)
    given, arcs = given_arcs(*arc_posteriors, logit_lengths, label_lengths, checks)
    climb = width - 1 if kind == "regular" else 1

    def one(arcs: Arcs, labels: Array, frames: Array, length: Array, valid: Array) -> Array:
        mass = arcs.blank + jnp.pad(arcs.label, ((0, 0), (0, 1)))
        sums = jnp.cumsum(jnp.pad(mass, ((0, 0), (1, 0))), axis=1)
        within = sums[:, width:] - sums[:, : lanes + 1 - width]
        best = jnp.argmax(within, axis=1).astype(jnp.int32)
        frame = jnp.arange(best.shape[0], dtype=jnp.int32)
        last = jnp.maximum(length + 1 - width, 0)
        # Between what is reached from lane 0 at the start and what still reaches U at the end.
        most = jnp.minimum(climb * frame, last)
        least = jnp.maximum(last - climb * jnp.maximum(frames - 1 - frame, 0), 0)
        start = jax.lax.cummax(jnp.clip(best, jnp.minimum(least, most), most))
        # Rises too steep are begun earlier: each start may lag its successors by the climb only.
        ahead = jax.lax.cummax(start - climb * frame, reverse=True) + climb * frame
        return jnp.where(frame < frames, ahead, last)

    return over_sequences(one, given, arcs)


def take_band(
    pred: Shaped[Array, "..."], starts: Int[Array, "*batch frames"], width: int
) -> Shaped[Array, "..."]:
    """Give each frame what belongs to its lanes, such as the predictor's outputs.

    Args:
        pred: `(U + 1, *P)` or `(B, U + 1, *P)`.
        starts: of `pruning_ranges`.
        width: lanes of each frame.

    Returns:
        `(T, W, *P)` or `(B, T, W, *P)`, to be joined with the encoder's `(B, T, 1, *P)`; lanes
        beyond the last repeat it.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> print(take_band(jnp.arange(3.0), jnp.array([0, 1, 2]), 2))
        [[0. 1.]
         [1. 2.]
         [2. 2.]]
    """
    batch = starts.shape[:-1]
    core_checks.shape("pred", pred, (*batch, *(None,) * max(pred.ndim - len(batch), 1)))

    def one(pred: Array, starts: Array) -> Array:
        lane = starts[:, None] + jnp.arange(width, dtype=starts.dtype)[None]
        return pred.at[jnp.clip(lane, 0, pred.shape[0] - 1)].get(mode="promise_in_bounds")

    return one(pred, starts) if starts.ndim == 1 else jax.vmap(one)(pred, starts)


def rnnt_pruned_loss(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    starts: Int[Array, "*batch frames"],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    kind: str = "regular",
    blank_id: int = 0,
    delay_penalty: float | Float[Array, ""] = 0.0,
    infeasible: str = "inf",
    checks: str = "poison",
) -> Float[Array, "*batch"]:
    r"""`rnnt_loss` summed over the alignments that stay within a band.

    $$\ell_{band}\ge\ell,\qquad \ell_{band}=\ell\ \text{ if the band is the lattice}$$

    Args:
        logits: `(T, W, V)` or `(B, T, W, V)`; lane `w` of frame `t` is lane `starts[t] + w` of the
            lattice, lanes above `U` do not count.
        labels: as for `rnnt_loss`.
        starts: first lane of each frame `(T,)` or `(B, T)`.
        logit_lengths: as for `rnnt_loss`.
        label_lengths: as for `rnnt_loss`.
        kind: as for `rnnt_loss`.
        blank_id: as for `rnnt_loss`.
        delay_penalty: as for `rnnt_loss`.
        infeasible: as for `rnnt_loss`; also what a target costs that the band does not let pass.
        checks: as for `rnnt_loss`.

    Returns:
        Losses `()` or `(B,)`.

    Raises:
        ValueError: as for `rnnt_loss`, or `starts` do not fit.

    Example:
        >>> starts = jnp.array([0, 1])
        >>> loss = jax.jit(rnnt_pruned_loss)(jnp.zeros((2, 2, 4)), jnp.array([1, 2]), starts)
        >>> print(loss)  # four arcs, one way: 4 ln 4
        5.545...

    References:
        Kuang and others 2022.
    """
    logits = jnp.asarray(logits)
    if logits.ndim not in (3, 4) or 0 in logits.shape[-2:]:
        words = "logits must have shape (T, W, V) or (B, T, W, V)"
        raise ValueError(f"{words}, got {logits.shape}")
    given = emissions.prepare(
        logits[..., 0, :],
        labels,
        logit_lengths,
        label_lengths,
        blank_id=blank_id,
        checks=checks,
    )
    core_checks.shape("starts", starts, logits.shape[:-2])
    logits = rows.working("logits", logits, event_ndim=3)
    width, lanes = logits.shape[-2], given.labels.shape[-1] + 1

    def one(arrays: tuple[Array, Array], labels: Array, *rest: Array) -> Array:
        logits, starts = arrays
        follows = take_band(jnp.pad(labels, (0, 1)), starts, width)
        scores = node_scores(logits, follows, given.blank)
        place = jnp.arange(lanes, dtype=starts.dtype)[None] - starts[:, None]
        inside = (place >= 0) & (place < width)
        index = jnp.clip(place, 0, width - 1)

        def spread(x: Array, outside: float) -> Array:
            return jnp.where(inside, jnp.take_along_axis(x, index, axis=1), outside)

        whole = NodeScores(
            spread(scores.blank, -jnp.inf),
            spread(scores.label, -jnp.inf),
            spread(scores.top, 0.0),
            spread(scores.log_sum, 0.0),
        )
        arcs, sound = masked_arcs(whole, *rest)
        return arcs_loss(
            arcs, sound, *rest[:2], kind=kind, delay_penalty=delay_penalty, infeasible=infeasible
        )

    return over_sequences(one, given, (logits, starts))


def _simple_scores(
    am: Array,
    lm: Array,
    labels: ArrayLike,
    logit_lengths: ArrayLike | None,
    label_lengths: ArrayLike | None,
    blank_id: int,
    checks: str,
) -> tuple[emissions.Prepared, NodeScores]:
    """Check the arguments, and read off each node's scores; an infinite `top` marks a bad node."""
    am, lm = jnp.asarray(am), jnp.asarray(lm)
    given = emissions.prepare(
        am, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks, name="am"
    )
    lanes = given.labels.shape[-1] + 1
    core_checks.shape("lm", lm, (*am.shape[:-2], lanes, am.shape[-1]))
    if lm.dtype != am.dtype:
        raise ValueError(f"lm must have the dtype {am.dtype}, got {lm.dtype}")
    am, lm = (rows.working(name, x, event_ndim=2) for name, x in (("am", am), ("lm", lm)))

    def shifted(x: Array, live: Array) -> tuple[Array, Array]:
        """Rows with their maximum at 0, and the maximum; rows of zeros where there is none."""
        x = jnp.where(live[:, None], x, 0.0)
        top = jax.lax.stop_gradient(jnp.max(x, axis=-1))
        good = jnp.isfinite(top)
        return jnp.where(good[:, None], x - jnp.where(good, top, 0.0)[:, None], 0.0), top

    def one(pair: tuple[Array, Array], labels: Array, *rest: Array) -> NodeScores:
        frames, length, _ = rest
        am, am_top = shifted(pair[0], live_places(frames, (), pair[0].shape[0]))
        lm, lm_top = shifted(pair[1], live_places(length + 1, (), lanes))
        # Full precision: tensor cores would round the normaliser to three digits.
        total = jnp.einsum(
            "tv,uv->tu", jnp.exp(am), jnp.exp(lm), precision=jax.lax.Precision.HIGHEST
        )
        top = am_top[:, None] + lm_top[None]
        enough = total > 1e8 * float(jnp.finfo(total.dtype).tiny)
        log_sum = jnp.log(jnp.where(enough, total, 1.0))
        columns = jnp.pad(labels, (0, 1))
        am_label = am.at[:, columns].get(mode="promise_in_bounds")
        lm_label = jnp.take_along_axis(lm, columns[:, None], axis=1)[:, 0]
        return NodeScores(
            (am[:, given.blank][:, None] + lm[:, given.blank][None]) - log_sum,
            (am_label + lm_label[None]) - log_sum,
            jnp.where(enough, top, jnp.inf),
            log_sum,
        )

    return given, over_sequences(one, given, (am, lm))
