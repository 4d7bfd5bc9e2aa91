"""The mutants that were tried, kept in one file: what became of each, and why survivors stand.

An entry holds while the module is what it was. Tests may grow: what they killed they kill still,
and survivors are tried again on request.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from mutants.operators import Mutant
from mutants.runner import KILLED

FILE = pathlib.Path(__file__).with_name("results.json")
EXCUSES = ("equivalent", "not promised")
"""How a note on a survivor begins. Equivalent mutants do not count."""


def digest(source: bytes) -> str:
    """A short name for a module's text."""
    return hashlib.sha256(source).hexdigest()[:12]


def load(file: pathlib.Path = FILE) -> dict[str, Any]:
    """All modules: `{name: {"source": digest, "places": count, "mutants": [entry, ...]}}`.

    An entry's `gap` says that it survived until a test was written for it. Such a mutant counts
    as killed, but no more as one of a sample drawn blindly: `score at first` leaves it out.
    """
    return json.loads(file.read_text()) if file.exists() else {}


def save(modules: dict[str, Any], file: pathlib.Path = FILE) -> None:
    """Write all at once, so that a killed run leaves a whole file."""
    spare = file.with_suffix(".tmp")
    spare.write_text(json.dumps(dict(sorted(modules.items())), indent=1, ensure_ascii=False) + "\n")
    os.replace(spare, file)


def entry_of(module: dict[str, Any], mutant: Mutant) -> dict[str, Any] | None:
    """The entry of a mutant that was tried."""
    place = [mutant.start, mutant.end, mutant.after]
    return next((entry for entry in module["mutants"] if entry["place"] == place), None)


def is_killed(entry: dict[str, Any]) -> bool:
    """Whether some test failed."""
    return entry["outcome"] in KILLED or entry["outcome"] == "failed slow"


def is_equivalent(entry: dict[str, Any]) -> bool:
    """Whether the mutant computes what the module computes."""
    return not is_killed(entry) and entry.get("note", "").startswith("equivalent")


def summary(modules: dict[str, Any]) -> str:
    """Killed and surviving mutants of each package, in a table."""
    names = ["package", "mutants", "killed", "equivalent", "left", "score", "score at first"]
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    packages = sorted({name.partition("/")[0] for name in modules})
    for package in [*packages, ""]:
        entries = [
            entry
            for name, module in modules.items()
            if name.startswith(f"{package}/") or not package
            for entry in module["mutants"]
        ]
        rows.append(_row(package or "all", entries))
    return "\n".join(rows)


def _row(name: str, entries: list[dict[str, Any]]) -> str:
    killed = sum(map(is_killed, entries))
    equivalent = sum(map(is_equivalent, entries))
    counted = len(entries) - equivalent
    gaps = sum(is_killed(entry) and entry.get("gap", False) for entry in entries)
    score, first = _share(killed, counted), _share(killed - gaps, counted)
    return (
        f"| {name} | {len(entries)} | {killed} | {equivalent} | {counted - killed} "
        f"| {score} | {first} |"
    )


def _share(part: int, whole: int) -> str:
    """A share and its binomial standard error, in percent."""
    share = part / max(whole, 1)
    error = math.sqrt(share * (1 - share) / max(whole, 1))
    return f"{100 * share:.1f} ± {100 * error:.1f} %"


def survivors(modules: dict[str, Any], names: Iterable[str]) -> list[str]:
    """One line for each survivor of the named modules, with its note."""
    return [
        f"{name}:{entry['line']} {entry['operator']}: {entry['before']!r} -> {entry['after']!r}"
        f" [{entry.get('note', 'no note')}]"
        for name in names
        for entry in modules.get(name, {"mutants": []})["mutants"]
        if not is_killed(entry)
    ]
