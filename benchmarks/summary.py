"""The page above the benchmark pages: how it is measured, all bars in one table, and losses."""

from collections.abc import Iterable
from typing import Any

from benchmarks import table

HOW = """\
# Benchmarks

This page and those of the areas are written by `python -m benchmarks.render` from the files in
`benchmarks/results`; edit those, not them.

{links}

## How we measure

`make bench` runs every case on the machine at hand, with few rounds and some cases smaller, and
prints tables within 15 minutes on two cores. `python -m benchmarks diffusion --full --json` runs
one package with the effort of the results below and keeps the numbers in
`benchmarks/results/<machine>/diffusion.json`. Which effort it was stands above each table.

* **In turns.** All contenders of a case live in one process and are timed in rounds, A B C A B C
  and so on, after one call each to warm up. What disturbs the machine disturbs them all.
* **Run seconds** are the median over the rounds, with the quartiles in brackets. A clock stops
  only when the result is there (`block_until_ready`).
* **Compile seconds** are tracing, lowering and compiling together, with no cache on disk. A
  program that is not compiled has 0.
* **Temporary memory** is what the compiled program needs on one device besides its inputs and
  outputs. Where a contender cannot tell, the table says so.
* **No speed without its accuracy.** Each contender's result is compared with a float64
  computation of the same function. A contender whose error is unknown or above the case's
  tolerance is withheld, and the table says why.
* **The ratio** is taken within each round against the reference, which is the fastest peer that
  qualifies, and its median and quartiles are told. A peer that is not installed is named as
  absent.
* **Figures** in further columns are not of time (effective draws for each gradient, say): the
  median over several keys, with the smallest and the largest in brackets.
* **What is asked** stands below a table: the best of ours against the reference, or against the
  peer that is named.
* **One package, one run.** A file of results comes from one process on one machine; packages may
  be of different days and commits, and say so. Machines are never mixed in one table. On an
  accelerator the same command takes larger batches.

On a CPU the harness gives JAX one virtual device for each core, up to eight. PyTorch is measured
with one thread and with all; the faster is the reference. `torch.compile` is told beside it, and
is absent where it was not ready in 60 seconds.
"""


def page(runs: dict[str, dict[str, dict[str, Any]]], titles: dict[str, str]) -> str:
    """The page from the runs by machine and package."""
    links = [f"[{title}]({package}.md)" for package, title in titles.items()]
    links = f"{', '.join(links)}; several devices: [Scaling](scaling.md)."
    words = "How speed, memory and accuracy are measured, and all results beside their peers."
    parts = [front(words, ("navigation", "toc")), HOW.format(links=links)]
    for name in sorted(runs):
        told = {package: runs[name][package] for package in titles if package in runs[name]}
        if told:
            parts.append(_machine(told, titles))
    if len(parts) == 2:
        parts.append("## Results\n\nNo results are committed yet.\n")
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _machine(runs: dict[str, dict[str, Any]], titles: dict[str, str]) -> str:
    machine = next(iter(runs.values()))["machine"]
    bars = [
        (package, case, bar)
        for package, run in runs.items()
        for case in run["cases"]
        for bar in case["bars"] or [None]
    ]
    asked = [bar for _, _, bar in bars if bar is not None]
    verdicts = {"met": True, "missed": False, "not decided": None}
    counts = {word: sum(bar["met"] is value for bar in asked) for word, value in verdicts.items()}
    told = ", ".join(f"{_count(count)} {word}" for word, count in counts.items() if count)
    rows = [_row(machine, titles[package], package, case, bar) for package, case, bar in bars]
    headings = (
        "area", "case", "ours", "peer", "ratio", "error: ours, peer", "memory: ours, peer",
        "asked", "",
    )  # fmt: skip
    return "\n\n".join(
        [
            f"## {machine_name(machine)}",
            f"{machine['system']}, JAX backend `{machine['backend']}` with {machine['devices']} "
            f"device{'s' * (machine['devices'] > 1)} of kind `{machine['device_kind']}`.",
            f"{_count(len(asked), 'ratio')} asked for: {told}. A ratio is of speeds, larger being "
            "better, unless it says otherwise; a case of which nothing is asked shows its fastest. "
            "The error is the largest of the case's.",
            grid(headings, rows, left=9),
            f"### Where we are slower {{: #{anchor(machine, 'slower')} }}",
            _slower(runs, machine),
        ]
    )


def _count(number: int, name: str = "") -> str:
    words = f"{number} {name}{'s' * (number != 1)}" if name else str(number)
    return f"{words} {'is' if number == 1 else 'are'}"


def _row(
    machine: dict[str, Any], title: str, package: str, case: dict[str, Any], bar: Any
) -> tuple[str, ...]:
    rows = {one["name"]: one for one in case["contenders"]}
    if bar is None:
        ours = [one for one in case["contenders"] if not one["peer"]]
        best = min(ours, key=lambda one: one["run_seconds"][1], default=None)
        own, rival = best, rows.get(case["reference"])
        ratio, kind, asked, verdict = own and own["ratio"], case["ratio_of"], "", ""
    else:
        own, rival = rows.get(bar["contender"]), rows.get(bar["against"])
        ratio, kind = bar["ratio"], bar["kind"]
        asked = f"{'at most' if kind == 'time' else 'at least'} {bar['value']:.3g}"
        verdict = {True: "met", False: "**missed**", None: "not decided"}[bar["met"]]
    of = "" if kind == "speed" else f" of {kind}"
    return (
        title,
        _link(machine, package, case),
        own["name"] if own else "not measured",
        rival["name"] if rival else "no peer",
        f"{table.number(ratio[1])}{of}" if ratio else "",
        ", ".join(_kept(f"{max(x['errors'].values()):.1e}") for x in (own, rival) if x),
        _memory(own, rival),
        asked,
        verdict,
    )


def _slower(runs: dict[str, dict[str, Any]], machine: dict[str, Any]) -> str:
    """Every missed bar, and every contender of ours that its reference beats."""
    missed, behind = [], []
    for package, run in runs.items():
        for case in run["cases"]:
            link = _link(machine, package, case)
            for bar in case["bars"]:
                if bar["met"] is False:
                    word = "at most" if bar["kind"] == "time" else "at least"
                    asked = f"{bar['kind']} {word} {bar['value']:.3g} times {bar['against']!r}"
                    missed.append((link, asked, bar["contender"], table.number(bar["ratio"][1])))
            for one in case["contenders"]:
                if one["peer"] or one["ratio"] is None:
                    continue
                low, middle, high = one["ratio"]
                if (middle > 1) if case["ratio_of"] == "time" else (middle < 1):
                    told = f"{middle:.3g} ({low:.3g} to {high:.3g})"
                    behind.append((link, one["name"], case["reference"], case["ratio_of"], told))
    parts = [f"What was asked and is not reached{':' if missed else ': nothing.'}"]
    if missed:
        parts.append(grid(("case", "asked", "the best of ours", "reached"), missed, left=3))
    parts.append(
        "Contenders of ours that their reference beats, whether or not another of ours is faster"
        + (
            "; 'time' is over that of the reference, 'speed' likewise. In score matching the "
            "reference, a regression, does less."
            if behind
            else ": none."
        )
    )
    if behind:
        names = ("case", "ours", "reference", "of", "ratio (quartiles)")
        parts.append(grid(names, behind, left=4))
    return "\n\n".join(parts)


def circumstances(run: dict[str, Any]) -> str:
    """When, at which commit, with how much effort and which versions."""
    conditions, effort = run["conditions"], run["effort"]
    versions = ", ".join(f"{name} {value}" for name, value in conditions["versions"].items())
    load = conditions["load_before"]
    told = f"Effort: {effort['name']}"
    if effort["rounds"] is not None:
        told += (
            f" (up to {effort['rounds']} rounds, {effort['seconds']:g} s a repeat, "
            f"{effort['budget']:g} s a case)"
        )
    return (
        f"Measured on {conditions['date']} at commit {conditions['commit'] or 'unknown'}; load "
        f"before the run: {'not told' if load is None else f'{load:g}'}. {told}. "
        f"Versions: {versions}."
    )


def front(description: str, hidden: tuple[str, ...] = ("navigation",)) -> str:
    """What stands before the text of a page that needs its width for tables."""
    lines = "".join(f"  - {name}\n" for name in hidden)
    return f"---\ndescription: {description}\nhide:\n{lines}---"


def figure(name: str, words: str, caption: str) -> str:
    """A figure of the site's assets, with what it shows in words."""
    made = f"Made by <code>docs/figures/{name}.py</code>."
    return (
        f'<figure class="plot" markdown>\n![{words}](../assets/{name}.svg)\n'
        f"<figcaption markdown>{caption} {made}</figcaption>\n</figure>"
    )


def machine_name(machine: dict[str, Any]) -> str:
    """A heading for a machine."""
    kind = "CPU" if machine["backend"] == "cpu" else machine["device_kind"]
    return f"{kind}: {machine['cpu']}, {machine['cores']} cores"


def anchor(machine: dict[str, Any], name: str) -> str:
    """An anchor for a package or a case on a machine."""
    words = f"{machine['backend']} {machine['device_kind']} {machine['cores']} {name}"
    kept = "".join(letter if letter.isalnum() else "-" for letter in words.lower())
    return "-".join(part for part in kept.split("-") if part)


def grid(headings: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns begin on the left."""
    headings = tuple(headings)
    marks = ["---" if place < left else "---:" for place in range(len(headings))]
    return "\n".join(_line(cells) for cells in (headings, marks, *rows))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _link(machine: dict[str, Any], package: str, case: dict[str, Any]) -> str:
    short = case["name"].partition("/")[2] or case["name"]
    return f"[{short}]({package}.md#{anchor(machine, case['name'])})"


def _memory(own: Any, rival: Any) -> str:
    told = [one["temporary_bytes"] for one in (own, rival) if one]
    if all(count is None for count in told):
        return "not told"
    return ", ".join(_kept(table.size(count)) for count in told)


def _kept(text: str) -> str:
    """The same without places where a line may end."""
    return text.replace("-", "\N{NON-BREAKING HYPHEN}").replace(" ", "\N{NO-BREAK SPACE}")
