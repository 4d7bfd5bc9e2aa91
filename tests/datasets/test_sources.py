import pytest

from probjax.datasets import sources


def test_order_of_places(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(sources.VARIABLE, str(tmp_path / "own"))
    deep, cached = tmp_path / "own" / "uci" / "a", tmp_path / "cache" / "probjax" / "uci" / "a"
    for path in (deep, cached):
        sources.store(path, b"x")
    assert sources.find("a", dataset="uci") == deep
    deep.unlink()
    assert sources.find("a", dataset="uci") == cached
    assert sources.find("a", dataset="uci", folder=tmp_path) is None


def test_a_folder_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(sources.DatasetError, match="cannot be written"):
        sources.store(tmp_path / "file" / "below", b"x")
    with pytest.raises(sources.DatasetError, match="cannot be read"):
        sources.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(monkeypatch, tmp_path):
    target = tmp_path / "data"
    sources.store(target, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources.os, "replace", full)
    with pytest.raises(sources.DatasetError, match="No space left on device"):
        sources.store(target, b"new")
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
