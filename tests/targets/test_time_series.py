import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from probjax import targets


def test_hidden_states_are_summed_out(x64):
    """Against the sum over all 16 paths of four steps."""
    u, v = np.array([0.3, 1.0, 0.2, 0.7]), np.array([2.0, 0.1, 1.5, 0.4])
    alpha = np.array([[4.0, 2.0], [1.5, 3.0]])
    one = targets.hmm_drive_0(u=u, v=v, alpha=alpha)

    def exact(point):
        theta, phi, lam = np.split(np.asarray(one.constrain(jnp.asarray(point))), [4, 6])
        theta = theta.reshape(2, 2)
        emission = stats.expon(scale=1 / phi).pdf(u[:, None])
        emission = emission * stats.expon(scale=1 / lam).pdf(v[:, None])
        total = 0.0
        for path in itertools.product(range(2), repeat=4):
            moves = np.prod([theta[a, b] for a, b in itertools.pairwise(path)])
            total += moves * np.prod([emission[t, z] for t, z in enumerate(path)])
        prior = stats.beta(*alpha[0]).logpdf(theta[0, 0]) + stats.beta(*alpha[1]).logpdf(
            theta[1, 0]
        )
        prior += sum(stats.norm([0, 3], 1).logpdf(pair).sum() for pair in (phi, lam))
        jacobian = np.log(theta).sum() + point[2:].sum()
        return np.log(total) + prior + jacobian

    points = np.array([[0.4, -1.0, 0.1, 0.3, -0.2, 0.6], [-0.5, 0.9, 0.7, -0.4, 0.5, 0.2]])
    values = jax.jit(jax.vmap(one.logdensity_fn))(jnp.asarray(points))
    np.testing.assert_allclose(values[1] - values[0], exact(points[1]) - exact(points[0]))


def test_variances_of_garch_follow_the_recursion(x64):
    y = np.array([0.5, -1.0, 2.0])
    one = targets.garch11(y=y, sigma1=0.7)

    def exact(u):
        mu, a0, a1, b1 = np.asarray(one.constrain(jnp.asarray(u)))
        second = a0 + a1 * (y[0] - mu) ** 2 + b1 * 0.49
        third = a0 + a1 * (y[1] - mu) ** 2 + b1 * second
        likelihood = stats.norm(mu, np.sqrt([0.49, second, third])).logpdf(y).sum()
        share = b1 / (1 - a1)
        return likelihood + u[1] + np.log(a1 * (1 - a1) * (1 - a1) * share * (1 - share))

    points = np.array([[0.4, -1.0, 0.1, 0.3], [-0.5, 0.9, 0.7, -0.4]])
    values = jax.jit(jax.vmap(one.logdensity_fn))(jnp.asarray(points))
    np.testing.assert_allclose(values[1] - values[0], exact(points[1]) - exact(points[0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: targets.arma11(y=[1.0]), "length of y must be at least 2, got 1"),
        (lambda: targets.garch11(y=[1.0, 2.0], sigma1=0.0), "sigma1 must be positive"),
        (
            lambda: targets.hmm_drive_0(u=[1.0, 2.0], v=[1.0], alpha=[[1.0, 1.0]] * 2),
            "v must have the shape of u",
        ),
        (
            lambda: targets.hmm_drive_0(u=[1.0, 2.0], v=[1.0, 2.0], alpha=[1.0, 1.0]),
            r"alpha must have shape \(2, 2\)",
        ),
    ],
)
def test_wrong_data(build, message):
    with pytest.raises(ValueError, match=message):
        build()
