r"""Brownian increments by counter, and variables that stand in for them in weak schemes.

Step `t` of a trajectory draws from `fold_in(key, t)`, and trajectory `i` has the key
`fold_in(key, i)`: increments do not depend on how many there are, nor on who else is running.

>>> import jax, jax.numpy as jnp
>>> from probjax.diffeq.brownian import coarsen, increments
>>> key = jax.random.key(0)
>>> fine = increments(key, 8, 0.25, jnp.zeros(2))
>>> bool((fine[:4] == increments(key, 4, 0.25, jnp.zeros(2))).all())
True
>>> coarsen(fine, 4).shape
(2, 2)
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, keys

LAWS = ("normal", "three_point")
"""Laws of an increment: Brownian, or three points with the same moments up to the fifth."""

MOST_ENUMERATED = 12
"""Longest path whose continuations are enumerated: 3^12 are half a million."""


def increments(
    key: keys.PRNGKey,
    num_steps: int,
    dt: ArrayLike,
    like: Float[Array, "*shape"] | jax.ShapeDtypeStruct,
    *,
    start: int | Array = 0,
    law: str = "normal",
) -> Float[Array, "num_steps *shape"]:
    r"""Draw the increments of Brownian motions over `num_steps` steps.

    $$\Delta W_t\sim N(0,|dt|),\qquad \text{from } \text{fold\_in}(key, t),\quad
      t=start,\dots,start+num\_steps-1$$

    Args:
        key: key of one trajectory; those of several come from `core.keys.item_keys`.
        num_steps: how many, at least 1.
        dt: step size; its sign does not matter.
        like: shape and dtype of one increment, an entry for each motion.
        start: index of the first step.
        law: `"normal"`, or `"three_point"` for the variables of `three_point`.

    Returns:
        Increments, one row for each step.

    Raises:
        TypeError: `like` is not floating.
        ValueError: `num_steps < 1`, or an unknown law.

    Example:
        >>> dw = increments(jax.random.key(1), 1000, 0.01, jnp.zeros(()))
        >>> print(f"{float(jnp.var(dw)):.4f}")  # 0.01, give or take 0.0005
        0.0095
    """
    num_steps = checks.at_least("num_steps", num_steps, 1)
    checks.one_of("law", law, LAWS)
    checks.floating("like", jnp.zeros((), like.dtype))
    dtype = jnp.dtype(jnp.float32) if jnp.finfo(like.dtype).bits < 32 else like.dtype
    key, scale = keys.as_key(key), jnp.sqrt(jnp.abs(jnp.asarray(dt, dtype)))

    def draw(step: Array) -> Float[Array, "*shape"]:
        step_key = jax.random.fold_in(key, step)
        if law == "normal":
            return jax.random.normal(step_key, like.shape, dtype)
        u = jax.random.uniform(step_key, like.shape, dtype)
        outer = jnp.where(u < 1 / 6, -1.0, jnp.where(u >= 5 / 6, 1.0, 0.0))
        return 3.0**0.5 * outer.astype(dtype)

    steps = jnp.arange(num_steps, dtype=jnp.uint32) + jnp.asarray(start, jnp.uint32)
    return scale * jax.vmap(draw)(steps)


def three_point(
    key: keys.PRNGKey,
    num_steps: int,
    dt: ArrayLike,
    like: Float[Array, "*shape"] | jax.ShapeDtypeStruct,
    *,
    start: int | Array = 0,
) -> Float[Array, "num_steps *shape"]:
    r"""Draw variables with three values and the moments of $\Delta W$ up to the fifth.

    $$P\big(\widehat{\Delta W}=\pm\sqrt{3|dt|}\big)=\tfrac16,\qquad
      P\big(\widehat{\Delta W}=0\big)=\tfrac23$$

    Enough for schemes of weak order two; of no use for single paths.

    Args:
        key: as for `increments`.
        num_steps: as for `increments`.
        dt: as for `increments`.
        like: as for `increments`.
        start: as for `increments`.

    Returns:
        Variables, one row for each step.

    Raises:
        TypeError: as for `increments`.
        ValueError: as for `increments`.

    Example:
        >>> print(jnp.round(three_point(jax.random.key(0), 6, 1 / 3, jnp.zeros(())), 5))
        [ 1. -1.  1.  0. -1.  0.]

    References:
        Kloeden, Platen 1992, *Numerical solution of stochastic differential equations*, 14.2.
    """
    return increments(key, num_steps, dt, like, start=start, law="three_point")


def coarsen(dw: Float[Array, "fine *shape"], factor: int) -> Float[Array, "coarse *shape"]:
    r"""Return the increments of the same path over steps `factor` times as long: their sums.

    Args:
        dw: increments, one row for each step.
        factor: how many steps become one; it must divide their number.

    Returns:
        Increments of the longer steps.

    Raises:
        ValueError: `factor` is below 1 or does not divide the number of steps.

    Example:
        >>> print(coarsen(jnp.array([1.0, 2.0, 3.0, 4.0]), 2))
        [3. 7.]
    """
    factor = checks.at_least("factor", factor, 1)
    if dw.shape[0] % factor:
        raise ValueError(f"factor must divide the {dw.shape[0]} steps of dw, got {factor}")
    return jnp.sum(dw.reshape(dw.shape[0] // factor, factor, *dw.shape[1:]), axis=1)


def enumerate_weak(
    num_steps: int, dt: ArrayLike
) -> tuple[Float[Array, "paths num_steps"], Float[Array, "paths"]]:
    r"""Return every path that `three_point` variables can take, and its probability.

    An expectation over them is a sum of $3^{num\_steps}$ terms, without any sampling error.

    Args:
        num_steps: 1 to 12.
        dt: step size; its sign does not matter.

    Returns:
        Paths of increments, and their weights, which add to one.

    Raises:
        ValueError: `num_steps` outside that range.

    Example:
        >>> paths, weights = enumerate_weak(2, 0.5)
        >>> print(paths.shape, float(jnp.sum(weights * paths.sum(1) ** 2)))  # variance 2 dt
        (9, 2) 1.0
    """
    num_steps = checks.at_least("num_steps", num_steps, 1)
    if num_steps > MOST_ENUMERATED:
        raise ValueError(f"num_steps must be at most {MOST_ENUMERATED}, got {num_steps}")
    values = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=num_steps)))
    weights = np.where(values == 0, 2 / 3, 1 / 6).prod(axis=1)
    dtype = jnp.result_type(float)
    scale = jnp.sqrt(3 * jnp.abs(jnp.asarray(dt, dtype)))
    return scale * jnp.asarray(values, dtype), jnp.asarray(weights, dtype)
