r"""Connectionist temporal classification: the loss, with its true gradient, at any length.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence import ctc
>>> logits = jnp.zeros((4, 3))  # four frames, three classes, class 0 is the blank
>>> labels = jnp.array([1, 2])
>>> ctc_loss, gradient = jax.jit(ctc.ctc_loss), jax.jit(jax.grad(ctc.ctc_loss))
>>> print(ctc_loss(logits, labels))  # 15 of 81 paths: 4 ln 3 - ln 15
1.686...
>>> print((15 * gradient(logits, labels)[1]).round())  # softmax minus occupancy
[ 1. -3.  2.]

A target that does not fit has no alignment; its gradient is zero and harms nobody:

>>> print(ctc_loss(logits[:2], jnp.array([1, 1])), gradient(logits[:2], jnp.array([1, 1]))[0])
inf [0. 0. 0.]
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from probjax.core import checks as core_checks
from probjax.sequence import ctc_core, emissions

INFEASIBLE = ("inf", "zero")
"""What a target without alignment costs; its gradient is zero either way."""

IMPLEMENTATIONS = ("xla", "pallas")
"""How the sums over alignments are run: scans, or one kernel (for CUDA; elsewhere interpreted)."""

REDUCTIONS = ("sum", "mean", "torch_mean")
"""Kinds of `reduce_loss`."""


def ctc_loss(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    infeasible: str = "inf",
    checks: str = "poison",
    implementation: str = "xla",
) -> Float[Array, "*batch"]:
    r"""Negative log probability of each target, summed over its alignments, from logits.

    $$\ell=-\ln\sum_{\pi:\,\mathcal B(\pi)=y}\prod_{t<T}p_t(\pi_t),\qquad
      \frac{\partial\ell}{\partial z_t(k)}=p_t(k)-\mathrm{occ}_t(k),\qquad p_t=\text{softmax}(z_t)$$

    with $\mathrm{occ}_t(k)$ the probability, given the target, that frame $t$ shows class $k$. The
    gradient is this closed form; forward mode and Hessian-vector products work, too.

    Padding (frames and labels beyond the lengths) may hold anything and gets gradient zero. An
    empty target costs $-\sum_t\ln p_t(\varnothing)$; no frames cost 0 with an empty target and are
    infeasible otherwise. A class may have logit $-\infty$. A live frame with NaN, $+\infty$ or
    nothing but $-\infty$ makes the loss of that sequence NaN, and its gradient zero. So does, in
    traced code, a live label or length out of range; concrete ones raise.

    Args:
        logits: $z$, `(T, V)` or `(B, T, V)`; half precision is computed in float32.
        labels: targets `(L,)` or `(B, L)`, without blanks.
        logit_lengths: live frames, `()` or `(B,)`; all when `None`.
        label_lengths: lengths of the targets, `()` or `(B,)`; all of `L` when `None`.
        blank_id: class of the blank, in $[-V,V)$.
        infeasible: loss of a target without alignment: `"inf"` or `"zero"`. Gradient 0 in both.
        checks: `"poison"`, or `"checkify"` for an error under `checkify.checkify` as well.
        implementation: `"xla"`, or `"pallas"` for the GPU kernel of `probjax.sequence.kernels`.

    Returns:
        Losses `()` or `(B,)`, not negative, float32 or float64.

    Raises:
        ValueError: shapes, ranks or dtypes do not fit, `blank_id` is out of range, a name is
            unknown, or a concrete label or length is out of range.

    Example:
        >>> logits = jnp.log(jnp.array([[0.75, 0.25]] * 3))
        >>> print(jnp.exp(-ctc_loss(logits, jnp.array([1]))) * 64)
        34.0

    References:
        Graves and others 2006. `optax.ctc_loss` gives about 1e5 and a gradient for infeasible
        targets; `torch.nn.functional.ctc_loss` takes log probabilities and returns the gradient
        with respect to logits for them.
    """
    given = emissions.prepare(
        logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
    )
    return _losses(given, True, infeasible, _core(implementation))


def ctc_loss_from_log_probs(
    log_probs: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    infeasible: str = "inf",
    checks: str = "poison",
    implementation: str = "xla",
) -> Float[Array, "*batch"]:
    r"""`ctc_loss` from log probabilities, with the gradient with respect to them.

    $$\frac{\partial\ell}{\partial\ln p_t(k)}=-\mathrm{occ}_t(k)$$

    Each entry counts as a variable of its own. Rows need not be normalised: they may be any log
    weights, and the loss may then be negative.

    Args:
        log_probs: $\ln p$, `(T, V)` or `(B, T, V)`.
        labels: as for `ctc_loss`.
        logit_lengths: as for `ctc_loss`.
        label_lengths: as for `ctc_loss`.
        blank_id: as for `ctc_loss`.
        infeasible: as for `ctc_loss`.
        checks: as for `ctc_loss`.
        implementation: as for `ctc_loss`.

    Returns:
        Losses `()` or `(B,)`.

    Raises:
        ValueError: as for `ctc_loss`.

    Example:
        >>> log_probs = jnp.log(jnp.array([[0.75, 0.25]] * 3))
        >>> print(jax.grad(ctc_loss_from_log_probs)(log_probs, jnp.array([1])).sum().round(3))
        -3.0

    References:
        Graves and others 2006. `torch.nn.functional.ctc_loss` returns $p-\mathrm{occ}$ here.
    """
    given = emissions.prepare(
        log_probs,
        labels,
        logit_lengths,
        label_lengths,
        blank_id=blank_id,
        checks=checks,
        name="log_probs",
    )
    return _losses(given, False, infeasible, _core(implementation))


def ctc_loss_reference(
    logits: Float[Array, "..."],
    labels: Num[ArrayLike, "..."],
    logit_lengths: Num[ArrayLike, "..."] | None = None,
    label_lengths: Num[ArrayLike, "..."] | None = None,
    *,
    blank_id: int = 0,
    infeasible: str = "inf",
    checks: str = "poison",
) -> Float[Array, "*batch"]:
    r"""`ctc_loss` by logarithms and automatic differentiation throughout.

    Slower, less exact on long inputs, hungrier; differentiable to any order. It shares with
    `ctc_loss` only the checks of the arguments.

    Args:
        logits: as for `ctc_loss`.
        labels: as for `ctc_loss`.
        logit_lengths: as for `ctc_loss`.
        label_lengths: as for `ctc_loss`.
        blank_id: as for `ctc_loss`.
        infeasible: as for `ctc_loss`.
        checks: as for `ctc_loss`.

    Returns:
        Losses `()` or `(B,)`.

    Raises:
        ValueError: as for `ctc_loss`.

    Example:
        >>> logits = jnp.log(jnp.array([[0.75, 0.25]] * 3))
        >>> print(jnp.exp(-ctc_loss_reference(logits, jnp.array([1]))) * 64)
        34.0
    """
    given = emissions.prepare(
        logits, labels, logit_lengths, label_lengths, blank_id=blank_id, checks=checks
    )
    return _losses(given, True, infeasible, ctc_core.log_z_reference, closed_form=False)


def reduce_loss(
    loss: Float[Array, "batch"],
    label_lengths: Int[ArrayLike, "batch"],
    kind: str = "mean",
) -> Float[Array, ""]:
    r"""Reduce the losses of a batch to one number.

    $$\text{sum}=\sum_b\ell_b,\qquad \text{mean}=\frac1B\sum_b\ell_b,\qquad
      \text{torch\_mean}=\frac1B\sum_b\frac{\ell_b}{\max(L_b,1)}$$

    On several devices with unequal counts the mean is the sum of the sums over the sum of the
    counts, not the mean of the means.

    Args:
        loss: losses `(B,)`.
        label_lengths: lengths of the targets `(B,)`; used by `"torch_mean"` only.
        kind: one of `REDUCTIONS`.

    Returns:
        A number.

    Raises:
        ValueError: `kind` is unknown, or the shapes differ.

    Example:
        >>> loss, lengths = jnp.array([6.0, 3.0]), jnp.array([3, 0])
        >>> [float(reduce_loss(loss, lengths, kind)) for kind in REDUCTIONS]
        [9.0, 4.5, 2.5]
    """
    core_checks.one_of("kind", kind, REDUCTIONS)
    core_checks.same_shape("label_lengths", label_lengths, "loss", loss)
    if kind == "sum":
        return jnp.sum(loss)
    if kind == "mean":
        return jnp.mean(loss)
    return jnp.mean(loss / jnp.maximum(jnp.asarray(label_lengths), 1).astype(loss.dtype))


def hybrid_loss(
    ctc: Float[Array, "*batch"],
    cross_entropy: Float[Array, "*batch"],
    weight: float | Float[Array, ""],
) -> Float[Array, "*batch"]:
    r"""Joint loss of a CTC head and an attention decoder on one encoder.

    $$weight\cdot\ell_{\text{CTC}}+(1-weight)\,\ell_{\text{CE}}$$

    Args:
        ctc: CTC losses, one for each sequence.
        cross_entropy: losses of the decoder, one for each sequence.
        weight: of the CTC part, in $[0,1]$; a part of weight zero does not count even if infinite.

    Returns:
        One loss for each sequence.

    Raises:
        ValueError: `weight` is outside $[0,1]$ (where concrete), or the shapes differ.

    Example:
        >>> print(hybrid_loss(jnp.array([2.0]), jnp.array([1.0]), 0.25))
        [1.25]

    References:
        Watanabe and others 2017.
    """
    core_checks.same_shape("cross_entropy", cross_entropy, "ctc", ctc)
    if not isinstance(weight, jax.core.Tracer) and not 0 <= float(weight) <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight}")
    share = jnp.asarray(weight, ctc.dtype)

    def part(share: Array, loss: Array) -> Array:
        return share * jnp.where(share == 0, 0.0, loss)

    return part(share, ctc) + part(1 - share, cross_entropy)


def _core(implementation: str) -> Any:
    core_checks.one_of("implementation", implementation, IMPLEMENTATIONS)
    if implementation == "xla":
        return ctc_core.log_z
    from probjax.sequence import kernels  # late: Pallas takes time to import

    return kernels.log_z


def _losses(
    given: emissions.Prepared,
    normalise: bool,
    infeasible: str,
    log_z_fn: Any,
    closed_form: bool = True,
) -> Array:
    core_checks.one_of("infeasible", infeasible, INFEASIBLE)
    scores_of = functools.partial(
        emissions.sequence_scores,
        blank=given.blank,
        normalise=normalise,
        closed_form=closed_form,
    )

    def one(logits: Array, labels: Array, frames: Array, length: Array, valid: Array) -> Array:
        scores = scores_of(logits, labels, frames, length, valid)
        log_z = log_z_fn(scores.blank, scores.label, scores.can_skip, length)
        return loss_from_log_z(log_z, scores.sound, infeasible, clamp=normalise)

    return emissions.over_sequences(one, given)


def loss_from_log_z(log_z: Array, sound: Array, infeasible: str, *, clamp: bool) -> Array:
    """Turn the sum over alignments into a loss, without infinite cotangents on the way back.

    Args:
        log_z: logarithm of the sum, `(*B,)`.
        sound: whether it means anything, `(*B,)`; NaN where not.
        infeasible: one of `INFEASIBLE`.
        clamp: whether rounding below zero is cut off.

    Returns:
        The loss.

    Example:
        >>> print(loss_from_log_z(jnp.array(-jnp.inf), jnp.array(True), "zero", clamp=True))
        0.0
    """
    empty = jnp.isneginf(log_z)
    usable = sound & ~empty
    loss = -jnp.where(usable, log_z, 0.0)
    loss = _not_negative(loss) if clamp else loss
    loss = jnp.where(empty, jnp.inf if infeasible == "inf" else 0.0, loss)
    return jnp.where(sound, loss, jnp.nan)


@jax.custom_jvp
def _not_negative(x: Array) -> Array:
    """Zero where rounding went below it; the derivative stays one, as if nothing had been cut."""
    return jnp.maximum(x, 0.0)


@_not_negative.defjvp
def _not_negative_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _not_negative(primals[0]), tangents[0]
