r"""Markov chains on finitely many states, where every claim is a matrix product.

A chain is a matrix $P$ with $P_{ij}$ the probability to go from $i$ to $j$, a law is a row
vector, and one step is $\pi P$. Whether a kernel leaves its target invariant, and whether it is
reversible, can be read off without drawing a single number.

>>> import jax.numpy as jnp
>>> from probjax.mcmc import finite
>>> pi = jnp.array([0.5, 0.3, 0.2])
>>> wanders = jnp.array([[0.0, 0.5, 0.5], [0.2, 0.0, 0.8], [0.6, 0.4, 0.0]])
>>> P = finite.mh_matrix(pi, wanders)
>>> print(bool(jnp.allclose(pi @ P, pi)), bool(jnp.allclose(pi @ wanders, pi)))
True False
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from probjax.core import checks

Numbers = ArrayLike | Sequence[Any]
"""Numbers: an array, or nested lists of the shape that the docstring gives."""

SCANS = ("systematic", "random", "palindromic", "parallel")
"""Orders in which `gibbs_matrix` visits the coordinates."""


def mh_matrix(pi: Numbers, Q: Numbers) -> Float[Array, "n n"]:
    r"""Transition matrix of Metropolis-Hastings with proposal $Q$ and target $\pi$.

    $$P_{ij}=Q_{ij}\min\Bigl\{1,\frac{\pi_jQ_{ji}}{\pi_iQ_{ij}}\Bigr\}\ (i\ne j),\qquad
      P_{ii}=1-\sum_{j\ne i}P_{ij}$$

    From a state with $\pi_i=0$ each proposal with $\pi_j>0$ is accepted, as the kernel does.

    Args:
        pi: target weights `(n,)`, not negative; any constant factor cancels.
        Q: proposal probabilities `(n, n)`, row $i$ the law of a proposal made from $i$.

    Returns:
        Transition probabilities `(n, n)`.

    Raises:
        ValueError: shapes, a negative entry, or a row of `Q` that does not sum to 1.

    Example:
        >>> pi = [0.5, 0.3, 0.2]
        >>> Q = [[0.0, 0.5, 0.5], [0.2, 0.0, 0.8], [0.6, 0.4, 0.0]]
        >>> mh_matrix(pi, Q)[0].tolist()
        [0.64, 0.12, 0.24]

    References:
        Hastings 1970.
    """
    pi, Q = _weights(pi), _stochastic("Q", Q)
    pi, Q = _one_dtype(pi, Q)
    checks.shape("pi", pi, (Q.shape[0],))
    inside = pi > 0
    source = jnp.where(inside, pi, 1.0)[:, None]
    back = jnp.where(inside[:, None], pi[None, :] * Q.T / source, jnp.where(inside, 1.0, 0.0)[None])
    moves = jnp.minimum(Q, back) * (1.0 - jnp.eye(Q.shape[0], dtype=Q.dtype))
    return moves + jnp.diag(1.0 - moves.sum(axis=1))


def gibbs_matrix(table: Numbers, scan: str = "systematic") -> Float[Array, "n n"]:
    r"""Transition matrix of the Gibbs sampler of a joint probability table.

    With $K_k$ the matrix that redraws coordinate $k$ given the others, over all $d$ coordinates,

    $$P=K_1\cdots K_d,\qquad P=\Bigl(\tfrac1d\textstyle\sum_kK_k\Bigr)^d,\qquad
      P=K_1\cdots K_d\cdots K_1$$

    for `scan` `"systematic"`, `"random"` and `"palindromic"`. `"parallel"` redraws all at once,
    each given the old others, $P_{ij}=\prod_kp(j_k\mid i_{-k})$: this does **not** leave the
    table invariant, and serves as a proposal for `mh_matrix`.

    Args:
        table: joint weights `(n_1, ..., n_d)`, not negative, up to a factor.
        scan: one of `SCANS`.

    Returns:
        `(n, n)` with $n=n_1\cdots n_d$; state $(i_1,\dots,i_d)$ has the index it has in
        `table.ravel()`. A coordinate whose conditional is $0/0$ stays.

    Raises:
        ValueError: a negative weight, no positive weight, an unknown `scan`.

    Example:
        >>> P = gibbs_matrix([[0.4, 0.1], [0.2, 0.3]])
        >>> float(balance_gap([0.4, 0.1, 0.2, 0.3], P))
        0.0533...

    References:
        Geman and Geman 1984.
    """
    checks.one_of("scan", scan, SCANS)
    table = _floats(table)
    _not_negative("table", table)
    if table.ndim == 0:
        raise ValueError("table must have an axis for each coordinate, got a scalar")
    size, dim = table.size, table.ndim
    states = np.stack(np.unravel_index(np.arange(size), table.shape), axis=1)
    updates, factors = [], []
    for k in range(dim):
        total = jnp.broadcast_to(table.sum(axis=k, keepdims=True), table.shape).ravel()
        # conditional[i, v]: probability that coordinate k becomes v, seen from state i.
        lines = jnp.moveaxis(table, k, -1)[..., None, :]
        lines = jnp.broadcast_to(lines, (*lines.shape[:-2], table.shape[k], table.shape[k]))
        lines = jnp.moveaxis(lines, -2, k).reshape(size, table.shape[k])
        stays = jnp.asarray(states[:, k, None] == np.arange(table.shape[k]), table.dtype)
        conditional = jnp.where(
            (total > 0)[:, None], lines / jnp.where(total > 0, total, 1.0)[:, None], stays
        )
        factor = conditional[:, states[:, k]]
        others_agree = (np.delete(states[:, None] == states[None], k, axis=-1)).all(axis=-1)
        factors.append(factor)
        updates.append(jnp.where(others_agree, factor, 0.0))
    if scan == "parallel":
        return jnp.stack(factors).prod(axis=0)
    if scan == "random":
        return jnp.linalg.matrix_power(jnp.stack(updates).mean(axis=0), dim)
    order = updates if scan == "systematic" else [*updates, *updates[-2::-1]]
    product = order[0]
    for update in order[1:]:
        product = jnp.matmul(product, update, precision="highest")
    return product


def stationary(P: Numbers) -> Float[Array, "n"]:
    r"""Stationary law of a transition matrix: the row vector with $\pi P=\pi$, $\sum_i\pi_i=1$.

    Solved as one linear system, without iterating the chain; periodic chains are no trouble.

    Args:
        P: transition probabilities `(n, n)`.

    Returns:
        The law `(n,)`.

    Raises:
        ValueError: `P` is not square, has a negative entry, a row does not sum to 1, or the law
            is not unique because two sets of states are closed (concrete values only).

    Example:
        >>> print(stationary([[0.9, 0.1], [0.3, 0.7]]))
        [0.75 0.25]
    """
    P = _stochastic("P", P)
    n = P.shape[0]
    if not isinstance(P, jax.core.Tracer):
        _one_closed_set(np.asarray(P))
    # The rows of P^T - I sum to zero, so the last says nothing new and makes room for the sum.
    system = (P.T - jnp.eye(n, dtype=P.dtype)).at[-1].set(1.0)
    return jnp.linalg.solve(system, jnp.zeros(n, P.dtype).at[-1].set(1.0))


def balance_gap(pi: Numbers, P: Numbers) -> Float[Array, ""]:
    r"""How far a chain is from detailed balance, the largest net flow between two states.

    $$\max_{i,j}\,\bigl|\pi_iP_{ij}-\pi_jP_{ji}\bigr|$$

    Zero means reversible, and then also $\pi P=\pi$. The converse does not hold.

    Args:
        pi: weights `(n,)`, up to a factor.
        P: transition probabilities `(n, n)`.

    Returns:
        The gap, a scalar.

    Raises:
        ValueError: shapes, a negative entry, or a row of `P` that does not sum to 1.

    Example:
        A wheel that turns one way is invariant and far from balance:

        >>> wheel = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        >>> float(balance_gap([1.0, 1.0, 1.0], wheel))
        0.333...
    """
    pi, P = _one_dtype(_weights(pi), _stochastic("P", P))
    checks.shape("pi", pi, (P.shape[0],))
    flow = (pi / pi.sum())[:, None] * P
    return jnp.max(jnp.abs(flow - flow.T))


def _floats(value: Numbers) -> Float[Array, "..."]:
    """As a floating array; integers become the default float."""
    array = jnp.asarray(value)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array if floating else array.astype(jnp.result_type(float))


def _one_dtype(
    a: Float[Array, "..."], b: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _not_negative(name: str, value: Float[Array, "..."]) -> None:
    checks.non_negative(name, value)
    if not isinstance(value, jax.core.Tracer) and not np.any(np.asarray(value) > 0):
        raise ValueError(f"{name} must have a positive entry, got none")


def _weights(pi: Numbers) -> Float[Array, "n"]:
    pi = _floats(pi)
    checks.shape("pi", pi, (None,))
    _not_negative("pi", pi)
    return pi


def _stochastic(name: str, matrix: Numbers) -> Float[Array, "n n"]:
    """As an array, every row of which is a law."""
    matrix = _floats(matrix)
    checks.shape(name, matrix, (None, None))
    checks.shape(name, matrix, (matrix.shape[0],) * 2)
    checks.non_negative(name, matrix)
    if not isinstance(matrix, jax.core.Tracer):
        sums = np.asarray(matrix, np.float64).sum(axis=1)
        slack = 10 * matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps)
        bad = np.flatnonzero(np.abs(sums - 1) > slack)
        if bad.size:
            raise ValueError(f"row {bad[0]} of {name} must sum to 1, got {sums[bad[0]]:.6g}")
    return matrix


def _one_closed_set(matrix: np.ndarray) -> None:
    """Refuse a chain that can end in either of two sets and then never leave."""
    reaches = (matrix > 0) | np.eye(len(matrix), dtype=bool)
    for _ in range(len(matrix).bit_length()):
        reaches = (reaches.astype(float) @ reaches.astype(float)) > 0
    closed = [i for i in range(len(matrix)) if np.all(reaches[reaches[i], i])]
    apart = [i for i in closed if not reaches[closed[0], i]]
    if apart:
        raise ValueError(
            "P must have one stationary law, but a chain that has reached state "
            f"{closed[0]} never reaches state {apart[0]}, nor the other way round"
        )
