"""Euler-Maruyama over many trajectories, beside diffrax with its Brownian tree and without."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax import diffeq
from probjax.core import item_keys

DESCRIPTION = (
    "{items:,} trajectories of geometric Brownian motion, {steps} steps of Euler-Maruyama each, "
    "float32, the ends kept. The error is that of the ends' mean and standard deviation, relative "
    "to those of the recursion; five standard errors of {items:,} draws are {limit:.2f}."
)
DRIFT, VOLATILITY = 0.5, 0.2


def cases(items: int | None = None, steps: int = 256) -> list[Case]:
    """One case; more trajectories on an accelerator."""
    items = items or pick(2000, 200_000)
    limit = 5 / (2 * items) ** 0.5
    h = 1 / steps
    mean = (1 + DRIFT * h) ** steps
    deviation = (((1 + DRIFT * h) ** 2 + VOLATILITY**2 * h) ** steps - mean**2) ** 0.5
    starts = jnp.ones((items, 1))
    sde = diffeq.SDE(lambda t, x: DRIFT * x, lambda t, x: VOLATILITY * x, "diagonal")

    def each(key: Any, starts: Any) -> Any:
        def one(key: Any, start: Any) -> Any:
            return diffeq.solve_sde(key, sde, start, 0.0, 1.0, num_steps=steps).y

        return jax.vmap(one)(item_keys(key, items), starts)

    def together(key: Any, starts: Any) -> Any:
        return diffeq.solve_sde(key, sde, starts[:, 0], 0.0, 1.0, num_steps=steps).y[:, None]

    def peer(path: str) -> Callable[[Any, Any], Any]:
        import diffrax

        def one(key: Any, start: Any) -> Any:
            if path == "tree":
                motion = diffrax.VirtualBrownianTree(0.0, 1.0, tol=h / 2, shape=(1,), key=key)
            else:
                motion = diffrax.UnsafeBrownianPath(shape=(1,), key=key)
            terms = diffrax.MultiTerm(
                diffrax.ODETerm(lambda t, y, args: DRIFT * y),
                diffrax.ControlTerm(lambda t, y, args: VOLATILITY * y[:, None], motion),
            )
            options = {"saveat": diffrax.SaveAt(t1=True), "max_steps": steps}
            if path != "tree":
                options["adjoint"] = diffrax.DirectAdjoint()
            return diffrax.diffeqsolve(
                terms, diffrax.Euler(), 0.0, 1.0, h, start, **options
            ).ys[0]  # fmt: skip

        return lambda key, starts: jax.vmap(one)(jax.random.split(key, items), starts)

    def ready(make: Callable[[], Callable[[Any, Any], Any]]) -> Program:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            executable, seconds, temporary = compiled(make(), jax.random.key(0), starts)
        ends = np.asarray(executable(jax.random.key(0), starts), np.float64)
        errors = {
            "mean": abs(float(ends.mean()) / mean - 1),
            "standard deviation": abs(float(ends.std()) / deviation - 1),
        }
        key = jax.random.key(1)
        return Program(
            lambda: jax.block_until_ready(executable(key, starts)),
            items * steps, errors, seconds, temporary,
        )  # fmt: skip

    contenders = (
        Contender("probjax solve_sde, a key for each trajectory", lambda: ready(lambda: each)),
        Contender("probjax solve_sde, one key for the batch", lambda: ready(lambda: together)),
        Contender(
            "diffrax Euler, VirtualBrownianTree", lambda: ready(lambda: peer("tree")),
            peer=True, requires="diffrax",
        ),
        Contender(
            "diffrax Euler, UnsafeBrownianPath", lambda: ready(lambda: peer("unsafe")),
            peer=True, requires="diffrax",
        ),
    )  # fmt: skip
    return [
        Case(
            "diffeq/stochastic: Euler-Maruyama",
            DESCRIPTION.format(items=items, steps=steps, limit=limit),
            "steps", items * steps, contenders, tolerance=limit,
            bars=(
                Bar("speed", pick(20.0, 50.0), "diffrax Euler, VirtualBrownianTree"),
                Bar("speed", pick(1.5, 5.0), "diffrax Euler, UnsafeBrownianPath"),
            ),
        )
    ]  # fmt: skip
