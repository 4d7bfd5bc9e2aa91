"""Start of a run on several hosts.

On clusters that JAX knows (Slurm, Open MPI, Kubernetes, TPU pods) no argument is needed:

>>> from probjax.sharding import processes
>>> processes.initialize_distributed(num_processes=1)
1
"""

import jax

from probjax.core import checks


def initialize_distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> int:
    """Join this process to the others through `jax.distributed`.

    Call it before anything else touches JAX's devices. Afterwards `make_mesh()` spans the devices
    of all processes and `map_items` runs as on one host. Between CPUs the collectives go through
    Gloo, which is switched on here.

    Args:
        coordinator_address: `host:port` of process 0; found by JAX's cluster detection if `None`.
        num_processes: how many there are; found likewise. 1 means a run on one host: nothing is
            started.
        process_id: this one's number; found likewise.
        timeout: seconds to wait for the others.

    Returns:
        The number of processes.

    Raises:
        ValueError: `process_id` is not below `num_processes`, or an address without a port.
        RuntimeError: JAX has been used already, or the others did not come in time.

    Example:
        >>> initialize_distributed("localhost", 2, 0)
        Traceback (most recent call last):
        ValueError: coordinator_address must be host:port, got 'localhost'
    """
    if num_processes is not None:
        checks.at_least("num_processes", num_processes, 1)
        if process_id is not None and not 0 <= process_id < num_processes:
            raise ValueError(f"process_id must be in 0..{num_processes - 1}, got {process_id}")
        if num_processes == 1:
            return 1
    if coordinator_address is not None and ":" not in coordinator_address:
        raise ValueError(f"coordinator_address must be host:port, got {coordinator_address!r}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        initialization_timeout=timeout,
    )
    return jax.process_count()
