"""A case's record as rows of text, for the terminal and for the site."""

from typing import Any

HEADINGS = ("", "compile s", "run s", "throughput", "temporary", "error", "ratio")


def rows(case: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of each contender; an absent one tells why instead."""
    out = []
    for one in case["contenders"]:
        low, middle, high = one["run_seconds"]
        what, error = max(one["errors"].items(), key=lambda pair: pair[1])
        out.append(
            (
                one["name"],
                f"{one['compile_seconds']:.1f}",
                f"{middle:.3g} ({low:.3g} to {high:.3g})",
                f"{one['throughput']:,.4g} {case['unit']}/s",
                _bytes(one["temporary_bytes"]),
                f"{error:.1e} ({what})",
                _ratio(one, case),
            )
        )
    out.extend((one["name"], one["reason"], "", "", "", "", "") for one in case["absent"])
    return out


def verdict(case: dict[str, Any]) -> str:
    """One sentence on the bar, or nothing."""
    bar = case["bar"]
    if bar is None:
        return ""
    word, noun = ("at least", "speed") if case["ratio_of"] == "speed" else ("at most", "time")
    asked = f"asked: {noun} {word} {bar['value']:g} times the reference's"
    if bar["met"] is None:
        return f"{asked}; not decided, no reference was measured"
    ratio = next(one["ratio"][1] for one in case["contenders"] if one["name"] == bar["contender"])
    return f"{asked}; {bar['contender']}: {ratio:.3g}, {'met' if bar['met'] else 'not met'}"


def heading(case: dict[str, Any]) -> str:
    """What the table's numbers are for."""
    reference = f"; ratio: {case['ratio_of']} over that of {case['reference']!r}"
    return (
        f"Run seconds for {case['work']:,g} {case['unit']}: median of {case['rounds']} (quartiles)"
        + (reference if case["reference"] else "")
    )


def text(case: dict[str, Any]) -> str:
    """The table for a terminal."""
    cells = [HEADINGS, *rows(case)]
    full = [row for row in cells if any(row[2:])]
    widths = [max(len(row[i]) for row in full) for i in range(len(HEADINGS))]
    widths[0] = max(len(row[0]) for row in cells)
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(("  ".join(padded) if any(row[2:]) else f"{padded[0]}  {row[1]}").rstrip())
    parts = [case["name"], case["description"], heading(case), *lines, verdict(case)]
    return "\n".join(part for part in parts if part)


def _ratio(one: dict[str, Any], case: dict[str, Any]) -> str:
    if one["ratio"] is None:
        return "no peer"
    if one["name"] == case["reference"]:
        return "1 (reference)"
    low, middle, high = one["ratio"]
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _bytes(number: int | None) -> str:
    if number is None:
        return "not told"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
