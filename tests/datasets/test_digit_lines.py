"""Lines of digits: what is held out, and every pixel where it is said to be."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from probjax import datasets
from probjax.datasets import digit_lines
from probjax.datasets.digit_lines import LineLayout
from probjax.metrics.edit_distance import edit_distance

EDITS = jax.jit(edit_distance)
GLYPHS = digit_lines.load_glyphs(split="train")
FORM = "0123456789" * 3 + (
    "0955650989841773510022782012633733466649150952820017632174631391768431405369617544728225795"
    "488490898"
)


def form_costs(digits, borders):
    """Edits that turn each stretch between borders into the form's list, all stretches at once."""
    spans = list(itertools.pairwise([0, *borders, len(digits)]))
    padded = np.zeros((len(spans), 140), np.int32)
    for row, (start, stop) in zip(padded, spans, strict=True):
        row[: stop - start] = digits[start:stop]
    lists = np.tile(np.array(list(map(int, FORM)), np.int32), (len(spans), 1))
    lengths = jnp.array([stop - start for start, stop in spans])
    return np.asarray(EDITS(jnp.asarray(padded), jnp.asarray(lists), lengths))


def test_every_form_asks_for_the_same_digits():
    """Few entries are missing or different, and moving any border would fit worse."""
    digits, borders = load_digits().target, np.array(digit_lines.FORM_STARTS[1:])
    costs = form_costs(digits, borders)
    assert len(FORM) == 130 and len(costs) == 14 and costs.max() <= 13
    for i in range(len(borders)):
        for shift in (-2, -1, 1, 2):
            moved = borders + shift * (np.arange(len(borders)) == i)
            assert form_costs(digits, moved).sum() > costs.sum(), (i, shift)


@pytest.mark.parametrize("by", ["form", "image"])
def test_no_image_is_on_both_sides(by):
    sides = [digit_lines.load_glyphs(split=split, by=by) for split in ("train", "test")]
    rows = [{row.tobytes() for row in np.asarray(side.images)} for side in sides]
    assert not rows[0] & rows[1] and len(rows[0] | rows[1]) == 1797
    assert [len(side.labels) for side in sides] == {"form": [1287, 510], "image": [1297, 500]}[by]


def test_held_out_forms_are_the_last_four():
    test = digit_lines.load_glyphs(split="test")
    source = load_digits()
    np.testing.assert_array_equal(test.images[..., 0], source.images[1287:] / 16)
    np.testing.assert_array_equal(test.labels, source.target[1287:])
    by_image = digit_lines.load_glyphs(split="test", by="image")
    np.testing.assert_array_equal(by_image.labels, datasets.load_digits(split="test").labels)


def make(layout, num_lines=300, seed=0):
    key = jax.random.key(seed)
    lines = jax.jit(lambda: digit_lines.compose_lines(key, GLYPHS, num_lines, layout=layout))()
    return jax.tree.map(np.asarray, lines)


@pytest.fixture(scope="module")
def noisy():
    return make(LineLayout())


@pytest.fixture(scope="module")
def clean():
    return make(LineLayout(noise_scale=0.0))


def test_lengths_gaps_and_margins_have_their_laws(noisy):
    counts = np.bincount(noisy.label_lengths, minlength=10)
    assert counts[:4].sum() == 0 and counts.sum() == 300
    assert np.abs(counts[4:] - 50).max() < 5 * np.sqrt(300 / 6 * 5 / 6)
    live = np.arange(9) < noisy.label_lengths[:, None]
    for part in (noisy.labels, noisy.starts, noisy.ends):
        assert ((part >= 0) == live).all() and (part[~live] == -1).all()
    assert noisy.labels.max() == 9 and noisy.ends.max() <= 100
    assert (noisy.ends - noisy.starts)[live].tolist() == [8] * live.sum()
    gaps = (noisy.starts[:, 1:] - noisy.ends[:, :-1])[live[:, 1:]]
    share = np.bincount(gaps + 1, minlength=5) / len(gaps)
    assert len(share) == 5 and np.abs(share - 0.2).max() < 5 * np.sqrt(0.16 / len(gaps))
    free = 100 - (noisy.ends.max(axis=1) - noisy.starts[:, 0])
    place = (noisy.starts[:, 0] + 0.5) / (free + 1)  # uniform on (0, 1), whatever is free
    assert abs(place.mean() - 0.5) < 5 / np.sqrt(12 * 300)


def check_pixels(lines, count=40):
    """Each cell holds a digit of its label, dropped by 0 to 2; the rest of the line is empty."""
    seen = set()
    stock = {}
    for image, label in zip(
        np.asarray(GLYPHS.images)[..., 0], np.asarray(GLYPHS.labels), strict=True
    ):
        for drop in range(3):
            padded = np.zeros((10, 8), np.float32)
            padded[drop : drop + 8] = image
            stock.setdefault(int(label), []).append(padded)
    for i in range(count):
        n, image = lines.label_lengths[i], lines.images[i]
        owners = np.zeros(100, int)
        for k in range(n):
            owners[lines.starts[i, k] : lines.ends[i, k]] += 1
        assert (image[:, owners == 0] == 0).all()
        for k in range(n):
            columns = np.arange(lines.starts[i, k], lines.ends[i, k])
            alone = owners[columns] == 1
            cell = image[:, columns]
            shapes = np.stack(stock[int(lines.labels[i, k])])
            found = (shapes[:, :, alone] == cell[:, alone]).all((1, 2))
            found &= (shapes <= cell).all((1, 2))  # the darker ink stays
            assert found.any(), (i, k)
            seen.add(int(np.flatnonzero(found)[0] % 3))
    assert seen == {0, 1, 2}


def test_every_pixel_is_where_it_is_said_to_be(clean):
    check_pixels(clean)


@pytest.mark.slow
def test_the_check_kills_labels_cells_and_ink_that_are_off(clean):
    live = clean.labels >= 0
    mutants = (
        clean._replace(starts=clean.starts + live, ends=clean.ends + live),
        clean._replace(labels=np.where(live, (clean.labels + 1) % 10, -1)),
        clean._replace(images=clean.images[:, :, ::-1]),
        clean._replace(images=np.minimum(clean.images, 0.9)),
    )
    for mutant in mutants:
        with pytest.raises(AssertionError):
            check_pixels(mutant)


def test_noise_is_normal_and_the_only_difference(noisy, clean):
    np.testing.assert_array_equal(noisy.labels, clean.labels)
    noise = (noisy.images - clean.images).ravel() / 0.05
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert clean.images.min() >= 0.0 and clean.images.max() == 1.0


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (LineLayout(width=95), "layout.width must be at least 96, got 95"),
        (LineLayout(height=7), "layout.height must be at least 8, got 7"),
        (LineLayout(min_digits=0), "layout.min_digits must be at least 1, got 0"),
        (LineLayout(max_digits=3), "layout.max_digits must be at least 4, got 3"),
        (LineLayout(min_gap=-8), "layout.min_gap must be at least -7, got -8"),
        (LineLayout(max_gap=-2), "layout.max_gap must be at least -1, got -2"),
    ],
)
def test_layouts_that_cannot_be_are_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        digit_lines.compose_line(jax.random.key(0), GLYPHS, layout=layout)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="by must be one of 'form', 'image', got 'writer'"):
        digit_lines.load_glyphs(by="writer")
    flat = GLYPHS._replace(images=jnp.zeros((3, 8, 7, 1)))
    with pytest.raises(ValueError, match=r"glyphs.images must have shape .* got \(3, 8, 7, 1\)"):
        digit_lines.compose_line(jax.random.key(0), flat)
