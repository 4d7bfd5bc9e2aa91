"""Seconds of one step on many accelerators, on paper, from what was counted on eight devices.

Compute is what XLA counts at the accelerator's peak, or what must be read and written at the peak
of its memory, whichever takes longer; each collective adds its start, its hops times the latency
of a hop, and the bytes that a device sends over the bandwidth of its link.
"""

import math
from typing import Any, NamedTuple

from benchmarks.collectives import Collective


class Links(NamedTuple):
    """What is assumed of the accelerators."""

    flops: float = 67e12
    """Additions and multiplications in float32, per second."""
    memory: float = 4.8e12
    """Bytes per second from and to its own memory."""
    per_node: int = 8
    """Accelerators in a node."""
    bandwidth_inside: float = 450e9
    """Bytes per second that one sends to its node."""
    bandwidth_outside: float = 50e9
    """Bytes per second that one sends to other nodes."""
    latency_inside: float = 4.0e-6
    """Seconds of a hop in a node."""
    latency_outside: float = 14.0e-6
    """Seconds of a hop between nodes."""
    start: float = 8.4e-6
    """Seconds before the first hop."""


SOURCES = {
    "flops": ("float32 peak", "67 TFLOP/s", "nvidia-h200"),
    "memory": ("memory, read and written", "4.8 TB/s", "nvidia-h200"),
    "per_node": ("accelerators in a node", "8", "nvidia-dgx-h200"),
    "bandwidth_inside": ("sent inside a node", "450 GB/s", "nvidia-h200"),
    "bandwidth_outside": ("sent between nodes", "50 GB/s", "nvidia-dgx-h200"),
    "latency_inside": ("a hop inside a node", "4 µs", "nccl-tuning"),
    "latency_outside": ("a hop between nodes", "14 µs", "nccl-tuning"),
    "start": ("start of a collective", "8.4 µs", "nccl-tuning"),
}
"""Name, value and reference of each assumption, as printed."""


class Estimate(NamedTuple):
    """One step on many accelerators."""

    accelerators: int
    """How many."""
    flops: float
    """On each."""
    compute: float
    """Seconds of arithmetic, or of memory where that takes longer."""
    is_memory: bool
    """Whether it does."""
    hops: int
    """One after the other, in all collectives."""
    sent: float
    """Bytes that each sends."""
    communication: float
    """Seconds of the collectives."""

    @property
    def efficiency(self) -> float:
        """Share of the step that is not communication."""
        return self.compute / (self.compute + self.communication)


def estimate(program: dict[str, Any], accelerators: int, links: Links | None = None) -> Estimate:
    """One step of a program of the record, with its `load` of items on each accelerator.

    Args:
        program: of the record.
        accelerators: a multiple of the devices that were counted.
        links: what is assumed.
    """
    links = links or Links()
    flops, moved = (_at_load(program, program[field]) for field in ("flops", "memory"))
    hops, sent, seconds = 0.0, 0.0, 0.0
    for kind, size, group, times in traffic(program, accelerators):
        inside, outside = _hops(kind, group, links.per_node)
        bandwidth = links.bandwidth_outside if outside else links.bandwidth_inside
        bytes_sent = Collective(kind, size, group, 1).sent()
        hops += times * (inside + outside)
        sent += times * bytes_sent
        latency = inside * links.latency_inside + outside * links.latency_outside
        seconds += times * (links.start + latency + bytes_sent / bandwidth)
    compute = flops / links.flops, moved / links.memory
    is_memory = compute[1] > compute[0]
    return Estimate(accelerators, flops, max(compute), is_memory, round(hops), sent, seconds)


def _at_load(program: dict[str, Any], counts: list[float]) -> float:
    """A count for the items of one accelerator, from those for some items and for twice as many."""
    first, second = counts
    return first + (second - first) / program["items"] * (program["load"] - program["items"])


def traffic(program: dict[str, Any], accelerators: int) -> list[tuple[str, int, int, float]]:
    """Kind, result bytes, group and times of each collective, on so many accelerators.

    What was counted for some items and for twice as many says which part of a result grows with
    the items. What grows stays among as many accelerators as were counted; what does not, such as
    a gradient, goes through all.
    """
    widest = max(program["layouts"], key=lambda layout: layout["devices"])
    counted, items = widest["devices"], program["items"]
    if accelerators % counted:
        raise ValueError(f"{accelerators} accelerators are no multiple of {counted}")
    if len(widest["collectives"]) != len(program["doubled"]):
        raise ValueError(f"{program['name']}: other collectives for twice the items")
    found = []
    for one, two in zip(widest["collectives"], program["doubled"], strict=True):
        if (one["kind"], one["times"]) != (two["kind"], two["times"]):
            raise ValueError(f"{program['name']}: other collectives for twice the items")
        growth = (two["bytes"] - one["bytes"]) / items
        size = one["bytes"] + growth * (program["load"] * counted - items)
        group = one["group"] if growth else accelerators
        found.append((one["kind"], round(size), group, one["times"]))
    return found


def _hops(kind: str, group: int, per_node: int) -> tuple[int, int]:
    """Hops inside a node and between nodes: a chain in each node, a tree over the nodes."""
    inside = min(group, per_node)
    nodes = math.ceil(group / inside)
    if kind == "all-reduce":
        return 2 * (inside - 1), 2 * math.ceil(math.log2(nodes))
    return inside - 1, nodes - 1
