r"""CTC and the transducer over a mesh: split by sequences, by classes, by frames.

Each function takes a mesh and the names of its axes, and returns a loss with the arguments of
`ctc_loss` (or `rnnt_loss`) whose large array, the logits, stays where it is. What travels are the
scores of the targets' labels: `B T (L + 1)` numbers, whatever the number of classes. Call the
returned function under `jit`.

>>> import jax, jax.numpy as jnp
>>> from probjax import sharding
>>> from probjax.sequence import sharded
>>> mesh = sharding.make_mesh(2, axis="model")
>>> loss_fn = sharded.sharded_ctc_loss(mesh, batch_axis=None, vocab_axis="model")
>>> loss_fn(jnp.zeros((2, 3, 5)), jnp.array([[1], [2]]))
Traceback (most recent call last):
ValueError: logits have 5 classes, which do not divide by mesh axis 'model' of size 2
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from probjax.core import checks as core_checks
from probjax.sequence import ctc, ctc_core, emissions, transducer
from probjax.sequence.lattice import label_changes, live_places
from probjax.sharding import auto_mesh


class _Split(NamedTuple):
    """Over which axes of the mesh the scores are split, and how they are brought together."""

    batch: str | None
    time: str | None
    vocab: str | None
    scatter: bool
    """Whether each device of the vocabulary axis gets the sums of some sequences, not of all."""
    exchange: bool
    """Whether each device of the time axis gets all frames of some sequences, not of all."""

    def rows(self) -> P:
        """Return how the sequences are split when their lattices are run."""
        axes = (
            self.batch,
            self.vocab if self.scatter else None,
            self.time if self.exchange else None,
        )
        return P(tuple(axis for axis in axes if axis is not None))


def sharded_ctc_loss(
    mesh: Mesh,
    *,
    batch_axis: str | None,
    vocab_axis: str | None = None,
    time_axis: str | None = None,
) -> Callable[..., Array]:
    r"""Return `ctc_loss` for logits that are split over a mesh.

    **By sequences** (`batch_axis`): no data crosses between devices, nor on the way back.

    **By classes** (`vocab_axis`), for output layers that are split. With $V_r$ the classes of
    device $r$,

    $$\ln p_t(k)=\sum_r[k\in V_r]\,\bigl(z_t(k)-m_t-\ln\sigma_t\bigr),\qquad
      m_t=\max_r\max_{j\in V_r}z_t(j),\quad \sigma_t=\sum_r\sum_{j\in V_r}e^{z_t(j)-m_t} :$$

    a maximum and a sum of `B T` numbers, then a sum of `B T (L + 1)`. The gradient
    $p_t(k)-\mathrm{occ}_t(k)$ is written by the device that holds class $k$. Where the sequences
    of a device divide by the axis, the last sum is scattered: each device runs the lattices of its
    share of the sequences, and their occupancies are gathered on the way back. Else each runs
    all of them, and nothing travels back.

    **By frames** (`time_axis`), for long inputs. Scores are computed where the frames lie; then
    each device gets all frames of its share of the sequences (one all-to-all, one back for the
    occupancies), or, where the sequences do not divide, of all of them (one all-gather).

    Axes can be combined. Labels and lengths may be replicated, or split by sequences.

    Args:
        mesh: the devices; axes that are not named hold copies.
        batch_axis: axis over which sequences are split; `None` for no such axis.
        vocab_axis: axis over which classes are split.
        time_axis: axis over which frames are split.

    Returns:
        `loss_fn(logits, labels, logit_lengths=None, label_lengths=None, *, blank_id=0,
        infeasible="inf", checks="poison")`, differentiable, with `(B, T, V)` logits and losses
        `(B,)` that are split as the lattices were. All else is as for `ctc_loss`. Call it under
        `jit`, with inputs that lie on the mesh or on no device in particular.

    Raises:
        ValueError: no axis is named, or one is not of the mesh or named twice; when called, also
            what `ctc_loss` raises, logits of another rank, or B, T or V that do not divide by
            their axis.

    Example:
        >>> from probjax import sharding
        >>> mesh = sharding.make_mesh(2, axis="model")
        >>> loss_fn = jax.jit(sharded_ctc_loss(mesh, batch_axis=None, vocab_axis="model"))
        >>> print(loss_fn(jnp.zeros((2, 3, 4)), jnp.array([[1], [2]])))
        [2.367... 2.367...]
    """
    mesh = auto_mesh(mesh)
    named = {"batch_axis": batch_axis, "vocab_axis": vocab_axis, "time_axis": time_axis}
    _check_axes(mesh, named)

    def loss_fn(
        logits: Any,
        labels: Any,
        logit_lengths: Any = None,
        label_lengths: Any = None,
        *,
        blank_id: int = 0,
        infeasible: str = "inf",
        checks: str = "poison",
    ) -> Array:
        core_checks.one_of("infeasible", infeasible, ctc.INFEASIBLE)
        if jnp.ndim(logits) != 3:
            raise ValueError(f"logits must have shape (B, T, V), got {jnp.shape(logits)}")
        given = emissions.prepare(
            logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
        )
        sizes = given.scores.shape
        num_rows = _divided("sequences", sizes[0], mesh, batch_axis)
        _divided("frames", sizes[1], mesh, time_axis)
        _divided("classes", sizes[2], mesh, vocab_axis)
        scatter = vocab_axis is not None and num_rows % mesh.shape[vocab_axis] == 0
        num_rows = num_rows // mesh.shape[vocab_axis] if scatter else num_rows
        exchange = time_axis is not None and num_rows % mesh.shape[time_axis] == 0
        split = _Split(batch_axis, time_axis, vocab_axis, scatter, exchange)
        body = _whole_rows if vocab_axis is None and time_axis is None else _split_rows
        # The labels enter twice: of all sequences whose scores lie here, and of those whose
        # lattices run here.
        rows = P(batch_axis)
        # Without the constraint the compiler may split even replicated labels, and gather them.
        small = jax.lax.with_sharding_constraint(given[1:5], NamedSharding(mesh, rows))
        return jax.shard_map(
            functools.partial(body, split, given.blank, infeasible),
            mesh=mesh,
            in_specs=(P(batch_axis, time_axis, vocab_axis), rows, *(split.rows(),) * 4),
            out_specs=split.rows(),
        )(given.scores, small[0], *small)

    return loss_fn


def sharded_rnnt_loss(mesh: Mesh, *, batch_axis: str) -> Callable[..., Array]:
    r"""Return `rnnt_loss` for logits whose sequences are split over a mesh.

    No data crosses between devices. Long inputs are better served by fewer logits than by more
    devices: `rnnt_loss_from_joint` in blocks of frames, or a pruned loss.

    Args:
        mesh: the devices; axes that are not named hold copies.
        batch_axis: axis over which sequences are split.

    Returns:
        `loss_fn(logits, labels, logit_lengths=None, label_lengths=None, **options)` with logits
        `(B, T, U + 1, V)`, losses `(B,)` and the options of `rnnt_loss`. Call it under `jit`.

    Raises:
        ValueError: the axis is not of the mesh; when called, what `rnnt_loss` raises, or B that
            does not divide by the axis.

    Example:
        >>> from probjax import sharding
        >>> loss_fn = sharded_rnnt_loss(sharding.make_mesh(2), batch_axis="items")
        >>> labels = jnp.array([[1, 2], [2, 1]])
        >>> print(jax.jit(loss_fn)(jnp.zeros((2, 3, 3, 4)), labels))  # 5 ln 4 - ln 6
        [5.139... 5.139...]
    """
    mesh = auto_mesh(mesh)
    _check_axes(mesh, {"batch_axis": batch_axis})

    def loss_fn(
        logits: Any,
        labels: Any,
        logit_lengths: Any = None,
        label_lengths: Any = None,
        **options: Any,
    ) -> Array:
        if jnp.ndim(logits) != 4:
            raise ValueError(f"logits must have shape (B, T, U + 1, V), got {jnp.shape(logits)}")
        _divided("sequences", jnp.shape(logits)[0], mesh, batch_axis)
        # Within `shard_map` all values are traced; what is wrong with concrete ones is said here.
        emissions.prepare(
            jnp.asarray(logits)[:, :, 0],
            labels,
            logit_lengths,
            label_lengths,
            blank_id=options.get("blank_id", 0),
        )
        given = {
            "logits": logits,
            "labels": labels,
            "logit_lengths": logit_lengths,
            "label_lengths": label_lengths,
        }
        given = {name: jnp.asarray(x) for name, x in given.items() if x is not None}

        def local(given: dict[str, Array]) -> Array:
            return transducer.rnnt_loss(**given, **options)

        return jax.shard_map(local, mesh=mesh, in_specs=P(batch_axis), out_specs=P(batch_axis))(
            given
        )

    return loss_fn


def _check_axes(mesh: Mesh, named: dict[str, str | None]) -> None:
    used = {name: axis for name, axis in named.items() if axis is not None}
    if not used:
        raise ValueError(f"one of {', '.join(named)} must name an axis of the mesh")
    for name, axis in used.items():
        if axis not in mesh.axis_names:
            raise ValueError(f"{name}={axis!r} is not an axis of the mesh, {mesh.axis_names}")
    if len(set(used.values())) < len(used):
        raise ValueError(f"one axis cannot split two things: {used}")


def _divided(what: str, count: int, mesh: Mesh, axis: str | None) -> int:
    """Return how many each device has."""
    size = 1 if axis is None else mesh.shape[axis]
    if count % size:
        raise ValueError(
            f"logits have {count} {what}, which do not divide by mesh axis {axis!r} of size {size}"
        )
    return count // size


def _whole_rows(
    split: _Split, blank: int, infeasible: str, scores: Array, _: Array, *rows: Array
) -> Array:
    """Losses of sequences that lie here whole: what `ctc_loss` does."""

    def one(scores: Array, labels: Array, frames: Array, length: Array, valid: Array) -> Array:
        found = emissions.sequence_scores(
            scores, labels, frames, length, valid, blank=blank, normalise=True
        )
        log_z = ctc_core.log_z(found.blank, found.label, found.can_skip, length)
        return ctc.loss_from_log_z(log_z, found.sound, infeasible, clamp=True)

    return jax.vmap(one)(scores, *rows)


def _split_rows(
    split: _Split, blank: int, infeasible: str, scores: Array, labels: Array, *rows: Array
) -> Array:
    """Losses of sequences whose frames or classes lie on several devices."""
    blanks = jnp.full_like(labels, blank, shape=(labels.shape[0], 1))
    columns = jnp.concatenate([labels, blanks], axis=1)
    log_probs = _log_probs(split, scores, columns)
    if split.exchange:
        log_probs = jax.lax.all_to_all(log_probs, split.time, 0, 1, tiled=True)
    elif split.time is not None:
        log_probs = jax.lax.all_gather(log_probs, split.time, axis=1, tiled=True, to="invarying")

    def one(log_probs: Array, labels: Array, frames: Array, length: Array, valid: Array) -> Array:
        live = live_places(frames, (), log_probs.shape[0])
        sound = valid & jnp.all(~jnp.isnan(log_probs[:, -1]) | ~live)
        live = (live & sound)[:, None]
        label_live = live & live_places(length, (), labels.shape[0])[None]
        log_z = ctc_core.log_z(
            jnp.where(live[:, 0], log_probs[:, -1], 0.0),
            jnp.where(label_live, log_probs[:, :-1], -jnp.inf),
            label_changes(labels),
            length,
        )
        return ctc.loss_from_log_z(log_z, sound, infeasible, clamp=True)

    return jax.vmap(one)(log_probs, *rows)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_probs(split: _Split, scores: Array, columns: Array) -> Array:
    """Log probabilities `(b, t, L + 1)` of the columns; NaN in frames that are no distribution.

    Summed over the vocabulary axis, of all sequences or of this device's share.
    """
    top, log_sum = _normaliser(split, scores)
    return _columns_less(split, scores, columns, top, log_sum)


@_log_probs.defjvp
def _log_probs_jvp(
    split: _Split, primals: tuple[Array, Array], tangents: tuple[Array, Any]
) -> tuple[Array, Array]:
    (scores, columns), moved = primals, tangents[0]
    top, log_sum = _normaliser(split, scores)

    def mean(scores: Array, top: Array, log_sum: Array, moved: Array) -> Array:
        softmax = jnp.exp((scores - top[..., None]) - log_sum[..., None])
        good = jnp.isfinite(log_sum)[..., None]
        return jnp.sum(jnp.where(good, softmax, 0.0) * moved, axis=-1)

    # This device's part of the mean under the softmax joins the sum over devices that brings the
    # columns together, so that the way back needs no sum of its own. The softmax is written again
    # when the gradient asks for it, never stored.
    part = jax.checkpoint(mean, prevent_cse=False)(scores, top, log_sum, moved)
    picked, _ = _pick(split, moved, columns)
    value = _columns_less(split, scores, columns, top, log_sum)
    return value, _summed(split, picked - part[..., None])


def _columns_less(
    split: _Split, scores: Array, columns: Array, top: Array, log_sum: Array
) -> Array:
    picked, inside = _pick(split, scores, columns)
    less = (picked - top[..., None]) - log_sum[..., None]
    return _summed(split, jnp.where(inside, less, 0.0))


def _normaliser(split: _Split, scores: Array) -> tuple[Array, Array]:
    """The largest score of each frame, and the logarithm of the sum beside it.

    The latter is NaN where a frame is no distribution. Whether it is, is read off the sum and not
    off the maximum: not every network of devices hands on a NaN through a maximum.
    """
    top = jnp.max(jax.lax.stop_gradient(scores), axis=-1)
    if split.vocab is not None:
        top = jax.lax.pmax(jnp.where(jnp.isnan(top), -jnp.inf, top), split.vocab)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(scores - top[..., None]), axis=-1)
    if split.vocab is not None:
        total = jax.lax.psum(total, split.vocab)
    good = jnp.isfinite(total) & (total > 0)
    return top, jnp.where(good, jnp.log(jnp.where(good, total, 1.0)), jnp.nan)


def _pick(split: _Split, scores: Array, columns: Array) -> tuple[Array, Array]:
    """The columns that lie on this device, 0 for the others; and which lie here."""
    num_classes = scores.shape[-1]
    first = 0 if split.vocab is None else jax.lax.axis_index(split.vocab) * num_classes
    here = columns - first
    inside = (here >= 0) & (here < num_classes)
    outside = jnp.where(inside, here, num_classes)

    def take(scores: Array, columns: Array) -> Array:
        return scores.at[:, columns].get(mode="fill", fill_value=0)

    return jax.vmap(take)(scores, outside), jnp.broadcast_to(
        inside[:, None], (*scores.shape[:2], columns.shape[-1])
    )


def _summed(split: _Split, x: Array) -> Array:
    """The sum over the vocabulary axis, of this device's sequences or of all."""
    if split.vocab is None:
        return x
    if split.scatter:
        return jax.lax.psum_scatter(x, split.vocab, scatter_dimension=0, tiled=True)
    return jax.lax.psum(x, split.vocab)
