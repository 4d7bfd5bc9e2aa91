"""Self-contained HTML reports: text, tables and figures in one file that opens from disk.

>>> from probjax.experiments import report
>>> text = report.page("A run", [report.section("Result", report.table(["a"], [["1"]]))])
>>> "<td>1</td>" in text and "http" not in text
True
"""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MEANING = {
    "pass": "The numbers are as they should be.",
    "review": "Something is not as it should be; read the reasons before using the numbers.",
    "fail": "Do not use these numbers.",
}
"""What a verdict tells the reader."""

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2126; --soft: #5b6570; --line: #d5dae0; --paper: #fff; --mark: #eef4fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #353c44; --paper: #15191d; --mark: #1d2834; }
  figure.drawing img { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem;
  background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 48rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; font-size: .92rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
tr.mark td { background: var(--mark); }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .92rem; margin-top: .3rem; }
figure img { width: 100%; display: block; } figure.pixels img { image-rendering: pixelated; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); font-size: .85rem; }
"""


def page(title: str, blocks: Iterable[str]) -> str:
    """Put blocks of HTML into one page with its own style.

    Args:
        title: the page's title.
        blocks: HTML, in order.

    Returns:
        A whole document.

    Example:
        >>> page("x", []).startswith("<!doctype html>")
        True
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{chr(10).join(blocks)}\n</body></html>\n"
    )


def section(title: str, *blocks: str) -> str:
    r"""Give blocks a heading.

    Args:
        title: the heading.
        blocks: HTML.

    Returns:
        HTML.

    Example:
        >>> section("Cost", "<p>little</p>")
        '<h2>Cost</h2>\n<p>little</p>'
    """
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *blocks])


def text(words: str, *, soft: bool = False) -> str:
    """Make a paragraph.

    Args:
        words: plain text.
        soft: in a quieter colour.

    Returns:
        HTML.

    Example:
        >>> text("a < b")
        '<p>a &lt; b</p>'
    """
    return f"<p{' class=soft' if soft else ''}>{html.escape(words)}</p>"


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, marked: Iterable[int] = ()
) -> str:
    """Make a table that scrolls by itself where it is too wide.

    Args:
        header: names of the columns.
        rows: cells, as they are to be shown.
        marked: numbers of the rows that are set off.

    Returns:
        HTML.

    Example:
        >>> "<tr class=mark><td>2</td></tr>" in table(["n"], [["1"], ["2"]], marked=[1])
        True
    """
    marked = set(marked)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join(
        f"<tr{' class=mark' if i in marked else ''}>"
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    head = f"<thead><tr>{head}</tr></thead>"
    return f"<div class=wide><table>{head}<tbody>\n{body}\n</tbody></table></div>"


def verdict(gate: Mapping[str, Any], meaning: Mapping[str, str] = MEANING, more: str = "") -> str:
    """Say what a gate's verdict means, and its reasons.

    Args:
        gate: its `verdict` and `reasons`.
        meaning: a sentence for each verdict.
        more: what is said after that sentence.

    Returns:
        HTML.

    Example:
        >>> print(verdict({"verdict": "fail", "reasons": ["too few"]}))
        <p>Do not use these numbers.</p>
        <ul><li><p>too few</p></li></ul>
    """
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in gate["reasons"])
    said = text(f"{meaning[gate['verdict']]} {more}".strip())
    return f"{said}\n<ul>{reasons}</ul>" if reasons else said


def provenance(found: Mapping[str, Any], *digests: str, remark: str = "") -> str:
    """Tell the configuration, the versions and the digests of a run.

    Args:
        found: what `metrics.json` holds: `config`, `environment` and `sha256`.
        digests: which of `sha256` to tell.
        remark: what is said after them.

    Returns:
        HTML.
    """
    environment = found["environment"]
    told = ", ".join(f"{name} {found['sha256'][name][:16]}" for name in digests)
    return section(
        "Exact configuration",
        f"<pre>{html.escape(json.dumps(found['config'], indent=2))}</pre>",
        text(
            f"probjax {environment['probjax']}, JAX {environment['jax']}, Python "
            f"{environment['python']}, {environment['devices']} {environment['backend']} "
            f"device(s), {environment['device']}. SHA-256: {told}. {remark}".strip(),
            soft=True,
        ),
    )


def pyplot() -> Any:
    """Import Matplotlib's `pyplot` so that it needs no display.

    Returns:
        The module.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def drawing(figure: Any, caption: str) -> str:
    """Embed a Matplotlib figure as SVG, and close it.

    Args:
        figure: the figure.
        caption: what it shows; also its alternative text.

    Returns:
        HTML.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    pyplot().close(figure)
    return _figure("drawing", "image/svg+xml", buffer.getvalue(), caption)


def pixels(images: np.ndarray, caption: str, *, columns: int = 10) -> str:
    """Embed grey images as one grid of exact pixels.

    Args:
        images: `(n, height, width)` with values in [0, 1].
        caption: what they are.
        columns: images in a row.

    Returns:
        HTML.

    Example:
        >>> import numpy as np
        >>> "data:image/png;base64," in pixels(np.zeros((3, 8, 8)), "nothing", columns=2)
        True
    """
    import matplotlib.image

    buffer = io.BytesIO()
    matplotlib.image.imsave(
        buffer, grid(images, columns), cmap="gray", vmin=0, vmax=1, format="png"
    )
    return _figure("pixels", "image/png", buffer.getvalue(), caption)


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Lay images out in rows with a border of one grey pixel.

    Args:
        images: `(n, height, width)`.
        columns: images in a row.

    Returns:
        One image.

    Example:
        >>> import numpy as np
        >>> grid(np.ones((3, 8, 8)), 2).shape
        (19, 19)
    """
    number, height, width = images.shape
    rows = -(-number // columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), 0.25)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    return sheet


def _figure(kind: str, mime: str, content: bytes, caption: str) -> str:
    data = base64.b64encode(content).decode()
    words = html.escape(caption)
    return (
        f'<figure class={kind}><img alt="{words}" src="data:{mime};base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )
