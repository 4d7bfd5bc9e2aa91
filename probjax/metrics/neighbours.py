"""Distances to the nearest training row: the check for memorisation.

>>> import jax.numpy as jnp
>>> from probjax import metrics
>>> found = metrics.nearest_distances(jnp.array([[0.9, 0.0]]), jnp.array([[5.0, 5.0], [1.0, 0.0]]))
>>> float(found.distance[0]), int(found.index[0])
(0.1000, 1)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.core import checks
from probjax.metrics.mmd import squared_distances


class Nearest(NamedTuple):
    """For each row the closest row of a reference set."""

    distance: Float[Array, " n"]
    """Euclidean distance, exactly zero for a copy."""
    index: Int[Array, " n"]
    """Which reference row."""


def nearest_distances(
    x: Float[Array, "n *event"], reference: Float[Array, "m ..."], *, chunk_size: int = 256
) -> Nearest:
    r"""Find each row's nearest reference row.

    $$\text{distance}_i = \min_j\Vert x_i - \text{reference}_j\Vert$$

    The search is one matrix product for each chunk of rows; the distance to the row found is then
    taken from the difference itself, so that a copy is at exactly zero. Memory is
    $O(\text{chunk\_size}\cdot m)$.

    Compare the distances of generated rows with those of held-out real rows, not with zero: a
    model memorises if its rows lie markedly closer to the training set than real ones do.

    Args:
        x: rows `(n, *event)`, flattened.
        reference: rows `(m, *event)`, flattened.
        chunk_size: rows of `x` searched at a time.

    Returns:
        Distances and indices, each `(n,)`.

    Raises:
        ValueError: `reference` is empty, rows differ in shape, or `chunk_size < 1`.

    Example:
        >>> import jax.numpy as jnp
        >>> rows = jnp.arange(6.0).reshape(3, 2)
        >>> print(nearest_distances(rows, rows).distance)
        [0. 0. 0.]
    """
    checks.at_least("the number of rows of reference", reference.shape[0], 1)
    checks.at_least("chunk_size", chunk_size, 1)
    if x.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"x and reference must have rows of one shape, got {x.shape[1:]}, {reference.shape[1:]}"
        )
    flat = reference.reshape(reference.shape[0], -1)

    def nearest(row: Float[Array, " dim"]) -> Nearest:
        index = jnp.argmin(squared_distances(row[None], flat)[0])
        return Nearest(jnp.sqrt(jnp.sum((row - flat[index]) ** 2)), index)

    if x.shape[0] == 0:
        return Nearest(jnp.zeros(0, x.dtype), jnp.zeros(0, jnp.int32))
    return jax.lax.map(nearest, x.reshape(x.shape[0], -1), batch_size=chunk_size)
