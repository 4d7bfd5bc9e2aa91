"""`python -m mutants [module ...] [--per-module N] [--seed S] [--jobs J] [--again] [--slow]`.

A module is `mcmc/mala`, a package `mcmc`; all of `PACKAGES` when none is named. Of each module
`N` mutants are drawn with the seed, each place as likely as any other; a larger `N` keeps the
earlier ones. What was tried is in `results.json` and is not tried again: a run that was stopped
goes on where it was.
"""

import argparse
import json
import pathlib
import random
import sys
import time
from typing import Any

from mutants import results, runner
from mutants.operators import Mutant, apply, mutants

PACKAGES = ("core", "score", "metrics", "targets", "mcmc", "diffeq", "sequence", "diffusion")
"""Where the numbers are made."""

PASSED_OVER = {
    "core/checks", "targets/catalogue", "targets/posteriordb", "targets/record", "mcmc/driver",
    "mcmc/export", "mcmc/program", "mcmc/runs", "mcmc/warmup_programs", "diffeq/ensemble_job",
}  # fmt: skip
"""Modules of theirs that name, check, store or dispatch."""

ROOT = pathlib.Path(__file__).parents[1]


def modules(root: pathlib.Path = ROOT) -> list[str]:
    """All modules of `PACKAGES` that have tests."""
    found = [
        path for package in PACKAGES for path in sorted((root / "probjax" / package).glob("*.py"))
    ]
    names = [f"{path.parent.name}/{path.stem}" for path in found if path.stem != "__init__"]
    return [n for n in names if n not in PASSED_OVER and len(tests_of(n, root)) > 1]


def choose(names: list[str], known: list[str]) -> list[str]:
    """The modules that `names` name; all for none."""
    chosen = []
    for name in names or known:
        matching = [module for module in known if name in (module, module.partition("/")[0])]
        if not matching:
            raise ValueError(f"unknown module {name!r}")
        chosen += [module for module in matching if module not in chosen]
    return chosen


def tests_of(name: str, root: pathlib.Path = ROOT) -> list[str]:
    """A module's examples, its test file, and files named after it and an aspect.

    `test_gibbs_geweke.py` belongs to `gibbs` as long as there is no module `gibbs_geweke`.
    """
    package, _, module = name.partition("/")
    others = {path.stem for path in (root / "probjax" / package).glob("*.py")}
    files = []
    for path in sorted((root / "tests" / package).glob(f"test_{module}*.py")):
        words = path.stem.removeprefix("test_").split("_")
        owners = ["_".join(words[: i + 1]) for i in range(len(words))]
        if [owner for owner in owners if owner in others][-1:] == [module]:
            files.append(str(path.relative_to(root)))
    return [f"probjax/{name}.py", *files]


def sample(found: list[Mutant], name: str, seed: int, count: int | None) -> list[Mutant]:
    """`count` of the mutants, all for `None`; a smaller count draws the first of the same."""
    order = random.Random(f"{seed}:{name}").sample(found, len(found))
    return order[:count]


class Run:
    """Tries the mutants of one module."""

    def __init__(self, name: str, root: pathlib.Path, kept: dict[str, Any]):
        self.name, self.root = name, root
        self.path = root / "probjax" / f"{name}.py"
        self.source = self.path.read_bytes()
        self.tests = tests_of(name, root)
        self.mutants = mutants(self.source)
        source = results.digest(self.source)
        if kept.get(name, {}).get("source") != source:
            kept[name] = {"source": source, "places": len(self.mutants), "mutants": []}
        self.entries = kept[name]

    def pending(self, args: argparse.Namespace) -> list[Mutant]:
        """What is to be tried: what was not, or with `--again` and `--slow` the survivors."""
        drawn = sample(self.mutants, self.name, args.seed, args.per_module)
        old = {mutant: results.entry_of(self.entries, mutant) for mutant in drawn}
        if args.again or args.slow:
            return [m for m, e in old.items() if e and not results.is_killed(e) and "note" not in e]
        return [mutant for mutant, entry in old.items() if entry is None]

    def baseline(self, slow: bool) -> runner.Result:
        """The tests as they stand; from an earlier run if nothing changed."""
        files = [(self.root / test).read_bytes() for test in self.tests]
        name = f"{self.path.stem}-{results.digest(b''.join(files))}{'-slow' * slow}.json"
        memory = self.root / ".pytest_cache" / "mutants" / name
        if memory.exists():
            return runner.Result(**json.loads(memory.read_text()))
        tests = self.tests[1:] if slow else self.tests
        found = runner.Child(tests, self.path, slow=slow).wait()
        if found.outcome == "survived":
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(json.dumps(found._asdict()))
        return found

    def start(self, mutant: Mutant, base: runner.Result, slow: bool) -> runner.Child:
        """Fork for a mutant; it may take three times what all tests take without it."""
        source = apply(self.source, mutant)
        limit = 3 * base.seconds + 15
        tests = self.tests[1:] if slow else self.tests
        return runner.Child(tests, self.path, source, order=base.durations, limit=limit, slow=slow)

    def note(self, mutant: Mutant, result: runner.Result, slow: bool) -> dict[str, Any]:
        """Store what became of a mutant."""
        entry = results.entry_of(self.entries, mutant)
        if entry is None:
            entry = mutant._asdict()
            entry["place"] = [entry.pop("start"), entry.pop("end"), mutant.after]
            self.entries["mutants"].append(entry)
        outcome = (
            f"{result.outcome} slow" if slow and result.outcome == "failed" else result.outcome
        )
        entry |= {"outcome": outcome, "by": result.by, "seconds": round(result.seconds, 1)}
        return entry


def run(args: argparse.Namespace, root: pathlib.Path = ROOT, file: Any = results.FILE) -> int:
    """Try all that is pending; 1 if some module's own tests fail without a mistake."""
    kept, failed = results.load(file), 0
    for name in choose(args.module, modules(root)):
        work = Run(name, root, kept)
        pending = work.pending(args)
        if not pending:
            continue
        base = work.baseline(args.slow)
        if base.outcome != "survived" or not base.durations:
            if not args.slow:
                print(f"{name}: {base.outcome} without a mistake: {base.by}", flush=True)
                failed = 1
            continue
        print(f"{name}: {len(base.durations)} tests, {base.seconds:.0f} s", flush=True)
        running: dict[Mutant, runner.Child] = {}
        while pending or running:
            while pending and len(running) < args.jobs:
                mutant = pending.pop(0)
                running[mutant] = work.start(mutant, base, args.slow)
            time.sleep(runner.POLL)
            for mutant, child in list(running.items()):
                if result := child.poll():
                    del running[mutant]
                    entry = work.note(mutant, result, args.slow)
                    results.save(kept, file)
                    print(
                        f"  {entry['outcome']} {entry['seconds']} s {name}:{mutant.line}"
                        f" {mutant.before!r} -> {mutant.after!r} {entry['by']}",
                        flush=True,
                    )
    return failed


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("module", nargs="*", help="`mcmc` or `mcmc/mala`; all when none is named")
    add("--per-module", type=int, default=6, metavar="N", help="mutants drawn of each module")
    add("--all", dest="per_module", action="store_const", const=None, help="all there are")
    add("--seed", type=int, default=0, help="of the draw")
    add("--jobs", type=int, default=1, help="mutants tried at a time")
    add("--again", action="store_true", help="try survivors without a note again")
    add("--slow", action="store_true", help="the same, against tests marked slow")
    add("--report", action="store_true", help="print what is known and run nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    args = parse(arguments)
    if args.report:
        kept = results.load()
        print(results.summary(kept))
        print("\n".join(results.survivors(kept, choose(args.module, list(kept)))))
        return 0
    runner.preload()
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
