"""The JSON of a package's run: one process on one machine, never several in one file.

    {"schema": 3,
     "machine": {"cpu", "cores", "system", "backend", "device_kind", "devices"},
     "conditions": {"date", "commit", "load_before", "versions"},
     "effort": {"name", "rounds", "seconds", "budget"},
     "cases": [{"name", "description", "unit", "work", "rounds", "reference", "ratio_of",
                "bars": [{"kind", "value", "against", "contender", "ratio", "met"}],
                "contenders": [{"name", "peer", "compile_seconds", "run_seconds": [q1, median, q3],
                                "throughput", "temporary_bytes", "errors": {what: error},
                                "figures": {what: [smallest, median, largest]},
                                "ratio": null or [q1, median, q3]}],
                "absent": [{"name", "reason"}]}]}

`run_seconds` are for `work` units; `ratio` is against the contender named by `reference`, that of
a bar against its own peer. Schema 2 knew one effort, the full one, and did not tell its numbers.

That of `scaling` tells how programs are spread over devices, instead of cases:

    {"schema": 3, "machine", "conditions", "effort",
     "programs": [{"name", "pillar", "description", "step", "steps", "unit", "items", "load",
                   "flops": [for one step of items, of 2 items], "memory": [likewise, in bytes],
                   "layouts": [{"devices", "processes", "collectives": [COLLECTIVE],
                                "sent_bytes", "compile_seconds", "seconds": [q1, median, q3],
                                "difference"}],
                   "doubled": [COLLECTIVE of 2 items on the most devices]}]}

with COLLECTIVE = {"kind", "bytes", "group", "times"} as in `benchmarks.collectives`, `times` and
`sent_bytes` for one step. `seconds` are for one step on virtual devices that share the cores.
"""

import json
import math
import pathlib
from typing import Any

SCHEMA = 3
FOLDER = pathlib.Path(__file__).parent / "results"

_NUMBER = (int, float)
_MACHINE = {
    "cpu": str,
    "cores": int,
    "system": str,
    "backend": str,
    "device_kind": str,
    "devices": int,
}
_CONDITIONS = {
    "date": str,
    "commit": (str, type(None)),
    "load_before": (*_NUMBER, type(None)),
    "versions": dict,
}
_EFFORT = {
    "name": str,
    "rounds": (int, type(None)),
    "seconds": (*_NUMBER, type(None)),
    "budget": (*_NUMBER, type(None)),
}
_CASE = {
    "name": str,
    "description": str,
    "unit": str,
    "work": _NUMBER,
    "rounds": int,
    "reference": (str, type(None)),
    "ratio_of": str,
    "bars": list,
    "contenders": list,
    "absent": list,
}
_BAR = {
    "kind": str,
    "value": _NUMBER,
    "against": (str, type(None)),
    "contender": (str, type(None)),
    "ratio": (list, type(None)),
    "met": (bool, type(None)),
}
_CONTENDER = {
    "name": str,
    "peer": bool,
    "compile_seconds": _NUMBER,
    "run_seconds": list,
    "throughput": _NUMBER,
    "temporary_bytes": (int, type(None)),
    "errors": dict,
    "figures": dict,
    "ratio": (list, type(None)),
}
_ABSENT = {"name": str, "reason": str}
_PROGRAM = {
    "name": str,
    "pillar": str,
    "description": str,
    "step": str,
    "steps": int,
    "unit": str,
    "items": int,
    "load": int,
    "flops": list,
    "memory": list,
    "layouts": list,
    "doubled": list,
}
_LAYOUT = {
    "devices": int,
    "processes": int,
    "collectives": list,
    "sent_bytes": _NUMBER,
    "compile_seconds": _NUMBER,
    "seconds": list,
    "difference": _NUMBER,
}
_COLLECTIVE = {"kind": str, "bytes": int, "group": int, "times": _NUMBER}


def check(run: Any) -> dict[str, Any]:
    """Return `run` if it is a run's record; raise `ValueError` naming what is wrong."""
    kind = "programs" if isinstance(run, dict) and "programs" in run else "cases"
    told = {"schema": int, "machine": dict, "conditions": dict, "effort": dict, kind: list}
    _fields(run, "run", told)
    if run["schema"] != SCHEMA:
        raise ValueError(f"run.schema must be {SCHEMA}, got {run['schema']}")
    _fields(run["machine"], "machine", _MACHINE)
    _fields(run["conditions"], "conditions", _CONDITIONS)
    _fields(run["effort"], "effort", _EFFORT)
    if run["effort"]["name"] not in ("quick", "full"):
        raise ValueError(f"effort.name must be quick or full, got {run['effort']['name']!r}")
    (_cases if kind == "cases" else _programs)(run[kind])
    return run


def _cases(cases: list[Any]) -> None:
    for case in cases:
        _fields(case, "case", _CASE)
        where = f"case {case['name']!r}"
        if case["ratio_of"] not in ("speed", "time"):
            raise ValueError(f"{where}: ratio_of must be speed or time, got {case['ratio_of']!r}")
        for bar in case["bars"]:
            _fields(bar, f"{where}: bar", _BAR)
        for row in case["contenders"]:
            _fields(row, f"{where}: contender", _CONTENDER)
            _row(row, f"{where}: {row['name']!r}")
        for row in case["absent"]:
            _fields(row, f"{where}: absent", _ABSENT)


def _programs(programs: list[Any]) -> None:
    for program in programs:
        _fields(program, "program", _PROGRAM)
        where = f"program {program['name']!r}"
        for field in ("flops", "memory"):
            _positive(f"{where}.{field}", program[field], 2)
        for layout in program["layouts"]:
            _fields(layout, f"{where}: layout", _LAYOUT)
            _positive(f"{where}.seconds", layout["seconds"], 3)
        for each in [
            *program["doubled"],
            *(c for x in program["layouts"] for c in x["collectives"]),
        ]:
            _fields(each, f"{where}: collective", _COLLECTIVE)


def upgraded(run: Any) -> Any:
    """A record of schema 2 as one of this schema; anything else as it is."""
    if isinstance(run, dict) and run.get("schema") == 2 and "effort" not in run:
        effort = {"name": "full", "rounds": None, "seconds": None, "budget": None}
        return run | {"schema": SCHEMA, "effort": effort}
    return run


def write(run: dict[str, Any], path: pathlib.Path) -> None:
    """Write a run; refuse to replace that of another machine."""
    check(run)
    check_path(path, run["machine"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")


def check_path(path: pathlib.Path, machine: dict[str, Any]) -> None:
    """Raise `ValueError` if `path` holds anything but results of this machine, of any schema."""
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())["machine"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a benchmark result, and is not replaced") from None
    if before != machine:
        raise ValueError(f"{path} holds results of another machine: {before}")


def load(path: pathlib.Path) -> dict[str, Any]:
    """Read a run; raise `ValueError` naming the file if it is none."""
    try:
        return check(upgraded(json.loads(path.read_text())))
    except ValueError as error:
        raise ValueError(f"{path} is not a benchmark result: {error}") from None


def _fields(record: Any, where: str, wanted: dict[str, Any]) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be an object, got {type(record).__name__}")
    if sorted(record) != sorted(wanted):
        raise ValueError(f"{where} must have the fields {sorted(wanted)}, got {sorted(record)}")
    for field, kind in wanted.items():
        value = record[field]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, _NUMBER)):
            raise ValueError(f"{where}.{field} has the wrong type: {value!r}")


def _positive(where: str, values: list[Any], count: int) -> None:
    fine = [isinstance(x, _NUMBER) and math.isfinite(x) and x >= 0 for x in values]
    if len(values) != count or sorted(values) != values or not all(fine):
        raise ValueError(f"{where} must be {count} growing numbers, got {values}")


def _row(row: dict[str, Any], where: str) -> None:
    if not row["errors"]:
        raise ValueError(f"{where} has a speed without an accuracy")
    threes = {"run_seconds": row["run_seconds"], "ratio": row["ratio"], **row["figures"]}
    for field, value in threes.items():
        if value is not None and (len(value) != 3 or sorted(value) != value):
            raise ValueError(f"{where}.{field} must be three growing numbers, got {value}")
    told = [value for values in row["figures"].values() for value in values]
    numbers = [*row["run_seconds"], row["throughput"], *row["errors"].values(), *told]
    if not all(isinstance(x, _NUMBER) and math.isfinite(x) and x >= 0 for x in numbers):
        raise ValueError(f"{where} has a number that is negative or not finite")
