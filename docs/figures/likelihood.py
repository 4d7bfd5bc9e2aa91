"""The figure of `docs/diffusion/likelihood.md`: bias against evaluations, spread against probes."""

import figure
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from probjax import diffusion, targets
from probjax.core import traces

RADIUS, SPREAD, LO, HI = 0.6963, 0.08704, 0.002, 80.0
POINTS = 512
COUNTS = {
    "heun": (10, 20, 40, 60, 120),
    "rk4": (5, 10, 20, 30, 60),
    "dormand_prince": (5, 7, 10, 20, 40),
}
CALLS = {"heun": 2, "rk4": 4, "dormand_prince": 6}


def main() -> None:
    """Eight gaussians with the exact denoiser, in double precision."""
    jax.config.update("jax_enable_x64", True)
    angles = np.arange(8) * np.pi / 4
    means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    target = targets.gaussian_mixture(means, SPREAD, np.full(8, 1 / 8))
    denoiser = diffusion.gmm_denoiser(jnp.asarray(means), jnp.full(8, SPREAD), jnp.ones(8))
    x = target.sample(jax.random.key(0), POINTS, LO)
    exact = target.log_density(x, LO)

    def run(x, probes, num_steps, tableau, standard):
        prior = None if standard else lambda y: target.log_density(y, HI)
        return diffusion.pf_ode_log_prob(
            denoiser, x, noise_scale_min=LO, noise_scale_max=HI, num_steps=num_steps,
            tableau=tableau, probes=probes, prior=prior,
        ).log_prob  # fmt: skip

    jitted = jax.jit(run, static_argnums=(2, 3, 4))
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.9))
    colours = (figure.RED, figure.ORANGE, figure.BLUE)
    for (tableau, counts), colour, marker in zip(COUNTS.items(), colours, "s^o", strict=True):
        gaps = np.stack([jitted(x, None, n, tableau, False) - exact for n in counts])
        calls = CALLS[tableau] * np.array(counts)
        left.plot(calls, abs(gaps.mean(1)), marker + "-", color=colour, ms=5, label=tableau)
        left.plot(calls, abs(gaps).max(1), marker + ":", color=colour, ms=3, lw=1)
        for call, gap in zip(calls, gaps, strict=True):
            print(f"{tableau} {call}: mean {gap.mean():.1e}, max {abs(gap).max():.1e}")
    gap = jitted(x, None, 20, "dormand_prince", True) - exact
    print(f"dormand_prince 120, prior N(0, 80^2): mean {gap.mean():.1e}, max {abs(gap).max():.1e}")
    left.axhline(1e-3, color=figure.INK, lw=1, ls="--")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks([10, 20, 40, 80, 120, 240], ["10", "20", "40", "80", "120", "240"])
    left.minorticks_off()
    left.set_xlabel("evaluations of the denoiser")
    left.set_title("error in nats, exact trace")
    left.legend()

    kinds, many = np.array([1, 2, 4, 8, 16]), 256
    few = jnp.repeat(x[:16], many, axis=0)
    for law, colour, marker in (("rademacher", figure.BLUE, "o"), ("gaussian", figure.RED, "s")):
        spreads = []
        for k in kinds:
            probes = traces.probes(jax.random.key(int(k)), (int(k), *few.shape), law)
            values = jitted(few, probes, 20, "dormand_prince", False).reshape(16, many)
            spreads.append(float(np.sqrt(values.var(axis=1, ddof=1).mean())))
        print(law, " ".join(f"{k}:{v:.3f}" for k, v in zip(kinds, spreads, strict=True)))
        right.plot(kinds, spreads, marker, color=colour, label=law)
        right.plot(kinds, spreads[0] / kinds**0.5, color=colour, lw=1)
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    right.set_xticks(kinds, [str(k) for k in kinds])
    right.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
    right.set_xlabel("probes $k$")
    right.set_title("spread of Hutchinson's estimate in nats")
    right.legend(loc="center left")
    figure.save(drawing, "likelihood")


if __name__ == "__main__":
    main()
