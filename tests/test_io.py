"""Files written whole or not at all."""

import csv
import errno
import json
import os

import pytest

from sacjax import io
from sacjax.errors import UserError


def test_text_json_and_tables_are_read_back(tmp_path):
    io.write_text(tmp_path / "text", "ä\r\nb")
    assert (tmp_path / "text").read_bytes() == "ä\r\nb".encode()
    io.write_json(tmp_path / "value.json", {"b": 1, "a": [0.1]}, sort_keys=True)
    assert (tmp_path / "value.json").read_text() == '{"a": [0.1], "b": 1}\n'
    name = os.fsdecode(b'caf\xe9, "one"\n.wav')
    io.write_csv(tmp_path / "table.csv", ("file", "n"), [(name, 1)])
    with open(tmp_path / "table.csv", newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [["file", "n"], [name, "1"]]
    assert sorted(os.listdir(tmp_path)) == ["table.csv", "text", "value.json"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, fails):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "labels.json"
    io.write_json(path, 1)
    monkeypatch.setattr(io.os, fails, full)
    with pytest.raises(UserError, match="labels.json: cannot be written: No space left on device"):
        io.write_json(path, 2)
    assert json.loads(path.read_text()) == 1 and os.listdir(tmp_path) == ["labels.json"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="none/x: cannot be written: No such file or directory"):
        io.write_text(tmp_path / "none" / "x", "")


def test_two_hosts_on_one_file_system_write_beside_each_other(tmp_path, monkeypatch):
    """Each has a partial file of its own, so that neither renames what the other is writing."""
    partials, replace = [], os.replace
    monkeypatch.setattr(
        io.os, "replace", lambda old, new: partials.append(old) or replace(old, new)
    )
    for host, pid in (("a", 1), ("b", 1), ("a", 2)):
        monkeypatch.setattr(io.socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(io.os, "getpid", lambda pid=pid: pid)
        io.write_text(tmp_path / "x", host)
    assert len(set(partials)) == 3 and {path.parent for path in partials} == {tmp_path}


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), True),
        (
            ValueError("UNKNOWN: Failed to open: \"/x\": Input/output error [os_error_code='5']"),
            True,
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (ValueError("NOT_FOUND: Failed to open [os_error_code='2']"), False),
        (ValueError("5 values"), False),
        (MemoryError(), False),
    ],
)
def test_what_may_pass(error, transient):
    assert io.is_transient(error) == transient
