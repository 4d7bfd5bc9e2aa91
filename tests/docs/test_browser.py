"""The built site as a browser shows it, from a server and from disk."""

import re
import urllib.parse
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]

ROOT = Path(__file__).parents[2]
WIDTHS = (360, 1024, 1440)
HEAVIEST = 1_500_000
AXE = ROOT / "docs" / "node_modules" / "axe-core" / "axe.min.js"
COUNT_MATHS = """() => ['.katex-error', '.arithmatex', '.arithmatex > [class^=katex]'].map(
    selector => document.querySelectorAll(selector).length)"""
PLACE_STEPS = """() => [...document.querySelectorAll('.step')]
    .map(step => ['.derive', '.check'].map(part => step.querySelector(':scope > ' + part)))
    .filter(parts => parts.every(Boolean))
    .map(parts => parts.flatMap(part => [part.offsetLeft, part.offsetTop]))"""


def names_tried():
    """Twenty functions, evenly over the alphabet of all that the packages export."""
    found = {}
    for file in sorted((ROOT / "probjax").glob("*/__init__.py")):
        for module, name in re.findall(r"(?m)^from (\S+) import ([a-z]\w+) as", file.read_text()):
            found[name] = f"{module}.{name}"
    names = sorted(found)
    return [found[names[i * len(names) // 20]] for i in range(20)]


def width_needed(tab, width):
    """How wide the page is in a window of `width`, once the theme's search field stands still."""
    tab.set_viewport_size({"width": width, "height": 900})
    for _ in range(10):
        needed = tab.evaluate("() => document.documentElement.scrollWidth")
        if needed <= width:
            break
        tab.wait_for_timeout(200)
    return needed


def test_all_pages_are_silent_typeset_light_and_fit(open_tab, address, pages, site):
    """No message, no foreign request, no KaTeX error, no sideways scrolling, little to load.

    A page weighs what it makes the browser fetch, uncompressed; the index of the search, which
    the browser keeps and fetches behind the page, is apart.
    """
    tab, messages, requests, faults = open_tab(), [], [], []
    tab.on("console", lambda message: messages.append((tab.url, message.text)))
    tab.on("pageerror", lambda error: messages.append((tab.url, str(error))))
    tab.on("request", lambda request: requests.append(request.url))
    for path in sorted(pages.keys() - {"404.html"}):
        requests.clear()
        tab.set_viewport_size({"width": WIDTHS[-1], "height": 900})
        tab.goto(address + path, wait_until="load")
        errors, formulas, typeset = tab.evaluate(COUNT_MATHS)
        if errors or formulas != typeset:
            faults.append((path, f"{errors} KaTeX errors, {typeset} of {formulas} typeset"))
        foreign = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
        faults += [(path, url) for url in foreign]
        files = {
            urllib.parse.unquote(urllib.parse.urlsplit(url).path).strip("/")
            for url in requests
            if url.startswith(address)
        }
        sizes = {name: (site / name).stat().st_size for name in files if "search_index" not in name}
        if sum(sizes.values()) > HEAVIEST:
            heavy = sorted(sizes.items(), key=lambda item: -item[1])[:4]
            faults.append((path, f"weighs {sum(sizes.values()):,} bytes: {heavy}"))
        for width in WIDTHS:
            if (needed := width_needed(tab, width)) > width:
                faults.append((path, f"needs {needed} px of {width}"))
    assert not messages
    assert not faults


def test_steps_stand_side_by_side_where_there_is_room(open_tab, address, pages, site):
    tab, seen, faults = open_tab(), 0, []
    for path in sorted(pages):
        if 'class="step"' not in (site / path).read_text():
            continue
        tab.goto(address + path, wait_until="load")
        for width in (1440, 360):
            tab.set_viewport_size({"width": width, "height": 900})
            for left, top, check_left, check_top in tab.evaluate(PLACE_STEPS):
                beside = check_left > left + 300 and abs(check_top - top) < 60
                below = check_left < left + 30 and check_top > top + 30
                seen += 1
                if not (beside if width == 1440 else below):
                    faults.append((path, width, left, top, check_left, check_top))
    assert seen > 200
    assert not faults


def test_search_finds_twenty_of_twenty_functions(open_tab, address):
    tab, missed = open_tab(search=True), []
    tab.goto(address)
    tab.keyboard.press("/")
    for name in names_tried():
        tab.keyboard.press("Control+A")  # the theme listens to keys
        tab.keyboard.type(name.rsplit(".", 1)[-1])
        hit = tab.locator(f".md-search-result__link[href$='#{name}']").first
        try:
            hit.wait_for(state="attached", timeout=30_000)
        except Exception as error:
            missed.append((name, type(error).__name__))
    assert not missed


def test_copy_button_leaves_out_prompts_and_outputs(open_tab, address):
    tab = open_tab()
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.goto(address + "score/denoising.html")
    block = tab.locator(".language-pycon").filter(has_text="denoising_sm").first
    block.scroll_into_view_if_needed()
    block.hover()
    shown = block.locator("code").text_content()
    block.locator("[data-clipboard-target], .md-code__button[data-md-type='copy']").first.click()
    copied = tab.evaluate("() => navigator.clipboard.readText()")
    expected = [line[4:] for line in shown.splitlines() if re.match(r"(>>>|\.\.\.)( |$)", line)]
    assert copied.splitlines() == expected
    assert ">>>" in shown
    assert ">>>" not in copied


@pytest.mark.parametrize(("system", "scheme"), [("light", "default"), ("dark", "slate")])
def test_colours_follow_the_system(open_tab, address, system, scheme):
    tab = open_tab(color_scheme=system)
    tab.goto(address)
    tab.wait_for_selector(f"body[data-md-color-scheme={scheme}]", timeout=5_000)
    ground, ink = tab.evaluate(
        """() => [document.body, document.querySelector('article p')].map((element, i) =>
             getComputedStyle(element)[i ? 'color' : 'backgroundColor'].match(/[0-9.]+/g)
               .slice(0, 3).reduce((sum, part) => sum + Number(part), 0))"""
    )
    assert (ground < ink) == (system == "dark")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_axe_finds_nothing_serious(open_tab, address, pages, system):
    """In light colours every rule, in dark ones those of colour: the markup is the same."""
    if not AXE.is_file():
        pytest.skip("no accessibility check: `python docs/vendor.py --tools` installs axe-core")
    tab, found = open_tab(color_scheme=system), []
    # Formulas are typeset text on the page's own ground: thousands of spans with one colour.
    options = "{exclude: [['.katex']]}, {resultTypes: ['violations']%s}"
    options %= "" if system == "light" else ", runOnly: ['color-contrast']"
    for path in sorted(pages.keys() - {"404.html"}):
        tab.goto(address + path)
        tab.add_script_tag(path=str(AXE))
        for fault in tab.evaluate(f"() => axe.run({options})")["violations"]:
            if fault["impact"] in ("serious", "critical"):
                nodes = sorted({node["html"][:120] for node in fault["nodes"]})
                found.append((path, fault["id"], len(fault["nodes"]), nodes[:4]))
    assert not found


def test_the_site_opens_from_disk_and_searches_there(open_tab, site):
    """Without a server or a network: pages, links, mathematics, and the search."""
    tab, messages, requests = open_tab(search=True, offline=True), [], []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((site / "index.html").as_uri())
    tab.locator(".md-tabs__link", has_text="Score matching").click()
    tab.locator(".md-nav__link:visible", has_text="Denoising score matching").first.click()
    assert tab.url == (site / "score" / "denoising.html").as_uri()
    errors, formulas, typeset = tab.evaluate(COUNT_MATHS)
    assert (errors, formulas) == (0, typeset)
    assert formulas > 20
    tab.keyboard.press("/")
    tab.keyboard.type("denoising_sm")
    hit = tab.locator(".md-search-result__link[href$='#probjax.score.denoising.denoising_sm']")
    hit.first.wait_for(state="attached", timeout=60_000)
    assert not messages
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
