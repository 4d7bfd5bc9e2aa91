r"""Edit distance of label sequences, and the label error rate with its standard error.

>>> import jax.numpy as jnp
>>> from probjax.metrics.edit_distance import edit_distance
>>> kitten, sitting = jnp.array([1, 2, 3, 3, 4, 5]), jnp.array([6, 2, 3, 3, 2, 5, 7])
>>> int(edit_distance(kitten, sitting))
3
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from probjax.core import checks, rows
from probjax.metrics.estimate import Estimate


def edit_distance(
    hyp: Int[Array, "*batch n"],
    ref: Int[Array, "*batch m"],
    hyp_lengths: int | Int[Array, "*batch"] | None = None,
    ref_lengths: int | Int[Array, "*batch"] | None = None,
) -> Int[Array, "*batch"]:
    r"""Count the fewest substitutions, insertions and deletions between two sequences.

    $$D_{ij} = \min\{c_{ij},\; D_{i,j-1} + 1\},\qquad
    c_{ij} = \min\{D_{i-1,j} + 1,\; D_{i-1,j-1} + [\text{hyp}_i\ne\text{ref}_j]\},\qquad
    D_{i0} = i,\; D_{0j} = j$$

    The chain along a row unrolls to $D_{ij} = j + \min_{k\le j}(c_{ik} - k)$, a cumulative minimum:
    the loop runs over `hyp` only, each step on a whole row.

    Args:
        hyp: labels `(*B, N)`.
        ref: labels `(*B, M)`.
        hyp_lengths: how many of `hyp` count, `(*B,)`; `None` for all. What stands behind them has
            no influence.
        ref_lengths: the same for `ref`.

    Returns:
        Distances `(*B,)`; -1 where (in traced code) a length lies outside its sequence.

    Raises:
        TypeError: an argument is not integer.
        ValueError: the batches differ, or a length lies outside its sequence (concrete values
            only).

    References:
        Levenshtein 1966; Wagner and Fischer 1974.

    Example:
        >>> hyp = jnp.array([[1, 2, 3], [1, 9, 9]])
        >>> ref = jnp.array([[1, 3], [1, 2]])
        >>> print(edit_distance(hyp, ref, jnp.array([3, 1])))
        [1 1]
    """
    for name, labels in (("hyp", hyp), ("ref", ref)):
        checks.integers(name, labels)
        if labels.ndim == 0:
            raise ValueError(f"{name} must have at least one axis, got shape ()")
    if hyp.shape[:-1] != ref.shape[:-1]:
        raise ValueError(
            f"hyp and ref must have one batch shape, got {hyp.shape[:-1]} and {ref.shape[:-1]}"
        )
    hyp_lengths = checks.lengths("hyp_lengths", hyp_lengths, hyp.shape[:-1], hyp.shape[-1])
    ref_lengths = checks.lengths("ref_lengths", ref_lengths, ref.shape[:-1], ref.shape[-1])
    hyp, ref = hyp.astype(jnp.int32), ref.astype(jnp.int32)
    columns = jnp.arange(ref.shape[-1] + 1, dtype=jnp.int32)
    columns = columns.reshape((1,) * (ref.ndim - 1) + (-1,))

    def next_row(row: Array, label: tuple[Array, Array]) -> tuple[Array, None]:
        index, hyp_i = label
        differs = (hyp_i[..., None] != ref).astype(jnp.int32)
        inner = jnp.minimum(row[..., 1:] + 1, row[..., :-1] + differs)
        above = jnp.concatenate([row[..., :1] + 1, inner], axis=-1)
        after = columns + jax.lax.cummin(above - columns, axis=above.ndim - 1)
        return jnp.where((index < hyp_lengths)[..., None], after, row), None

    row = jnp.broadcast_to(columns, (*ref.shape[:-1], ref.shape[-1] + 1))
    if hyp.shape[-1] > 0:
        indices = jnp.arange(hyp.shape[-1], dtype=jnp.int32)
        labels = (indices, jnp.moveaxis(hyp, -1, 0))
        first = jax.tree.map(lambda leaf: leaf[0], labels)
        after = jax.eval_shape(lambda row, label: next_row(row, label)[0], row, first)
        row, _ = jax.lax.scan(next_row, rows.varying_like(row, after), labels)
    place = jnp.clip(ref_lengths, 0, ref.shape[-1])[..., None]
    distance = jnp.take_along_axis(row, place, axis=-1)[..., 0]
    is_good = (hyp_lengths >= 0) & (hyp_lengths <= hyp.shape[-1])
    is_good = is_good & (ref_lengths >= 0) & (ref_lengths <= ref.shape[-1])
    return jnp.where(is_good, distance, -1)


def label_error_rate(
    hyp: Int[Array, "*batch n"],
    ref: Int[Array, "*batch m"],
    hyp_lengths: int | Int[Array, "*batch"] | None = None,
    ref_lengths: int | Int[Array, "*batch"] | None = None,
) -> Estimate:
    r"""Divide all edits by all reference labels.

    $$\hat r = \frac{\sum_b d_b}{\sum_b n_b},\qquad
    \mathrm{se}^2 = \frac{B}{B-1}\,\frac{\sum_b (d_b - \hat r\,n_b)^2}{(\sum_b n_b)^2}$$

    with $d_b$ the edit distance and $n_b$ the reference length of sequence $b$. Long sequences
    weigh more than in a mean of the ratios $d_b/n_b$, which is another number. The rate may exceed
    1. The error is that of a ratio of two means over independent sequences, to first order: errors
    within one sequence may depend on each other.

    Args:
        hyp: labels `(*B, N)`, all batch axes are pooled.
        ref: labels `(*B, M)`.
        hyp_lengths: how many of `hyp` count, `(*B,)`; `None` for all.
        ref_lengths: the same for `ref`.

    Returns:
        The rate and its standard error over new sequences, which is `NaN` for a single one. Where
        no reference has a label the rate is `inf`, or `NaN` without edits; `NaN` where (in traced
        code) a length lies outside its sequence.

    Raises:
        TypeError: an argument is not integer.
        ValueError: the batches differ, or a length lies outside its sequence (concrete values
            only).

    References:
        Cochran 1977, *Sampling Techniques*, chapter 6 (ratio estimators).

    Example:
        >>> hyp, ref = jnp.array([[1, 2, 3], [1, 9, 9]]), jnp.array([[1, 3, 0], [1, 2, 4]])
        >>> rate = label_error_rate(hyp, ref, jnp.array([3, 1]), jnp.array([2, 3]))
        >>> float(rate.value), float(rate.standard_error)
        (0.6, 0.08...)
    """
    distances = edit_distance(hyp, ref, hyp_lengths, ref_lengths).reshape(-1)
    lengths = checks.lengths("ref_lengths", ref_lengths, ref.shape[:-1], ref.shape[-1])
    dtype = jnp.result_type(float)
    edits, sizes = distances.astype(dtype), lengths.reshape(-1).astype(dtype)
    edits = jnp.where(distances < 0, jnp.nan, edits)
    total = jnp.sum(sizes)
    rate = jnp.sum(edits) / total
    count = distances.shape[0]
    if count < 2:
        return Estimate(rate, jnp.full_like(rate, jnp.nan))
    spread = jnp.sum((edits - rate * sizes) ** 2) * (count / (count - 1))
    return Estimate(rate, jnp.sqrt(spread) / total)
