"""The samplers that the digits experiment compares, each as a function of parameters and keys.

>>> from probjax.experiments import digits_samplers
>>> print(*digits_samplers.NAMES)  # doctest: +NORMALIZE_WHITESPACE
ddim heun ancestral unipc2 unipc3 dpmpp_2m dpmpp_2s dpmpp_2m_sde churn_heun euler_maruyama
predictor_corrector annealed_langevin probability_flow
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probjax import diffusion, mcmc
from probjax.core import row_normal, stream
from probjax.diffusion.parameterization import Denoiser

NAMES = {
    "ddim": "DDIM",
    "heun": "Heun",
    "ancestral": "ancestral",
    "unipc2": "UniPC, order 2",
    "unipc3": "UniPC, order 3",
    "dpmpp_2m": "DPM-Solver++ 2M",
    "dpmpp_2s": "DPM-Solver++ 2S",
    "dpmpp_2m_sde": "DPM-Solver++ 2M SDE",
    "churn_heun": "Heun with churn",
    "euler_maruyama": "Euler-Maruyama",
    "predictor_corrector": "predictor-corrector",
    "annealed_langevin": "annealed Langevin",
    "probability_flow": "probability flow",
}
"""The samplers, as a config calls them and as a report does."""

ALL = "all"
"""In a config: every sampler of `NAMES`."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Which samplers are compared, and how each is run."""

    samplers: tuple[str, ...] = (
        "ddim", "heun", "ancestral", "unipc2", "dpmpp_2m", "annealed_langevin", "probability_flow",
    )  # fmt: skip
    """Which; `all` for every one."""
    num_samples: int = 500
    """Samples of each."""
    chunk_size: int = 250
    """Samples drawn at once."""
    max_noise_scale: float = 20.0
    """Where the samplers start."""
    min_noise_scale: float = 0.002
    """The last noise scale before the final denoising."""
    few_evaluations: int = 18
    """Denoiser evaluations of UniPC and of the DPM-Solver++ family."""
    few_min_noise_scale: float = 0.02
    """Their last noise scale: a quarter of a grey level, and no step is spent below it."""
    ddim_steps: int = 80
    """Denoiser evaluations of DDIM."""
    heun_steps: int = 20
    """Levels of Heun's method; two evaluations each but the last."""
    churn: float = 5.0
    """Noise put back by Heun's method with churn, over the whole run."""
    ancestral_steps: int = 80
    """Denoiser evaluations of ancestral sampling, Euler-Maruyama and predictor-corrector."""
    signal_to_noise: float = 0.16
    """Of the Langevin steps of predictor-corrector, one at each level."""
    flow_tolerance: float = 1e-3
    """Relative and absolute tolerance of the probability flow's adaptive steps."""
    langevin_levels: int = 40
    """Noise scales of annealed Langevin dynamics, geometric."""
    langevin_steps: int = 25
    """Steps at each of them."""
    langevin_min_noise_scale: float = 0.02
    """The last of them."""
    langevin_step: float = 0.0625
    """Step size over the squared noise scale."""


class Sampler(NamedTuple):
    """A sampler, ready to be mapped over rows."""

    draw: Callable[..., tuple[Array, Array]]
    """`draw(params, key) -> (x, num_evaluations)`, a key for each row."""
    check_vma: bool
    """Whether it passes `shard_map`'s VMA check (diffrax's loop does not)."""


def chosen(config: SamplingConfig) -> tuple[str, ...]:
    """List the samplers of a config, in the order of `NAMES`.

    Args:
        config: the config.

    Returns:
        Their names.

    Raises:
        ValueError: an unknown name, or none at all.

    Example:
        >>> chosen(SamplingConfig(samplers=("unipc2", "heun")))
        ('heun', 'unipc2')
    """
    unknown = [name for name in config.samplers if name not in (*NAMES, ALL)]
    if unknown or not config.samplers:
        wrong = f"got {unknown[0]!r}" if unknown else "got none"
        raise ValueError(f"samplers must be among {', '.join(NAMES)} or {ALL}, {wrong}")
    return tuple(name for name in NAMES if ALL in config.samplers or name in config.samplers)


def samplers(config: SamplingConfig, apply: Callable[[Any, Array], Denoiser]) -> dict[str, Sampler]:
    """Make the chosen samplers, each a pure function of parameters and a key for each sample.

    All start from the same noise for the same key, so the deterministic ones draw the same digit
    from it.

    Args:
        config: which, their grids and steps.
        apply: parameters, and a key for each row, to denoiser; a network that takes a class may
            draw it from the key.

    Returns:
        The samplers by name.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> zero = lambda params, key: lambda x, noise_scale: 0.0 * x
        >>> list(samplers(SamplingConfig(samplers=("heun", "annealed_langevin")), zero))
        ['heun', 'annealed_langevin']
    """
    high, low = config.max_noise_scale, config.min_noise_scale

    def scan(make: Callable[..., Any], num_steps: int | None = None, *, few: bool = False) -> Any:
        if few:
            scales = few_noise_scales(config, num_steps)
        else:
            scales = diffusion.karras_noise_scales(num_steps, low, high)

        def draw(params, key):
            algorithm = make(apply(params, key), scales)
            steps = 2 * num_steps - 1 if make is diffusion.dpmpp_2s else num_steps
            out = diffusion.sample(stream(key, "noise"), algorithm, starts(key, config), steps)
            return out.x, jnp.broadcast_to(out.num_evaluations, key.shape)

        return Sampler(draw, True)

    few = config.few_evaluations
    made = {
        "ddim": lambda: scan(diffusion.ddim, config.ddim_steps),
        "heun": lambda: scan(diffusion.heun, config.heun_steps),
        "ancestral": lambda: scan(diffusion.ancestral, config.ancestral_steps),
        "unipc2": lambda: scan(diffusion.unipc, few, few=True),
        "unipc3": lambda: scan(functools.partial(diffusion.unipc, order=3), few, few=True),
        "dpmpp_2m": lambda: scan(diffusion.dpmpp_2m, few, few=True),
        "dpmpp_2s": lambda: scan(diffusion.dpmpp_2s, (few + 1) // 2, few=True),
        "dpmpp_2m_sde": lambda: scan(diffusion.dpmpp_2m_sde, few, few=True),
        "churn_heun": lambda: scan(
            functools.partial(diffusion.churn_heun, s_churn=config.churn), config.heun_steps
        ),
        "euler_maruyama": lambda: scan(_euler_maruyama, config.ancestral_steps),
        "predictor_corrector": lambda: scan(
            functools.partial(
                diffusion.predictor_corrector,
                diffusion.ancestral,
                signal_to_noise=config.signal_to_noise,
            ),
            config.ancestral_steps // 2,
        ),
        "annealed_langevin": lambda: Sampler(_langevin(config, apply), True),
        "probability_flow": lambda: Sampler(_flow(config, apply), False),
    }
    return {name: made[name]() for name in chosen(config)}


def starts(key: Array, config: SamplingConfig) -> Array:
    """Draw the noise that samples start from, the same for every sampler.

    Args:
        key: a key for each row, `(n,)`.
        config: for the largest noise scale.

    Returns:
        Rows `(n, 64)`.

    Example:
        >>> starts(jax.random.split(jax.random.key(0), 3), SamplingConfig()).shape
        (3, 64)
    """
    return config.max_noise_scale * row_normal(stream(key, "init"), jnp.zeros((*key.shape, 64)))


def few_noise_scales(config: SamplingConfig, num_scales: int) -> Array:
    """Make the grid of the samplers with few evaluations.

    Args:
        config: for its ends.
        num_scales: how many levels.

    Returns:
        Strictly decreasing noise scales.

    Example:
        >>> print(few_noise_scales(SamplingConfig(), 2))
        [20.    0.02]
    """
    return diffusion.karras_noise_scales(
        num_scales, config.few_min_noise_scale, config.max_noise_scale
    )


def _euler_maruyama(denoiser, noise_scales):
    """On the grid's own scale as time: `dx = sqrt(2 t) dw`."""
    return diffusion.euler_maruyama(denoiser, diffusion.edm(), noise_scales)


def _langevin(config, apply):
    ladder = diffusion.geometric_noise_scales(
        config.langevin_levels, config.langevin_min_noise_scale, config.max_noise_scale
    )

    def draw(params, key):
        x, info = mcmc.sample_annealed(
            stream(key, "noise"),
            diffusion.score_from_denoiser(apply(params, key)),
            starts(key, config),
            ladder,
            num_steps_per_level=config.langevin_steps,
            epsilon=config.langevin_step * config.langevin_min_noise_scale**2,
        )
        return x, info.num_grad_evals

    return draw


def _flow(config, apply):
    def draw(params, key):
        def solve(x, key):
            return diffusion.sample_probability_flow(
                apply(params, key),
                x,
                start=config.max_noise_scale,
                stop=config.min_noise_scale,
                rtol=config.flow_tolerance,
                atol=config.flow_tolerance,
            )

        out = jax.vmap(solve)(starts(key, config), key)
        return out.x, out.num_evaluations

    return draw
