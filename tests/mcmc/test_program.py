"""The compiled program: compiled once, without collectives, the same chains on any devices."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from probjax import mcmc, sharding
from probjax.mcmc import driver, program
from probjax.mcmc.program import sampling_program

_spec = importlib.util.spec_from_file_location("walks", Path(__file__).with_name("walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)


@pytest.mark.parametrize("name", ["ula", "hmc"])
def test_chunks_do_not_change_a_bit(name):
    whole = walks.sampled(name, 2, chunk_size=60)
    assert whole.trace.std(axis=1).min() > 0
    for chunk_size in (1, 7):
        walks.assert_same_run(walks.sampled(name, 2, chunk_size=chunk_size), whole)


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ula", "rmh", "hmc", *slow("mala", "nuts")])
def test_devices_do_not_change_a_chain(name):
    whole = walks.sampled(name, 1, 200)
    other = walks.sampled(name, 4, 200)
    assert len(other.states.position.sharding.device_set) == 4
    np.testing.assert_allclose(other.trace, whole.trace, rtol=0, atol=1e-5)


def same_bits(name):
    whole = walks.sampled(name, 1, tile=1)
    for num_devices in (2, 4, 8):
        walks.assert_same_run(walks.sampled(name, num_devices, tile=1, chunk_size=25), whole)


@pytest.mark.slow
@pytest.mark.bits
@pytest.mark.parametrize("name", ["ula", *slow("rmh", "hmc")])
def test_tiles_do_not_change_a_bit(name):
    same_bits(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mala", "nuts"])
def test_tiles_do_not_change_a_bit_of_these_either(name):
    same_bits(name)


def test_one_compile_for_tuning_tails_and_resumes(compilations):
    entered = []

    def counted(x):
        entered.append(x)
        return walks.logdensity_fn(x)

    algorithm = mcmc.hmc_kernel(counted, 2)
    mesh = sharding.make_mesh(2)
    states = mcmc.init_chains(algorithm, walks.STARTS, params=walks.PARAMS, mesh=mesh)

    def go(num_steps, params=walks.PARAMS, **options):
        return mcmc.run_chains(
            jax.random.key(0), algorithm, states, num_steps, params=params, chunk_size=8,
            trace_fn=walks.position, reducers=walks.REDUCERS, mesh=mesh, **options,
        )  # fmt: skip

    def everything():
        go(10, mcmc.HMCParams(0.1, jnp.ones(2)))
        entered.clear()
        half = go(13)
        go(20, mcmc.HMCParams(0.2, np.ones(2, np.float32)))
        go(20, mcmc.HMCParams(jnp.float32(0.2), jnp.ones(2)))
        go(29, start=half)
        assert not entered

    everything()
    compilations.clear()
    everything()
    assert not compilations


@pytest.mark.parametrize("name", ["hmc", "nuts"])
def test_no_collective_in_the_sampling_program(name, monkeypatch):
    texts = []

    def recording(options=()):
        def recorded(*args):
            texts.append(sampling_program(options).lower(*args).compile().as_text())
            return sampling_program(options)(*args)

        return recorded

    monkeypatch.setattr(driver, "sampling_program", recording)
    walks.sampled(name, 4, 3, reducers=walks.REDUCERS)
    assert len(texts) == 1 and "num_partitions=4" in texts[0]
    for collective in ("all-reduce", "all-gather", "all-to-all", "permute", "reduce-scatter"):
        assert collective not in texts[0]


def test_a_kernel_that_fails_the_check_is_told_what_to_do():
    with pytest.raises(Exception) as caught:
        walks.sampled("nuts", 2, check_vma=True)
    assert "check_vma=False" in "".join(caught.value.__notes__)


def test_chains_are_counted_and_laid_out():
    assert program.count_chains("x", {"a": jnp.ones((3, 2)), "b": jnp.ones(3)}) == 3
    with pytest.raises(ValueError, match=r"x\['a'\] has no chain axis"):
        program.count_chains("x", {"a": jnp.ones(())})
    for nothing in ({}, jnp.ones((0, 2))):
        with pytest.raises(ValueError, match="x must hold at least one chain"):
            program.count_chains("x", nothing)
    explicit = jax.make_mesh((2, 4), ("chains", "model"))
    mesh, spec = program.layout(jnp.ones(8), explicit, "chains", 8, 4)
    assert spec == P("chains") and set(mesh.axis_types) == {AxisType.Auto}
    mesh, spec = program.layout(jnp.ones(8), explicit, None, 8, None)
    assert spec == P(("chains", "model"))


def test_keys_are_those_of_the_items_whatever_the_count():
    few, many = (program.chain_keys(jax.random.key(3), count) for count in (3, 7))
    np.testing.assert_array_equal(jax.random.key_data(few), jax.random.key_data(many)[:3])
    assert few[2] == jax.random.fold_in(jax.random.key(3), 2)


def test_owned_arrays_are_copies_of_strong_type():
    weak = jnp.asarray(1.0)
    tree = {"x": weak, "key": jax.random.key(0)}
    copy = program.owned(tree)
    assert weak.weak_type and not copy["x"].weak_type
    assert copy["x"].unsafe_buffer_pointer() != weak.unsafe_buffer_pointer()
    assert copy["key"] == tree["key"]
