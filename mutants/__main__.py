"""`python -m mutants [module ...] [--per-module N] [--seed S] [--jobs J] [--again] [--slow]`.

A module is `mcmc/mala`, a package `mcmc`; all of `PACKAGES` when none is named. Of each module
`N` mutants are drawn with the seed, each place as likely as any other; a larger `N` keeps the
earlier ones. What was tried is in `results.json` and is not tried again: a run that was stopped
goes on where it was, and has treated all modules alike.
"""

import argparse
import itertools
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

SHARED = {"targets": ("catalogue", "posteriordb"), "score": ("objectives",)}
"""Test files of a package that try all of its modules."""

BATCH = 4
"""Mutants that are tried before the tests that killed them are run on the module as it is."""

ROOT = pathlib.Path(__file__).parents[1]


def modules(root: pathlib.Path = ROOT) -> list[str]:
    """All modules of `PACKAGES` that have tests."""
    found = [
        path for package in PACKAGES for path in sorted((root / "probjax" / package).glob("*.py"))
    ]
    names = [f"{path.parent.name}/{path.stem}" for path in found if path.stem != "__init__"]
    return [
        name
        for name in names
        if name not in PASSED_OVER
        and (root / f"tests/{'/test_'.join(name.split('/'))}.py").exists()
    ]


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
    """A module's examples, its test file, those named after it and an aspect, and shared ones.

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
    shared = [f"tests/{package}/test_{other}.py" for other in SHARED.get(package, ())]
    return [f"probjax/{name}.py", *files, *(path for path in shared if (root / path).exists())]


def sample(found: list[Mutant], name: str, seed: int, count: int | None) -> list[Mutant]:
    """`count` of the mutants, all for `None`; a smaller count draws the first of the same."""
    order = random.Random(f"{seed}:{name}").sample(found, len(found))
    return order[:count]


class Module:
    """A module, its mutants and its tests."""

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
        self.memory = root / ".pytest_cache" / "mutants" / f"{name.replace('/', '-')}.json"
        self.durations = json.loads(self.memory.read_text()) if self.memory.exists() else {}

    def pending(self, args: argparse.Namespace) -> list[Mutant | None]:
        """The sample, with `None` for what is not to be tried.

        That is what was tried before, or with `--again` and `--slow` all but the survivors.
        """
        drawn = sample(self.mutants, self.name, args.seed, args.per_module)
        entries = [results.entry_of(self.entries, mutant) for mutant in drawn]
        if args.again or args.slow:
            wanted = [e and not results.is_killed(e) and "note" not in e for e in entries]
        else:
            wanted = [e is None for e in entries]
        return [mutant if want else None for mutant, want in zip(drawn, wanted, strict=True)]

    def start(self, mutant: Mutant, args: argparse.Namespace) -> runner.Child:
        """Fork for a mutant; a survivor meets the tests first that it has not seen."""
        source = apply(self.source, mutant)
        tests = self.tests[1:] if args.slow else self.tests
        order = self.durations | ({"": 0.0} if args.again else {})
        return runner.Child(tests, self.path, source, order=order, slow=args.slow)

    def learn(self, result: runner.Result) -> None:
        """Remember how long tests take, for the order of the next run."""
        self.durations |= result.durations
        self.memory.parent.mkdir(parents=True, exist_ok=True)
        self.memory.write_text(json.dumps(self.durations))

    def store(self, mutant: Mutant, result: runner.Result, args: argparse.Namespace) -> str:
        """Keep what became of a mutant, and say it."""
        entry = results.entry_of(self.entries, mutant)
        if entry is None:
            entry = mutant._asdict()
            entry["place"] = [entry.pop("start"), entry.pop("end"), mutant.after]
            self.entries["mutants"].append(entry)
        elif args.again and result.outcome in runner.KILLED:
            entry["gap"] = True
        by = result.failed[0] if result.failed else ""
        outcome = f"{result.outcome} slow" if args.slow and by else result.outcome
        entry |= {"outcome": outcome, "by": by, "seconds": round(result.seconds, 1)}
        change = f"{mutant.before!r} -> {mutant.after!r}"
        return f"{outcome} {entry['seconds']} s {self.name}:{mutant.line} {change} {by}"


Task = tuple[Module, Mutant]


def run(args: argparse.Namespace, root: pathlib.Path = ROOT, file: Any = results.FILE) -> None:
    """Try all that is pending: the first mutant of each module, the second of each, and so on.

    Modules come in an order drawn with the seed, so that a run cut short has seen all packages.
    """
    kept, names = results.load(file), choose(args.module, modules(root))
    works = [Module(n, root, kept) for n in random.Random(args.seed).sample(names, len(names))]
    ranks = itertools.zip_longest(*(work.pending(args) for work in works))
    tasks = [(w, m) for rank in ranks for w, m in zip(works, rank, strict=True) if m]
    for first in range(0, len(tasks), BATCH):
        found = _try(tasks[first : first + BATCH], args)
        doubtful = _fail_anyway([result for *_, result in found], args.slow)
        for work, mutant, result in found:
            work.learn(result)
            if doubtful.intersection(result.failed):
                print(f"fails without a mistake, too: {result.failed[0]}", flush=True)
            else:
                print(work.store(mutant, result, args), flush=True)
        results.save(kept, file)


def _try(tasks: list[Task], args: argparse.Namespace) -> list[tuple[Module, Mutant, runner.Result]]:
    """What becomes of each of a batch."""
    waiting, running, found = list(tasks), [], []
    while waiting or running:
        while waiting and len(running) < args.jobs:
            work, mutant = waiting.pop(0)
            running.append((work, mutant, work.start(mutant, args)))
        time.sleep(runner.POLL)
        for work, mutant, child in list(running):
            if result := child.poll():
                found.append((work, mutant, result))
                running.remove((work, mutant, child))
    return found


def _fail_anyway(found: list[runner.Result], slow: bool) -> set[str]:
    """What failed with a mistake and does so without."""
    tests = {result.failed[0] for result in found if result.outcome == "failed"}
    passed = runner.Child(sorted(tests), slow=slow).wait().durations if tests else {}
    broken = {name for result in found if result.outcome == "broken" for name in result.failed}
    files = sorted(name for name in broken if name.endswith(".py"))
    again = runner.Child(files, only_collect=True).wait().failed if files else []
    return tests.difference(passed).union(again)


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
    run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
