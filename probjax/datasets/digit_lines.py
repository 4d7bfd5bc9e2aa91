r"""Lines of handwritten digits, composed from single images, with every digit's place known.

>>> import jax
>>> from probjax.datasets import digit_lines
>>> glyphs = digit_lines.load_glyphs(split="train")
>>> lines = jax.jit(lambda: digit_lines.compose_lines(jax.random.key(0), glyphs, 32))()
>>> lines.images.shape, lines.labels.shape
((32, 10, 100), (32, 9))
>>> bool(((4 <= lines.label_lengths) & (lines.label_lengths <= 9)).all())
True
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probjax.core import checks, keys
from probjax.datasets.digits import load_digits
from probjax.datasets.images import Images

FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""Where the forms begin in scikit-learn's order: every one of them asks for 0 to 9 three times and
for the same hundred digits then."""

NUM_TRAIN_FORMS = 10
"""Forms that `load_glyphs` trains on; the other four are held out."""


class LineLayout(NamedTuple):
    """How digits are set on a line; pixels."""

    min_digits: int = 4
    """Fewest digits."""
    max_digits: int = 9
    """Most digits."""
    min_gap: int = -1
    """Narrowest gap between the cells of two digits; negative gaps overlap."""
    max_gap: int = 3
    """Widest gap."""
    height: int = 10
    """Height of the line; each digit stands anywhere within it."""
    width: int = 100
    """Width of the line; the text begins anywhere where it fits."""
    noise_scale: float = 0.05
    """Standard deviation of the normal noise on every pixel."""


class DigitLines(NamedTuple):
    """Lines of digits, or one without `*batch`."""

    images: Float[Array, "*batch height width"]
    """Ink in [0, 1] plus noise, not clipped."""
    labels: Int[Array, "*batch max_digits"]
    """Digits 0 to 9 from left to right, then -1; int32."""
    label_lengths: Int[Array, "*batch"]
    """How many digits; int32."""
    starts: Int[Array, "*batch max_digits"]
    """First column of each digit's cell, then -1."""
    ends: Int[Array, "*batch max_digits"]
    """One past its last column, then -1."""


def load_glyphs(*, split: str = "train", by: str = "form") -> Images:
    """Load the single digits that lines are composed from; nothing is downloaded.

    The data are fourteen filled-in forms, one after the other: each asks for the same digits in the
    same order, which the labels show. `by="form"` holds out whole forms. Who filled in which form
    is not recorded: the data's description counts 13 writers, so one of them must have filled in
    two, and nothing says that both are on the same side.

    Args:
        split: `"train"` or `"test"`.
        by: `"form"`, forms 1 to 10 (1287 images) against forms 11 to 14 (510); or `"image"`, the
            random split of `load_digits` (1297 and 500), in which every form is on both sides.

    Returns:
        Images `(n, 8, 8, 1)`, labels 0 to 9.

    Raises:
        ValueError: a name is unknown.

    References:
        Alpaydin and Kaynak (1998), Cascading classifiers.

    Example:
        >>> load_glyphs(split="test").images.shape
        (510, 8, 8, 1)
    """
    from sklearn.datasets import load_digits as load

    checks.one_of("split", split, ("train", "test"))
    checks.one_of("by", by, ("form", "image"))
    if by == "image":
        return load_digits(split=split)
    source, border = load(), FORM_STARTS[NUM_TRAIN_FORMS]
    rows = slice(None, border) if split == "train" else slice(border, None)
    return Images(
        jnp.asarray(source.images[rows][..., None] / 16, jnp.float32),
        jnp.asarray(source.target[rows], jnp.int32),
        17,
    )


def compose_line(
    key: keys.PRNGKey, glyphs: Images, *, layout: LineLayout | None = None
) -> DigitLines:
    r"""Compose one line from random digits.

    With cells of 8 by 8 pixels $G_k$, of which $n\sim U\{min\_digits,\dots,max\_digits\}$ are
    drawn with replacement, each starting $8+gap$ columns after the one before,

    $$\text{image}_{rc}=\max_{k<n}G_k[r-d_k,\,c-s_k]+noise\_scale\cdot\varepsilon_{rc},\qquad
      s_{k+1}=s_k+8+g_k$$

    where $g_k$, the drop $d_k$ and the margin $s_0$ are uniform integers. Where cells overlap the
    darker ink stays.

    Args:
        key: of this line; a line is a function of its key and the glyphs.
        glyphs: images `(N, 8, 8, 1)` and their labels.
        layout: how they are set; `LineLayout()` when `None`.

    Returns:
        The line, `max_digits` places for labels.

    Raises:
        ValueError: the glyphs have another size, or the longest line does not fit.

    Example:
        >>> line = jax.jit(lambda: compose_line(jax.random.key(1), load_glyphs()))()
        >>> n = int(line.label_lengths)
        >>> bool((line.ends[:n] - line.starts[:n] == 8).all()), line.labels[n:].tolist()[:1]
        (True, [-1])
    """
    layout = LineLayout() if layout is None else layout
    side = _check(glyphs, layout)
    # Six purposes, one key for each.
    count_key, pick_key, gap_key, drop_key, margin_key, noise_key = jax.random.split(
        keys.stream(key, "data"), 6
    )
    most = layout.max_digits
    count = jax.random.randint(count_key, (), layout.min_digits, most + 1, jnp.int32)
    live = jnp.arange(most, dtype=jnp.int32) < count
    picks = jax.random.randint(pick_key, (most,), 0, glyphs.labels.shape[0], jnp.int32)
    gaps = jax.random.randint(gap_key, (most - 1,), layout.min_gap, layout.max_gap + 1, jnp.int32)
    drops = jax.random.randint(drop_key, (most,), 0, layout.height - side + 1, jnp.int32)
    offsets = jnp.cumsum(jnp.concatenate([jnp.zeros_like(count)[None], side + gaps]))
    free = layout.width - side - offsets[count - 1]
    starts = offsets + jax.random.randint(margin_key, (), 0, free + 1, jnp.int32)

    cells = jnp.where(live[:, None, None], glyphs.images[picks, :, :, 0], 0.0)
    # Rows and columns are put in their places by products with zeros and ones, which are exact.
    down = _places(drops, side, layout.height, cells.dtype)
    along = _places(starts, side, layout.width, cells.dtype)
    ink = jnp.einsum("khi,kij,kwj->khw", down, cells, along, precision=jax.lax.Precision.HIGHEST)
    image = jnp.max(ink, axis=0)
    noise = jax.random.normal(noise_key, image.shape, image.dtype)
    return DigitLines(
        image + layout.noise_scale * noise,
        jnp.where(live, glyphs.labels[picks].astype(jnp.int32), -1),
        count,
        jnp.where(live, starts, -1),
        jnp.where(live, starts + side, -1),
    )


def compose_lines(
    key: keys.PRNGKey,
    glyphs: Images,
    num_lines: int,
    *,
    start: int = 0,
    layout: LineLayout | None = None,
) -> DigitLines:
    """Compose lines `start`, ..., `start + num_lines - 1` of one endless text.

    Line `i` is `compose_line` with `item_key(key, i)`: it does not depend on how many lines are
    asked for.

    Args:
        key: of the text.
        glyphs: images `(N, 8, 8, 1)` and their labels.
        num_lines: how many lines.
        start: number of the first.
        layout: as for `compose_line`.

    Returns:
        Lines, with a leading axis.

    Raises:
        ValueError: as for `compose_line`.

    Example:
        >>> glyphs = load_glyphs(split="test")
        >>> @jax.jit
        ... def text():
        ...     key = jax.random.key(0)
        ...     return compose_lines(key, glyphs, 5), compose_lines(key, glyphs, 2, start=3)
        >>> with jax.debug_key_reuse(False):  # one key, twice the same lines
        ...     five, two = text()
        >>> bool((five.labels[3:] == two.labels).all())
        True
    """
    checks.at_least("num_lines", num_lines, 1)
    line_keys = keys.item_keys(key, num_lines, start=start)
    return jax.vmap(lambda one: compose_line(one, glyphs, layout=layout))(line_keys)


def _places(firsts: Array, side: int, size: int, dtype: jnp.dtype) -> Array:
    """For each digit the zeros and ones `(size, side)` that set its pixels down at `firsts`."""
    offset = jnp.arange(size, dtype=jnp.int32)[None, :, None] - firsts[:, None, None]
    return (offset == jnp.arange(side, dtype=jnp.int32)[None, None]).astype(dtype)


def _check(glyphs: Images, layout: LineLayout) -> int:
    """The side of a glyph, if the longest line of them fits."""
    shape = glyphs.images.shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 1:
        raise ValueError(f"glyphs.images must have shape (N, side, side, 1), got {shape}")
    checks.at_least("layout.min_digits", layout.min_digits, 1)
    checks.at_least("layout.max_digits", layout.max_digits, layout.min_digits)
    checks.at_least("layout.max_gap", layout.max_gap, layout.min_gap)
    checks.at_least("layout.min_gap", layout.min_gap, 1 - shape[1])
    checks.at_least("layout.height", layout.height, shape[1])
    longest = layout.max_digits * (shape[1] + layout.max_gap) - layout.max_gap
    checks.at_least("layout.width", layout.width, longest)
    return shape[1]
