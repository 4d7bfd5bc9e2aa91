r"""Test problems: a field, a start, a span, and what is known about the solution.

>>> import jax.numpy as jnp
>>> from probjax.diffeq import solve_fixed
>>> problem = PROBLEMS["A4"]
>>> t0, t1 = problem.span
>>> end = solve_fixed(problem.field, problem.y0, t0, t1, num_steps=80, args=problem.args).y
>>> print(f"{end:.3f} {problem.exact(t1, problem.args):.3f}")
17.730 17.730

`A1` to `E5` are the twenty-five problems of DETEST (Hull, Enright, Fellen and Sedgwick 1972) on
their span from 0 to 20. The others are those of the pages.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probjax.diffeq.sde import SDE


class Problem(NamedTuple):
    """An initial value problem."""

    name: str
    """Its key in `PROBLEMS`."""
    field: Callable[[Any, Any, Any], Any]
    """`field(t, y, args) -> dy`; of a stochastic problem, the drift."""
    y0: Any
    """The start, a NumPy array in float64: JAX takes it in its own precision."""
    span: tuple[float, float]
    """First and last time."""
    args: Any = None
    """What the field gets besides."""
    exact: Callable[[Any, Any], Any] | None = None
    """`exact(t, args) -> y` where a closed form is known; of a stochastic problem, the mean."""
    invariant: Callable[[Any, Any, Any], Any] | None = None
    """`invariant(t, y, args)`: a number or an array that no solution changes."""
    sde: SDE | None = None
    """The stochastic equation, of a stochastic problem."""


def _a5(t, y, args):
    return (y - t) / (y + t)


def _b1(t, y, args):
    return jnp.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])


def _b1_invariant(t, y, args):
    return y[0] - jnp.log(y[0]) + 2 * (y[1] - jnp.log(y[1]))


def _b2(t, y, args):
    return jnp.stack([-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]])


def _b2_exact(t, args):
    slow, fast = jnp.exp(-t) / 2, jnp.exp(-3 * t) / 2
    return jnp.stack([1 + slow + fast, 1 - 2 * fast, 1 - slow + fast])


def _b3(t, y, args):
    return jnp.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2])


def _b4(t, y, args):
    r = jnp.hypot(y[0], y[1])
    return jnp.stack([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def _b4_exact(t, args):
    r = 2 + jnp.cos(t)
    return jnp.stack([r * jnp.cos(t), r * jnp.sin(t), jnp.sin(t)])


def _b5(t, y, args):
    return jnp.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


def _b5_invariant(t, y, args):
    return jnp.stack([y[0] ** 2 + y[1] ** 2, 0.51 * y[0] ** 2 + y[2] ** 2])


def _decay(t, y, rates):
    """A chain of decays; the last member is stable."""
    flow = jnp.asarray(rates, y.dtype) * y[:-1]
    nothing = jnp.zeros_like(y[:1])
    return jnp.concatenate([nothing, flow]) - jnp.concatenate([flow, nothing])


def _c1_exact(t, args):
    powers = [jnp.exp(-t) * t**i / math.factorial(i) for i in range(9)]
    return jnp.stack([*powers, 1 - sum(powers)])


def _c2_exact(t, args):
    stays = jnp.exp(-t)
    return jnp.stack([*(stays * (1 - stays) ** i for i in range(9)), (1 - stays) ** 9])


def _heat(t, y, args):
    padded = jnp.concatenate([jnp.zeros_like(y[:1]), y, jnp.zeros_like(y[:1])])
    return padded[:-2] - 2 * y + padded[2:]


def _heat_exact(n: int) -> Callable[[Any, Any], Any]:
    angles = np.arange(1, n + 1) * np.pi / (n + 1)
    modes = np.sin(np.outer(np.arange(1, n + 1), angles))
    weights = 2 / (n + 1) * np.sin(angles)

    def exact(t, args):
        decay = weights * jnp.exp((2 * np.cos(angles) - 2) * t)
        return jnp.sum(modes * decay[None, :], axis=1)

    return exact


_SUN = 1.00000597682
_GRAVITY = 2.95912208286
_PLANETS = np.array(
    [0.000954786104043, 0.000285583733151, 4.37273164546e-5, 5.17759138449e-5, 2.77777777778e-6]
)
_PLACES = np.array(
    [
        [3.42947415189, 3.35386959711, 1.35494901715],
        [6.64145542550, 5.97156957878, 2.18231499728],
        [11.2630437207, 14.6952576794, 6.27960525067],
        [-30.1552268759, 1.65699966404, 1.43785752721],
        [-21.1238353380, 28.4465098142, 15.3882659679],
    ]
)
_SPEEDS = np.array(
    [
        [-0.557160570446, 0.505696783289, 0.230578543901],
        [-0.415570776342, 0.365682722812, 0.169143213293],
        [-0.325325669158, 0.189706021964, 0.0877265322780],
        [-0.0240476254170, -0.287659532608, -0.117219543175],
        [-0.176860753121, -0.216393453025, -0.0148647893090],
    ]
)


def _attraction(places, masses):
    """Acceleration of each body by all others; `(n, k)` places, `(n,)` masses."""
    gaps = places[None] - places[:, None]
    squares = jnp.sum(gaps**2, axis=-1)
    same = jnp.eye(len(masses), dtype=bool)
    cubes = jnp.where(same, jnp.ones_like(squares), squares) ** 1.5
    return jnp.sum(gaps * (masses[None, :] / cubes)[..., None], axis=1)


def _attraction_energy(places, speeds, masses):
    gaps = places[None] - places[:, None]
    squares = jnp.sum(gaps**2, axis=-1)
    same = jnp.eye(len(masses), dtype=bool)
    inverse = jnp.where(same, jnp.zeros_like(squares), 1 / jnp.sqrt(jnp.where(same, 1, squares)))
    potential = -jnp.sum(masses[None, :] * masses[:, None] * inverse) / 2
    return jnp.sum(masses * jnp.sum(speeds**2, axis=-1)) / 2 + potential


def _planets(t, y, args):
    places, masses = y[0], jnp.asarray(_PLANETS, y.dtype)
    pull = places * (1 / jnp.sum(places**2, axis=-1) ** 1.5)[:, None]
    sun = -_SUN * pull - jnp.sum(masses[:, None] * pull, axis=0)[None]
    return jnp.stack([y[1], _GRAVITY * (sun + _attraction(places, masses))])


def _planets_invariant(t, y, args):
    """Energy about the common centre of mass."""
    masses = jnp.concatenate([jnp.full_like(y[0, :1, 0], _SUN), jnp.asarray(_PLANETS, y.dtype)])
    still = jnp.zeros_like(y[:, :1])
    places, speeds = jnp.concatenate([still, y], axis=1)
    drift = jnp.sum(masses[:, None] * speeds, axis=0) / jnp.sum(masses)
    scale = math.sqrt(_GRAVITY)
    return _attraction_energy(places, (speeds - drift[None]) / scale, masses)


def _kepler(t, y, args):
    cube = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return jnp.stack([y[2], y[3], -y[0] / cube, -y[1] / cube])


def _kepler_start(eccentricity: float) -> np.ndarray:
    speed = math.sqrt((1 + eccentricity) / (1 - eccentricity))
    return np.array([1 - eccentricity, 0.0, 0.0, speed])


def _kepler_exact(eccentricity: float) -> Callable[[Any, Any], Any]:
    def exact(t, args):
        t = jnp.asarray(t) * 1.0

        def halve(_, bracket):  # u - e sin u grows with u
            low, high = bracket
            u = (low + high) / 2
            above = u - eccentricity * jnp.sin(u) > t
            return jnp.where(above, low, u), jnp.where(above, u, high)

        u = sum(jax.lax.fori_loop(0, 60, halve, (t - 1, t + 1))) / 2
        axis = math.sqrt(1 - eccentricity**2)
        rate = 1 / (1 - eccentricity * jnp.cos(u))
        place = [jnp.cos(u) - eccentricity, axis * jnp.sin(u)]
        return jnp.stack([*place, -jnp.sin(u) * rate, axis * jnp.cos(u) * rate])

    return exact


def _kepler_invariant(t, y, args):
    """Energy and angular momentum."""
    energy = (y[2] ** 2 + y[3] ** 2) / 2 - 1 / jnp.sqrt(y[0] ** 2 + y[1] ** 2)
    return jnp.stack([energy, y[0] * y[3] - y[1] * y[2]])


def _bessel(t, y, args):
    x = t + 1
    return jnp.stack([y[1], -(y[1] / x + (1 - 0.25 / x**2) * y[0])])


def _bessel_exact(t, args):
    x = jnp.asarray(t) + 1.0
    scale = jnp.sqrt(2 / (jnp.pi * x))
    return jnp.stack([scale * jnp.sin(x), scale * (jnp.cos(x) - jnp.sin(x) / (2 * x))])


def _van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def _duffing(t, y, args):
    return jnp.stack([y[1], y[0] ** 3 / 6 - y[0] + 2 * jnp.sin(2.78535 * t)])


def _fall(t, y, args):
    return jnp.stack([y[1], 0.032 - 0.4 * y[1] ** 2])


def _fall_exact(t, args):
    x = math.sqrt(0.0128) * jnp.asarray(t)
    return jnp.stack([30 + 2.5 * jnp.log(jnp.cosh(x)), math.sqrt(0.08) * jnp.tanh(x)])


def _pursuit(t, y, args):
    return jnp.stack([y[1], jnp.sqrt(1 + y[1] ** 2) / (25 - t)])


def _pursuit_exact(t, args):
    left = (25 - jnp.asarray(t)) / 25
    first = (-25 * jnp.log(left) - 12.5 * (1 - left**2)) / 2
    return jnp.stack([first, (1 / left - left) / 2])


def _pendulum(t, y, args):
    return jnp.stack([y[1], -jnp.sin(y[0])])


def _pendulum_invariant(t, y, args):
    return y[1] ** 2 / 2 - jnp.cos(y[0])


def _circuit(t, y, args):
    """Charge and current in a driven LRC circuit."""
    L, R, C, e0, w = args
    return jnp.stack([y[1], (e0 * jnp.cos(w * t) - R * y[1] - y[0] / C) / L])


def _circuit_exact(t, args):
    """Steady state and what rings out, below critical damping."""
    L, R, C, e0, w = args
    stiffness = 1 / C - L * w**2
    size = e0 / (stiffness**2 + (R * w) ** 2)
    cosine, sine = size * stiffness, size * R * w
    rate = R / (2 * L)
    own = jnp.sqrt(1 / (L * C) - rate**2)
    a, b = -cosine, (-rate * cosine - w * sine) / own
    fade, c, s = jnp.exp(-rate * t), jnp.cos(own * t), jnp.sin(own * t)
    charge = cosine * jnp.cos(w * t) + sine * jnp.sin(w * t) + fade * (a * c + b * s)
    current = w * (sine * jnp.cos(w * t) - cosine * jnp.sin(w * t))
    ringing = fade * ((own * b - rate * a) * c - (own * a + rate * b) * s)
    return jnp.stack([charge, current + ringing])


def _lorenz(t, y, args):
    sigma, rho, beta = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def _lotka_volterra(t, y, args):
    birth, eaten, death, fed = args
    return jnp.stack([(birth - eaten * y[1]) * y[0], (fed * y[0] - death) * y[1]])


def _lotka_volterra_invariant(t, y, args):
    birth, eaten, death, fed = args
    return fed * y[0] - death * jnp.log(y[0]) + eaten * y[1] - birth * jnp.log(y[1])


_STARS = np.arange(1.0, 8.0)


def _pleiades(t, y, args):
    return jnp.stack([y[1], _attraction(y[0], jnp.asarray(_STARS, y.dtype))])


def _pleiades_invariant(t, y, args):
    return _attraction_energy(y[0], y[1], jnp.asarray(_STARS, y.dtype))


def _ou_drift(t, y, args):
    return -args[0] * y


def _gbm_drift(t, y, args):
    return args[0] * y


def _unit(n: int) -> np.ndarray:
    return np.eye(n)[0]


_LONG = (0.0, 20.0)
_OU, _GBM = (1.3, 0.7), (0.5, 0.8)

_DETEST = (
    Problem("A1", lambda t, y, _: -y, np.array(1.0), _LONG, None, lambda t, _: jnp.exp(-t)),
    Problem(
        "A2",
        lambda t, y, _: -(y**3) / 2,
        np.array(1.0),
        _LONG,
        None,
        lambda t, _: (t + 1.0) ** -0.5,
    ),
    Problem(
        "A3",
        lambda t, y, _: y * jnp.cos(t),
        np.array(1.0),
        _LONG,
        None,
        lambda t, _: jnp.exp(jnp.sin(t)),
    ),
    Problem(
        "A4",
        lambda t, y, _: y / 4 * (1 - y / 20),
        np.array(1.0),
        _LONG,
        None,
        lambda t, _: 20 / (1 + 19 * jnp.exp(-t / 4)),
    ),
    Problem(
        "A5",
        _a5,
        np.array(4.0),
        _LONG,
        invariant=lambda t, y, _: jnp.log(jnp.hypot(t, y)) + jnp.arctan2(y, t),
    ),
    Problem("B1", _b1, np.array([1.0, 3.0]), _LONG, invariant=_b1_invariant),
    Problem("B2", _b2, np.array([2.0, 0.0, 1.0]), _LONG, None, _b2_exact, lambda t, y, _: y.sum()),
    Problem("B3", _b3, _unit(3), _LONG, invariant=lambda t, y, _: y.sum()),
    Problem("B4", _b4, np.array([3.0, 0.0, 0.0]), _LONG, None, _b4_exact),
    Problem("B5", _b5, np.array([0.0, 1.0, 1.0]), _LONG, invariant=_b5_invariant),
    Problem("C1", _decay, _unit(10), _LONG, np.ones(9), _c1_exact, lambda t, y, _: y.sum()),
    Problem(
        "C2", _decay, _unit(10), _LONG, np.arange(1.0, 10.0), _c2_exact, lambda t, y, _: y.sum()
    ),
    Problem("C3", _heat, _unit(10), _LONG, None, _heat_exact(10)),
    Problem("C4", _heat, _unit(51), _LONG, None, _heat_exact(51)),
    Problem("C5", _planets, np.stack([_PLACES, _SPEEDS]), _LONG, invariant=_planets_invariant),
    *(
        Problem(
            f"D{i + 1}", _kepler, _kepler_start(e), _LONG, None, _kepler_exact(e), _kepler_invariant
        )
        for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9))
    ),
    Problem(
        "E1",
        _bessel,
        np.array([0.6713967071418031, 0.0954005144474746]),
        _LONG,
        None,
        _bessel_exact,
    ),
    Problem("E2", _van_der_pol, np.array([2.0, 0.0]), _LONG, 1.0),
    Problem("E3", _duffing, np.array([0.0, 0.0]), _LONG),
    Problem("E4", _fall, np.array([30.0, 0.0]), _LONG, None, _fall_exact),
    Problem("E5", _pursuit, np.array([0.0, 0.0]), _LONG, None, _pursuit_exact),
)

_OTHERS = (
    Problem(
        "kepler", _kepler, _kepler_start(0.6), _LONG, None, _kepler_exact(0.6), _kepler_invariant
    ),
    Problem("pendulum", _pendulum, np.array([1.0, 0.5]), _LONG, invariant=_pendulum_invariant),
    Problem("lrc", _circuit, np.zeros(2), _LONG, (1.0, 0.5, 0.25, 1.0, 1.5), _circuit_exact),
    Problem("lorenz", _lorenz, np.array([1.0, 0.0, 0.0]), (0.0, 10.0), (10.0, 28.0, 8 / 3)),
    Problem("van_der_pol", _van_der_pol, np.array([2.0, 0.0]), _LONG, 5.0),
    Problem(
        "lotka_volterra",
        _lotka_volterra,
        np.array([10.0, 5.0]),
        _LONG,
        (1.5, 1.0, 3.0, 1.0),
        invariant=_lotka_volterra_invariant,
    ),
    Problem(
        "pleiades",
        _pleiades,
        np.array(
            [
                [[3, 3], [3, -3], [-1, 2], [-3, 0], [2, 0], [-2, -4], [2, 4]],
                [[0, 0], [0, 0], [0, 0], [0, -1.25], [0, 1], [1.75, 0], [-1.5, 0]],
            ]
        ),
        (0.0, 3.0),
        invariant=_pleiades_invariant,
    ),
    Problem(
        "ornstein_uhlenbeck",
        _ou_drift,
        np.array([1.0]),
        (0.0, 1.0),
        _OU,
        lambda t, args: jnp.exp(-args[0] * t)[None],
        sde=SDE(lambda t, y: -_OU[0] * y, lambda t, y: jnp.full_like(y, _OU[1]), "additive"),
    ),
    Problem(
        "geometric_brownian",
        _gbm_drift,
        np.array([1.0]),
        (0.0, 1.0),
        _GBM,
        lambda t, args: jnp.exp(args[0] * t)[None],
        sde=SDE(lambda t, y: _GBM[0] * y, lambda t, y: _GBM[1] * y, "diagonal"),
    ),
)

PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (*_DETEST, *_OTHERS)}
"""All problems by name."""
