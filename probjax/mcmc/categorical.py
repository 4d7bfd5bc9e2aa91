r"""Draws from a categorical law by the Gumbel-max trick: one, several, or over a sharded axis.

Add an independent Gumbel number to each logit and take the place of the largest sum: place $k$
comes out with probability $e^{logits_k}/\sum_ie^{logits_i}$. No normalising sum is needed, so an
axis of categories that lives on many devices needs no more than the exchange of one maximum.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> logits = jnp.log(jnp.array([0.2, 0.0, 0.8]))
>>> draws = mcmc.gumbel_max(jax.random.key(0), logits, num_samples=10_000)
>>> print((jnp.bincount(draws, length=3) / 10_000).round(1))
[0.2 0.  0.8]
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.core import checks, rows
from probjax.core.keys import RowKeys, as_key
from probjax.mcmc.driver import row_step_key

TILE = 1 << 16
"""About how many Gumbel numbers `gumbel_max` holds at once when it draws several samples."""


def gumbel_max(
    key: RowKeys,
    logits: Float[Array, "*shape"],
    *,
    axis: int = -1,
    num_samples: int | None = None,
    mode: str = "high",
) -> Int[Array, "..."]:
    r"""Draw from the categorical law with these unnormalised log-probabilities.

    $$k = \arg\max_i\,(logits_i + G_i), \qquad P(G_i \le g) = e^{-e^{-g}}$$

    A logit of $-\infty$ is never drawn. Where a row has no finite logit, or holds `NaN` or
    $+\infty$, the draw is -1.

    Args:
        key: one key, or a key for each row (each distribution).
        logits: log-probabilities up to a constant of each row's own.
        axis: the axis of the categories.
        num_samples: how many draws from each row; sample `i` uses `fold_in(key, i)`. The draws
            are made in tiles, so samples times categories is never in memory.
        mode: `"high"`, or `"low"`, which is twice as fast and in float32 too rarely draws what has
            a probability below about 1e-7 (the default of `jax.random.categorical`).

    Returns:
        Places along `axis`, int32: `logits`' shape without `axis`, with `num_samples` in front
        if that is given.

    Raises:
        ValueError: the axis of the categories is empty, `num_samples` is negative, or `mode` is
            unknown.

    Example:
        >>> logits = jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])
        >>> gumbel_max(jax.random.key(0), logits)
        Array([ 0, -1], dtype=int32)
        >>> gumbel_max(jax.random.key(0), logits, num_samples=3).shape
        (3, 2)

    References:
        Maddison, Tarlow, Minka 2014, *A\* sampling*. Up to the keys and `mode` this is
        `jax.random.categorical`, which returns 0 where nothing can be drawn.
    """
    checks.one_of("mode", mode, ("high", "low"))
    logits = jnp.moveaxis(_logits(logits), axis, -1)

    def draw(sample_key: RowKeys) -> Int[Array, "..."]:
        perturbed = _perturb(sample_key, logits, mode)
        place = jnp.argmax(perturbed, axis=-1).astype(jnp.int32)
        return jnp.where(jnp.isfinite(jnp.max(perturbed, axis=-1)), place, -1)

    if num_samples is None:
        return draw(key)
    samples = jnp.arange(checks.at_least("num_samples", num_samples, 0), dtype=jnp.int32)
    if num_samples == 0:
        return jnp.zeros((0, *logits.shape[:-1]), jnp.int32)
    tile = max(1, min(num_samples, TILE // max(logits.size, 1)))
    return jax.lax.map(lambda i: draw(row_step_key(key, i)), samples, batch_size=tile)


def gumbel_top_k(
    key: RowKeys, logits: Float[Array, "*batch categories"], k: int
) -> Int[Array, "*batch k"]:
    r"""Draw `k` different places, one after the other, without replacement.

    The `k` largest of $logits_i+G_i$ in falling order: the first is a draw from the categorical
    law, the next from what is left, and so on (the law of Plackett and Luce),

    $$P(i_1,\dots,i_k)=\prod_{j=1}^k\frac{e^{logits_{i_j}}}
      {\sum_{i\notin\{i_1,\dots,i_{j-1}\}}e^{logits_i}} .$$

    Args:
        key: one key, or a key for each row.
        logits: log-probabilities up to a constant of each row's own, `(*B, categories)`.
        k: how many places, static.

    Returns:
        Places in the order of their draw, int32 `(*B, k)`; -1 from where the finite logits run out,
        and everywhere in a row with `NaN` or $+\infty$.

    Raises:
        ValueError: `k < 1`, or no categories.

    Example:
        >>> logits = jnp.log(jnp.array([0.4, 0.6, 0.0]))
        >>> sorted(gumbel_top_k(jax.random.key(0), logits, 3).tolist())
        [-1, 0, 1]

    References:
        Kool, van Hoof, Welling 2019, *Stochastic beams and where to find them*. The first place
        equals `gumbel_max` with the same key.
    """
    checks.at_least("k", k, 1)
    logits = _logits(logits)
    num_categories = logits.shape[-1]
    values, places = jax.lax.top_k(_perturb(key, logits, "high"), min(k, num_categories))
    places = jnp.where(jnp.isfinite(values), places.astype(jnp.int32), -1)
    padding = [(0, 0)] * (places.ndim - 1) + [(0, max(0, k - num_categories))]
    return jnp.pad(places, padding, constant_values=-1)


def gumbel_max_sharded(
    key: RowKeys,
    logits_shard: Float[Array, "*batch categories"],
    *,
    axis_name: str | tuple[str, ...] | None,
    block: int = 1024,
) -> Int[Array, "*batch"]:
    r"""Draw from a categorical law whose categories are sharded over a mesh axis.

    For use inside `jax.shard_map`. The noise of the categories $cb, \dots, (c+1)b-1$ comes from
    `fold_in(key, c)`, $b=block$, with the global block $c$: every number of devices gives the same
    draw, bit for bit, whether or not blocks end where shards end. Devices exchange the largest sum
    and its place, two numbers for each row; equal sums go to the smallest place.

    Args:
        key: one key, or a key for each row; the same on all devices of the axis.
        logits_shard: this device's categories, `(*B, categories / devices)`.
        axis_name: the mesh axis (or axes) of the categories; `None` if they are all here.
        block: categories that share a key, and about how much noise is held for a row at once.

    Returns:
        Global places `(*B,)`, int32, equal on all devices; -1 where a row has no finite logit, or
        holds `NaN` or $+\infty$, on any device.

    Raises:
        ValueError: `block < 1`, or no categories.

    Example:
        >>> from jax.sharding import PartitionSpec as P
        >>> from probjax import sharding
        >>> logits = jnp.sin(jnp.arange(24.0)).reshape(2, 12)
        >>> def draw(x, axis_name):
        ...     return gumbel_max_sharded(jax.random.key(0), x, axis_name=axis_name, block=5)
        >>> on_four = jax.jit(jax.shard_map(
        ...     lambda x: draw(x, "items"), mesh=sharding.make_mesh(4),
        ...     in_specs=P(None, "items"), out_specs=P()))
        >>> on_four(logits).tolist() == draw(logits, None).tolist()
        True
    """
    checks.at_least("block", block, 1)
    logits = _logits(logits_shard)
    length = logits.shape[-1]
    shard = jnp.zeros((), jnp.int32) if axis_name is None else jax.lax.axis_index(axis_name)
    first_block, offset = jnp.divmod(shard * length, block)

    # The shard is set into whole blocks; where shards are not made of blocks, one more is needed.
    num_blocks = length // block if length % block == 0 else (length - 1) // block + 2
    width = num_blocks * block
    behind = jnp.full_like(logits, -jnp.inf, shape=(*logits.shape[:-1], width - length))
    blocks = jnp.roll(jnp.concatenate([logits, behind], axis=-1), offset, axis=-1)
    blocks = jnp.moveaxis(blocks.reshape(*logits.shape[:-1], num_blocks, block), -2, 0)

    def best_of_block(numbered: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        number, block_key, values = numbered
        perturbed = _perturb(block_key, values, "high")
        place = jnp.argmax(perturbed, axis=-1).astype(jnp.int32) + number * block
        return jnp.max(perturbed, axis=-1), place

    numbers = first_block + jnp.arange(num_blocks, dtype=jnp.int32)
    block_keys = jax.vmap(lambda number: row_step_key(key, number))(numbers)
    tops, places = jax.lax.map(best_of_block, (numbers, block_keys, blocks))
    # A broken block must win here; as NaN it would not survive the maximum over devices.
    tops = jnp.where(jnp.isnan(tops), jnp.inf, tops)
    top = jnp.max(tops, axis=0)
    winner = jnp.argmax(tops, axis=0)[None]
    place = jnp.squeeze(jnp.take_along_axis(places, winner, axis=0), axis=0)
    if axis_name is not None:
        over_all = jax.lax.pmax(top, axis_name)
        last = jnp.full_like(place, jnp.iinfo(jnp.int32).max)
        place = jax.lax.pmin(jnp.where(top == over_all, place, last), axis_name)
        top = over_all
    return jnp.where(jnp.isfinite(top), place, -1)


def _logits(logits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The logits in the precision to compute in, with at least one category."""
    logits = rows.working("logits", logits, event_ndim=1)
    if 0 in logits.shape[-1:]:
        raise ValueError(f"logits must have at least one category, got shape {logits.shape}")
    return logits


def _perturb(
    key: RowKeys, logits: Float[Array, "*batch categories"], mode: str
) -> Float[Array, "*batch categories"]:
    """Logits plus Gumbel noise; rows with NaN or +inf become NaN throughout."""
    key = as_key(key)
    batch = logits.shape[:-1]
    if key.ndim == 0:
        noise = jax.random.gumbel(key, logits.shape, logits.dtype, mode=mode)
    elif key.shape == batch:
        noise = jax.vmap(
            lambda k: jax.random.gumbel(k, logits.shape[-1:], logits.dtype, mode=mode)
        )(key.reshape(-1)).reshape(logits.shape)
    else:
        raise ValueError(
            f"key must be one key or keys of shape {batch}, one for each row, got {key.shape}"
        )
    broken = jnp.any(jnp.isnan(logits) | jnp.isposinf(logits), axis=-1, keepdims=True)
    return jnp.where(broken, jnp.nan, logits + noise)
