import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import targets

X = np.array([[1.0, 0.5], [1.0, -2.0], [1.0, 0.1]])


def test_logistic_regression_is_that_of_scipy(x64):
    one = targets.logistic_regression(x=X, y=[1, 0, 1], prior_scale=2.0)
    beta = np.array([[0.3, -1.2], [2.0, 0.7]])

    def exact(b):
        likelihood = stats.bernoulli(1 / (1 + np.exp(-X @ b))).logpmf([1, 0, 1]).sum()
        return likelihood + stats.norm(0, 2).logpdf(b).sum()

    values = jax.jit(jax.vmap(one.logdensity_fn))(jnp.asarray(beta))
    np.testing.assert_allclose(values[1] - values[0], exact(beta[1]) - exact(beta[0]), rtol=1e-12)


def test_logistic_regression_far_out_has_a_gradient():
    one = targets.logistic_regression(x=X, y=[1, 0, 1])
    value, slope = jax.value_and_grad(one.logdensity_fn)(jnp.array([-1e4, 1e4]))
    assert jnp.isfinite(value) and jnp.isfinite(slope).all()


def test_linear_regression_is_that_of_scipy(x64):
    one = targets.blr(x=X, y=[1.0, -1.0, 2.0])
    u = np.array([[0.3, -1.2, 0.4], [2.0, 0.7, -0.3]])

    def exact(point):
        beta, sigma = point[:2], np.exp(point[2])
        prior = stats.norm(0, 10).logpdf(beta).sum() + stats.halfnorm(0, 10).logpdf(sigma)
        return stats.norm(X @ beta, sigma).logpdf([1.0, -1.0, 2.0]).sum() + prior + point[2]

    values = jax.jit(jax.vmap(one.logdensity_fn))(jnp.asarray(u))
    np.testing.assert_allclose(values[1] - values[0], exact(u[1]) - exact(u[0]), rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: targets.logistic_regression(x=X, y=[0, 1]), r"y must have shape \(3,\)"),
        (lambda: targets.logistic_regression(x=X, y=[0, 1, 2]), r"y\[2\] must be one of 0, 1"),
        (lambda: targets.logistic_regression(x=X[0], y=[0]), "x must have shape"),
        (lambda: targets.logistic_regression(x=X, y=[0, 1, 1], names=["a"]), "names must be 2"),
        (lambda: targets.blr(x=X, y=[1.0]), r"y must have shape \(3,\)"),
        (
            lambda: targets.kidscore_interaction(kid_score=[1.0], mom_hs=[2], mom_iq=[100.0]),
            r"mom_hs\[0\] must be one of 0, 1",
        ),
        (
            lambda: targets.nes(
                partyid7=[1, 2], real_ideo=[1, 2], race_adj=[1, 1], age_discrete=[1, 5],
                educ1=[1, 1], gender=[1, 2], income=[1, 2],
            ),
            r"age_discrete\[1\] must be one of 1, 2, 3, 4",
        ),
    ],
)  # fmt: skip
def test_wrong_data(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_party_identification_is_that_of_scipy(x64):
    ideology, age = np.array([1.0, 5.0, 3.0]), np.array([4, 1, 2])
    ones, y = np.ones(3), np.array([2.0, 7.0, 4.0])
    one = targets.nes(
        partyid7=y, real_ideo=ideology, race_adj=ones, age_discrete=age, educ1=2 * ones,
        gender=[1.0, 2.0, 1.0], income=3 * ones,
    )  # fmt: skip
    groups = [(age == group).astype(float) for group in (2, 3, 4)]
    x = np.stack([ones, ideology, ones, *groups, 2 * ones, [1.0, 2.0, 1.0], 3 * ones], axis=1)

    def exact(u):
        return stats.norm(x @ u[:9], np.exp(u[9])).logpdf(y).sum() + u[9]

    first, second = np.linspace(-1, 1, 10), np.linspace(0.5, -0.3, 10)
    ours = one.logdensity_fn(jnp.asarray(first)) - one.logdensity_fn(jnp.asarray(second))
    np.testing.assert_allclose(ours, exact(first) - exact(second), rtol=1e-11)
