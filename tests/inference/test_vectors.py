"""Tables of vectors: whole or not at all, names of any bytes, and what cannot be written."""

import sys

import numpy as np
import pytest

from sacjax.errors import UserError
from sacjax.inference import vectors


def names_of(path):
    with np.load(path, allow_pickle=False) as file:
        return file["files"].tolist()


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "v.npz"
    vectors.write(path, ["old"], {"embeddings": np.ones([1, 2])})

    def full_disk(out, **arrays):
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(UserError, match="v.npz: cannot be written: No space left"):
        vectors.write(path, ["new"], {"embeddings": np.zeros([1, 2])})
    assert names_of(path) == ["old"] and list(tmp_path.iterdir()) == [path]


def test_names_that_are_not_utf8(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="parquet is written by pyarrow")
    table = {"embeddings": np.ones([1, 2], np.float32)}
    for name in ("v.npz", "v.parquet"):
        vectors.write(tmp_path / name, ["a\udcff.wav"], table)
    assert names_of(tmp_path / "v.npz") == ["a\\udcff.wav"]
    assert pq.read_table(tmp_path / "v.parquet")["file"].to_pylist() == ["a\\udcff.wav"]


def test_what_cannot_be_written_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"v.csv': its name must end in .npz or .parquet"):
        vectors.check_output(tmp_path / "v.csv")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match="that is a folder"):
        vectors.check_output(tmp_path / "folder.npz")
    vectors.check_output(tmp_path / "deep" / "v.npz")
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*file/v.npz: cannot be written: "):
        vectors.check_output(tmp_path / "file" / "v.npz")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        vectors.check_output(tmp_path / "v.parquet")
