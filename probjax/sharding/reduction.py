"""Sums whose order of addition is fixed.

Floating-point addition is not associative, so a sum whose grouping follows the number of devices
changes its last bits with it. Here the order is that of the leading axis, whatever the mesh:

>>> import jax.numpy as jnp
>>> from probjax import sharding
>>> float(sharding.ordered_sum(jnp.array([1e8, 1.0, -1e8], jnp.float32)))
0.0
"""

from typing import Any

import jax
import jax.numpy as jnp

from probjax.core import checks


def ordered_sum(values: Any) -> Any:
    r"""Sum over the leading axis, one addition after the other from the first to the last.

    $$(\dots((values_0 + values_1) + values_2) + \dots) + values_{n-1}$$

    Args:
        values: pytree of arrays `(n, ...)`, `n >= 1`.

    Returns:
        The same pytree without the leading axes.

    Raises:
        ValueError: there is nothing to sum.

    Example:
        >>> import jax.numpy as jnp
        >>> print(ordered_sum(jnp.arange(6.0).reshape(3, 2)))
        [6. 9.]
    """
    leaves = jax.tree.leaves(values)
    checks.at_least("number of summands", min((leaf.shape[0] for leaf in leaves), default=0), 1)
    first = jax.tree.map(lambda leaf: leaf[0], values)
    rest = jax.tree.map(lambda leaf: leaf[1:], values)
    return jax.lax.scan(lambda acc, one: (jax.tree.map(jnp.add, acc, one), None), first, rest)[0]
