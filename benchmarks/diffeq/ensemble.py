"""Ensembles of small equations, and where no gain is to be expected."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from benchmarks.harness import Bar, Case, Contender, Program, compiled, pick
from probjax import sharding
from probjax.diffeq.adaptive import solve_adaptive
from probjax.diffeq.ensemble import solve_ensemble
from probjax.diffeq.fused import solve_fused

CHECKED = 16
ERROR = (
    "The error is the largest difference from SciPy's DOP853 in float64, over the largest entry."
)


def lorenz(t: Any, y: Any, rho: Any) -> Any:
    """Lorenz's equations."""
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])


def van_der_pol(t: Any, y: Any, mu: Any) -> Any:
    """A stiff oscillator for large mu."""
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def cases(number: int | None = None, steps: int | None = None) -> list[Case]:
    """The comparisons; more trajectories on an accelerator."""
    number = number or pick(2000, 1_000_000)
    steps = steps or 1000
    found = [
        _fixed("tsit5", number, steps),
        _fixed("rk4", number, steps),
        _adaptive(number),
        _stiff(pick(2048, 65536) if number >= 2000 else number),
        _gradient(number, max(steps // 10, 1)),
        _network(max(steps // 10, 1)),
        _single(steps),
    ]
    return found + ([_sharded(number)] if len(jax.devices()) > 1 else [])


def _lorenz_data(number: int) -> tuple[Any, Any]:
    return jnp.ones((number, 3)), jnp.linspace(0.0, 21.0, number)


def _program(
    solve: Callable[..., Any], arguments: tuple[Any, ...], error: Callable[[Any], float]
) -> Program:
    executable, seconds, temporary = compiled(solve, *arguments)
    found = executable(*arguments)
    return Program(
        lambda: jax.block_until_ready(executable(*arguments)),
        jax.tree.leaves(arguments)[0].shape[0], {"result": error(found)}, seconds, temporary,
    )  # fmt: skip


def _against_scipy(field: Any, arguments: tuple[Any, Any], end: float) -> Callable[[Any], float]:
    """The error of some of the ends."""
    y0, args = (np.asarray(x, float) for x in arguments)
    which = np.unique(np.linspace(0, len(y0) - 1, CHECKED).astype(int))

    @functools.cache
    def truth() -> np.ndarray:
        from scipy.integrate import solve_ivp

        with jax.enable_x64(True):
            plain = jax.jit(field)
            return np.stack(
                [
                    solve_ivp(
                        lambda t, y, a: np.asarray(plain(t, y, a)), (0, end), y0[i], "DOP853",
                        args=(args[i],), rtol=1e-10, atol=1e-12,
                    ).y[:, -1]
                    for i in which
                ]
            )  # fmt: skip

    def error(found: Any) -> float:
        return float(np.max(np.abs(np.asarray(found)[which] - truth())) / np.max(np.abs(truth())))

    return error


def _diffrax(solver: str, field: Any, end: float, *, gradient: str | None = None, **options: Any):
    """`solve(y0, args)` by diffrax under `vmap`."""
    import diffrax

    class RK4(diffrax.AbstractERK):
        """The classical method on diffrax's own loop over stages."""

        tableau: ClassVar = diffrax.ButcherTableau(
            a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
            b_sol=np.array([1, 2, 2, 1]) / 6, b_error=np.zeros(4), c=np.array([0.5, 0.5, 1.0]),
        )  # fmt: skip
        interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms: Any) -> int:
            del terms
            return 4

    method = RK4() if solver == "rk4" else diffrax.Tsit5()
    controller, first, most = diffrax.ConstantStepSize(), None, 4096
    if "num_steps" in options:
        first, most = end / options["num_steps"], options["num_steps"] + 10
    else:
        controller = diffrax.PIDController(rtol=options["rtol"], atol=options["atol"])
    adjoint = diffrax.DirectAdjoint() if gradient == "direct" else None

    def one(y: Any, a: Any) -> Any:
        extra = {} if adjoint is None else {"adjoint": adjoint}
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), method, 0.0, end, first, y, args=a, max_steps=most,
            stepsize_controller=controller, saveat=diffrax.SaveAt(t1=True), **extra,
        ).ys[0]  # fmt: skip

    return jax.vmap(one)


def _ours(field: Any, end: float, solve: Any = solve_ensemble, **options: Any) -> Any:
    def run(y0: Any, args: Any) -> Any:
        return solve(field, y0, 0.0, end, args=args, in_axes=(0, 0), **options).y

    return run


def _fixed(method: str, number: int, steps: int) -> Case:
    data = _lorenz_data(number)
    error = _against_scipy(lorenz, data, 1.0)
    options = {"method": method, "num_steps": steps}

    def contender(name: str, solve: Any, **fields: Any) -> Contender:
        return Contender(name, lambda: _program(solve, data, error), **fields)

    tile = min(500, number)
    return Case(
        f"diffeq/ensemble: {method}",
        f"{number:,} Lorenz trajectories, {steps:,} fixed steps of `{method}`. {ERROR}",
        "trajectories", number,
        (
            contender("probjax solve_ensemble", _ours(lorenz, 1.0, **options)),
            contender(f"probjax, tiles of {tile}", _ours(lorenz, 1.0, tile=tile, **options)),
            contender("probjax solve_fused", _ours(lorenz, 1.0, solve_fused, **options)),
            contender(
                "diffrax, vmap", _diffrax(method, lorenz, 1.0, **options), peer=True,
                requires="diffrax",
            ),
        ),
        tolerance=1e-4, bars=(Bar("speed", pick(4.0, 20.0)),),
    )  # fmt: skip


def _scipy_loop(data: tuple[Any, Any], end: float, error: Any) -> Program:
    from scipy.integrate import solve_ivp

    y0, rho = (np.asarray(x, float) for x in data)
    count = min(CHECKED, len(y0))
    which = np.unique(np.linspace(0, len(y0) - 1, CHECKED).astype(int))

    def field(t: float, y: Any, rho: float) -> list[float]:
        return [10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]

    def once() -> np.ndarray:
        ends = np.zeros_like(y0)
        for i in which:
            span = (0, end)
            ends[i] = solve_ivp(field, span, y0[i], "RK45", args=(rho[i],), rtol=1e-6, atol=1e-6).y[
                :, -1
            ]
        return ends

    return Program(once, count, {"result": error(once())})


def _adaptive(number: int) -> Case:
    data = _lorenz_data(number)
    error = _against_scipy(lorenz, data, 1.0)
    options = {"rtol": 1e-6, "atol": 1e-6}
    tile = min(128, number)

    def contender(name: str, solve: Any, **fields: Any) -> Contender:
        return Contender(name, lambda: _program(solve, data, error), **fields)

    return Case(
        "diffeq/ensemble: adaptive",
        f"{number:,} Lorenz trajectories, Tsit5, rtol = atol = 1e-6. {ERROR}",
        "trajectories", number,
        (
            contender("probjax solve_ensemble", _ours(lorenz, 1.0, **options)),
            contender(f"probjax, tiles of {tile}", _ours(lorenz, 1.0, tile=tile, **options)),
            contender(
                "diffrax, vmap", _diffrax("tsit5", lorenz, 1.0, **options), peer=True,
                requires="diffrax",
            ),
            Contender(
                "SciPy RK45, a loop", lambda: _scipy_loop(data, 1.0, error), peer=True,
                in_reference=False, requires="scipy",
            ),
        ),
        tolerance=1e-3, bars=(Bar("speed", pick(5.0, 10.0)), Bar("speed", 100.0, "SciPy")),
    )  # fmt: skip


def _stiff(number: int) -> Case:
    mu = jnp.asarray(np.random.default_rng(0).permutation(np.linspace(1.0, 100.0, number)))
    data = jnp.tile(jnp.array([2.0, 0.0]), (number, 1)), mu.astype(jnp.float32)
    error = _against_scipy(van_der_pol, data, 2.0)
    options = {"rtol": 1e-5, "atol": 1e-6}
    tile = min(64, number)

    def contender(name: str, solve: Any, **fields: Any) -> Contender:
        return Contender(name, lambda: _program(solve, data, error), **fields)

    def sorted_tiles(y0: Any, mu: Any) -> Any:
        return _ours(van_der_pol, 2.0, tile=tile, order_by=mu, **options)(y0, mu)

    return Case(
        "diffeq/ensemble: unequal work",
        f"{number:,} Van der Pol oscillators, mu from 1 to 100 in random order, Tsit5, rtol 1e-5. "
        f"{ERROR}",
        "trajectories", number,
        (
            contender(f"probjax, sorted tiles of {tile}", sorted_tiles),
            contender(f"probjax, tiles of {tile}", _ours(van_der_pol, 2.0, tile=tile, **options)),
            contender("probjax solve_ensemble", _ours(van_der_pol, 2.0, **options)),
            contender(
                "diffrax, vmap", _diffrax("tsit5", van_der_pol, 2.0, **options), peer=True,
                requires="diffrax",
            ),
        ),
        tolerance=1e-2, bars=(Bar("speed", 10.0),),
    )  # fmt: skip


def _gradient(number: int, steps: int) -> Case:
    data = _lorenz_data(number)
    options = {"method": "tsit5", "num_steps": steps}

    def gradient(solve: Any) -> Any:
        return jax.grad(lambda y0, rho: jnp.sum(solve(y0, rho) ** 2), argnums=(0, 1))

    @functools.cache
    def truth() -> Any:
        with jax.enable_x64(True):
            few = [np.asarray(x[:: max(number // CHECKED, 1)], float) for x in data]
            solve = gradient(_ours(lorenz, 1.0, **options))
            return [np.asarray(x) for x in jax.jit(solve)(*few)]

    def error(found: Any) -> float:
        pairs = zip(found, truth(), strict=True)
        return max(
            float(np.max(np.abs(np.asarray(a)[:: max(number // CHECKED, 1)] - b)) / np.abs(b).max())
            for a, b in pairs
        )

    def contender(name: str, solve: Any, **fields: Any) -> Contender:
        return Contender(name, lambda: _program(gradient(solve), data, error), **fields)

    tile = min(128, number)
    diffrax = functools.partial(_diffrax, "tsit5", lorenz, 1.0, num_steps=steps)
    return Case(
        "diffeq/ensemble: gradient",
        f"Gradient of the sum of squares of the ends of {number:,} Lorenz trajectories, {steps} "
        "steps of Tsit5, by starts and parameters. The error is against the same in float64.",
        "trajectories", number,
        (
            contender("probjax solve_ensemble", _ours(lorenz, 1.0, **options)),
            contender(f"probjax, tiles of {tile}", _ours(lorenz, 1.0, tile=tile, **options)),
            contender("diffrax, default adjoint", diffrax(), peer=True, requires="diffrax"),
            contender(
                "diffrax, DirectAdjoint", diffrax(gradient="direct"), peer=True,
                in_reference=False, requires="diffrax",
            ),
        ),
        tolerance=1e-3, bars=(Bar("speed", 5.0, "diffrax, default"),),
    )  # fmt: skip


def _network(steps: int) -> Case:
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=(64, 64)).astype(np.float32) / 8 for _ in range(2)]
    y0 = jnp.asarray(generator.normal(size=(256, 64)), jnp.float32)
    data = (y0, jnp.zeros(256))

    def field(t: Any, y: Any, a: Any) -> Any:
        return weights[1] @ jnp.tanh(weights[0] @ y + a)

    error = _against_scipy(field, data, 1.0)
    options = {"method": "tsit5", "num_steps": steps}
    return Case(
        "diffeq/ensemble: no gain, networks",
        f"256 trajectories of a 64-64-64 network, {steps} steps of Tsit5: matrix products take the "
        f"time. {ERROR}",
        "trajectories", 256,
        (
            Contender(
                "probjax solve_ensemble",
                lambda: _program(_ours(field, 1.0, **options), data, error),
            ),
            Contender(
                "diffrax, vmap",
                lambda: _program(_diffrax("tsit5", field, 1.0, **options), data, error),
                peer=True, requires="diffrax",
            ),
        ),
        tolerance=1e-3,
    )  # fmt: skip


def _single(steps: int) -> Case:
    data = (jnp.ones((1, 3)), jnp.array([20.0]))
    error = _against_scipy(lorenz, data, 1.0)
    options = {"method": "tsit5", "num_steps": steps}
    return Case(
        "diffeq/ensemble: no gain, one trajectory",
        f"One Lorenz trajectory, {steps:,} steps of Tsit5: starting operations takes the time. "
        f"{ERROR}",
        "trajectories", 1,
        (
            Contender(
                "probjax solve_ensemble",
                lambda: _program(_ours(lorenz, 1.0, **options), data, error),
            ),
            Contender(
                "diffrax, vmap",
                lambda: _program(_diffrax("tsit5", lorenz, 1.0, **options), data, error),
                peer=True, requires="diffrax",
            ),
        ),
        tolerance=1e-3,
    )  # fmt: skip


def _sharded(number: int) -> Case:
    """Adaptive steps on all devices, up to four."""
    mesh = sharding.make_mesh(min(4, len(jax.devices())))
    number -= number % mesh.size
    split = jax.NamedSharding(mesh, P(mesh.axis_names))
    data = jax.device_put(_lorenz_data(number), split)
    error = _against_scipy(lorenz, data, 1.0)
    options = {"rtol": 1e-6, "atol": 1e-6}

    def automatic(y0: Any, rho: Any) -> Any:
        return jax.vmap(lambda y, r: solve_adaptive(lorenz, y, 0.0, 1.0, args=r, **options).y)(
            y0, rho
        )

    return Case(
        "diffeq/ensemble: devices",
        f"{number:,} Lorenz trajectories, Tsit5, rtol = atol = 1e-6, on {mesh.size} devices. The "
        f"peer is the same solver under `jit` with sharded inputs. {ERROR}",
        "trajectories", number,
        (
            Contender(
                "probjax solve_ensemble",
                lambda: _program(_ours(lorenz, 1.0, mesh=mesh, **options), data, error),
            ),
            Contender("auto-sharded", lambda: _program(automatic, data, error), peer=True),
        ),
        tolerance=1e-3, bars=(Bar("speed", 5.0),) if mesh.size == 4 else (),
    )  # fmt: skip
