"""Effective draws per second and per gradient from five posteriors, warm-up counted."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.diagnostics import ess_bulk

from benchmarks.harness import Bar, Case, Contender, Program, pick
from probjax import mcmc, sharding
from probjax.experiments import posterior_problems

DESCRIPTION = (
    "{about} From starts spread around the middle, warm-up and sampling together. Draws count by "
    "the smallest bulk effective sample size over all `x` and `x**2`; those of a call are the mean "
    "over {keys} keys. Gradients are those of all chains; those of sampling leave out the warm-up. "
    "Every contender is one program or two, compiled before the clock starts, with its draws "
    "brought to the host. {chains} chains of {chees[0]} + {chees[1]} steps for ChEES, which finds "
    "a diagonal metric and the trajectory's length, of {hmc[0]} + {hmc[1]} steps for HMC with "
    "{leapfrog} leapfrog steps, 4 chains of {nuts[0]} + {nuts[1]} for NUTS. The error is the "
    "largest of the means of `x` and `x**2` over all keys, in standard deviations, from {truth}."
)
TARGETS = ("eight_schools", "breast_cancer", "banana", "ill_conditioned", "ill_conditioned_rotated")
LEAPFROG, NUTS_CHAINS = 4, 4
PER_GRADIENT, PER_SAMPLING = "draws per gradient", "draws per gradient of sampling"
LONG = (500, 1000)


class Lengths(NamedTuple):
    """Steps of warm-up and of sampling."""

    chees: tuple[int, int] = (200, 1000)
    """Of ChEES."""
    hmc: tuple[int, int] = (100, 1000)
    """Of HMC."""
    nuts: tuple[int, int] = (500, 1000)
    """Of NUTS."""


class Draws(NamedTuple):
    """What a contender brings home."""

    positions: np.ndarray
    """`(C, N, d)`."""
    warmup: float
    """Gradients of the warm-up."""
    sampling: float
    """Gradients of the sampling."""


def cases(
    names: tuple[str, ...] = TARGETS,
    lengths: Lengths | None = None,
    chains: int | None = None,
    num_keys: int = 5,
    tolerance: float = 0.2,
    quick: bool = False,
) -> list[Case]:
    """The five targets; more chains on an accelerator."""
    found = lengths or Lengths(), chains or pick(64, 1024), num_keys, tolerance, quick
    return [_case(name, *found) for name in names]


def quick_cases() -> list[Case]:
    """Three targets, two keys, half as many steps, and of the peers those that a bar names."""
    lengths = Lengths(chees=(200, 500), hmc=(100, 500), nuts=(300, 500))
    return cases((TARGETS[0], TARGETS[2], TARGETS[4]), lengths, num_keys=2, quick=True)


def _case(
    name: str, lengths: Lengths, chains: int, num_keys: int, tolerance: float, quick: bool
) -> Case:
    problem = posterior_problems.load(name)
    logdensity_fn = problem.posterior.logdensity_fn
    starts = problem.posterior.initial(jax.random.key(1), chains)
    few = starts[:NUTS_CHAINS]
    mesh = sharding.make_mesh(axis="chains")
    on = f", {mesh.size} devices" if mesh.size > 1 else ""
    keys = [jax.random.key(10 + number) for number in range(num_keys)]
    by_hand = _Timed(_blackjax_chees(logdensity_fn, starts, lengths.chees))
    # The contender's program is compiled anyway; with a key of its own it serves as the truth.
    long = by_hand if quick else _Timed(_blackjax_nuts(logdensity_fn, starts[:16], LONG, True))
    truth = functools.lru_cache(lambda: _truth(problem, long))

    def entry(label: str, draw: Callable[[Any], Draws], **options: Any) -> Contender:
        timed = draw if isinstance(draw, _Timed) else _Timed(draw)
        return Contender(label, lambda: _program(timed, keys, *truth()), **options)

    chees = functools.partial(_chees, logdensity_fn, starts, lengths.chees)
    hmc = functools.partial(_pooled_hmc, logdensity_fn, starts, lengths.hmc, mesh)
    windows = functools.partial(_blackjax_nuts, logdensity_fn, few, lengths.nuts)
    numpyro = functools.partial(_numpyro, logdensity_fn, few, lengths.nuts)
    peer: dict[str, Any] = {"peer": True}
    other: dict[str, Any] = {"peer": True, "in_reference": False, "requires": "numpyro"}
    contenders = [
        entry("probjax ChEES", chees(None)),
        *[entry(f"probjax ChEES{on}", chees(mesh))] * (mesh.size > 1),
        entry(f"probjax pooled HMC{on}", hmc("diag")),
        entry("BlackJAX ChEES by hand", by_hand, **peer),
        entry("BlackJAX NUTS by hand", windows(True), **peer),
        entry("NumPyro NUTS, diagonal", numpyro(False), **other),
    ]
    bars = [Bar("speed", 3.0, "NumPyro"), Bar("speed", 1.0)]
    if name == "ill_conditioned_rotated":
        contenders += [
            entry(f"probjax pooled HMC, dense{on}", hmc("dense")),
            entry("BlackJAX NUTS by hand, dense", windows(False), **peer),
            entry("NumPyro NUTS, dense", numpyro(True), **other),
        ]
        bars.append(Bar(PER_GRADIENT, 10.0, "NumPyro NUTS, diagonal"))
    if quick:
        asked = ("probjax", "BlackJAX ChEES", "NumPyro NUTS, diagonal")
        contenders = [one for one in contenders if one.name.startswith(asked)]
    about = DESCRIPTION.format(
        about=problem.about, keys=num_keys, chains=chains, leapfrog=LEAPFROG,
        truth="the truth" if problem.truth and "mean_sq" in problem.truth
        else f"a long run of BlackJAX's {'ChEES' if quick else 'NUTS'}", **lengths._asdict(),
    )  # fmt: skip
    return Case(
        f"mcmc/posteriors: {name}", about, "effective draws", 1000,
        tuple(contenders), tolerance=tolerance, bars=tuple(bars),
    )  # fmt: skip


def _chees(
    logdensity_fn: Any, starts: Any, steps: tuple[int, int], mesh: Any
) -> Callable[[Any], Draws]:
    """The general choice: it needs no idea of how far a trajectory should go."""
    kernel = mcmc.dynamic_hmc_kernel(logdensity_fn)

    def draw(key: Any) -> Draws:
        # The warm-up's devices would meet at each leapfrog step: it stays on one.
        warmup = mcmc.chees_warmup(key, logdensity_fn, starts, steps[0], metric="diag")
        return _sampled(key, kernel, warmup, steps[1], mesh)

    return draw


def _pooled_hmc(
    logdensity_fn: Any, starts: Any, steps: tuple[int, int], mesh: Any, metric: str
) -> Callable[[Any], Draws]:
    """The choice where a metric makes the target round: few leapfrog steps are enough then."""
    kernel = mcmc.hmc_kernel(logdensity_fn, LEAPFROG)

    def draw(key: Any) -> Draws:
        warmup = mcmc.pooled_warmup(key, kernel, starts, steps[0], metric=metric, mesh=mesh)
        return _sampled(key, kernel, warmup, steps[1], mesh)

    return draw


def _sampled(key: Any, kernel: Any, warmup: Any, num_steps: int, mesh: Any) -> Draws:
    run = mcmc.run_chains(
        key, kernel, warmup.states, num_steps, params=warmup.params, trace_fn=_keep, mesh=mesh
    )
    return Draws(run.trace[0], _sum(warmup.trace.num_grad_evals), _sum(run.trace[1]))


def _keep(state: Any, info: Any) -> Any:
    return state.position, mcmc.info_view(info).num_grad_evals


def _blackjax_chees(
    logdensity_fn: Any, starts: Any, steps: tuple[int, int]
) -> Callable[[Any], Draws]:
    class Kept(NamedTuple):
        spent: Any

    adaptation = blackjax.chees_adaptation(
        logdensity_fn,
        len(starts),
        mass_matrix_estimation="diagonal",
        adaptation_info_fn=lambda state, info, adapted: Kept(info.num_integration_steps),
    )

    @jax.jit
    def program(key, starts):
        first, second = jax.random.split(key)
        adam = optax.adam(0.05)
        (states, params), kept = adaptation.run(first, starts, 0.1, adam, steps[0])
        step = jax.vmap(blackjax.dynamic_hmc(logdensity_fn, **params).step)

        def body(states, key):
            states, info = step(jax.random.split(key, len(starts)), states)
            return states, (states.position, info.num_integration_steps)

        _, (positions, spent) = jax.lax.scan(body, states, jax.random.split(second, steps[1]))
        return positions, kept.spent, spent

    def draw(key: Any) -> Draws:
        positions, warmup, sampling = program(key, starts)
        return Draws(np.asarray(positions).swapaxes(0, 1), _sum(warmup), _sum(sampling))

    return draw


def _blackjax_nuts(
    logdensity_fn: Any, starts: Any, steps: tuple[int, int], diagonal: bool
) -> Callable[[Any], Draws]:
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        logdensity_fn,
        is_mass_matrix_diagonal=diagonal,
        adaptation_info_fn=lambda state, info, adapted: info.num_integration_steps,
    )

    def chain(key, start):
        first, second = jax.random.split(key)
        (state, params), warmup = adaptation.run(first, start, steps[0])
        step = blackjax.nuts(logdensity_fn, **params).step

        def body(state, key):
            state, info = step(key, state)
            return state, (state.position, info.num_integration_steps)

        _, kept = jax.lax.scan(body, state, jax.random.split(second, steps[1]))
        return *kept, warmup

    program = jax.jit(lambda key, x: jax.vmap(chain)(jax.random.split(key, len(starts)), x))

    def draw(key: Any) -> Draws:
        positions, sampling, warmup = program(key, starts)
        return Draws(np.asarray(positions), _sum(warmup), _sum(sampling))

    return draw


def _numpyro(
    logdensity_fn: Any, starts: Any, steps: tuple[int, int], dense: bool
) -> Callable[[Any], Draws]:
    """Its own loop inside one jitted function: called plainly, it compiles in every call."""

    @jax.jit
    def program(key, starts):
        from numpyro.infer import MCMC, NUTS

        loop = MCMC(
            NUTS(potential_fn=lambda x: -logdensity_fn(x), dense_mass=dense),
            num_warmup=steps[0],
            num_samples=steps[1],
            num_chains=len(starts),
            chain_method="vectorized",
            progress_bar=False,
        )
        told = {"extra_fields": ("num_steps",)}
        loop.warmup(key, init_params=starts, collect_warmup=True, **told)
        warmup = loop.get_extra_fields()["num_steps"]
        loop.run(loop.post_warmup_state.rng_key, **told)
        return loop.get_samples(group_by_chain=True), warmup, loop.get_extra_fields()["num_steps"]

    def draw(key: Any) -> Draws:
        positions, warmup, sampling = program(key, starts)
        return Draws(np.asarray(positions), _sum(warmup), _sum(sampling))

    return draw


class _Timed:
    """A way to draw that remembers how long its first call took, in which it is compiled."""

    def __init__(self, draw: Callable[[Any], Draws]) -> None:
        self.draw, self.seconds = draw, 0.0

    def __call__(self, key: Any) -> Draws:
        begun = time.perf_counter()
        found = self.draw(key)
        self.seconds = self.seconds or time.perf_counter() - begun
        return found


def _program(draw: _Timed, keys: list[Any], mean: Any, scale: Any) -> Program:
    """Call once for each key, find draws, gradients and error, and let the clock take turns."""
    found = [draw(key) for key in keys]
    sizes = [_effective(each.positions) for each in found]
    means = np.mean([_both(each.positions).mean(axis=(0, 1)) for each in found], axis=0)
    error = float(np.max(np.abs(means - mean) / scale))
    whole = [size / (each.warmup + each.sampling) for size, each in zip(sizes, found, strict=True)]
    part = [size / each.sampling for size, each in zip(sizes, found, strict=True)]
    figures = {"draws": sizes, PER_GRADIENT: whole, PER_SAMPLING: part}
    turn = iter(range(10**9))

    def once() -> Any:
        return draw(keys[next(turn) % len(keys)])

    return Program(
        once,
        float(np.mean(sizes)),
        {"mean of x or x**2": error},
        draw.seconds,
        figures={what: _range(values) for what, values in figures.items()},
    )


def _truth(problem: Any, draw: _Timed) -> tuple[np.ndarray, np.ndarray]:
    """Means of `x` and `x**2` and their standard deviations, from a long run where none are known.

    Means that are known are of the parameters, which are `x` itself for the targets that have them.
    """
    both = _both(draw(jax.random.key(2)).positions)
    mean, scale = both.mean(axis=(0, 1)), both.std(axis=(0, 1))
    if problem.truth and "mean_sq" in problem.truth:
        mean = np.concatenate([problem.truth["mean"], problem.truth["mean_sq"]])
    return mean, scale


def _effective(positions: np.ndarray) -> float:
    return float(jnp.min(_ess(jnp.asarray(_both(positions), jnp.float32))))


@jax.jit
def _ess(draws: Any) -> Any:
    # BlackJAX divides whole numbers by real ones: not under strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return ess_bulk(draws)


def _both(positions: np.ndarray) -> np.ndarray:
    wide = np.asarray(positions, np.float64)
    return np.concatenate([wide, wide**2], axis=-1)


def _range(values: list[float]) -> tuple[float, float, float]:
    return float(np.min(values)), float(np.median(values)), float(np.max(values))


def _sum(values: Any) -> float:
    return float(np.sum(np.asarray(values, np.float64)))
