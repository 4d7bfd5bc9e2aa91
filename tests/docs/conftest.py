"""The built site, a server for it, and a browser."""

import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site, built once with `--strict`."""
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    target = tmp_path_factory.mktemp("site")
    fetch = [sys.executable, "docs/vendor.py"]
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    for command in (fetch, build):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not re.search(r"(?m)^(WARNING|ERROR)", done.stderr), done.stderr
    return target


@pytest.fixture(scope="session")
def pages(site) -> dict[str, Page]:
    """Every page of the site by its path."""
    return {
        file.relative_to(site).as_posix(): Page(file.read_text()) for file in site.rglob("*.html")
    }


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line per request."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    """The site on a local port."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
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
def open_tab(chromium, site):
    """Open fresh pages: `open_tab(color_scheme="dark")`.

    Their index of the search has one entry, else each page indexes the whole site in the
    background; `search=True` leaves it whole.
    """
    contexts = []

    def one(*, search=False, **options):
        options = {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}} | options
        contexts.append(chromium.new_context(**options))
        tab = contexts[-1].new_page()
        if not search:
            index = json.loads((site / "search" / "search_index.json").read_text())
            index["docs"] = index["docs"][:1]
            tab.route("**/search_index.json", lambda route: route.fulfill(json=index))
        return tab

    yield one
    for context in contexts:
        context.close()
