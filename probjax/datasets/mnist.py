"""MNIST: 70,000 handwritten digits of 28x28 pixels.

The four files are read from the user's folder, from the folder named by `PROBJAX_DATA` or from the
cache; what is missing is downloaded once. Whatever the source, the content must have the published
SHA-256.

>>> sorted(FILES)
['test', 'train']
"""

import gzip
import os
import zlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from probjax.core import checks
from probjax.datasets import sources
from probjax.datasets.images import Images
from probjax.datasets.sources import DatasetError

BASE_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
"""Public mirror of the four files."""


class IdxFile(NamedTuple):
    """One published file in IDX format."""

    name: str
    """Name without `.gz`."""
    magic: int
    """First four bytes: unsigned bytes with 1 or 3 axes."""
    shape: tuple[int, ...]
    """Lengths of the axes."""
    sha256: str
    """SHA-256 of the uncompressed content (a mirror may compress anew)."""


FILES = {
    "train": (
        IdxFile(
            "train-images-idx3-ubyte",
            2051,
            (60000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            2049,
            (60000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "test": (
        IdxFile(
            "t10k-images-idx3-ubyte",
            2051,
            (10000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            2049,
            (10000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}
"""Images and labels of each split."""


def load_mnist(folder: str | os.PathLike[str] | None = None, *, split: str = "train") -> Images:
    """Load one split of MNIST.

    Args:
        folder: where the files are (in it or in its sub-folder `mnist`), compressed or not. With
            a folder nothing is downloaded. Without, `PROBJAX_DATA` and the cache are searched and
            missing files are downloaded into the cache.
        split: `"train"` (60,000) or `"test"` (10,000).

    Returns:
        Images `(n, 28, 28, 1)` in float32 with 256 levels, labels 0 to 9.

    Raises:
        ValueError: `split` has another name.
        DatasetError: a file is missing and cannot be downloaded, or is corrupt. The message is
            one line that names the file and the places where it may be put.

    References:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document
        recognition.

    Example:
        >>> load_mnist("/")
        Traceback (most recent call last):
        probjax.datasets.sources.DatasetError: MNIST file train-images-idx3-ubyte.gz is not in ...
    """
    checks.one_of("split", split, FILES)
    images, labels = (_load(file, folder) for file in FILES[split])
    return Images(
        jnp.asarray(images[..., None].astype(np.float32) / np.float32(255)),
        jnp.asarray(labels, jnp.int32),
        256,
    )


def parse_idx(content: bytes, file: IdxFile, *, source: str | None = None) -> np.ndarray:
    """Decode and check the uncompressed content of an IDX file.

    Args:
        content: the bytes: magic number and lengths as big-endian 32-bit integers, then data.
        file: what it should be.
        source: the name used in messages; `file.name` without it.

    Returns:
        Unsigned bytes of shape `file.shape`.

    Raises:
        DatasetError: magic number, lengths, size or checksum are wrong; the message says which.

    Example:
        >>> parse_idx(b"junk", FILES["test"][1])
        Traceback (most recent call last):
        probjax.datasets.sources.DatasetError: t10k-labels-idx1-ubyte is corrupt: 4 bytes, ...
    """
    name = source or file.name
    header = 4 * (1 + len(file.shape))
    size = header + int(np.prod(file.shape))
    if len(content) != size:
        raise DatasetError(f"{name} is corrupt: {len(content)} bytes, expected {size}")
    magic, *lengths = (int(n) for n in np.frombuffer(content[:header], ">i4"))
    if magic != file.magic:
        raise DatasetError(f"{name} is corrupt: magic number {magic}, expected {file.magic}")
    if tuple(lengths) != file.shape:
        raise DatasetError(f"{name} is corrupt: shape {tuple(lengths)}, expected {file.shape}")
    found = sources.sha256(content)
    if found != file.sha256:
        raise DatasetError(f"{name} is corrupt: SHA-256 {found}, expected {file.sha256}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(file.shape)


def _load(file: IdxFile, folder: str | os.PathLike[str] | None) -> np.ndarray:
    """Checked content of `file`, from a folder or from the network."""
    packed = f"{file.name}.gz"
    for name in (packed, file.name):
        path = sources.find(name, dataset="mnist", folder=folder)
        if path is not None:
            content = sources.read(path)
            content = _unpack(content, str(path)) if name == packed else content
            return parse_idx(content, file, source=str(path))
    if folder is not None:
        raise DatasetError(f"MNIST file {packed} is not in {folder} nor in its sub-folder mnist")
    try:
        compressed = sources.fetch(BASE_URL + packed)
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise DatasetError(
            f"MNIST file {packed} is neither on this machine nor to be had from {BASE_URL} "
            f"({reason}): put it into a folder and name that by {sources.VARIABLE} or by the "
            "argument folder"
        ) from error
    content = _unpack(compressed, f"download of {packed}")
    values = parse_idx(content, file, source=f"download of {packed}")
    sources.store(sources.cache_folder("mnist") / packed, compressed)
    return values


def _unpack(compressed: bytes, source: str) -> bytes:
    try:
        return gzip.decompress(compressed)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{source} is corrupt: not a complete gzip file ({error})") from error
