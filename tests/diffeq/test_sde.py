"""SDE records: what is refused, and the covariance rate against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.diffeq.sde import (
    SDE,
    check_diagonal,
    check_sde,
    covariance_divergence,
    covariance_product,
)

MATRIX = np.array([[1.0, 0.3, -0.2], [0.4, 2.0, 0.5]])


def matrix_root(t, x):
    return jnp.asarray(MATRIX) * jnp.sin(x[:, None]) + x[0] * x[1] * (1 + t)


ROOTS = {
    "scalar": lambda t, x: jnp.stack([x[0] * x[1], jnp.sin(x[0]) + t]),
    "diagonal": lambda t, x: jnp.exp(0.3 * x) + t,
    "additive": lambda t, x: jnp.asarray([0.5, 2.0]) * (1 + t),
    "additive matrix": lambda t, x: jnp.asarray(MATRIX) * (1 + t),
    "additive number": lambda t, x: jnp.asarray(0.7) * (1 + t),
    "general": matrix_root,
}


def dense_root(name, t, x):
    """The diffusion as a matrix (d, m)."""
    root = ROOTS[name](t, x)
    if name == "scalar":
        return root[:, None]
    if root.ndim == 2:
        return root
    return jnp.diag(jnp.broadcast_to(root, x.shape))


@pytest.mark.parametrize("name", ROOTS)
def test_covariance_rate_and_its_divergence(x64, name):
    sde = SDE(lambda t, x: -x, ROOTS[name], name.split()[0])
    t, x, v = 0.4, jnp.array([0.7, -1.3]), jnp.array([0.2, 1.1])
    check_sde(sde, t, x)
    dense = dense_root(name, t, x)
    np.testing.assert_allclose(covariance_product(sde, t, x, v), dense @ dense.T @ v, atol=1e-13)

    def rate(y):
        root = dense_root(name, t, y)
        return root @ root.T

    divergence = jnp.einsum("ijj->i", jax.jacfwd(rate)(x))
    np.testing.assert_allclose(covariance_divergence(sde, t, x), divergence, atol=1e-12)


def test_square_additive_diffusion_is_a_matrix_and_rows_pass_through(x64):
    root = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    sde = SDE(lambda t, x: -x, lambda t, x: root, "additive")
    v = jnp.array([1.0, -1.0])
    np.testing.assert_allclose(covariance_product(sde, 0.0, v, v), root @ root.T @ v)
    rows = jnp.ones((3, 2))
    diagonal = SDE(lambda t, x: -x, lambda t, x: jnp.asarray(2.0), "additive")
    check_sde(diagonal, 0.0, rows)
    np.testing.assert_allclose(covariance_product(diagonal, 0.0, rows, rows), 4 * rows)


def test_what_does_not_fit_is_named():
    x = jnp.zeros(2)
    good = SDE(lambda t, x: -x, lambda t, x: x, "diagonal")
    check_sde(good, 0.0, x)
    with pytest.raises(ValueError, match="noise must be one of"):
        check_sde(good._replace(noise="white"), 0.0, x)
    with pytest.raises(ValueError, match=r"drift\(t, x\) must have the shape of x"):
        check_sde(good._replace(drift=lambda t, x: x[0]), 0.0, x)
    with pytest.raises(ValueError, match=r"diffusion of diagonal noise must have shape \(2,\)"):
        check_sde(good._replace(diffusion=lambda t, x: x[0]), 0.0, x)
    with pytest.raises(ValueError, match=r"diffusion of general noise must have shape \(2, m\)"):
        check_sde(good._replace(noise="general"), 0.0, x)
    with pytest.raises(TypeError, match=r"drift.* must have x's dtype float32, got int32"):
        check_sde(good._replace(drift=lambda t, x: jnp.zeros(2, jnp.int32)), 0.0, x)


def test_the_promise_of_diagonal_noise_is_looked_at():
    x = jnp.array([1.0, -2.0, 0.5])
    kept = SDE(lambda t, x: -x, lambda t, x: jnp.exp(0.3 * x) * (1 + t), "diagonal")
    check_diagonal(kept, 0.3, x)
    check_diagonal(kept, 0.3, x.at[0].set(jnp.nan))
    for root in (lambda t, x: x[::-1], lambda t, x: x + 1e-3 * jnp.sum(x), lambda t, x: x * x[1]):
        broken = kept._replace(diffusion=root)
        with pytest.raises(ValueError, match=r"diffusion\[\d\] of diagonal noise depends on other"):
            check_diagonal(broken, 0.0, x)
        check_diagonal(broken, 0.0, x[:1])
        check_diagonal(broken._replace(noise="scalar"), 0.0, x)
