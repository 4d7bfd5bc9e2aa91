"""Fixed steps on components: values, failures and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.component_loops import fixed_steps

STEPS = 6


def step(consts, k, y, args):
    h, rate = consts, args[0]
    return y[0] + h * y[1], y[1] - h * rate * jnp.sin(y[0]) * args[1] + h * k.astype(y[0].dtype)


START = (jnp.array([0.3, -1.0, 2.0]), jnp.array([0.1, 0.4, 0.0]))
ARGS = (jnp.array([1.0, 2.0, 3.0]), jnp.array(0.7))


def by_hand(y, args):
    states = [y]
    for k in range(STEPS):
        y = step(jnp.array(0.1), jnp.array(k, jnp.int32), y, args)
        states.append(y)
    return y, states


def check_values_and_derivatives(solve):
    """Those of the loop written out, of the end and of rows, shared arguments included."""

    def loss(run):
        def total(y, args):
            end, rows = run(y, args)
            return sum(
                jnp.sum(part * (i + 1) ** 2) + jnp.sum(row * jnp.arange(1.0, 5)[:, None])
                for i, (part, row) in enumerate(zip(end, rows, strict=True))
            )

        return jax.value_and_grad(total, argnums=(0, 1))

    def ours(y, args):
        end, _, rows = solve(step, y, args, jnp.array(0.1), num_steps=STEPS, save_every=2)
        return end, rows

    def theirs(y, args):
        end, states = by_hand(y, args)
        return end, [jnp.stack([s[i] for s in states[::2]]) for i in range(2)]

    found, wanted = jax.jit(lambda y, a: (loss(ours)(y, a), loss(theirs)(y, a)))(START, ARGS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)


def test_values_and_derivatives():
    check_values_and_derivatives(fixed_steps)


@pytest.mark.slow
def test_the_check_kills_a_step_counted_from_one():
    def mutant(step, y, args, consts, **options):
        return fixed_steps(lambda c, k, y, a: step(c, k + 1, y, a), y, args, consts, **options)

    with pytest.raises(AssertionError):
        check_values_and_derivatives(mutant)


def blow_up(consts, k, y, args):
    return (y[0] + args[0] * y[0] * y[0],)


def test_a_failure_keeps_the_last_finite_state_and_touches_nobody():
    def total(y, rate):
        end, accepted, rows = fixed_steps(blow_up, (y,), (rate,), (), num_steps=12, save_every=4)
        return jnp.sum(jnp.where(jnp.isfinite(rows[0]), rows[0], 0.0)), (end[0], accepted, rows[0])

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    wild = run(jnp.array([0.1, 3.0, 0.2]), jnp.array(1.0))
    tame = run(jnp.array([0.1, 0.3, 0.2]), jnp.array(1.0))
    (_, (end, accepted, rows)), (by_start, by_rate) = wild
    assert accepted[1] < 12 and accepted[0] == accepted[2] == 12
    y, count = np.float32(3), 0
    with np.errstate(over="ignore"):
        while np.isfinite(y + y * y):
            y, count = y + y * y, count + 1
    np.testing.assert_allclose(end[1], y, rtol=1e-5)
    assert accepted[1] == count and np.isnan(rows[-1, 1]) and np.isfinite(rows[0]).all()
    np.testing.assert_array_equal(end[::2], tame[0][1][0][::2])
    assert by_start[1] == 0 and np.isfinite(by_rate)
    np.testing.assert_array_equal(by_start[::2], tame[1][0][::2])
