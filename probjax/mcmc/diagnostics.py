r"""Diagnostics of many chains, and a gate that says pass, review or fail with its reasons.

Draws are `(C, N, ...)`: chains, draws of a chain, then what one draw holds; each entry of a draw
is judged by itself. Rank-normalised split R-hat and bulk and tail effective sample size are
BlackJAX's. Here is what chains too short for those need, which compare chains with one another and
work from one draw for each chain on.

>>> import jax
>>> from probjax.mcmc import diagnostics
>>> draws = jax.random.normal(jax.random.key(0), (1024, 2, 3))
>>> print(diagnostics.nested_rhat(draws, 16).round(2))
[1. 1. 1.]
>>> print(diagnostics.quality_gate(draws, None, num_superchains=16)["verdict"])
pass
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import blackjax.diagnostics
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float
from scipy import stats

from probjax.core import checks

LIMITS = {
    "rank_rhat": (1.01, 1.05),
    "bulk_ess": (400.0, 100.0),
    "tail_ess": (400.0, 100.0),
    "replicate_ess": (400.0, 100.0),
    "divergence_rate": (0.0015, 0.01),
    "e_bfmi": (0.3, 0.2),
}
"""For each check of `quality_gate` the value up to which a run passes and up to which it is worth
a review. The limits of nested R-hat and of the z-scores depend on the run."""

LONG, MANY = 100, 256
"""From how many draws on rank R-hat is read; from how many chains on ESS is read between chains."""


def nested_rhat(
    draws: Float[Array, "chains draws *event"], num_superchains: int
) -> Float[Array, "*event"]:
    r"""Compare groups of chains that began at one point each: R-hat for many short chains.

    With $K$ superchains of $M$ chains,

    $$\mathfrak n\hat R=\sqrt{1+B/W},\quad B=\mathrm{Var}_k(\bar x_k),\quad
      W=\frac1K\sum_k\Bigl(\mathrm{Var}_m(\bar x_{km})+\frac1M\sum_m\mathrm{Var}_n(x_{kmn})\Bigr)$$

    Variances divide by their number less one, and are 0 for a single member. At stationarity with
    one draw for each chain the value is near $\sqrt{1+1/M}$.

    Args:
        draws: `(C, N, ...)`; the chains of a superchain stand together and began at one point.
        num_superchains: $K\ge2$, a divisor of `C`.

    Returns:
        The value for each entry of a draw; `NaN` where nothing varies within superchains.

    Raises:
        ValueError: $K<2$, or `C` is not a multiple of it.

    Example:
        >>> import jax.numpy as jnp
        >>> print(nested_rhat(jnp.arange(8.0).reshape(4, 2, 1), 2))  # sqrt(1 + 8 / 2.5)
        [2.0494]

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari, Gelman 2024, *Nested R-hat*.
    """
    draws = _draws(draws)
    num_chains = draws.shape[0]
    checks.at_least("num_superchains", num_superchains, 2)
    if num_chains % num_superchains:
        raise ValueError(
            f"the number of chains must be a multiple of num_superchains={num_superchains}, "
            f"got {num_chains}"
        )
    within = _variance(draws, 1).reshape(num_superchains, -1, *draws.shape[2:])
    means = _mean(draws, 1).reshape(within.shape)
    w = jnp.mean(_variance(means, 1) + jnp.mean(within, axis=1), axis=0)
    b = _variance(_mean(means, 1), 0)
    return jnp.where(w > 0, jnp.sqrt(1 + b / jnp.where(w > 0, w, 1.0)), jnp.nan)


def e_bfmi(energy: Float[Array, "chains draws"]) -> Float[Array, "chains"]:
    r"""Compare the steps of the energy with its spread: can fresh momenta move it enough.

    $$\text{E-BFMI}=\frac{\sum_{n\ge2}(E_n-E_{n-1})^2}{\sum_n(E_n-\bar E)^2}$$

    Independent energies give about 2; below 0.3 a chain diffuses slowly between energies and
    hardly visits the tails.

    Args:
        energy: the Hamiltonian after each momentum draw, `(C, N)`, $N\ge2$.

    Returns:
        One value for each chain; `NaN` for constant or non-finite energies.

    Raises:
        ValueError: fewer than two draws.

    Example:
        >>> import jax.numpy as jnp
        >>> print(e_bfmi(jnp.array([[1.0, 3.0, 2.0, 5.0, 4.0]])))
        [1.5]

    References:
        Betancourt 2016, *Diagnosing suboptimal cotangent disintegrations*. ArviZ's `bfmi` is this
        times $N/(N-1)$.
    """
    checks.floating("energy", energy)
    checks.at_least("number of draws of energy", energy.shape[1], 2)
    spread = jnp.sum((energy - _mean(energy, 1)[:, None]) ** 2, axis=1)
    steps = jnp.sum(jnp.diff(energy, axis=1) ** 2, axis=1)
    return jnp.where(spread > 0, steps / jnp.where(spread > 0, spread, 1.0), jnp.nan)


def ess_replicate(draws: Float[Array, "chains draws *event"]) -> Float[Array, "*event"]:
    r"""Effective sample size from independent chains alone, for any number of draws $N\ge1$.

    $$\text{ESS}=\frac{\mathrm{Var}_{cn}(x_{cn})}{\text{MCSE}^2},\qquad
      \text{MCSE}^2=\frac1C\mathrm{Var}_c(\bar x_c)$$

    No autocorrelation is estimated, so short chains cost nothing in accuracy; the relative error
    is about $\sqrt{2/C}$. The chains must be independent and past their warm-up.

    Args:
        draws: `(C, N, ...)`, $C\ge2$.

    Returns:
        The number for each entry of a draw: 0 where no draw differs, infinite where only the means
        of the chains agree exactly.

    Raises:
        ValueError: fewer than two chains.

    Example:
        >>> import jax
        >>> draws = jax.random.normal(jax.random.key(0), (2000, 5))
        >>> print(bool(abs(ess_replicate(draws) / 10_000 - 1) < 4 * (2 / 2000) ** 0.5))
        True
    """
    squared = mcse(draws) ** 2
    draws = _draws(draws)
    spread = _variance(draws.reshape(1, -1, *draws.shape[2:]), 1)[0]
    ratio = spread / jnp.where(squared > 0, squared, 1.0)
    return jnp.where(squared > 0, ratio, jnp.where(spread > 0, jnp.inf, spread))


def mcse(
    draws: Float[Array, "chains draws *event"], method: str = "replicate"
) -> Float[Array, "*event"]:
    r"""Monte Carlo standard error of the mean over all draws.

    $$\text{MCSE}^2=\frac1C\mathrm{Var}_c(\bar x_c)\ \text{("replicate")},\qquad
      \text{MCSE}^2=\frac{\mathrm{Var}_{cn}(x_{cn})}{\text{ESS}}\ \text{("autocorrelation")}$$

    Args:
        draws: `(C, N, ...)`.
        method: `"replicate"`, from the means of independent chains, exact for any $N$ and good from
            some tens of chains on; or `"autocorrelation"`, with BlackJAX's `effective_sample_size`,
            for few long chains.

    Returns:
        Standard errors, one for each entry of a draw. With `"autocorrelation"` `NaN` where no
        draw differs.

    Raises:
        ValueError: unknown `method`, fewer than two chains for the one or four draws for the other.

    Example:
        >>> import jax.numpy as jnp
        >>> print(mcse(jnp.array([[1.0, 3.0], [4.0, 6.0]])))  # means 2 and 5, Var 4.5, over 2
        1.5

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021, *Rank-normalization, folding, and
        localization*.
    """
    checks.one_of("method", method, ("replicate", "autocorrelation"))
    draws = _draws(draws)
    num_chains, num_draws = draws.shape[:2]
    if method == "replicate":
        checks.at_least("number of chains", num_chains, 2)
        return jnp.sqrt(_variance(_mean(draws, 1), 0) / num_chains)
    checks.at_least("number of draws", num_draws, 4)
    ess = _blackjax(blackjax.diagnostics.effective_sample_size, draws)
    return jnp.sqrt(_variance(draws.reshape(1, -1, *draws.shape[2:]), 1)[0] / ess)


def ess_at_cap(
    ess: Float[ArrayLike, "*event"], num_chains: int, num_draws: int
) -> Bool[Array, "*event"]:
    r"""Tell where an ESS has run into the largest value that its estimator allows.

    $$\text{cap}=CN\log_{10}(CN)$$

    Where it is reached (within 1 %) the estimate says no more than that draws are negatively
    correlated; with many short chains it can be far above the truth. Use `ess_replicate`.

    Args:
        ess: estimates by `blackjax.diagnostics` (or Stan, ArviZ).
        num_chains: `C`.
        num_draws: `N`.

    Returns:
        Flags in `ess`' shape.

    Raises:
        ValueError: a number below one.

    Example:
        >>> print(ess_at_cap(12_040.0, 4, 1000), ess_at_cap(4_100.0, 4, 1000))
        False False
        >>> print(ess_at_cap(14_400.0, 4, 1000))  # 4000 log10(4000) = 14408
        True
    """
    total = checks.at_least("num_chains", num_chains, 1) * checks.at_least(
        "num_draws", num_draws, 1
    )
    cap = total * math.log10(total)
    return jnp.abs(jnp.asarray(ess) - cap) <= 0.01 * cap


def quality_gate(
    draws: Any,
    infos: Any,
    *,
    truth: Mapping[str, ArrayLike] | None = None,
    num_superchains: int | None = None,
) -> dict[str, Any]:
    r"""Judge a run: `"pass"`, `"review"` or `"fail"`, with the number and limit behind each reason.

    For $x$ and $x^2$ of every entry of a draw: rank R-hat up to 1.01 (review to 1.05) and bulk and
    tail ESS from 400 (100). Below 100 draws for each chain instead nested R-hat,
    $\mathfrak n\hat R^2-1\le1/M+0.02$ (0.10); below 100 draws or from 256 chains on, ESS between
    chains. Divergent or non-finite transitions up to 0.0015 (0.01); the smallest E-BFMI from 0.3
    (0.2). A state that is not finite, a chain that never moves, an entry that never varies, or a
    single chain: fail. What `infos` does not hold is not judged and stands as `None`.

    With `truth` the largest $|z|$ of the means must be below Šidák's bound for its number of
    means at 5 % (review to 4), $z=(\bar x-\mu)/\sqrt{\text{MCSE}^2+\text{sd}^2/n\_draws}$.

    Args:
        draws: array `(C, N, ...)`, or a pytree of such.
        infos: what the kernel reported, leaves `(C, N)`: an object or mapping that may have
            `is_divergent`, `is_nonfinite`, `energy`; or `None`.
        truth: `mean`, and if known `mean_sq` (of $x^2$), each of the shape of a draw, flattened in
            the order of the draws' leaves; for a truth that is itself estimated from `n_draws`
            draws also `sd` and `sd_sq`.
        num_superchains: groups of neighbouring chains that began at one point each. If not given
            each chain counts as its own group, which is strict.

    Returns:
        Of Python numbers and strings only, so that `json.dumps` takes it: `verdict`; `reasons`, one
        sentence for each check that did not pass; `checks`, by name the `value` (`None` if it is
        not a number), the limits `pass` and `review`, and the `verdict`; `num_chains`, `num_draws`,
        `num_entries`.

    Raises:
        ValueError: the leaves of `draws` do not begin with the same `(C, N)`, or a field of
            `infos` or `truth` has another shape.

    Example:
        >>> draws = jax.random.normal(jax.random.key(0), (4, 500, 2))
        >>> report = quality_gate(draws, {"is_divergent": jnp.zeros((4, 500), bool)})
        >>> report["verdict"], report["reasons"], report["checks"]["divergence_rate"]["value"]
        ('pass', [], 0.0)
        >>> quality_gate(draws.at[1].set(0.5), None)["reasons"][0]
        'chain 1: never moves'
    """
    x = _entries(draws)
    num_chains, num_draws, _ = x.shape
    report = _Report()
    broken = ~np.isfinite(x).all(axis=-1)
    if broken.any():
        where = _chains(np.flatnonzero(broken.any(axis=1)).tolist())
        report.add("fail", f"{where}: states that are not finite")
    if num_chains == 1:
        report.add("fail", "one chain only: nothing to compare it with")
    still = np.flatnonzero((x == x[:, :1]).all(axis=(1, 2)))
    if num_draws > 1 and still.size:
        report.add("fail", f"{_chains(still.tolist())}: never moves")
    same = np.flatnonzero((x == x[:1, :1]).all(axis=(0, 1)))
    if same.size:
        report.add("fail", f"entries {same[:8].tolist()} of the draws never vary")
    report.judge("nonfinite_states", float(broken.sum()), (0.0, 0.0), -1)

    if num_chains > 1 and not broken.any():
        _judge_draws(report, x, num_superchains)
        if truth is not None:
            _judge_truth(report, x, truth)
    _judge_infos(report, infos, (num_chains, num_draws))
    return {
        "verdict": report.verdict,
        "reasons": report.reasons,
        "checks": report.checks,
        **dict(zip(("num_chains", "num_draws", "num_entries"), x.shape, strict=True)),
    }


class _Report:
    """A verdict that only grows worse, with its reasons."""

    def __init__(self) -> None:
        self.verdict, self.reasons, self.checks = "pass", [], {}

    def add(self, verdict: str, reason: str) -> None:
        self.verdict = max(self.verdict, verdict, key=("pass", "review", "fail").index)
        self.reasons.append(reason)

    def judge(self, name: str, value: float | None, limits: tuple[float, float], sign: int) -> None:
        """Hold `value` against its limits; `sign` is -1 where small is good, 1 where large is."""
        verdict = None
        if value is not None:
            inside = [math.isfinite(value) and sign * value >= sign * limit for limit in limits]
            verdict = "pass" if inside[0] else "review" if inside[1] else "fail"
            if verdict != "pass":
                word = "above" if sign < 0 else "below"
                text = f"{name} is {value:.4g}, {word} {limits[0]:.4g}"
                self.add(verdict, text if math.isfinite(value) else f"{name} is not a number")
        self.checks[name] = {
            "value": value if value is not None and math.isfinite(value) else None,
            "pass": limits[0],
            "review": limits[1],
            "verdict": verdict,
        }


def _judge_draws(report: _Report, x: np.ndarray, num_superchains: int | None) -> None:
    """R-hat and effective sample size of `x` and its square, by what the shape allows."""
    num_chains, num_draws, _ = x.shape
    squares = x**2
    varying = (squares != squares[:1, :1]).any(axis=(0, 1))  # not those of -1 and 1
    both = jnp.asarray(np.concatenate([x, np.where(varying, squares, x)], axis=-1))
    if num_draws >= LONG:
        rhat = float(_blackjax(blackjax.diagnostics.rhat, both).max())
        report.judge("rank_rhat", rhat, LIMITS["rank_rhat"], -1)
    else:
        groups = num_chains if num_superchains is None else num_superchains
        excess = float((nested_rhat(both, groups) ** 2 - 1).max())
        expected = groups / num_chains
        limits = (expected + 0.02, expected + 0.10)
        report.judge("nested_rhat_squared_minus_1", excess, limits, -1)
    if num_draws >= LONG and num_chains < MANY:
        for name in ("bulk_ess", "tail_ess"):
            ess = _blackjax(getattr(blackjax.diagnostics, "ess_" + name[:4]), both)
            report.judge(name, float(ess.min()), LIMITS[name], 1)
            if bool(jnp.any(ess_at_cap(ess, num_chains, num_draws))):
                report.add("review", f"{name} is at its cap and says nothing; more chains would")
    else:
        report.judge("replicate_ess", float(ess_replicate(both).min()), LIMITS["replicate_ess"], 1)


def _judge_truth(report: _Report, x: np.ndarray, truth: Mapping[str, ArrayLike]) -> None:
    """The largest standardised distance of the means from the true ones."""
    num_chains, num_draws, num_entries = x.shape
    if "mean" not in truth:
        raise ValueError(f"truth must hold mean, got {list(truth)}")
    method = "autocorrelation" if num_draws >= LONG and num_chains < MANY else "replicate"
    scores = []
    for power, suffix in ((1, ""), (2, "_sq")):
        if "mean" + suffix not in truth:
            continue
        known = np.ravel(np.asarray(truth["mean" + suffix], np.float64))
        checks.shape(f"truth['mean{suffix}']", known, (num_entries,))
        error = np.asarray(mcse(jnp.asarray(x**power), method), np.float64) ** 2
        if "sd" + suffix in truth:
            spread = np.ravel(np.asarray(truth["sd" + suffix], np.float64))
            error = error + spread**2 / float(np.asarray(truth["n_draws"]))
        means = (x**power).mean(axis=(0, 1), dtype=np.float64)
        scores.append(np.abs(means - known) / np.sqrt(error))
    largest = np.concatenate(scores)
    # Šidák: the largest of so many independent normal numbers stays below this in 95 % of runs.
    bound = float(stats.norm.ppf((1 + 0.95 ** (1 / largest.size)) / 2))
    report.judge("max_abs_z", float(largest.max()), (bound, max(4.0, bound)), -1)


def _judge_infos(report: _Report, infos: Any, shape: tuple[int, int]) -> None:
    """Divergences and the energy."""
    flags = [_field(infos, name, shape) for name in ("is_divergent", "is_nonfinite")]
    flags = [flag.astype(bool) for flag in flags if flag is not None]
    rate = float(np.logical_or.reduce(flags).mean()) if flags else None
    report.judge("divergence_rate", rate, LIMITS["divergence_rate"], -1)
    energy = _field(infos, "energy", shape)
    value = None
    if energy is not None and shape[1] > 1:
        by_chain = np.asarray(e_bfmi(jnp.asarray(energy)), np.float64)
        known = by_chain[~np.isnan(by_chain)]
        value = float(known.min()) if known.size else math.nan
        if 0 < known.size < by_chain.size:
            unknown = np.flatnonzero(np.isnan(by_chain)).tolist()
            report.add("review", f"{_chains(unknown)}: energies constant or not finite")
    report.judge("e_bfmi", value, LIMITS["e_bfmi"], 1)


def _field(infos: Any, name: str, shape: tuple[int, int]) -> np.ndarray | None:
    value = infos.get(name) if isinstance(infos, Mapping) else getattr(infos, name, None)
    if value is not None:
        checks.shape(f"infos.{name}", value, shape)
    return None if value is None else np.asarray(value)


def _entries(draws: Any) -> np.ndarray:
    """All leaves side by side, `(C, N, entries)`."""
    leaves = [np.asarray(_draws(jnp.asarray(leaf))) for leaf in jax.tree.leaves(draws)]
    shapes = [leaf.shape for leaf in leaves]
    if len({shape[:2] for shape in shapes}) != 1 or 0 in shapes[0]:
        raise ValueError(f"draws must hold arrays of one (C, N, ...), none empty, got {shapes}")
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)


def _chains(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
    return f"chain{'s' * (len(indices) > 1)} {shown}"


def _draws(draws: Float[Array, "..."]) -> Float[Array, "..."]:
    """Draws in the precision to compute in, `(C, N, ...)`."""
    checks.floating("draws", draws)
    if draws.ndim < 2:
        raise ValueError(f"draws must have shape (C, N, ...), got {draws.shape}")
    return draws.astype(jnp.float32) if jnp.finfo(draws.dtype).bits < 32 else draws


def _mean(x: Array, axis: int) -> Array:
    """The mean, exact for equal numbers, so that what never varies has no variance."""
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    return jnp.squeeze(first, axis) + jnp.mean(x - first, axis=axis)


def _variance(x: Array, axis: int) -> Array:
    """Variance with one less in the denominator, 0 for a single number."""
    shifted = x - jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    return jnp.var(shifted, axis=axis, ddof=min(1, x.shape[axis] - 1))


def _blackjax(function: Callable[[Array], Array], draws: Array) -> Array:
    """Call a function of BlackJAX, which promotes ranks and squeezes, on `(C, N, entries)`."""
    flat = draws.reshape(*draws.shape[:2], -1)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        # Run eagerly its loops would be compiled at each call; this is compiled once for a shape.
        return jax.jit(function)(flat).reshape(draws.shape[2:]).astype(draws.dtype)
