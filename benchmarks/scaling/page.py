"""The page on several devices: what was counted, and the paper estimate for many."""

from typing import Any

from benchmarks import summary, table
from benchmarks.scaling.estimate import SOURCES, Estimate, estimate

MANY = 1024

HEAD = """\
# Scaling

This page is written by `python -m benchmarks.render` from the files in
`benchmarks/results`; edit those, not it.

Every program of the library that spreads over devices sends only what stands in its compiled text
as a collective operation. So what crosses between devices can be counted without a cluster: each
program below is compiled for 1, 2, 4 and 8 virtual devices of one process and for two processes
joined by `jax.distributed`, and the collectives of one step are read from the result
(`benchmarks/collectives.py`), those in loops as often as the loop runs.

* **Bytes** are what one device sends in one step, by the algorithms that send the fewest: of an
  all-reduce of $n$ bytes among $g$ devices $2\\frac{g-1}gn$, of an all-gather or all-to-all
  $\\frac{g-1}gn$, of a reduce-scatter that leaves $n$ bytes $(g-1)n$
  ([Thakur, Rabenseifner and Gropp 2005](../references.md#thakur-2005)).
* **Seconds** of one step are of this machine, whose virtual devices share its cores: eight devices
  cannot be faster than two. They tell what spreading costs, and nothing else.
* **Difference** is the largest from the answer of one device, over the largest entry.

The programs: chains by [`map_items`](../sharding/mapping.md), the
[pooled warm-up](../mcmc/warmup.md), a training step by
[`value_and_grad`](../sharding/gradients.md), [`solve_ensemble`](../diffeq/ensembles.md), CTC in its
[three layouts](../sequence/sharding.md). `python -m benchmarks scaling` counts them again.
"""

FIGURE = summary.figure(
    "scaling",
    "Left: bytes that a device sends in one step against the number of devices, between none for "
    "annealed Langevin and the plain ensemble and several hundred kilobytes for a training step "
    "and for CTC split by classes. Right: the estimated share of computation in a step against the "
    "number of accelerators, from 8 to 1,024; it falls where the collectives of a step go through "
    "all of them.",
    "Left: counted in compiled programs. Right: the estimate below, from committed counts.",
)

PAPER = """\
## On {many:,} accelerators, on paper {{: #on-paper }}

**This is an estimate from counts. Nothing on this page was measured on an accelerator.** One step
on $P$ accelerators takes

$$
t(P)=\\max\\Bigl(\\frac{{F}}{{R}},\\frac{{M}}{{W}}\\Bigr)
+\\sum_{{c}}\\Bigl(s+h_c\\,\\ell+\\frac{{b_c}}{{\\beta}}\\Bigr),
$$

with $F$ the floating-point operations of each accelerator and $R$ its rate, $M$ the bytes that it
reads and writes and $W$ the bandwidth of its memory, and for each collective $c$ a start $s$,
$h_c$ hops of latency $\\ell$ and $b_c$ bytes over a link of bandwidth $\\beta$
([Hockney 1994](../references.md#hockney-1994)).

* $F$ is XLA's count for one step, scaled to the items that each accelerator is given. In CTC it is
  too small, since the body of a loop counts once.
* $M$ is the least there can be: what a call is given and what it gives, shared among its steps.
* $R$ and $W$ are peaks, which no program reaches. The computation takes longer than said, so the
  shares of communication below are too large rather than too small.
* What a collective leaves on a device was counted for some items and for twice as many. What grows
  with the items stays in a group of eight, one node; what does not, a gradient or a mean, goes
  through all $P$, and then all its bytes pay the slower link.
* Hops: a chain in each node and a tree over the $n$ nodes, for an all-reduce
  $2(8-1)+2\\lceil\\log_2n\\rceil$, for the others in their node $8-1$.
* Communication does not overlap with computation, and nothing else uses the links.

The assumed accelerators are H200s in nodes of eight:

{inputs}

{results}

{read}
"""


def page(runs: dict[str, dict[str, Any]]) -> str:
    """The whole page, from the scaling runs by machine."""
    words = "Collectives and bytes between devices, counted, and an estimate for a thousand."
    parts = [summary.front(words), HEAD]
    parts.append(FIGURE if runs else "No results are committed yet.")
    for name in sorted(runs):
        run = runs[name]
        heading = summary.machine_name(run["machine"])
        parts.append(f"## {heading} {{: #{summary.anchor(run['machine'], 'scaling')} }}")
        parts += [summary.circumstances(run), tables(run)]
    if runs:  # counts are of programs, not of machines: one table is enough
        first = runs[min(runs)]
        paper = {"inputs": _inputs(), "results": _results(first), "read": _read(first)}
        parts.append(PAPER.format(many=MANY, **paper))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def tables(run: dict[str, Any]) -> str:
    """A table for each program."""
    parts = []
    for program in run["programs"]:
        base = next(x for x in program["layouts"] if x["devices"] == 1)["seconds"][1]
        rows = [_row(layout, base) for layout in program["layouts"]]
        headings = (
            "devices", "collectives of one step", "bytes sent", "ms of one step",
            "over one device", "difference", "compile s",
        )  # fmt: skip
        parts += [
            f"### {program['pillar']}: {program['name']}",
            f"{program['description']} {program['items']:,} {program['unit']} in all, one step "
            f"being {program['step']}.",
            summary.grid(headings, rows, left=2),
        ]
    return "\n\n".join(parts)


def _row(layout: dict[str, Any], base: float) -> tuple[str, ...]:
    apart = f" in {layout['processes']} processes" if layout["processes"] > 1 else ""
    low, middle, high = (1000 * value for value in layout["seconds"])
    return (
        f"{layout['devices']}{apart}",
        ", ".join(map(_collective, layout["collectives"])) or "none",
        table.size(round(layout["sent_bytes"])) if layout["sent_bytes"] else "0",
        f"{middle:.3g} ({low:.3g} to {high:.3g})",
        f"{middle / (1000 * base):.2f}",
        f"{layout['difference']:.1e}",
        f"{layout['compile_seconds']:.1f}",
    )


def _collective(each: dict[str, Any]) -> str:
    times = "" if each["times"] == 1 else f"{each['times']:.3g} × "
    return f"{times}{each['kind']} of {table.size(each['bytes'])}"


def _inputs() -> str:
    names = {
        "nvidia-h200": "NVIDIA, H200",
        "nvidia-dgx-h200": "NVIDIA, DGX H200",
        "nccl-tuning": "NCCL, its model of latencies",
    }
    rows = [
        (name, value, f"[{names[anchor]}](../references.md#{anchor})")
        for name, value, anchor in SOURCES.values()
    ]
    return summary.grid(("assumed", "value", "source"), rows, left=3)


def _results(run: dict[str, Any]) -> str:
    rows = [_estimated(program, estimate(program, MANY)) for program in run["programs"]]
    headings = (
        "program", "on each accelerator", "computation", "hops", "bytes sent", "communication",
        "share of computation",
    )  # fmt: skip
    return summary.grid(headings, rows, left=2)


def _read(run: dict[str, Any]) -> str:
    """Who sends nothing, and who waits for most of a step."""
    found = {program["name"]: estimate(program, MANY) for program in run["programs"]}
    silent = [name for name, each in found.items() if not each.sent]
    waiting = [name for name, each in found.items() if each.efficiency < 0.5]
    parts = []
    if silent:
        parts.append(f"Nothing is sent by: {'; '.join(silent)}.")
    if waiting:
        names = "; ".join(waiting)
        parts.append(f"At these sizes more than half of a step is communication in: {names}.")
    return " ".join(parts)


def _estimated(program: dict[str, Any], found: Estimate) -> tuple[str, ...]:
    return (
        program["name"],
        f"{program['load']:,} {program['unit']}",
        f"{_seconds(found.compute)}{' (memory)' if found.is_memory else ''}",
        str(found.hops),
        table.size(round(found.sent)) if found.sent else "0",
        _seconds(found.communication) if found.communication else "0",
        f"{100 * found.efficiency:.3g} %",
    )


def _seconds(value: float) -> str:
    return f"{1e6 * value:.3g} µs" if value < 1e-3 else f"{1e3 * value:.3g} ms"
