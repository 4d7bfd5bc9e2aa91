r"""Hares and lynxes: parameters of an ordinary differential equation from twenty years of pelts.

>>> from probjax import targets
>>> targets.lotka_volterra().names[:5]
('theta[1]', 'theta[2]', 'theta[3]', 'theta[4]', 'z_init[1]')
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probjax.core import checks
from probjax.targets.posterior import (
    Posterior,
    indexed,
    log_normal_pdf,
    log_normal_residuals,
    make_posterior,
    numbers,
    observations,
)
from probjax.targets.record import Numbers

START = (30.0, 4.0)
"""Pelts of hares and lynxes, in thousands, in 1900."""

YEARS = tuple(float(year) for year in range(1, 21))
"""Years since."""

PELTS = (
    (47.2, 6.1), (70.2, 9.8), (77.4, 35.2), (36.3, 59.4), (20.6, 41.7), (18.1, 19.0),
    (21.4, 13.0), (22.0, 8.3), (25.4, 9.1), (27.1, 7.4), (40.3, 8.0), (57.0, 12.3),
    (76.6, 19.5), (52.3, 45.7), (19.5, 51.1), (11.2, 29.7), (7.6, 15.8), (14.6, 9.7),
    (16.2, 10.1), (24.7, 8.6),
)  # fmt: skip
"""Pelts of hares and lynxes, in thousands, of the Hudson's Bay Company, 1901 to 1920."""


def lotka_volterra(
    *,
    ts: Numbers = YEARS,
    y_init: Numbers = START,
    y: Numbers = PELTS,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    max_steps: int = 1024,
) -> Posterior:
    r"""Return the posterior of a predator-prey model.

    $$z_1'=(\theta_1-\theta_2z_2)\,z_1,\qquad z_2'=(-\theta_3+\theta_4z_1)\,z_2,\qquad z(0)=z_0,$$

    $\log y_{tk}\sim N(\log z_k(t),\sigma_k^2)$, also at time 0; $\theta_1,\theta_3\sim N(1,0.5^2)$,
    $\theta_2,\theta_4\sim N(0.05,0.05^2)$, all positive, $\log z_{0k}\sim N(\log10,1)$,
    $\log\sigma_k\sim N(-1,1)$. The unconstrained vector holds all logarithms.

    diffrax (Tsit5, adaptive steps) solves for $\log z$, so populations stay positive; its
    derivatives are carried forward with it, and are those of the numerical solution. Where more
    than `max_steps` steps are needed the log density is $-\infty$. diffrax's loop does not pass
    `shard_map`'s VMA check: map with `check_vma=False`.

    Args:
        ts: times of observation, increasing and positive, `(n,)`.
        y_init: prey and predators at time 0, `(2,)`.
        y: prey and predators at those times, `(n, 2)`.
        rtol: relative tolerance of a step. In float32 no tolerance below 1e-5 is used.
        atol: absolute tolerance of a step, of the logarithm; likewise.
        max_steps: give up after so many steps.

    Returns:
        The posterior of `theta[1]`, ..., `theta[4]`, `z_init[1]`, `z_init[2]`, `sigma[1]`,
        `sigma[2]`.

    Raises:
        ValueError: shapes do not fit, times do not increase from zero, a population is not
            positive, or a tolerance is not.

    References:
        Carpenter 2018, *Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan*;
        `lotka_volterra` of posteriordb.
    """
    times = observations("ts", ts, positive=True)
    if not (np.diff(times) > 0).all():
        raise ValueError(f"ts must increase, got {times}")
    start = observations("y_init", y_init, length=2, positive=True)
    pelts = numbers("y", y)
    checks.shape("y", pelts, (len(times), 2))
    checks.positive("y", pelts)
    checks.positive("rtol", rtol)
    checks.positive("atol", atol)
    checks.at_least("max_steps", max_steps, 1)
    observed = np.log(np.concatenate([start[None], pelts]))

    def field(t: Array, log_z: Array, theta: Array) -> Array:
        prey, predators = jnp.exp(log_z)
        return jnp.stack([theta[0] - theta[1] * predators, -theta[2] + theta[3] * prey])

    def solve(v: Array) -> Array:
        """Logarithms of the populations at `ts`; infinity where there is no solution."""
        dtype = v.dtype
        floor = 1e-5 if dtype == jnp.float32 else 0.0
        grid = jnp.asarray(times, dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(),
            jnp.zeros((), dtype), grid[-1], jnp.asarray(0.05, dtype), v[4:], jnp.exp(v[:4]),
            saveat=diffrax.SaveAt(ts=grid),
            stepsize_controller=diffrax.PIDController(rtol=max(rtol, floor), atol=max(atol, floor)),
            adjoint=diffrax.ForwardMode(), max_steps=max_steps, throw=False,
        )  # fmt: skip
        found = solution.result == diffrax.RESULTS.successful
        return jnp.where(found, solution.ys, jnp.full_like(solution.ys, jnp.inf))

    # Six directions carried along cost less than diffrax's way back, to compile and to run.
    paths_of = jax.custom_jvp(solve)

    @paths_of.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        jacobian, paths = jax.jacfwd(lambda v: (solve(v),) * 2, has_aux=True)(primals[0])
        jacobian = jnp.where(jnp.isfinite(jacobian), jacobian, jnp.zeros_like(jacobian))
        return paths, jacobian @ tangents[0]

    def logdensity(u: Array) -> Array:
        dtype = u.dtype
        theta, log_start, log_sigma = jnp.exp(u[:4]), u[4:6], u[6:]
        paths = paths_of(u[:6])
        found = jnp.all(jnp.isfinite(paths))
        # Before anything is computed from it, so that no gradient passes through infinity.
        paths = jnp.where(found, paths, jnp.zeros_like(paths))
        residuals = jnp.asarray(observed, dtype) - jnp.concatenate([log_start[None], paths])
        scales = jnp.broadcast_to(log_sigma[None], residuals.shape)
        prior = (
            log_normal_pdf(theta[0], 1.0, 0.5)
            + log_normal_pdf(theta[1], 0.05, 0.05)
            + log_normal_pdf(theta[2], 1.0, 0.5)
            + log_normal_pdf(theta[3], 0.05, 0.05)
            + jnp.sum(log_normal_pdf(log_start, float(np.log(10.0)), 1.0))
            + jnp.sum(log_normal_pdf(log_sigma, -1.0, 1.0))
        )
        total = log_normal_residuals(residuals, scales) + prior + jnp.sum(u[:4])
        return jnp.where(found, total, -jnp.inf)

    names = [*indexed("theta", 4), *indexed("z_init", 2), *indexed("sigma", 2)]
    middle = np.log([1.0, 0.05, 1.0, 0.05, 10.0, 10.0, np.exp(-1.0), np.exp(-1.0)])
    return make_posterior(
        "lotka_volterra", names, logdensity, jnp.exp, jnp.log, center=middle, radius=0.5
    )
