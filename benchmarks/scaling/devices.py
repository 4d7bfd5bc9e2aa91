"""Collectives and bytes between 1, 2, 4 and 8 virtual devices and two processes, counted.

Each count is taken from a compiled program, in processes of their own: the number of devices is
fixed when a process begins. Seconds tell overhead alone, for all devices share the same cores.
"""

import argparse
import functools
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import collectives, harness

DEVICES = {"quick": (1, 8), "full": (1, 2, 4, 8)}
PROCESSES = 2
LIMIT_SECONDS = 1800


def programs(effort: harness.Effort, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Measure all programs in one process of eight devices, and in two of one device each."""
    counts = DEVICES[effort.name]
    start = functools.partial(launch, rounds=max(effort.rounds, 2), quick=effort.name == "quick")
    with tempfile.TemporaryDirectory() as folder:
        say(f"scaling: one process with up to {max(counts)} devices")
        (records,) = start(folder, 1, counts)
        say("scaling: two processes")
        others, _ = start(folder, PROCESSES, (1,))
    for record, other in zip(records, others, strict=True):
        record["layouts"] += other["layouts"]
    return records


def launch(
    folder: str, num_processes: int, counts: tuple[int, ...], *, rounds: int, quick: bool
) -> list[Any]:
    """Run this module in processes that know each other; what each told.

    One process writes the answers of one device into the folder, for several to compare with.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    module = "benchmarks.scaling.devices"
    command = [sys.executable, "-m", module, folder, address, str(num_processes)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [*command, str(number), str(rounds), *map(str, counts), *["--quick"] * quick],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(num_processes)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=LIMIT_SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process of the scaling benchmark failed:\n{errors[-2000:]}")
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]  # Gloo prints before


def main() -> None:
    """Be one of the processes."""
    parser = argparse.ArgumentParser("python -m benchmarks.scaling.devices", description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("address")
    for name in ("num_processes", "process_id", "rounds"):
        parser.add_argument(name, type=int)
    parser.add_argument("counts", type=int, nargs="+", help="of devices in this process")
    parser.add_argument("--quick", action="store_true", help="one program of each pillar")
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(given.counts))
    from probjax import sharding

    sharding.initialize_distributed(given.address, given.num_processes, given.process_id)
    from benchmarks.scaling.programs import PROGRAMS  # which uses devices

    found = []
    chosen = [program for program in PROGRAMS if program.is_quick or not given.quick]
    for number, program in enumerate(chosen):
        path = given.folder / f"{number}.npy"
        if given.num_processes > 1:
            found.append(apart(program, np.load(path), given.rounds))
        else:
            record, answer = together(given.counts, program, given.rounds)
            np.save(path, answer)
            found.append(record)
    print(json.dumps(found))


def together(counts: Sequence[int], program: Any, rounds: int) -> tuple[dict[str, Any], np.ndarray]:
    """Count and time a program on so many devices of this process, the first count being 1.

    Gives the record and the answer of one device.
    """
    from probjax import sharding

    meshes = [sharding.make_mesh(count) for count in counts]
    ready = [_Ready(program, mesh, program.items) for mesh in meshes]
    answer = ready[0].answer()
    record = {
        **{name: getattr(program, name) for name in TOLD},
        "flops": [flops(program, n * program.items) for n in (1, 2)],
        "memory": [memory(program, n * program.items) for n in (1, 2)],
        "layouts": _layouts(ready, answer, rounds),
        "doubled": _Ready(program, meshes[-1], 2 * program.items).collectives,
    }
    return record, answer


def apart(program: Any, wanted: np.ndarray, rounds: int) -> dict[str, Any]:
    """Count and time a program on the devices of all processes, where `wanted` is the answer."""
    from probjax import sharding

    ready = _Ready(program, sharding.make_mesh(), program.items)
    return {"layouts": _layouts([ready], wanted, rounds)}


class _Ready:
    """A program, compiled for a mesh."""

    def __init__(self, program: Any, mesh: Any, items: int) -> None:
        self.size, self.steps = mesh.size, program.steps
        self.spread = program.spread(mesh, items)
        begun = time.perf_counter()
        self.executable = self.spread.fn.lower(*self.spread.args).compile()
        self.compile_seconds = time.perf_counter() - begun
        self.collectives = counted(self.executable, program.steps)

    def once(self) -> Any:
        """Run; wait for the end."""
        return jax.block_until_ready(self.executable(*self.spread.args))

    def answer(self) -> np.ndarray:
        """The result as numbers of double precision, from all processes."""
        from probjax.mcmc.program import on_host

        return np.asarray(on_host(self.spread.result(self.once())), np.float64)


def _layouts(ready: list[_Ready], wanted: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """The record of each, with times taken in turns."""
    differences = [np.max(np.abs(each.answer() - wanted)) for each in ready]
    times: list[list[float]] = [[] for _ in ready]
    for _ in range(rounds):
        for kept, each in zip(times, ready, strict=True):
            begun = time.perf_counter()
            each.once()
            kept.append((time.perf_counter() - begun) / each.steps)
    return [
        {
            "devices": each.size,
            "processes": jax.process_count(),
            "collectives": each.collectives,
            "sent_bytes": _short(sum(one["times"] * sent(one) for one in each.collectives)),
            "compile_seconds": _short(each.compile_seconds),
            "seconds": [_short(x) for x in statistics.quantiles(kept, n=4, method="inclusive")],
            "difference": _short(float(difference / np.max(np.abs(wanted)))),
        }
        for each, kept, difference in zip(ready, times, differences, strict=True)
    ]


TOLD = ("name", "pillar", "description", "step", "steps", "unit", "items", "load")
"""The fields of a program that its record repeats."""


def counted(executable: Any, steps: int) -> list[dict[str, Any]]:
    """The collectives of one step, equal ones together."""
    found: Counter = Counter()
    for each in collectives.in_text(executable.as_text()):
        if each.times is None:
            raise ValueError(f"{each.kind} in a loop of unknown length cannot be counted")
        found[each.kind, each.bytes, each.group] += each.times
    return [
        {"kind": kind, "bytes": size, "group": group, "times": times / steps}
        for (kind, size, group), times in sorted(found.items())
    ]


def flops(program: Any, items: int) -> float:
    """What XLA counts for one step on one device before it optimises, a loop's body once."""
    fn, args, times = program.cost(items)
    return times * float(fn.lower(*args).cost_analysis()["flops"])


def memory(program: Any, items: int) -> float:
    """Bytes that one device must at least read and write in a step: all it is given, all it gives.

    What a call is given and gives is shared among its steps, for a loop may keep it to itself.
    """
    from probjax import sharding

    spread = program.spread(sharding.make_mesh(1, devices=jax.local_devices()), items)
    leaves = jax.tree.leaves((spread.args, jax.eval_shape(spread.fn, *spread.args)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / program.steps


def sent(each: dict[str, Any]) -> float:
    """Bytes that a device sends for a collective of a record."""
    return collectives.Collective(each["kind"], each["bytes"], each["group"], 1).sent()


def _short(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
