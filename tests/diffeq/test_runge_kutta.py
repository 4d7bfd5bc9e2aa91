"""Steps against closed forms and other libraries; loops against their orders and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from probjax import sharding
from probjax.diffeq import tableaus
from probjax.diffeq.runge_kutta import rk_step, solve_fixed
from probjax.diffeq.solution import REACHED
from probjax.diffeq.stability import stability_function

EPS = np.finfo(float).eps


def smooth(t):
    return jnp.stack([1 + jnp.sin(t / 2) / 2, jnp.exp(-t / 5)])


def turn(y):
    return jnp.stack([-y[1] * (1 + y[0] ** 2 / 4), y[0] * (1 + y[1] ** 2 / 4)])


def lopsided(t, y, args):
    """Nonlinear, non-autonomous, of dimension two; `smooth` solves it."""
    speed = jnp.stack([jnp.cos(t / 2) / 4, -jnp.exp(-t / 5) / 5])
    return speed - turn(smooth(t)) + turn(y)


def rotation(t, y, args):
    return jnp.stack([args[0] * y[1] * jnp.cos(t), -args[1] * y[0] + args[0] * t])


@functools.lru_cache
def stepper(tableau, field):
    return jax.jit(lambda t, y, h: rk_step(tableau, field, t, y, h, None))


def one_step(methods, fields, t, y, h):
    """One step of each method on its own field, in one program."""

    @jax.jit
    def steps(t, y, h):
        pairs = zip(methods, fields, strict=True)
        return [rk_step(tableau, field, t, y, h, None)[0] for tableau, field in pairs]

    return np.array(steps(t, y, h))


def check_linear(*methods):
    """One step of y' = lambda y multiplies by R(lambda h)."""
    start, rate = 1.0 + 0.5j, -0.7 + 1.9j
    field = lambda t, y, args: rate * y
    ours = one_step(methods, [field] * len(methods), 0.0, jnp.asarray(start), 0.3)
    for value, tableau in zip(ours, methods, strict=True):
        expected = stability_function(tableau, 0.3 * rate) * start
        # Decimals of size 10 that cancel leave four times as much.
        assert abs(value - expected) <= (4 if tableau.exact else 16) * EPS * abs(expected)


def check_quadrature(*methods):
    """Polynomials of degree below the order are integrated exactly."""
    fields = [lambda t, y, args, p=tableau.order: p * t ** (p - 1) for tableau in methods]
    ours = one_step(methods, fields, 0.5, jnp.asarray(2.0), 0.75)
    for value, tableau in zip(ours, methods, strict=True):
        expected = 2.0 + 1.25**tableau.order - 0.5**tableau.order
        assert abs(value - expected) <= (8 * EPS if tableau.exact else 1e-13) * expected


def test_one_step_has_the_stability_function_and_integrates_polynomials(x64):
    check_linear(*tableaus.METHODS.values())
    check_quadrature(*tableaus.METHODS.values())


def test_mutants_of_the_tableau_fail_these_checks(x64):
    rk4 = tableaus.rk4
    late = rk4._replace(c=rk4.c[1:] + rk4.c[:1])
    swapped = rk4._replace(b=(rk4.b[1], rk4.b[0], *rk4.b[2:]))
    flipped = rk4._replace(a=(*rk4.a[:3], (*rk4.a[3][:2], -rk4.a[3][2])))
    for mutant in (late, swapped, rk4._replace(order=5)):
        with pytest.raises(AssertionError):
            check_quadrature(mutant)
    ends = one_step([rk4, flipped], [lopsided] * 2, 1.0, smooth(1.0), 0.01)
    good, bad = np.abs(ends - smooth(1.01)[None]).max(axis=1)
    assert bad > 1e3 * good


@pytest.mark.parametrize("name", ["heun_euler", "tsit5"])
def test_error_and_last_stage(x64, name):
    """The error is the distance of two results; the last stage is the field at the new state."""
    tableau = tableaus.METHODS[name]
    y = smooth(0.3)
    y1, error, f1 = stepper(tableau, lopsided)(0.3, y, 0.2)
    second = tableau._replace(b=tableau.b_hat, b_hat=None)
    other, none, _ = stepper(second, lopsided)(0.3, y, 0.2)
    np.testing.assert_allclose(error, y1 - other, atol=8 * EPS)
    assert none is None and np.abs(error).max() > 1e-9
    assert (f1 is None) == (not tableau.fsal)
    if f1 is not None:
        np.testing.assert_allclose(f1, lopsided(0.5, y1, None), rtol=0, atol=16 * EPS)


def test_a_known_first_stage_is_used(x64):
    step = functools.partial(rk_step, tableaus.heun, lambda t, y, args: -y)
    y = jnp.asarray(2.0)
    known = step(0.0, y, 0.5, None, f0=jnp.asarray(-2.0))[0]
    wrong = step(0.0, y, 0.5, None, f0=jnp.asarray(2.0))[0]
    assert known == step(0.0, y, 0.5, None)[0] != wrong


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("heun", "Heun"),
        pytest.param("midpoint", "Midpoint", marks=pytest.mark.slow),
        pytest.param("ralston", "Ralston", marks=pytest.mark.slow),
        pytest.param("bogacki_shampine", "Bosh3", marks=pytest.mark.slow),
        ("dormand_prince", "Dopri5"),
        ("tsit5", "Tsit5"),
    ],
)
def test_steps_are_those_of_diffrax(x64, ours, theirs):
    diffrax = pytest.importorskip("diffrax")
    solver, term = getattr(diffrax, theirs)(), diffrax.ODETerm(lopsided)

    @jax.jit
    def step(y):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            state = solver.init(term, 0.3, 0.5, y, None)
            return solver.step(term, 0.3, 0.5, y, None, state, made_jump=False)[0]

    y = smooth(0.3)
    mine = stepper(tableaus.METHODS[ours], lopsided)(0.3, y, 0.2)[0]
    np.testing.assert_allclose(mine, step(y), rtol=8 * EPS)


def test_dormand_prince_is_that_of_scipy(x64):
    from scipy.integrate import RK45

    field = jax.jit(lambda t, y: lopsided(t, y, None))
    y = smooth(0.3)
    solver = RK45(
        lambda t, y: np.asarray(field(t, y)), 0.3, y, 9.0, rtol=1e3, atol=1e3, first_step=0.2
    )
    solver.step()
    ours, error, _ = stepper(tableaus.dormand_prince, lopsided)(0.3, y, 0.2)
    np.testing.assert_allclose(ours, solver.y, rtol=8 * EPS)
    theirs = solver._estimate_error(solver.K, 0.2)
    np.testing.assert_allclose(error, -theirs, atol=EPS)  # SciPy's sign is the other one


def slopes(tableau, sizes):
    @jax.jit
    def error(num_steps):
        h = 4.0 / num_steps.astype(float)

        def body(k, y):
            return rk_step(tableau, lopsided, k.astype(h.dtype) * h, y, h, None)[0]

        y = jax.lax.fori_loop(0, num_steps, body, smooth(0.0))
        return jnp.max(jnp.abs(y - smooth(4.0)))

    errors = np.array([error(jnp.asarray(n)) for n in sizes])
    usable = errors > 1e3 * EPS
    assert usable.sum() >= 4
    return np.log2(errors[:-1] / errors[1:])[usable[1:]]


@pytest.mark.parametrize("name", ["euler", "rk4", "tsit5"])
def test_slopes_are_the_orders(x64, name):
    tableau = tableaus.METHODS[name]
    sizes = [2**k for k in (range(7, 13) if tableau.order < 3 else range(4, 9))]
    assert abs(slopes(tableau, sizes)[-1] - tableau.order) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", tableaus.METHODS)
def test_all_slopes_are_the_orders(x64, name):
    tableau = tableaus.METHODS[name]
    sizes = [2**k for k in (range(7, 13) if tableau.order < 3 else range(4, 9))]
    assert abs(slopes(tableau, sizes)[-1] - tableau.order) < 0.1


def test_a_scalar_equation_shows_an_order_too_many(x64):
    """The method of the page: 3 on y' = -y, 2 on y' = -y^2."""
    method = tableaus.make_tableau([["1/2"], [0, 1]], ["1/3", "1/3", "1/3"], order=2)
    for power, order, truth in ((1, 3, np.exp(-1.0)), (2, 2, 0.5)):
        step = stepper(method, lambda t, y, args, power=power: -(y**power))
        errors = []
        for num_steps in (40, 80):
            y = jnp.asarray(1.0)
            for k in range(num_steps):
                y = step(k / num_steps, y, 1 / num_steps)[0]
            errors.append(abs(y - truth))
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1


def test_loop_is_the_repeated_step_forwards_and_backwards(x64):
    y0, args = jnp.array([1.0, 0.2]), jnp.array([0.7, 1.3])
    solve = jax.jit(
        lambda t0, t1, y: solve_fixed(
            rotation, y, t0, t1, num_steps=6, method="tsit5", args=args, save_every=2
        )
    )
    step = jax.jit(lambda t, y, h: rk_step(tableaus.tsit5, rotation, t, y, h, args)[0])
    for t0, t1 in ((0.5, 2.0), (2.0, 0.5)):
        rows, y = solve(t0, t1, y0), y0
        for k in range(6):
            if k % 2 == 0:
                np.testing.assert_allclose(rows.y[k // 2], y, rtol=16 * EPS)
            y = step(t0 + k * (t1 - t0) / 6, y, (t1 - t0) / 6)
        np.testing.assert_allclose(rows.y[-1], y, rtol=16 * EPS)
        np.testing.assert_allclose(rows.t, np.linspace(t0, t1, 4), rtol=2 * EPS)
        assert rows.result == REACHED and rows.stats.num_evaluations == 36
        assert rows.stats.num_steps == rows.stats.num_accepted == 6


@functools.lru_cache
def unrolled_derivatives():
    """Jacobians of five steps of Heun's method that are written out."""

    def end(y, args):
        for k in range(5):
            y = rk_step(tableaus.heun, rotation, 0.5 + k * 0.3, y, 0.3, args)[0]
        return y

    return jax.jit(jax.jacfwd(end, (0, 1)))(jnp.array([1.0, 0.2]), jnp.array([0.7, 1.3]))


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint": "step"},
        {"checkpoint": "sqrt", "save_every": 5},
        pytest.param({"checkpoint": "sqrt"}, marks=pytest.mark.slow),
        pytest.param({"checkpoint": "none"}, marks=pytest.mark.slow),
        pytest.param({"compensated": True}, marks=pytest.mark.slow),
        pytest.param({"times": np.linspace(0.5, 2.0, 6)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_derivatives_are_those_of_the_unrolled_loop(x64, options):
    y0, args = jnp.array([1.0, 0.2]), jnp.array([0.7, 1.3])

    def end(y, args):
        y = solve_fixed(rotation, y, 0.5, 2.0, num_steps=5, args=args, method="heun", **options).y
        return y.reshape(-1, 2)[-1]

    @jax.jit
    def both_ways(y, args, row):
        pull = jax.vjp(end, y, args)[1](row)
        return pull, jax.jvp(end, (y, args), (y, args))[1]

    row = jnp.array([0.3, -1.1])
    at_y, at_args = unrolled_derivatives()
    pull, along = both_ways(y0, args, row)
    np.testing.assert_allclose(pull[0], row @ at_y, rtol=1e-12)
    np.testing.assert_allclose(pull[1], row @ at_args, rtol=1e-12)
    np.testing.assert_allclose(along, at_y @ y0 + at_args @ args, rtol=1e-12)


@pytest.mark.slow
def test_the_ends_are_differentiated(x64):
    """dy(t1)/dt1 is the field there, up to the method's error."""

    def end(t1):
        return solve_fixed(lambda t, y, _: -y * t, 1.0, 0.0, t1, num_steps=40).y

    slope = jax.jit(jax.grad(end))(1.2)
    assert abs(slope + 1.2 * np.exp(-0.72)) < 1e-7


def test_under_shard_map_with_its_check():
    """A replicated parameter, a carry that starts replicated, rows: one sum over devices."""
    mesh = sharding.make_mesh(4)
    rates = jnp.linspace(0.5, 2.0, 8)

    def one(rate, scale):
        y0 = {"q": jnp.ones(2), "p": jnp.zeros(2)}  # does not vary, the result does
        field = lambda t, y, args: {"q": args[0] * y["p"], "p": -args[1] * y["q"]}
        rows = solve_fixed(
            field, y0, 0.0, 2.0, num_steps=4, method="euler", args=(rate, scale), save_every=2
        )
        return jnp.sum(rows.y["q"] ** 2)

    def gradient(rates, scale):
        total = lambda scale: jnp.sum(jax.vmap(one, (0, None))(rates, scale))
        return jax.grad(total)(scale)

    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(P("items"), P()), out_specs=P()))
    scale = jnp.asarray(0.8)
    np.testing.assert_allclose(mapped(rates, scale), jax.jit(gradient)(rates, scale), rtol=1e-5)
    compiled = mapped.lower(rates, scale).compile().as_text()
    assert sum(" all-reduce(" in line for line in compiled.splitlines()) == 1


def test_closing_over_a_replicated_parameter_under_shard_map():
    def gradient(y, scale):
        def end(y, scale):
            field = lambda t, y, args: jnp.sin(scale * y) * y
            return solve_fixed(field, y, 0.0, 1.0, num_steps=3, method="euler").y

        return jax.grad(lambda scale: jnp.sum(jax.vmap(end, (0, None))(y, scale)))(scale)

    mesh, y, scale = sharding.make_mesh(4), jnp.linspace(0.1, 0.5, 8), jnp.asarray(0.8)
    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(P("items"), P()), out_specs=P()))
    np.testing.assert_allclose(mapped(y, scale), jax.jit(gradient)(y, scale), rtol=1e-5)


def test_no_way_is_no_step():
    field = lambda t, y, args: y / 0.0
    end = jax.jit(lambda t: solve_fixed(field, 3.0, 1.0, t, num_steps=4, method="euler"))(1.0)
    assert end.y == 3.0 and end.result == REACHED
    assert end.stats.num_steps == end.stats.num_evaluations == 0
    solve = jax.jit(lambda t: solve_fixed(field, 3.0, t, t, num_steps=4, save_every=2))
    rows = solve(1.0)
    np.testing.assert_array_equal(rows.y, [3.0, 3.0, 3.0])


def test_times_of_unequal_steps(x64):
    times = np.array([0.0, 0.1, 0.4, 1.0])
    rows = solve_fixed(lambda t, y, _: -y, 1.0, 0.0, 1.0, times=times, method="euler", save_every=1)
    np.testing.assert_allclose(rows.y, np.cumprod([1, 0.9, 0.7, 0.4]), rtol=4 * EPS)
    np.testing.assert_array_equal(rows.t, times)


def test_time_is_not_accumulated():
    """In float32, a thousandth added 20,000 times is off by more than a hundredth."""
    rows = solve_fixed(
        lambda t, y, _: jnp.zeros_like(y), 0.0, 0.0, 20.0, num_steps=20_000, save_every=5_000
    )
    np.testing.assert_allclose(rows.t, [0, 5, 10, 15, 20], rtol=2e-7)
    # The field sees that time as well: the midpoint rule integrates 2 t exactly.
    end = solve_fixed(
        lambda t, y, _: jnp.where(t < 19.9985, 0.0, 1.0) + 0 * y,
        0.0,
        0.0,
        20.0,
        num_steps=20_000,
        method="euler",
    )
    np.testing.assert_allclose(end.y, 1e-3, rtol=1e-3)


def test_the_compensated_sum_loses_less():
    def end(compensated):
        solve = functools.partial(
            solve_fixed, lambda t, y, _: jnp.full_like(y, 0.1), num_steps=20_000, method="euler"
        )
        return float(jax.jit(lambda y: solve(y, 0.0, 1.0, compensated=compensated).y)(1.0))

    plain, kahan = (abs(end(flag) - 1.1) for flag in (False, True))
    assert kahan <= 2 * np.spacing(np.float32(1.1)) < plain / 100


def test_system_form_has_the_bits_of_the_stacked_form():
    """Operation by operation: a compiler may contract products and sums of one form only."""

    def stacked(t, y, args):
        return jnp.stack([y[1] * t, -y[0] * y[0]])

    def system(t, y, args):
        return {"q": y["p"] * t, "p": -y["q"] * y["q"]}

    y = jnp.array([1.1, 0.3])
    one = rk_step(tableaus.kutta3, stacked, 0.3, y, 0.7, None)[0]
    two = rk_step(tableaus.kutta3, system, 0.3, {"q": y[0], "p": y[1]}, 0.7, None)[0]
    assert one[0] == two["q"] and one[1] == two["p"]


def test_mixed_and_complex_states(x64):
    y0 = {"a": jnp.ones(2, jnp.float32), "z": jnp.asarray(1.0 + 0j)}
    end = solve_fixed(lambda t, y, _: {"a": -y["a"], "z": 1j * y["z"]}, y0, 0.0, 1.0, num_steps=50)
    assert end.y["a"].dtype == jnp.float32 and end.t.dtype == jnp.float64
    assert abs(end.y["z"] - np.exp(1j)) < 1e-8


@pytest.mark.slow
def test_forward_memory_does_not_grow_with_the_steps():
    def size(num_steps):
        solve = jax.jit(lambda y: solve_fixed(lambda t, y, _: -y, y, 0.0, 1.0, num_steps=num_steps))
        return solve.lower(jnp.ones(1000)).compile().memory_analysis().temp_size_in_bytes

    assert size(2000) <= size(20) + 4 * 2000  # the counter of the steps


def test_bad_input_is_named():
    def field(t, y, args):
        return -y

    solve = functools.partial(solve_fixed, field, 1.0, 0.0, 1.0)
    for options, message in (
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({}, "num_steps must be given"),
        ({"num_steps": 4, "method": "rk5"}, "method must be one of"),
        ({"num_steps": 4, "checkpoint": "all"}, "checkpoint must be one of 'none', 'step', 'sqrt'"),
        ({"num_steps": 4, "save_every": 3}, "save_every must divide num_steps=4, got 3"),
        ({"times": np.array([0.0, 0.6, 0.5, 1.0])}, r"times\[2\]=0.5 does not follow"),
        ({"times": np.array([0.0, 0.5])}, "times must run from t0=0.0 to t1=1.0, got 0.0 to 0.5"),
        ({"times": np.array([0.0, 1.0]), "num_steps": 2}, "times must have .* 3 entries, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(**options)
    with pytest.raises(TypeError, match="must be like y"):
        solve_fixed(lambda t, y, args: y[:1], jnp.ones(2), 0.0, 1.0, num_steps=2)
    with pytest.raises(TypeError, match="y0 must be floating or complex"):
        solve_fixed(field, jnp.arange(3), 0.0, 1.0, num_steps=2)
