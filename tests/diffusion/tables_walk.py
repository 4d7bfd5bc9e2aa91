"""A table run by NumPy, in the way it is defined: each corrected step is made again from its start.

The library never goes back; this does, and keeps every sample and estimate.
"""

import numpy as np

MEAN, VARIANCES = np.array([1.0, -2.0, 0.5]), np.array([4.0, 1.0, 0.25])
START = np.array([3.0, 0.5, -1.0])


def gaussian(x, noise_scale):
    return MEAN + VARIANCES / (VARIANCES + noise_scale**2) * (x - MEAN)


def flow(x, before, after):
    return MEAN + np.sqrt((VARIANCES + after**2) / (VARIANCES + before**2)) * (x - MEAN)


def walk(table, denoiser, x, noise=None):
    """All samples, predicted (the last of which is the result)."""
    found, base, estimates = [], x, []
    for n in range(table.num_steps):
        estimates.insert(0, denoiser(x, table.noise_scales[n]))
        if table.corrector is not None and n:
            base = again(table, n - 1, base, estimates, table.corrector[n - 1], noise)
        else:
            base = x
        x = again(table, n, base, estimates, table.predictor[n], noise)
        found.append(x)
    return found


def again(table, n, x, estimates, weights, noise):
    moved = table.decay[n] * x
    for weight, estimate in zip(weights, estimates, strict=False):
        moved = moved + table.alphas[n] * weight * estimate
    if table.spread is not None:
        moved = moved + table.spread[n] * noise[n]
    return moved


def global_slope(make, counts=(64, 256)):
    """The order on a Gaussian, noise scales 2 to 0.1 uniform in the logarithm."""
    errors = []
    for count in counts:
        table = make(np.geomspace(2.0, 0.1, count + 1))
        x = walk(table, gaussian, START)[-1]
        errors.append(np.linalg.norm(x - flow(START, 2.0, 0.1)))
    return np.log2(errors[0] / errors[-1]) / np.log2(counts[-1] / counts[0])
