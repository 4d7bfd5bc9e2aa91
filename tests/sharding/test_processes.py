"""Two processes on one host give what one gives."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from probjax.sharding import initialize_distributed

PROGRAM = textwrap.dedent(
    """
    import hashlib, json, sys
    import jax
    jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
    from probjax import sharding
    sharding.initialize_distributed(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    import jax.numpy as jnp, numpy as np
    from jax.experimental import multihost_utils
    from probjax.core import item_keys
    from probjax.mcmc import sample_annealed

    shapes = [(2, 32), (32, 2)]
    weights = [0.3 * jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes)]

    def score_fn(x, noise_scale):
        return -(x + jnp.tanh(x @ weights[0]) @ weights[1]) / (1.0 + noise_scale**2)

    def chain(key, x):
        return sample_annealed(
            key, score_fn, x, np.array([4.0, 2.0, 1.0]), num_steps_per_level=10, epsilon=0.05
        )

    keys = item_keys(jax.random.key(0), 24)
    starts = 8.0 * jax.random.normal(jax.random.key(1), (24, 2))
    mesh = sharding.make_mesh()
    out = sharding.map_items(chain, mesh, tile=3)(keys, starts)
    leaf = jax.tree.leaves(out)[0]
    all_rows = multihost_utils.process_allgather(leaf, tiled=True)
    loss_fn = lambda w, x: ((x - w) ** 2).sum(-1)
    value = jax.jit(sharding.value_and_grad(loss_fn, mesh, tile=3))(jnp.ones(2), leaf)[0]
    print(json.dumps({
        "processes": jax.process_count(), "devices": mesh.size,
        "samples": hashlib.sha256(np.ascontiguousarray(all_rows).tobytes()).hexdigest(),
        "loss": float(value).hex(),
    }))
    """
)


def launch(num_processes, devices_each):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", PROGRAM, address, str(num_processes)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [*command, str(number), str(devices_each)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(num_processes)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=240) for process in running]
    assert all(process.returncode == 0 for process in running), outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]  # Gloo prints before


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_give_the_samples_of_one():
    (one,) = launch(1, 2)
    two = launch(2, 1)
    assert [result["processes"] for result in two] == [2, 2]
    assert {result["devices"] for result in (one, *two)} == {2}
    assert {result["samples"] for result in (one, *two)} == {one["samples"]}
    assert {result["loss"] for result in (one, *two)} == {one["loss"]}


def test_errors_come_before_anything_is_started():
    assert initialize_distributed(num_processes=1) == 1
    with pytest.raises(ValueError, match="num_processes must be at least 1, got 0"):
        initialize_distributed(num_processes=0)
    with pytest.raises(ValueError, match=r"process_id must be in 0\.\.1, got 2"):
        initialize_distributed("localhost:1", 2, 2)
    with pytest.raises(ValueError, match="coordinator_address must be host:port"):
        initialize_distributed("localhost", 2, 0)
