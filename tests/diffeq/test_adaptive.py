"""Adaptive solves: tolerances are kept, failures stay alone, both gradients are exact, shards."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.sharding import PartitionSpec

from probjax.diffeq import adaptive, problems, tableaus
from probjax.diffeq.adaptive import solve_adaptive
from probjax.diffeq.runge_kutta import rk_step
from probjax.diffeq.solution import MAX_STEPS, NON_FINITE, REACHED, STEP_TOO_SMALL

START = np.array([1.0, 0.5])
TOLERANCES = {"rtol": 1e-6, "atol": 1e-8}


def swing(t, y, args):
    """A pendulum with friction, pushed."""
    return jnp.stack([y[1], -args["stiffness"] * jnp.sin(y[0]) - 0.1 * y[1] + jnp.cos(t)])


def solve(y0, stiffness, **options):
    """The state at the end, or the rows."""
    options = {**TOLERANCES, **options}
    return solve_adaptive(swing, y0, 0.0, 6.0, args={"stiffness": stiffness}, **options)


@functools.cache
def reference():
    def field(t, y):
        return [y[1], -1.7 * np.sin(y[0]) - 0.1 * y[1] + np.cos(t)]

    return scipy.integrate.solve_ivp(
        field, (0, 6), START, method="DOP853", rtol=1e-13, atol=1e-13, t_eval=[0.0, 2.5, 6.0]
    ).y.T


OTHERS = ("dormand_prince", "fehlberg", "bogacki_shampine", "cash_karp")


@pytest.mark.parametrize(
    "method", ["tsit5", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_rows_and_end_are_near_the_truth(x64, method):
    rows = jax.jit(lambda y: solve(y, 1.7, method=method, save_at=np.array([0.0, 2.5, 6.0])))(START)
    allowed = TOLERANCES["atol"] + TOLERANCES["rtol"] * np.abs(reference()).max()
    # Friction lets errors shrink, so they are the sum of those of the steps at most.
    assert (np.abs(rows.y - reference()) <= int(rows.stats.num_accepted) * allowed).all()
    np.testing.assert_array_equal(rows.y[0], START)
    stats = rows.stats
    assert rows.result == REACHED and stats.num_steps == stats.num_accepted + stats.num_rejected


@pytest.mark.slow
def test_as_many_steps_as_diffrax(x64):
    """With the same first step and an integral controller the steps are the same."""
    controller = adaptive.Controller(p=0.0, i=1.0)
    ours = jax.jit(lambda y: solve(y, 1.7, first_step=0.01, controller=controller))(START)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = diffrax.diffeqsolve(
            diffrax.ODETerm(swing), diffrax.Tsit5(), 0.0, 6.0, 0.01, jnp.asarray(START),
            {"stiffness": 1.7},
            stepsize_controller=diffrax.PIDController(**TOLERANCES, icoeff=1.0),
        )  # fmt: skip
    assert abs(int(ours.stats.num_steps) - int(theirs.stats["num_steps"])) <= 2
    np.testing.assert_allclose(ours.y, theirs.ys[0], atol=1e-6)


DETEST = ["A1", "A2", "A3", "A4", "D1", "D2", "D3", "D4", "D5"]


@pytest.mark.slow
@pytest.mark.parametrize("name", DETEST)
def test_tolerances_are_kept_on_detest(x64, name):
    """Over one unit of time at a time, times what the flow itself makes of a small difference."""
    problem = problems.PROBLEMS[name]
    starts = jnp.arange(20.0)
    exact = jax.jit(jax.vmap(lambda t: problem.exact(t, problem.args)))

    def piece(y, t, rtol):
        solution = solve_adaptive(
            problem.field, y, t, t + 1.0, args=problem.args, rtol=rtol, atol=rtol,
            gradient="forward",
        )  # fmt: skip
        return solution.y, solution.result

    run = jax.jit(jax.vmap(piece, (0, 0, None)))
    flow = jax.jit(jax.vmap(jax.jacfwd(lambda y, t: piece(y, t, 1e-8)[0]), (0, 0)))
    y0, truth = exact(starts), np.asarray(exact(starts + 1.0))
    size = truth[0].size
    growth = np.linalg.norm(np.asarray(flow(y0, starts)).reshape(20, size, size), 2, axis=(1, 2))
    growth = np.maximum(growth, 1.0).reshape((20,) + (1,) * (truth.ndim - 1))
    for rtol in 10.0 ** -np.arange(3.0, 11.0):
        y, result = run(y0, starts, rtol)
        assert (result == REACHED).all()
        assert (np.abs(y - truth) <= 10 * growth * (rtol + rtol * np.abs(truth))).all()


def test_backwards_and_complex(x64):
    @jax.jit
    def run(y0):
        return solve_adaptive(
            lambda t, y, args: {"a": -y["a"], "z": 1j * y["z"] * t.astype(complex)}, y0, 2.0, -1.0,
            rtol=1e-9, atol=1e-9, save_at=np.array([1.0, -1.0]),
        )  # fmt: skip

    found = run({"a": jnp.array([1.0, 2.0]), "z": jnp.array(1.0 + 1.0j)})
    np.testing.assert_allclose(found.y["a"][:, 1], 2 * np.exp([1.0, 3.0]), rtol=1e-7)
    phases = np.exp(0.5j * (np.array([1.0, 1.0]) - 4.0)) * (1 + 1j)
    np.testing.assert_allclose(found.y["z"], phases, rtol=1e-7)


@pytest.mark.slow
def test_no_span():
    def run(y):
        return solve_adaptive(swing, y, 1.0, 1.0, args={"stiffness": 1.0}, **TOLERANCES)

    found = jax.jit(run)(jnp.asarray(START, jnp.float32))
    assert found.result == REACHED and found.stats.num_steps == 0
    np.testing.assert_array_equal(found.y, START)


def wall(t, y, args):
    """`y' = args`, but nowhere to go beyond y = 1; a pole at y = 2 that is never met."""
    return args * jnp.where(y > 1.0, jnp.nan, 1.0) + 0 * jnp.log(2.0 - y)


@functools.cache
def walls():
    def run(y0, rate, limit):
        return solve_adaptive(
            wall, y0, 0.0, 1.0, args=rate, rtol=1e-3, atol=1e-3, max_steps=limit,
            save_at=np.array([0.25, 1.0]),
        )  # fmt: skip

    return jax.jit(jax.vmap(run, (0, 0, None)), static_argnums=2)


def test_a_failure_stays_alone(x64):
    """One meets the wall, one begins behind it; the third does not notice."""
    y0 = jnp.array([0.0, 1.5, 0.0])
    found = walls()(y0, jnp.array([2.0, 0.1, 0.5]), 400)
    assert found.result.tolist() == [NON_FINITE, NON_FINITE, REACHED]
    np.testing.assert_allclose(found.y[0, 0], 0.5)
    assert np.isnan(found.y[0, 1]) and np.isnan(found.y[1]).all()
    alone = walls()(y0 * 0, jnp.array([0.5, 0.5, 0.5]), 400)
    np.testing.assert_array_equal(found.y[2], alone.y[0])
    assert found.stats.num_steps[2] == alone.stats.num_steps[0]


@pytest.mark.slow
def test_too_few_steps_and_too_small_steps(x64):
    @jax.jit
    def run(t1, rtol):
        return solve_adaptive(
            lambda t, y, args: y**2, jnp.ones(()), 0.0, t1, rtol=rtol, atol=rtol, max_steps=500,
            save_at="steps",
        )  # fmt: skip

    blown = run(2.0, 1e-6)  # y = 1 / (1 - t)
    assert blown.result == STEP_TOO_SMALL or blown.result == NON_FINITE
    count = int(blown.stats.num_accepted)
    np.testing.assert_allclose(blown.t[count], 1.0, rtol=1e-4)
    assert np.isfinite(blown.y[: count + 1]).all() and np.isnan(blown.y[count + 1 :]).all()
    slow = run(0.99, 1e-14)
    assert slow.result == MAX_STEPS and slow.stats.num_steps == 500


def frozen(y0, stiffness, t, count):
    """Autodiff of the same steps, written out as a scan over the times that they were taken at."""

    def step(y, pair):
        now, following = pair
        args = {"stiffness": stiffness}
        return rk_step(tableaus.tsit5, swing, now, y, following - now, args)[0], None

    return jax.lax.scan(step, y0, (t[:count], t[1 : count + 1]))[0]


def check_gradient(gradient):
    y0 = jnp.asarray(START)
    steps = jax.jit(lambda y, a: solve(y, a, save_at="steps", max_steps=200))(y0, 1.7)
    count = int(steps.stats.num_accepted)
    assert steps.stats.num_rejected > 0
    expected = jax.jit(jax.jacrev(lambda y, a: frozen(y, a, steps.t, count), (0, 1)))(y0, 1.7)
    for ours, theirs in zip(gradient(y0, 1.7), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


def reverse(y0, stiffness, **options):
    # A first step that is far too long makes sure that there are rejected steps to walk over.
    return jax.jit(
        jax.jacrev(lambda y, a: solve(y, a, first_step=1.0, max_steps=200, **options).y, (0, 1))
    )(y0, stiffness)


def test_reverse_is_autodiff_of_the_steps(x64, monkeypatch):
    original = solve
    monkeypatch.setitem(
        globals(), "solve", lambda *a, **o: original(*a, **{"first_step": 1.0, **o})
    )
    check_gradient(reverse)


@pytest.mark.slow
def test_forward_is_the_same(x64):
    y0 = jnp.asarray(START)
    forward = jax.jit(
        jax.jacfwd(lambda y, a: solve(y, a, first_step=1.0, gradient="forward").y, (0, 1))
    )(y0, 1.7)
    for ours, theirs in zip(forward, reverse(y0, 1.7), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("save_at", ["steps", np.array([0.0, 2.5, 6.0]), np.array([2.5, 4.0])])
def test_gradients_of_rows(x64, save_at):
    y0 = jnp.asarray(START)
    options = {"save_at": save_at, "max_steps": 64}
    forward = jax.jit(jax.jacfwd(lambda y, a: solve(y, a, gradient="forward", **options).y, (0, 1)))
    back = jax.jit(jax.jacrev(lambda y, a: solve(y, a, **options).y, (0, 1)))
    for ours, theirs in zip(back(y0, 1.7), forward(y0, 1.7), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_the_check_kills_steps_that_were_rejected(x64, monkeypatch):
    """A walk back that takes rejected steps for accepted ones."""
    original = adaptive.adaptive_step

    def mutant(*args, **options):
        state, info = original(*args, **options)
        return state, info._replace(accepted=info.accepted | True)

    def wrong(y0, stiffness):
        monkeypatch.setattr(adaptive, "adaptive_step", mutant)
        found = reverse(y0, stiffness)
        monkeypatch.setattr(adaptive, "adaptive_step", original)
        return found

    solve_ = solve
    monkeypatch.setitem(globals(), "solve", lambda *a, **o: solve_(*a, **{"first_step": 1.0, **o}))
    with pytest.raises(AssertionError):
        check_gradient(wrong)


def test_gradient_of_a_decay(x64):
    """In args with a whole number beside, in what the field closes over, and in the start."""

    def end(rate, closed, y0):
        def field(t, y, args):
            return -args["rate"] * closed * y * args["one"].astype(y.dtype)

        args = {"rate": rate, "one": jnp.array(1)}
        return solve_adaptive(field, y0, 0.0, 2.0, args=args, rtol=1e-8, atol=1e-8).y

    found = jax.jit(jax.grad(end, (0, 1, 2)))(0.5, 1.5, 3.0)
    y = np.exp(-1.5)
    np.testing.assert_allclose(found, [-2 * 1.5 * 3 * y, -2 * 0.5 * 3 * y, y], rtol=1e-6)


def test_gradient_of_a_failure_is_zero(x64):
    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(y0, rate):
        def run(y, r):
            return solve_adaptive(wall, y, 0.0, 1.0, args=r, rtol=1e-3, atol=1e-3, max_steps=400).y

        return jnp.sum(jax.vmap(run)(y0, rate))

    y0, rate = gradient(jnp.array([0.0, 1.5, 0.0]), jnp.array([2.0, 0.1, 0.5]))
    np.testing.assert_allclose(y0, [0.0, 0.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(rate, [0.0, 0.0, 1.0], rtol=1e-12)


def shards(loss):
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (PartitionSpec(), PartitionSpec("i"))
    return jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("i"))


def shrink(theta, y0, closed=1.0):
    def run(y):
        return solve_adaptive(
            lambda t, y, args: -args * y * jnp.exp(-closed * y), y, 0.0, 1.0, args=theta,
            rtol=1e-6, atol=1e-6, max_steps=64,
        ).y  # fmt: skip

    return jax.vmap(run)(y0)


def test_gradient_on_shards(x64):
    """Under the default check, with a parameter that all devices share, and one end for each."""
    y0 = jnp.linspace(0.3, 1.7, 8)

    def gradient(fn):
        return jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(fn(*a))), (0, 1)))

    sharded = gradient(shards(shrink))
    for ours, theirs in zip(sharded(1.3, y0), gradient(shrink)(1.3, y0), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    text = sharded.lower(1.3, y0).compile().as_text()
    assert text.count(" all-reduce(") == 1  # of the shared parameter, at the end


@pytest.mark.slow
def test_a_shared_value_that_is_closed_over_is_named(x64):
    def loss(theta):
        return jnp.sum(shards(lambda t, y: shrink(1.0, y, closed=t))(theta, jnp.ones(4)))

    assert np.isfinite(jax.jit(loss)(1.3))
    with pytest.raises(ValueError, match="closes over .* handed over in args"):
        jax.grad(loss)(1.3)


def test_the_plain_solve_holds_no_rows():
    """Memory does not depend on `max_steps` where no derivative is asked for."""

    def program(limit):
        options = {"rtol": 1e-3, "atol": 1e-3, "max_steps": limit}
        run = jax.jit(lambda y: solve_adaptive(lambda t, y, a: -y, y, 0.0, 1.0, **options).y)
        return run.lower(jnp.ones(3)).compile().memory_analysis().temp_size_in_bytes

    assert program(10) == program(100_000)


def test_bad_arguments_are_named():
    def run(**changes):
        options = {"rtol": 1e-3, "atol": 1e-6, "t0": 0.0, "t1": 1.0, **changes}
        return solve_adaptive(lambda t, y, args: -y, jnp.ones(2), **options)

    for match, changes in (
        ("method must be one of", {"method": "rk5"}),
        ("embedded weights, which 'rk4' has not", {"method": "rk4"}),
        ("rtol must be finite and not negative, got -0.1", {"rtol": -0.1}),
        ("must not both be zero", {"rtol": 0.0, "atol": 0.0}),
        ("max_steps must be at least 1", {"max_steps": 0}),
        ("gradient must be one of 'reverse', 'forward'", {"gradient": "adjoint"}),
        ("save_at must be one of 'steps'", {"save_at": "all"}),
        ("save_at.* is outside the span", {"save_at": np.array([0.5, 1.5])}),
        ("save_at.* does not follow", {"save_at": np.array([0.5, 0.4])}),
        ("first_step must lead from", {"first_step": -0.1}),
    ):
        with pytest.raises(ValueError, match=match):
            run(**changes)
    with pytest.raises(TypeError, match="y0 must be floating or complex, got int32"):
        solve_adaptive(lambda t, y, args: y, jnp.array(1), 0.0, 1.0, rtol=1e-3, atol=1e-3)
    with pytest.raises(TypeError, match="must be like y"):
        solve_adaptive(lambda t, y, args: y[:1], jnp.ones(2), 0.0, 1.0, rtol=1e-3, atol=1e-3)


def test_all_steps_have_rows():
    """Three steps of a constant slope, the last of them the last that is allowed."""
    rows = solve_adaptive(
        lambda t, y, args: 1 + 0 * y, jnp.zeros(()), 0.0, 3.0, rtol=1e-3, atol=1e-3,
        first_step=0.25, max_steps=3, save_at="steps",
    )  # fmt: skip
    assert rows.t.shape == rows.y.shape == (4,)
    assert rows.result == REACHED and rows.stats.num_accepted == 3
    np.testing.assert_allclose(rows.y, rows.t, rtol=1e-6)
    assert rows.t[0] == 0.0 and rows.t[-1] == 3.0
