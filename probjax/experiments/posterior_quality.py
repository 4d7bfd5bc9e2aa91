"""What a run of the posterior experiment found: the verdict, a row for each parameter, the cost.

>>> import numpy as np
>>> from probjax.experiments import posterior_quality
>>> draws = np.random.default_rng(0).normal(size=(4, 250, 2)).astype(np.float32)
>>> rows = posterior_quality.table(["a", "b"], draws, {"mean": np.zeros(2)})
>>> rows[0]["name"], abs(rows[0]["z"]) < 4, rows[1]["bulk_ess"] > 500
('a', True, True)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import blackjax.diagnostics
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from probjax import mcmc
from probjax.mcmc.diagnostics import LONG, MANY


def table(
    names: Sequence[str],
    draws: Float[np.ndarray, "chains draws k"],
    truth: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Summarise each parameter.

    Args:
        names: of the parameters.
        draws: their draws, at least four for each chain.
        truth: as for `mcmc.quality_gate`.

    Returns:
        One JSON-ready row for each: `mean`, `sd`, `q05`, `q50`, `q95`, `rhat`, `bulk_ess`,
        `tail_ess`, `mcse`, and with a truth `truth` and `z`; `None` for what is not a number.
    """
    x = jnp.asarray(draws)
    functions = {
        "rhat": blackjax.diagnostics.rhat,
        "bulk_ess": blackjax.diagnostics.ess_bulk,
        "tail_ess": blackjax.diagnostics.ess_tail,
    }
    # BlackJAX's diagnostics promote ranks and dtypes, and squeeze.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = {name: np.ravel(jax.jit(function)(x)) for name, function in functions.items()}
    short = draws.shape[1] < LONG or draws.shape[0] >= MANY
    found["mcse"] = np.asarray(mcmc.mcse(x, "replicate" if short else "autocorrelation"))
    flat = np.asarray(draws, np.float64).reshape(-1, len(names))
    found |= {"mean": flat.mean(axis=0), "sd": flat.std(axis=0, ddof=1)}
    for q in ("05", "50", "95"):
        found["q" + q] = np.quantile(flat, int(q) / 100, axis=0)
    if truth is not None:
        error = found["mcse"].astype(np.float64) ** 2
        if "sd" in truth:
            error = error + np.asarray(truth["sd"]) ** 2 / truth["n_draws"]
        found["truth"] = np.asarray(truth["mean"], np.float64)
        found["z"] = (found["mean"] - found["truth"]) / np.sqrt(error)
    return [
        {"name": name, **{key: _number(values[i]) for key, values in found.items()}}
        for i, name in enumerate(names)
    ]


def verdict(
    draws: Float[np.ndarray, "chains draws k"],
    info: mcmc.InfoView,
    truth: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Judge a run by `mcmc.quality_gate`.

    Args:
        draws: draws of the parameters.
        info: what the kernel told of these steps.
        truth: moments, if they are known.

    Returns:
        The gate's report.
    """
    told = {"is_divergent": info.is_divergent, "is_nonfinite": info.is_nonfinite}
    if not np.isnan(info.energy).all():
        told["energy"] = info.energy
    return mcmc.quality_gate(draws, told, truth=truth)


def cost(
    gate: Mapping[str, Any], *, gradients: Mapping[str, float], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Set the effective sample size against what it cost.

    Args:
        gate: the report of `verdict`.
        gradients: of `warmup` and `sampling`.
        seconds: of the two, and of `steady` sampling, without compilation.

    Returns:
        JSON-ready: the smallest effective sample size over x and x^2 (`None` where there is none),
        and its ratio to gradients and seconds.
    """
    checks = gate["checks"]
    found = [checks[name]["value"] for name in ("bulk_ess", "replicate_ess") if name in checks]
    ess = found[0] if found else None

    def over(amount: float) -> float | None:
        return None if ess is None else _number(ess / amount if amount else math.nan)

    return {
        "min_ess": ess,
        "gradients": {name: _number(value) for name, value in gradients.items()},
        "seconds": dict(seconds),
        "ess_per_gradient": over(gradients["sampling"]),
        "ess_per_gradient_with_warmup": over(gradients["sampling"] + gradients["warmup"]),
        "ess_per_second": over(seconds["steady"]),
        "ess_per_second_with_warmup_and_compilation": over(seconds["sampling"] + seconds["warmup"]),
    }


def hardest(rows: Sequence[Mapping[str, Any]], number: int) -> list[int]:
    """Choose the parameters whose effective sample size is smallest.

    Args:
        rows: the table.
        number: how many at most.

    Returns:
        Their positions, in the table's order.

    Example:
        >>> hardest([{"bulk_ess": 5.0}, {"bulk_ess": None}, {"bulk_ess": 9.0}], 2)
        [0, 1]
    """
    sizes = [row["bulk_ess"] if row["bulk_ess"] is not None else -1.0 for row in rows]
    return sorted(np.argsort(sizes, kind="stable")[:number].tolist())


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
