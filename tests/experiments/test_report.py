"""Reports are one file, safe for any text, exact for any pixel."""

import base64
import io
import re

import matplotlib.image
import numpy as np

from probjax.experiments import report


def test_text_is_escaped_everywhere():
    evil = "<script>alert('x')</script>"
    html = report.page(
        evil,
        [report.section(evil, report.text(evil), report.table([evil], [[evil]])),
         report.pixels(np.zeros((1, 2, 2)), evil)],
    )  # fmt: skip
    assert "<script" not in html and html.count("&lt;script&gt;") >= 6


def test_pixels_are_exact():
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 8)) / 16
    html = report.pixels(images, "five", columns=3)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1))
    sheet = matplotlib.image.imread(io.BytesIO(data), format="png")[..., 0]
    assert sheet.shape == (2 * 9 + 1, 3 * 9 + 1)
    np.testing.assert_allclose(sheet[10:18, 1:9], images[3], atol=1 / 255)
    np.testing.assert_allclose(sheet[1:9, 10:18], images[1], atol=1 / 255)


def test_a_page_asks_nobody_for_anything():
    html = report.page("x", [report.text("y")])
    assert not re.search(r"(src|href)=", html)
    assert html.startswith("<!doctype html>") and 'lang="en"' in html


def test_marked_rows():
    html = report.table(["a", "b"], [[1, 2], [3, 4]], marked=[1])
    assert "<tr><td>1</td><td>2</td></tr>" in html
    assert "<tr class=mark><td>3</td><td>4</td></tr>" in html


def test_a_run_is_told_with_its_configuration_and_digests():
    environment = dict.fromkeys(("probjax", "jax", "python", "devices", "backend", "device"), "x<y")
    found = {"config": {"a": "<b>"}, "environment": environment, "sha256": {"fits": "0123" * 16}}
    html = report.provenance(found, "fits", remark="More elsewhere.")
    assert "&lt;b&gt;" in html and "x&lt;y" in html
    assert "SHA-256: fits 0123012301230123. More elsewhere.</p>" in html


def test_a_verdict_without_reasons_has_no_list():
    gate = {"verdict": "pass", "reasons": []}
    assert report.verdict(gate, {"pass": "Good."}, "So far.") == "<p>Good. So far.</p>"
