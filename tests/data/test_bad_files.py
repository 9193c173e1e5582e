"""Tables of what is wrong with files: bad ones, short ones, each written whole."""

import os

import numpy as np
import pytest

from sacjax.data import bad_files
from sacjax.data.bad_files import BadFiles, read_table
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError


def recordings(count=10):
    names = [f"é{k}.wav" for k in range(count)]
    return Recordings(names, [()] * count, (), lambda i: None)


def batch(errors, missing=None, first=0):
    index = np.arange(first, first + len(errors))
    more = {} if missing is None else {"missing": np.asarray(missing, np.float32)}
    return {"index": index, "error": errors, "audio": np.zeros(3)} | more


def test_what_is_short_is_listed_apart_and_is_not_bad(tmp_path, capsys):
    table = BadFiles(tmp_path, recordings(), max_fraction=0.2)
    first = batch(["", "no\nsamples", ""], [1.5, 0, np.inf])
    table.note(first)
    assert set(first) == {"index", "audio"}
    table.note(batch([""] * 4, [0, 0, 0, 2], first=0))
    table.note(batch(["again"], first=1))
    table.flush()
    assert read_table(tmp_path / "bad_files.csv") == [{"file": "é1.wav", "reason": "no samples"}]
    assert read_table(tmp_path / "cut_short.csv") == [
        {"file": "é0.wav", "reason": "cut short or damaged: 1.500 s are missing"},
        {"file": "é2.wav", "reason": "cut short or damaged: its end is missing"},
        {"file": "é3.wav", "reason": "cut short or damaged: 2.000 s are missing"},
    ]
    assert capsys.readouterr().err.count("listed in") == 1
    again = BadFiles(tmp_path, recordings(), max_fraction=0.2)  # a run that goes on
    again.note(batch([""] * 5, [0, 0, 0, 0, 9]))
    again.flush()
    assert len(read_table(tmp_path / "cut_short.csv")) == 4 and not capsys.readouterr().err
    with pytest.raises(UserError, match="3 of 10 files cannot be decoded, more than .*=0.2"):
        again.note(batch(["x", "", "y"]))


def test_training_keeps_what_evaluation_has_listed_meanwhile(tmp_path):
    training = BadFiles(tmp_path, recordings(), 1.0)
    evaluation = BadFiles(tmp_path, recordings(), 1.0)
    evaluation.note(batch(["no samples"], first=7))
    evaluation.flush()
    training.note(batch(["empty file"]))
    training.flush()
    assert [row["file"] for row in read_table(tmp_path / "bad_files.csv")] == ["é0.wav", "é7.wav"]


def test_tables_are_whole_or_not_there(tmp_path, monkeypatch):
    table = BadFiles(tmp_path, recordings(), 1.0)
    table.note(batch(["one"]))
    table.flush()
    before = (tmp_path / "bad_files.csv").read_bytes()
    table.note(batch(["one", "two"]))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="bad_files.csv: cannot be written: No space left"):
        table.flush()
    assert (tmp_path / "bad_files.csv").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["bad_files.csv"]


def test_hosts_write_tables_of_their_own(tmp_path, monkeypatch):
    for host in (0, 1, 2):
        monkeypatch.setattr(bad_files.jax, "process_index", lambda host=host: host)
        table = BadFiles(tmp_path, recordings(), 1.0)
        table.note(batch(["bad"] * (host + 1)))
        table.flush()
    found = {path.name: len(read_table(path)) for path in tmp_path.iterdir()}
    assert found == {"bad_files.csv": 1, "bad_files.1.csv": 2, "bad_files.2.csv": 3}
