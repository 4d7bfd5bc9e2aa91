r"""How many bits a digit costs: held-out likelihood by the probability flow, beside a Gaussian's.

The model's density is that of its probability flow from `noise_scale_max` down to
`noise_scale_min`, a normalised density that is evaluated at dequantised digits. Less the logarithm
of a grey level's width it bounds the log probability of the grey levels themselves.

>>> from probjax.experiments import digits_likelihood
>>> digits_likelihood.LikelihoodConfig().noise_scale_min
0.05
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probjax import datasets, diffusion
from probjax.core import stream, traces
from probjax.experiments import digits_quality
from probjax.experiments.digits_model import Scaling


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig:
    """Negative log-likelihood of held-out digits, no class told."""

    num_digits: int = 250
    """Held-out digits, and as many training digits, with Hutchinson's estimate of the trace."""
    num_exact: int = 32
    """The first of them, once more with the exact trace: 64 derivatives in each evaluation."""
    num_probes: int = 2
    """Directions of Hutchinson's estimate, for each digit its own."""
    num_steps: int = 10
    """Steps of the Runge-Kutta rule `dormand_prince`, six evaluations each."""
    noise_scale_min: float = 0.05
    """Where the flow ends; three fifths of a grey level."""


def log_prob_fn(
    apply: Callable[[Any], diffusion.parameterization.Denoiser],
    config: LikelihoodConfig,
    *,
    noise_scale_max: float,
    exact: bool,
) -> Callable[[Any, Array, Array], Array]:
    """Make the log density of rows.

    Args:
        apply: parameters to denoiser.
        config: steps, probes and the lower end.
        noise_scale_max: the upper end.
        exact: take the exact trace instead of probes.

    Returns:
        `fn(params, key, x) -> (n,)` in nats, with a key for each row.

    Example:
        >>> apply = lambda params: lambda x, noise_scale: 0.0 * x
        >>> fn = log_prob_fn(apply, LikelihoodConfig(noise_scale_min=1.0), noise_scale_max=20.0,
        ...                  exact=True)
        >>> keys = jax.random.split(jax.random.key(0), 1)
        >>> print(fn(None, keys, jnp.zeros((1, 64))) / 64)  # of N(0, 1) at its mean
        [-0.919]
    """

    def fn(params, key, x):
        probes = None
        if not exact:
            draw = jax.vmap(lambda one: traces.probes(one, (config.num_probes, x.shape[-1])))
            probes = jnp.swapaxes(draw(stream(key, "probe")), 0, 1)
        return diffusion.pf_ode_log_prob(
            apply(params),
            x,
            noise_scale_min=config.noise_scale_min,
            noise_scale_max=noise_scale_max,
            num_steps=config.num_steps,
            probes=probes,
        ).log_prob

    return fn


def measure(
    log_prob: dict[str, np.ndarray],
    rows: dict[str, np.ndarray],
    config: LikelihoodConfig,
    scaling: Scaling,
    train: datasets.Images,
) -> dict[str, Any]:
    """Turn log densities into a table.

    Args:
        log_prob: log densities of `held-out, exact`, of `held-out` and of `training`.
        rows: the dequantised rows of `held-out` and of `training`.
        config: what was computed.
        scaling: from pixels to rows.
        train: the training digits.

    Returns:
        JSON-ready `rows`, each with bits per dimension and nats per digit of the grey levels, the
        density's nats per dimension in scaled units, and standard errors over digits; and
        `hutchinson_minus_exact`, the mean over the digits that have both, in bits per dimension,
        with its standard error.
    """
    number = config.num_exact
    fitted = np.asarray(scaling.rows(digits_quality.spread(train)), np.float64)
    gaussian = _gaussian_log_prob(rows["held-out"], fitted)
    log_scale = math.log(scaling.scale / train.levels)
    table = [
        _row("flow, exact trace", "held-out", log_prob["held-out, exact"], log_scale),
        _row("flow, Hutchinson", "held-out, the same", log_prob["held-out"][:number], log_scale),
        _row("Gaussian baseline", "held-out, the same", gaussian[:number], log_scale),
        _row("flow, Hutchinson", "held-out", log_prob["held-out"], log_scale),
        _row("Gaussian baseline", "held-out", gaussian, log_scale),
        _row("flow, Hutchinson", "training", log_prob["training"], log_scale),
    ]
    both = log_prob["held-out"][:number].astype(np.float64) - log_prob["held-out, exact"]
    gap = -both / (64 * math.log(2))
    return {
        "noise_scale_min": config.noise_scale_min,
        "num_evaluations": 6 * config.num_steps,
        "rows": table,
        "hutchinson_minus_exact": float(gap.mean()),
        "hutchinson_minus_exact_se": float(gap.std(ddof=1) / math.sqrt(number)),
    }


def _row(model: str, digits: str, log_prob: np.ndarray, log_scale: float) -> dict[str, Any]:
    """One row of the table."""
    value = np.asarray(log_prob, np.float64)
    bits = -(value + 64 * log_scale) / (64 * math.log(2))  # `bits_per_dim`, in double precision
    error = float(bits.std(ddof=1) / math.sqrt(len(bits)))
    return {
        "sampler": model,
        "digits": digits,
        "num_digits": len(value),
        "bits_per_dim": float(bits.mean()),
        "bits_per_dim_se": error,
        "nats": float(bits.mean() * 64 * math.log(2)),
        "nats_se": error * 64 * math.log(2),
        "density_nats_per_dim": float(-value.mean() / 64),
    }


def _gaussian_log_prob(rows: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Log density of rows under the Gaussian of the fitted ones."""
    gap = np.asarray(rows, np.float64) - fitted.mean(0)
    cov = np.cov(fitted.T)
    squares = np.einsum("ni,ni->n", gap, np.linalg.solve(cov, gap.T).T)
    return -0.5 * (squares + np.linalg.slogdet(cov)[1] + gap.shape[1] * math.log(2 * math.pi))
