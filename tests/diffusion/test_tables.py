"""Tables: exact on polynomials, of the stated orders, and the published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffusion.schedules import vp
from probjax.diffusion.stochastic import ddim_table
from probjax.diffusion.tables import adams_table, dpmpp_3m_table, single_step_table
from tests.diffusion.tables_walk import START, flow, gaussian, global_slope, walk

GRID = np.array([7.0, 3.1, 1.9, 0.8, 0.55, 0.2, 0.12])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def keep(**options):
    return lambda grid: adams_table(grid, final="keep", **options)


def copied(grid):
    return dpmpp_3m_table(grid, final="keep")


def step_error(table, n, power, *, corrected=False):
    """What row n makes of D = lambda^power, from exact history, less the exact integral."""
    levels = -np.log(GRID)
    ends = levels[[n + 1, n, n - 1, n - 2]]
    weights = table.corrector[n] if corrected else np.insert(table.predictor[n], 0, 0.0)
    got = np.sum(weights * ends**power)
    h = levels[n + 1] - levels[n]
    places = 0.5 * h * (NODES + 1)
    integrand = np.exp(-(h - places)) * (levels[n] + places) ** power
    return got - 0.5 * h * np.sum(WEIGHTS * integrand)


def check_polynomials(make):
    """Exact up to the degree that the number of estimates allows, and not one more."""
    for order in (1, 2, 3):
        table = make(order)
        for n in range(2, len(GRID) - 1):
            for corrected, degree in ((False, order - 1), (True, order)):
                for power in range(degree + 1):
                    error = step_error(table, n, power, corrected=corrected)
                    assert abs(error) < 1e-14 * max(1, abs(np.log(GRID[n + 1])) ** power)
                assert abs(step_error(table, n, degree + 1, corrected=corrected)) > 1e-4


def test_polynomials_are_integrated_exactly():
    check_polynomials(lambda order: adams_table(GRID, order=order, corrector=True, final="keep"))


def test_polynomial_kills():
    def shifted(order):  # the estimate at the end of the step taken for the one at its start
        table = adams_table(GRID, order=order, corrector=True, final="keep")
        return table._replace(corrector=table.corrector[:, [1, 0, 2, 3]])

    def second_difference(order):
        table = adams_table(GRID, order=order, corrector=True, final="keep")
        return table if order < 3 else table._replace(predictor=copied(GRID).predictor)

    def neighbour(order):  # the node ratios of the step before
        table = adams_table(GRID, order=order, corrector=True, final="keep")
        return table._replace(corrector=np.roll(table.corrector, 1, axis=0))

    for mutant in (shifted, second_difference, neighbour):
        with pytest.raises(AssertionError):
            check_polynomials(mutant)


SLOPES = {
    "order 1": (keep(order=1), 1.00),
    "2M": (keep(order=2, variant="half"), 1.99),
    "order 2": (keep(order=2), 1.99),
    "order 3 cold": (keep(order=3), 2.01),
    "order 3 warm": (keep(order=3, start="midpoint"), 2.97),
    "1+C": (keep(order=1, corrector=True), 2.00),
    "2+C": (keep(order=2, corrector=True), 2.99),
    "2+C warm": (keep(order=2, corrector=True, start="midpoint"), 3.00),
    "3+C cold": (keep(order=3, corrector=True), 3.04),
    "3+C warm": (keep(order=3, corrector=True, start="midpoint"), 3.96),
    "UniPC-3": (keep(order=3, corrector=True, variant="half", end="lower"), 3.04),
    "3M as copied": (copied, 2.00),
    "2S": (lambda grid: single_step_table(grid, final="keep"), 2.00),
    "2S exact": (lambda grid: single_step_table(grid, variant="exact", final="keep"), 2.00),
}


@pytest.mark.parametrize("name", SLOPES)
def test_global_orders(name):
    make, order = SLOPES[name]
    assert abs(global_slope(make) - order) < 0.1


def without_start(make):
    """The first two steps made exact, so that only the formula of full order is seen."""
    errors = []
    for count in (64, 256):
        grid = np.geomspace(2.0, 0.1, count + 1)
        table = make(grid)
        x = flow(START, 2.0, grid[2])
        estimates = [gaussian(flow(START, 2.0, c), c) for c in grid]
        for n in range(2, count):
            x = table.decay[n] * x
            for k in range(3):
                x = x + table.predictor[n, k] * estimates[n - k]
        errors.append(np.linalg.norm(x - flow(START, 2.0, 0.1)))
    return np.log2(errors[0] / errors[1]) / 2


def test_the_copied_third_order_formula_has_order_two_with_exact_history():
    assert abs(without_start(copied) - 2.0) < 0.1
    assert abs(without_start(keep(order=3)) - 3.0) < 0.1


def test_copied_formula_as_published():
    """With both divided differences written out."""
    table = copied(GRID)
    levels = -np.log(GRID)
    generator = np.random.default_rng(0)
    d = generator.normal(size=len(GRID))
    for n in range(2, 6):
        h, h1, h2 = (
            levels[n + 1] - levels[n],
            levels[n] - levels[n - 1],
            levels[n - 1] - levels[n - 2],
        )
        r0, r1 = h1 / h, h2 / h
        first, earlier = (d[n] - d[n - 1]) / r0, (d[n - 1] - d[n - 2]) / r1
        slope = first + (first - earlier) * r0 / (r0 + r1)
        curve = (first - earlier) / (r0 + r1)
        phi2 = np.expm1(-h) / h + 1
        phi3 = phi2 / h - 0.5
        want = -np.expm1(-h) * d[n] + phi2 * slope - phi3 * curve
        got = table.predictor[n] @ d[[n, n - 1, n - 2]]
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_second_order_formulas_as_published():
    table = adams_table(GRID, order=2, variant="half", corrector=True)
    levels = -np.log(GRID)
    for n in range(1, 6):
        h, before = levels[n + 1] - levels[n], levels[n] - levels[n - 1]
        share = -np.expm1(-h) * h / (2 * before)
        want = [-np.expm1(-h) + share, -share, 0]
        np.testing.assert_allclose(table.predictor[n], want, rtol=1e-13)
    half = -0.5 * np.expm1(-(levels[1] - levels[0]))
    np.testing.assert_allclose(table.corrector[0], [half, half, 0, 0], rtol=1e-13)
    assert table.decay[-1] == 0 and table.predictor[-1].tolist() == [1, 0, 0]


def test_two_stage_step_as_published():
    """u = r x + (1 - r) D, then x' = r' x + (1 - r') D(u): one estimate in the whole step."""
    before, after = 3.0, 0.8
    table = single_step_table(np.array([before, after]), final="keep")
    middle = np.sqrt(before * after)
    u = middle / before * START + (1 - middle / before) * gaussian(START, before)
    want = after / before * START + (1 - after / before) * gaussian(u, middle)
    np.testing.assert_allclose(walk(table, gaussian, START)[-1], want, rtol=1e-14)


def test_order_one_is_euler_in_the_noise_scale_and_ddim():
    table = adams_table(GRID, order=1)
    x, found = START, walk(table, gaussian, START)
    for n in range(len(GRID) - 1):
        x = x + (GRID[n + 1] - GRID[n]) * (x - gaussian(x, GRID[n])) / GRID[n]
        np.testing.assert_allclose(found[n], x, rtol=1e-13)
    for level, eta in ((0.0, 0.0), (1.0, 1.0)):
        one, two = adams_table(GRID, order=1, stochasticity=level), ddim_table(GRID, eta=eta)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("start", ["cold", "midpoint"])
@pytest.mark.parametrize("stochasticity", [0.0, 0.7])
def test_a_constant_denoiser_keeps_the_marginal(start, stochasticity):
    """Data in one point: D is exact, and so are mean and variance at every level."""
    alphas = np.sqrt(1 / (1 + GRID**2))
    schedule = vp()
    for make in (
        lambda **o: adams_table(order=3, corrector=True, start=start, **o),
        lambda **o: single_step_table(**o),
    ):
        table = make(
            noise_scales=GRID * alphas,
            alphas=alphas,
            schedule=schedule,
            stochasticity=stochasticity,
        )
        mean, variance = alphas[0] * 1.5, (GRID * alphas)[0] ** 2
        for n in range(table.num_steps - 1):
            mean = table.decay[n] * mean + table.alphas[n] * table.predictor[n].sum() * 1.5
            variance = table.decay[n] ** 2 * variance
            if stochasticity:
                variance = variance + table.spread[n] ** 2
            if table.corrector is not None:
                assert abs(table.corrector[n].sum() - table.predictor[n].sum()) < 1e-14
            np.testing.assert_allclose(mean, table.alphas[n] * 1.5, rtol=1e-6)
            np.testing.assert_allclose(variance, table.noise_scales[n + 1] ** 2, rtol=1e-6)


def test_alphas_only_rescale():
    alphas = np.sqrt(1 / (1 + GRID**2))
    one = adams_table(GRID * alphas, alphas=alphas, order=3, corrector=True)
    two = adams_table(GRID, order=3, corrector=True)
    np.testing.assert_allclose(one.predictor, two.predictor, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(one.corrector, two.corrector, rtol=1e-11, atol=1e-13)
    ratio = np.append(alphas[1:], 1) / alphas
    np.testing.assert_allclose(one.decay, two.decay * ratio, rtol=1e-13)


def test_order_drops_are_zeros():
    table = adams_table(GRID, order=3, corrector=True, end="lower")
    used = (table.predictor != 0).sum(axis=1)
    assert used.tolist() == [1, 2, 3, 3, 3, 2, 1]
    full = adams_table(GRID, order=3)
    assert (full.predictor != 0).sum(axis=1).tolist() == [1, 2, 3, 3, 3, 3, 1]
    assert full.corrector is None and full.spread is None


MAKERS = {
    "adams": lambda grid: adams_table(grid, order=3, corrector=True),
    "warm": lambda grid: adams_table(grid, order=3, corrector=True, start="midpoint"),
    "noisy": lambda grid: adams_table(grid, order=2, variant="half", stochasticity=0.5),
    "2S": lambda grid: single_step_table(grid, final="keep"),
    "copied": dpmpp_3m_table,
    "ddim": lambda grid: ddim_table(grid, eta=0.4),
}


@pytest.mark.parametrize("name", MAKERS)
def test_traced_levels_give_the_same_table_and_no_new_program(x64, compilations, name):
    make = MAKERS[name]
    jitted = jax.jit(make)
    for got, want in zip(
        jax.tree.leaves(jitted(jnp.asarray(GRID))), jax.tree.leaves(make(GRID)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)
    other = jnp.asarray(GRID[::-1].copy()[::-1] * 0.9)
    compilations.clear()
    jitted(other)
    assert not compilations


def test_short_grids():
    for count in (1, 2, 3, 4):
        grid = GRID[:count]
        for start in ("cold", "midpoint"):
            if start == "midpoint" and count == 1:
                continue
            table = adams_table(grid, order=3, corrector=True, start=start)
            extra = start == "midpoint"
            assert table.num_steps == count + extra
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(table))
            assert table.predictor.shape == (count + extra, 3)
            assert table.corrector.shape == (count + extra, 4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="order must be 1, 2 or 3, got 4"):
        adams_table(GRID, order=4)
    with pytest.raises(ValueError, match="variant must be one of"):
        adams_table(GRID, variant="bh2")
    with pytest.raises(ValueError, match="start must be one of"):
        adams_table(GRID, start="warm")
    with pytest.raises(ValueError, match="end must be one of"):
        adams_table(GRID, end="low")
    with pytest.raises(ValueError, match=r"noise_scales\[1\]=3\.0 is not below"):
        adams_table(np.array([3.0, 3.0]))
    with pytest.raises(ValueError, match="needs order 2 or 3"):
        adams_table(GRID, order=1, start="midpoint")
    with pytest.raises(ValueError, match="two entries at least"):
        adams_table(GRID[:1], start="midpoint")
    with pytest.raises(ValueError, match="schedule must be given with alphas"):
        single_step_table(0.5 * GRID, alphas=np.full(7, 0.5))
    with pytest.raises(ValueError, match="stochasticity"):
        adams_table(GRID, stochasticity=-1.0)
