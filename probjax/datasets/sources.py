"""Where data files are looked for, and what is said when one is missing.

A file is looked for in the folder that the caller names; without one, in the folder named by the
environment variable `PROBJAX_DATA` and then in the cache. Under each folder `folder/file` and
`folder/<dataset>/file` are tried.

>>> find("no-such-file.csv", dataset="uci", folder="/") is None
True
"""

import hashlib
import os
import tempfile
import urllib.request
from pathlib import Path

VARIABLE = "PROBJAX_DATA"
"""Environment variable that names the user's data folder."""


class DatasetError(ValueError):
    """A data file is missing, unreadable or not what it should be."""


def cache_folder(dataset: str) -> Path:
    """Return the folder where downloads of `dataset` are kept.

    Args:
        dataset: name of the data set.

    Returns:
        `$XDG_CACHE_HOME/probjax/<dataset>`, or below `~/.cache`. It need not exist.

    Example:
        >>> cache_folder("mnist").parts[-2:]
        ('probjax', 'mnist')
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "probjax" / dataset


def folders(dataset: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders in which a file of `dataset` is looked for, in order.

    Args:
        dataset: name of the data set, also that of its sub-folder.
        folder: the user's folder; without it `PROBJAX_DATA` and the cache count.

    Returns:
        Paths, existing or not.

    Example:
        >>> [path.as_posix() for path in folders("uci", "/data")]
        ['/data', '/data/uci']
    """
    if folder is not None:
        return [Path(folder), Path(folder) / dataset]
    named = os.environ.get(VARIABLE)
    own = [Path(named), Path(named) / dataset] if named else []
    return [*own, cache_folder(dataset)]


def find(name: str, *, dataset: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the first existing file called `name`, or `None`.

    Args:
        name: file name.
        dataset: name of the data set.
        folder: the user's folder, or `None`.

    Returns:
        The path found.

    Example:
        >>> find("missing.gz", dataset="mnist", folder="/") is None
        True
    """
    candidates = (place / name for place in folders(dataset, folder))
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path) -> bytes:
    """Read a file; an operating-system error becomes one line that names the file.

    Args:
        path: the file.

    Returns:
        Its bytes.

    Raises:
        DatasetError: it cannot be read.

    Example:
        >>> read(Path("/no/such/file"))
        Traceback (most recent call last):
        probjax.datasets.sources.DatasetError: /no/such/file cannot be read: No such file ...
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error


def fetch(url: str, *, timeout: float = 30.0) -> bytes:
    """Download `url`.

    Args:
        url: where from.
        timeout: seconds without an answer before giving up.

    Returns:
        The bytes.

    Raises:
        OSError: no connection, no such page, or the connection broke.

    Example:
        >>> fetch("file:///dev/null")
        b''
    """
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return response.read()


def store(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step: no reader ever sees half a file.

    Args:
        path: the file; its folder is created.
        content: what to write.

    Raises:
        DatasetError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "file"
        >>> store(target, b"abc")
        >>> target.read_bytes()
        b'abc'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from error


def sha256(content: bytes) -> str:
    """Return the SHA-256 of `content` in hexadecimal.

    Args:
        content: any bytes.

    Returns:
        64 characters.

    Example:
        >>> sha256(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()
