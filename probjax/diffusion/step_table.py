r"""The record that holds a sampler's coefficients, and the grid they are computed on.

>>> import numpy as np
>>> grid = StepGrid.make(np.array([4.0, 2.0]), None, "denoise", 0.0)
>>> print(grid.lengths)  # log 2
[0.693]
>>> grid.table(newest_rows(1 - np.exp(-grid.lengths), np), None).num_steps
2
"""

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probjax.core import checks
from probjax.diffusion.schedules import NoiseSchedule
from probjax.diffusion.walk import Levels

Numbers = Array | np.ndarray
"""A table's numbers: NumPy's where the levels are given, JAX's where they are traced."""


class StepTable(NamedTuple):
    """The coefficients of a sampler, one row for each step."""

    noise_scales: Float[Numbers, "steps"]
    r"""$\sigma_n$, at which the step calls the denoiser."""
    alphas: Float[Numbers, "steps"]
    r"""$\alpha_{n+1}$ of the level that the step leads to; 1 where the noise ends."""
    decay: Float[Numbers, "steps"]
    """Factor on the sample."""
    predictor: Float[Numbers, "steps 3"]
    """Weights of the estimates, the newest first."""
    corrector: Float[Numbers, "steps 4"] | None = None
    """Weights with which the step is made again when the estimate at its end is known; that one
    first, then the three of `predictor`. `None`: steps are not corrected."""
    spread: Float[Numbers, "steps"] | None = None
    """Standard deviation of the fresh noise. `None`: no noise, no key is used."""

    @property
    def num_steps(self) -> int:
        """How many steps the table has, which is how many calls of the denoiser it makes."""
        return self.decay.shape[0]


class StepGrid(NamedTuple):
    """Levels, and how far each is from the next: what tables are computed from."""

    xp: ModuleType
    """NumPy where the levels are given, JAX's where they are traced."""
    noise_scales: Any
    r"""$\sigma$, `(N,)`."""
    alphas: Any
    r"""$\alpha$, `(N,)`."""
    stochasticity: Any
    r"""$\ell$."""
    final: str
    """`"denoise"` or `"keep"`."""

    @classmethod
    def make(cls, noise_scales: Any, alphas: Any, final: str, stochasticity: Any) -> "StepGrid":
        """Check levels and take them in double precision, or as they are where they are traced.

        Args:
            noise_scales: positive and strictly decreasing, `(N,)`.
            alphas: positive, `(N,)`, or `None` for ones.
            final: `"denoise"` or `"keep"`.
            stochasticity: not negative.

        Returns:
            The grid.

        Raises:
            ValueError: the grid is not in order, or `stochasticity` is negative.

        Example:
            >>> StepGrid.make(jnp.array([2.0, 1.0]), None, "keep", 0.0).noise_scales.dtype.name
            'float64'
        """
        Levels.make(noise_scales, alphas, final)
        checks.non_negative("stochasticity", stochasticity)
        given = (noise_scales, alphas, stochasticity)
        xp = jnp if any(isinstance(v, jax.core.Tracer) for v in given) else np
        if xp is np:
            sigma = np.asarray(noise_scales, np.float64)
            level = float(stochasticity)
        else:
            dtype = jnp.result_type(float, *(v for v in given if v is not None))
            sigma = jnp.asarray(noise_scales, dtype)
            traced = isinstance(stochasticity, jax.core.Tracer)
            level = stochasticity.astype(dtype) if traced else float(stochasticity)
        alpha = xp.ones_like(sigma) if alphas is None else xp.asarray(alphas, sigma.dtype)
        return cls(xp, sigma, alpha, level, final)

    @property
    def log_snr(self) -> Any:
        r"""$\lambda$ of each level."""
        return self.xp.log(self.alphas) - self.xp.log(self.noise_scales)

    @property
    def lengths(self) -> Any:
        r"""$(1+\ell^2)h$ of each step."""
        return (1 + self.stochasticity**2) * self.xp.diff(self.log_snr)

    @property
    def noisy(self) -> bool:
        """Whether there is noise to put in, or may be."""
        return isinstance(self.stochasticity, jax.core.Tracer) or self.stochasticity > 0

    def with_middles(self, schedule: NoiseSchedule | None, *, first_only: bool) -> "StepGrid":
        r"""Insert a level in the middle, in $\lambda$, of the first step or of each.

        Args:
            schedule: tells alpha there; not needed where alpha is one.
            first_only: the first step, or each.

        Returns:
            The grid with more levels.

        Raises:
            ValueError: one level only, or alphas without a schedule.

        Example:
            >>> grid = StepGrid.make(np.array([4.0, 1.0]), None, "keep", 0.0)
            >>> print(grid.with_middles(None, first_only=True).noise_scales)
            [4. 2. 1.]
        """
        if self.noise_scales.shape[0] < 2:
            raise ValueError("noise_scales must have two entries at least, got 1")
        log_snr = self.log_snr
        count = 1 if first_only else log_snr.shape[0] - 1
        middle = 0.5 * (log_snr[:count] + log_snr[1 : count + 1])
        if schedule is not None:
            alpha = self.xp.asarray(schedule.alpha(schedule.t_of_log_snr(middle)), middle.dtype)
        elif not isinstance(self.alphas, np.ndarray) or np.all(self.alphas == 1):
            alpha = self.xp.ones_like(middle)
        else:
            raise ValueError("schedule must be given with alphas: a level in between is needed")
        mixed = []
        for values, between in (
            (self.noise_scales, alpha * self.xp.exp(-middle)),
            (self.alphas, alpha),
        ):
            pairs = self.xp.stack([values[:count], between], axis=-1).reshape(-1)
            mixed.append(self.xp.concatenate([pairs, values[count:]]))
        return self._replace(noise_scales=mixed[0], alphas=mixed[1])

    def table(
        self, predictor: Any, corrector: Any, *, decay: Any = None, spread: Any = None
    ) -> StepTable:
        r"""Make a table of its weights, with the last step if one is asked for.

        Args:
            predictor: `(N - 1, 3)`.
            corrector: `(N - 1, 4)`, or `None`.
            decay: `(N - 1,)`; $e^{-\ell^2h}\sigma_1/\sigma_0$ if left out.
            spread: `(N - 1,)`, with `decay`.

        Returns:
            The table.

        Example:
            >>> grid = StepGrid.make(np.array([2.0, 1.0]), None, "keep", 0.0)
            >>> print(grid.table(np.array([[0.5, 0.0, 0.0]]), None).decay)
            [0.5]
        """
        xp = self.xp
        level, here, there = self.stochasticity, self.noise_scales[:-1], self.noise_scales[1:]
        gap = level**2 * xp.diff(self.log_snr)
        if decay is None:
            decay = there / here * xp.exp(-gap)
            spread = there * xp.sqrt(-xp.expm1(-2 * gap)) if self.noisy else None
        sigma, alpha = here, self.alphas[1:]
        if self.final == "denoise":
            end = xp.zeros_like(self.noise_scales[:1])
            sigma, alpha = self.noise_scales, xp.concatenate([alpha, end + 1])
            decay = xp.concatenate([decay, end])
            spread = None if spread is None else xp.concatenate([spread, end])
            last = xp.zeros_like(self.noise_scales, shape=(1, 4))
            unit = xp.asarray([[1.0, 0.0, 0.0]], sigma.dtype)
            predictor = xp.concatenate([predictor, unit])
            corrector = None if corrector is None else xp.concatenate([corrector, last])
        return StepTable(sigma, alpha, decay, predictor, corrector, spread)


def newest_rows(weight: Any, xp: ModuleType) -> Any:
    """Return rows of a table that use the newest estimate only.

    Args:
        weight: its weights, `(N,)`.
        xp: NumPy or JAX's.

    Returns:
        Rows `(N, 3)`.

    Example:
        >>> print(newest_rows(np.array([0.5]), np))
        [[0.5 0.  0. ]]
    """
    return xp.stack([weight, xp.zeros_like(weight), xp.zeros_like(weight)], axis=-1)
