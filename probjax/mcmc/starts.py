r"""Where chains begin: scattered points brought near the mass of the target by Pathfinder.

Chains that begin far out may end in a region that holds next to nothing of the target and that a
sampler leaves once in a million steps. Its mass is seen from outside: normal approximations along
an optimiser's paths tell how much each region weighs, and starts are drawn accordingly.

>>> import jax, jax.numpy as jnp
>>> from probjax import mcmc
>>> def logdensity_fn(x):  # two modes, the one at -5 with e**-20 of the mass of that at 5
...     return jnp.logaddexp(-0.5 * jnp.sum((x - 5) ** 2), -20 - 0.5 * jnp.sum((x + 5) ** 2))
>>> scattered = jax.random.uniform(jax.random.key(0), (16, 2), minval=-8.0, maxval=8.0)
>>> starts = mcmc.pathfinder_starts(jax.random.key(1), logdensity_fn, scattered)
>>> print((scattered.mean(1) > 0).sum(), (starts.positions.mean(1) > 0).sum())
8 16
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.vi import multipathfinder
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from probjax.core import checks
from probjax.core.keys import PRNGKey, as_key, stream
from probjax.mcmc.categorical import gumbel_top_k
from probjax.mcmc.kernels import LogDensityFn
from probjax.mcmc.program import count_chains, on_host

MAX_LINE_SEARCH = 20
"""Steps of L-BFGS's line search; all paths wait for the longest."""


class Starts(NamedTuple):
    """Where chains may begin, and how it was found."""

    positions: Any
    """As those given, leaves `(C, ...)`."""
    path: Int[Array, " C"]
    """Which of the given positions each came from."""
    pareto_k: Float[Array, ""]
    """Shape of the weights' tail: below 0.7 the draws are nearly draws from the target."""


def pathfinder_starts(
    key: PRNGKey,
    logdensity_fn: LogDensityFn,
    positions: Any,
    *,
    num_draws: int = 25,
    max_iterations: int = 30,
) -> Starts:
    r"""Draw starts of chains by multi-path Pathfinder: BlackJAX's, without replacement.

    From each position L-BFGS climbs the log density $\ln\pi$; along its path lie normal
    approximations, of which that with the largest $E_q[\ln\pi-\ln q]$ gives `num_draws` points.
    All points $x_i$ of all paths together are drawn from with weights

    $$w_i\propto\frac{\pi(x_i)}{q_i(x_i)},$$

    their largest smoothed by a Pareto tail, $C$ different ones. A region whose mass is $e^{-20}$
    of the target's is thus not begun in, however many paths lead there. Regions of comparable
    mass keep their shares only as far as the paths find them: begin scattered.

    Starts decide where chains begin, not what they converge to.

    Args:
        key: one key for all.
        logdensity_fn: log density of one position.
        positions: pytree with leaves `(C, ...)`, one path from each.
        num_draws: points of each path, at least 2.
        max_iterations: of L-BFGS on each path.

    Returns:
        `Starts`.

    Raises:
        ValueError: `num_draws` or `max_iterations` is too small, or fewer than $C$ points have a
            finite weight.
        TypeError: positions are not floating.

    Example:
        >>> pathfinder_starts(jax.random.key(1), jnp.sum, jnp.zeros((8, 3)), num_draws=1)
        Traceback (most recent call last):
        ValueError: num_draws must be at least 2, got 1

    References:
        Zhang, Carpenter, Gelman and Vehtari 2022; BlackJAX's `multi_approximate`.
    """
    checks.at_least("num_draws", num_draws, 2)
    checks.at_least("max_iterations", max_iterations, 1)
    num_chains = count_chains("positions", positions)
    for path, leaf in jax.tree_util.tree_leaves_with_path(positions):
        checks.floating(f"positions{jax.tree_util.keystr(path)}", leaf)
    program = _program(logdensity_fn, num_draws, max_iterations)
    starts, is_drawn = program(as_key(key), positions)
    if not on_host(is_drawn).all():
        raise ValueError(
            f"positions: of {num_chains * num_draws} points around {num_chains} paths "
            f"{int(np.sum(on_host(is_drawn)))} have a finite weight, fewer than there are chains"
        )
    return starts


@functools.lru_cache(maxsize=64)
def _program(logdensity_fn: LogDensityFn, num_draws: int, max_iterations: int) -> Any:
    def run(key: Array, positions: Any) -> tuple[Starts, Array]:
        _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], positions))
        flat = jax.vmap(lambda position: ravel_pytree(position)[0])(positions)
        # BlackJAX mixes whole numbers, rows and matrices: not under strict promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found, _ = multipathfinder.multi_approximate(
                stream(key, "proposal"), lambda x: logdensity_fn(unravel(x)), flat, num_draws,
                maxiter=max_iterations, maxls=MAX_LINE_SEARCH,
            )  # fmt: skip
            fine = jnp.isfinite(found.logp) & jnp.isfinite(found.logq)
            fine &= jnp.all(jnp.isfinite(found.samples), axis=-1)
            found = found._replace(
                logp=jnp.where(fine, found.logp, -jnp.inf), logq=jnp.where(fine, found.logq, 0.0)
            )
            log_weights, pareto_k = multipathfinder.psis_weights(found)
        log_weights = jnp.where(fine.reshape(-1), log_weights, -jnp.inf)
        chosen = gumbel_top_k(stream(key, "sample"), log_weights, flat.shape[0])
        points = found.samples.reshape(-1, flat.shape[1]).astype(flat.dtype)[chosen]
        return Starts(jax.vmap(unravel)(points), chosen // num_draws, pareto_k), chosen >= 0

    return jax.jit(run)
