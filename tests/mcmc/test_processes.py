"""Whole processes: two give what one gives, and long runs take no more memory."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

HEAD = textwrap.dedent(
    """
    import hashlib, json, resource, sys
    import jax, jax.numpy as jnp, numpy as np
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    from probjax import sharding
    if len(sys.argv) > 3:  # before anything that asks for devices, such as BlackJAX
        sharding.initialize_distributed(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    from probjax import mcmc
    from probjax.mcmc.program import on_host

    scales = jnp.array([1.0, 4.0, 0.5])
    kernel = mcmc.hmc_kernel(lambda x: -0.5 * jnp.sum((x / scales) ** 2) - 0.1 * x[0] * x[1], 3)
    params = mcmc.HMCParams(jnp.float32(0.3), jnp.ones(3))
    reducers = mcmc.moments(), mcmc.counts()

    def chains(mesh, num_steps, **options):
        starts = jnp.arange(72.0).reshape(24, 3) / 30
        states = mcmc.init_chains(kernel, starts, params=params, mesh=mesh)
        return mcmc.run_chains(
            jax.random.key(3), kernel, states, num_steps, params=params, mesh=mesh, tile=3,
            reducers=reducers, **options)

    def digest(run):
        leaves = jax.tree.leaves((run.states, run.accs))
        whole = b"".join(np.ascontiguousarray(on_host(leaf)).tobytes() for leaf in leaves)
        return hashlib.sha256(whole).hexdigest()
    """
)
APART = HEAD + textwrap.dedent(
    """
    run = chains(sharding.make_mesh(axis="chains"), 40)
    print(json.dumps({"processes": jax.process_count(), "chains": digest(run)}))
    """
)
LONG = HEAD + textwrap.dedent(
    """
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    mesh = sharding.make_mesh(1, axis="chains")
    chains(mesh, 1000)
    before = peak()
    chains(mesh, int(sys.argv[2]))
    print(json.dumps({"before": before, "after": peak()}))
    """
)


def start(program, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def told(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_give_the_chains_of_one():
    def launch(num_processes, devices_each):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        running = [
            start(APART, devices_each, address, num_processes, number)
            for number in range(num_processes)
        ]
        return [told(process) for process in running]

    (one,) = launch(1, 2)
    two = launch(2, 1)
    assert [each["processes"] for each in two] == [2, 2]
    assert {each["chains"] for each in two} == {one["chains"]}


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_hundred_times_as_many_steps_take_no_more_memory():
    found = told(start(LONG, 1, 100_000))
    assert found["after"] <= 1.01 * found["before"]
