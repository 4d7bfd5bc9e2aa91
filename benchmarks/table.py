"""A case's record as rows of text, for the terminal and for the site."""

from typing import Any

HEADINGS = ("", "compile s", "run s", "throughput", "temporary", "error", "ratio")


def headings(case: dict[str, Any]) -> tuple[str, ...]:
    """What the columns hold: those of every case, then the figures of this one."""
    return (*HEADINGS, *_figures(case))


def rows(case: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of each contender; an absent one tells why instead."""
    out = []
    figures = _figures(case)
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
                *(_three(one["figures"].get(figure)) for figure in figures),
            )
        )
    empty = ("",) * (len(HEADINGS) - 2 + len(figures))
    out.extend((one["name"], one["reason"], *empty) for one in case["absent"])
    return out


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


def _figures(case: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(what for one in case["contenders"] for what in one["figures"]))


def _verdict(bar: dict[str, Any]) -> str:
    word = "at most" if bar["kind"] == "time" else "at least"
    rival = "the reference's" if bar["against"] is None else f"that of {bar['against']!r}"
    asked = f"asked: {bar['kind']} {word} {bar['value']:g} times {rival}"
    if bar["met"] is None:
        return f"{asked}; not decided, one of the two was not measured"
    return (
        f"{asked}; {bar['contender']}: {bar['ratio'][1]:.3g}, {'met' if bar['met'] else 'not met'}"
    )


def _three(values: list[float] | None) -> str:
    if values is None:
        return ""
    low, middle, high = values
    return f"{middle:,.3g} ({low:,.3g} to {high:,.3g})"


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
