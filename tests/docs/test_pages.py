"""The sources of the site, read as text: cheap rules that no build has to run for."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "node_modules" not in page.parts)
METHOD_PAGES = [
    *(f"score/{name}.md" for name in ("denoising", "explicit", "sliced", "noise_conditional")),
    *(
        f"mcmc/{name}.md"
        for name in (
            "langevin",
            "mala",
            "mh",
            "gibbs",
            "hamiltonian",
            "nuts",
            "tempering",
            "warmup",
            "microcanonical",
        )
    ),
    *(
        f"diffusion/{name}.md"
        for name in (
            "exponential",
            "churn",
            "stochastic",
            "likelihood",
            "guidance",
            "inpainting",
            "skip_tuning",
        )
    ),
    *(f"diffeq/{name}.md" for name in ("adaptive", "multistep")),
    *(f"diffeq/{name}.md" for name in ("linear_systems", "completion", "det_exp", "covariance")),
    "diffeq/ensembles.md",
    "diffeq/orders.md",
    *(f"diffeq/{name}.md" for name in ("systems", "symplectic", "exponential")),
    "sequence/alignment.md",
    "sequence/transducer.md",
    *(f"diffeq/{name}.md" for name in ("one_step", "rk2", "trees")),
]
SECTIONS = [
    "What problem this solves",
    "Notation",
    "Derivation",
    "The figure",
    "Smallest complete use",
    "The same call, sharded",
    "Cost",
    "Pitfalls",
    "API",
    "References",
]


TOPICS = [page for page in PAGES if page.parent != DOCS and page.parent.name != "benchmarks"]


def sections(text: str) -> list[str]:
    return re.findall(r"(?m)^## (.+?)(?:\s*\{.*\})?$", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_on_a_page_is_run(page):
    text = page.read_text()
    assert "+SKIP" not in text
    assert not re.search(r"(?m)^[ \t]*```mermaid", text)
    unrun = re.findall(r"(?m)^[ \t]*```(?:python|py)\b(?! title=)", text)
    assert not unrun, (
        "Python on a page stands in a pycon fence with prompts, so that doctest runs it"
    )
    for body in re.findall(r"(?ms)^[ \t]*```pycon\n(.*?)^[ \t]*```", text):
        assert ">>> " in body


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_images_have_alternative_text(page):
    for line in re.findall(r"!\[(.*?)\]\(", page.read_text()):
        assert len(line) > 20, "say what the picture shows"


@pytest.mark.parametrize("name", METHOD_PAGES)
def test_a_method_page_keeps_the_order(name):
    found = sections((DOCS / name).read_text())
    kept = [heading for heading in SECTIONS if any(f.startswith(heading) for f in found)]
    assert kept == SECTIONS
    order = [next(i for i, f in enumerate(found) if f.startswith(h)) for h in SECTIONS]
    assert order == sorted(order)


@pytest.mark.parametrize("name", METHOD_PAGES)
def test_code_beside_a_step_fits_its_column(name):
    text = (DOCS / name).read_text()
    columns = re.findall(r'(?ms)^<div class="check" markdown>(.*?)^</div>', text)
    assert columns
    for column in columns:
        wide = [
            line for line in column.splitlines() if len(line) > 66 and line[:3] in (">>>", "...")
        ]
        assert not wide


def test_navigation_names_every_page():
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"(?m)^\s+- (?:[^:\n]+: )?([\w/-]+\.md)$", text)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def linked_pages(page: Path, kind: str, words: str) -> list[str]:
    """The pages that the one line of this kind links to, by their names under docs/."""
    found = re.findall(rf"(?m)^{words}: (\S.*\.)\n\{{ \.{kind} \}}$", page.read_text())
    assert len(found) == 1, f"one line '{words}: ...' with {{ .{kind} }} under it"
    links = re.findall(r"\]\(([^)#]*)[^)]*\)", found[0])
    targets = [(page.parent / link).resolve() for link in links]
    assert all(target in PAGES for target in targets), links
    assert page not in targets, "a page is neither before nor after itself"
    return [target.relative_to(DOCS).as_posix() for target in targets]


@pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_says_what_it_builds_on_and_where_to_go_on(page):
    text = page.read_text()
    linked_pages(page, "before", "Before this page")
    assert 1 <= len(linked_pages(page, "next", "What follows")) <= 2
    opening = sections(text[: text.index("{ .before }")])
    assert len(opening) <= 1, "what a page builds on stands in its opening"
    assert text.endswith("{ .next }\n")


def test_no_two_pages_need_each_other():
    needs = {
        page.relative_to(DOCS).as_posix(): linked_pages(page, "before", "Before this page")
        for page in TOPICS
    }
    TopologicalSorter(needs).prepare()


# What is not running text: code, tables, mathematics and links.
NO_TEXT = (
    r"(?ms)^[ \t]*```.*?^[ \t]*```|^\|.*?$|\$\$.*?\$\$"
    r"|\$[^$\n]*\$|`[^`\n]*`|\[[^\]\n]*\]\([^)\n]*\)"
)


@pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_an_equation_is_linked_wherever_it_is_named(page):
    text = page.read_text()
    boxes = re.findall(r'(?ms)<div class="equation" id="[\w-]+" markdown>(.*?)</div>', text)
    numbers = re.findall(r"\\tag\{(.*?)\}", "".join(boxes))
    assert numbers == re.findall(r"\\tag\{(.*?)\}", text), "a numbered equation has an anchor"
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    named = re.findall(r"(?<!\w)\((\d{1,2})\)", re.sub(NO_TEXT, "", text))
    assert not set(named) & set(numbers)


def test_drawings_are_reproducible():
    for drawing in (DOCS / "assets").rglob("*.svg"):
        text = drawing.read_text()
        assert "dc:date" not in text, f"{drawing.name} carries the day of its making"
        assert len(text) < 400_000, f"{drawing.name} is too large to load quickly"
