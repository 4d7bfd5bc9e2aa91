"""The built site, read as files: strict build, every local link, no foreign host."""

import re
import urllib.parse

import pytest

pytestmark = pytest.mark.slow

HOSTED = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
STYLE_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


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
            name = file.relative_to(site.resolve()).as_posix() if parts.path else path
            if not file.is_file():  # a folder is no page where the site is opened from disk
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
