r"""`optax.ctc_loss`'s signature over our loss, so that one import can be swapped.

>>> import jax, jax.numpy as jnp
>>> from probjax.sequence.compat import optax_ctc_loss as ctc_loss  # was: from optax import ...
>>> labels, label_paddings = jnp.array([[1, 2]]), jnp.zeros((1, 2))
>>> print(jax.jit(ctc_loss)(jnp.zeros((1, 4, 3)), jnp.zeros((1, 4)), labels, label_paddings))
[1.686...]
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from probjax.core import checks
from probjax.sequence import ctc, lattice


def optax_ctc_loss(
    logits: Float[ArrayLike, "..."],
    logit_paddings: Num[ArrayLike, "..."],
    labels: Int[ArrayLike, "..."],
    label_paddings: Num[ArrayLike, "..."],
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
    infeasible: str = "inf",
) -> Float[Array, "batch"]:
    r"""`ctc_loss` with the arguments of `optax.ctc_loss`.

    The value is the same wherever a target has an alignment and inputs are finite:
    $\ell=-\ln\sum_{\pi:\,\mathcal B(\pi)=y}\prod_tp_t(\pi_t)$. It differs on purpose where

    * a **target does not fit**: optax gives about `-log_epsilon`, $10^5$, and a gradient that is
      not zero; here `inf` (or 0) with gradient zero;
    * **padding holds NaN or infinity**, which optax lets into loss and gradient;
    * a class has logit $-\infty$, or a certain target would cost a little less than nothing;
    * `logits` are **half precision**: computed in float32, and the loss is float32;
    * **padding stands before live frames**: optax skips such frames; here it is an error (NaN for
      that sequence in traced code);
    * `blank_id` is negative (counted from the end), or a live label is out of range or the blank
      (an error; NaN for that sequence in traced code).

    Args:
        logits: `(B, T, V)`.
        logit_paddings: `(B, T)`, 0 on live frames, then 1.
        labels: targets `(B, L)`.
        label_paddings: `(B, L)`, 0 on the target, then 1.
        blank_id: class of the blank.
        log_epsilon: not used: zero probabilities need no stand-in here. Accepted so that calls
            need no change.
        infeasible: as for `ctc_loss`; optax does not have it.

    Returns:
        Losses `(B,)`.

    Raises:
        ValueError: shapes differ, padding is no suffix, or as for `ctc_loss`.

    Example:
        >>> given = jnp.zeros((1, 3, 4)), jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[1]])
        >>> optax_ctc_loss(*given, jnp.zeros((1, 1)))
        Traceback (most recent call last):
        ValueError: paddings[0] must be nonzero on a suffix only, got [1. 0. 0.]

    References:
        Graves and others 2006; `optax.ctc_loss`.
    """
    del log_epsilon
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    logit_paddings, label_paddings = jnp.asarray(logit_paddings), jnp.asarray(label_paddings)
    if logits.ndim != 3:
        raise ValueError(f"logits must have shape (B, T, V), got {logits.shape}")
    checks.shape("logit_paddings", logit_paddings, logits.shape[:2])
    checks.shape("label_paddings", label_paddings, labels.shape)
    return ctc.ctc_loss(
        logits,
        labels,
        lattice.lengths_from_paddings(logit_paddings),
        lattice.lengths_from_paddings(label_paddings),
        blank_id=blank_id,
        infeasible=infeasible,
    )
