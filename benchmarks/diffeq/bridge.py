"""diffrax's integration with stages unrolled by `to_diffrax`, beside diffrax's own Tsit5."""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax.diffeq.diffrax_bridge import to_diffrax

CHECKED = 16
DESCRIPTION = (
    "{number:,} Lorenz trajectories over one unit of time in `diffrax.diffeqsolve` under `vmap`, "
    "{how}, float32; the solver alone differs. The error is the largest difference from SciPy's "
    "DOP853 in float64, over the largest entry, of {checked} trajectories."
)


def lorenz(t: Any, y: Any, rho: Any) -> Any:
    """Lorenz's equations."""
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def cases(number: int | None = None, steps: int | None = None) -> list[Case]:
    """Constant and adaptive steps; more trajectories on an accelerator."""
    number = number or pick(2000, 1_000_000)
    return [_case(number, steps or 1000, adaptive) for adaptive in (False, True)]


def _case(number: int, steps: int, adaptive: bool) -> Case:
    start, rho = jnp.ones((number, 3)), jnp.linspace(0.0, 21.0, number)
    how = "tolerances of 1e-6" if adaptive else f"{steps:,} steps"

    @functools.cache
    def truth() -> np.ndarray:
        ends = []
        for value in np.asarray(rho, np.float64)[:: max(number // CHECKED, 1)]:

            def field(t: float, y: np.ndarray, value: float = value) -> list[float]:
                x, y, z = y
                return [10 * (y - x), x * (value - z) - y, x * y - 8 / 3 * z]

            solved = scipy.integrate.solve_ivp(
                field, (0, 1), np.ones(3), method="DOP853", rtol=1e-12, atol=1e-12
            )
            ends.append(solved.y[:, -1])
        return np.asarray(ends)

    def prepare(solver: diffrax.AbstractSolver) -> Program:
        controller = (
            diffrax.PIDController(rtol=1e-6, atol=1e-6) if adaptive else diffrax.ConstantStepSize()
        )

        def one(y: Any, rho: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lorenz), solver, 0.0, 1.0, 0.01 if adaptive else 1 / steps, y, rho,
                stepsize_controller=controller, max_steps=None, adjoint=diffrax.ForwardMode(),
            ).ys[0]  # fmt: skip

        executable, seconds, temporary = compiled(jax.vmap(one), start, rho)
        found = np.asarray(executable(start, rho))[:: max(number // CHECKED, 1)]
        error = float(np.max(np.abs(found - truth())) / np.max(np.abs(truth())))
        return Program(
            lambda: jax.block_until_ready(executable(start, rho)),
            number, {"end": error}, seconds, temporary,
            {"programs compiled per second": (1 / seconds,) * 3},
        )  # fmt: skip

    contenders = (
        Contender("probjax to_diffrax(tsit5)", lambda: prepare(to_diffrax("tsit5"))),
        Contender("diffrax Tsit5", lambda: prepare(diffrax.Tsit5()), peer=True, requires="diffrax"),
    )
    return Case(
        f"diffeq/bridge: {'adaptive' if adaptive else 'fixed'}",
        DESCRIPTION.format(number=number, how=how, checked=CHECKED),
        "trajectories", number, contenders, tolerance=1e-3,
        bars=(Bar("speed", 3.0), Bar("programs compiled per second", 1 / 1.2)),
    )  # fmt: skip
