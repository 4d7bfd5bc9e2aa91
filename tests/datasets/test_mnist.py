import gzip
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from probjax import datasets
from probjax.datasets import mnist, sources

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_files = pytest.mark.skipif(
    not (SHARED / "mnist" / "t10k-images-idx3-ubyte.gz").is_file(),
    reason="the MNIST test files are not in ../shared/data/mnist",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No test reaches the network or the real cache."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(sources.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(sources.VARIABLE, raising=False)


def small(monkeypatch, labels=bytes([3, 1, 4])):
    """Publish a test split of three 2x2 images in place of the real one."""
    pixels = bytes(range(12))
    images = np.array([2051, 3, 2, 2], ">i4").tobytes() + pixels
    marks = np.array([2049, 3], ">i4").tobytes() + labels
    files = (
        mnist.IdxFile("t10k-images-idx3-ubyte", 2051, (3, 2, 2), sources.sha256(images)),
        mnist.IdxFile("t10k-labels-idx1-ubyte", 2049, (3,), sources.sha256(marks)),
    )
    monkeypatch.setitem(mnist.FILES, "test", files)
    return {f"{files[0].name}.gz": images, f"{files[1].name}.gz": marks}


@needs_files
def test_the_real_test_split(monkeypatch):
    monkeypatch.setenv(sources.VARIABLE, str(SHARED))
    test = datasets.load_mnist(split="test")
    assert test.images.shape == (10_000, 28, 28, 1) and test.levels == 256
    assert float(test.images.min()) == 0 and float(test.images.max()) == 1
    assert np.bincount(test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_offline_is_one_line_that_says_what_to_do():
    with pytest.raises(datasets.DatasetError) as error:
        datasets.load_mnist()
    message = str(error.value)
    assert "\n" not in message
    for part in ("train-images-idx3-ubyte.gz", "PROBJAX_DATA", "no route to host", "folder"):
        assert part in message


def test_a_folder_is_taken_at_its_word(tmp_path):
    with pytest.raises(
        datasets.DatasetError, match=f"train-images-idx3-ubyte.gz is not in {tmp_path}"
    ):
        datasets.load_mnist(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_values_from_a_folder_packed_or_not(monkeypatch, tmp_path, packed):
    for name, content in small(monkeypatch).items():
        path = tmp_path / (name if packed else name.removesuffix(".gz"))
        path.write_bytes(gzip.compress(content) if packed else content)
    test = datasets.load_mnist(tmp_path, split="test")
    np.testing.assert_allclose(test.images.ravel() * 255, np.arange(12), rtol=1e-6)
    assert test.labels.tolist() == [3, 1, 4]


def test_download_is_checked_kept_and_used_again(monkeypatch, tmp_path):
    published, asked = small(monkeypatch), []

    def serve(url, *, timeout=30.0):
        asked.append(url)
        return gzip.compress(published[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(sources, "fetch", serve)
    first = datasets.load_mnist(split="test")
    again = datasets.load_mnist(split="test")
    assert asked == [mnist.BASE_URL + name for name in published]
    assert (first.images == again.images).all()
    kept = sorted(path.name for path in (tmp_path / "cache" / "probjax" / "mnist").iterdir())
    assert kept == sorted(published)


def test_a_wrong_download_leaves_nothing_behind(monkeypatch, tmp_path):
    published = small(monkeypatch)
    wrong = {name: content[:-1] + b"\x09" for name, content in published.items()}
    monkeypatch.setattr(
        sources, "fetch", lambda url, *, timeout=30.0: gzip.compress(wrong[url.rsplit("/", 1)[1]])
    )
    with pytest.raises(datasets.DatasetError, match="SHA-256"):
        datasets.load_mnist(split="test")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: gzip.compress(c)[:-4], "not a complete gzip file"),
        (lambda c: b"<html>not found</html>", "not a complete gzip file"),
        (lambda c: gzip.compress(c[:-1]), "bytes, expected"),
        (lambda c: gzip.compress(b"\x01" + c[1:]), "magic number"),
        (lambda c: gzip.compress(c[:7] + b"\x04" + c[8:]), "shape"),
        (lambda c: gzip.compress(c[:-1] + b"\x63"), "SHA-256"),
    ],
)
def test_corrupt_files_are_named(monkeypatch, tmp_path, damage, message):
    for name, content in small(monkeypatch).items():
        (tmp_path / name).write_bytes(damage(content))
    with pytest.raises(datasets.DatasetError, match=message) as error:
        datasets.load_mnist(tmp_path, split="test")
    assert str(tmp_path / "t10k-images-idx3-ubyte.gz") in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of 'train', 'test', got 'valid'"):
        datasets.load_mnist(split="valid")
