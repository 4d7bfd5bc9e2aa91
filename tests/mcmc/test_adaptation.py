"""Pooled adaptation against its formulas by hand, and what its mutants get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.mcmc import adaptation
from probjax.mcmc.adaptation import mean_acceptance, pooled_adaptation

STEPS, CHAINS = 40, 6
SLOW = np.arange(STEPS) >= 5
SLOW[34:] = False
ENDS = np.isin(np.arange(STEPS), (14, 33))


def inputs():
    """Positions of unlike spread, rates that fall short, one NaN, one chain lost on the way."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, CHAINS, 3)) @ np.array([[1, 0, 0], [4, 3, 0], [0, 0.2, 0.1]])
    x[..., 0] += 20
    fine = np.ones((STEPS, CHAINS), bool)
    fine[8:, 4] = False
    x[8:, 4, 1], x[25:, 4, 0] = 50, np.nan
    rates = rng.uniform(0.3, 1, size=(STEPS, CHAINS))
    rates[::3, 2] = np.nan
    return x, fine, rates


def by_hand(metric):
    """Nesterov's averages and NumPy's covariances, in double precision."""
    x, fine, rates = inputs()
    rates = np.where(np.isfinite(rates) & fine, rates, 0).mean(axis=1)
    found = np.ones(3) if metric != "dense" else np.eye(3)
    sizes, metrics, window, begin = [], [], [], 0.1

    def reset(size):
        return np.log(10 * size), 0.0, np.log(size), 0.0, 1

    mu, error, log_size, averaged, t = reset(begin)
    for step in range(STEPS):
        error += (0.8 - rates[step] - error) / (t + 10)
        averaged += t**-0.75 * (log_size - averaged)
        log_size, t = mu - np.sqrt(t) / 0.05 * error, t + 1
        if SLOW[step]:
            window.append(x[step][fine[step]])
        if ENDS[step]:
            draws = np.concatenate(window)
            n, window = len(draws), []
            covariance = np.cov(draws.T)
            if metric == "diag":
                found = n / (n + 5) * np.diag(covariance) + 5e-3 / (n + 5)
            elif metric == "dense":
                found = n / (n + 5) * covariance + 5e-3 / (n + 5) * np.eye(3)
            mu, error, log_size, averaged, t = reset(np.exp(averaged))
        sizes.append(np.exp(log_size))
        metrics.append(found)
    return np.array(sizes), np.array(metrics), np.exp(averaged)


def check(make=pooled_adaptation, metric="diag"):
    """Every step size and every metric, and what comes out at the end."""
    x, fine, rates = (jnp.asarray(each) for each in inputs())

    @jax.jit
    def run():
        init, update, final = make(0.8, metric=metric)

        def body(state, now):
            state = update(state, *now)
            return state, (state.step_size, state.metric)

        state, kept = jax.lax.scan(body, init(x[0], 0.1), (x, fine, rates, SLOW, ENDS))
        return kept, final(state)

    (sizes, metrics), params = run()
    expected, matrices, last = by_hand(metric)
    np.testing.assert_allclose(sizes, expected, rtol=1e-9)
    np.testing.assert_allclose(metrics, matrices, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(params.step_size, last, rtol=1e-9)
    np.testing.assert_array_equal(params.inverse_mass_matrix, metrics[-1])


@pytest.mark.parametrize("metric", ["none", "diag", "dense"])
def test_formulas(x64, metric):
    check(metric=metric)


def changed(**new):
    """`pooled_adaptation` with some of its functions made from the right ones."""

    def make(target, **options):
        right = pooled_adaptation(target, **options)
        return right._replace(**{name: build(right) for name, build in new.items()})

    return make


def sequential(right):
    def update(state, x, fine, rates, slow, end):
        for i in range(CHAINS - 1):
            same = jnp.broadcast_to(rates[i], rates.shape)
            state = right.update(state, x, fine, same, False, False)
        return right.update(state, x, fine, jnp.broadcast_to(rates[-1], rates.shape), slow, end)

    return update


def remembers(right):
    def update(state, x, fine, rates, slow, end):
        going_on = right.update(state, x, fine, rates, slow, False)
        return right.update(state, x, fine, rates, slow, end)._replace(moments=going_on.moments)

    return update


def goes_on(right):
    def update(state, x, fine, rates, slow, end):
        same = right.update(state, x, fine, rates, slow, False).dual_averaging
        return right.update(state, x, fine, rates, slow, end)._replace(dual_averaging=same)

    return update


MUTANTS = {
    "a dual-averaging update for each chain": {"update": sequential},
    "metric of all windows so far": {"update": remembers},
    "dual averaging does not begin anew": {"update": goes_on},
    "metric from fast windows too": {
        "update": lambda right: (
            lambda s, x, fine, rates, slow, end: right.update(s, x, fine, rates, True, end)
        )
    },
    "a NaN is an acceptance": {
        "update": lambda right: (
            lambda s, x, fine, rates, slow, end: right.update(
                s, x, fine, jnp.nan_to_num(rates, nan=1.0), slow, end
            )
        )
    },
    "lost chains enter": {
        "update": lambda right: (
            lambda s, x, fine, rates, slow, end: right.update(
                s, x, jnp.isfinite(x).all(axis=1), jnp.where(fine, rates, 0), slow, end
            )
        )
    },
    "the last step size, not the average": {
        "final": lambda right: lambda s: right.final(s)._replace(step_size=s.step_size)
    },
}


@pytest.mark.parametrize("name", MUTANTS)
def test_formulas_kill(x64, name):
    with pytest.raises(AssertionError):
        check(changed(**MUTANTS[name]))


def test_a_mean_over_those_who_can_tell_is_killed(x64, monkeypatch):
    def optimist(rates, fine, axis_name=()):
        return jnp.nanmean(jnp.where(fine, rates, jnp.nan))

    monkeypatch.setattr(adaptation, "mean_acceptance", optimist)
    with pytest.raises(AssertionError):
        check()


def test_far_from_the_origin_in_single_precision():
    """A mean of a thousand standard deviations leaves the variance its digits."""
    x = jnp.float32(1000 + np.random.default_rng(1).normal(size=(100, 50, 1)))
    init, update, _ = pooled_adaptation(0.8)

    @jax.jit
    def run():
        flags, rates, last = jnp.ones(50, bool), jnp.ones(50), jnp.arange(100) == 99
        body = lambda s, now: (update(s, now[0], flags, rates, True, now[1]), None)
        return jax.lax.scan(body, init(x[0], 0.1), (x, last))[0].metric

    expected = 5000 / 5005 * np.float64(x).var(ddof=1) + 5e-3 / 5005
    np.testing.assert_allclose(run(), [expected], rtol=1e-4)


def test_one_draw_is_no_metric():
    init, update, _ = pooled_adaptation(0.8)
    state = init(jnp.ones((1, 2)), 0.1)
    state = update(state, jnp.ones((1, 2)), jnp.ones(1, bool), jnp.ones(1), True, True)
    np.testing.assert_array_equal(state.metric, 1.0)


def test_mean_acceptance_of_nobody_is_zero():
    assert float(mean_acceptance(jnp.array([jnp.nan, 1.0]), jnp.array([True, False]))) == 0


def test_unknown_metric():
    with pytest.raises(ValueError, match="metric must be one of 'none', 'diag', 'dense', got"):
        pooled_adaptation(0.8, metric="full")
