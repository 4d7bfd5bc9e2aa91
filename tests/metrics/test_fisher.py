import jax
import jax.numpy as jnp
import pytest

from probjax import metrics


def known_value(divergence):
    """Scores -x and -x/4 on N(0, 1): half E (3x/4)^2 = 9/32, spread 9/32 sqrt(2)."""
    x = jax.random.normal(jax.random.key(0), (20_000, 1))
    value, error = divergence(lambda x: -x, lambda x: -x / 4, x)
    assert abs(value - 9 / 32) < 5 * error
    assert abs(error / (9 / 32 * (2 / 20_000) ** 0.5) - 1) < 0.1


def test_two_gaussian_scores():
    known_value(metrics.fisher_divergence)


def twice(*arguments):
    value, error = metrics.fisher_divergence(*arguments)
    return 2 * value, 2 * error


def difference_lost(score_fn, true_score_fn, x):
    return metrics.fisher_divergence(score_fn, lambda x: -true_score_fn(x), x)


def error_of_one_row(score_fn, true_score_fn, x):
    value, error = metrics.fisher_divergence(score_fn, true_score_fn, x)
    return value, error * len(x) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [twice, difference_lost, error_of_one_row])
def test_mutants_die(mutant):
    with pytest.raises(AssertionError):
        known_value(mutant)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="the number of rows of x must be at least 2, got 1"):
        metrics.fisher_divergence(lambda x: x, lambda x: x, jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"true_score_fn\(x\) must have the shape of x"):
        metrics.fisher_divergence(lambda x: x, lambda x: x[:, :1], jnp.zeros((4, 2)))
