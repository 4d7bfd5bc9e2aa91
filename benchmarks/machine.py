"""What a measurement depends on: the machine, the versions, the commit."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Tell the machine; two runs with equal answers may stand in one table."""
    devices = jax.devices()
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
    }


def slug(machine: dict[str, Any]) -> str:
    """Name a machine for use as a file name."""
    if machine["backend"] == "cpu":
        text = f"{machine['cpu']} {machine['cores']} cores"
    else:
        text = f"{machine['devices']} {machine['device_kind']}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def conditions() -> dict[str, Any]:
    """Tell what may change from run to run on one machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = re.search(r"(?m)^model name\s*:\s*(.+)$", text)
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit's first twelve digits, marked where the code differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ("git", *words), cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "probjax", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
