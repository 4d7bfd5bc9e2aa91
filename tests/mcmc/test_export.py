"""Runs handed to ArviZ: names, shapes, and what the kernel told."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import mcmc
from probjax.mcmc.export import Draw
from probjax.mcmc.kernels import InfoView


@pytest.fixture
def arviz():
    """ArviZ is optional, and its tests are."""
    return pytest.importorskip("arviz")


@pytest.fixture(scope="module")
def run():
    """A run whose trace is made up, so that nothing is compiled for it."""
    shape = (3, 5)
    numbers = np.arange(15.0).reshape(shape)
    flags = numbers % 4 == 0
    info = InfoView(numbers / 15, ~flags, flags, flags, numbers + 1, -numbers)
    position = np.stack([numbers, numbers + 100, numbers + 200, numbers + 300], axis=-1)
    return mcmc.Run(None, 5, (), (), Draw(position, info), jax.random.key(0), 1)


def of(run, **changes):
    return run._replace(trace=run.trace._replace(**changes))


def test_vectors_are_joined_and_statistics_named(run, arviz):
    found = mcmc.to_inference_data(run, ["theta[1]", "theta[2]", "mu", "s[2]"], attrs={"a": "b"})
    assert set(found.posterior.data_vars) == {"theta", "mu", "s[2]"}
    assert found.posterior["theta"].dims[:2] == ("chain", "draw")
    np.testing.assert_array_equal(found.posterior["theta"], run.trace.position[..., :2])
    np.testing.assert_array_equal(found.posterior["mu"], run.trace.position[..., 2])
    stats = found.sample_stats
    assert set(stats.data_vars) == {"diverging", "energy", "acceptance_rate", "n_steps"}
    np.testing.assert_array_equal(stats["diverging"], run.trace.info.is_divergent)
    np.testing.assert_array_equal(stats["energy"], run.trace.info.energy)
    assert stats["n_steps"].dtype == np.int64 and int(stats["n_steps"][1, 2]) == 8
    assert found.posterior.attrs["a"] == "b"


def test_positions_may_be_mapped_first(run, arviz):
    found = mcmc.to_inference_data(run, ["a", "b"], constrain=lambda x: jnp.stack([x[0], -x[3]]))
    np.testing.assert_array_equal(found.posterior["b"], -run.trace.position[..., 3])


def test_trees_are_named_by_place(run, arviz):
    numbers = run.trace.position[..., 0]
    found = mcmc.to_inference_data(of(run, position={"a": numbers, "b": {"c": numbers + 1}}))
    assert set(found.posterior.data_vars) == {"a", "b.c"}
    assert set(mcmc.to_inference_data(run).posterior.data_vars) == {"x"}


def test_what_a_kernel_does_not_tell_is_left_out(run, arviz):
    nothing = np.full((3, 5), np.nan)
    info = run.trace.info._replace(energy=nothing, num_grad_evals=nothing)
    found = mcmc.to_inference_data(of(run, info=info))
    assert set(found.sample_stats.data_vars) == {"diverging", "acceptance_rate"}


def test_mistakes_are_named(run, arviz):
    with pytest.raises(ValueError, match="trace_fn=trace_all, got no trace"):
        mcmc.to_inference_data(run._replace(trace=None))
    with pytest.raises(ValueError, match="got a trace of ndarray"):
        mcmc.to_inference_data(run._replace(trace=run.trace.position))
    with pytest.raises(ValueError, match=r"2 names go with .* got shape \(3, 5, 4\)"):
        mcmc.to_inference_data(run, ["a", "b"])
    with pytest.raises(ValueError, match="names must differ"):
        mcmc.to_inference_data(run, ["a", "b", "c", "a"])


def test_without_arviz_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"needs ArviZ: pip install 'probjax-research\[arviz\]'"):
        mcmc.to_inference_data(run)
