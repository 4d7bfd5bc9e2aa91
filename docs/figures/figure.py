"""How every figure of the site is drawn: dark ink on nothing, the same file at each run.

The dark scheme of the site turns the lightness of a figure and keeps its hues, so figures are
drawn once, in dark ink, without a background. Text becomes outlines: no font is needed to view it.
"""

import base64
import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

ASSETS = Path(__file__).resolve().parents[1] / "assets"
INK = "#24292f"
BLUE, ORANGE, GREEN, RED = "#1f6fb4", "#c8590a", "#2b8a4b", "#b3304a"

plt.rcParams.update(
    {
        "axes.edgecolor": INK,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED]),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "grid.alpha": 0.25,
        "grid.color": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "savefig.transparent": True,
        "svg.fonttype": "path",
        "svg.hashsalt": "probjax",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def light(text: str) -> str:
    """Make a drawing lighter to load, without a difference that can be seen.

    Places are written to the hundredth of a point, the arrows of a field are one path, and pictures
    within the drawing get sixteen steps of transparency and a palette.
    """

    def hundredths(found: re.Match) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", found[0])

    def joined(found: re.Match) -> str:
        paths = re.findall(r'd="([^"]*)" (clip-path="[^"]*" style="[^"]*")/>', found[2])
        styles = {style for _, style in paths}
        if len(styles) != 1:
            return found[0]
        # A path that ends where it began is closed.
        outline = " ".join(
            re.sub(r"(?s)^M (\S+ \S+)\s(.*)L \1\s*$", r"M \1 \2z", d) for d, _ in paths
        )
        return f'{found[1]}\n    <path d="{outline}" {styles.pop()}/>'

    def repack(found: re.Match) -> str:
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(found[2]))).convert("RGBA"))
        pixels[..., 3] = np.round(pixels[..., 3] / 17) * 17
        pixels[pixels[..., 3] == 0] = 0
        colours, places = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
        if len(colours) > 256:
            return found[0]
        picture = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8), "P")
        picture.putpalette(colours[:, :3].tobytes())
        packed = io.BytesIO()
        picture.save(packed, "PNG", optimize=True, transparency=colours[:, 3].tobytes())
        return found[1] + base64.b64encode(packed.getvalue()).decode()

    text = re.sub(r'\s(?:d|x|y)="[^"]*"', hundredths, text)
    text = re.sub(r'(<g id="Quiver_\d+">)((?:\s*<path d="[^"]*"[^>]*/>){2,})', joined, text)
    return re.sub(r"(data:image/png;base64,\s*)([A-Za-z0-9+/=\s]+)", repack, text)


def save(drawing: Figure, name: str) -> None:
    """Write `drawing` as `docs/assets/<name>.svg`, without a date, and close it."""
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    path = ASSETS / f"{name}.svg"
    drawing.savefig(path, metadata=metadata)
    plt.close(drawing)
    text = light(path.read_text()).splitlines()
    path.write_text("\n".join(line.rstrip() for line in text) + "\n")
    print(f"{path.relative_to(ASSETS.parents[1])}: {path.stat().st_size / 1024:.0f} KiB")
