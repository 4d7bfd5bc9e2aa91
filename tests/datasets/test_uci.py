from pathlib import Path

import numpy as np
import pytest

from probjax import datasets
from probjax.datasets.uci import TABLES, TableFile, parse_table

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
SMALL = TableFile("small.csv", ";", (2, 3), "a", "c")


@pytest.mark.skipif(not (SHARED / "uci").is_dir(), reason="no tables in ../shared/data/uci")
@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_real_tables(name, monkeypatch):
    monkeypatch.setenv("PROBJAX_DATA", str(SHARED))
    table = datasets.load_uci(name)
    assert table.values.shape == TABLES[name].shape and len(table.columns) == TABLES[name].shape[1]
    assert np.isfinite(table.values).all()
    if name == "wine-red":
        np.testing.assert_allclose(table.values[0, :3], [7.4, 0.7, 0.0], rtol=1e-6)
        assert table.columns[8] == "pH"


def test_small_table():
    table = parse_table(b'"a";b;"c"\r\n1;2;3e1\r\n-4;5;6\r\n', SMALL)
    assert table.columns == ("a", "b", "c")
    assert table.values.tolist() == [[1, 2, 30], [-4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,c\n1,2,3\n4,5,6\n", "must have 3 columns from 'a' to 'c' separated by ';', got 1"),
        (b"a;b;d\n1;2;3\n4;5;6\n", "got 3 from 'a' to 'd'"),
        (b"a;b;c\n1;2;3\n", "must have 2 rows, got 1"),
        (b"a;b;c\n1;2;3\n4;5\n", "line 3: 2 fields, expected 3"),
        (b"a;b;c\n1;x;3\n4;5;6\n", "line 2, column 'b': 'x' is no number"),
        (b"\xff\xfe", "is not a text file"),
        (b"", "got 1 from '' to ''"),
    ],
)
def test_wrong_content_is_located(content, message):
    with pytest.raises(datasets.DatasetError, match=message) as error:
        parse_table(content, SMALL, source="/data/small.csv")
    assert str(error.value).startswith("/data/small.csv")


def test_missing_file_names_every_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PROBJAX_DATA", "/nowhere")
    with pytest.raises(
        datasets.DatasetError, match="winequality-white.csv is not in /nowhere nor"
    ) as error:
        datasets.load_uci("wine-white")
    assert "PROBJAX_DATA" in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(ValueError, match="name must be one of"):
        datasets.load_uci("wine")
