"""The driver of many chains, beside a loop written by hand around the same BlackJAX kernel."""

import time

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax import mcmc

DESCRIPTION = (
    "{chains:,} chains of {steps} HMC steps with {leapfrog} leapfrog steps each, logistic "
    "regression with {rows} rows in {dim} dimensions. The peer is `jit(scan(vmap(step)))` around "
    "the same kernel with one split of its key at each step. Both keep all positions and bring "
    "them to the host. The error is the relative difference of the last states' mean log density "
    "from that of another key."
)
ROWS, DIM, LEAPFROG, STEP_SIZE = 256, 20, 5, 0.05


def cases(chains: tuple[int, ...] = (64, 1024), steps: int | None = None) -> list[Case]:
    """As many chains as a small and as a large study have."""
    return [_case(number, steps or pick(max(12800 // number, 100), 200)) for number in chains]


def _target():
    generator = np.random.default_rng(0)
    features = jnp.asarray(generator.normal(size=(ROWS, DIM)).astype(np.float32))
    truth = generator.normal(size=DIM).astype(np.float32)
    labels = generator.random(ROWS) < 1 / (1 + np.exp(-np.asarray(features) @ truth))
    signs = jnp.asarray(np.where(labels, 1.0, -1.0).astype(np.float32))

    def logdensity_fn(x):
        return jnp.sum(jax.nn.log_sigmoid(signs * (features @ x))) - 0.5 * jnp.sum(x**2)

    return logdensity_fn


def _case(chains: int, steps: int) -> Case:
    logdensity_fn = _target()
    algorithm = blackjax.hmc(logdensity_fn, STEP_SIZE, jnp.ones(DIM), LEAPFROG)
    starts = 0.1 * jax.random.normal(jax.random.key(1), (chains, DIM))
    states = mcmc.init_chains(algorithm, starts)

    def position(state, info):
        return state.position

    def by_hand(key, states):
        def body(states, key):
            keys = jax.random.split(key, chains)
            states, _ = jax.vmap(algorithm.step)(keys, states)
            return states, states.position

        return jax.lax.scan(body, states, jax.random.split(key, steps))

    def ours() -> Program:
        def once():
            run = mcmc.run_chains(jax.random.key(2), algorithm, states, steps, trace_fn=position)
            return jax.block_until_ready(run)

        begun = time.perf_counter()
        run = once()
        seconds = time.perf_counter() - begun
        return Program(once, chains * steps, {"mean": _error(run.states.position)}, seconds)

    def peer() -> Program:
        executable, seconds, temporary = compiled(by_hand, jax.random.key(2), states)

        def once():
            _, trace = executable(jax.random.key(2), states)
            return np.asarray(trace)

        return Program(once, chains * steps, {"mean": _error(once()[-1])}, seconds, temporary)

    def _error(positions) -> float:
        """Relative difference of the ensemble's mean log density from that of a long run."""
        values = np.asarray(jax.vmap(logdensity_fn)(positions), np.float64)
        return abs(values.mean() - reference()) / abs(reference())

    def reference() -> float:
        if not known:
            long = mcmc.run_chains(jax.random.key(3), algorithm, states, steps)
            values = jax.vmap(logdensity_fn)(long.states.position)
            known.append(float(np.mean(np.asarray(values, np.float64))))
        return known[0]

    known: list[float] = []
    contenders = (
        Contender("probjax run_chains", ours),
        Contender("jit(scan(vmap(step))) by hand", peer, peer=True),
    )
    description = DESCRIPTION.format(
        chains=chains, steps=steps, leapfrog=LEAPFROG, rows=ROWS, dim=DIM
    )
    return Case(
        f"mcmc/driver: {chains} chains", description, "chain steps", chains * steps, contenders,
        tolerance=0.1, bars=(Bar("time", 1.03),),
    )  # fmt: skip
