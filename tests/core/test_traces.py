"""Traces by enumeration, closed form and variance law."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax.core import traces

MATRIX = np.array([[1.0, 2.0, -1.0], [0.5, -3.0, 4.0], [7.0, 0.0, 0.25]])


def field(x):
    """A row-wise, non-linear field with a non-symmetric Jacobian."""
    return jnp.sin(x @ jnp.asarray(MATRIX, x.dtype).T) * x[..., ::-1] + x**2


def jacobian_traces(x):
    return np.array([np.trace(jax.jacfwd(field)(row)) for row in x])


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 5])
def test_exact_divergence_is_the_trace_of_the_jacobian(x64, chunk):
    x = jax.random.normal(jax.random.key(0), (4, 3))
    value, divergence = traces.divergence_exact(field, x, chunk=chunk)
    np.testing.assert_allclose(divergence, jacobian_traces(x), rtol=1e-12)
    np.testing.assert_array_equal(value, field(x))


@pytest.mark.parametrize("chunk", [None, 7])
def test_many_dimensions_take_the_loop(x64, chunk):
    x = jax.random.normal(jax.random.key(0), (2, 4, 5))
    scale = jnp.arange(20.0).reshape(1, 4, 5)
    _, divergence = traces.divergence_exact(lambda x: x**2 * scale, x, event_ndim=2, chunk=chunk)
    np.testing.assert_allclose(divergence, (2 * x * scale).sum((1, 2)), rtol=1e-12)
    trace = traces.trace_exact(lambda v: v * scale.reshape(1, 20), x.reshape(2, 20), chunk=chunk)
    np.testing.assert_allclose(trace, [190, 190], rtol=1e-12)


def test_all_sign_vectors_give_the_exact_divergence(x64):
    x = jax.random.normal(jax.random.key(1), (5, 3))
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))
    v = jnp.broadcast_to(signs[:, None, :], (8, 5, 3))
    value, divergence = traces.divergence_hutchinson(field, x, v)
    np.testing.assert_allclose(divergence, jacobian_traces(x), rtol=1e-12)
    np.testing.assert_array_equal(value, field(x))
    one = [traces.divergence_hutchinson(field, x, v[i : i + 1])[1] for i in range(8)]
    np.testing.assert_allclose(np.mean(one, axis=0), divergence, rtol=1e-12)


def test_rademacher_variance_is_its_formula(x64):
    signs = np.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))
    quadratics = np.einsum("ni,ij,nj->n", signs, MATRIX, signs)
    symmetric = (MATRIX + MATRIX.T) / 2
    off = symmetric - np.diag(np.diag(symmetric))
    np.testing.assert_allclose(quadratics.var(), 2 * (off**2).sum(), rtol=1e-12)
    estimates = [
        traces.trace_hutchinson(lambda u: u @ MATRIX.T, jnp.asarray(v)[None]) for v in signs
    ]
    np.testing.assert_allclose(estimates, quadratics, rtol=1e-12)


@pytest.mark.parametrize("law", traces.LAWS)
def test_probes_have_identity_covariance(law):
    v = np.asarray(traces.probes(jax.random.key(0), (20000, 3), law), np.float64)
    products = np.einsum("ni,nj->nij", v, v)
    error = products.std(0) / np.sqrt(len(v)) + 1e-12
    assert (np.abs(products.mean(0) - np.eye(3)) < 4.5 * error + 1e-6).all()
    assert (np.abs(v.mean(0)) < 4.5 * v.std(0) / np.sqrt(len(v))).all()


def test_unit_vectors_would_be_wrong():
    v = traces.probes(jax.random.key(0), (4000, 3), "sphere") / jnp.sqrt(3.0)
    trace = traces.trace_hutchinson(lambda u: u @ jnp.asarray(MATRIX.T, u.dtype), v)
    assert abs(trace - np.trace(MATRIX)) > 0.5


def test_probe_dtypes_and_errors():
    key = jax.random.key(0)
    assert traces.probes(key, (2,), dtype=jnp.bfloat16).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="law must be one of"):
        traces.probes(key, (2,), "uniform")
    with pytest.raises(ValueError, match=r"v must have shape \(any, 2, 3\), got \(2, 3\)"):
        traces.divergence_hutchinson(field, jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="number of probes must be at least 1, got 0"):
        traces.divergence_hutchinson(field, jnp.zeros((2, 3)), jnp.zeros((0, 2, 3)))
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        traces.divergence_exact(field, jnp.zeros((2, 3)), chunk=0)
    with pytest.raises(ValueError, match=r"f\(x\) must have the shape of x"):
        traces.divergence_exact(lambda x: x[..., :1], jnp.zeros((2, 3)))


def test_empty_batch_and_a_nan_row_stay_where_they_are():
    assert traces.divergence_exact(field, jnp.zeros((0, 3)))[1].shape == (0,)
    x = jnp.ones((3, 3)).at[1].set(jnp.nan)
    _, divergence = traces.divergence_exact(field, x)
    assert jnp.isfinite(divergence).tolist() == [True, False, True]


def test_gradients_flow_through_the_estimate(x64):
    x = jax.random.normal(jax.random.key(1), (2, 3))
    v = traces.probes(jax.random.key(2), (2, 2, 3))

    def total(scale):
        return traces.divergence_hutchinson(lambda x: field(scale * x), x, v)[1].sum()

    step = 1e-5
    numeric = (total(1 + step) - total(1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(1.0), numeric, rtol=1e-8)


@pytest.mark.parametrize("chunk", [None, 2])
def test_passes_the_shard_map_check(chunk):
    mesh = jax.make_mesh((4,), ("items",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("items")
    x = jax.random.normal(jax.random.key(0), (8, 20))
    run = jax.shard_map(
        lambda x: traces.divergence_exact(lambda x: x**3, x, chunk=chunk)[1],
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
    )
    np.testing.assert_allclose(run(x), (3 * x**2).sum(-1), rtol=1e-5)
