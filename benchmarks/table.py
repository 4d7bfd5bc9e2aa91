"""A case's record as rows of text, for the terminal and for the site."""

from collections.abc import Iterable
from typing import Any


def headings(case: dict[str, Any]) -> tuple[str, ...]:
    """What the columns hold: those of every case, then the figures of this one."""
    return tuple(name for name, _ in _columns(case))


def rows(case: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of each contender; an absent one tells why instead."""
    columns = _columns(case)
    out = list(zip(*(cells for _, cells in columns), strict=True))
    empty = ("",) * (len(columns) - 2)
    out.extend((one["name"], one["reason"], *empty) for one in case["absent"])
    return out


def _columns(case: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Headings, each with a cell for every contender; what all cells share is in the heading."""
    measured = case["contenders"]
    worst = [max(one["errors"].items(), key=lambda pair: pair[1]) for one in measured]
    kinds = {what for what, _ in worst}
    columns = [
        ("", [one["name"] for one in measured]),
        ("compile s", [f"{one['compile_seconds']:.1f}" for one in measured]),
        ("run s", [_three(one["run_seconds"]) for one in measured]),
        (f"{case['unit']}/s", [number(one["throughput"]) for one in measured]),
    ]
    if any(one["temporary_bytes"] is not None for one in measured):
        columns.append(("temporary", [size(one["temporary_bytes"]) for one in measured]))
    if len(kinds) == 1:
        columns.append((f"error ({kinds.pop()})", [f"{error:.1e}" for _, error in worst]))
    else:
        columns.append(("error", [f"{error:.1e} ({what})" for what, error in worst]))
    columns.append(("ratio", [_ratio(one, case) for one in measured]))
    for figure in dict.fromkeys(what for one in measured for what in one["figures"]):
        columns.append((figure, [_three(one["figures"].get(figure)) for one in measured]))
    return columns


def verdicts(case: dict[str, Any]) -> list[str]:
    """A sentence on each bar."""
    return [_verdict(bar) for bar in case["bars"]]


def heading(case: dict[str, Any]) -> str:
    """What the table's numbers are for."""
    reference = f"; ratio: {case['ratio_of']} over that of {case['reference']!r}"
    return (
        f"Run seconds for {case['work']:,g} {case['unit']}: median of {case['rounds']} (quartiles)"
        + (reference if case["reference"] else "")
    )


def text(case: dict[str, Any]) -> str:
    """The table for a terminal."""
    cells = [headings(case), *rows(case)]
    full = [row for row in cells if any(row[2:])]
    widths = [max(len(row[i]) for row in full) for i in range(len(cells[0]))]
    widths[0] = max(len(row[0]) for row in cells)
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(("  ".join(padded) if any(row[2:]) else f"{padded[0]}  {row[1]}").rstrip())
    parts = [case["name"], case["description"], heading(case), *lines, *verdicts(case)]
    return "\n".join(part for part in parts if part)


def _verdict(bar: dict[str, Any]) -> str:
    word = "at most" if bar["kind"] == "time" else "at least"
    rival = "the reference's" if bar["against"] is None else f"that of {bar['against']!r}"
    asked = f"asked: {bar['kind']} {word} {bar['value']:.3g} times {rival}"
    if bar["met"] is None:
        return f"{asked}; not decided, one of the two was not measured"
    reached = f"{bar['contender']}: {number(bar['ratio'][1])}"
    return f"{asked}; {reached}, {'met' if bar['met'] else 'not met'}"


def _three(values: Iterable[float] | None) -> str:
    if values is None:
        return ""
    low, middle, high = map(number, values)
    return f"{middle} ({low} to {high})"


def number(value: float) -> str:
    """Three digits; thousands apart, never as a power of ten."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def _ratio(one: dict[str, Any], case: dict[str, Any]) -> str:
    if one["ratio"] is None:
        return "no peer"
    if one["name"] == case["reference"]:
        return "1 (reference)"
    return _three(one["ratio"])


def size(count: int | None) -> str:
    """Bytes in their unit."""
    if count is None:
        return "not told"
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            return f"{count / one:.1f} {unit}"
    return f"{count} B"
