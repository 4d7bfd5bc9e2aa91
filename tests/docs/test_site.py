"""The built site: strict build, every local link, no foreign host, and what a browser shows."""

import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WIDTHS = (360, 1024, 1440)
FLAGSHIPS = ("", "score/denoising/", "mcmc/langevin/")
HOSTED = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
STYLE_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Page(HTMLParser):
    """The ids of one page, its links, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loaded, self.unlabelled = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(value for name in ("id", "name") if (value := attrs.get(name)))
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "img" and not attrs.get("alt"):
            self.unlabelled.append(attrs.get("src"))
        if tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(attrs["href"])
        for name in ("src", "srcset", "poster", "data"):
            if tag != "a" and name in attrs:
                self.loaded.append(attrs[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built once with `--strict`."""
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    target = tmp_path_factory.mktemp("site")
    fetch = [sys.executable, "docs/vendor_katex.py"]
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    for command in (fetch, build):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not re.search(r"(?m)^(WARNING|ERROR)", done.stderr), done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    """Every page of the site by its path."""
    return {
        file.relative_to(site).as_posix(): Page(file.read_text()) for file in site.rglob("*.html")
    }


def test_every_local_link_anchor_and_image_resolves(site, pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or path == "404.html":
                continue
            base = site / path
            file = (
                (base.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else base
            )
            file = file / "index.html" if file.is_dir() else file
            name = file.relative_to(site.resolve()).as_posix() if parts.path else path
            if not file.is_file():
                broken.append((path, link, "no such file"))
            elif parts.fragment and parts.fragment not in pages[name].ids:
                broken.append((path, link, "no such anchor"))
    assert not broken


def test_nothing_is_loaded_from_another_host(site, pages):
    foreign = [
        (path, url) for path, page in pages.items() for url in page.loaded if HOSTED.match(url)
    ]
    for sheet in site.rglob("*.css"):
        for found in STYLE_URL.finditer(sheet.read_text()):
            url = found[1] or found[2]
            if HOSTED.match(url):
                foreign.append((sheet.name, url))
    for drawing in site.rglob("*.svg"):
        for url in re.findall(r"(?:href|src)=\"([^\"]+)\"", drawing.read_text()):
            if HOSTED.match(url):
                foreign.append((drawing.name, url))
    assert not foreign


def test_every_image_has_alternative_text(pages):
    assert not {path: page.unlabelled for path, page in pages.items() if page.unlabelled}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line per request."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    """The site on a local port."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium under Playwright, or a skip that says what is missing."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no browser check: Playwright (extra 'docs') is not installed")
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no browser check: there is no chromium on the path")
    from playwright.sync_api import sync_playwright

    arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium):
    """A fresh page, wide, in light colours."""
    context = chromium.new_context(color_scheme="light", viewport={"width": 1440, "height": 900})
    yield context.new_page()
    context.close()


def spare_search(tab, site):
    """Give `tab` an index of one entry: else each page indexes the whole site in the background."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    index["docs"] = index["docs"][:1]
    tab.route("**/search_index.json", lambda route: route.fulfill(json=index))


@pytest.mark.browser
def test_all_pages_are_silent_typeset_and_fit(tab, address, pages, site):
    """No console message, no foreign request, no KaTeX error, no sideways scrolling anywhere."""
    messages, requests, faults = [], [], []
    spare_search(tab, site)
    tab.on("console", lambda message: messages.append((tab.url, message.text)))
    tab.on("pageerror", lambda error: messages.append((tab.url, str(error))))
    tab.on("request", lambda request: requests.append(request.url))
    for path in sorted(pages):
        if path == "404.html":
            continue
        tab.goto(address + path.removesuffix("index.html"), wait_until="load")
        maths = tab.evaluate(
            """() => ['.katex-error', '.arithmatex', '.arithmatex > [class^=katex]'].map(
                 selector => document.querySelectorAll(selector).length)"""
        )
        if maths[0] or maths[1] != maths[2]:
            faults.append((path, "KaTeX errors, formulas, typeset", maths))
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            needed = tab.evaluate("() => document.documentElement.scrollWidth")
            if needed > width:
                faults.append((path, f"needs {needed} px of {width}"))
    assert not messages
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert not faults


@pytest.mark.browser
def test_steps_stand_side_by_side_only_where_there_is_room(tab, address):
    def tops(width):
        tab.set_viewport_size({"width": width, "height": 900})
        return tab.evaluate(
            """() => { const step = document.querySelector('.step');
                       return [...step.children].map(
                         part => [part.offsetLeft, part.offsetTop]); }"""
        )

    tab.goto(address + "score/denoising/")
    (left, top), (check_left, check_top) = tops(1440)
    assert check_left > left + 300
    assert abs(check_top - top) < 60
    (left, top), (check_left, check_top) = tops(360)
    assert check_top > top + 100
    assert check_left - left < 30


@pytest.mark.browser
def test_search_finds_a_function(tab, address):
    tab.goto(address)
    tab.keyboard.press("/")
    tab.keyboard.type("denoising_sm", delay=10)
    hit = tab.locator(".md-search-result__link[href*='probjax.score.denoising.denoising_sm']")
    hit.first.wait_for(state="attached", timeout=10_000)


@pytest.mark.browser
def test_copy_button_leaves_out_prompts_and_outputs(tab, address):
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.goto(address + "score/denoising/")
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


@pytest.mark.browser
@pytest.mark.parametrize(("system", "scheme"), [("light", "default"), ("dark", "slate")])
def test_colours_follow_the_system(chromium, address, system, scheme):
    context = chromium.new_context(color_scheme=system)
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector(f"body[data-md-color-scheme={scheme}]", timeout=5_000)
    ground, ink = tab.evaluate(
        """() => [document.body, document.querySelector('article p')].map((element, i) =>
             getComputedStyle(element)[i ? 'color' : 'backgroundColor'].match(/[0-9.]+/g)
               .slice(0, 3).reduce((sum, part) => sum + Number(part), 0))"""
    )
    assert (ground < ink) == (system == "dark")
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("system", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium, address, site, system):
    script = ROOT / "docs" / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("no accessibility check: run `npm ci` in docs/ to install axe-core")
    context = chromium.new_context(color_scheme=system, viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    spare_search(tab, site)
    # Formulas are typeset text on the page's own ground: thousands of spans with one colour.
    options = "{exclude: [['.katex']]}, {resultTypes: ['violations']%s}"
    options %= "" if system == "light" else ", runOnly: ['color-contrast']"
    found = []
    for path in FLAGSHIPS if system == "light" else FLAGSHIPS[:2]:
        tab.goto(address + path)
        tab.add_script_tag(path=str(script))
        for fault in tab.evaluate(f"() => axe.run({options})")["violations"]:
            if fault["impact"] in ("serious", "critical"):
                nodes = sorted({node["html"][:120] for node in fault["nodes"]})
                found.append((path, fault["id"], len(fault["nodes"]), nodes[:12]))
    context.close()
    assert not found
