r"""Score matching on the clean density: with its score known, or by parts without it.

The explicit objective compares with a score that is given. The implicit one needs draws only: an
integration by parts has replaced the unknown score by the divergence of the model.

>>> import jax, jax.numpy as jnp
>>> from probjax.score.explicit import explicit_sm, implicit_sm
>>> x = 2.0 * jax.random.normal(jax.random.key(0), (4096, 1))  # the score of N(0, 4) is -x / 4
>>> slopes = jnp.array([-0.5, -0.25, 0.25])
>>> explicit = jax.vmap(lambda c: explicit_sm(lambda y: c * y, x, -x / 4).mean())(slopes)
>>> implicit = jax.vmap(lambda c: implicit_sm(lambda y: c * y, x).mean())(slopes)
>>> int(explicit.argmin()), int(implicit.argmin())
(1, 1)
"""

from jaxtyping import Array, Float

from probjax.core import checks, rows
from probjax.core.traces import divergence_exact
from probjax.score.denoising import ScoreFn


def explicit_sm(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    target: Float[Array, "*rows"],
    *,
    event_ndim: int = 1,
) -> Float[Array, "*batch"]:
    r"""Explicit score matching: half the squared distance to a known score, one value per example.

    $$\tfrac12\Vert score\_fn(x) - target\Vert^2$$

    Args:
        score_fn: the model, row-wise over `(*B, *event)`.
        x: examples `(*B, *event)`.
        target: the score of their density at `x`, of `x`'s shape.
        event_ndim: how many trailing axes make one example (1 for vectors, 3 for images).

    Returns:
        Values `(*B,)`; take the mean outside.

    Raises:
        ValueError: `target` or `score_fn(x)` has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, -2.0], [0.0, 3.0]])
        >>> print(explicit_sm(lambda y: -2 * y, x, -x))
        [2.5 4.5]

    References:
        Hyvärinen 2005, *Estimation of non-normalized statistical models by score matching*. The
        Fisher divergence of many texts leaves out the one half.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    checks.same_shape("target", target, "x", x)
    score = score_fn(x)
    checks.same_shape("score_fn(x)", score, "x", x)
    return 0.5 * rows.row_sum((score - target.astype(x.dtype)) ** 2, event_ndim=event_ndim)


def implicit_sm(
    score_fn: ScoreFn,
    x: Float[Array, "*rows"],
    *,
    event_ndim: int = 1,
    chunk: int | None = None,
) -> Float[Array, "*batch"]:
    r"""Implicit score matching with the exact trace, one value per example.

    $$\operatorname{tr}\frac{\partial\,score\_fn}{\partial x}(x)
      + \tfrac12\Vert score\_fn(x)\Vert^2$$

    Its mean is that of the explicit objective less $\frac12E\Vert\nabla\log p\Vert^2$, which
    does not depend on the model, provided that $p\cdot score\_fn$ vanishes at the boundary of the
    data's domain. On data without a density (integers, repeated columns) it has no lower bound.

    The batch is linearised once; the `d` basis vectors then go through in a loop.

    Args:
        score_fn: the model, row-wise over `(*B, *event)`.
        x: examples `(*B, *event)`.
        event_ndim: how many trailing axes make one example.
        chunk: how many basis vectors go through at once; one when `None`. For accelerators.

    Returns:
        Values `(*B,)`, of either sign; take the mean outside.

    Raises:
        ValueError: `score_fn(x)` has another shape than `x`, or `chunk < 1`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, -2.0], [0.0, 3.0]])
        >>> print(implicit_sm(lambda y: -y, x))  # -2 + |x|^2 / 2
        [0.5 2.5]

    References:
        Hyvärinen 2005, *Estimation of non-normalized statistical models by score matching*.
    """
    x = rows.working("x", x, event_ndim=event_ndim)
    score, divergence = divergence_exact(score_fn, x, event_ndim=event_ndim, chunk=chunk)
    return divergence + 0.5 * rows.row_sum(score**2, event_ndim=event_ndim)
