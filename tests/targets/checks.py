"""What must hold for every target, on functions already compiled, so that mutants can be passed."""

import numpy as np
from scipy import stats

CHUNK = 4096


def grid(lows, highs, counts):
    """Midpoints of a rectangular grid `(n, 2)` and the area of one cell."""
    spans = list(zip(lows, highs, counts, strict=True))
    axes = [low + (high - low) * (np.arange(n) + 0.5) / n for low, high, n in spans]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return points, np.prod([(high - low) / n for low, high, n in spans])


def densities(log_density, points, noise_scale):
    """Density at all points, in chunks of one shape."""
    padded = np.pad(points, ((0, -len(points) % CHUNK), (0, 0)))
    chunks = np.split(padded, len(padded) // CHUNK)
    values = [np.exp(np.asarray(log_density(chunk, noise_scale))) for chunk in chunks]
    return np.concatenate(values)[: len(points)]


def density_integrates_to_one(log_density, box, noise_scale, tolerance=1e-6):
    points, area = grid(*box)
    mass = densities(log_density, points, noise_scale).sum() * area
    assert abs(mass - 1) < tolerance, mass


def score_is_gradient(score, gradient, x, noise_scale, tolerance=1e-8):
    """The error is relative to 1 + |score|, which is large far out."""
    ours, theirs = np.asarray(score(x, noise_scale)), np.asarray(gradient(x, noise_scale))
    error = np.max(np.abs(ours - theirs) / (1 + np.abs(ours)))
    assert error < tolerance, error


def draws_follow_density(log_density, draws, box, noise_scale, threshold=1e-3):
    """Chi-square of a histogram against integrals over its cells by 6x6 midpoints each."""
    lows, highs, counts = box
    fine, area = grid(lows, highs, [6 * n for n in counts])
    density = densities(log_density, fine, noise_scale)
    cells = density.reshape(counts[0], 6, counts[1], 6).sum(axis=(1, 3)).ravel() * area
    edges = [np.linspace(lo, hi, n + 1) for lo, hi, n in zip(lows, highs, counts, strict=True)]
    seen = np.histogram2d(*np.asarray(draws).T, bins=edges)[0].ravel()
    expected = cells * len(draws)
    dense = expected >= 10
    seen = np.append(seen[dense], len(draws) - seen[dense].sum())
    expected = np.append(expected[dense], len(draws) - expected[dense].sum())
    statistic = float(((seen - expected) ** 2 / expected).sum())
    p = stats.chi2.sf(statistic, len(expected) - 1)
    assert p > threshold, (p, statistic, len(expected))
