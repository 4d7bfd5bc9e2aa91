"""What crosses between devices, counted in the text of a compiled program."""

import math
import re
from typing import Any, NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_OPERATION = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (\S.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)?\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{\s*$")
_CALLED = re.compile(
    r"\b(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]")


class Collective(NamedTuple):
    """One operation between devices."""

    kind: str
    """One of `KINDS`."""
    bytes: int
    """Size of the result that it leaves on a device."""
    group: int
    """How many devices take part."""
    times: int | None
    """How often a call of the program runs it; `None` in a loop of unknown length."""

    def sent(self) -> float:
        """Bytes that a device sends each time, in the algorithms that send the fewest.

        In a group of g an all-reduce sends every part once to be summed and once as a sum.
        """
        others = self.group - 1
        share = {
            "all-gather": others / self.group,
            "all-reduce": 2 * others / self.group,
            "all-to-all": others / self.group,
            "collective-permute": 1,
            "reduce-scatter": others,  # of the result, which is one part
        }
        return share[self.kind] * self.bytes


def of(fn: Any, *args: Any) -> list[Collective]:
    """The collectives of a jitted function, compiled for `args`."""
    return in_text(fn.lower(*args).compile().as_text())


def in_text(text: str) -> list[Collective]:
    """The collectives of a compiled program's text, those between several devices, sorted."""
    computations, entry = _computations(text)
    times = _times(computations, entry)
    told = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    everyone = math.prod(map(int, told))
    found = []
    for name, lines in computations.items():
        for line in lines:
            matched = _OPERATION.match(line)
            if matched and name in times:
                shape, kind, started = matched.groups()
                group = _group(line, kind) or everyone
                if group > 1:
                    found.append(Collective(kind, _size(shape, kind, started), group, times[name]))
    return sorted(found, key=lambda each: (each.kind, each.bytes, each.group))


def kinds(found: list[Collective]) -> set[str]:
    """The kinds that occur."""
    return {each.kind for each in found}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and which one is the program."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        matched = _COMPUTATION.match(line)
        if matched:
            lines = found.setdefault(matched[2], [])
            entry = matched[2] if matched[1] else entry
        else:
            lines.append(line)
    if not entry:
        raise ValueError("the text has no ENTRY computation: is it a compiled program's?")
    return found, entry


def _times(computations: dict[str, list[str]], entry: str) -> dict[str, int | None]:
    """How often a call of the program runs each computation."""
    times: dict[str, int | None] = {}

    def visit(name: str, now: int | None) -> None:
        before = times.get(name, 0)
        times[name] = None if now is None or before is None else before + now
        for line in computations[name]:
            trips = _TRIPS.search(line)
            called = _CALLED.findall(line)
            for names in _BRANCHES.findall(line):
                called += [("branch", each.strip().lstrip("%")) for each in names.split(",")]
            for role, other in called:
                if other in computations:
                    looped = role in ("body", "condition")
                    count = (int(trips[1]) if trips else None) if looped else 1
                    visit(other, None if now is None or count is None else now * count)

    visit(entry, 1)
    return times


def _group(line: str, kind: str) -> int:
    """How many devices exchange with each other; 0 where the line means all."""
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
        return len(set(re.findall(r"\d+", pairs[1]))) if pairs else 0
    listed, counted = _LISTED.search(line), _COUNTED.search(line)
    if counted:
        return int(counted[2])
    return len(listed[1].split(",")) if listed else 0


def _size(shape: str, kind: str, started: str | None) -> int:
    """Bytes of a result, which may be a tuple."""
    arrays = [
        int(bits or 8) * math.prod(int(n) for n in dims.split(",") if n) // 8
        for _, bits, dims in _ARRAY.findall(shape)  # a `pred` has no width, and takes a byte
    ]
    if started and kind in ("all-gather", "collective-permute"):
        arrays = arrays[1:2]  # the operand comes first, and what follows is bookkeeping
    return sum(arrays)
