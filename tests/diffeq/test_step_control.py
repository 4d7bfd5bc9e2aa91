"""The first step, the estimated error and the next size, against SciPy, diffrax and formulas."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.integrate._ivp.common import select_initial_step

from probjax.diffeq import step_control
from probjax.diffeq.step_control import Controller, adaptive_init, adaptive_step, initial_step

RTOL, ATOL = 1e-6, 1e-8
START = np.array([1.0, 0.5, -0.3])


def field(t, y, args):
    return jnp.stack([y[1] * jnp.cos(t), -jnp.sin(y[0]) * args, y[0] * y[2] - t])


def numpy_field(t, y):
    return np.array([y[1] * np.cos(t), -np.sin(y[0]) * 1.3, y[0] * y[2] - t])


@jax.jit
def first(y, t1):
    return initial_step(field, 0.3, y, t1, order=4, rtol=RTOL, atol=ATOL, args=1.3)


@pytest.mark.parametrize("t1", [4.0, -4.0, 0.304])
def test_initial_step_is_scipys(x64, t1):
    """Forwards, backwards, and with a span shorter than the guess."""
    found = first(START, t1)
    direction = np.sign(t1 - 0.3)
    expected = select_initial_step(
        numpy_field, 0.3, START, t1, np.inf, numpy_field(0.3, START), direction, 4, RTOL, ATOL
    )
    np.testing.assert_allclose(found, direction * expected, rtol=1e-12)


def test_initial_step_of_a_fast_decay(x64):
    found = initial_step(
        lambda t, y, args: -1000 * y, 0.0, jnp.ones(()), 1.0, order=4, rtol=1e-6, atol=1e-9
    )
    assert abs(found - 1e-3) < 1e-4


def test_initial_step_of_stillness_and_of_no_span():
    for t0, y0, t1 in ((0.0, 0.0, 1.0), (1.0, 1.0, 1.0)):
        found = initial_step(
            lambda t, y, args: 0 * y, t0, jnp.asarray(y0), t1, order=4, rtol=1e-3, atol=1e-6
        )
        assert np.isfinite(found) and 0 <= found <= t1 - t0


def scaled_rms(error, y, y1):
    scale = ATOL + RTOL * np.maximum(np.abs(y), np.abs(y1))
    return np.sqrt(np.mean((error / scale) ** 2))


def test_one_step_is_scipys_rk45(x64):
    """State, error norm and slope that is handed on."""
    h = 0.05
    solver = scipy.integrate.RK45(
        numpy_field, 0.3, START, 4.0, rtol=RTOL, atol=ATOL, first_step=h, max_step=h
    )
    solver.step()
    assert abs(solver.t - 0.3 - h) < 1e-15
    options = {"rtol": RTOL, "atol": ATOL, "args": 1.3, "method": "dormand_prince"}

    @jax.jit
    def step(y):
        state = adaptive_init(field, y, 0.3, 4.0, first_step=h, **options)
        return adaptive_step(field, state, 4.0, **options)

    state, info = step(START)
    assert info.accepted
    np.testing.assert_allclose(state.y, solver.y, rtol=1e-14)
    np.testing.assert_allclose(state.slope, solver.f, rtol=1e-13)
    estimate = h * solver.K.T @ solver.E
    np.testing.assert_allclose(info.error, scaled_rms(estimate, START, solver.y), rtol=1e-9)


PEERS = {
    "tsit5": diffrax.Tsit5,
    "bogacki_shampine": diffrax.Bosh3,
    "dormand_prince": diffrax.Dopri5,  # whose second result is another one than the published
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_one_step_is_diffraxs(x64, name):
    h, options = 0.01, {"rtol": RTOL, "atol": ATOL, "args": 1.3, "method": name}

    @jax.jit
    def ours(y):
        state = adaptive_init(field, y, 0.3, 4.0, first_step=h, **options)
        return adaptive_step(field, state, 4.0, **options)

    @jax.jit
    def theirs(y):
        term, solver = diffrax.ODETerm(field), PEERS[name]()
        state = solver.init(term, 0.3, 0.31, y, 1.3)
        return solver.step(term, 0.3, 0.31, y, 1.3, state, made_jump=False)[:2]

    state, info = ours(START)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        y1, error = theirs(START)
    np.testing.assert_allclose(state.y, y1, rtol=1e-13)
    if name != "dormand_prince":
        np.testing.assert_allclose(info.error, scaled_rms(error, START, y1), rtol=1e-5)


QUICK = {"rtol": 1e-5, "atol": 1e-7, "args": 1.3}


def trace(controller, method="tsit5", first_step=0.4, count=12):
    """Errors, sizes and flags of some steps, the first of which is far too long."""

    @jax.jit
    def run(y):
        options = {**QUICK, "method": method, "controller": controller}
        state = adaptive_init(field, y, 0.3, 50.0, first_step=first_step, **options)

        def step(state, _):
            state, info = adaptive_step(field, state, 50.0, **options)
            return state, (info, state.step_size)

        return jax.lax.scan(step, state, None, length=count)[1]

    info, following = run(START)
    assert not info.accepted[0] and info.accepted[1:].any()
    return info, np.asarray(following)


def check_sizes(info, following, controller, order):
    """The law of the class, written out with powers."""
    safety, least, most, p, i, d = controller
    errors, rejected = [1.0, 1.0], False
    steps = zip(info.error, info.step_size, info.accepted, following, strict=True)
    for error, size, accepted, after in steps:
        ratio = safety * error ** (-1 / order)
        if accepted:
            ratio = safety * error ** (-(p + i + d) / order)
            ratio *= errors[0] ** ((p + 2 * d) / order) * errors[1] ** (-d / order)
            errors = [max(error, 1e-4), errors[0]]
        ratio = np.clip(ratio, least, 1.0 if rejected or not accepted else most)
        np.testing.assert_allclose(after / size, ratio, rtol=1e-9)
        rejected = not accepted


CONTROLLERS = {
    "default": Controller(),
    "integral": Controller(p=0.0, i=1.0),
    "all three": Controller(0.8, 0.3, 4.0, 0.2, 0.4, 0.1),
}


@pytest.mark.parametrize(
    "name", ["default", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CONTROLLERS)[1:])]
)
def test_sizes_follow_the_law(x64, name):
    controller = CONTROLLERS[name]
    check_sizes(*trace(controller), controller, 5)


@pytest.mark.slow
def test_sizes_of_a_pair_of_order_two(x64):
    check_sizes(*trace(Controller(), "bogacki_shampine", first_step=0.3), Controller(), 3)


@pytest.mark.slow
def test_a_wrong_exponent_is_killed(x64, monkeypatch):
    order = step_control._error_order
    for off in (-1, 1):
        monkeypatch.setattr(
            step_control, "_error_order", lambda tableau, off=off: order(tableau) + off
        )
        with pytest.raises(AssertionError):
            check_sizes(*trace(Controller()), Controller(), 5)


def check_rejected(step):
    """A rejected step leaves time, state and slope, and the slope is that of the state."""
    state = adaptive_init(field, START, 0.3, 50.0, first_step=0.9, **QUICK)
    after, info = step(state)
    assert not info.accepted and after.t == state.t and after.num_steps == 1
    np.testing.assert_array_equal(after.y, state.y)
    np.testing.assert_allclose(after.slope, numpy_field(0.3, START), rtol=1e-14)
    assert 0 < after.step_size < 0.9 and after.after_rejection


def one_step(state):
    return jax.jit(lambda state: adaptive_step(field, state, 50.0, **QUICK))(state)


def test_a_rejected_step_hands_nothing_on(x64):
    check_rejected(one_step)


@pytest.mark.slow
def test_a_slope_of_a_rejected_step_is_killed(x64):
    def mutant(state):
        after, info = one_step(state)
        _, _, slope = step_control.rk_step(
            step_control.embedded_pair("tsit5"), field, state.t, state.y, info.step_size, 1.3,
            f0=state.slope,
        )  # fmt: skip
        return after._replace(slope=slope), info

    with pytest.raises(AssertionError):
        check_rejected(mutant)


def check_nan(step_fn):
    """Where the field ends a step is rejected by the smallest factor, however good it looks."""

    def walled(t, y, args):
        return jnp.where(t > 1.0, jnp.nan, jnp.cos(t)) + 0 * y

    options = {"rtol": 1e-3, "atol": 1e-3, "first_step": 0.5}
    state = adaptive_init(walled, jnp.zeros(()), 0.9, 2.0, **options)
    after, info = step_fn(walled, state, 2.0, rtol=1e-3, atol=1e-3)
    assert not info.accepted and after.t == state.t and np.isfinite(after.y)
    np.testing.assert_allclose(after.step_size, 0.2 * 0.5)


def test_nan_is_a_rejection(x64):
    check_nan(adaptive_step)


@pytest.mark.slow
def test_an_accepted_nan_is_killed(x64, monkeypatch):
    """`not error > 1` instead of `error <= 1`."""

    def mutant(field, state, t1, **options):
        after, info = adaptive_step(field, state, t1, **options)
        wrong = ~(info.error > 1)
        return after._replace(t=jnp.where(wrong, state.t + info.step_size, after.t)), info._replace(
            accepted=wrong
        )

    with pytest.raises(AssertionError):
        check_nan(mutant)


def test_what_is_done_stays():
    state = adaptive_init(lambda t, y, args: -y, jnp.ones(2), 1.0, 1.0, rtol=1e-3, atol=1e-6)
    after, info = adaptive_step(lambda t, y, args: -y, state, 1.0, rtol=1e-3, atol=1e-6)
    assert not info.accepted and after.num_steps == 0 and after.y.tolist() == [1.0, 1.0]


def test_a_method_without_an_estimate_is_named():
    with pytest.raises(ValueError, match="embedded weights, which 'rk4' has not"):
        step_control.embedded_pair("rk4")


def test_trajectories_side_by_side_take_the_steps_of_each(x64):
    """State `(3, N)` and numbers `(1, N)`, one of which is not finite; against a `vmap`."""
    options = {"rtol": 1e-4, "atol": 1e-6}
    starts = jnp.stack([START, 2 * START, np.array([1e308, 1.0, 1e10])])

    def several(field, y0, t0, args):
        # Long enough that the estimated error is no difference of rounding errors.
        state = adaptive_init(field, y0, t0, 2.0, args=args, first_step=0.3, **options)
        for _ in range(2):
            state, info = adaptive_step(field, state, 2.0, args=args, **options)
        return state, info

    def side_by_side(t, y, args):
        return jax.vmap(field, in_axes=(0, 1, 0), out_axes=1)(t[0], y, args[0])

    rate = jnp.array([1.3, 0.7, 1.0])
    found = jax.jit(lambda y: several(side_by_side, y.T, jnp.full((1, 3), 0.3), rate[None]))(starts)
    wanted = jax.jit(jax.vmap(lambda y, a: several(field, y, 0.3, a)))(starts, rate)
    assert not np.isfinite(wanted[1].error[2]) and np.isfinite(wanted[1].error[:2]).all()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a.T.reshape(b.shape), b, rtol=1e-9)
