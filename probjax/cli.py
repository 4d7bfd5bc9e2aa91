"""The command line: `probjax list | run | resume | doctor`.

Exit codes: 0 done, 1 stopped before the end or failed, 2 the input cannot be used.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

USAGE = """usage: probjax COMMAND ...

  probjax list                 the experiments there are
  probjax run NAME [options]   run one; `probjax run NAME --help` lists its config
  probjax resume RUN [options] go on with a run that was stopped or killed
  probjax doctor               what this machine offers, and whether its numbers repeat

Exit codes: 0 done, 1 stopped before the end or failed, 2 the input cannot be used.
Set PROBJAX_DEBUG=1 for the traceback of an error."""
"""What `probjax --help` prints."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Where and on what a run happens; none of it changes its numbers."""

    devices: int | None = None
    """How many devices: virtual ones on a CPU (default: its cores, up to 8), else the first of
    those that are there (default: all)."""
    deadline: float | None = None
    """Stop at the next border after so many seconds of training; the run can be resumed."""
    json: bool = False
    """One JSON object on each line of standard output instead of text."""


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """Options of a new run."""

    out: pathlib.Path | None = None
    """Folder of the run (default: the next free `runs/NAME-0001`)."""


class _BadInput(Exception):
    """What the user gave cannot be used; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after `probjax`; those of the process when `None`.

    Returns:
        The exit code.

    Example:
        >>> main(["list"])
        digit-lines     read lines of handwritten digits; label errors, alignment, ...
        digits          learn to draw handwritten digits; samplers compared, classes, ...
        ensemble        solve Lorenz's equations for very many parameters; their error, ...
        posterior       sample a posterior with many chains; can the draws be trusted, ...
        predator-prey   fit hares and lynxes through an ODE solver; the optima that many starts find
        tabular-score   fit the score of a table by seven objectives; which is best, and their cost
        toy2d           learn the scores of four toy densities by each objective; their exact error
        work-precision  solve five equations by every method; are their orders kept, at what cost
        0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "run": _run,
        "resume": _resume,
        "doctor": _doctor,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        import probjax

        print(f"probjax {probjax.__version__}")
        return 0
    if words[0] not in commands:
        return _fail(f"unknown command {words[0]!r}; there are: {', '.join(commands)}", 2)
    try:
        return commands[words[0]](words[1:])
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except (ValueError, TypeError, OSError, _BadInput) as error:
        _debug()
        return _fail(str(error) or type(error).__name__, 2)
    except (RuntimeError, ArithmeticError) as error:
        _debug()
        return _fail(str(error) or type(error).__name__, 1)


def _list(words: list[str]) -> int:
    from probjax import experiments

    as_json = _parse(Options, words, "probjax list").json
    if as_json:
        print(json.dumps(experiments.NAMES))
        return 0
    width = max(map(len, experiments.NAMES))
    for name, summary in sorted(experiments.NAMES.items()):
        print(f"{name:<{width}}  {summary}")
    return 0


def _run(words: list[str]) -> int:
    from probjax import experiments
    from probjax.experiments import runs

    if not words or words[0].startswith("-"):
        names = ", ".join(sorted(experiments.NAMES))
        raise _BadInput(f"probjax run needs the name of an experiment; there are: {names}")
    name = words[0]
    _make_cpu_devices(words)
    experiment = experiments.load(name)
    kind = dataclasses.make_dataclass(
        "Run",
        [("config", experiment.Config, dataclasses.field(default_factory=experiment.Config))],
        bases=(RunOptions,),
        frozen=True,
        kw_only=True,
    )
    kind.__doc__ = experiment.__doc__
    options = _parse(kind, words[1:], f"probjax run {name}")
    mesh = _devices(options.devices)
    experiment.check(options.config, mesh)
    folder = runs.create(options.out, name, options.config)
    return _execute(experiment, options.config, folder, mesh, options)


def _resume(words: list[str]) -> int:
    from probjax import experiments
    from probjax.experiments import runs

    if not words or words[0].startswith("-"):
        raise _BadInput("probjax resume needs the folder of a run")
    folder = pathlib.Path(words[0])
    _make_cpu_devices(words)
    name, values = runs.open_run(folder)
    experiment = experiments.load(name)
    config = runs.config_from_dict(experiment.Config, values)
    options = _parse(Options, words[1:], "probjax resume RUN")
    mesh = _devices(options.devices)
    experiment.check(config, mesh)
    return _execute(experiment, config, folder, mesh, options)


def _execute(experiment: Any, config: Any, folder: pathlib.Path, mesh: Any, options: Any) -> int:
    from probjax.experiments.runs import Context
    from probjax.sharding.progress import clock, progress

    stream = sys.stdout if options.json else sys.stderr

    report = functools.partial(progress, stream=stream, as_json=options.json)

    def say(line: str) -> None:
        print(json.dumps({"event": "note", "text": line}) if options.json else line, file=stream)
        stream.flush()

    begun = time.monotonic()
    say(f"{folder}: {mesh.size} {mesh.devices.flat[0].platform} device(s)")
    reason = experiment.run(config, Context(folder, mesh, report, say, options.deadline))
    if options.json:
        print(json.dumps({"event": "end", "reason": reason, "folder": str(folder)}))
    if reason != "finished":
        return _fail(f"stopped by {reason}; go on with: probjax resume {folder}", 1)
    say(f"done in {clock(time.monotonic() - begun)}; report: {folder / 'report.html'}")
    return 0


def _doctor(words: list[str]) -> int:
    """Tell what is there, and hash one sharded computation on one device and on all."""
    _make_cpu_devices(words)
    options = _parse(Options, words, "probjax doctor")
    mesh = _devices(options.devices)
    import hashlib

    import jax
    import jax.numpy as jnp
    import numpy as np

    import probjax
    from probjax import mcmc, sharding
    from probjax.core import item_keys

    def chain(key, x):
        def score_fn(x, noise_scale):
            return (jnp.tanh(x) - x) / (1 + noise_scale**2)

        return mcmc.sample_annealed(
            key, score_fn, x, np.geomspace(4.0, 0.5, 4), num_steps_per_level=25, epsilon=0.05
        )[0]

    keys, starts = item_keys(jax.random.key(0), 256), jnp.zeros((256, 8))
    begun = time.monotonic()
    hashes = [
        hashlib.sha256(
            np.asarray(sharding.map_items(chain, one, tile=32)(keys, starts)).tobytes()
        ).hexdigest()[:16]
        for one in (sharding.make_mesh(1, devices=list(mesh.devices.flat)), mesh)
    ]
    found = {
        "probjax": probjax.__version__,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "backend": jax.default_backend(),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "processes": jax.process_count(),
        "cores": _cores(),
        "precision": f"{jnp.zeros(()).dtype.name}, matrix products "
        f"{jax.config.jax_default_matmul_precision or 'default'}",
        "hash on one device": hashes[0],
        "hash on all devices": hashes[1],
        "same bits": hashes[0] == hashes[1],
        "seconds": round(time.monotonic() - begun, 2),
    }
    if options.json:
        print(json.dumps(found))
    else:
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name:<{width}}  {value}")
    return 0 if found["same bits"] else 1


def _parse(kind: type, words: list[str], program: str) -> Any:
    """Parse options with tyro; what it cannot use becomes one line."""
    import tyro

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(kind, args=words, prog=program)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise _BadInput(_one_line(told.getvalue())) from None


def _one_line(box: str) -> str:
    """The message out of tyro's box, with the option it would have understood."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    title_is_border = box.lstrip()[:1] in ("╭", "+")
    # Rules cut the box into parts; a title that is not in the border is a part of its own.
    parts: list[list[str]] = [[]]
    for line in lines:
        if re.fullmatch(r"[─-]+", line):
            parts.append([])
        elif line and line[0] not in "╭╰+":
            parts[-1].append(line)
    message, *rest = parts if title_is_border or len(parts) == 1 else parts[1:]
    said = " ".join(message)
    hints = (re.match(r"--[a-z]\S*", line) for part in rest for line in part)
    close = next(filter(None, hints), None)
    if close and close.group(0) not in said:
        said += f" (did you mean {close.group(0)}?)"
    return said


def _devices(number: int | None) -> Any:
    """A mesh over the devices asked for."""
    from probjax import sharding

    if number is not None and number < 1:
        raise _BadInput(f"--devices must be at least 1, got {number}")
    return sharding.make_mesh(number)


def _make_cpu_devices(words: list[str]) -> None:
    """Ask for virtual CPU devices, which must come before any library touches JAX's backend."""
    import jax

    asked = re.search(r"--devices[= ](\d+)", " ".join(words))
    number = int(asked.group(1)) if asked else min(_cores(), 8)
    with contextlib.suppress(RuntimeError):  # the backend stands already: take what there is
        jax.config.update("jax_num_cpu_devices", max(number, 1))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fail(message: str, code: int) -> int:
    print(f"probjax: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _debug() -> None:
    if os.environ.get("PROBJAX_DEBUG"):
        traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
