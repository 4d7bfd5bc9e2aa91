r"""Batches as a pure function of key and step.

Training step $t$ takes the global positions $tB, \dots, tB + B - 1$ of one endless sequence, which
runs through the data once per epoch, each epoch in its own order:

$$\text{position } p \;\mapsto\; \pi_{\lfloor p/n\rfloor}(p \bmod n), \qquad
\pi_e = \text{epoch\_permutation}(\text{key}, e, n).$$

So every example occurs exactly once per epoch, also when the batch size does not divide the number
of examples (a batch then holds the end of one epoch and the start of the next), and a run resumed
at any step sees what it would have seen.

>>> import jax
>>> from probjax import datasets
>>> key = jax.random.key(0)
>>> seen = [i for step in range(5) for i in datasets.batch_indices(key, step, 10, 4).tolist()]
>>> sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
True
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from probjax.core import checks, keys


def epoch_permutation(
    key: keys.PRNGKey, epoch: int | Int[Array, ""], num_examples: int
) -> Int[Array, " num_examples"]:
    r"""Return the order in which an epoch visits the examples.

    Args:
        key: one key for the whole run.
        epoch: number of the epoch from 0, traced or not.
        num_examples: how many examples there are.

    Returns:
        The permutation $\pi_{epoch}$, int32.

    Raises:
        ValueError: there is no example.

    Example:
        >>> import jax
        >>> sorted(epoch_permutation(jax.random.key(0), 3, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    checks.at_least("num_examples", num_examples, 1)
    epoch_key = keys.step_key(keys.stream(key, "data"), epoch)
    return jax.random.permutation(epoch_key, jnp.arange(num_examples, dtype=jnp.int32))


def batch_indices(
    key: keys.PRNGKey, step: int | Int[Array, ""], num_examples: int, batch_size: int
) -> Int[Array, " batch_size"]:
    r"""Return the examples of training step `step`.

    Entry $j$ is $\pi_e(p \bmod n)$ with $p = \text{step}\cdot\text{batch\_size} + j$ and
    $e = \lfloor p/n\rfloor$. Costs one sort of `num_examples` numbers for each epoch touched (one
    if `batch_size` divides `num_examples`, otherwise at least two).

    Args:
        key: one key for the whole run.
        step: number of the step from 0, traced or not.
        num_examples: how many examples there are, $n$.
        batch_size: how many are taken, also more than $n$.

    Returns:
        Indices, int32.

    Raises:
        ValueError: there is no example, the batch is empty, or the least common multiple of both
            sizes does not fit into 32 bits.

    Example:
        >>> import jax
        >>> key = jax.random.key(0)
        >>> whole = batch_indices(key, 2, 6, 6)
        >>> bool((whole == epoch_permutation(key, 2, 6)).all())
        True
    """
    checks.at_least("num_examples", num_examples, 1)
    checks.at_least("batch_size", batch_size, 1)
    common = math.lcm(num_examples, batch_size)
    if common + batch_size >= 2**31:
        raise ValueError(
            f"the least common multiple of num_examples={num_examples} and "
            f"batch_size={batch_size} must be below 2**31, got {common}"
        )
    # Steps repeat their place within an epoch with this period; so no product overflows.
    steps_per_period, epochs_per_period = common // batch_size, common // num_examples
    step = jnp.asarray(step, jnp.int32)
    period, step_in_period = step // steps_per_period, step % steps_per_period
    start = step_in_period * batch_size
    epoch_in_period = start // num_examples
    first_epoch = period * epochs_per_period + epoch_in_period
    offset = start - epoch_in_period * num_examples + jnp.arange(batch_size, dtype=jnp.int32)

    # The furthest that a batch can start into an epoch is n - gcd(n, B).
    furthest = num_examples - math.gcd(num_examples, batch_size)
    num_epochs = (furthest + batch_size - 1) // num_examples + 1
    orders = jax.vmap(lambda epoch: epoch_permutation(key, epoch, num_examples))(
        first_epoch + jnp.arange(num_epochs, dtype=jnp.int32)
    )
    return orders.reshape(-1)[offset]
