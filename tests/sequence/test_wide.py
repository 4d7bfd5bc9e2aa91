"""Wide numbers: exactness against logarithms in float64, range, zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.sequence import wide
from probjax.sequence.wide import Wide

LOGS = np.array([0.0, -1e-4, -0.3, -0.7, -1.0, -87.5, -700.0, -26000.3, 5.5, 3000.0])


def compiled(function, *arguments):
    """The results of the compiled function, as NumPy arrays."""
    return jax.device_get(jax.jit(function)(*arguments))


def test_logarithms_go_in_and_out():
    there_and_back, mantissas = compiled(
        lambda x: (wide.to_log(wide.from_log(x)), wide.from_log(x).mantissa), np.float32(LOGS)
    )
    np.testing.assert_allclose(there_and_back, LOGS.astype(np.float32), rtol=2e-7, atol=1.2e-7)
    assert (mantissas > 0.7).all() and (mantissas < 1.42).all()


def test_double_precision(x64):
    def run(logs, one, other):
        (a, b), exponent = wide.aligned(wide.from_log(one), wide.from_log(other))
        return wide.to_log(wide.from_log(logs)), wide.to_log(wide.normalised(a + b, exponent))

    there_and_back, total = compiled(run, LOGS, np.array(-4000.0), np.array(-4003.0))
    np.testing.assert_allclose(there_and_back, LOGS, rtol=1e-14, atol=1e-15)
    assert abs(total - np.logaddexp(-4000.0, -4003.0)) < 1e-12


def test_mantissas_are_normalised_for_every_exponent_between():
    values = np.float32(2.0) ** np.arange(-100, 100) * np.float32(1.7)
    got = compiled(wide.normalised, values, np.zeros(200, np.float32))
    np.testing.assert_array_equal(got.mantissa, np.full(200, 1.7, np.float32))
    np.testing.assert_array_equal(got.exponent, np.arange(-100, 100))


def test_alignment_shifts_exactly_and_drops_only_what_is_beyond_the_last_digit():
    one = np.ones(4, np.float32)
    shifted = Wide(one, np.float32([0, -3, -126, -127]))
    (a, b), exponent = compiled(wide.aligned, shifted, Wide(np.float32(1.5) * one, 0 * one))
    np.testing.assert_array_equal(a, [1.0, 0.125, 2.0**-126, 0.0])
    np.testing.assert_array_equal(b, [1.5] * 4)
    np.testing.assert_array_equal(exponent, [0.0] * 4)


def test_zero_and_the_ends_of_the_range_never_give_nan():
    def run(ends):
        numbers = wide.from_log(ends)
        pairs = jax.tree.map(lambda x: x[:, None] + 0 * x[None], numbers)
        other = jax.tree.map(lambda x: x[None] + 0 * x[:, None], numbers)
        (a, b), exponent = wide.aligned(pairs, other)
        total = wide.normalised(a + b, exponent)
        product = wide.normalised(pairs.mantissa * other.mantissa, pairs.exponent + other.exponent)
        return total, product, wide.to_log(total), wide.to_log(product)

    ends = np.float32([-np.inf, -1e30, np.finfo(np.float32).min, 0])
    total, product, log_total, log_product = compiled(run, ends)
    for x in (*total, *product):
        assert np.isfinite(x).all()
    assert log_total[0, 0] == -np.inf
    assert (log_product[0] == -np.inf).all()
    np.testing.assert_allclose(log_total[1, 0], -1e30, rtol=1e-6)
    np.testing.assert_allclose(log_product[1, 1], -2e30, rtol=1e-6)


@pytest.mark.slow
def test_a_long_product_keeps_its_digits():
    """Ten thousand steps of add and multiply, against float64 logarithms."""
    rng = np.random.default_rng(0)
    logs = rng.normal(size=10_000).astype(np.float32) - 3

    def step(x, factor):
        (a, b), exponent = wide.aligned(x, Wide(x.mantissa, x.exponent - 1))
        return wide.normalised((a + b) * factor.mantissa, exponent + factor.exponent), None

    factors = wide.from_log(jnp.asarray(logs))
    total, _ = jax.lax.scan(step, Wide(jnp.float32(1), jnp.float32(0)), factors)
    truth = logs.astype(np.float64).sum() + 10_000 * np.log(1.5)
    mantissa, exponent = np.float64(total.mantissa), np.float64(total.exponent)
    # Each step rounds three times to half of 2^-23, at random: 5 sigma.
    assert abs(np.log(mantissa) + exponent * np.log(2) - truth) < 5 * 100 * 3**0.5 * 2**-24
